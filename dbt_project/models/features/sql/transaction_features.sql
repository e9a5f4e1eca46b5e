-- One row per transaction: every feature of the spec (transaction_features.yml) as of its event time.
{{ config(indexes=window_indexes()) }}
{#- Both are named here, outside any condition, because dbt reads dependencies before it knows the spec. -#}
{%- set transactions, labels = ref('stg_transactions'), ref('stg_labels') -%}
with
{{ histories(transactions, labels) }},
{%- for entity in entities() %}
{{ past(entity) }},
{%- if features_of_labels(entity) %}
{{ known(entity) }},
{%- endif %}
{%- endfor %}
asked as (
    select * from history where {{ in_run_window("event_time") }}
)
select
    asked.transaction_id,
    asked.event_time,
    asked.card_id,
    asked.merchant_id,
    asked.amount_minor,
    asked.currency
    {%- for feature in features_of() %},
    {{ feature_expression(feature) }} as {{ feature.name }}
    {%- endfor %}
from asked
{%- for entity in entities() %}
{{ joined(entity) }}
{%- endfor %}
