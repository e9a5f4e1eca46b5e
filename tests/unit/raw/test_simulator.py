"""The simulated world: reproducible, plausible, ingestible."""

import re
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.raw.ingestion import ingest
from fraud_pipelines.raw.simulator import SimulationConfig, simulate, write
from fraud_pipelines.raw.tokens import TOKEN, passes_luhn
from fraud_pipelines.warehouse import open_warehouse

SMALL = SimulationConfig(days=40, cards=500, merchants=300)
DRIFT_DAY = SMALL.start + timedelta(days=20)


@pytest.fixture(scope="module")
def world():
    return simulate(SimulationConfig())


def test_the_default_world_is_about_what_was_asked_for(world):
    rows = world.transactions
    assert len(rows) == pytest.approx(150_000, rel=0.02)
    assert 0.005 <= rows["is_fraud"].mean() <= 0.01
    assert rows["occurred_at"].min() >= pd.Timestamp("2026-06-01")
    assert rows["occurred_at"].max() < pd.Timestamp("2026-06-01") + timedelta(days=90)
    assert rows["occurred_at"].is_monotonic_increasing
    assert rows["transaction_id"].is_unique


def test_a_small_world_keeps_its_fraud_share():
    rows = simulate(SimulationConfig(days=10, cards=50, merchants=100)).transactions
    assert rows["is_fraud"].sum() == 3  # 10 days, 50 cards, 0.8333 a day: 417 transactions, 0.75 % of them


def test_every_scenario_occurs_in_every_month(world):
    frauds = world.transactions[world.transactions["is_fraud"]]
    month = (frauds["occurred_at"] - frauds["occurred_at"].min()).dt.days // 31
    counts = pd.crosstab(month, frauds["scenario"])
    assert set(counts.columns) == {
        "card_testing",
        "account_takeover",
        "compromised_merchant",
        "stolen_card",
        "bust_out",
    }
    assert (counts.head(3) > 0).all().all()


def test_genuine_labels_mature_and_frauds_are_known_before(world):
    rows = world.transactions
    delay = rows["label_known_at"] - rows["occurred_at"]
    assert (delay[~rows["is_fraud"]] == timedelta(days=7)).all()
    assert (delay[rows["is_fraud"]] < timedelta(days=7)).all()
    assert (delay[rows["is_fraud"]] > timedelta(0)).all()
    assert set(rows.loc[rows["is_fraud"], "label_source"]) == {"chargeback", "analyst"}


def test_card_numbers_are_invented_but_valid(world):
    numbers = world.transactions["card_number"].unique()
    assert len(numbers) > 1900
    assert all(len(number) == 16 and passes_luhn(number) for number in numbers)


def test_no_single_value_gives_fraud_away(world):
    """Each raw column alone, binned or as categories, with the fraud share of its own bins as the score."""
    rows = world.transactions
    columns = ["category", "channel", "country", "merchant"]
    bins = {name: rows[name] for name in columns}
    bins["amount"] = pd.qcut(rows["amount"], 200, duplicates="drop")
    bins["hour"] = rows["occurred_at"].dt.hour
    bins["has_device"] = rows["device"].notna()
    fraud = rows["is_fraud"].to_numpy()
    for name, values in bins.items():
        score = rows.groupby(values.to_numpy(), observed=True)["is_fraud"].transform("mean").to_numpy()
        order = np.argsort(-score, kind="stable")
        precision = np.cumsum(fraud[order]) / np.arange(1, len(fraud) + 1)
        assert (precision * fraud[order]).sum() / fraud.sum() < 0.25, name


