-- One row per transaction: every feature of its merchant, what happened there before and the labels known by then.
{{ config(indexes=window_indexes()) }}
{{ entity_features("merchant") }}
