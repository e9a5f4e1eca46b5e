-- One row per transaction: every feature of its card, what it did before and what was known of it by then.
{{ config(indexes=window_indexes()) }}
{{ entity_features("card") }}
