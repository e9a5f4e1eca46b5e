import math
from datetime import datetime

import pytest

from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, OnlineEngine, ScoredTransaction
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.online_store.state import to_us

SPEC = load_spec()
ENGINE = OnlineEngine(SPEC)
SATURDAY = to_us(datetime(2026, 6, 6, 6, 59, 59))
MINUTE_US, HOUR_US, DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000


def transaction(at_us=SATURDAY, amount_minor=4_500):
    return ScoredTransaction("t", at_us, "tok_a", "m1", amount_minor, "EUR")


def test_a_first_transaction_has_counts_of_zero_and_nothing_to_compare_with():
    vector = ENGINE.vector(transaction(), History())
    assert tuple(vector) == SPEC.names
    assert vector["card_count_30d"] == vector["card_amount_sum_24h"] == vector["merchant_label_count_30d"] == 0.0
    for name in ("card_amount_mean_30d", "card_amount_std_30d", "card_amount_max_30d", "card_amount_ratio_30d"):
        assert vector[name] is None
    assert vector["card_minutes_since_previous"] is None
    assert vector["merchant_fraud_share_7d"] is None


def test_amounts_of_10_20_and_60_before_45():
    times = [SATURDAY - 3 * DAY_US, SATURDAY - 2 * DAY_US, SATURDAY - 90 * MINUTE_US]
    vector = ENGINE.vector(transaction(), History(card=EntityHistory(times, [1_000, 2_000, 6_000])))
    assert vector["amount"] == 45.0
    assert vector["card_amount_mean_30d"] == 30.0
    assert vector["card_amount_std_30d"] == math.sqrt(700.0)  # (400 + 100 + 900) / 2
    assert vector["card_amount_max_30d"] == 60.0
    assert vector["card_amount_ratio_30d"] == 1.5
    assert vector["card_minutes_since_previous"] == 90.0
    assert (vector["card_count_1h"], vector["card_count_24h"], vector["card_count_7d"]) == (0.0, 1.0, 3.0)
    assert vector["card_amount_sum_24h"] == 60.0


def test_one_amount_has_no_deviation():
    vector = ENGINE.vector(transaction(), History(card=EntityHistory([SATURDAY - 1], [500])))
    assert vector["card_amount_std_30d"] is None
    assert vector["card_amount_mean_30d"] == 5.0


def test_ages_are_strictly_between_zero_and_the_window():
    times = [SATURDAY - DAY_US, SATURDAY - DAY_US + 1, SATURDAY - 1, SATURDAY, SATURDAY, SATURDAY + 1]
    vector = ENGINE.vector(transaction(), History(card=EntityHistory(times, [1, 2, 4, 8, 16, 32])))
    assert vector["card_count_24h"] == 2.0
    assert vector["card_amount_sum_24h"] == 0.06
    assert vector["card_count_7d"] == 3.0


def test_labels_count_from_age_zero_until_the_window_ends():
    known = [SATURDAY - DAY_US, SATURDAY - DAY_US + 1, SATURDAY, SATURDAY + 1]
    vector = ENGINE.vector(transaction(), History(merchant=EntityHistory((), (), known, [1, 0, 1, 1])))
    assert vector["merchant_label_count_1d"] == 2.0
    assert vector["merchant_fraud_share_1d"] == 0.5
    assert vector["merchant_label_count_7d"] == 3.0
    assert vector["merchant_fraud_share_7d"] == 2 / 3


def test_card_and_merchant_history_do_not_mix():
    history = History(card=EntityHistory([SATURDAY - 1], [100], [SATURDAY], [1]))
    vector = ENGINE.vector(transaction(), history)
    assert vector["merchant_count_24h"] == vector["merchant_label_count_1d"] == 0.0
    assert vector["card_fraud_count_30d"] == 1.0


@pytest.mark.parametrize(
    ("moment", "hour", "day", "weekend", "night"),
    [
        (datetime(2026, 6, 5, 23, 59, 59, 999_999), 23, 4, 0, 0),  # Friday
        (datetime(2026, 6, 6, 0, 0), 0, 5, 1, 1),
        (datetime(2026, 6, 6, 6, 59, 59), 6, 5, 1, 1),
        (datetime(2026, 6, 7, 7, 0), 7, 6, 1, 0),
        (datetime(2026, 6, 8, 12, 0), 12, 0, 0, 0),
        (datetime(1969, 12, 31, 23, 0), 23, 2, 0, 0),  # before 1970, a Wednesday
    ],
)
def test_calendar(moment, hour, day, weekend, night):
    vector = ENGINE.vector(transaction(to_us(moment)), History())
    found = tuple(vector[name] for name in ("hour_of_day", "day_of_week", "is_weekend", "is_night"))
    assert found == (hour, day, weekend, night)


def test_huge_amounts_stay_exact_until_the_root():
    # 3e9 and 3e9 - 1: deviation sqrt(0.5) cents. Doubles squared on the way would give 0.
    times = [SATURDAY - 2, SATURDAY - 1]
    vector = ENGINE.vector(transaction(), History(card=EntityHistory(times, [3_000_000_000, 2_999_999_999])))
    assert vector["card_amount_std_30d"] == math.sqrt(0.5) / 100.0


def test_a_label_counts_a_microsecond_after_its_transaction_at_the_earliest():
    early = LabelArrival("t", SATURDAY, SATURDAY - HOUR_US, True, "tok_a", "m1")
    late = LabelArrival("t", SATURDAY, SATURDAY + HOUR_US, True, "tok_a", "m1")
    assert early.counts_from_us == SATURDAY + 1
    assert late.counts_from_us == SATURDAY + HOUR_US
