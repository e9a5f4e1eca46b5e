"""Features: staging views, windows per card and merchant, and one row of features per transaction. Computed by dbt."""
