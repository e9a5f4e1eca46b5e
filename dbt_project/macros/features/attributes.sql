{# Measures that compare a transaction's merchant, card, country, device or category with those of earlier ones.

   Neither database counts distinct values in a window at a bearable price. Instead, a value begins with the transaction
   that has no earlier one of the same value within the window, and ends with the one that has no later such: in between
   it is there at every moment. So the values seen in a window are those that have begun, less those that ended too long ago:
   sum(begins - ends) over all earlier + sum(ends) over the window. An end looks ahead, but counts only once the
   window has passed, when what it looked at is history. #}

{% macro attribute_column(of) -%}
    {{ return({"merchant": "merchant_id", "card": "card_id", "country": "country", "device": "device_id",
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
    {%- set of, w = feature.of, feature.window -%}
    {%- set value, same = attribute_column(of), "same_" ~ of -%}
    {%- if feature.measure == "distinct" -%}
        {%- set begins, ends = of ~ "_begins_" ~ w, of ~ "_ends_" ~ w -%}
        {%- do add_column(columns.compared, same ~ "_since_us", "event_time_us - lag(event_time_us) over " ~ same) -%}
        {%- do add_column(columns.compared, same ~ "_until_us", "lead(event_time_us) over " ~ same ~ " - event_time_us") -%}
        {%- do add_column(columns.marked, begins, is_alone(value, same ~ "_since_us", w)) -%}
        {%- do add_column(columns.marked, ends, is_alone(value, same ~ "_until_us", w)) -%}
        {%- do add_column(columns.past, of ~ "_distinct_" ~ w,
            total(begins ~ " - " ~ ends, "earlier") ~ " + " ~ total(ends, "last_" ~ w)) -%}
    {%- elif feature.measure == "is_new" -%}
        {%- do add_column(columns.compared, same ~ "_age_us", "event_time_us - max(event_time_us) over " ~ same) -%}
        {%- do add_column(columns.marked, of ~ "_is_new_" ~ w, is_alone(value, same ~ "_age_us", w, "null")) -%}
        {%- do add_column(columns.past, of ~ "_is_new_" ~ w, of ~ "_is_new_" ~ w) -%}
    {%- elif feature.measure == "is_changed" -%}
        {%- do add_column(columns.compared, "steps_back", steps_back()) -%}
        {%- do add_column(columns.past, of ~ "_is_changed", "cast(" ~ value ~ " <> " ~ before(value) ~ " as integer)") -%}
    {%- else -%}
        {%- do add_column(columns.compared, "same_merchant_count_" ~ w, "count(*) over same_merchant_" ~ w) -%}
        {%- do add_column(columns.past, "same_merchant_count_" ~ w, "same_merchant_count_" ~ w) -%}
    {%- endif -%}
{%- endmacro %}

{# 1 where no other transaction of the same value is nearer than the window, else 0; `otherwise` where there is no value. #}
{% macro is_alone(value, distance_us, window, otherwise="0") -%}
    case when {{ value }} is null then {{ otherwise }} when {{ distance_us }} < {{ window_us(window) }} then 0 else 1 end
{%- endmacro %}
