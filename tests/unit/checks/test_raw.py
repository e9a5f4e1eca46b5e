"""Checks of the raw stage on a good warehouse and on one broken in one way at a time."""

from datetime import datetime, timedelta

import dagster as dg
import pandas as pd
import pytest

from checks import raw as raw_checks
from fraud_pipelines import limits, tables
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions
from fraud_pipelines.orchestration.resources import WarehouseResource
from fraud_pipelines.warehouse import open_warehouse

DAY = datetime(2026, 6, 3)
TOKEN = "tok_" + "0a" * 16


@pytest.fixture
def url(tmp_path):
    return f"duckdb:///{tmp_path / 'warehouse.duckdb'}"


def transactions(count=4, **changes):
    rows = pd.DataFrame(
        {
            "transaction_id": [f"t{number}" for number in range(count)],
            "event_time": [DAY + timedelta(hours=6 * number) for number in range(count)],
            "card_id": TOKEN,
            "merchant_id": "m1",
            "amount_minor": 1250,
            "currency": "EUR",
            "source": "test",
            "ingestion_id": "ing_1",
        }
    )
    return rows.assign(**changes)


def labels(rows, delay=timedelta(hours=1), **changes):
    known = pd.DataFrame(
        {
            "transaction_id": rows["transaction_id"],
            "event_time": rows["event_time"],
            "known_at": rows["event_time"] + delay,
            "is_fraud": False,
            "label_source": "file",
            "ingestion_id": "ing_1",
        }
    )
    return known.assign(**changes)


def fill(url, rows, known=None):
    with open_warehouse(url).session() as session:
        session.insert_new(tables.TRANSACTIONS, rows)
        session.insert_new(tables.LABELS, labels(rows) if known is None else known)


