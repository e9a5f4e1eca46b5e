{# The common table expressions of a card's or merchant's transactions; the last one is `past`.

   history     the transactions of the range and of the look-back before it
   compared    + neighbours in another order: the same merchant (country, ...) before and after, the baseline of an amount
   marked      + what these make of each transaction: first or last of its value, unusually large, ...
   past        windows over the marks, one column per (part, window)

   Ages are strictly between 0 and the window (RANGE up to 1 microsecond before), so transactions that share a
   microsecond cannot see each other. #}
{% macro past(entity, transactions, features, look_back_us) -%}
{%- set id = entity ~ "_id" -%}
{%- set columns = {"compared": [], "marked": [], "past": []} -%}
{%- set features_of_large = [] -%}
{%- for feature in features -%}
    {%- do add_past_columns(columns, feature) -%}
    {%- if is_of_large(feature) -%}{%- do features_of_large.append(feature) -%}{%- endif -%}
{%- endfor -%}
history as (
    select
        transaction_id, event_time, event_time_us, card_id, merchant_id, amount_minor,
        category, country, device_id, merchant_latitude, merchant_longitude,
        {{ is_night("event_time") }} as is_night,
        {{ is_weekend("event_time") }} as is_weekend
    from {{ transactions }}
    where {{ in_run_window("event_time", look_back_us) }}
),
compared as (
    select
        *
        {%- for name, expression in columns.compared %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from history
    window
        {%- for of in attributes_of(features) %}
        same_{{ of }} as (
            partition by {{ id }}, {{ attribute_column(of) }} order by event_time_us
            range between unbounded preceding and 1 preceding),
        {%- endfor %}
        {%- for window in windows_of(features | selectattr("of", "equalto", "same_merchant")) %}
        same_merchant_{{ window }} as (
            partition by {{ id }}, merchant_id order by event_time_us {{ last(window) }}),
        {%- endfor %}
        {%- if features_of_large %}
        baseline as (partition by {{ id }} order by event_time_us {{ last(large_amount().baseline) }}),
        {%- endif %}
        in_order as (partition by {{ id }} order by event_time_us, {{ byte_order("transaction_id") }}),
        in_time as (partition by {{ id }} order by event_time_us)
),
marked as (
    select
        *
        {%- for name, expression in columns.marked %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from compared
),
past as (
    select
        transaction_id, event_time, event_time_us, {{ id }}, amount_minor
        {%- for name, expression in columns.past %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from marked
    window
        {%- for window in windows_of(features) %}
        last_{{ window }} as (partition by {{ id }} order by event_time_us {{ last(window) }}),
        {%- endfor %}
        earlier as (
            partition by {{ id }} order by event_time_us range between unbounded preceding and 1 preceding),
        in_order as (partition by {{ id }} order by event_time_us, {{ byte_order("transaction_id") }})
)
{%- endmacro %}

{# The frame of a window's transactions. #}
{% macro last(window) -%}
    range between {{ window_us(window) - 1 }} preceding and 1 preceding
{%- endmacro %}

{# What a feature needs, added to the columns of each stage. #}
{% macro add_past_columns(columns, feature) -%}
    {%- set past, w = columns.past, feature.window -%}
    {%- set last_w = "last_" ~ w -%}
    {%- do add_column(past, "last_us", "max(event_time_us) over earlier") -%}
    {%- if feature.of == "transactions" -%}
        {%- do add_column(past, "count_" ~ w, "count(*) over " ~ last_w) -%}
    {%- elif feature.of == "amount" and feature.measure in ("max", "min") -%}
        {%- do add_column(past, "amount_" ~ feature.measure ~ "_" ~ w, feature.measure ~ "(amount_minor) over " ~ last_w) -%}
    {%- elif feature.of == "amount" -%}
        {%- do add_column(past, "count_" ~ w, "count(*) over " ~ last_w) -%}
        {%- do add_column(past, "amount_" ~ w, total("amount_minor", last_w)) -%}
        {%- if feature.measure in ("std", "zscore") -%}
            {%- do add_column(past, "square_" ~ w, "sum(amount_minor * amount_minor) over " ~ last_w) -%}
        {%- endif -%}
    {%- elif feature.of in ("night", "weekend") -%}
        {%- do add_column(past, "count_" ~ w, "count(*) over " ~ last_w) -%}
        {%- do add_column(past, feature.of ~ "_" ~ w, total("is_" ~ feature.of, last_w)) -%}
    {%- elif is_of_large(feature) -%}
        {%- do add_large_columns(columns, feature) -%}
    {%- elif feature.measure in ("distinct", "is_new", "is_changed") or feature.of == "same_merchant" -%}
        {%- do add_attribute_columns(columns, feature) -%}
    {%- elif feature.of == "place" -%}
        {%- do add_column(columns.compared, "steps_back", steps_back()) -%}
        {%- do add_column(past, "distance_km", distance_km(
            before("merchant_latitude"), before("merchant_longitude"), "merchant_latitude", "merchant_longitude")) -%}
    {%- elif feature.of != "transaction" -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{# How many rows back the last earlier transaction is: past those of the same microsecond too. #}
{% macro steps_back() -%}
    cast(row_number() over in_order - rank() over in_time + 1 as integer)
{%- endmacro %}

{# A column of the last earlier transaction; of several in one microsecond, that with the last id. #}
{% macro before(column) -%}
    lag({{ column }}, steps_back) over in_order
{%- endmacro %}
