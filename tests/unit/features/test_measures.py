"""Every measure on a history small enough to work by hand, through the reference and through the online engine."""

import math
from datetime import datetime

import pytest

from fraud_pipelines.features.online import OnlineEngine
from fraud_pipelines.features.reference import Payment, Verdict, reference_features
from fraud_pipelines.features.spec import (
    NEVER_EMPTY,
    TRANSACTION_VALUES,
    WINDOW_MEASURES,
    Feature,
    FeatureSpec,
    LargeAmount,
    parse_window,
)
from tests.histories import DAY, HOUR, MICROSECOND, online_history, scored

NOW = datetime(2026, 6, 6, 6, 0)  # a Saturday
LARGE = LargeAmount(parse_window("30d"), 25, 3, "30d")  # above 2.5 times the mean of at least 3 in 30 days
QUARTER_KM = 6371.0088 * math.pi / 2  # from the equator to a pole


def ago(hours, amount_minor=1_000, *, id_=None, **values):
    """A payment of the same card at the same merchant, so many hours before."""
    values = {"card_id": "c1", "merchant_id": "m1", **values}
    return Payment(id_ or f"-{hours}h", NOW - hours * HOUR, amount_minor=amount_minor, **values)


def known(hours, verdict, of):
    """A label known so many hours before, of the payment `of` hours before."""
    return Verdict(f"-{of}h", NOW - hours * HOUR, verdict == "fraud")


def value(definition, past, verdicts=(), **present):
    """The feature of a payment of 45.00 now; both routes must give the same."""
    entity, measure, *_, of = definition.split()[:4]
    window = definition.split()[4] if entity != "transaction" else None
    when_empty = "zero" if measure in NEVER_EMPTY else "missing"
    feature = Feature(
        "f", entity, measure, of, parse_window(window) if window else None, "event", "", when_empty, "", "", "", window
    )
    spec = FeatureSpec((feature,), "", LARGE)
    now = ago(0, **{"amount_minor": 4_500, "id_": "now", **present})
    payments = [now, *past]
    expected = reference_features(payments, verdicts, spec)["now"]["f"]
    found = OnlineEngine(spec).vector(scored(now), online_history(payments, verdicts, now))["f"]
    assert is_equal(found, expected)
    return found


def is_equal(found, expected):
    """To 4 units in the last place; missing equals missing."""
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=1e-15)


AMOUNTS = [ago(72, 1_000), ago(48, 2_000), ago(1.5, 6_000)]
# Usually 1.00. Then 2.51, which is above 2.5 x 1.00; then 3.44, which is not above 2.5 x (5.51 / 4) = 3.44375.
SPIKE = [ago(100, 100), ago(99, 100), ago(98, 100), ago(50, 251), ago(40, 344)]
EXACTLY_AT_THE_LIMIT = [ago(100, 100), ago(99, 100), ago(98, 100), ago(50, 250)]
# The three that a payment of 10 hours ago is compared with are 29 days older than it.
OLD_BASELINE = [*(ago(29 * 24 + 9 + k, 100) for k in (0, 1, 0.5)), ago(10, 1_000)]
NIGHTS = [ago(1), ago(7), ago(24)]  # Saturday 05:00, Friday 23:00, Friday 06:00
VALUES = [
    ago(9, merchant_id="m1", country="DE", device_id="d1", category=None),
    ago(8, merchant_id="m2", country="FR", device_id=None, category=None),
    ago(7, merchant_id="m1", country="DE", device_id="d2", category=None),
    ago(25, merchant_id="m3", country="PL", device_id="d3", category="food"),
]
# At one moment: by code point t10 comes before t9.
TIED = [ago(2, id_="t9", country="FR"), ago(2, id_="t10", country="DE")]
AT_THE_POLE = [ago(2, merchant_latitude=90.0, merchant_longitude=0.0)]
ON_THE_EQUATOR = {"merchant_latitude": 0.0, "merchant_longitude": 120.0}
# Settled at 10.00 and 30.00; fraud, genuine, then two frauds.
SETTLED = [ago(200, 1_000), ago(201, 3_000), ago(202), ago(203), ago(204)]
LABELS = [
    *(known(10, "genuine", of=200), known(5, "fraud", of=202), known(3, "genuine", of=201)),
    *(known(2, "fraud", of=203), known(1, "fraud", of=204)),
]
# Usually 1.00. Reported after a payment of its own, 5.00 is 2.5 times the mean of all four, and 5.01 is above that.
USUAL = [ago(100, 100), ago(99, 100), ago(98, 100)]
LIMIT, ABOVE = ago(50, 500), ago(50, 501)
REPORTED = [known(5, "fraud", of=50)]
SAME_MOMENT = [known(3, "genuine", of=200), known(3, "fraud", of=201)]

