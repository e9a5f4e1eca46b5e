-- One row per transaction: what its card did before, and what was known of it, in whole numbers.
{{ config(indexes=window_indexes()) }}
{{ entity_windows("card") }}
