{# The common table expressions that cards and merchants share.

   cards, merchants   each with a number, which sorts and joins faster than its text, and whether the run's range has
                      any of its transactions: the others need no history
   arrivals           label arrivals of the range and of the look-back before it
   history            transactions of the range and of the look-back before it

   Nothing here sees further back than reach_us(): any split into ranges gives the rows of one full run. #}
{% macro histories(transactions, labels) -%}
{%- set look_back_us = reach_us(features_of()) -%}
{%- set of_labels = features_of_labels() -%}
{%- for entity in ("card", "merchant") -%}
{{ entity }}s as materialized (
    select
        {{ entity }}_id, row_number() over () as {{ entity }}_no,
        bool_or({{ in_run_window("event_time") }}) as is_asked
    from {{ transactions }}
    where {{ in_run_window("event_time", look_back_us) }}
    group by {{ entity }}_id
),
{% endfor -%}
{%- if of_labels -%}
arrivals as materialized (
    select
        {%- for entity in ("card", "merchant") %}
        {{ entity }}s.{{ entity }}_no, {{ entity }}s.is_asked as is_of_asked_{{ entity }},
        {%- endfor %}
        l.counts_from_us, l.is_fraud, t.amount_minor, l.counts_from_us - t.event_time_us as waited_us,
        l.is_first and {{ in_run_window("t.event_time", longest_us(of_labels)) }} as is_first, t.transaction_id
    from (
        select
            transaction_id, counts_from_us, is_fraud,
            row_number() over (partition by transaction_id order by counts_from_us) = 1 as is_first
        from {{ labels }}
        where {{ in_run_window("counts_from", longest_us(of_labels)) }}
    ) as l
    join {{ transactions }} as t on t.transaction_id = l.transaction_id
    {{ with_numbers("t") }}
),
{% endif -%}
history as materialized (
    select
        {%- for entity in ("card", "merchant") %}
        {{ entity }}s.{{ entity }}_no, {{ entity }}s.is_asked as is_of_asked_{{ entity }},
        {%- endfor %}
        4 * t.event_time_us as tick, t.event_time_us, t.amount_minor,
        {{ is_night("t.event_time") }} as is_night, {{ is_weekend("t.event_time") }} as is_weekend,
        {%- if of_labels %}
        arrivals.waited_us,
        {%- endif %}
        t.merchant_latitude, t.merchant_longitude, {{ byte_order("t.category") }} as category,
        {{ byte_order("t.country") }} as country, {{ byte_order("t.device_id") }} as device_id,
        t.event_time, t.transaction_id
    from {{ transactions }} as t
    {{ with_numbers("t") }}
    {%- if of_labels %}
    left join arrivals on arrivals.transaction_id = t.transaction_id and arrivals.is_first
    {%- endif %}
    where {{ in_run_window("t.event_time", look_back_us) }}
)
{%- endmacro %}

{# Joins the numbers of a transaction's card and merchant. A label may be of a transaction older than those numbered. #}
{% macro with_numbers(transaction) -%}
    {%- for entity in ("card", "merchant") -%}
    {{ "" if loop.first else "    " }}left join {{ entity }}s on {{ entity }}s.{{ entity }}_id = {{ transaction }}.{{ entity }}_id
    {% endfor -%}
{%- endmacro %}
