"""What would have been approved: found where it exists, exact, and never claimed where it was not scored."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines import limits
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features.online import EntityHistory, History, OnlineEngine, ScoredTransaction
from fraud_pipelines.features.variants import variant_features
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.counterfactual import MOST_CALLS, MOST_VARIANTS, KnownOfCard, counterfactual
from tests.served_models import tiny_bundle

HOUR_US = 3_600_000_000
NOON_US = int(datetime(2025, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000
PAYMENT = ScoredTransaction(
    "txn-77", NOON_US, "tok_0123456789abcdef0123456789abcdef", "merchant-5", 90_000, "EUR", "customer-3",
    "jewelry", "online", "BR", "device-new", 52.5, 13.4, -23.5, -46.6,
)  # fmt: skip
KNOWN = KnownOfCard(
    ("device-1", "device-2"), ("DE", "FR"), ("grocery",), ("DE", 52.5, 13.4), {"DE": (52.5, 13.4), "FR": (48.9, 2.4)}
)
IDENTIFIERS = ("txn-77", PAYMENT.card_id, "merchant-5", "customer-3", "device-new", "device-1", "device-2")


class Scored:
    """A score function of one payment, and what it was asked."""

    def __init__(self, probability: Callable[[ScoredTransaction], float]) -> None:
        self.probability, self.calls = probability, []

    def __call__(self, variants: Sequence[ScoredTransaction]) -> np.ndarray:
        self.calls.append(list(variants))
        assert len(variants) <= MOST_VARIANTS
        assert len(self.calls) <= MOST_CALLS
        return np.array([self.probability(variant) for variant in variants])


def approved_when(condition: Callable[[ScoredTransaction], bool]) -> Scored:
    return Scored(lambda variant: 0.012 if condition(variant) else 0.9)


def search(score: Scored, payment: ScoredTransaction = PAYMENT, known: KnownOfCard = KNOWN, review: float = 0.3):
    return counterfactual(payment, known, score, review)


def test_an_approved_payment_has_none():
    assert search(approved_when(lambda variant: True)) is None


def test_the_largest_approved_amount_is_found_to_the_cent():
    score = approved_when(lambda variant: variant.amount_minor <= 12_050)
    found = search(score)
    assert found.code == "AMOUNT"
    assert found.sentence == (
        "With an amount of 120.50 EUR in place of 900.00 EUR it would have been approved "
        "(probability 1.2 %, review from 30 %)."
    )
    assert (found.probability, found.decision) == (0.012, "APPROVE")
    assert found.variant == replace(PAYMENT, amount_minor=12_050)
    assert found.as_dict() == {
        "code": "AMOUNT",
        "changes": ({"code": "AMOUNT", "before": "900.00 EUR", "after": "120.50 EUR"},),
        "probability": 0.012,
        "decision": "APPROVE",
        "sentence": found.sentence,
        "tried": sum(map(len, score.calls)) - 1,  # all but the payment as it was
    }


def test_a_probability_at_the_threshold_is_no_approval():
    found = search(Scored(lambda variant: 0.3 if variant.amount_minor > 12_050 else 0.2999))
    assert (found.variant.amount_minor, found.probability) == (12_050, 0.2999)
    # An amount that reaches the threshold exactly is passed over by the first grid, and when it is narrowed down.
    for limit in (42_000, 42_001):
        found = search(
            Scored(lambda v, limit=limit: 0.9 if v.amount_minor > limit else 0.3 if v.amount_minor > 5 else 0.1)
        )
        assert found.variant.amount_minor == 5


@given(st.integers(1, limits.LARGEST_AMOUNT_MINOR), st.data())
def test_of_any_monotone_model_the_limit_is_found_within_the_calls_allowed(own, data):
    limit = data.draw(st.integers(0, own - 1))
    found = search(approved_when(lambda variant: variant.amount_minor <= limit), replace(PAYMENT, amount_minor=own))
    assert found.variant is None if limit == 0 else found.variant.amount_minor == limit


@given(st.integers(0, 2**32 - 1), st.integers(2, 5_000), st.floats(0.01, 0.6))
def test_of_any_model_the_amount_found_is_approved_and_a_minor_unit_more_is_not(seed, own, share):
    """Approved amounts scattered at random: nothing monotone about them."""
    approved = np.random.default_rng(seed).random(own + 1) < share
    approved[own] = False
    found = search(
        approved_when(lambda variant: bool(approved[variant.amount_minor])), replace(PAYMENT, amount_minor=own)
    )
    if found.code != "AMOUNT":
        assert not approved[1]  # one minor unit is always tried
    else:
        assert approved[found.variant.amount_minor]
        assert not approved[found.variant.amount_minor + 1]
        assert "at most" not in found.sentence
        assert "or less" not in found.sentence


def test_of_two_separate_ranges_the_upper_one_is_taken():
    found = search(
        approved_when(lambda variant: variant.amount_minor <= 500 or 40_000 <= variant.amount_minor <= 55_555)
    )
    assert found.changes[0].after == "555.55 EUR"


def test_when_only_the_device_matters_the_device_is_the_change_and_is_not_named():
    found = search(approved_when(lambda variant: variant.device_id == "device-2"))
    assert (found.code, found.variant) == ("DEVICE", replace(PAYMENT, device_id="device-2"))
    assert found.sentence.startswith("With a device known for this card in place of a new one it would")


def test_another_country_brings_its_own_place():
    found = search(approved_when(lambda variant: variant.country == "FR" and variant.merchant_latitude == 48.9))
    assert found.code == "COUNTRY"
    assert "With a merchant in FR, a country known for this card, in place of BR it would" in found.sentence
    found = search(
        approved_when(lambda variant: variant.country == "DE"), known=replace(KNOWN, places={}, last_place=None)
    )
    assert (found.variant.merchant_latitude, found.variant.merchant_longitude) == (None, None)


def test_in_a_country_known_for_the_card_the_place_of_its_last_payment_is_tried():
    there = replace(PAYMENT, country="DE")
    found = search(approved_when(lambda variant: variant.merchant_latitude == 52.5), there)
    assert found.code == "PLACE"
    # 6371 km times the angle between 23.5 S 46.6 W and 52.5 N 13.4 E, by the spherical law of cosines.
    assert "where the card's last payment was in place of one 10245 km away" in found.sentence


def test_a_category_is_in_the_structure_but_its_free_text_not_in_the_sentence():
    found = search(approved_when(lambda variant: variant.category == "grocery"))
    assert (found.changes[0].before, found.changes[0].after) == ("jewelry", "grocery")
    assert found.sentence.startswith("With a merchant of a kind known for this card in place of a new one it would")


def test_a_shop_in_place_of_the_internet():
    assert search(approved_when(lambda variant: variant.channel == "pos")).code == "CHANNEL"
    assert search(approved_when(lambda v: v.channel == "pos"), replace(PAYMENT, channel="atm")).code == "NONE_FOUND"


def test_the_smallest_delay_is_found():
    found = search(approved_when(lambda variant: variant.event_time_us >= NOON_US + 6 * HOUR_US))
    assert (found.code, found.changes[0].before, found.changes[0].after) == (
        *("TIME", "2025-03-01 12:00 UTC", "2025-03-01 18:00 UTC"),
    )
    assert found.sentence.startswith("With the payment made 6 hours later it would")


@pytest.mark.parametrize(
    ("limit", "code"),
    [(46_000, "AMOUNT"), (44_000, "DEVICE")],  # half the amount and a known device are as large as each other
)
def test_the_smaller_of_two_changes_is_told(limit, code):
    found = search(approved_when(lambda variant: variant.amount_minor <= limit or variant.device_id == "device-1"))
    assert found.code == code


def test_a_pair_is_told_when_no_single_change_helps():
    found = search(approved_when(lambda v: v.country == "DE" and v.device_id in ("device-1", "device-2")))
    assert found.code == "DEVICE+COUNTRY"
    assert [change.code for change in found.changes] == ["DEVICE", "COUNTRY"]


def test_the_amount_of_a_pair_is_raised_to_the_cent():
    found = search(approved_when(lambda v: v.device_id == "device-1" and v.amount_minor <= 50_005))
    assert (found.code, found.variant) == ("DEVICE+AMOUNT", replace(PAYMENT, device_id="device-1", amount_minor=50_005))


def test_of_each_kind_a_pair_takes_the_value_that_came_closest():
    def probability(variant: ScoredTransaction) -> float:
        if variant.device_id == "device-2":
            return 0.2 if variant.channel == "pos" else 0.6
        return 0.9

    assert search(Scored(probability)).variant == replace(PAYMENT, device_id="device-2", channel="pos")


def test_when_nothing_helps_that_is_what_is_said():
    score = approved_when(lambda variant: False)
    found = search(score)
    assert (found.code, found.changes, found.probability, found.decision, found.variant) == (
        *("NONE_FOUND", (), None, None, None),
    )
    assert len(score.calls) == 2  # single changes, then pairs
    assert found.tried == len(score.calls[0]) - 1 + len(score.calls[1])
    assert found.sentence == (
        f"None of the {found.tried} changes tried, alone or in pairs (a known device, a known country, a known kind of "
        "merchant, in a shop, up to a day later, a smaller amount), would have led to an approval."
    )


def test_a_card_without_history_and_a_payment_of_nothing_are_searched_too():
    bare = ScoredTransaction("t", NOON_US, "tok_a", "m", 0, "EUR")
    assert search(approved_when(lambda variant: False), bare, KnownOfCard()).code == "NONE_FOUND"
    assert search(approved_when(lambda v: v.event_time_us > NOON_US), bare, KnownOfCard()).code == "TIME"


def test_the_fullest_first_call_is_full():
    many = tuple(map(str, range(9)))
    score = approved_when(lambda variant: False)
    search(score, replace(PAYMENT, amount_minor=limits.LARGEST_AMOUNT_MINOR), KnownOfCard(many, many, many))
    assert [len(call) for call in score.calls] == [MOST_VARIANTS, 60]


@pytest.mark.parametrize("scores", [[np.nan] * 64, [0.9], np.full((64, 1), 0.9)])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ContractBroken, match="finite probabilities"):
        counterfactual(PAYMENT, KNOWN, lambda variants: np.array(scores), 0.3)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from((0.05, 0.3, 0.6)),
    st.integers(1, 200_000),
    st.sampled_from(("pos", "online", None)),
    st.sampled_from(("BR", "DE", None)),
)
def test_whatever_is_returned_is_approved_when_scored_again_and_names_nobody(seed, review, amount, channel, country):
    """A random piecewise constant model of all fields."""
    payment = replace(PAYMENT, amount_minor=amount, channel=channel, country=country)

    def probability(variant: ScoredTransaction) -> float:
        key = (variant.amount_minor // 7, variant.event_time_us, variant.device_id, variant.country, variant.channel)
        return float(np.random.default_rng([seed, zlib.crc32(repr(key).encode())]).random() ** 0.2)

    score = Scored(probability)
    found = search(score, payment, review=review)
    present = probability(payment)
    assert (found is None) == (present < review)
    if found is None:
        return
    told = str(found.as_dict())
    assert not [name for name in IDENTIFIERS if name in told]
    assert "jewelry" not in found.sentence
    if found.code == "NONE_FOUND":
        assert all(probability(variant) >= review for call in score.calls for variant in call)
    else:
        assert found.probability == probability(found.variant) < review
        if "AMOUNT" in found.code:
            above = replace(found.variant, amount_minor=found.variant.amount_minor + 1)
            assert probability(above) >= review


def event(hours: float, id_: str, *, country="DE", device="d1", category="grocery", place=(52.5, 13.4)):
    return (NOON_US - int(hours * HOUR_US), id_, 2_000, "m", country, device, category, *place)


def test_what_is_known_of_a_card_is_its_last_30_days_before_the_payment_most_used_first():
    history = History(
        EntityHistory(
            [
                event(31 * 24, "too old", device="d0"),
                event(72, "a", device="d1", country="FR", place=(48.9, 2.4)),
                event(48, "b", device="d2"),
                event(24, "c", device="d3", category=None),
                event(20, "d", device="d2", place=(50.0, 8.0)),
                event(2, "e", device=None, place=(None, 8.0)),
                event(0, "txn-77", device="its own"),
                event(-1, "later", device="d4"),
            ]
        )
    )
    assert KnownOfCard.of(PAYMENT, history) == KnownOfCard(
        devices=("d2", "d3", "d1"),
        countries=("DE", "FR"),
        categories=("grocery",),
        last_place=None,  # the last payment has no place
        places={"FR": (48.9, 2.4), "DE": (50.0, 8.0)},
    )
    assert KnownOfCard.of(PAYMENT, History(EntityHistory(history.card.events[:5]))).last_place == ("DE", 50.0, 8.0)


def test_with_a_real_model_the_line_is_what_scoring_the_changed_payment_gives():
    """The tiny model takes amounts above 500 EUR for fraud; every feature of each variant is computed anew."""
    bundle = tiny_bundle()
    past = [event(hours, f"c{hours}") for hours in range(200, 0, -9)]
    history = History(EntityHistory(past), EntityHistory([(at, id_, 2_000, "tok_x") for at, id_, *_ in past]))
    features = variant_features(OnlineEngine(bundle.spec), PAYMENT, history)

    def score(variants: Sequence[ScoredTransaction]) -> np.ndarray:
        return bundle.predict(features(variants))

    found = counterfactual(PAYMENT, KnownOfCard.of(PAYMENT, history), score, bundle.thresholds.review)
    assert found.code == "AMOUNT"
    assert 40_000 < found.variant.amount_minor < 51_000

    def served(payment: ScoredTransaction) -> float:
        vector = OnlineEngine(bundle.spec).vector(payment, history)
        return float(bundle.predict(to_matrix([vector], bundle.feature_names))[0])

    assert served(found.variant) == found.probability < 0.3
    assert served(replace(found.variant, amount_minor=found.variant.amount_minor + 1)) >= 0.3