CASES = [
    ("card count of transactions 7d", AMOUNTS, (), {}, 3),
    ("card count of transactions 24h", AMOUNTS, (), {}, 1),
    ("card sum of amount 7d", AMOUNTS, (), {}, 90),
    ("card mean of amount 7d", AMOUNTS, (), {}, 30),
    ("card std of amount 7d", AMOUNTS, (), {}, math.sqrt(700)),  # (20^2 + 10^2 + 30^2) / 2
    ("card std of amount 24h", AMOUNTS, (), {}, None),  # one amount has no deviation
    ("card max of amount 7d", AMOUNTS, (), {}, 60),
    ("card min of amount 7d", AMOUNTS, (), {}, 10),
    ("card ratio_to_mean of amount 7d", AMOUNTS, (), {}, 1.5),  # 45 / 30
    ("card ratio_to_mean of amount 7d", [ago(1, 0)], (), {}, None),  # a mean of 0 is nothing to divide by
    ("card zscore of amount 7d", AMOUNTS, (), {}, 15 / math.sqrt(700)),  # (45 - 30) / std
    ("card zscore of amount 7d", AMOUNTS, (), {"amount_minor": 1_500}, -15 / math.sqrt(700)),
    ("card zscore of amount 7d", [ago(1), ago(2)], (), {}, None),  # all the same
    ("card count of same_merchant 7d", VALUES, (), {}, 2),
    ("card count of large_amounts 7d", SPIKE, (), {}, 1),
    ("card count of large_amounts 7d", EXACTLY_AT_THE_LIMIT, (), {}, 0),
    ("card count of large_amounts 7d", SPIKE[:2] + SPIKE[3:4], (), {}, 0),  # two before it are too few
    ("card count of large_amounts 24h", OLD_BASELINE, (), {}, 1),
    ("card time_since_last of large_amount 7d", SPIKE, (), {}, 50 * 60),
    ("card time_since_last of large_amount 24h", SPIKE, (), {}, None),
    ("card max of amount_ratio 7d", SPIKE, (), {}, 2.51),  # the other is 3.44 / 1.3775 = 2.497
    ("card max of amount_ratio 24h", OLD_BASELINE, (), {}, 10),
    ("card max of amount_ratio 7d", AMOUNTS, (), {}, None),
    # Settled, settled at this very moment, not yet, never.
    ("card count of unlabelled 7d", [ago(9), ago(8), ago(7), ago(6)],
     [known(1, "fraud", of=9), known(0, "genuine", of=8), known(-1, "genuine", of=7)], {}, 2),
    ("card count of unlabelled 1d", [ago(9)], [known(100, "genuine", of=9)], {}, 0),  # known before it happened
    ("card share of night 7d", NIGHTS, (), {}, 2 / 3),
    ("card share of weekend 7d", NIGHTS, (), {}, 1 / 3),
    ("card distinct of merchant 24h", VALUES, (), {}, 2),
    ("card distinct of country 7d", VALUES, (), {}, 3),
    ("card distinct of device 24h", VALUES, (), {}, 2),  # the unknown one aside
    ("card distinct of category 7d", VALUES, (), {}, 1),
    ("card distinct of category 24h", VALUES, (), {}, None),  # none is known
    ("merchant distinct of card 7d", [ago(1), ago(2, card_id="c2"), ago(3, card_id="c2")], (), {}, 2),
    ("card is_new of merchant 7d", VALUES, (), {"merchant_id": "m4"}, 1),
    ("card is_new of merchant 7d", VALUES, (), {}, 0),
    ("card is_new of merchant 7d", [], (), {}, 1),
    ("card is_new of country 24h", VALUES, (), {"country": "PL"}, 1),  # last seen 25 hours ago
    ("card is_new of device 7d", VALUES, (), {"device_id": "d2"}, 0),
    ("card is_new of category 24h", VALUES, (), {"category": "food"}, 1),
    ("card is_new of category 7d", VALUES, (), {}, None),  # its own is not known
    ("card is_changed of country 7d", TIED, (), {"country": "FR"}, 0),
    ("card is_changed of country 7d", TIED, (), {"country": "DE"}, 1),
    ("card is_changed of country 7d", TIED, (), {}, None),
    ("card is_changed of country 1h", TIED, (), {"country": "DE"}, None),
    ("card is_changed of device 7d", VALUES[:1], (), {"device_id": "d2"}, 1),
    ("card is_changed of device 7d", VALUES[:2], (), {"device_id": "d1"}, None),  # the last one's is not known
    ("card time_since_last of transaction 7d", AMOUNTS, (), {}, 90),
    ("card time_since_last of transaction 1h", AMOUNTS, (), {}, None),
    ("card distance_from_last of place 7d", AT_THE_POLE, (), ON_THE_EQUATOR, QUARTER_KM),
    ("card distance_from_last of place 7d", AT_THE_POLE, (), {"merchant_latitude": 0.0}, None),
    ("card distance_from_last of place 7d", [*AT_THE_POLE, ago(1)], (), ON_THE_EQUATOR, None),
    ("card speed_from_last of place 7d", AT_THE_POLE, (), ON_THE_EQUATOR, QUARTER_KM / 2),
    ("merchant count of ordinary_frauds 7d", [*USUAL, LIMIT], REPORTED, {}, 1),
    ("merchant count of ordinary_frauds 7d", [*USUAL, ABOVE], REPORTED, {}, 0),
    ("merchant count of ordinary_frauds 7d", [*USUAL, LIMIT], [known(5, "genuine", of=50)], {}, 0),
    ("merchant count of ordinary_frauds 7d", [*USUAL, LIMIT], [*REPORTED, known(3, "fraud", of=50)], {}, 2),
    ("merchant count of ordinary_frauds 5h", [*USUAL, LIMIT], REPORTED, {}, 0),  # known too long ago
    # Two payments before the label, its own among them, are too few; nothing is above a mean of 0.
    ("merchant count of ordinary_frauds 7d", [ago(100, 1), ago(50, 9_000)], REPORTED, {}, 1),
    ("merchant count of ordinary_frauds 7d", [ago(53, 0), ago(52, 0), ago(51, 0), ago(50, 0)], REPORTED, {}, 1),
    # A payment between the fraud and its label counts; one of the label's moment does not: 5.01 is below 2.5 x 2.337.
    ("merchant count of ordinary_frauds 7d", [*USUAL[:2], ABOVE, ago(5.5, 100)], REPORTED, {}, 0),
    ("merchant count of ordinary_frauds 7d", [*USUAL[:2], ABOVE, ago(5, 100)], REPORTED, {}, 1),
    # Nor does one of exactly 30 days before the label: 5 hours ago, hence 725.
    ("merchant count of ordinary_frauds 7d", [*USUAL[:2], ABOVE, ago(724.5, 100)], REPORTED, {}, 0),
    ("merchant count of ordinary_frauds 7d", [*USUAL[:2], ABOVE, ago(725, 100)], REPORTED, {}, 1),
    # However old the fraud is, it is compared with what was before its label.
    ("merchant count of ordinary_frauds 7d", [*USUAL, ago(9_000, 250)], [known(5, "fraud", of=9_000)], {}, 1),
    ("merchant count of ordinary_frauds 7d", [*USUAL, ago(9_000, 251)], [known(5, "fraud", of=9_000)], {}, 0),
    ("merchant time_since_last of ordinary_fraud 7d", [*USUAL, LIMIT, ago(49, 900)],
     [known(6, "fraud", of=50), known(5, "fraud", of=49)], {}, 6 * 60),
    ("merchant time_since_last of ordinary_fraud 6h", [*USUAL, LIMIT], [known(6, "fraud", of=50)], {}, None),
    ("card count of labels 7d", SETTLED, LABELS, {}, 5),
    ("card count of labels 3h", SETTLED, LABELS, {}, 2),
    ("card count of frauds 7d", SETTLED, LABELS, {}, 3),
    ("card share of frauds 7d", SETTLED, LABELS, {}, 3 / 5),
    ("card last of label 7d", SETTLED, LABELS, {}, 1),
    ("card last of label 7d", SETTLED, LABELS[:3], {}, 0),
    ("card last of label 7d", SETTLED, SAME_MOMENT, {}, 1),  # fraud wins
    ("card streak of frauds 7d", SETTLED, LABELS, {}, 2),
    ("card streak of frauds 7d", SETTLED, LABELS[:3], {}, 0),
    ("card streak of frauds 3h", SETTLED, LABELS, {}, 2),  # without a genuine one in the window: all
    ("card streak of frauds 7d", SETTLED, SAME_MOMENT, {}, 0),  # not after the genuine one
    ("card streak_age of frauds 7d", SETTLED, LABELS, {}, 120),
    ("card streak_age of frauds 7d", SETTLED, LABELS[:3], {}, None),
    ("card time_since_last of fraud 7d", SETTLED, LABELS, {}, 60),
    ("card time_since_last of genuine 7d", SETTLED, LABELS, {}, 180),
    ("card time_since_last of genuine 3h", SETTLED, LABELS, {}, None),
    ("card ratio_to_mean of genuine_amount 7d", SETTLED, LABELS, {}, 2.25),  # 45 / ((10 + 30) / 2)
    ("card ratio_to_mean of genuine_amount 3h", SETTLED, LABELS, {}, None),
    ("transaction value of amount", (), (), {}, 45),
    ("transaction value of hour_of_day", (), (), {}, 6),
    ("transaction value of day_of_week", (), (), {}, 5),
    ("transaction value of is_weekend", (), (), {}, 1),
    ("transaction value of is_night", (), (), {}, 1),
    ("transaction value of is_online", (), (), {"channel": "online"}, 1),
    ("transaction value of is_online", (), (), {"channel": "pos"}, 0),
    ("transaction value of is_atm", (), (), {"channel": "atm"}, 1),
    ("transaction value of is_atm", (), (), {}, None),
    ("transaction value of home_distance", (), (),
     {"home_latitude": -90.0, "home_longitude": 7.0, **ON_THE_EQUATOR}, QUARTER_KM),
    ("transaction value of home_distance", (), (), ON_THE_EQUATOR, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("definition", "past", "verdicts", "present", "expected"),
    CASES,
    ids=[f"{n} {case[0]}" for n, case in enumerate(CASES)],
)
def test_a_number_worked_by_hand(definition, past, verdicts, present, expected):
    assert is_equal(value(definition, past, verdicts, **present), expected)


def test_every_measure_has_such_a_number():
    worked = {(words[1], words[3]) for words in (case[0].split() for case in CASES)}
    assert worked >= {(measure, of) for measure, choices in WINDOW_MEASURES.items() for of in choices}
    assert worked >= {("value", of) for of in TRANSACTION_VALUES}


@pytest.mark.parametrize("measure", WINDOW_MEASURES)
def test_nothing_gives_0_or_missing(measure):
    for of in WINDOW_MEASURES[measure]:
        entity = "merchant" if of == "card" else "card"
        assert value(f"{entity} {measure} of {of} 7d", []) == (
            0 if measure in NEVER_EMPTY else 1 if (measure, of) == ("is_new", "merchant") else None
        ), of


@pytest.mark.parametrize(("age", "counted"), [(0 * HOUR, 0), (MICROSECOND, 1), (DAY - MICROSECOND, 1), (DAY, 0)])
def test_a_transaction_counts_when_its_age_is_above_0_and_below_the_window(age, counted):
    past = Payment("p", NOW - age, "c1", "m1", 1_000)
    assert value("card count of transactions 24h", [past]) == counted
    assert value("merchant count of unlabelled 1d", [past]) == counted


@pytest.mark.parametrize(("age", "counted"), [(-MICROSECOND, 0), (0 * HOUR, 1), (DAY - MICROSECOND, 1), (DAY, 0)])
def test_a_label_counts_when_its_age_is_at_least_0_and_below_the_window(age, counted):
    assert value("merchant count of labels 1d", [ago(500)], [Verdict("-500h", NOW - age, True)]) == counted


def test_a_label_of_the_same_moment_as_its_transaction_counts_a_microsecond_later():
    past = Payment("p", NOW - MICROSECOND, "c1", "m1", 1_000)
    assert value("card count of frauds 1d", [past], [Verdict("p", past.event_time, True)]) == 1
    present = Payment("p", NOW, "c1", "m1", 1_000)
    assert value("card count of frauds 1d", [present], [Verdict("p", NOW, True)]) == 0


def test_card_and_merchant_do_not_mix():
    past = [ago(1, merchant_id="m2"), ago(2, card_id="c2"), ago(3, card_id="c2")]
    assert value("card count of transactions 1d", past) == 1
    assert value("merchant count of transactions 1d", past) == 2
    # What is large for a merchant is measured against its own transactions.
    usual = [ago(10, 100, card_id="c2"), ago(9, 100, card_id="c3"), ago(8, 100, card_id="c4"), ago(7, 300)]
    assert value("merchant count of large_amounts 1d", usual) == 1
    assert value("card count of large_amounts 1d", usual) == 0
    report = [known(1, "fraud", of=7)]
    usual[-1] = ago(7, 501)
    assert value("merchant count of ordinary_frauds 1d", usual, report) == 0
    assert value("card count of ordinary_frauds 1d", usual, report) == 1


def test_huge_amounts_stay_exact_until_the_root():
    # 3e9 and 3e9 - 1: deviation sqrt(0.5) cents. Doubles squared on the way would give 0.
    huge = [ago(2, 3_000_000_000), ago(1, 2_999_999_999)]
    assert value("card std of amount 1d", huge) == math.sqrt(0.5) / 100
    # The present one is half a cent above the mean.
    assert is_equal(value("card zscore of amount 1d", huge, amount_minor=3_000_000_000), 0.5 / math.sqrt(0.5))
