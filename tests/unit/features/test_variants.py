"""Variants of one transaction: exactly the features that the scoring service would have computed for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features.online import EntityHistory, History, OnlineEngine, ScoredTransaction
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.features.variants import variant_features
from fraud_pipelines.features.vector import to_matrix
from tests.histories import arrival, histories, scored

SPEC = load_spec()
ONLINE = OnlineEngine(SPEC)
HOUR_US = 3_600_000_000


def history_of(payments, verdicts, now: ScoredTransaction) -> History:
    """Everything that ever happened with the card and the merchant, the future and the transaction itself included."""
    happened = [scored(payment) for payment in payments]
    ids = {payment.transaction_id for payment in payments}
    labels = [arrival(payments, verdict) for verdict in verdicts if verdict.transaction_id in ids]
    return History(
        EntityHistory(
            sorted(
                (t.event_time_us, t.transaction_id, t.amount_minor, t.merchant_id, t.country, t.device_id, t.category)
                + (t.merchant_latitude, t.merchant_longitude)
                for t in happened
                if t.card_id == now.card_id
            ),
            sorted(
                (a.counts_from_us, a.transaction_id, int(a.is_fraud), a.amount_minor)
                for a in labels
                if a.card_id == now.card_id
            ),
        ),
        EntityHistory(
            sorted(
                (t.event_time_us, t.transaction_id, t.amount_minor, t.card_id)
                for t in happened
                if t.merchant_id == now.merchant_id
            ),
            sorted(
                (a.counts_from_us, a.transaction_id, int(a.is_fraud), a.amount_minor)
                for a in labels
                if a.merchant_id == now.merchant_id
            ),
        ),
    )


def only_until(at_us: int, own: str, history: History) -> History:
    def past(side: EntityHistory) -> EntityHistory:
        return EntityHistory(
            *([row for row in rows if row[0] <= at_us and row[1] != own] for rows in (side.events, side.labels))
        )

    return History(past(history.card), past(history.merchant))


@settings(max_examples=60)
@given(histories(), st.data())
def test_variants_have_the_features_of_the_online_engine_to_the_last_bit(known, data):
    payments, verdicts = known
    now = scored(data.draw(st.sampled_from(payments)))
    history = history_of(payments, verdicts, now)
    changes = st.fixed_dictionaries(
        {},
        optional={
            "amount_minor": st.integers(0, 3_000_000_000),
            "event_time_us": st.sampled_from([now.event_time_us + hours * HOUR_US for hours in (0, 1, 6, 24)]),
            "device_id": st.sampled_from(("d1", "never seen", None)),
            "country": st.sampled_from(("DE", "FR", "JP")),
            "category": st.sampled_from(("grocery", "never seen")),
            "channel": st.sampled_from(("pos", "online", None)),
            "merchant_latitude": st.sampled_from((52.52, -90.0, None)),
        },
    )
    variants = [replace(now, **change) for change in data.draw(st.lists(changes, min_size=1, max_size=8))]
    features = variant_features(ONLINE, now, history)(variants)
    then = only_until(now.event_time_us, now.transaction_id, history)
    expected = to_matrix([ONLINE.vector(variant, then) for variant in variants], SPEC.names)
    np.testing.assert_array_equal(features, expected)


def test_a_later_variant_sees_neither_the_transaction_itself_nor_what_came_after_it():
    now = ScoredTransaction("t", 100 * HOUR_US, "tok_a", "m", 90_000, "EUR")

    def event(id_, hours):
        return (hours * HOUR_US, id_, 1_000, "m", None, None, None, None, None)

    events = [event("before", 99), event("t", 100), event("after", 103)]
    labels = [(99 * HOUR_US + 1, "before", 0, 1_000), (102 * HOUR_US, "before", 1, 1_000)]
    features = variant_features(ONLINE, now, History(EntityHistory(events, labels)))
    later = features([replace(now, event_time_us=106 * HOUR_US)])[0]
    assert later[SPEC.names.index("card_count_24h")] == 1  # "before" alone
    assert later[SPEC.names.index("card_fraud_count_7d")] == 0  # the chargeback came two hours after the payment


def test_the_order_of_variants_is_kept():
    now = ScoredTransaction("t", 100 * HOUR_US, "tok_a", "m", 90_000, "EUR")
    variants = [replace(now, event_time_us=hours * HOUR_US) for hours in (105, 100, 107, 100)]
    hours = variant_features(ONLINE, now, History())(variants)[:, SPEC.names.index("hour_of_day")]
    assert hours.tolist() == [9, 4, 11, 4]


@pytest.mark.parametrize("change", [{"card_id": "tok_b"}, {"merchant_id": "m2"}])
def test_another_cards_or_merchants_history_is_not_guessed(change):
    now = ScoredTransaction("t", 100 * HOUR_US, "tok_a", "m", 90_000, "EUR")
    with pytest.raises(ContractBroken, match="card and the merchant"):
        variant_features(ONLINE, now, History())([replace(now, **change)])
