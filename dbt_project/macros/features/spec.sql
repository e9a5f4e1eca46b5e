{# The feature spec as the macros read it: the columns of transaction_features that carry `entity` in their meta. #}

{% macro features_of(entity=none) -%}
    {%- set found = [] -%}
    {%- for feature in all_features() -%}
        {%- if entity is none or feature.entity == entity -%}{%- do found.append(feature) -%}{%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{% macro all_features() -%}
    {%- set found = [] -%}
    {%- if execute -%}
        {%- for column in graph.nodes["model.fraud.transaction_features"].columns.values() -%}
            {%- set meta = column.config.meta -%}
            {%- if meta.entity is defined -%}
                {%- do found.append({
                    "name": column.name, "data_type": column.data_type, "entity": meta.entity, "measure": meta.measure,
                    "of": meta.of, "window": meta.window, "when_empty": meta.when_empty}) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(found) }}
{%- endmacro %}

{# What a large amount is: {baseline: window, limit_tenths: whole number, at_least: transactions}. Tenths, because whole
   numbers compare exactly in every database. #}
{% macro large_amount() -%}
    {%- set given = graph.nodes["model.fraud.transaction_features"].config.meta.large_amount -%}
    {{ return({"baseline": given.baseline, "limit_tenths": ((given.limit | float) * 10) | round | int, "at_least": given.at_least}) }}
{%- endmacro %}

{# The entities with a history that features look at. #}
{% macro entities() -%}
    {{ return(features_of() | map(attribute="entity") | reject("equalto", "transaction") | unique | list) }}
{%- endmacro %}

{# Features that look at label arrivals; none: those of the given, or of both, entities. #}
{% macro features_of_labels(entity=none) -%}
    {%- set found = [] -%}
    {%- for feature in features_of(entity) if is_of_labels(feature) -%}{%- do found.append(feature) -%}{%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{# Features of one entity that look at earlier transactions. #}
{% macro features_of_past(entity) -%}
    {%- set found = [] -%}
    {%- for feature in features_of(entity) if not is_of_labels(feature) -%}{%- do found.append(feature) -%}{%- endfor -%}
    {{ return(found) }}
{%- endmacro %}

{% macro is_of_labels(feature) -%}
    {{ return(feature.of in ("labels", "frauds", "fraud", "genuine", "label", "genuine_amount", "unlabelled",
        "ordinary_frauds", "ordinary_fraud")) }}
{%- endmacro %}

{# True for what asks which earlier transactions were large, or how large. #}
{% macro is_of_large(feature) -%}
    {{ return(feature.of in ("large_amounts", "large_amount", "amount_ratio")) }}
{%- endmacro %}

{# True for what asks which frauds were of an ordinary amount. #}
{% macro is_of_ordinary(feature) -%}
    {{ return(feature.of in ("ordinary_frauds", "ordinary_fraud")) }}
{%- endmacro %}

{# Length of a window such as 24h or 7d in microseconds. #}
{% macro window_us(window) -%}
    {{ return((window[:-1] | int) * {"h": 3600000000, "d": 86400000000}[window[-1]]) }}
{%- endmacro %}

{# The different windows of some features, in the order of the spec. #}
{% macro windows_of(features) -%}
    {{ return(features | map(attribute="window") | unique | list) }}
{%- endmacro %}

{# The longest window of some features, in microseconds; 0 without any. #}
{% macro longest_us(features) -%}
    {%- set lengths = [0] -%}
    {%- for window in windows_of(features) -%}{%- do lengths.append(window_us(window)) -%}{%- endfor -%}
    {{ return(lengths | max) }}
{%- endmacro %}

{# How far back features can see. Whether an earlier transaction was large, or an earlier fraud ordinary, takes a baseline
   more than the window that finds it. #}
{% macro reach_us(features) -%}
    {%- set of_baseline, others = [], [] -%}
    {%- for feature in features if feature.window -%}
        {%- do (of_baseline if is_of_large(feature) or is_of_ordinary(feature) else others).append(feature) -%}
    {%- endfor -%}
    {%- set baseline_us = window_us(large_amount().baseline) if of_baseline else 0 -%}
    {{ return([longest_us(others), longest_us(of_baseline) + baseline_us] | max) }}
{%- endmacro %}

{% macro unknown_measure(feature) -%}
    {{ exceptions.raise_compiler_error("Feature " ~ feature.name ~ " in transaction_features.yml asks for measure '"
        ~ feature.measure ~ "' of '" ~ feature.of ~ "' of a " ~ feature.entity ~ ", which no macro computes.") }}
{%- endmacro %}
