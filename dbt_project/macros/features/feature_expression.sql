{# The last expression of a feature, over the transaction asked for and its row of <entity>_past and <entity>_known: the
   only place where whole numbers become doubles. The order of operands is part of the definition, because the compiled
   engine computes the same doubles to the last bit. #}
{% macro feature_expression(feature) -%}
    {%- if feature.entity == "transaction" -%}
        {%- set value = transaction_value(feature) -%}
    {%- else -%}
        {%- set value = label_value(feature) if is_of_labels(feature) else past_value(feature) -%}
    {%- endif -%}
    {%- if feature.when_empty == "zero" -%}
        cast(coalesce({{ value }}, 0) as {{ feature.data_type }})
    {%- else -%}
        cast({{ value }} as {{ feature.data_type }})
    {%- endif -%}
{%- endmacro %}

{# Joins what feature_expression() reads of an entity. #}
{% macro joined(entity) -%}
    {%- set no, past, known = entity ~ "_no", entity ~ "_past", entity ~ "_known" -%}
    {%- for side in ([past] if features_of_past(entity) else []) + ([known] if features_of_labels(entity) else []) -%}
join {{ side }} on {{ side }}.transaction_id = t.transaction_id
{% endfor -%}
    {%- for window in windows_of(features_of_labels(entity) | selectattr("measure", "equalto", "streak_age")) -%}
left join {{ entity }}_streak_starts as {{ entity }}_streak_{{ window }}
    on {{ entity }}_streak_{{ window }}.{{ no }} = {{ known }}.{{ no }}
    and {{ entity }}_streak_{{ window }}.frauds_before
        = case when {{ streak(entity, window) }} > 0 then {{ known }}.frauds_before - {{ streak(entity, window) }} end
    {% endfor -%}
{%- endmacro %}

{% macro past_value(feature) -%}
    {%- set w, key, p = feature.window, feature.measure ~ " of " ~ feature.of, feature.entity ~ "_past." -%}
    {%- set n, s, q, x = p ~ "count_" ~ w, p ~ "amount_" ~ w, p ~ "square_" ~ w, "t.amount_minor" -%}
    {%- set has_previous = p ~ "previous_age_us < " ~ window_us(w) -%}
    {%- if key == "count of transactions" -%}
        {{ n }}
    {%- elif key == "count of same_merchant" -%}
        {{ p }}same_merchant_{{ w }}
    {%- elif key == "count of large_amounts" -%}
        {{ p }}large_{{ w }}
    {%- elif key == "sum of amount" -%}
        {{ to_double(s) }} / {{ to_double(100) }}
    {%- elif key == "mean of amount" -%}
        case when {{ n }} > 0 then {{ to_double(s) }} / ({{ to_double(100) }} * {{ to_double(n) }}) end
    {%- elif key == "std of amount" -%}
        case when {{ n }} > 1 then {{ deviation(n, s, q) }} / {{ to_double(100) }} end
    {%- elif key == "zscore of amount" -%}
        case when {{ n }} > 1 and {{ spread(n, s, q) }} > 0 then
            {{ to_double(n ~ " * " ~ x ~ " - " ~ s) }} / {{ to_double(n) }} / {{ deviation(n, s, q) }} end
    {%- elif key in ("max of amount", "min of amount") -%}
        {{ to_double(p ~ "amount_" ~ feature.measure ~ "_" ~ w) }} / {{ to_double(100) }}
    {%- elif key == "ratio_to_mean of amount" -%}
        case when {{ s }} > 0 then {{ ratio_to_mean(x, n, s) }} end
    {%- elif key == "max of amount_ratio" -%}
        {{ p }}amount_ratio_max_{{ w }}
    {%- elif key in ("share of night", "share of weekend") -%}
        case when {{ n }} > 0 then {{ to_double(p ~ feature.of ~ "_" ~ w) }} / {{ to_double(n) }} end
    {%- elif feature.measure == "distinct" -%}
        nullif({{ p }}{{ feature.of }}_distinct_{{ w }}, 0)
    {%- elif feature.measure == "is_new" -%}
        cast({{ p }}{{ feature.of }}_is_new_{{ w }} as integer)
    {%- elif feature.measure == "is_changed" -%}
        case when {{ has_previous }} then cast({{ p }}{{ feature.of }}_is_changed as integer) end
    {%- elif key == "time_since_last of transaction" -%}
        {{ minutes(p ~ "previous_age_us", w) }}
    {%- elif key == "time_since_last of large_amount" -%}
        {{ minutes(p ~ "large_age_us", w) }}
    {%- elif key == "distance_from_last of place" -%}
        case when {{ has_previous }} then {{ p }}distance_km end
    {%- elif key == "speed_from_last of place" -%}
        case when {{ has_previous }} then
            {{ p }}distance_km / ({{ to_double(p ~ "previous_age_us") }} / {{ to_double(3600000000) }}) end
    {%- else -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{% macro label_value(feature) -%}
    {%- set w, key, k = feature.window, feature.measure ~ " of " ~ feature.of, feature.entity ~ "_known." -%}
    {%- set frauds, genuine = k ~ "frauds_" ~ w, k ~ "genuine_" ~ w -%}
    {%- if key == "count of labels" -%}
        {{ genuine }} + {{ frauds }}
    {%- elif key == "count of frauds" -%}
        {{ frauds }}
    {%- elif key == "count of ordinary_frauds" -%}
        {{ k }}ordinary_{{ w }}
    {%- elif key == "count of unlabelled" -%}
        {{ k }}unlabelled_{{ w }}
    {%- elif key == "share of frauds" -%}
        case when {{ genuine }} + {{ frauds }} > 0 then {{ to_double(frauds) }} / {{ to_double(genuine ~ " + " ~ frauds) }} end
    {%- elif key == "last of label" -%}
        case when least({{ k }}fraud_age_us, {{ k }}genuine_age_us) < {{ window_us(w) }} then
            case when {{ k }}fraud_age_us <= coalesce({{ k }}genuine_age_us, {{ k }}fraud_age_us) then 1 else 0 end end
    {%- elif key == "streak of frauds" -%}
        {{ streak(feature.entity, w) }}
    {%- elif key == "streak_age of frauds" -%}
        {{ to_double("t.event_time_us - " ~ feature.entity ~ "_streak_" ~ w ~ ".counts_from_us") }} / {{ to_double(60000000) }}
    {%- elif key == "time_since_last of fraud" -%}
        {{ minutes(k ~ "fraud_age_us", w) }}
    {%- elif key == "time_since_last of ordinary_fraud" -%}
        {{ minutes(k ~ "ordinary_age_us", w) }}
    {%- elif key == "time_since_last of genuine" -%}
        {{ minutes(k ~ "genuine_age_us", w) }}
    {%- elif key == "ratio_to_mean of genuine_amount" -%}
        case when {{ k }}genuine_amount_{{ w }} > 0 then
            {{ ratio_to_mean("t.amount_minor", genuine, k ~ "genuine_amount_" ~ w) }} end
    {%- else -%}
        {%- do unknown_measure(feature) -%}
    {%- endif -%}
{%- endmacro %}

{% macro to_double(value) -%}cast({{ value }} as double precision){%- endmacro %}

{# x / (s / n), with one rounding less. #}
{% macro ratio_to_mean(x, n, s) -%}
    {{ to_double(x) }} * {{ to_double(n) }} / {{ to_double(s) }}
{%- endmacro %}

{# n * q - s * s for n amounts with sum s and sum of squares q: exact, then a double rounded once. It almost always fits
   64 bits, which is faster. #}
{% macro spread(n, s, q) -%}
    {%- set wide = wide_integer() -%}
    case when {{ q }} <= 9000000000000000000 / {{ n }}
        then {{ to_double(n ~ " * cast(" ~ q ~ " as bigint) - " ~ s ~ " * " ~ s) }}
        else {{ wide_to_double("(cast(" ~ n ~ " as " ~ wide ~ ") * " ~ q ~ " - cast(" ~ s ~ " as " ~ wide ~ ") * " ~ s ~ ")") }} end
{%- endmacro %}

{# The sample's standard deviation, from two on. #}
{% macro deviation(n, s, q) -%}
    sqrt({{ spread(n, s, q) }} / {{ to_double(n ~ " * (" ~ n ~ " - 1)") }})
{%- endmacro %}

{# An age in minutes, missing unless it is within the window. #}
{% macro minutes(age_us, window) -%}
    case when {{ age_us }} < {{ window_us(window) }} then {{ to_double(age_us) }} / {{ to_double(60000000) }} end
{%- endmacro %}
