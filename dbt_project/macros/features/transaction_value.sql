{# A value of the transaction itself, over t. #}
{% macro transaction_value(feature) -%}
    {%- set values = {
        "amount": to_double("t.amount_minor") ~ " / " ~ to_double(100),
        "hour_of_day": "extract(hour from t.event_time)",
        "day_of_week": "extract(isodow from t.event_time) - 1",
        "is_weekend": "cast(" ~ is_weekend("t.event_time") ~ " as integer)",
        "is_night": "cast(" ~ is_night("t.event_time") ~ " as integer)",
        "is_online": "cast(t.channel = 'online' as integer)",
        "is_atm": "cast(t.channel = 'atm' as integer)",
        "home_distance": distance_km("t.home_latitude", "t.home_longitude", "t.merchant_latitude", "t.merchant_longitude"),
    } -%}
    {%- if feature.of not in values -%}{%- do unknown_measure(feature) -%}{%- endif -%}
    {{ values[feature.of] }}
{%- endmacro %}

{# From 00:00 to 06:59, as in the Fraud Detection Handbook. #}
{% macro is_night(time) -%}
    extract(hour from {{ time }}) <= 6
{%- endmacro %}

{% macro is_weekend(time) -%}
    extract(isodow from {{ time }}) >= 6
{%- endmacro %}

{# Great-circle kilometres between two places in degrees, mean radius of the Earth; null without all four. From the
   haversines of the distance to the place and to the place opposite it on the globe: the first alone loses half its
   digits far away, the second alone nearby. #}
{% macro distance_km(latitude_1, longitude_1, latitude_2, longitude_2) -%}
    {%- set radian = "cast('0.017453292519943295' as double precision)" -%}
    {%- set north = "sin((" ~ latitude_2 ~ " - " ~ latitude_1 ~ ") * " ~ radian ~ " / 2)" -%}
    {%- set opposite = "sin((" ~ latitude_2 ~ " + " ~ latitude_1 ~ ") * " ~ radian ~ " / 2)" -%}
    {%- set parallels = "cos(" ~ latitude_1 ~ " * " ~ radian ~ ") * cos(" ~ latitude_2 ~ " * " ~ radian ~ ")" -%}
    {%- set half_east = "(" ~ longitude_2 ~ " - " ~ longitude_1 ~ ") * " ~ radian ~ " / 2" -%}
    cast('12742.0176' as double precision) * atan2(
        sqrt({{ north }} * {{ north }} + {{ parallels }} * (sin({{ half_east }}) * sin({{ half_east }}))),
        sqrt({{ opposite }} * {{ opposite }} + {{ parallels }} * (cos({{ half_east }}) * cos({{ half_east }}))))
{%- endmacro %}