def run(url, check, *, first="2026-06-01", last="2026-06-05"):
    """The evaluation of one check in a run over a range of days, as a backfill makes it."""

    @dg.multi_asset(
        specs=[dg.AssetSpec(key, partitions_def=daily_partitions) for key in (keys.TRANSACTIONS, keys.LABELS)],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def stand_in():
        for key in (keys.TRANSACTIONS, keys.LABELS):
            yield dg.MaterializeResult(asset_key=key)

    @dg.asset(deps=[keys.TRANSACTIONS], partitions_def=daily_partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def downstream() -> None: ...

    defs = dg.Definitions(
        assets=[stand_in, downstream], asset_checks=[check], resources={"warehouse": WarehouseResource(url=url)}
    )
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=dg.DagsterInstance.ephemeral(),
        raise_on_error=False,
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )
    (evaluation,) = result.get_asset_check_evaluations()
    ran_downstream = any(
        event.asset_key == dg.AssetKey("downstream") for event in result.get_asset_materialization_events()
    )
    return evaluation, {name: value.value for name, value in evaluation.metadata.items()}, ran_downstream


def test_good_transactions_meet_their_expectations(url):
    fill(url, transactions())
    evaluation, metadata, ran_downstream = run(url, raw_checks.transactions_meet_their_expectations)
    assert evaluation.passed
    assert metadata["rows"] == 4
    assert metadata["expectations"] == 12  # row count, 6 not null, unique, 2 ranges, 2 on currency; no channel
    assert ran_downstream


def test_two_currencies_block_what_comes_after(url):
    fill(url, transactions(currency=["EUR", "EUR", "USD", "EUR"]))
    evaluation, metadata, ran_downstream = run(url, raw_checks.transactions_meet_their_expectations)
    assert not evaluation.passed
    assert list(metadata["failed"]) == ["expect_column_unique_value_count_to_be_between(currency)"]
    assert not ran_downstream


def test_every_check_takes_its_turn_at_the_warehouse():
    checks = [item for item in vars(raw_checks).values() if isinstance(item, dg.AssetChecksDefinition)]
    assert {item.op.pool for item in checks} == {"warehouse"}
    assert len(checks) == 10


def test_a_negative_amount_blocks_what_comes_after(url):
    fill(url, transactions(amount_minor=[100, -1, 200, 300]))
    evaluation, metadata, ran_downstream = run(url, raw_checks.transactions_meet_their_expectations)
    assert not evaluation.passed
    failed = metadata["failed"]
    assert list(failed) == ["expect_column_values_to_be_between(amount_minor)"]
    assert failed["expect_column_values_to_be_between(amount_minor)"]["unexpected"] == 1
    assert metadata["error_count"] == 0
    assert not ran_downstream


def test_the_suite_looks_at_the_days_of_its_run_only(url):
    fill(url, transactions(amount_minor=[100, -1, 200, 300]))  # all on 2026-06-03
    evaluation, metadata, _ = run(
        url, raw_checks.transactions_meet_their_expectations, first="2026-06-04", last="2026-06-05"
    )
    assert not evaluation.passed  # no rows at all: never an empty success
    assert list(metadata["failed"]) == ["expect_table_row_count_to_be_between"]
    assert metadata["rows"] == 0


def test_an_expectation_that_cannot_be_computed_is_an_error_and_not_a_failure():
    frame = raw_checks.transactions_frame(transactions(channel=None, country=None)).drop(columns="merchant_id")
    since, until = DAY, DAY + timedelta(days=1)
    results = raw_checks.run_suite(frame, raw_checks.transactions_suite(since, until)[:5])
    errors = [item for item in results if item.error]
    assert [item.name for item in errors] == ["expect_column_values_to_not_be_null(merchant_id)"]
    assert "does not exist" in errors[0].error


def test_an_expectation_that_cannot_be_computed_blocks_what_comes_after(url, monkeypatch):
    import great_expectations.expectations as gxe

    fill(url, transactions())
    about_nothing = [gxe.ExpectColumnValuesToNotBeNull(column="no_such_column")]
    monkeypatch.setattr(raw_checks, "transactions_suite", lambda since, until: about_nothing)
    evaluation, metadata, ran_downstream = run(url, raw_checks.transactions_meet_their_expectations)
    assert not evaluation.passed
    assert not ran_downstream
    assert (metadata["failed_count"], metadata["error_count"]) == (0, 1)
    assert list(metadata["errors"]) == ["expect_column_values_to_not_be_null(no_such_column)"]


# Every column has a value, and each bound of the suite is met by a row exactly.
WHOLE = {
    "event_time": [DAY, DAY + timedelta(hours=6), DAY + timedelta(hours=12), DAY + timedelta(days=1, microseconds=-1)],
    "amount_minor": [0, 1250, 1250, limits.LARGEST_AMOUNT_MINOR],
    "channel": "pos",
    "country": "DE",
    "home_latitude": [90.0, 1.0, 1.0, -90.0],
    "home_longitude": [180.0, 1.0, 1.0, -180.0],
    "merchant_latitude": [90.0, 1.0, 1.0, -90.0],
    "merchant_longitude": [180.0, 1.0, 1.0, -180.0],
}


def failing(rows):
    frame = raw_checks.transactions_frame(rows)
    found = raw_checks.run_suite(frame, raw_checks.transactions_suite(DAY, DAY + timedelta(days=1)))
    assert [item.error for item in found if item.error] == []
    return [item.name for item in found if not item.passed]


def test_values_on_the_bounds_meet_every_expectation():
    assert failing(transactions(**WHOLE)) == []


@pytest.mark.parametrize(
    ("column", "value", "expectation"),
    [
        ("event_time", DAY - timedelta(microseconds=1), "expect_column_values_to_be_between(event_time_us)"),
        ("event_time", DAY + timedelta(days=1), "expect_column_values_to_be_between(event_time_us)"),
        ("amount_minor", -1, "expect_column_values_to_be_between(amount_minor)"),
        ("amount_minor", limits.LARGEST_AMOUNT_MINOR + 1, "expect_column_values_to_be_between(amount_minor)"),
        ("currency", "USD", "expect_column_unique_value_count_to_be_between(currency)"),
        ("channel", "telex", "expect_column_distinct_values_to_be_in_set(channel)"),
        ("country", "DEU", "expect_column_value_lengths_to_equal(country)"),
        ("home_latitude", 90.5, "expect_column_values_to_be_between(home_latitude)"),
        ("home_longitude", -180.5, "expect_column_values_to_be_between(home_longitude)"),
        ("merchant_latitude", -90.5, "expect_column_values_to_be_between(merchant_latitude)"),
        ("merchant_longitude", 180.5, "expect_column_values_to_be_between(merchant_longitude)"),
        ("transaction_id", "t0", "expect_column_values_to_be_unique(transaction_id)"),
        ("transaction_id", None, "expect_column_values_to_not_be_null(transaction_id)"),
        ("card_id", None, "expect_column_values_to_not_be_null(card_id)"),
        ("merchant_id", None, "expect_column_values_to_not_be_null(merchant_id)"),
        ("amount_minor", None, "expect_column_values_to_not_be_null(amount_minor)"),
        ("currency", None, "expect_column_values_to_not_be_null(currency)"),
    ],
)
def test_each_expectation_fails_by_itself(column, value, expectation):
    rows = transactions(**WHOLE)
    rows[column] = [rows[column][0], value, *rows[column][2:]]
    assert failing(rows) == [expectation]


def test_a_currency_that_no_feature_can_take_is_noticed_in_every_row():
    assert failing(transactions(**WHOLE, currency="EURO")) == ["expect_column_distinct_values_to_be_in_set(currency)"]


def test_a_bare_card_number_is_noticed_and_not_repeated(url):
    fill(url, transactions(card_id=[TOKEN, TOKEN, "4111111111111111", TOKEN]))
    evaluation, metadata, ran_downstream = run(url, raw_checks.card_ids_are_tokens)
    assert not evaluation.passed
    assert not ran_downstream
    assert metadata == {"rows": 4, "not_tokens": 1, "limit": 0}


def test_tokens_pass(url):
    fill(url, transactions())
    assert run(url, raw_checks.card_ids_are_tokens)[0].passed


def quarantine(count):
    return pd.DataFrame(
        {
            "ingestion_id": "ing_1", "source_file": "a.csv", "source_row": range(count), "transaction_id": None,
            "reason": "amount: expected a value, found nothing", "row_json": "{}",
        }
    )  # fmt: skip


def test_one_row_in_four_thousand_in_quarantine_is_few(url):
    rows = transactions(3999, event_time=DAY)
    fill(url, rows)
    open_warehouse(url).upsert(tables.QUARANTINE, quarantine(1))
    evaluation, metadata, _ = run(url, raw_checks.quarantined_rows_are_few)
    assert evaluation.passed
    assert metadata["share"] == pytest.approx(1 / 4000)


def test_one_row_in_five_in_quarantine_is_not_few(url):
    fill(url, transactions(4))
    open_warehouse(url).upsert(tables.QUARANTINE, quarantine(1))
    evaluation, metadata, _ = run(url, raw_checks.quarantined_rows_are_few)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert metadata["share"] == pytest.approx(0.2)
    assert metadata["limit"] == limits.QUARANTINED_SHARE
    assert metadata["reasons"] == {"amount: expected a value, found nothing": 1}


def test_an_empty_quarantine_passes(url):
    fill(url, transactions())
    assert run(url, raw_checks.quarantined_rows_are_few)[0].passed


def test_a_label_before_its_transaction_is_noticed(url):
    rows = transactions()
    known = labels(rows)
    known.loc[2, "known_at"] = rows.loc[2, "event_time"] - timedelta(microseconds=1)
    fill(url, rows, known)
    evaluation, metadata, _ = run(url, raw_checks.no_label_precedes_its_transaction)
    assert not evaluation.passed
    assert metadata["too_early"] == 1


def test_a_label_at_the_moment_of_its_transaction_is_fine(url):
    rows = transactions()
    fill(url, rows, labels(rows, timedelta(0)))
    evaluation, metadata, _ = run(url, raw_checks.no_label_precedes_its_transaction)
    assert evaluation.passed
    assert metadata["labels"] == 4


def test_a_label_without_its_transaction_is_noticed(url):
    rows = transactions()
    fill(url, rows.head(3), labels(rows))
    evaluation, metadata, _ = run(url, raw_checks.labels_have_transactions)
    assert not evaluation.passed
    assert metadata["without_transaction"] == 1


@pytest.mark.parametrize(
    ("event", "known"),
    [
        (timedelta(days=-1), timedelta(hours=-1)),  # known before the transaction, not before its own event time
        (timedelta(hours=2), timedelta(hours=1)),  # known before its own event time, not before the transaction
    ],
)
def test_labels_with_another_event_time_than_their_transactions_are_noticed(url, event, known):
    rows = transactions()
    fill(url, rows, labels(rows).assign(event_time=rows["event_time"] + event, known_at=rows["event_time"] + known))
    evaluation, metadata, _ = run(url, raw_checks.no_label_precedes_its_transaction)
    assert not evaluation.passed
    assert metadata["too_early"] == 4
    evaluation, metadata, _ = run(url, raw_checks.labels_have_transactions)
    assert not evaluation.passed
    assert metadata["without_transaction"] == 4


def test_labels_of_known_transactions_pass(url):
    fill(url, transactions())
    assert run(url, raw_checks.labels_have_transactions)[0].passed
