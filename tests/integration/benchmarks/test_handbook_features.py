"""The baseline computes what the handbook publishes, so its time is that of the handbook's features."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.handbook_features import OURS, customer_features, flags, measure, terminal_features
from benchmarks.sources import HANDBOOK
from fraud_pipelines.features.spec import load_spec

PUBLISHED = HANDBOOK.with_name("published_features_2018-08-08_to_14.parquet")

needs_the_handbook = pytest.mark.skipif(
    not HANDBOOK.exists(), reason="the handbook's reference data is not beside the project (../shared/data/handbook)"
)


@pytest.fixture(scope="module")
def published():
    return pq.read_table(PUBLISHED).to_pandas().set_index("TRANSACTION_ID").sort_index()


def rows_of(key, identifiers):
    """The handbook's transactions of a few customers or terminals."""
    table = pq.read_table(HANDBOOK)
    chosen = table.filter(pc.is_in(table[key].cast("string"), value_set=pc.cast(identifiers, "string")))
    return chosen.to_pandas().sort_values("TX_DATETIME")


def week_of(features, published):
    """Computed features of the published week, in its order."""
    return features[features["TRANSACTION_ID"].isin(published.index)].set_index("TRANSACTION_ID").sort_index()


@needs_the_handbook
def test_customers_as_published(published):
    computed = week_of(customer_features(rows_of("CUSTOMER_ID", list(range(0, 5_000, 250)))), published)
    assert len(computed) > 150
    for days in (1, 7, 30):
        expected = published.loc[computed.index]
        count, mean = f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW", f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"
        assert (computed[count] == expected[count]).all()
        assert np.allclose(computed[mean], expected[mean], rtol=0, atol=1e-9)


@needs_the_handbook
def test_terminals_and_flags_as_published(published):
    computed = week_of(flags(terminal_features(rows_of("TERMINAL_ID", list(range(0, 10_000, 300))))), published)
    assert len(computed) > 150
    expected = published.loc[computed.index]
    names = [f"TERMINAL_ID_{what}_{days}DAY_WINDOW" for what in ("NB_TX", "RISK") for days in (1, 7, 30)]
    for name in [*names, "TX_DURING_WEEKEND", "TX_DURING_NIGHT"]:
        assert np.allclose(computed[name], expected[name], rtol=0, atol=1e-12), name


def test_ours_are_fifteen_features_of_the_spec():
    assert len(set(OURS)) == 15
    assert set(OURS) <= set(load_spec().names)


@needs_the_handbook
def test_the_measurement_takes_whole_groups():
    rows = rows_of("CUSTOMER_ID", [0, 1, 2, 3])
    found = measure(rows, customers=2, terminals=5)
    assert (found.customers, found.terminals) == (2, 5)
    counts = rows["CUSTOMER_ID"].value_counts()
    assert found.customer_rows in {a + b for a in counts for b in counts}
    assert found.cpu_us_per_row == pytest.approx(
        found.flags_us_per_row + found.customers_us_per_row + found.terminals_us_per_row
    )
    assert min(found.customers_us_per_row, found.terminals_us_per_row) > 0
