-- One row per transaction: every feature of the spec (transaction_features.yml) as of its event time.
{{ config(indexes=window_indexes()) }}
select
    t.transaction_id,
    t.event_time,
    t.card_id,
    t.merchant_id,
    t.amount_minor,
    t.currency
    {%- for feature in features_of() %},
    {{ {"transaction": transaction_value(feature) if feature.entity == "transaction", "card": "c." ~ feature.name, "merchant": "m." ~ feature.name}[feature.entity] }} as {{ feature.name }}
    {%- endfor %}
from {{ ref('stg_transactions') }} as t
join {{ ref('card_features') }} as c on c.transaction_id = t.transaction_id
join {{ ref('merchant_features') }} as m on m.transaction_id = t.transaction_id
where {{ in_run_window("t.event_time") }}
    and {{ in_run_window("c.event_time") }}
    and {{ in_run_window("m.event_time") }}
