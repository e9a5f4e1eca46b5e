{# The half-open range of this run, [since, until), as conditions on timestamp columns.

   The vars are read when a model runs, never when it is parsed: a cached manifest serves every window. #}

{% macro run_moment(name) -%}
    {%- set text = var(name, none) -%}
    {%- if text is none -%}{{ return(none) }}{%- endif -%}
    {{ return(modules.datetime.datetime.fromisoformat(text)) }}
{%- endmacro %}

{% macro timestamp_literal(moment) -%}
    timestamp '{{ moment.strftime("%Y-%m-%d %H:%M:%S.%f") }}'
{%- endmacro %}

{# True for rows of the run's own window, and of the `look_back_us` microseconds before it. #}
{% macro in_run_window(column, look_back_us=0) -%}
    {%- set since, until = run_moment('since'), run_moment('until') -%}
    {%- if since is not none and until is not none and since >= until -%}
        {{ exceptions.raise_compiler_error("The run's window is empty: since " ~ since ~ ", until " ~ until ~ ". since must be earlier.") }}
    {%- endif -%}
    {%- set conditions = [] -%}
    {%- if since is not none -%}
        {%- set from = since - modules.datetime.timedelta(microseconds=look_back_us) -%}
        {%- do conditions.append(column ~ " >= " ~ timestamp_literal(from)) -%}
    {%- endif -%}
    {%- if until is not none -%}
        {%- do conditions.append(column ~ " < " ~ timestamp_literal(until)) -%}
    {%- endif -%}
    {{ conditions | join(" and ") if conditions else "true" }}
{%- endmacro %}

{# Incremental strategy replace_window: the run's window is replaced whole, in the transaction dbt has open,
   also when it has no rows any more. #}
{% macro get_incremental_replace_window_sql(arg_dict) -%}
    {%- set columns = get_quoted_csv(arg_dict["dest_columns"] | map(attribute="name")) -%}
    delete from {{ arg_dict["target_relation"] }} where {{ in_run_window("event_time") }};
    insert into {{ arg_dict["target_relation"] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict["temp_relation"] }};
{%- endmacro %}
