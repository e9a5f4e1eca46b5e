{{ config(meta={'dagster': {'ref': {'name': 'transaction_features'}}}) }}
-- Transactions of the run's window that have no feature row, or more than one, and feature rows of no transaction.
with rows_per_transaction as (
    select transaction_id, sum(transactions) as transactions, sum(features) as features
    from (
        select transaction_id, 1 as transactions, 0 as features
        from {{ ref('stg_transactions') }}
        where {{ in_run_window("event_time") }}
        union all
        select transaction_id, 0, 1
        from {{ ref('transaction_features') }}
        where {{ in_run_window("event_time") }}
    ) as both_sides
    group by transaction_id
)
select transaction_id, transactions, features
from rows_per_transaction
where transactions <> 1 or features <> 1
