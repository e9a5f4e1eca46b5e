"""One more entry in the spec is one more feature, in every engine, with no other change."""

from datetime import timedelta

import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.features.online import OnlineEngine
from fraud_pipelines.features.reference import reference_features
from fraud_pipelines.features.spec import SPEC_PATH, load_spec, parse_spec
from tests.dbt_runs import DbtRun, feature_rows, loaded_warehouse
from tests.everything import project_with
from tests.histories import START, online_history, scored, simulated_history

# As docs/adding-a-feature.md says: appended to the list of columns, which ends the file.
ENTRIES = """
      - name: merchant_count_3h
        data_type: bigint
        description: Transactions at the merchant in the 3 hours before.
        config: {meta: {entity: merchant, measure: count, of: transactions, window: 3h, resolution: event, unit: transactions, when_empty: zero, reason: ACTIVITY_AT_MERCHANT}}
      - name: card_devices_30d
        data_type: bigint
        description: Different devices of the card's transactions in the 30 days before.
        config: {meta: {entity: card, measure: distinct, of: device, window: 30d, resolution: event, unit: devices, when_empty: missing, reason: DEVICE_FOR_CARD}}
"""  # noqa: E501
ADDED = ("merchant_count_3h", "card_devices_30d")
SPEC = load_spec()
LONGER = parse_spec(SPEC.text.rstrip("\n") + ENTRIES)


def as_read(values):
    """A row of the reference as pandas reads it."""
    return {id_: [float("nan") if row[name] is None else row[name] for name in ADDED] for id_, row in values.items()}


def test_an_entry_becomes_a_column_of_the_table_that_is_there(tmp_path):
    payments, verdicts = simulated_history(payments=300, cards=6, merchants=2, days=40)
    url = f"duckdb:///{tmp_path / 'warehouse.duckdb'}"
    warehouse = loaded_warehouse(url, payments, verdicts)
    run = DbtRun(url, tmp_path, project=project_with(LONGER, tmp_path))
    run("run")
    for name in ADDED:  # the table as the shorter spec made it
        warehouse.execute(f"alter table {tables.TRANSACTION_FEATURES} drop column {name}")
    before = feature_rows(warehouse)
    assert tuple(before.columns)[-len(SPEC.names) :] == SPEC.names
    since = START + timedelta(days=30)
    run("run", since=since, until=START + timedelta(days=40))
    found = feature_rows(warehouse)
    # Days that were not run again are as they were, without a value for the new features.
    pd.testing.assert_frame_equal(found[list(before.columns)], before, check_exact=True)
    is_run = found["event_time"] >= since
    assert found.loc[~is_run, list(ADDED)].isna().all(axis=None)

    expected = pd.DataFrame.from_dict(
        as_read(reference_features(payments, verdicts, LONGER)), "index", columns=list(ADDED)
    )
    expected = expected.sort_index()
    pd.testing.assert_frame_equal(
        found.loc[is_run, list(ADDED)], expected[is_run], check_dtype=False, check_names=False
    )


def test_the_service_computes_it_too():
    payments, verdicts = simulated_history(payments=100, cards=2, merchants=2, days=10)
    expected = reference_features(payments, verdicts, LONGER)
    for payment in payments:
        vector = OnlineEngine(LONGER).vector(scored(payment), online_history(payments, verdicts, payment))
        assert tuple(vector) == (*SPEC.names, *ADDED)
        assert [vector[name] for name in ADDED] == [expected[payment.transaction_id][name] for name in ADDED]
    assert SPEC_PATH.read_text(encoding="utf-8") == SPEC.text
