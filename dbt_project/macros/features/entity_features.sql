{# Every feature of one entity, one row per transaction of the run's range.

   `past` has the transactions and what windows over earlier ones give (past.sql); `known` has the same transactions and
   what windows over label arrivals give (known.sql). Both are whole numbers or plain values under short names; the last
   expression, which makes a feature of them, is feature_expression(). Only what the spec asks for is computed, and no
   window sees further back than reach_us(): any split into ranges gives the rows of one full run. #}
{% macro entity_features(entity) -%}
{#- Both are named here, outside any condition, because dbt reads dependencies before it knows the spec. -#}
{%- set transactions, labels = ref('stg_transactions'), ref('stg_labels') -%}
{%- set features = features_of(entity) -%}
{%- set of_labels, of_transactions = [], [] -%}
{%- for feature in features -%}
    {%- do (of_labels if is_of_labels(feature) else of_transactions).append(feature) -%}
{%- endfor -%}
{%- set streak_ages = of_labels | selectattr("measure", "equalto", "streak_age") | list -%}
with {{ past(entity, transactions, of_transactions, reach_us(features)) }}
{%- if of_labels %},
{{ known(entity, transactions, labels, of_labels, reach_us(features)) }}
{%- endif %}
select
    p.transaction_id, p.event_time, p.{{ entity }}_id
    {%- for feature in features %},
    {{ feature_expression(feature) }} as {{ feature.name }}
    {%- endfor %}
from past as p
{%- if of_labels %}
join known as k on k.transaction_id = p.transaction_id
{%- endif %}
{%- for window in windows_of(streak_ages) %}
left join streak_starts as s_{{ window }}
    on s_{{ window }}.{{ entity }}_id = k.{{ entity }}_id
    and s_{{ window }}.frauds_before = k.frauds_before - {{ streak(window) }} and {{ streak(window) }} > 0
{%- endfor %}
where {{ in_run_window("p.event_time") }}
{%- endmacro %}

{# Adds (name, expression) to a list of columns once. #}
{% macro add_column(columns, name, expression) -%}
    {%- if name not in columns | map(attribute=0) -%}{%- do columns.append((name, expression)) -%}{%- endif -%}
{%- endmacro %}

{# The sum of a whole-number column over a named window, 0 over nothing. Both databases widen sums, so that casting back
   is where an overflow would be an error. #}
{% macro total(column, window) -%}
    coalesce(cast(sum({{ column }}) over {{ window }} as bigint), 0)
{%- endmacro %}
