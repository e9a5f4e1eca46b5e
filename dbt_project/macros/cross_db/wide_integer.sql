{# An integer type that holds sums of squared amounts exactly: 38 digits or more. #}
{% macro wide_integer() -%}
    {{ adapter.dispatch('wide_integer')() }}
{%- endmacro %}

{% macro duckdb__wide_integer() -%}
    hugeint
{%- endmacro %}

{% macro postgres__wide_integer() -%}
    numeric
{%- endmacro %}

{# The double nearest to a non-negative wide integer: rounded once, as Python's float(int) does. #}
{% macro wide_to_double(value) -%}
    {{ adapter.dispatch('wide_to_double')(value) }}
{%- endmacro %}

{# DuckDB rounds the two halves of a hugeint one by one; its text is parsed with a single rounding. #}
{% macro duckdb__wide_to_double(value) -%}
    case when {{ value }} <= 9223372036854775807
        then cast(cast({{ value }} as bigint) as double precision)
        else cast(cast({{ value }} as varchar) as double precision) end
{%- endmacro %}

{% macro postgres__wide_to_double(value) -%}
    cast({{ value }} as double precision)
{%- endmacro %}
