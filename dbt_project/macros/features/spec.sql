{# The feature spec as the macros read it: the columns of transaction_features that carry `entity` in their meta. #}

{% macro features_of(entity=none) -%}
    {%- set found = [] -%}
    {%- if execute -%}
        {%- for column in graph.nodes["model.fraud.transaction_features"].columns.values() -%}
            {%- set meta = column.config.meta -%}
            {%- if meta.entity is defined and (entity is none or meta.entity == entity) -%}
                {%- do found.append({
                    "name": column.name, "data_type": column.data_type, "entity": meta.entity, "measure": meta.measure,
                    "of": meta.of, "window": meta.window, "when_empty": meta.when_empty}) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(found) }}
{%- endmacro %}

{# Length of a window such as 24h or 7d in microseconds. #}
{% macro window_us(window) -%}
    {{ return((window[:-1] | int) * {"h": 3600000000, "d": 86400000000}[window[-1]]) }}
{%- endmacro %}

{# The whole-number window columns a feature is made of. Names are `<part>_<window>`.

   Parts over transactions with 0 < age < window: transaction_count, amount_minor_sum, amount_minor_square_sum,
   amount_minor_max, previous_time_us. Parts over label arrivals with 0 <= age < window: label_count, fraud_label_count. #}
{% macro parts_of(feature) -%}
    {%- set parts = {
        ("count", "transactions"): ["transaction_count"],
        ("sum", "amount"): ["amount_minor_sum"],
        ("mean", "amount"): ["transaction_count", "amount_minor_sum"],
        ("std", "amount"): ["transaction_count", "amount_minor_sum", "amount_minor_square_sum"],
        ("max", "amount"): ["amount_minor_max"],
        ("ratio_to_mean", "amount"): ["transaction_count", "amount_minor_sum"],
        ("time_since_previous", "transactions"): ["previous_time_us"],
        ("count", "labels"): ["label_count"],
        ("count", "frauds"): ["fraud_label_count"],
        ("share", "frauds"): ["label_count", "fraud_label_count"],
    } -%}
    {%- set key = (feature.measure, feature.of) -%}
    {%- if key not in parts -%}
        {{ exceptions.raise_compiler_error("Feature " ~ feature.name ~ " in transaction_features.yml asks for measure '" ~ feature.measure
            ~ "' of '" ~ feature.of ~ "', which no macro computes. Known pairs: " ~ parts.keys() | list) }}
    {%- endif -%}
    {{ return(parts[key]) }}
{%- endmacro %}

{# Each (part, window) that the features of an entity need, once, in the order of the spec. #}
{% macro needed_parts(entity, of_labels) -%}
    {%- set needed = [] -%}
    {%- for feature in features_of(entity) -%}
        {%- for part in parts_of(feature) -%}
            {%- if (part in ("label_count", "fraud_label_count")) == of_labels and (part, feature.window) not in needed -%}
                {%- do needed.append((part, feature.window)) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(needed) }}
{%- endmacro %}

{# The longest window among (part, window) pairs, in microseconds; 0 without any. #}
{% macro longest_window_us(needed) -%}
    {%- set lengths = [0] -%}
    {%- for _, window in needed -%}{%- do lengths.append(window_us(window)) -%}{%- endfor -%}
    {{ return(lengths | max) }}
{%- endmacro %}
