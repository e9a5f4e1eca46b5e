{# The common table expressions of a card's or merchant's label arrivals; the last one is `known`, one row per transaction.

   arrivals        the label arrivals of the range and of the look-back before it
   moments         transactions and arrivals in one order. The clock has four ticks per microsecond, and arrivals come a
                   little before a transaction of the same microsecond, frauds before genuine ones: then both are
                   strictly earlier than the transaction that may see them, and a genuine label ends the frauds of its moment
   counted         + frauds known before each moment
   known           windows over the moments
   streak_starts   when the fraud that follows so many others was known

   A transaction waits for its label from its moment to the first arrival. The end of a wait within the window is counted
   at the arrival; who waits longer leaves with the window: sum(waits - answered) over all earlier, where `waits` leaves
   out those that outlast the window, + sum(outlasts) over the window. #}
{% macro known(entity, transactions, labels, features, look_back_us) -%}
{%- set id = entity ~ "_id" -%}
{%- set columns = [] -%}
{%- for feature in features -%}{%- do add_known_columns(columns, feature) -%}{%- endfor -%}
{%- set waits = windows_of(features | selectattr("of", "equalto", "unlabelled")) -%}
arrivals as (
    select
        t.{{ id }}, t.transaction_id, l.counts_from_us, l.is_fraud, t.amount_minor
        {%- if waits %},
        l.arrival_number = 1 and {{ in_run_window("t.event_time", look_back_us) }} as is_first,
        l.counts_from_us - t.event_time_us as waited_us
        {%- endif %}
    from (
        select
            transaction_id, counts_from_us, case when is_fraud then 1 else 0 end as is_fraud
            {%- if waits %},
            row_number() over (partition by transaction_id order by counts_from_us) as arrival_number
            {%- endif %}
        from {{ labels }}
        where {{ in_run_window("counts_from", look_back_us) }}
    ) as l
    join {{ transactions }} as t on t.transaction_id = l.transaction_id
),
moments as (
    select
        t.transaction_id, t.event_time, t.{{ id }}, t.event_time_us as time_us, 4 * t.event_time_us as tick,
        0 as is_label, 0 as is_fraud, cast(null as bigint) as genuine_amount
        {%- for window in waits %},
        case when answer.waited_us < {{ window_us(window) }} then 1 else 0 end as waiting_{{ window }},
        case when answer.waited_us < {{ window_us(window) }} then 0 else 1 end as outlasts_{{ window }}
        {%- endfor %}
    from {{ transactions }} as t
    {%- if waits %}
    left join arrivals as answer on answer.transaction_id = t.transaction_id and answer.is_first
    {%- endif %}
    where {{ in_run_window("t.event_time", look_back_us) }}
    union all
    select
        null, null, {{ id }}, counts_from_us, 4 * counts_from_us - 1 - is_fraud,
        1, is_fraud, case when is_fraud = 0 then amount_minor end
        {%- for window in waits %},
        case when is_first and waited_us < {{ window_us(window) }} then -1 else 0 end,
        0
        {%- endfor %}
    from arrivals
),
counted as (
    select
        *,
        {{ total("is_fraud", "earlier") }} as frauds_before
    from moments
    window {{ earlier_moments(id) }}
),
known as (
    select
        transaction_id, event_time, {{ id }}, frauds_before
        {%- for name, expression in columns %},
        {{ expression }} as {{ name }}
        {%- endfor %}
    from counted
    window
        {%- for window in windows_of(features) %}
        last_{{ window }} as (
            partition by {{ id }} order by tick
            range between {{ 4 * window_us(window) - 1 }} preceding and 1 preceding),
        {%- endfor %}
        {{ earlier_moments(id) }}
),
streak_starts as (
    select {{ id }}, frauds_before, min(time_us) as time_us
    from counted
    where is_fraud = 1
    group by {{ id }}, frauds_before
)
{%- endmacro %}

{% macro earlier_moments(id) -%}
    earlier as (partition by {{ id }} order by tick range between unbounded preceding and 1 preceding)
{%- endmacro %}

{# What a feature needs, added to the columns of `known`. #}
{% macro add_known_columns(columns, feature) -%}
    {%- set w = feature.window -%}
    {%- set last_w = "last_" ~ w -%}
    {%- if feature.of == "unlabelled" -%}
        {%- do add_column(columns, "unlabelled_" ~ w,
            total("waiting_" ~ w, "earlier") ~ " + " ~ total("outlasts_" ~ w, last_w)) -%}
    {%- else -%}
        {%- do add_column(columns, "labels_" ~ w, total("is_label", last_w)) -%}
        {%- do add_column(columns, "frauds_" ~ w, total("is_fraud", last_w)) -%}
        {%- if feature.measure == "ratio_to_mean" -%}
            {%- do add_column(columns, "genuine_amount_" ~ w, total("genuine_amount", last_w)) -%}
        {%- elif feature.measure in ("last", "time_since_last") -%}
            {%- do add_column(columns, "last_fraud_us", "max(case when is_fraud = 1 then time_us end) over earlier") -%}
            {%- do add_column(columns, "last_genuine_us", "max(case when is_label > is_fraud then time_us end) over earlier") -%}
        {%- elif feature.measure in ("streak", "streak_age") -%}
            {%- do add_column(columns, "frauds_since_genuine",
                "frauds_before - coalesce(max(case when is_label > is_fraud then frauds_before end) over earlier, 0)") -%}
        {%- elif feature.measure not in ("count", "share") -%}
            {%- do unknown_measure(feature) -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{# The frauds of a window after the last genuine label: the fewer of those since that label and those in the window. #}
{% macro streak(window) -%}
    least(k.frauds_since_genuine, k.frauds_{{ window }})
{%- endmacro %}
