-- One row per transaction: every feature of the spec (transaction_features.yml) as of its event time.
{{ config(indexes=window_indexes()) }}
{#- Both are named here, outside any condition, because dbt reads dependencies before it knows the spec. -#}
{%- set transactions, labels = ref('stg_transactions'), ref('stg_labels') -%}
{%- set parts = [histories(transactions, labels)] -%}
{%- for entity in entities() -%}
    {%- do parts.append(past(entity)) -%}
    {%- if features_of_labels(entity) -%}{%- do parts.append(known(entity)) -%}{%- endif -%}
{%- endfor -%}
with {{ parts | join(",\n") }}
select
    t.transaction_id,
    t.event_time,
    t.card_id,
    t.merchant_id,
    t.amount_minor,
    t.currency
    {%- for feature in features_of() %},
    {{ feature_expression(feature) }} as {{ feature.name }}
    {%- endfor %}
from {{ transactions }} as t
{% for entity in entities() -%}
{{ joined(entity) }}
{%- endfor -%}
where {{ in_run_window("t.event_time") }}
