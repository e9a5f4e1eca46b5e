"""Blocks of days: nothing younger than the label delay is learnt from, and known cards are not judged."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import numpy as np
import pytest

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.folds import learning_rows, time_folds
from fraud_pipelines.models.splits import TEST, VALIDATION, TimeSplit
from tests.builders import synthetic_training_set

SPEC = load_spec()
WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def training_set():
    split = TimeSplit(datetime(2026, 3, 1), train_days=42, validation_days=7, test_days=7, label_delay_days=7)
    return synthetic_training_set(SPEC, rows=4000, fraud_share=0.08, split=split)


@pytest.fixture(scope="module")
def rows(training_set):
    return learning_rows(training_set)


def test_blocks_are_the_last_weeks_before_the_end_of_training_oldest_first(training_set, rows):
    split = training_set.split
    folds = time_folds(rows, split)
    # Six weeks make room for five blocks, but the delay takes the only week that the first could learn from.
    assert [fold.since for fold in folds] == [split.train_until - number * WEEK for number in (4, 3, 2, 1)]
    assert all(fold.until - fold.since == WEEK for fold in folds)
    assert (folds[-1].since, folds[-1].until) == split.window(VALIDATION)


def test_what_is_learnt_from_is_old_enough_and_was_known(training_set, rows):
    for fold in time_folds(rows, training_set.split):
        assert fold.keeps_delay
        learnt, judged = rows.iloc[fold.learn], rows.iloc[fold.judge]
        assert learnt["event_time"].max() < fold.since - WEEK
        assert learnt["label_known_at"].max() <= fold.since
        assert judged["event_time"].min() >= fold.since
        assert judged["event_time"].max() < fold.until
        # Nothing else is left out.
        old = (rows["event_time"] < fold.since - WEEK) & (rows["label_known_at"] <= fold.since)
        assert len(learnt) == old.sum()


def test_a_label_that_came_late_is_not_learnt_from(training_set, rows):
    fold = time_folds(rows, training_set.split)[1]
    late = rows.copy()
    late.loc[fold.learn[:10], "label_known_at"] = fold.since + timedelta(seconds=1)
    again = time_folds(late, training_set.split)[1]
    assert sorted(set(fold.learn) - set(again.learn)) == list(fold.learn[:10])


def test_a_card_known_as_compromised_when_its_day_began_is_not_judged(training_set, rows):
    fold = time_folds(rows, training_set.split)[1]
    left_out = 0
    block = rows[(rows["event_time"] >= fold.since) & (rows["event_time"] < fold.until)]
    watched = fold.since - 2 * WEEK
    for position, row in block.iterrows():
        day = row["event_time"].normalize()
        earlier = rows[(rows["card_id"] == row["card_id"]) & rows["is_fraud"] & (rows["event_time"] >= watched)]
        is_known = bool((earlier["label_known_at"] < day).any())
        assert (position in fold.judge) == (not is_known)
        left_out += is_known
    assert left_out


def test_the_validation_window_has_the_known_cards_that_the_training_set_marked(training_set, rows):
    marked = rows.assign(card_is_known_compromised=rows["card_id"].isin(["c1", "c2", "c3"]))
    fold = time_folds(marked, training_set.split)[-1]
    assert not marked.iloc[fold.judge]["card_is_known_compromised"].any()
    assert len(fold.judge) == int(((rows["part"] == VALIDATION) & ~marked["card_is_known_compromised"]).sum())


def test_with_too_few_frauds_only_the_validation_window_is_left_and_learns_from_all_before_it(training_set):
    frame = training_set.frame.copy()
    frauds = frame.index[frame["is_fraud"] & (frame["part"] != TEST)]
    frame.loc[frauds[15:], "is_fraud"] = False
    rows = learning_rows(dataclasses.replace(training_set, frame=frame))
    (fold,) = time_folds(rows, training_set.split)
    assert not fold.keeps_delay
    assert (fold.since, fold.until) == training_set.split.window(VALIDATION)
    np.testing.assert_array_equal(fold.learn, np.flatnonzero(rows["event_time"] < fold.since))


def test_without_validation_days_there_are_no_blocks():
    split = TimeSplit(datetime(2026, 3, 1), train_days=14, validation_days=0, test_days=7, label_delay_days=7)
    training_set = synthetic_training_set(SPEC, split=split)
    assert time_folds(learning_rows(training_set), split) == []
