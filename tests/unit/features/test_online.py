"""The online engine on single vectors; every measure's own numbers are in test_measures.py."""

import math
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fraud_pipelines.features import kernel
from fraud_pipelines.features.entity_state import whole
from fraud_pipelines.features.online import (
    Context,
    EntityHistory,
    History,
    LabelArrival,
    OnlineEngine,
    ScoredTransaction,
    TransactionColumns,
)
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.online_store.state import to_us
from tests.everything import EVERYTHING
from tests.histories import online_history, scored, simulated_history

SPEC = load_spec()
ENGINE = OnlineEngine(SPEC)
SATURDAY = to_us(datetime(2026, 6, 6, 6, 59, 59))
MINUTE_US, HOUR_US, DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000


def transaction(at_us=SATURDAY, amount_minor=4_500):
    return ScoredTransaction("t", at_us, "tok_a", "m1", amount_minor, "EUR")


def card_event(at_us, amount_minor, id_="p"):
    return at_us, id_, amount_minor, "m1", None, None, None, None, None


def test_a_first_transaction_has_counts_of_zero_and_nothing_to_compare_with():
    vector = ENGINE.vector(transaction(), History())
    assert tuple(vector) == SPEC.names
    # A merchant never seen is new; a value that is unknown is neither new nor old.
    assert vector.pop("card_is_new_merchant_30d") == 1.0
    for feature in (*SPEC.of_entity("card"), *SPEC.of_entity("merchant")):
        if feature.name in vector:
            assert vector[feature.name] == (0.0 if feature.when_empty == "zero" else None), feature.name


def test_amounts_of_10_20_and_60_before_45():
    events = [
        card_event(SATURDAY - age_us, amount_minor)
        for age_us, amount_minor in ((3 * DAY_US, 1_000), (2 * DAY_US, 2_000), (90 * MINUTE_US, 6_000))
    ]
    vector = ENGINE.vector(transaction(), History(card=EntityHistory(events)))
    assert vector["amount"] == 45.0
    assert vector["card_amount_mean_30d"] == 30.0
    assert vector["card_amount_std_30d"] == math.sqrt(700.0)  # (400 + 100 + 900) / 2
    assert vector["card_amount_max_30d"] == 60.0
    assert vector["card_amount_ratio_30d"] == 1.5
    assert vector["card_minutes_since_previous"] == 90.0
    assert (vector["card_count_1h"], vector["card_count_24h"], vector["card_count_7d"]) == (0.0, 1.0, 3.0)
    assert vector["card_amount_sum_24h"] == 60.0


def test_a_history_may_hold_the_scored_transaction_and_what_comes_later():
    past = [card_event(SATURDAY - DAY_US, 100, "p"), card_event(SATURDAY - 1, 200, "q")]
    labels = [(SATURDAY - 5, "p", 1, 100)]
    more = [card_event(SATURDAY, 4_500, "t"), card_event(SATURDAY, 800, "u"), card_event(SATURDAY + 1, 1_600, "v")]
    later = [(SATURDAY + 1, "t", 0, 4_500)]
    less = ENGINE.vector(transaction(), History(card=EntityHistory(past, labels)))
    assert ENGINE.vector(transaction(), History(card=EntityHistory(past + more, labels + later))) == less


@pytest.mark.parametrize(
    ("moment", "hour", "day", "weekend", "night"),
    [
        (datetime(2026, 6, 5, 23, 59, 59, 999_999), 23, 4, 0, 0),  # Friday
        (datetime(2026, 6, 6, 0, 0), 0, 5, 1, 1),
        (datetime(2026, 6, 6, 6, 59, 59), 6, 5, 1, 1),
        (datetime(2026, 6, 7, 7, 0), 7, 6, 1, 0),
        (datetime(2026, 6, 8, 12, 0), 12, 0, 0, 0),
        (datetime(1969, 12, 31, 23, 0), 23, 2, 0, 0),  # before 1970, a Wednesday
        (datetime(1969, 12, 28, 6, 59, 59, 999_999), 6, 6, 1, 1),  # the Sunday before
    ],
)
def test_calendar(moment, hour, day, weekend, night):
    vector = ENGINE.vector(transaction(to_us(moment)), History())
    found = tuple(vector[name] for name in ("hour_of_day", "day_of_week", "is_weekend", "is_night"))
    assert found == (hour, day, weekend, night)
    # A past transaction is judged by the same calendar.
    later = transaction(to_us(moment) + DAY_US)
    vector = ENGINE.vector(later, History(card=EntityHistory([card_event(to_us(moment), 100)])))
    assert (vector["card_weekend_share_30d"], vector["card_night_share_30d"]) == (weekend, night)


def test_a_label_counts_a_microsecond_after_its_transaction_at_the_earliest():
    early = LabelArrival("t", SATURDAY, SATURDAY - HOUR_US, True, "tok_a", "m1", 100)
    late = LabelArrival("t", SATURDAY, SATURDAY + HOUR_US, True, "tok_a", "m1", 100)
    assert early.counts_from_us == SATURDAY + 1
    assert late.counts_from_us == SATURDAY + HOUR_US


def test_a_group_needs_no_other_machine_code_than_one_transaction():
    """What a Bento brings, or a start compiles ahead, is made of one; a group must not wait seconds for more."""
    functions = (kernel.lacks_room, kernel.append, kernel.compute_held)
    ENGINE.warm_up()
    of_one = [list(function.signatures) for function in functions]
    group = [
        replace(transaction(SATURDAY - number), transaction_id=f"{number}", **given)
        for number, given in enumerate(({}, {"home_latitude": 1.0, "channel": "online"}, {"country": "DE"}) * 8)
    ]
    columns = TransactionColumns.of(group)
    entities = [whole("card", (), ()).take(np.zeros(24, int)), whole("merchant", (), ()).take(np.zeros(24, int))]
    for chosen in (columns, columns.take(np.arange(5, 24))):
        events = (chosen.of_cards, chosen.of_merchants)
        added = [own.states.add(own.owners[: len(chosen)], its) for own, its in zip(entities, events, strict=True)]
        ENGINE.matrix(Context(chosen, *added))
        ENGINE.matrix(Context(chosen, *added).take(np.array([3, 1])))
    assert [function.signatures for function in functions] == of_one


@pytest.mark.parametrize("asked", [1, 16, 17, 60])
def test_a_group_has_the_features_of_each_alone(asked):
    """Of many cards at one merchant and of one card often, whichever way the engine goes through their histories."""
    engine = OnlineEngine(EVERYTHING)
    payments, verdicts = simulated_history(payments=400, cards=3, merchants=2, days=60, seed=3)
    others = [replace(p, transaction_id=f"o{n}", card_id=f"c{n}") for n, p in enumerate(payments * 8)]
    now = max(payments, key=lambda payment: payment.event_time)
    card, merchant = (
        whole(entity, history.events, history.labels)
        for entity, history in (
            ("card", online_history(payments, verdicts, now).card),
            ("merchant", online_history(payments + others, verdicts, now).merchant),
        )
    )
    of_both = [p for p in payments if (p.card_id, p.merchant_id) == (now.card_id, now.merchant_id)]
    group = [scored(payment) for payment in of_both[-asked:]]
    assert len(group) == asked
    rows = np.zeros(asked, int)
    context = Context(TransactionColumns.of(group), card.take(rows), merchant.take(rows))
    found = engine.matrix(context)
    alone = np.concatenate([engine.matrix(context.take(np.array([row]))) for row in range(asked)])
    assert_array_equal(found.view(np.int64), alone.view(np.int64))
