{# The last expression of a feature, over p (past) and k (known): the only place where whole numbers become doubles.
   The order of operands is part of the definition, because the compiled engine computes the same doubles to the last bit. #}
{% macro feature_expression(feature) -%}
    {%- set value = label_value(feature) if is_of_labels(feature) else past_value(feature) -%}
    {%- if feature.when_empty == "zero" -%}
        cast(coalesce({{ value }}, 0) as {{ feature.data_type }})
    {%- else -%}
        cast({{ value }} as {{ feature.data_type }})
    {%- endif -%}
{%- endmacro %}

{% macro past_value(feature) -%}
    {%- set of, w, key = feature.of, feature.window, feature.measure ~ " of " ~ feature.of -%}
    {%- set n, s = "p.count_" ~ w, "p.amount_" ~ w -%}
    {%- set is_recent = "p.event_time_us - p.last_us < " ~ window_us(w) -%}
    {%- if key == "count of transactions" -%}
        {{ n }}
    {%- elif key == "count of large_amounts" -%}
        p.large_{{ w }}
    {%- elif key == "count of same_merchant" -%}
        p.same_merchant_count_{{ w }}
    {%- elif key == "sum of amount" -%}
        {{ to_double(s) }} / {{ to_double(100) }}
    {%- elif key == "mean of amount" -%}
        case when {{ n }} > 0 then {{ to_double(s) }} / ({{ to_double(100) }} * {{ to_double(n) }}) end
    {%- elif key == "std of amount" -%}
        case when {{ n }} > 1 then {{ deviation(w) }} / {{ to_double(100) }} end
    {%- elif key == "zscore of amount" -%}
        case when {{ n }} > 1 and {{ spread(w) }} > 0 then
            {{ to_double(n ~ " * p.amount_minor - " ~ s) }} / {{ to_double(n) }} / {{ deviation(w) }} end
    {%- elif key in ("max of amount", "min of amount") -%}
        {{ to_double("p.amount_" ~ feature.measure ~ "_" ~ w) }} / {{ to_double(100) }}
    {%- elif key == "ratio_to_mean of amount" -%}
        case when {{ s }} > 0 then {{ ratio_to_mean("p.amount_minor", n, s) }} end
    {%- elif key == "max of amount_ratio" -%}
        p.amount_ratio_max_{{ w }}
    {%- elif feature.measure == "share" -%}
        case when {{ n }} > 0 then {{ to_double("p." ~ of ~ "_" ~ w) }} / {{ to_double(n) }} end
    {%- elif feature.measure == "distinct" -%}
        nullif(p.{{ of }}_distinct_{{ w }}, 0)
    {%- elif feature.measure == "is_new" -%}
        p.{{ of }}_is_new_{{ w }}
    {%- elif feature.measure == "is_changed" -%}
        case when {{ is_recent }} then p.{{ of }}_is_changed end
    {%- elif key == "time_since_last of transaction" -%}
        {{ minutes_since("p.last_us", w) }}
    {%- elif key == "time_since_last of large_amount" -%}
        {{ minutes_since("p.last_large_us", w) }}
    {%- elif key == "distance_from_last of place" -%}
        case when {{ is_recent }} then p.distance_km end
    {%- elif key == "speed_from_last of place" -%}
        case when {{ is_recent }} then
            p.distance_km / ({{ to_double("p.event_time_us - p.last_us") }} / {{ to_double(3600000000) }}) end
    {%- else -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{% macro label_value(feature) -%}
    {%- set w, key = feature.window, feature.measure ~ " of " ~ feature.of -%}
    {%- set labels, frauds = "k.labels_" ~ w, "k.frauds_" ~ w -%}
    {%- if key == "count of labels" -%}
        {{ labels }}
    {%- elif key == "count of frauds" -%}
        {{ frauds }}
    {%- elif key == "count of unlabelled" -%}
        k.unlabelled_{{ w }}
    {%- elif key == "share of frauds" -%}
        case when {{ labels }} > 0 then {{ to_double(frauds) }} / {{ to_double(labels) }} end
    {%- elif key == "last of label" -%}
        case when {{ labels }} > 0 then case
            when k.last_fraud_us < k.last_genuine_us or k.last_fraud_us is null then 0 else 1 end end
    {%- elif key == "streak of frauds" -%}
        {{ streak(w) }}
    {%- elif key == "streak_age of frauds" -%}
        {{ to_double("p.event_time_us - s_" ~ w ~ ".time_us") }} / {{ to_double(60000000) }}
    {%- elif key == "time_since_last of fraud" -%}
        {{ minutes_since("k.last_fraud_us", w) }}
    {%- elif key == "time_since_last of genuine" -%}
        {{ minutes_since("k.last_genuine_us", w) }}
    {%- elif key == "ratio_to_mean of genuine_amount" -%}
        case when k.genuine_amount_{{ w }} > 0 then
            {{ ratio_to_mean("p.amount_minor", "(" ~ labels ~ " - " ~ frauds ~ ")", "k.genuine_amount_" ~ w) }} end
    {%- else -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{% macro to_double(value) -%}cast({{ value }} as double precision){%- endmacro %}

{# x / (s / n), with one rounding less. #}
{% macro ratio_to_mean(x, n, s) -%}
    {{ to_double(x) }} * {{ to_double(n) }} / {{ to_double(s) }}
{%- endmacro %}

{# n * sum of squares - square of the sum, exact, as a double rounded once. It almost always fits 64 bits, which is faster. #}
{% macro spread(window) -%}
    {%- set n, s, q = "p.count_" ~ window, "p.amount_" ~ window, "p.square_" ~ window -%}
    {%- set wide = wide_integer() -%}
    case when {{ q }} <= 9223372036854775807 / {{ n }}
        then {{ to_double(n ~ " * cast(" ~ q ~ " as bigint) - " ~ s ~ " * " ~ s) }}
        else {{ wide_to_double("(cast(" ~ n ~ " as " ~ wide ~ ") * " ~ q ~ " - cast(" ~ s ~ " as " ~ wide ~ ") * " ~ s ~ ")") }} end
{%- endmacro %}

{# The sample's standard deviation in minor units, from two transactions on. #}
{% macro deviation(window) -%}
    sqrt({{ spread(window) }} / {{ to_double("p.count_" ~ window ~ " * (p.count_" ~ window ~ " - 1)") }})
{%- endmacro %}

{# Minutes since a moment, missing unless it is within the window. #}
{% macro minutes_since(moment_us, window) -%}
    case when p.event_time_us - {{ moment_us }} < {{ window_us(window) }} then
        {{ to_double("p.event_time_us - " ~ moment_us) }} / {{ to_double(60000000) }} end
{%- endmacro %}
