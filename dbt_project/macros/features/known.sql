{# The common table expressions of a card's or merchant's label arrivals; <entity>_known has a row per transaction.

   moments         transactions and arrivals in one order. The clock has four ticks per microsecond. Arrivals come a
                   little before a transaction of the same microsecond, frauds before genuine ones: then both are
                   strictly earlier than the transaction that may see them, and a genuine label ends the frauds of its moment.
   counted         + frauds known before each moment; what the amount of a fraud is compared with to be ordinary
   known           windows over the moments
   streak_starts   when the fraud that came after so many others was known

   A transaction waits for its label until the first arrival. Of those waiting at a moment, some are answered before the
   window has passed: they count until then. The others count while they are in the window. #}
{% macro known(entity) -%}
{%- set features, no = features_of_labels(entity), entity ~ "_no" -%}
{%- set waits = windows_of(features | selectattr("of", "equalto", "unlabelled")) -%}
{%- set has_ordinary = features | selectattr("of", "in", ("ordinary_frauds", "ordinary_fraud")) | list | length > 0 -%}
{{ entity }}_moments as (
    select
        {{ no }}, tick, event_time_us as time_us, false as is_fraud, false as is_genuine,
        cast(null as bigint) as genuine_amount,
        {%- for window in waits %}
        case when waited_us < {{ window_us(window) }} then 1 else 0 end as waiting_{{ window }},
        coalesce(waited_us >= {{ window_us(window) }}, true) as outlasts_{{ window }},
        {%- endfor %}
        {%- if has_ordinary %}
        amount_minor as past_amount, cast(null as bigint) as fraud_amount,
        {%- endif %}
        transaction_id
    from history
    where is_of_asked_{{ entity }} and {{ in_run_window("event_time", reach_us(features_of_labels())) }}
    union all
    select
        {{ no }}, 4 * counts_from_us - case when is_fraud then 2 else 1 end, counts_from_us, is_fraud, not is_fraud,
        case when not is_fraud then amount_minor end,
        {%- for window in waits %}
        case when is_first and waited_us < {{ window_us(window) }} then -1 else 0 end,
        false,
        {%- endfor %}
        {%- if has_ordinary %}
        null, case when is_fraud then amount_minor end,
        {%- endif %}
        null
    from arrivals
    where is_of_asked_{{ entity }}
),
{{ entity }}_counted as (
    select
        *,
        {%- if has_ordinary %}
        count(past_amount) over baseline as baseline_count, {{ total("past_amount", "baseline") }} as baseline_amount,
        {%- endif %}
        {{ number_of("is_fraud", "earlier") }} as frauds_before
    from {{ entity }}_moments
    window
        {%- if has_ordinary %}
        {#- From a fraud's tick, two before its microsecond, on: transactions of ages strictly between 0 and the baseline. #}
        baseline as (partition by {{ no }} order by tick
            range between {{ 4 * window_us(large_amount().baseline) - 3 }} preceding and 1 preceding),
        {%- endif %}
        {{ earlier_moments(no) }}
),
{{ entity }}_known as (
    select
        {{ no }}, frauds_before,
        {%- for name, expression in known_columns(features) %}
        {{ expression }} as {{ name }},
        {%- endfor %}
        transaction_id
    from {{ entity }}_counted
    window
        {%- for window in windows_of(features) %}
        last_{{ window }} as (partition by {{ no }} order by tick {{ last(window) }}),
        {%- endfor %}
        {{ earlier_moments(no) }}
),
{{ entity }}_streak_starts as (
    select distinct
        {{ no }}, counts_from_us, rank() over (partition by {{ no }} order by counts_from_us) - 1 as frauds_before
    from arrivals
    where is_fraud and is_of_asked_{{ entity }}
)
{%- endmacro %}

{% macro earlier_moments(no) -%}
    earlier as (partition by {{ no }} order by tick range between unbounded preceding and 1 preceding)
{%- endmacro %}

{# The columns that features need of `known`: a list of (name, expression). #}
{% macro known_columns(features) -%}
    {%- set columns = [] -%}
    {%- for feature in features -%}{%- do add_known_columns(columns, feature) -%}{%- endfor -%}
    {{ return(columns) }}
{%- endmacro %}

{% macro add_known_columns(columns, feature) -%}
    {%- set measure, w = feature.measure, feature.window -%}
    {%- set last_w = "last_" ~ w -%}
    {%- if feature.of == "unlabelled" -%}
        {%- do add_column(columns, "unlabelled_" ~ w,
            total("waiting_" ~ w, "earlier") ~ " + " ~ number_of("outlasts_" ~ w, last_w)) -%}
    {%- elif is_of_ordinary(feature) -%}
        {%- set is_ordinary = "is_fraud and not (" ~ is_above_limit("fraud_amount") ~ ")" -%}
        {%- if measure == "count" -%}
            {%- do add_column(columns, "ordinary_" ~ w, number_of(is_ordinary, last_w)) -%}
        {%- else -%}
            {%- do add_column(columns, "ordinary_age_us",
                "time_us - max(time_us) filter (where " ~ is_ordinary ~ ") over earlier") -%}
        {%- endif -%}
    {%- elif measure in ("count", "share", "streak", "streak_age") -%}
        {%- do add_column(columns, "frauds_" ~ w, number_of("is_fraud", last_w)) -%}
    {%- endif -%}
    {%- if feature.of == "labels" or measure in ("share", "ratio_to_mean") -%}
        {%- do add_column(columns, "genuine_" ~ w, number_of("is_genuine", last_w)) -%}
    {%- endif -%}
    {%- if measure == "ratio_to_mean" -%}
        {%- do add_column(columns, "genuine_amount_" ~ w, total("genuine_amount", last_w)) -%}
    {%- elif measure in ("last", "time_since_last") and not is_of_ordinary(feature) -%}
        {%- do add_column(columns, "fraud_age_us", "time_us - max(time_us) filter (where is_fraud) over earlier") -%}
        {%- do add_column(columns, "genuine_age_us", "time_us - max(time_us) filter (where is_genuine) over earlier") -%}
    {%- elif measure in ("streak", "streak_age") -%}
        {%- do add_column(columns, "frauds_since_genuine",
            "frauds_before - coalesce(max(frauds_before) filter (where is_genuine) over earlier, 0)") -%}
    {%- elif measure not in ("count", "share", "time_since_last") -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{# The frauds of a window after the last genuine label: the fewer of those since that label and those in the window. #}
{% macro streak(entity, window) -%}
    least({{ entity }}_known.frauds_since_genuine, {{ entity }}_known.frauds_{{ window }})
{%- endmacro %}
