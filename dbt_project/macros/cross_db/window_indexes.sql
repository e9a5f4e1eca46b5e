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
