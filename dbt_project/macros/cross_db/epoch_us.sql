{# Microseconds since 1970-01-01 00:00 UTC of a timestamp without zone, as bigint. #}
{% macro epoch_us(timestamp) -%}
    {{ adapter.dispatch('epoch_us')(timestamp) }}
{%- endmacro %}

{% macro duckdb__epoch_us(timestamp) -%}
    epoch_us({{ timestamp }})
{%- endmacro %}

{# extract() gives numeric since PostgreSQL 14, so nothing is rounded. #}
{% macro postgres__epoch_us(timestamp) -%}
    cast(extract(epoch from {{ timestamp }}) * 1000000 as bigint)
{%- endmacro %}
