{# Which earlier transactions were unusually large for their card or merchant when they happened: see large_amount in the
   head of transaction_features.yml. #}
{% macro add_large_columns(columns, feature) -%}
    {%- set last_w = "last_" ~ feature.window -%}
    {%- do add_column(columns.baselines, "baseline_count", "count(*) over baseline") -%}
    {%- do add_column(columns.baselines, "baseline_amount", total("amount_minor", "baseline")) -%}
    {%- if feature.measure == "max" -%}
        {%- do add_column(columns.marked, "amount_ratio", "case when " ~ has_ratio() ~ " then "
            ~ ratio_to_mean("amount_minor", "baseline_count", "baseline_amount") ~ " end") -%}
        {%- do add_column(columns.past, "amount_ratio_max_" ~ feature.window, "max(amount_ratio) over " ~ last_w) -%}
    {%- else -%}
        {%- do add_column(columns.marked, "is_large", is_above_limit("amount_minor")) -%}
        {%- if feature.measure == "count" -%}
            {%- do add_column(columns.past, "large_" ~ feature.window, number_of("is_large", last_w)) -%}
        {%- else -%}
            {%- do add_column(columns.past, "large_age_us",
                "event_time_us - max(event_time_us) filter (where is_large) over earlier") -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{# True where an amount is above the limit times the mean of its baseline. #}
{% macro is_above_limit(amount) -%}
    {{ has_ratio() }} and {{ amount }} * baseline_count * 10 > baseline_amount * {{ large_amount().limit_tenths }}
{%- endmacro %}

{% macro has_ratio() -%}
    baseline_count >= {{ large_amount().at_least }} and baseline_amount > 0
{%- endmacro %}
