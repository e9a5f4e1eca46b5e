"""Replaying a policy on decisions that the real scoring code made, in a real ledger, beside a real warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample, MissingPartition, NoChampion
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.ledger import Ledger, Promotion, open_ledger
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.policy import CostMatrix, PolicyBasis, ReviewCapacity, Thresholds
from fraud_pipelines.models.replay import LIVE, Replay, replay
from fraud_pipelines.models.replay_summary import Summary, flips, money, summarize
from fraud_pipelines.models.replay_view import show
from fraud_pipelines.progress import listening
from fraud_pipelines.warehouse import Warehouse, open_warehouse
from serving.schemas import Transaction
from tests.builders import fill_warehouse, label
from tests.builders import payment as warehouse_row
from tests.served_models import payment, tiny_bundle
from tests.workers import Host, saved_champion

SPEC = load_spec()
SINCE, UNTIL = datetime(2025, 3, 1), datetime(2025, 3, 4)
AMOUNTS = np.round(np.random.default_rng(3).uniform(1, 1000, 240), 2)
BASIS = PolicyBasis(CostMatrix(), ReviewCapacity(per_day=5), 5.0, datetime(2025, 2, 1), datetime(2025, 2, 8), 7000, 50)


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    """Version 7 and its successor, which was trained on other rows and blocks earlier."""
    return {
        "7": replace(tiny_bundle(noise=300), policy=BASIS),
        "8": replace(tiny_bundle(noise=300, seed=1, review=0.2, block=0.6), policy=BASIS),
    }


def moment_of(number: int) -> datetime:
    return SINCE + timedelta(minutes=15 * number)


def served(number: int) -> Transaction:
    body = payment(
        transaction_id=f"t{number}",
        event_time=f"{moment_of(number).isoformat()}Z",
        amount=f"{AMOUNTS[number]:.2f}",
        merchant_id=f"m-{number % 5}",
        customer_id=f"k{number % 4}",
    )
    return Transaction.model_validate_json(json.dumps(body))


@pytest.fixture(scope="module")
def ledger(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """240 decisions of three days: version 7, from the third day on version 8; ten of the second without a model."""
    folder = tmp_path_factory.mktemp("served")
    host = Host(folder, as_of=SINCE)
    ledger = host.ledger
    champions = {}
    for version, bundle in bundles.items():
        champions[version] = saved_champion(bundle, folder / version, version)
    number = 0
    worker = host.worker(lambda: champions["8" if number >= 192 else "7"])
    for number in range(240):
        worker.links.no_store = 100 <= number < 110
        worker.answer(served(number).scored(b"k" * 32))
    worker.deliver()
    for version in ("7", "8"):
        ledger.record_promotion(Promotion("promote", version, None, "test", "test", []))
    yield ledger
    host.close()


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """The same transactions but for the last five, which have not been ingested yet, and twenty that nobody scored.

    Labels arrive a day later: fraud where the amount is above 500. Features are zeros, so what is scored from them
    and not from what was served is found out.
    """
    warehouse = open_warehouse(f"duckdb:///{tmp_path_factory.mktemp('warehouse') / 'warehouse.duckdb'}")
    rows = [
        warehouse_row(
            f"t{number}",
            moment_of(number).isoformat(),
            amount_minor=round(AMOUNTS[number] * 100),
            customer_id=f"k{number % 4}",
        )
        for number in range(235)
    ] + [warehouse_row(f"n{number}", f"2025-03-02T00:0{number % 10}:30", customer_id="k0") for number in range(20)]
    labels = [
        label(
            row["transaction_id"],
            row["event_time"].isoformat(),
            (row["event_time"] + timedelta(days=1)).isoformat(),
            row["amount_minor"] > 50_000,
        )
        for row in rows
    ]
    fill_warehouse(warehouse, SPEC, rows, labels)
    customers = {"customer_id": ["k0", "k1", "k2", "k3"], "gender": ["f", "f", "m", "m"], "ingestion_id": "i1"}
    with warehouse.session() as session:
        session.upsert(tables.CUSTOMERS, pd.DataFrame(customers))
    return warehouse


@pytest.fixture(scope="module")
def run(warehouse, ledger, bundles):
    def run(version: str | None = None, **options) -> Replay:
        return replay(
            warehouse, ledger, bundles.__getitem__, **{"since": SINCE, "until": UNTIL, "version": version, **options}
        )

    return run


@pytest.fixture(scope="module")
def live(run) -> Replay:
    return run(LIVE)


# What was decided comes out again


def test_replaying_the_live_policy_reproduces_the_recorded_decisions_exactly(live, ledger):
    decided = {row.transaction_id: row for row in ledger.decisions(SINCE, UNTIL)}
    assert len(decided) == len(live.rows) == 240
    assert {row.decision for row in decided.values()} == {"APPROVE", "REVIEW", "BLOCK"}
    for row in live.rows.itertuples():
        stored = decided[row.transaction_id]
        assert row.replayed == stored.decision
        if stored.fallback is None:
            assert (row.version, row.fraud_probability) == (stored.model_version, stored.fraud_probability)
    found = flips(live.rows)
    assert (found.decided, found.flipped, found.fallbacks) == (230, 0, 10)
    assert (found.rescored, found.moved) == (230, 0)


def test_one_changed_threshold_flips_exactly_the_decisions_between_the_two(run, ledger):
    changed = run(LIVE, block=0.8)
    made = [row for row in ledger.decisions(SINCE, UNTIL) if row.fallback is None]
    expected = {row.transaction_id for row in made if row.decision == "BLOCK" and row.fraud_probability < 0.8}
    assert expected
    flipped = changed.rows[changed.rows["recorded"] != changed.rows["replayed"]]
    assert set(flipped["transaction_id"]) == expected
    assert set(flipped["replayed"]) == {"REVIEW"}
    counts = flips(changed.rows).counts
    assert counts[2, 1] == len(expected) == flips(changed.rows).flipped


def test_a_threshold_equal_to_a_recorded_probability_still_decides_as_serving_would(run, ledger):
    exact = next(row for row in ledger.decisions(SINCE, UNTIL) if row.decision == "REVIEW" and not row.fallback)
    at = run(LIVE, review=0.0, block=exact.fraud_probability).rows.set_index("transaction_id")
    above = run(LIVE, review=0.0, block=float(np.nextafter(exact.fraud_probability, 1))).rows.set_index(
        "transaction_id"
    )
    assert at.loc[exact.transaction_id, "replayed"] == "BLOCK"
    assert above.loc[exact.transaction_id, "replayed"] == "REVIEW"


def test_one_version_over_the_range_flips_only_where_another_decided(run, ledger, bundles):
    result = run("7")
    assert flips(result.rows[result.rows["recorded_version"] == "7"]).flipped == 0
    others = [row for row in ledger.decisions(SINCE, UNTIL) if row.model_version == "8"]
    found = result.rows.set_index("transaction_id")
    for row in others:
        matrix = np.array([[np.nan if v is None else v for v in row.features.values()]], dtype=np.float32)
        assert found.loc[row.transaction_id, "fraud_probability"] == bundles["7"].predict(matrix)[0]
    assert flips(result.rows).flipped > 0


def test_a_version_sees_decided_and_undecided_transactions_alike(run):
    result = run()  # the champion is 8
    assert (result.version, result.thresholds) == ("8", {"8": Thresholds(0.2, 0.6)})
    assert len(result.rows) == 260
    # Ten that a fallback decided have no served values, and are in the warehouse; the five not ingested were served.
    assert int(result.rows["is_served"].sum()) == 230
    assert set(result.rows.loc[result.rows["recorded"].isna(), "transaction_id"]) == {f"n{n}" for n in range(20)}
    assert result.rows.loc[result.rows["transaction_id"] == "t239", "is_fraud"].isna().all()
    assert result.left_out == {"without features": 0}


def test_values_served_for_another_feature_spec_are_not_used(run, ledger, bundles, warehouse):
    other = {"9": replace(bundles["7"], spec_hash="0" * 64)}
    result = replay(warehouse, ledger, other.__getitem__, since=SINCE, until=UNTIL, version="9")
    assert not result.rows["is_served"].any()
    assert result.left_out == {"without features": 5}


# What is known of them


def test_only_labels_known_by_the_moment_count(run, live):
    labelled = live.rows[live.rows["is_fraud"].notna()]
    assert labelled["event_time"].max() == SINCE + timedelta(days=2)  # known at the very end of the range
    assert summarize_unlabelled(run(LIVE, as_of=UNTIL + timedelta(days=1))) == 5
    assert (labelled["is_fraud"] == (labelled["amount_minor"] > 50_000)).all()


def summarize_unlabelled(result: Replay) -> int:
    return int(result.rows["is_fraud"].isna().sum())


@pytest.mark.parametrize("backend", ["duckdb", "postgresql"])
def test_of_several_labels_the_latest_known_counts(ledger, bundles, tmp_path, backend, request):
    is_embedded = backend == "duckdb"
    url = f"duckdb:///{tmp_path / 'again.duckdb'}" if is_embedded else request.getfixturevalue("fresh_postgres_url")
    again = open_warehouse(url)
    row = warehouse_row("t0", SINCE.isoformat())
    arrivals = [
        label("t0", SINCE.isoformat(), "2025-03-02", is_fraud=True),
        label("t0", SINCE.isoformat(), "2025-03-03", is_fraud=False),
        label("t0", SINCE.isoformat(), "2025-03-06", is_fraud=True),
    ]
    fill_warehouse(again, SPEC, [row], arrivals)
    found = [
        replay(again, ledger, bundles.__getitem__, since=SINCE, until=datetime(2025, 3, 2), as_of=day, version="7").rows
        for day in (datetime(2025, 3, 2), datetime(2025, 3, 3), datetime(2025, 3, 6))
    ]
    assert [rows.set_index("transaction_id").loc["t0", "is_fraud"] for rows in found] == [True, False, True]


# What it comes to


def judged(*rows: tuple[bool, float, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["is_fraud", "amount", "recorded", "replayed"])
    return frame.assign(amount_minor=(frame["amount"] * 100).astype(int))


def test_money_by_hand():
    rows = judged(
        (True, 400.0, "APPROVE", "BLOCK"),
        (True, 100.0, "REVIEW", "REVIEW"),
        (True, 60.0, "BLOCK", "APPROVE"),
        (False, 30.0, "APPROVE", "BLOCK"),
        (False, 20.0, "APPROVE", "REVIEW"),
    )
    found = money(rows, "replayed", CostMatrix())
    assert (found.fraud_amount, found.fraud_blocked, found.fraud_reviewed, found.fraud_missed) == (560, 400, 100, 60)
    assert (found.genuine_blocked, found.genuine_reviewed) == (30, 20)
    assert found.cost == pytest.approx(0 + 5 + 5 + 60 + 25 + 5)
    assert found.cost_per_1000 == pytest.approx(20_000)
    assert found.saving_share == pytest.approx(1 - 100 / 560)
    assert money(rows, "recorded", CostMatrix()).cost == pytest.approx(400 + 10 + 0)
    assert money(rows[:0], "replayed", CostMatrix()).cost_per_1000 is None


def test_reviews_are_counted_per_day_against_the_capacity_of_the_policy(live, warehouse):
    reviewed = live.rows[live.rows["replayed"] == "REVIEW"]
    per_day = [int((reviewed["event_time"].dt.day == day).sum()) for day in (1, 2, 3)]
    found = summarize(live, warehouse).reviews
    assert found.mean_per_day == pytest.approx(sum(per_day) / 3)
    assert (found.most_on_a_day, found.capacity_per_day) == (max(per_day), 5.0)
    assert found.days_above_capacity == sum(count > 5 for count in per_day) > 0


def test_groups_are_judged_by_the_replayed_decisions(run, warehouse, monkeypatch):
    result = run(LIVE, review=0.0, block=1.0, as_of=UNTIL + timedelta(days=1))  # everything goes to review
    groups = summarize(result, warehouse).groups.set_index(["attribute", "group_name"])
    assert groups.loc[("gender", "f"), "rows"] + groups.loc[("gender", "m"), "rows"] == 235
    assert groups.loc[("gender", "f"), "is_suppressed"]  # fewer than 500
    many = replace(result, rows=pd.concat([result.rows] * 5))
    groups = summarize(many, warehouse).groups.set_index(["attribute", "group_name"])
    assert groups.loc[("gender", "f"), "flagged_share"] == groups.loc[("gender", "f"), "false_positive_rate"] == 1.0


def test_a_summary_is_plain_json_and_the_parts_agree(live, run, warehouse):
    for result in (live, run("7")):
        plain = json.loads(json.dumps(summarize(result, warehouse).as_dict(), allow_nan=False))
        assert plain["decided"] == sum(sum(row.values()) for row in plain["flips"].values())
        assert plain["money"]["recorded"]["transactions"] == plain["money"]["replayed_decided"]["transactions"]
        assert plain["money"]["replayed"]["transactions"] + plain["unlabelled"] == plain["transactions"]
    assert plain["left_out"] == {"without features": 0}


def printed(summary: Summary, capsys) -> str:
    show(summary)
    return " ".join(capsys.readouterr().out.split())


def test_the_page_says_what_a_reader_looks_for(live, run, warehouse, capsys):
    page = printed(summarize(live, warehouse), capsys)
    assert "Replay of the live policy, 2025-03-01 to 2025-03-03" in page
    assert "0 of 230 recorded decisions come out differently" in page
    assert "10 more were decided by the fallback rule" in page
    assert "left out: 20 not decided" in page
    assert "version 8: REVIEW from 0.2, BLOCK from 0.6" in page
    assert "another probability" not in page


def test_probabilities_that_do_not_come_out_again_are_said(live, warehouse, capsys):
    moved = replace(live, rows=live.rows.assign(fraud_probability=live.rows["fraud_probability"] + 1e-12))
    assert "230 of 230 decisions scored again" in printed(summarize(moved, warehouse), capsys)


def test_a_long_range_says_how_far_it_is(run):
    seen = []
    with listening(lambda what, done, total: seen.append((what, done, total))):
        run(LIVE)
    assert seen == [("days", 1, 3), ("days", 2, 3), ("days", 3, 3)]


# What cannot be replayed says why


def test_days_on_which_nothing_was_decided(run):
    with pytest.raises(EmptySample, match=r"no decision .*2025-04-01, 2025-04-03.*fraud replay --version V"):
        run(LIVE, since=datetime(2025, 4, 1), until=datetime(2025, 4, 3))


def test_days_without_transactions_or_features(run, warehouse, ledger, bundles, tmp_path):
    with pytest.raises(MissingPartition, match=r"2025-04-01, 2025-04-03.*fraud ingest"):
        run("7", since=datetime(2025, 4, 1), until=datetime(2025, 4, 3))
    bare = open_warehouse(f"duckdb:///{tmp_path / 'bare.duckdb'}")
    with pytest.raises(MissingPartition, match="fraud materialize features"):
        replay(bare, ledger, bundles.__getitem__, since=SINCE, until=UNTIL, version="7")
    fill_warehouse(bare, SPEC, [warehouse_row("a", "2025-03-01"), warehouse_row("b", "2025-03-02")], [
        label("a", "2025-03-01", "2025-03-08")], without_features=["b"])  # fmt: skip
    with pytest.raises(MissingPartition, match=r"lacks 1 transactions of 2025-03-02.*--from 2025-03-02"):
        replay(bare, ledger, bundles.__getitem__, since=SINCE, until=UNTIL, version="7")


def test_a_version_whose_features_the_warehouse_no_longer_has(warehouse, ledger, bundles, tmp_path):
    older = open_warehouse(f"duckdb:///{tmp_path / 'older.duckdb'}")
    fill_warehouse(older, SPEC, [warehouse_row("a", "2025-03-01")], [label("a", "2025-03-01", "2025-03-08")])
    older.execute(f"alter table {tables.TRANSACTION_FEATURES} drop column {SPEC.names[3]}")
    with pytest.raises(ContractBroken, match=rf"lacks the features \['{SPEC.names[3]}'\] of version 7"):
        replay(older, ledger, bundles.__getitem__, since=SINCE, until=UNTIL, version="7")


def test_a_registry_that_is_not_the_one_that_decided(warehouse, ledger, bundles):
    exchanged = {"7": bundles["8"], "8": bundles["7"]}
    with pytest.raises(ContractBroken, match=r"t0 was decided by version 7 with bundle .*FRAUD_REGISTRY_URL"):
        replay(warehouse, ledger, exchanged.__getitem__, since=SINCE, until=UNTIL, version=LIVE)


def test_without_a_champion_a_version_must_be_named(warehouse, bundles, tmp_path):
    empty = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with pytest.raises(NoChampion, match="fraud replay --version V"):
        replay(warehouse, empty, bundles.__getitem__, since=SINCE, until=UNTIL)
    undecided = replay(warehouse, empty, bundles.__getitem__, since=SINCE, until=UNTIL, version="7")
    assert len(undecided.rows) == 255
    assert flips(undecided.rows).decided == 0


@pytest.mark.parametrize("wrong", [{"until": SINCE}, {"as_of": UNTIL - timedelta(seconds=1)}])
def test_a_range_or_moment_out_of_order_is_refused(run, wrong):
    with pytest.raises(ContractBroken, match=r"found .*2025-03-01"):
        run("7", **wrong)


def test_thresholds_out_of_order_are_refused(run):
    with pytest.raises(ContractBroken, match=r"review 0\.9, block 0\.6"):
        run("8", review=0.9)
