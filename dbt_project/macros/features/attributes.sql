{# Measures that compare a transaction's merchant, card, country, device or category with those of earlier ones.

   Neither database counts distinct values in a window at a bearable price. Instead, a value begins with a transaction that
   has no earlier one of the same value within the window, and ends with one that has no later such: in between it is seen
   at every moment. So the values in a window are those that have begun but not ended, and those that ended within it.
   An end looks ahead, but counts only when the window has passed and what it looked at is history. #}

{% macro attribute_column(of) -%}
    {{ return({"merchant": "merchant_no", "card": "card_no", "country": "country", "device": "device_id",
        "category": "category"}[of]) }}
{%- endmacro %}

{# The attributes whose earlier and later transactions of the same value matter to some features. #}
{% macro attributes_of(features) -%}
    {%- set found = [] -%}
    {%- for feature in features if feature.measure in ("distinct", "is_new") and feature.of not in found -%}
        {%- do found.append(feature.of) -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{% macro add_attribute_columns(columns, feature) -%}
    {%- set of, w, compared = feature.of, feature.window, columns.compared -%}
    {%- if feature.measure == "distinct" -%}
        {%- set value, begins, ends = attribute_column(of), of ~ "_begins_" ~ w, of ~ "_ends_" ~ w -%}
        {%- do add_column(compared, of ~ "_last_age_us", "event_time_us - lag(event_time_us) over same_" ~ of) -%}
        {%- do add_column(compared, of ~ "_next_age_us", "lead(event_time_us) over same_" ~ of ~ " - event_time_us") -%}
        {%- do add_column(columns.marked, begins, is_alone(value, of ~ "_last_age_us", w)) -%}
        {%- do add_column(columns.marked, ends, is_alone(value, of ~ "_next_age_us", w)) -%}
        {%- do add_column(columns.past, of ~ "_distinct_" ~ w, number_of(begins, "earlier") ~ " - "
            ~ number_of(ends, "earlier") ~ " + " ~ number_of(ends, "last_" ~ w)) -%}
    {%- elif feature.measure == "is_new" -%}
        {%- set value, age = attribute_column(of), of ~ "_seen_age_us" -%}
        {%- do add_column(compared, age, "event_time_us - max(event_time_us) over same_" ~ of) -%}
        {%- do add_column(columns.past, of ~ "_is_new_" ~ w,
            "case when " ~ value ~ " is not null then " ~ is_alone(value, age, w) ~ " end") -%}
    {%- elif feature.measure == "is_changed" -%}
        {%- do add_previous_columns(columns) -%}
        {%- do add_column(columns.past, of ~ "_is_changed", attribute_column(of) ~ " <> " ~ previous(attribute_column(of))) -%}
    {%- elif of == "same_merchant" -%}
        {%- do add_column(compared, "same_merchant_" ~ w, "count(*) over same_merchant_" ~ w) -%}
        {%- do add_column(columns.past, "same_merchant_" ~ w, "same_merchant_" ~ w) -%}
    {%- else -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{# True where there is a value, and no other transaction of the same value is nearer than the window. #}
{% macro is_alone(value, age_us, window) -%}
    {{ value }} is not null and coalesce({{ age_us }} >= {{ window_us(window) }}, true)
{%- endmacro %}
