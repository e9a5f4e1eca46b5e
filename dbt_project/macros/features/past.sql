{# The common table expressions of a card's or merchant's transactions; the last one is <entity>_past.

   baselines   transactions + what their amounts are compared with to be large; from here on no look-back is needed for it
   compared    + neighbours in another order: of the same merchant (country, ...), of the same microsecond
   marked      + what these make of each transaction: first or last of its value, unusually large, ...
   past        windows over the marks, one column per (part, window)

   Ages are strictly between 0 and the window (RANGE up to 1 microsecond before), so transactions that share a
   microsecond cannot see each other. #}
{% macro past(entity) -%}
{%- set features, no = features_of_past(entity), entity ~ "_no" -%}
{%- set columns = past_columns(features) -%}
{{ entity }}_baselines as (
    select
        *
        {%- for name, expression in columns.baselines %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from history
    where is_of_asked_{{ entity }}
    {%- if columns.baselines %}
    window baseline as (partition by {{ no }} order by tick {{ last(large_amount().baseline) }})
    {%- endif %}
),
{{ entity }}_compared as (
    select
        *
        {%- for name, expression in columns.compared %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from {{ entity }}_baselines
    where {{ in_run_window("event_time", longest_us(features)) }}
    window
        {%- for of in attributes_of(features) %}
        same_{{ of }} as (
            partition by {{ no }}, {{ attribute_column(of) }} order by tick
            range between unbounded preceding and 1 preceding),
        {%- endfor %}
        {%- for window in windows_of(features | selectattr("of", "equalto", "same_merchant")) %}
        same_merchant_{{ window }} as (partition by {{ no }}, merchant_no order by tick {{ last(window) }}),
        {%- endfor %}
        same_time as (partition by {{ no }}, tick order by {{ byte_order("transaction_id") }})
),
{{ entity }}_marked as (
    select
        *
        {%- for name, expression in columns.marked %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from {{ entity }}_compared
),
{{ entity }}_past as (
    select
        {%- for name, expression in columns.past %}
        {{ expression }} as {{ name }},
        {%- endfor %}
        transaction_id
    from {{ entity }}_marked
    window
        {%- for window in windows_of(features) %}
        last_{{ window }} as (partition by {{ no }} order by tick {{ last(window) }}),
        {%- endfor %}
        earlier as (partition by {{ no }} order by tick range between unbounded preceding and 1 preceding),
        in_order as (partition by {{ no }} order by tick, {{ byte_order("transaction_id") }})
)
{%- endmacro %}

{# The frame of a window: ages strictly between 0 and its length. #}
{% macro last(window) -%}
    range between {{ 4 * window_us(window) - 1 }} preceding and 1 preceding
{%- endmacro %}

{# The columns that features need of each stage: lists of (name, expression). #}
{% macro past_columns(features) -%}
    {%- set columns = {"baselines": [], "compared": [], "marked": [], "past": []} -%}
    {%- for feature in features -%}{%- do add_past_columns(columns, feature) -%}{%- endfor -%}
    {{ return(columns) }}
{%- endmacro %}

{# Adds a column to a list, once. #}
{% macro add_column(columns, name, expression) -%}
    {%- if name not in columns | map(attribute=0) -%}{%- do columns.append((name, expression)) -%}{%- endif -%}
{%- endmacro %}

{% macro add_past_columns(columns, feature) -%}
    {%- set past, of, w = columns.past, feature.of, feature.window -%}
    {%- set last_w = "last_" ~ w -%}
    {%- if of == "transactions" or of == "amount" and feature.measure not in ("max", "min") or of in ("night", "weekend") -%}
        {%- do add_column(past, "count_" ~ w, "count(*) over " ~ last_w) -%}
    {%- endif -%}
    {%- if of == "amount" and feature.measure in ("max", "min") -%}
        {%- do add_column(past, "amount_" ~ feature.measure ~ "_" ~ w, feature.measure ~ "(amount_minor) over " ~ last_w) -%}
    {%- elif of == "amount" -%}
        {%- do add_column(past, "amount_" ~ w, total("amount_minor", last_w)) -%}
        {%- if feature.measure in ("std", "zscore") -%}
            {%- do add_column(past, "square_" ~ w, "sum(amount_minor * amount_minor) over " ~ last_w) -%}
        {%- endif -%}
    {%- elif of in ("night", "weekend") -%}
        {%- do add_column(past, of ~ "_" ~ w, number_of("is_" ~ of, last_w)) -%}
    {%- elif is_of_large(feature) -%}
        {%- do add_large_columns(columns, feature) -%}
    {%- elif of == "place" -%}
        {%- do add_previous_columns(columns) -%}
        {%- do add_column(past, "distance_km", distance_km(
            previous("merchant_latitude"), previous("merchant_longitude"), "merchant_latitude", "merchant_longitude")) -%}
    {%- elif of == "transaction" -%}
        {%- do add_previous_columns(columns) -%}
    {%- elif of != "transactions" -%}
        {%- do add_attribute_columns(columns, feature) -%}
    {%- endif -%}
{%- endmacro %}

{# What previous() needs, and how long ago that transaction was. Of several in one microsecond it is that with the last id. #}
{% macro add_previous_columns(columns) -%}
    {%- do add_column(columns.compared, "steps_back", "cast(row_number() over same_time as integer)") -%}
    {%- do add_column(columns.past, "previous_age_us", "event_time_us - " ~ previous("event_time_us")) -%}
{%- endmacro %}

{# A column of the last earlier transaction. #}
{% macro previous(column) -%}
    lag({{ column }}, steps_back) over in_order
{%- endmacro %}

{# The sum of a whole-number column over a window, 0 over nothing. Databases widen sums: casting back is where an overflow
   would be an error. #}
{% macro total(column, window) -%}
    coalesce(cast(sum({{ column }}) over {{ window }} as bigint), 0)
{%- endmacro %}

{# How many rows of a window have something. #}
{% macro number_of(condition, window) -%}
    count(*) filter (where {{ condition }}) over {{ window }}
{%- endmacro %}
