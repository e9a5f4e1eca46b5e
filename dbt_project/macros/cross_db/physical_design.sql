{# Indexes of a table that is replaced by time window and joined by transaction. #}
{% macro window_indexes() -%}
    {{ return(adapter.dispatch('window_indexes')()) }}
{%- endmacro %}

{# DuckDB skips by the minima and maxima of row groups; an index would only slow the writing. #}
{% macro duckdb__window_indexes() -%}
    {{ return([]) }}
{%- endmacro %}

{% macro postgres__window_indexes() -%}
    {{ return([{'columns': ['event_time']}, {'columns': ['transaction_id']}]) }}
{%- endmacro %}

{# After a load, so that the next join of the table is planned on what it holds. #}
{% macro refresh_statistics() -%}
    {{ return(adapter.dispatch('refresh_statistics')()) }}
{%- endmacro %}

{% macro duckdb__refresh_statistics() -%}{%- endmacro %}

{% macro postgres__refresh_statistics() -%}
    analyze {{ this }}
{%- endmacro %}

{# Before the feature table is built, for that transaction alone. #}
{% macro plan_for_windows() -%}
    {{ return(adapter.dispatch('plan_for_windows')()) }}
{%- endmacro %}

{% macro duckdb__plan_for_windows() -%}{%- endmacro %}

{# The planner takes the join of what windows give for a single row, and would work out one side anew for each row of the
   other: minutes instead of a second for four thousand transactions. #}
{% macro postgres__plan_for_windows() -%}
    set local enable_nestloop = off;
    set local jit = off;
    set local work_mem = '64MB'
{%- endmacro %}
