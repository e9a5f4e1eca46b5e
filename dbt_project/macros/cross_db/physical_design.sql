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

{# For the transaction of a model whose query is one large computation. #}
{% macro large_query_settings() -%}
    {{ return(adapter.dispatch('large_query_settings')()) }}
{%- endmacro %}

{% macro duckdb__large_query_settings() -%}{%- endmacro %}

{# Nothing is known of what windows give: expecting one row, the planner would run a whole history once per row in a nested
   loop. Compiling hundreds of expressions takes longer than it spares. Sorts and hash tables of a full run take gigabytes
   in all; each may have this much of memory before it goes to disk. #}
{% macro postgres__large_query_settings() -%}
    set local enable_nestloop = off; set local jit = off; set local work_mem = '64MB'
{%- endmacro %}
