"""The training set: label time, what is left out, and cards known as compromised."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import EmptySample, MissingPartition
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.models.training_set import (
    build_training_set,
    mark_known_compromised,
    read_training_set,
    split_for,
    write_training_set,
)
from fraud_pipelines.warehouse import Warehouse, open_warehouse
from tests.builders import fill_warehouse, in_microseconds, label, payment

# Training January 1st to 6th (validation the 6th), test the 9th and 10th, labels two days late, as of the 13th.
SPLIT = TimeSplit(datetime(2026, 1, 13), train_days=6, validation_days=1, test_days=2, label_delay_days=2)
PAYMENTS = [
    payment("t1", "2026-01-01 10:00", card_id="c1"),
    payment("t2", "2026-01-02 10:00", card_id="c2"),
    payment("t3", "2026-01-03 10:00", card_id="c3"),
    payment("v1", "2026-01-06 10:00", card_id="c4"),
    payment("gap", "2026-01-07 10:00", card_id="c5"),
    payment("e1", "2026-01-09 10:00", card_id="c2"),
    payment("e2", "2026-01-10 10:00", card_id="c6"),
    payment("e3", "2026-01-10 11:00", card_id="c5"),
]
LABELS = [
    label("t1", "2026-01-01 10:00", "2026-01-03 10:00"),
    label("t2", "2026-01-02 10:00", "2026-01-04 10:00", is_fraud=True),
    label("t3", "2026-01-03 10:00", "2026-01-05 10:00"),
    label("v1", "2026-01-06 10:00", "2026-01-08 10:00"),
    label("gap", "2026-01-07 10:00", "2026-01-09 10:00", is_fraud=True),
    label("e1", "2026-01-09 10:00", "2026-01-11 10:00"),
    label("e2", "2026-01-10 10:00", "2026-01-12 10:00"),
    label("e3", "2026-01-10 11:00", "2026-01-12 11:00"),
]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")


def _build(warehouse: Warehouse, labels=LABELS, payments=PAYMENTS, **options):
    fill_warehouse(warehouse, load_spec(), payments, labels, **options)
    return build_training_set(warehouse, load_spec(), SPLIT)


def _with(changed: dict, *more: dict) -> list[dict]:
    return [changed if item["transaction_id"] == changed["transaction_id"] else item for item in LABELS] + list(more)


def test_rows_are_cut_by_window_and_the_delay_between_them_is_left_out(warehouse):
    rows = _build(warehouse).frame
    assert dict(zip(rows["transaction_id"], rows["part"], strict=True)) == {
        "t1": "train", "t2": "train", "t3": "train", "v1": "validation", "e1": "test", "e2": "test", "e3": "test",
    }  # fmt: skip
    assert list(rows.columns[:8]) == [
        "transaction_id", "event_time", "card_id", "amount_minor", "part", "is_fraud", "label_known_at",
        "card_is_known_compromised",
    ]  # fmt: skip
    assert tuple(rows.columns[8:]) == tuple(load_spec().names)


def test_a_row_at_the_start_of_validation_belongs_to_validation(warehouse):
    edge, before = "2026-01-06 00:00", "2026-01-05 23:59:59.999999"
    rows = _build(
        warehouse,
        [*LABELS, label("edge", edge, "2026-01-08 00:00"), label("before", before, "2026-01-08 00:00")],
        [*PAYMENTS, payment("edge", edge, card_id="c9"), payment("before", before, card_id="c8")],
    ).frame.set_index("transaction_id")["part"]
    assert (rows["before"], rows["edge"]) == ("train", "validation")


@pytest.mark.parametrize(("known_at", "counts"), [("2026-01-09 00:00", True), ("2026-01-09 00:00:00.000001", False)])
def test_a_training_label_counts_up_to_the_start_of_the_test(warehouse, known_at, counts):
    built = _build(warehouse, _with(label("t3", "2026-01-03 10:00", known_at)))
    assert ("t3" in set(built.frame["transaction_id"])) is counts
    assert built.unlabelled == {"train": 0 if counts else 1, "validation": 0, "test": 0}


@pytest.mark.parametrize(("known_at", "counts"), [("2026-01-13 00:00", True), ("2026-01-13 00:00:00.000001", False)])
def test_a_test_label_counts_up_to_as_of(warehouse, known_at, counts):
    built = _build(warehouse, _with(label("e2", "2026-01-10 10:00", known_at)))
    assert ("e2" in set(built.frame["transaction_id"])) is counts
    assert built.unlabelled["test"] == (0 if counts else 1)
    assert built.unlabelled_share("test") == pytest.approx(0 if counts else 1 / 3)


def test_the_latest_label_known_by_the_moment_wins(warehouse):
    corrected = label("t1", "2026-01-01 10:00", "2026-01-08 00:00", is_fraud=True)
    too_late = label("t1", "2026-01-01 10:00", "2026-01-09 01:00")
    rows = _build(warehouse, [*LABELS, corrected, too_late]).frame.set_index("transaction_id")
    assert bool(rows.loc["t1", "is_fraud"])
    assert rows.loc["t1", "label_known_at"] == pd.Timestamp("2026-01-08")


def test_cards_known_as_compromised_are_marked_from_training_frauds_and_from_the_delay_days(warehouse):
    rows = _build(warehouse).frame.set_index("transaction_id")["card_is_known_compromised"]
    # c2: fraud of January 2nd, known on the 4th. c5: fraud of the 7th, known on the 9th, so on the 10th but not before.
    assert rows.to_dict() == {"t1": False, "t2": False, "t3": False, "v1": False, "e1": True, "e2": False, "e3": True}


def test_validation_days_leave_known_cards_out_as_the_test_does(warehouse):
    # c2: fraud of the 2nd, known on the 4th, so before the validation day begins.
    more = payment("v2", "2026-01-06 11:00", card_id="c2")
    rows = _build(
        warehouse, [*LABELS, label("v2", "2026-01-06 11:00", "2026-01-08 11:00")], [*PAYMENTS, more]
    ).frame.set_index("transaction_id")["card_is_known_compromised"]
    assert (bool(rows["v1"]), bool(rows["v2"]), bool(rows["t2"])) == (False, True, False)


def test_frauds_before_the_known_card_days_do_not_mark_a_card(warehouse):
    fill_warehouse(warehouse, load_spec(), PAYMENTS, LABELS)
    # Training ends on January 7th; four days back is the 3rd, so the fraud of the 2nd is too old and the 7th's is not.
    rows = build_training_set(warehouse, load_spec(), replace(SPLIT, known_card_days=4)).frame
    assert set(rows.loc[rows["card_is_known_compromised"], "transaction_id"]) == {"e3"}


def test_a_card_becomes_known_on_the_day_after_its_label_and_a_corrected_verdict_frees_it():
    history = in_microseconds(
        pd.DataFrame(
            [
                {"card_id": "a", "transaction_id": "x", "known_at": datetime(2026, 1, 5), "is_fraud": True},
                {"card_id": "b", "transaction_id": "y", "known_at": datetime(2026, 1, 4, 9), "is_fraud": True},
                {"card_id": "b", "transaction_id": "y", "known_at": datetime(2026, 1, 6, 9), "is_fraud": False},
            ]
        )
    )
    rows = pd.DataFrame(
        [(card, datetime(2026, 1, day, 12)) for card in "ab" for day in (4, 5, 6, 7)], columns=["card_id", "event_time"]
    )
    # a: known at midnight of the 5th, which is not before that day. b: known during the 4th, cleared during the 6th.
    assert list(mark_known_compromised(rows, history)) == [False, False, True, True, False, True, True, False]


def test_a_later_label_never_changes_what_was_built_as_of_before(warehouse):
    before = _build(warehouse)
    later = label("e1", "2026-01-09 10:00", "2026-01-14 00:00", is_fraud=True)
    assert _build(warehouse, [*LABELS, later]).data_hash == before.data_hash
    assert _build(warehouse, _with(label("e1", "2026-01-09 10:00", "2026-01-11 10:00", is_fraud=True))).data_hash != (
        before.data_hash
    )


def test_missing_features_name_the_days_to_materialize(warehouse):
    with pytest.raises(MissingPartition, match=r"2 of 7 transactions .* from 2026-01-02 to 2026-01-10"):
        _build(warehouse, without_features=["t2", "e2"])


def test_training_without_fraud_is_refused(warehouse):
    with pytest.raises(EmptySample, match="found 0 frauds among 4"):
        _build(warehouse, _with(label("t2", "2026-01-02 10:00", "2026-01-04 10:00")))


def test_a_part_without_labels_names_its_window_and_what_waits(warehouse):
    labels = [item for item in LABELS if not item["transaction_id"].startswith("e")]
    with pytest.raises(EmptySample, match=r"test window 2026-01-09 to 2026-01-11.*3 have features and no label yet"):
        _build(warehouse, labels)


def test_what_is_written_is_read_back_with_its_split(warehouse):
    built = _build(warehouse)
    write_training_set(warehouse, built)
    write_training_set(warehouse, built)
    again = read_training_set(warehouse)
    assert (again.split, again.data_hash, again.spec_hash) == (SPLIT, built.data_hash, load_spec().hash)
    assert again.unlabelled == built.unlabelled
    pd.testing.assert_frame_equal(again.frame, built.frame, check_dtype=False)


def test_reading_before_building_names_the_command(warehouse):
    with pytest.raises(MissingPartition, match="fraud train"):
        read_training_set(warehouse)


def test_the_split_follows_the_data_and_refuses_days_that_are_not_there(warehouse):
    lengths = {"train_days": 6, "validation_days": 1, "test_days": 2, "label_delay_days": 0}
    with pytest.raises(MissingPartition, match="nothing to train on"):
        split_for(warehouse, None, **lengths)
    fill_warehouse(warehouse, load_spec(), PAYMENTS, LABELS)
    assert split_for(warehouse, None, **lengths).as_of == datetime(2026, 1, 11)
    with pytest.raises(MissingPartition, match="begin on 2026-01-01"):
        split_for(warehouse, "2026-01-08", **lengths)
    with pytest.raises(MissingPartition, match="before the test window 2026-02-01"):
        split_for(warehouse, "2026-02-03", **lengths)


def test_features_of_the_table_but_not_of_the_spec_stay_out(warehouse):
    fill_warehouse(warehouse, load_spec(), PAYMENTS, LABELS)
    warehouse.execute(f"alter table {tables.TRANSACTION_FEATURES} add column foreign_feature double precision")
    assert "foreign_feature" not in build_training_set(warehouse, load_spec(), SPLIT).frame
