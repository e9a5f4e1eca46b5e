{# Whole-number window measures of one entity, one row per transaction of the run's window.

   Ages are strictly between 0 and the window for transactions (RANGE up to 1 microsecond before), so rows that share
   a time cannot see each other. Label arrivals count from age 0. Only the longest window of the spec is read before
   the run's own range, and nothing in it can depend on older rows: any split into ranges gives the rows of one full run. #}
{% macro entity_windows(entity) -%}
{#- Both are named here, outside any condition, because dbt reads dependencies before it knows the spec. -#}
{%- set transactions, labels = ref('stg_transactions'), ref('stg_labels') -%}
{%- set entity_id = entity ~ "_id" -%}
{%- set transaction_parts = needed_parts(entity, of_labels=false) -%}
{%- set label_parts = needed_parts(entity, of_labels=true) -%}
with history as (
    select transaction_id, event_time, event_time_us, {{ entity_id }}, amount_minor
    from {{ transactions }}
    where {{ in_run_window("event_time", longest_window_us(transaction_parts)) }}
),
transaction_windows as (
    select
        transaction_id, event_time, {{ entity_id }}
        {%- for part, window in transaction_parts %},
        {{ transaction_part(part, window) }} as {{ part }}_{{ window }}
        {%- endfor %}
    from history
    {%- for _, window in transaction_parts %}{% if loop.first %}
    window{% endif %}{% if window not in transaction_parts[:loop.index0] | map(attribute=1) | list %}
        {{ "," if not loop.first }} last_{{ window }} as (
            partition by {{ entity_id }} order by event_time_us
            range between {{ window_us(window) - 1 }} preceding and 1 preceding)
    {%- endif %}{% endfor %}
)
{%- if label_parts %},
arrivals as (
    select transactions.{{ entity_id }}, labels.counts_from_us, labels.is_fraud
    from {{ labels }} as labels
    join {{ transactions }} as transactions on transactions.transaction_id = labels.transaction_id
    where {{ in_run_window("labels.counts_from", longest_window_us(label_parts)) }}
),
moments as (
    select transaction_id, {{ entity_id }}, event_time_us as moment_us, 0 as label, 0 as fraud_label
    from history
    where {{ in_run_window("event_time") }}
    union all
    select null, {{ entity_id }}, counts_from_us, 1, case when is_fraud then 1 else 0 end
    from arrivals
),
label_windows as (
    select
        transaction_id
        {%- for part, window in label_parts %},
        cast(sum({{ {"label_count": "label", "fraud_label_count": "fraud_label"}[part] }}) over known_{{ window }} as bigint) as {{ part }}_{{ window }}
        {%- endfor %}
    from moments
    window
    {%- for _, window in label_parts %}{% if window not in label_parts[:loop.index0] | map(attribute=1) | list %}
        {{ "," if not loop.first }} known_{{ window }} as (
            partition by {{ entity_id }} order by moment_us
            range between {{ window_us(window) - 1 }} preceding and current row)
    {%- endif %}{% endfor %}
)
{%- endif %}
select
    t.transaction_id, t.event_time, t.{{ entity_id }}
    {%- for part, window in transaction_parts %},
    t.{{ part }}_{{ window }}
    {%- endfor %}
    {%- for part, window in label_parts %},
    l.{{ part }}_{{ window }}
    {%- endfor %}
from transaction_windows as t
{%- if label_parts %}
join label_windows as l on l.transaction_id = t.transaction_id
{%- endif %}
where {{ in_run_window("t.event_time") }}
{%- endmacro %}

{# One part over the transactions of a window. Sums widen in both databases and are cast back: an overflow is an error. #}
{% macro transaction_part(part, window) -%}
    {%- set over = "over last_" ~ window -%}
    {%- if part == "transaction_count" -%}
        count(*) {{ over }}
    {%- elif part == "amount_minor_sum" -%}
        coalesce(cast(sum(amount_minor) {{ over }} as bigint), 0)
    {%- elif part == "amount_minor_square_sum" -%}
        coalesce(cast(sum(cast(amount_minor as {{ wide_integer() }}) * amount_minor) {{ over }} as {{ wide_integer() }}), 0)
    {%- elif part == "amount_minor_max" -%}
        max(amount_minor) {{ over }}
    {%- elif part == "previous_time_us" -%}
        max(event_time_us) {{ over }}
    {%- endif -%}
{%- endmacro %}
