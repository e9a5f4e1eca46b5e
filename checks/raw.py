"""Checks of the raw stage: the Great Expectations suite, labels against transactions, quarantine, card tokens;
decisions and feedback against the ledger."""

from datetime import datetime

import dagster as dg

from checks.suites.transactions import COLUMNS, run_suite, transactions_frame, transactions_suite
from fraud_pipelines import limits, tables
from fraud_pipelines.ledger import Log
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import window_of
from fraud_pipelines.orchestration.resources import LedgerResource, WarehouseResource
from fraud_pipelines.raw.decisions import TABLE_OF, count_rows, last_loaded
from fraud_pipelines.raw.feedback import pending_verdicts

WARN = dg.AssetCheckSeverity.WARN
_LABEL_WINDOW = "l.known_at >= :since and l.known_at < :until"


@dg.asset_check(asset=keys.TRANSACTIONS, blocking=True, pool="warehouse")
def transactions_meet_their_expectations(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """Transactions of this run's days are not what every later stage takes them for: features, scores and money would
    be wrong without a sign.

    The data engineer looks at the expectation named and at the source's mapping. An expectation that could not be
    computed is reported as an error, and blocks too.
    """
    window = window_of(context)
    rows = warehouse.open().read(tables.TRANSACTIONS, columns=list(COLUMNS), since=window.since, until=window.until)
    results = run_suite(transactions_frame(rows), transactions_suite(window.since, window.until))
    errors = {item.name: item.error for item in results if item.error}
    failed = {
        item.name: {"unexpected": item.unexpected_count, "observed": item.observed}
        for item in results
        if not item.passed and not item.error
    }
    return dg.AssetCheckResult(
        passed=not failed and not errors,
        metadata={
            "days": str(window),
            "rows": len(rows),
            "expectations": len(results),
            "failed_count": len(failed),
            "error_count": len(errors),
            "limit": 0,
            "failed": dg.MetadataValue.json(failed),
            "errors": dg.MetadataValue.json(errors),
        },
    )


@dg.asset_check(asset=keys.TRANSACTIONS, blocking=True, pool="warehouse")
def card_ids_are_tokens(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A card number may stand in the warehouse, and everything that reads it is in scope of PCI DSS.

    The data engineer stops the source, deletes the rows and looks at what wrote them; security is told.
    """
    # Counts only: the value itself must not reach an event log.
    rows = warehouse.open().query(
        "select count(*) as rows, coalesce(sum(case when card_id like 'tok\\_%' escape '\\' and length(card_id) = 36 "
        f"then 0 else 1 end), 0) as bare from {tables.TRANSACTIONS.name}"
    )
    bare = int(rows["bare"].iloc[0])
    return dg.AssetCheckResult(
        passed=bare == 0, metadata={"rows": int(rows["rows"].iloc[0]), "not_tokens": bare, "limit": 0}
    )


@dg.asset_check(asset=keys.TRANSACTIONS, pool="warehouse")
def quarantined_rows_are_few(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """More rows than usual broke the contract: a field of the source has changed, or the mapping is wrong.

    The data engineer reads the reasons in raw.quarantine; the rows come in when the source or the mapping is mended
    and the file is ingested again.
    """
    store = warehouse.open()
    # Against what came in, by source: one small broken file must not hide behind years of good ones.
    rows = store.query(
        "with broken as (select ingestion_id, count(*) as broken from raw.quarantine group by ingestion_id), "
        "good as (select ingestion_id, count(*) as good from raw.transactions group by ingestion_id) "
        "select b.ingestion_id, b.broken, coalesce(g.good, 0) as good "
        "from broken b left join good g on g.ingestion_id = b.ingestion_id "
        "order by cast(b.broken as double precision) / (b.broken + coalesce(g.good, 0)) desc, b.ingestion_id"
    )
    if rows.empty:
        return dg.AssetCheckResult(
            passed=True, severity=WARN, metadata={"quarantined": 0, "share": 0.0, "limit": limits.QUARANTINED_SHARE}
        )
    worst = rows.iloc[0]
    share = float(worst["broken"]) / float(worst["broken"] + worst["good"])
    reasons = store.query(
        "select reason, count(*) as rows from raw.quarantine where ingestion_id = :id "
        "group by reason order by count(*) desc, reason limit 5",
        id=str(worst["ingestion_id"]),
    )
    return dg.AssetCheckResult(
        passed=share <= limits.QUARANTINED_SHARE,
        severity=WARN,
        metadata={
            "quarantined": int(rows["broken"].sum()),
            "share": share,
            "limit": limits.QUARANTINED_SHARE,
            "ingestion_id": str(worst["ingestion_id"]),
            "reasons": dg.MetadataValue.json(
                dict(zip(reasons["reason"], reasons["rows"].astype(int).tolist(), strict=True))
            ),
        },
    )


@dg.asset_check(asset=keys.LABELS, blocking=True, pool="warehouse")
def no_label_precedes_its_transaction(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """A label is said to be known before its transaction happened: features and training would look into the future.

    The data engineer looks at the source's clock and at the time zone of the mapping.
    """
    since, until = window_of(context)
    return _counted(
        warehouse,
        "select count(*) as rows, coalesce(sum(case when l.known_at < l.event_time "
        "or l.known_at < t.event_time then 1 else 0 end), 0) as wrong "
        f"from raw.labels l left join raw.transactions t on t.transaction_id = l.transaction_id where {_LABEL_WINDOW}",
        "too_early",
        since,
        until,
    )


@dg.asset_check(asset=keys.LABELS, pool="warehouse")
def labels_have_transactions(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """Labels speak of transactions that are not in the warehouse, or of another time of theirs: they teach nothing.

    The data engineer looks for a source that was not ingested, or for rows in quarantine.
    """
    since, until = window_of(context)
    return _counted(
        warehouse,
        "select count(*) as rows, coalesce(sum(case when t.transaction_id is null "
        "or t.event_time <> l.event_time then 1 else 0 end), 0) as wrong "
        f"from raw.labels l left join raw.transactions t on t.transaction_id = l.transaction_id where {_LABEL_WINDOW}",
        "without_transaction",
        since,
        until,
    )


@dg.asset_check(asset=keys.LABELS, pool="warehouse")
def every_verdict_is_a_label(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Analysts judged transactions, and nothing learns from it: the warehouse has not seen them, or the verdict was
    given before the payment says it happened.

    The data engineer looks for a source that was not ingested, and for a payment system whose clock is ahead.
    """
    with warehouse.open().session() as session:
        pending = pending_verdicts(session)
    return dg.AssetCheckResult(
        passed=pending.waiting + pending.too_early + pending.loadable == 0,
        severity=WARN,
        metadata={
            "without_transaction": pending.waiting,
            "before_transaction": pending.too_early,
            "not_loaded_yet": pending.loadable,
            "limit": 0,
        },
    )


@dg.asset_check(asset=keys.DECISIONS, pool="warehouse")
def each_decision_is_there_once(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A decision stands in more than one day: every count of decisions is too high.

    The data engineer materializes raw/decisions for the days between the two moments.
    """
    return _unique("decisions", warehouse)


@dg.asset_check(asset=keys.DECISIONS, pool="warehouse")
def decisions_match_the_ledger(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """Decisions answered in this run's days are missing from the warehouse, or some there were never answered.

    The data engineer materializes raw/decisions for these days again; if they still differ, was the ledger restored?
    """
    return _matches("decisions", context, warehouse, ledger)


@dg.asset_check(asset=keys.FEEDBACK, pool="warehouse")
def each_feedback_is_there_once(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Feedback stands in more than one day: verdicts are counted twice.

    The data engineer materializes raw/feedback for the days between the two moments.
    """
    return _unique("feedback", warehouse)


@dg.asset_check(asset=keys.FEEDBACK, pool="warehouse")
def feedback_matches_the_ledger(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """Feedback of this run's days is missing from the warehouse: what analysts know does not reach the next model.

    The data engineer materializes raw/feedback for these days again; if they still differ, was the ledger restored?
    """
    return _matches("feedback", context, warehouse, ledger)


def _unique(log: Log, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    table = TABLE_OF[log]
    counts = warehouse.open().query(
        f"select count(*) as rows, count(distinct {table.key[0]}) as keys from {table.name}"
    )
    rows, keys_ = int(counts["rows"].iloc[0]), int(counts["keys"].iloc[0])
    return dg.AssetCheckResult(passed=rows == keys_, metadata={"rows": rows, "repeated": rows - keys_, "limit": 0})


def _matches(
    log: Log, context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    window = window_of(context)
    with warehouse.open().session() as session:
        in_warehouse = count_rows(session, log, window.since, window.until)
        # What arrived since the load is the next one's.
        through = last_loaded(session, log)
    in_ledger = ledger.open().count(log, window.since, window.until, through=through)
    return dg.AssetCheckResult(
        passed=in_ledger == in_warehouse,
        metadata={
            "days": str(window),
            "in_ledger": in_ledger,
            "in_warehouse": in_warehouse,
            "difference": in_ledger - in_warehouse,
            "limit": 0,
        },
    )


def _counted(
    warehouse: WarehouseResource, sql: str, what: str, since: datetime, until: datetime
) -> dg.AssetCheckResult:
    """A check that passes when the query's `wrong` is 0; `rows` is how many labels it looked at."""
    counts = warehouse.open().query(sql, since=since, until=until).iloc[0]
    wrong = int(counts["wrong"])
    return dg.AssetCheckResult(passed=wrong == 0, metadata={"labels": int(counts["rows"]), what: wrong, "limit": 0})
