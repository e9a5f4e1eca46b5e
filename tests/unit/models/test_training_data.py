"""The facts about the days behind a training set, one broken row at a time, on both warehouses."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.models.training_data import broken_facts, judged_window
from fraud_pipelines.warehouse import Warehouse, open_warehouse
from tests.builders import fill_warehouse, in_microseconds, label, payment

SPEC = load_spec()
# Training 2026-03-01 to 14, a delay of 2 days, test 2026-03-17 to 23, a delay again.
SPLIT = TimeSplit(datetime(2026, 3, 26), train_days=14, validation_days=4, test_days=7, label_delay_days=2)
CARD = "tok_" + "0a" * 16


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    if request.param == "duckdb":
        return open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    return open_warehouse(request.getfixturevalue("fresh_postgres_url"))


def found(warehouse: Warehouse) -> dict[str, int]:
    with warehouse.session() as session:
        return {name: count for name, count in broken_facts(session, SPLIT, SPEC).items() if count}


def fill(warehouse: Warehouse, *changed: dict, without_features: tuple[str, ...] = ()) -> None:
    sound = [payment(f"s{day}", f"2026-03-{day:02d} 12:00", card_id=CARD, country="DE") for day in (1, 14, 16, 17, 23)]
    labels = [label("s1", "2026-03-01 12:00", "2026-03-01 12:00"), label("s23", "2026-03-23 12:00", "2026-03-25")]
    fill_warehouse(warehouse, SPEC, [*sound, *changed], labels, without_features=without_features)


def test_the_windows_and_what_their_features_look_back_on_are_judged():
    since, until = judged_window(SPLIT, SPEC)
    # 14 days of unusually large amounts, each against the 30 days before it.
    assert (datetime(2026, 3, 1) - since).days == 44
    assert until == datetime(2026, 3, 24)


def test_each_broken_fact_is_counted_by_its_name(warehouse):
    at = "2026-03-10 12:00"
    fill(
        warehouse,
        payment("number", at, card_id="4111111111111111"),
        payment("not hex", at, card_id="tok_" + "g" * 32),
        payment("upper case", at, card_id="tok_" + "A" * 32),
        payment("negative", at, card_id=CARD, amount_minor=-1),
        payment("too much", at, card_id=CARD, amount_minor=3_000_000_001),
        payment("free", at, card_id=CARD, amount_minor=0),
        payment("largest", at, card_id=CARD, amount_minor=3_000_000_000),
        payment("no such money", at, card_id=CARD, currency="XQX"),
        payment("no such channel", at, card_id=CARD, channel="fax"),
        payment("no such country", at, card_id=CARD, country="DEU"),
        payment("beyond the pole", at, card_id=CARD, home_latitude=90.5, merchant_longitude=-180.0),
        payment("early label", at, card_id=CARD),
        payment("in the delay", "2026-03-15 12:00", card_id=CARD),
        payment("unseen", "2026-03-11 12:00", card_id=CARD),
        without_features=("unseen", "in the delay"),
    )
    early = pd.DataFrame([label("early label", at, "2026-03-10 11:59:59.999999")])
    warehouse.upsert(tables.LABELS, in_microseconds(early))
    assert found(warehouse) == {
        "card_id_is_no_token": 3,
        "amount_out_of_range": 2,
        "currency_unknown": 1,
        "channel_unknown": 1,
        "country_is_no_code": 1,
        "home_latitude_out_of_range": 1,
        "label_precedes_its_transaction": 1,
        "transaction_without_features": 1,
    }


def test_rows_that_no_feature_of_the_windows_reaches_do_not_count(warehouse):
    since, until = judged_window(SPLIT, SPEC)
    fill(
        warehouse,
        payment("first", str(since), amount_minor=-1),
        payment("after", str(until), card_id=CARD, amount_minor=-1),
    )
    assert found(warehouse) == {"card_id_is_no_token": 1, "amount_out_of_range": 1}
    warehouse.execute(
        f"update {tables.TRANSACTIONS.name} set event_time = :moment where transaction_id = 'first'",
        moment=since - timedelta(microseconds=1),
    )
    assert found(warehouse) == {}
