{# A text column that compares by bytes, which for UTF-8 is by code point, whatever the database's own collation. #}
{% macro byte_order(column) -%}
    {{ adapter.dispatch('byte_order')(column) }}
{%- endmacro %}

{% macro duckdb__byte_order(column) -%}
    {{ column }}
{%- endmacro %}

{% macro postgres__byte_order(column) -%}
    {{ column }} collate "C"
{%- endmacro %}
