-- One row per transaction: what happened at its merchant before, and the labels known by then, in whole numbers.
{{ config(indexes=window_indexes()) }}
{{ entity_windows("merchant") }}
