{# The last expression of a feature: the only place where numbers become doubles. Operand order is part of the
   definition, because fraud_pipelines/features/online.py computes the same doubles to the last bit. #}
{% macro feature_expression(feature) -%}
    {%- set value = transaction_value(feature.of) if feature.entity == "transaction" else window_value(feature) -%}
    {%- if feature.when_empty == "zero" and feature.entity != "transaction" -%}
        cast(coalesce({{ value }}, 0) as {{ feature.data_type }})
    {%- else -%}
        cast({{ value }} as {{ feature.data_type }})
    {%- endif -%}
{%- endmacro %}

{% macro transaction_value(of) -%}
    {%- set values = {
        "amount": to_double("t.amount_minor") ~ " / " ~ to_double("100"),
        "hour_of_day": "extract(hour from t.event_time)",
        "day_of_week": "extract(isodow from t.event_time) - 1",
        "is_weekend": "case when extract(isodow from t.event_time) >= 6 then 1 else 0 end",
        "is_night": "case when extract(hour from t.event_time) <= 6 then 1 else 0 end",
    } -%}
    {{ values[of] }}
{%- endmacro %}

{% macro to_double(value) -%}cast({{ value }} as double precision){%- endmacro %}

{% macro window_value(feature) -%}
    {%- set w = {"card": "c", "merchant": "m"}[feature.entity] ~ "." -%}
    {%- set n = w ~ "transaction_count_" ~ feature.window -%}
    {%- set s = w ~ "amount_minor_sum_" ~ feature.window -%}
    {%- set q = w ~ "amount_minor_square_sum_" ~ feature.window -%}
    {%- set labels = w ~ "label_count_" ~ feature.window -%}
    {%- set frauds = w ~ "fraud_label_count_" ~ feature.window -%}
    {%- set wide = wide_integer() -%}
    {%- set hundred = to_double("100") -%}
    {%- if (feature.measure, feature.of) == ("count", "transactions") -%}
        {{ n }}
    {%- elif feature.measure == "sum" -%}
        {{ to_double(s) }} / {{ hundred }}
    {%- elif feature.measure == "mean" -%}
        case when {{ n }} > 0 then {{ to_double(s) }} / ({{ hundred }} * {{ to_double(n) }}) end
    {%- elif feature.measure == "std" -%}
        case when {{ n }} > 1 then sqrt(
            {{ wide_to_double("(cast(" ~ n ~ " as " ~ wide ~ ") * " ~ q ~ " - cast(" ~ s ~ " as " ~ wide ~ ") * " ~ s ~ ")") }}
            / {{ to_double(n ~ " * (" ~ n ~ " - 1)") }}) / {{ hundred }} end
    {%- elif feature.measure == "max" -%}
        {{ to_double(w ~ "amount_minor_max_" ~ feature.window) }} / {{ hundred }}
    {%- elif feature.measure == "ratio_to_mean" -%}
        case when {{ s }} > 0 then {{ to_double("t.amount_minor") }} * {{ to_double(n) }} / {{ to_double(s) }} end
    {%- elif feature.measure == "time_since_previous" -%}
        {{ to_double("t.event_time_us - " ~ w ~ "previous_time_us_" ~ feature.window) }} / {{ to_double("60000000") }}
    {%- elif (feature.measure, feature.of) == ("count", "labels") -%}
        {{ labels }}
    {%- elif (feature.measure, feature.of) == ("count", "frauds") -%}
        {{ frauds }}
    {%- elif feature.measure == "share" -%}
        case when {{ labels }} > 0 then {{ to_double(frauds) }} / {{ to_double(labels) }} end
    {%- endif -%}
{%- endmacro %}