def test_customer_attributes_have_no_say_in_fraud(world):
    rows = world.transactions.merge(world.customers, on="customer")
    shares = rows.groupby("age_band")["is_fraud"].mean()
    assert shares.max() / shares.min() < 2.5  # 20 to 30 incidents a group: chance alone gives up to a factor of 2


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(simulate(SMALL), tmp_path / name)
    for file in ("transactions.parquet", "customers.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_another_seed_gives_another_world():
    one, two = simulate(SMALL), simulate(SimulationConfig(days=40, cards=500, merchants=300, seed=8))
    assert not set(one.transactions["card_number"]) & set(two.transactions["card_number"])
    assert not set(one.transactions["transaction_id"]) & set(two.transactions["transaction_id"])


@pytest.mark.parametrize("kinds", [("amounts",), ("mix",), ("fraud_pattern",), ("amounts", "mix", "fraud_pattern")])
def test_before_the_drift_nothing_differs(kinds):
    plain = simulate(SMALL).transactions
    shifted = simulate(replace(SMALL, drift_from=DRIFT_DAY, drift_kinds=kinds)).transactions
    before = [rows[rows["occurred_at"] < pd.Timestamp(DRIFT_DAY)] for rows in (plain, shifted)]
    pd.testing.assert_frame_equal(*before)
    after = [rows[rows["occurred_at"] >= pd.Timestamp(DRIFT_DAY)] for rows in (plain, shifted)]
    assert not set(after[0]["transaction_id"]) & set(after[1]["transaction_id"])
    genuine = [rows[~rows["is_fraud"]] for rows in after]
    if "amounts" in kinds:
        factor = genuine[1]["amount"].mean() / genuine[0]["amount"].mean()
        assert factor > 1.25
    if "mix" in kinds:
        online = [(rows["channel"] == "online").mean() for rows in genuine]
        assert online[1] - online[0] > 0.12
    if "fraud_pattern" in kinds:
        assert set(after[1]["scenario"].dropna()) == {"account_takeover", "compromised_merchant"}
        assert "card_testing" in set(after[0]["scenario"].dropna())


@pytest.mark.parametrize(
    "change", [{"days": 41}, {"cards": 501}, {"merchants": 301}, {"fraud_share": 0.01}, {"maturity_days": 8}]
)
def test_another_configuration_gives_other_identifiers(change):
    one, two = simulate(SMALL), simulate(replace(SMALL, **change))
    assert not set(one.transactions["transaction_id"]) & set(two.transactions["transaction_id"])


def test_a_drift_that_never_comes_changes_no_identifier():
    assert replace(SMALL, drift_kinds=("mix",)).digest == replace(SMALL, drift_kinds=()).digest == SMALL.digest
    assert replace(SMALL, drift_from=DRIFT_DAY).digest != SMALL.digest


def test_no_simulated_name_can_be_taken_for_a_card_number(world):
    """Not by luck: without its last number no name holds a digit run of 13, whatever separates the digits."""
    rows = world.transactions
    for name in ("transaction_id", "device", "customer", "merchant"):
        for value in rows[name].dropna().unique():
            longest = max(re.split("[A-Za-z]+", re.sub("[^0-9A-Za-z]", "", value)), key=len)
            assert len(longest) < 13, value


def test_what_is_written_is_what_is_ingested(tmp_path):
    world = simulate(SMALL)
    folder = write(world, tmp_path / "sim")
    warehouse = open_warehouse(f"duckdb:///{tmp_path / 'w.duckdb'}")
    ledger = open_ledger(f"sqlite:///{tmp_path / 'l.sqlite'}")
    loaded = ingest(folder, "simulator", warehouse=warehouse, ledger=ledger, token_key=b"k" * 32)
    assert loaded.ingestion.rows_quarantined == 0
    assert loaded.new_transactions == loaded.new_labels == len(world.transactions)
    assert loaded.new_customers == len(world.customers)
    rows = warehouse.read(tables.TRANSACTIONS).sort_values("transaction_id", ignore_index=True)
    assert rows["amount_minor"].tolist() == (world.transactions["amount"] * 100).round().astype(int).tolist()
    assert rows["card_id"].nunique() == world.transactions["card_number"].nunique()
    assert all(TOKEN.fullmatch(card) for card in rows["card_id"].unique())
    assert "scenario" not in rows.columns
    labels = warehouse.read(tables.LABELS).sort_values("transaction_id", ignore_index=True)
    assert labels["is_fraud"].tolist() == world.transactions["is_fraud"].tolist()
    assert labels["known_at"].tolist() == world.transactions["label_known_at"].tolist()


def test_the_number_of_transactions_asked_for_is_met():
    rows = simulate(SimulationConfig(transactions=300_000, cards=4_000)).transactions
    assert len(rows) == pytest.approx(300_000, rel=0.02)


@pytest.mark.parametrize(
    "wrong",
    [{"days": 0}, {"cards": 1}, {"fraud_share": 0.5}, {"drift_kinds": ("sideways",)}, {"drift_from": date(2027, 1, 1)}],
)
def test_a_world_that_cannot_be_is_refused(wrong):
    with pytest.raises(SettingInvalid, match="expected"):
        SimulationConfig(**wrong)
