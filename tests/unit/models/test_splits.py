"""Windows of one moment."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import MissingPartition, SettingInvalid
from fraud_pipelines.models.splits import TEST, TRAIN, VALIDATION, TimeSplit, parse_as_of

HANDBOOK = TimeSplit(datetime(2018, 8, 22), train_days=7, validation_days=0, test_days=7, label_delay_days=7)


def test_the_handbook_protocol_is_a_configuration():
    assert HANDBOOK.window(TRAIN) == (datetime(2018, 7, 25), datetime(2018, 8, 1))
    assert HANDBOOK.window(TEST) == (datetime(2018, 8, 8), datetime(2018, 8, 15))
    assert HANDBOOK.window(VALIDATION) == (datetime(2018, 8, 1), datetime(2018, 8, 1))


def test_default_windows_worked_by_hand():
    split = TimeSplit(datetime(2026, 4, 1))
    # test: 7 days of delay back from April 1st, then 14 days; training ends another 7 days before.
    assert split.window(TEST) == (datetime(2026, 3, 11), datetime(2026, 3, 25))
    assert split.window(VALIDATION) == (datetime(2026, 2, 25), datetime(2026, 3, 4))
    assert split.window(TRAIN) == (datetime(2026, 1, 7), datetime(2026, 2, 25))


def test_known_cards_reach_back_the_handbooks_seven_days_whatever_the_training_length():
    assert HANDBOOK.known_cards_since(TEST) == HANDBOOK.train_since
    longer = TimeSplit(datetime(2018, 8, 22), train_days=56, validation_days=7, test_days=7, label_delay_days=7)
    assert longer.known_cards_since(TEST) == datetime(2018, 7, 25)
    assert longer.known_cards_since(VALIDATION) == datetime(2018, 7, 11)  # 7 + 7 days before July 25th


def test_training_may_use_labels_known_at_the_test_start_and_the_test_those_known_at_as_of():
    assert HANDBOOK.labels_known_by(TRAIN) == HANDBOOK.labels_known_by(VALIDATION) == datetime(2018, 8, 8)
    assert HANDBOOK.labels_known_by(TEST) == datetime(2018, 8, 22)


@given(train=st.integers(2, 400), validation=st.integers(0, 60), test=st.integers(1, 60), delay=st.integers(0, 40))
def test_windows_never_overlap_and_every_label_delay_fits(train, validation, test, delay):
    validation = min(validation, train - 1)
    split = TimeSplit(datetime(2026, 1, 1), train, validation, test, delay)
    assert split.train_since < split.validation_since <= split.train_until <= split.test_since < split.test_until
    assert split.test_since - split.train_until == split.as_of - split.test_until == timedelta(days=delay)
    assert TimeSplit.from_dict(split.as_dict()) == split


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ({"train_days": 0, "validation_days": 0}, "train_days must be at least 1"),
        ({"test_days": 0}, "test_days must be at least 1"),
        ({"label_delay_days": -1}, "label_delay_days must be at least 0"),
        ({"train_days": 7, "validation_days": 7}, "must be below train_days"),
    ],
)
def test_a_length_out_of_range_is_named(lengths, named):
    with pytest.raises(SettingInvalid, match=named):
        TimeSplit(datetime(2026, 1, 1), **lengths)


def test_a_training_window_before_the_data_names_the_longest_that_fits():
    split = TimeSplit(datetime(2026, 4, 1))  # training from January 7th until March 4th
    split.require_data_since(datetime(2026, 1, 7, 5))
    with pytest.raises(MissingPartition, match="--train-days 46"):
        split.require_data_since(datetime(2026, 1, 17, 23, 59))  # January 17th to March 3rd: 15 + 28 + 3 days


def test_too_little_data_for_any_training_says_so_instead_of_a_useless_number():
    with pytest.raises(MissingPartition, match="Ingest earlier days"):
        TimeSplit(datetime(2026, 4, 1)).require_data_since(datetime(2026, 2, 26))


def test_as_of_reads_dates_times_and_offsets():
    last = datetime(2026, 3, 31, 22, 15)
    assert parse_as_of(None, last_event=last) == datetime(2026, 4, 1)
    assert parse_as_of("2018-08-22", last_event=last) == datetime(2018, 8, 22)
    assert parse_as_of("2018-08-22T02:00+02:00", last_event=last) == datetime(2018, 8, 22)
    with pytest.raises(SettingInvalid, match="found 'yesterday'"):
        parse_as_of("yesterday", last_event=last)
