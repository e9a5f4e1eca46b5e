"""Groups of transactions on their way to durable decisions: real stores, journals and ledger, a real (tiny) model."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.features.reference import Payment, Verdict, reference_features
from fraud_pipelines.features.spec import load_spec, parse_spec
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.online_store.following import Entry, Position
from fraud_pipelines.online_store.state import Reach, from_us, to_us
from fraud_pipelines.reasons import FALLBACK_REASONS
from serving.champion import Loaded
from serving.journal import Journal
from serving.judging import Validity
from serving.problems import Problem
from serving.scoring import ASK_LEDGER_SECONDS
from tests.histories import arrival, histories, scored
from tests.journals import crash
from tests.served_models import constant_bundle, tiny_bundle, unable_to_score
from tests.stored_events import DAY_US, MINUTE_US, NOON, NOON_US, SHORT_SPEC, fill, payment, tables_of
from tests.workers import Host, Worker, saved_champion, with_bundle

SPEC = load_spec()
APPROVED, BLOCKED = 1_234, 90_000  # minor units: the model was taught that fraud is likely exactly above 500
LONGER_SPEC = parse_spec(
    SPEC.text.rstrip("\n")
    + """
      - name: card_count_60d
        description: Payments with this card in the last 60 days.
        data_type: bigint
        config: {meta: {entity: card, measure: count, of: transactions, window: 60d, resolution: event,
          unit: transactions, when_empty: zero, reason: PAYMENTS_ON_CARD}}
"""
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def loaded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return saved_champion(bundle, tmp_path_factory.mktemp("champion"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture
def worker(host: Host, loaded: Loaded) -> Worker:
    return host.worker(loaded)


def made(transaction_id: str = "t-1", minutes: float = 0, amount_minor: int = APPROVED, **values) -> ScoredTransaction:
    return payment(transaction_id, NOON_US + round(minutes * MINUTE_US), amount_minor, **values)


def refused(given: object) -> tuple[int, str]:
    assert isinstance(given, Problem), given
    return given.status, given.code


# What is answered


def test_the_decision_follows_the_probability_and_the_thresholds(worker: Worker, bundle: Bundle):
    small, large = worker.decide(made("small"), made("large", amount_minor=BLOCKED))
    assert (small["decision"], small["reasons"], small["fallback"]) == ("APPROVE", [], None)
    assert small["fraud_probability"] < 0.3
    assert large["decision"] == "BLOCK"
    assert large["fraud_probability"] >= 0.7
    assert large["reasons"][0]["code"] == "AMOUNT"
    pushes = [reason["contribution"] for reason in large["reasons"]]
    assert pushes == sorted(pushes, reverse=True)
    for answer in (small, large):
        assert answer["thresholds"] == {"review": 0.3, "block": 0.7}
        assert answer["model"] == {"name": "fraud-scorer", "version": "7", "bundle_digest": bundle.digest}
        assert answer["feature_spec_hash"] == bundle.spec_hash
        assert (answer["state_as_of"], answer["feature_age_seconds"]) == ("2026-06-01T12:00:00Z", 0.0)
    # Of the model's bands: 3 frauds in 900 below 0.3, 990 in 1000 from 0.7.
    assert small["confidence"]["observed_rate"] == pytest.approx(3 / 900)
    assert large["confidence"]["transactions"] == 1000


def test_what_is_answered_is_durable_and_reaches_the_ledger_whole(worker: Worker, host: Host):
    now = made(amount_minor=BLOCKED, channel="online", device_id="d-1", home_latitude=52.5, home_longitude=13.4)
    answer = worker.answer(now)
    (record,) = worker.deliver()
    stored = host.ledger.decision("t-1")
    assert orjson.loads(record)["answer"] == answer == stored.answer
    assert (stored.decision, stored.fraud_probability) == (answer["decision"], answer["fraud_probability"])
    assert (stored.event_time, stored.card_id, stored.merchant_id) == (NOON, "tok_a", "m1")
    assert ScoredTransaction(**stored.request) == now
    assert stored.reasons == answer["reasons"]
    assert stored.thresholds == answer["thresholds"]
    assert stored.features == worker.served("t-1")
    assert list(stored.features) == list(SPEC.names)
    assert (stored.model_version, stored.feature_spec_hash) == ("7", SPEC.hash)


# Groups


def test_two_payments_of_one_card_in_one_group_count_for_each_other_by_their_time(worker: Worker):
    # Whatever their order in the group: the later one has seen the earlier one, and not the other way round.
    worker.decide(
        made("a1", 0, card="tok_a"),
        made("a2", 1, card="tok_a"),
        made("b2", 1, card="tok_b"),
        made("b1", 0, card="tok_b"),
    )
    assert [worker.served(id_)["card_count_24h"] for id_ in ("a1", "a2", "b1", "b2")] == [0, 1, 0, 1]
    # One merchant: at 12:01 two payments of 12:00 count, and none of the same microsecond.
    assert [worker.served(id_)["merchant_count_1d"] for id_ in ("a1", "b1", "a2", "b2")] == [0, 0, 2, 2]


def test_a_group_decides_as_one_after_the_other_would(host: Host, loaded: Loaded, tmp_path: Path):
    payments = [
        made(f"t{n}", n, 100 * n, card=f"tok_{n % 3}", merchant=f"m{n % 2}", country=("DE", "FR")[n % 2])
        for n in range(12)
    ]
    together, alone = host.worker(loaded), Host(tmp_path / "alone").worker(loaded)
    together.decide(*payments)
    for one in payments:
        alone.decide(one)
    for one in payments:
        assert together.served(one.transaction_id) == alone.served(one.transaction_id)


class Kept:
    """A journal that is a list, for examples by the hundred."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def append(self, records: list[bytes]) -> None:
        self.records += records

    def close(self) -> None:
        pass


@st.composite
def split_histories(draw: st.DrawFn):
    """A history in groups, each later than the one before but in any order within, each for one of two workers."""
    payments, verdicts = draw(histories())
    payments.sort(key=lambda p: p.event_time)
    groups, start = [], 0
    while start < len(payments):
        # What is later than the newest by more than two days may miss the oldest of its history.
        newest = payments[start].event_time + timedelta(days=2)
        group = [p for p in payments[start : start + draw(st.integers(1, 5))] if p.event_time <= newest]
        groups.append((draw(st.permutations(group)), draw(st.integers(0, 1))))
        start += len(group)
    return payments, verdicts, groups


def test_any_split_into_groups_and_workers_serves_the_vectors_of_the_reference(loaded: Loaded):
    @settings(max_examples=40)
    @given(split_histories())
    def every_example(drawn):
        payments, verdicts, groups = drawn
        known_ids = {p.transaction_id for p in payments}
        verdicts = [v for v in verdicts if v.transaction_id in known_ids]
        labels = sorted((arrival(payments, v) for v in verdicts), key=lambda a: a.counts_from_us)
        expected = reference_features(payments, verdicts, SPEC)
        as_of = max(p.event_time for p in payments)
        with tempfile.TemporaryDirectory() as folder, closing(Host(Path(folder), as_of=as_of)) as host:
            workers = [host.worker(loaded, journal=Kept()) for _ in range(2)]
            store = host.store(SPEC)
            for group, index in groups:
                until_us = max(to_us(p.event_time) for p in group)
                while labels and labels[0].counts_from_us <= until_us:
                    store.record_label(labels.pop(0))
                workers[index].decide(*map(scored, group))
            records = [orjson.loads(record) for worker in workers for record in worker.journal.records]
        assert len(records) == len(payments)
        for record in records:
            id_ = record["request"]["transaction_id"]
            served = dict(zip(SPEC.names, record["features"], strict=True))
            differing = {
                name: (value, expected[id_][name])
                for name, value in served.items()
                # Distances and speeds to a billionth, all else to the last bit.
                if value != expected[id_][name] and value != pytest.approx(expected[id_][name], rel=1e-9, abs=1e-9)
            }
            assert not differing, id_

    every_example()


def test_what_the_warehouse_pushed_and_what_was_labelled_counts(worker: Worker, host: Host):
    past = [
        Payment("a", datetime(2026, 5, 29, 9), "tok_a", "m1", 1000, category="5411", country="FR", device_id="d-1"),
        Payment("b", datetime(2026, 5, 31, 23), "tok_a", "m2", 2550, merchant_latitude=52.5, merchant_longitude=13.4),
    ]
    verdict = Verdict("a", datetime(2026, 5, 30), True)
    store = host.store(SPEC)
    store.rebuild(*tables_of(map(scored, past), [arrival(past, verdict)]), datetime(2026, 6, 1))
    now = Payment("t-1", NOON, "tok_a", "m1", 1234, country="DE", merchant_latitude=52.4, merchant_longitude=13.1)
    answer = worker.answer(scored(now))
    assert answer["state_as_of"] == "2026-06-01T00:00:00Z"
    assert answer["feature_age_seconds"] == 12 * 3600
    assert worker.served("t-1") == pytest.approx(reference_features([*past, now], [verdict], SPEC)["t-1"])
    later = replace(now, transaction_id="t-2", event_time=NOON + timedelta(minutes=2))
    said = Verdict("b", NOON + timedelta(minutes=1), True)
    store.record_label(arrival(past, said))
    worker.answer(scored(later))
    expected = reference_features([*past, now, later], [verdict, said], SPEC)["t-2"]
    assert worker.served("t-2") == pytest.approx(expected)


def test_a_payment_long_before_or_after_the_others_spoils_nothing(host: Host, loaded: Loaded):
    """One with a wrong year is the newest of its card from then on; the rest of its history stays, sorted."""
    worker = host.worker(loaded)
    day = 24 * 60
    # A store that knows where the present is does not let one payment move it.
    host.store(SPEC).rebuild(*tables_of([], []), from_us(NOON_US + 39 * DAY_US))
    history = [made(f"d{n}", n * day, card="tok_a") for n in range(40)]
    for start in range(0, 40, 8):
        worker.decide(*history[start : start + 8])
    wrong_year = made("wrong", 400 * day, card="tok_a")
    long_ago = [made(f"old{n}", -300 * day - n, card="tok_a") for n in range(20)]
    now = [made(f"now{n}", 40 * day + n, card="tok_a") for n in range(20)]
    worker.decide(wrong_year)
    worker.decide(*(one for pair in zip(now, long_ago, strict=True) for one in pair))
    # By hand: of days 11 to 39, 29 payments in the 30 days before day 40 (day 10 is 30 days old), and those now.
    assert [worker.served(f"now{n}")["card_count_30d"] for n in (0, 1, 19)] == [29, 30, 48]
    assert [worker.served(f"old{n}")["card_count_30d"] for n in (0, 18, 19)] == [19, 1, 0]
    restarted = host.worker(loaded)
    restarted.decide(made("last", 40 * day + 30, card="tok_a"))
    assert restarted.served("last")["card_count_7d"] == 6 + 20


# The same transaction again


def test_sending_a_transaction_again_returns_the_first_decision_and_counts_once(worker: Worker, host: Host):
    first = worker.answer(made(amount_minor=BLOCKED))
    worker.answer(made("between", -1))  # changes the history
    # What a source may add later makes it no other payment.
    again = worker.answer(made(amount_minor=BLOCKED, device_id="new"))
    assert again == first
    worker.deliver()
    assert len(host.ledger.decisions(datetime(2026, 1, 1), datetime(2027, 1, 1))) == 2
    assert host.store(SPEC).sizes()["transactions"] == 2


def test_twice_in_one_group_is_one_decision(worker: Worker, host: Host):
    one, two, other, changed = worker.decide(made(), made(), made("t-2", 1), made(amount_minor=5))
    assert one == two
    assert refused(changed) == (409, "transaction_id_reused")
    assert other["transaction_id"] == "t-2"
    assert worker.served("t-2")["card_count_24h"] == 1
    assert len(worker.deliver()) == 2


@pytest.mark.parametrize("change", [{"amount_minor": 1}, {"card": "tok_b"}, {"merchant": "m2"}, {"minutes": 1}])
def test_an_identifier_of_another_transaction_is_a_conflict_everywhere(host: Host, loaded: Loaded, change):
    here, there = host.worker(loaded), host.worker(loaded)
    first = here.answer(made())
    for worker in (here, there, host.worker(loaded)):
        refusal, repeat = worker.decide(made(**change), made())
        assert refused(refusal) == (409, "transaction_id_reused")
        assert repeat == first  # it comes second in its group, and is the one that was decided
    assert host.store(SPEC).sizes()["transactions"] == 1


def test_many_workers_and_threads_agree(host: Host, loaded: Loaded):
    workers = [host.worker(loaded) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda w: [w.answer(made(f"t{n}", n)) for n in range(10)], workers))
    assert given[0] == given[1] == given[2] == given[3]
    for worker in workers:
        worker.deliver()
    assert len(host.ledger.decisions(datetime(2026, 1, 1), datetime(2027, 1, 1))) == 10
    # Each has seen exactly those before it, whoever decided on them.
    assert [workers[0].served(f"t{n}")["card_count_24h"] for n in range(10)] == list(range(10))


def test_a_decision_that_only_the_online_store_has_becomes_durable_when_it_is_sent_again(host: Host, loaded: Loaded):
    journal = Journal(host.folder / "full", limit_bytes=10)
    ended = host.worker(loaded, journal=journal)
    assert refused(ended.decide(made())[0]) == (503, "decision_log_full")  # recorded, but not durable
    worker = host.worker(loaded)
    answer = worker.answer(made())
    assert host.store(SPEC).sizes()["transactions"] == 1
    assert worker.answer(made()) == answer
    (record,) = worker.deliver()  # once, not at every repeat
    assert orjson.loads(record)["answer"] == answer == host.ledger.decision("t-1").answer


def test_a_decision_that_only_the_ledger_has_is_returned_and_counts_again(host: Host, loaded: Loaded):
    before = host.worker(loaded)
    answer = before.answer(made())
    before.deliver()
    for file in host.folder.glob("online.sqlite*"):
        file.unlink()
    fill(host.store_url)
    worker = host.worker(loaded)
    assert worker.answer(made()) == answer
    worker.answer(made("t-2", 1))
    assert worker.served("t-2")["card_count_24h"] == 1  # the online store has got it back
    assert worker.deliver()[0].startswith(b'{"kind":"decision","answer":{"transaction_id":"t-2"')


def test_a_decision_of_a_version_that_stored_no_answers_is_returned(host: Host, loaded: Loaded):
    before = host.worker(loaded)
    answer = before.answer(made(amount_minor=BLOCKED))
    before.deliver()
    old = replace(host.ledger.decision("t-1"), transaction_id="old", answer=None)
    host.ledger.record_decision(replace(old, request=old.request | {"transaction_id": "old"}))
    found = host.worker(loaded).answer(made("old", amount_minor=BLOCKED))
    told_only_in_answers = {"confidence": None, "state_as_of": None, "feature_age_seconds": None}
    assert found == answer | told_only_in_answers | {"transaction_id": "old"}


def test_the_ledger_is_asked_of_every_payment_after_a_start_only_where_the_store_lacks_one_of_its_latest(
    host: Host, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
):
    before = host.worker(loaded)
    answers = [before.answer(made(f"t-{number}", number)) for number in range(3)]
    before.deliver()
    asked: list[list[str]] = []
    decisions_on = type(host.ledger).decisions_on
    monkeypatch.setattr(
        type(host.ledger), "decisions_on", lambda ledger, ids: asked.append(list(ids)) or decisions_on(ledger, ids)
    )
    complete = host.worker(loaded)
    assert complete.answer(made("t-9", 9))["decision"] == "APPROVE"
    assert asked == []
    # The store of a server that lost its last commit.
    with closing(sqlite3.connect(host.folder / "online.sqlite")) as connection, connection:
        connection.execute("delete from log where number >= 3")
    incomplete = host.worker(loaded)
    assert incomplete.answer(made("t-2", 2)) == answers[2]
    assert asked == [["t-2"]]
    incomplete.answer(made("t-10", 10))
    assert asked == [["t-2"], ["t-10"]]


def test_an_old_payment_is_asked_of_the_ledger_long_after_the_start(host: Host, loaded: Loaded):
    before = host.worker(loaded)
    answer = before.answer(made())
    before.deliver()
    # The rebuild forgets decisions on payments older than a week.
    host.store(SPEC).rebuild(*tables_of([made()], []), from_us(NOON_US + 8 * DAY_US))
    seconds = [0.0]
    worker = host.worker(loaded, clock=lambda: seconds[0])
    seconds[0] = ASK_LEDGER_SECONDS + 1
    assert worker.answer(made()) == answer


# The online store away


def test_away_at_the_read_a_person_decides_and_the_payment_counts_when_it_is_back(worker: Worker, host: Host):
    worker.links.no_store = True
    answer = worker.answer(made(amount_minor=BLOCKED))
    assert (answer["decision"], answer["fallback"]) == ("REVIEW", "online_store_unavailable")
    assert (answer["fraud_probability"], answer["model"], answer["thresholds"]) == (None, None, None)
    assert [reason["code"] for reason in answer["reasons"]] == ["online_store_unavailable"]
    assert worker.answer(made(amount_minor=BLOCKED)) == answer
    assert len(worker.deliver()) == 1
    assert host.ledger.decision("t-1").features == {}
    worker.links.no_store = False
    assert worker.answer(made("t-2", 1))["fallback"] is None
    assert worker.served("t-2")["card_count_24h"] == 1
    assert worker.answer(made(amount_minor=BLOCKED)) == answer  # the first decision stands


def test_away_at_the_append_the_decision_stands_and_counts_when_it_is_back(worker: Worker, host: Host):
    worker.links.no_append = True
    answer = worker.answer(made())
    assert (answer["decision"], answer["fallback"]) == ("APPROVE", None)
    assert len(worker.deliver()) == 1
    assert host.store(SPEC).sizes()["transactions"] == 0
    worker.links.no_append = False
    later, again = worker.decide(made("t-2", 1), made())
    assert again == answer
    assert later["fallback"] is None
    assert worker.served("t-2")["card_count_24h"] == 1
    assert host.store(SPEC).sizes()["transactions"] == 2


def test_away_for_the_whole_life_of_a_process_the_ledger_remembers(host: Host, loaded: Loaded):
    first = host.worker(loaded)
    first.links.no_store = True
    answer = first.answer(made())
    first.deliver()
    second = host.worker(loaded)
    second.links.no_store = True
    assert second.answer(made()) == answer
    third = host.worker(loaded)
    assert third.answer(made()) == answer
    third.answer(made("t-2", 1))
    assert third.served("t-2")["card_count_24h"] == 1


def test_a_store_that_takes_long_to_fail_holds_up_one_group_and_not_all(host: Host, loaded: Loaded):
    seconds = [0.0]

    def hangs() -> float:
        # Every look at the clock is a second later: whoever waits for the store has waited.
        seconds[0] += 1
        return seconds[0]

    worker = host.worker(loaded, clock=hangs)
    worker.links.no_store = True
    worker.answer(made())
    worker.links.no_store = False
    assert worker.answer(made("t-2"))["fallback"] == "online_store_unavailable"  # it is not asked yet
    seconds[0] += 60
    assert worker.answer(made("t-3", 1))["fallback"] is None
    assert worker.served("t-3")["card_count_24h"] == 2


def test_another_worker_between_read_and_append_is_seen(host: Host, loaded: Loaded):
    here, there = host.worker(loaded), host.worker(loaded)

    def other_decides() -> None:
        here.links.before_append = None
        there.answer(made("theirs", 0))

    here.links.before_append = other_decides
    here.answer(made("ours", 1))
    assert here.served("ours")["card_count_24h"] == 1
    assert len(here.deliver()) == 1


def test_another_worker_that_takes_the_identifier_first_leaves_nothing_behind(host: Host, loaded: Loaded):
    """Its payment with our identifier is of another card: ours must not count for our card, not even in memory."""
    here, there = host.worker(loaded), host.worker(loaded)

    def other_decides() -> None:
        here.links.before_append = None
        there.answer(made("t-1", 0, card="tok_b"))

    here.links.before_append = other_decides
    refusal, beside = here.decide(made("t-1", 0, card="tok_a"), made("t-2", 1, card="tok_a"))
    assert refused(refusal) == (409, "transaction_id_reused")
    assert beside["transaction_id"] == "t-2"
    assert here.served("t-2")["card_count_24h"] == 0
    here.answer(made("t-3", 2, card="tok_a"))
    assert here.served("t-3")["card_count_24h"] == 1
    assert here.served("t-3")["merchant_count_1d"] == 2


# When no model may decide


class FailsOnLarge(Bundle):
    """A model that cannot score payments above 500."""

    def scores(self, matrix):
        if (matrix[:, SPEC.names.index("amount")] > 500).any():
            raise RuntimeError("cannot score this")
        return super().scores(matrix)


class NoNumberOnLarge(Bundle):
    """A model whose probability of payments above 500 is no number."""

    def scores(self, matrix):
        probabilities, anomaly = super().scores(matrix)
        return np.where(matrix[:, SPEC.names.index("amount")] > 500, np.nan, probabilities), anomaly


class ForgetsLarge(Bundle):
    """A model that returns nothing for payments above 500."""

    def scores(self, matrix):
        probabilities, anomaly = super().scores(matrix)
        return probabilities[matrix[:, SPEC.names.index("amount")] <= 500], anomaly


class NoReasons(Bundle):
    """A model that cannot say why."""

    def reasons(self, row, values):
        raise RuntimeError("cannot say why")


@pytest.mark.parametrize("kind", [FailsOnLarge, NoNumberOnLarge, ForgetsLarge, NoReasons])
def test_a_model_that_fails_on_one_row_leaves_the_others_alone(host: Host, loaded: Loaded, bundle: Bundle, kind):
    broken = kind(**{f.name: getattr(bundle, f.name) for f in fields(bundle)})
    worker = host.worker(with_bundle(loaded, broken))
    small, large, another = worker.decide(made("s"), made("l", 1, BLOCKED), made("a", 2))
    assert [(a["decision"], a["fallback"]) for a in (small, large, another)] == [
        ("APPROVE", None), ("REVIEW", "model_failed"), ("APPROVE", None)
    ]  # fmt: skip
    assert large["model"] is None
    assert worker.served("l")["card_count_24h"] == 1  # what it was given is kept
    assert worker.served("a")["card_count_24h"] == 2


CAUSES = ["no_champion", "bundle_corrupt", "model_expired", "features_too_old", "online_state_too_short"]
CAUSES += ["model_failed", "online_store_unavailable", "online_store_never_filled"]


def test_whatever_is_wrong_nothing_is_approved(loaded: Loaded):
    bundle = loaded.champion.bundle
    failing = with_bundle(loaded, replace(bundle, model=unable_to_score(bundle.model)))

    @settings(max_examples=32)
    @given(
        causes=st.sets(st.sampled_from(CAUSES), min_size=1),
        decision=st.sampled_from(["REVIEW", "BLOCK"]),
        amounts=st.lists(st.sampled_from([APPROVED, BLOCKED]), min_size=1, max_size=3),
    )
    def every_example(causes, decision, amounts):
        champion = failing if "model_failed" in causes else loaded
        if "model_expired" in causes:
            champion = replace(champion, expires_at=datetime(2026, 1, 1))
        if causes & {"no_champion", "bundle_corrupt"}:
            champion = Loaded(None, "bundle_corrupt" if "bundle_corrupt" in causes else None)
        filled_at = None if "online_store_never_filled" in causes else NOON
        with tempfile.TemporaryDirectory() as folder, closing(Host(Path(folder), as_of=filled_at)) as host:
            as_of = NOON - timedelta(days=3, minutes="features_too_old" in causes)
            if causes & {"features_too_old", "online_state_too_short"}:
                reach = Reach.of(SHORT_SPEC) if "online_state_too_short" in causes else None
                host.store(SPEC).rebuild(*tables_of([], []), as_of, reach=reach)
            worker = host.worker(champion, validity=Validity(decision), journal=Kept())
            worker.links.no_store = "online_store_unavailable" in causes
            payments = [made(f"t{n}", n / 60, amount) for n, amount in enumerate(amounts)]
            given = worker.decide(*payments)
            for answer in given:
                assert answer["decision"] == decision
                assert answer["fallback"] in causes
                assert [reason["code"] for reason in answer["reasons"]] == [answer["fallback"]]
                assert answer["reasons"][0]["words"] == FALLBACK_REASONS[answer["fallback"]].words
                assert answer["model"] is answer["thresholds"] is answer["fraud_probability"] is None
            assert worker.decide(*payments) == given
            assert len(worker.journal.records) == len(payments)

    for cause in CAUSES:
        every_example = example(causes={cause}, decision="REVIEW", amounts=[APPROVED])(every_example)
    every_example()


def test_features_are_too_old_a_microsecond_after_three_days(host: Host, loaded: Loaded):
    host.store(SPEC).rebuild(*tables_of([], []), from_us(NOON_US - 3 * DAY_US))
    just, over = host.worker(loaded).decide(payment("just", NOON_US), payment("over", NOON_US + 1))
    assert (just["fallback"], over["fallback"]) == (None, "features_too_old")


def test_an_expired_model_no_longer_decides(host: Host, loaded: Loaded):
    expires_at = datetime(2099, 1, 1)
    assert host.worker(replace(loaded, expires_at=expires_at)).answer(made())["fallback"] is None
    assert loaded.is_expired(expires_at) is False  # nobody promoted this one
    assert replace(loaded, expires_at=expires_at).is_expired(expires_at)
    assert not replace(loaded, expires_at=expires_at).is_expired(expires_at - timedelta(microseconds=1))


# Durable, or not answered


def test_what_cannot_be_made_durable_is_not_answered_and_gets_one_decision_later(host: Host, loaded: Loaded):
    journal = Journal(host.folder / "journal", limit_bytes=20_000)
    worker = host.worker(loaded, journal=journal)
    number = 0
    while not isinstance((given := worker.decide(made(f"t{number}", number))[0]), Problem):
        number += 1
    assert number > 1
    assert refused(given) == (503, "decision_log_full")
    assert refused(worker.decide(made(f"t{number}", number))[0]) == (503, "decision_log_full")
    assert len(worker.deliver()) == number
    answer = worker.answer(made(f"t{number}", number))
    assert worker.answer(made(f"t{number}", number)) == answer
    assert len(worker.deliver()) == 1
    worker.answer(made("last", number + 1))
    assert worker.served("last")["card_count_24h"] == number + 1


def test_without_a_journal_nothing_is_answered(host: Host, loaded: Loaded):
    worker = host.worker(loaded)
    worker.journal.close()
    given = worker.decide(made(), made("t-2"))
    assert [refused(one) for one in given] == [(503, "decision_log_unavailable")] * 2
    assert all(one.next_step for one in given)
    assert host.ledger.decision("t-1") is None


def test_an_answered_decision_survives_the_end_of_its_process_and_the_loss_of_the_online_store(
    host: Host, loaded: Loaded
):
    ended = host.worker(loaded)
    ended.links.no_store = True
    answer = ended.answer(made())
    crash(ended.journal)
    host._journals.remove(ended.journal)
    after = host.worker(loaded)
    assert len(after.deliver()) == 1  # the other process's
    assert after.answer(made()) == answer


# Another model


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A model that approves everything, with a feature that looks back 60 days."""
    return saved_champion(constant_bundle(-5.0, LONGER_SPEC), tmp_path_factory.mktemp("longer"), "8")


def test_a_swap_to_longer_windows_waits_for_a_longer_state(host: Host, loaded: Loaded, longer: Loaded):
    assert LONGER_SPEC.names == (*SPEC.names, "card_count_60d")
    current = [loaded]
    worker = host.worker(lambda: current[0])
    old = payment("old", NOON_US - 50 * DAY_US)
    host.store(SPEC).rebuild(*tables_of([], []), NOON)
    assert worker.answer(made("t-1"))["fallback"] is None
    current[0] = longer
    swapped = worker.answer(made("t-2", 1))
    assert (swapped["decision"], swapped["fallback"]) == ("REVIEW", "online_state_too_short")
    assert worker.answer(made("t-1"))["fallback"] is None  # decided before: it stands
    host.store(LONGER_SPEC).rebuild(*tables_of([old], []), NOON)
    assert worker.answer(made("t-3", 2))["fallback"] is None
    served = worker.served("t-3")
    assert (served["card_count_60d"], served["card_count_30d"]) == (3, 2)
    current[0] = loaded
    worker.answer(made("t-4", 3))
    assert "card_count_60d" not in worker.served("t-4")
    assert worker.served("t-4")["card_count_30d"] == 3
    # Names of either spec reach the ledger, from a process that serves only one of them.
    restarted = host.worker(loaded)
    worker.deliver()
    assert len(host.ledger.decision("t-3").features) == len(LONGER_SPEC.names)
    assert len(host.ledger.decision("t-4").features) == len(SPEC.names)
    assert restarted.answer(made("t-3", 2)) == worker.answer(made("t-3", 2))


def test_while_the_state_is_too_short_two_workers_give_one_answer(host: Host, loaded: Loaded):
    host.store(SPEC).rebuild(*tables_of([], []), NOON, reach=Reach.of(SHORT_SPEC))
    here, there = host.worker(loaded), host.worker(loaded)
    for worker in (here, there):
        worker.links.no_ledger = True
    answer = here.answer(made())
    assert answer["fallback"] == "online_state_too_short"
    assert there.answer(made()) == answer
    assert refused(there.decide(made(amount_minor=5))[0]) == (409, "transaction_id_reused")
    for worker in (here, there):
        assert [orjson.loads(record)["answer"] for record in worker.deliver()] == [answer]
    assert host.store(SPEC).sizes()["transactions"] == 1  # at once, not with the next payment


# Whom `find` asks


def test_a_decision_is_found_wherever_it_is(host: Host, loaded: Loaded):
    worker = host.worker(loaded)
    worker.links.no_store = True
    answer = worker.answer(made())
    assert worker.scorer.find("t-1").answer == answer  # in memory
    worker.links.no_store = False
    worker.answer(made("t-2", 1))
    other = host.worker(loaded)
    assert other.scorer.find("t-1").answer == answer  # in the online store
    worker.deliver()
    other.links.no_store = True
    assert other.scorer.find("t-1").answer == answer  # in the ledger
    assert other.scorer.find("none") is None
    other.links.no_ledger = True
    with pytest.raises(Exception, match="cut"):
        other.scorer.find("t-1")


def test_questions_and_a_swap_at_once_end_in_no_fallback(host: Host, loaded: Loaded, longer: Loaded):
    """What a question opens must not be closed under the payment that is being decided, nor the other way round."""
    champions = [loaded, longer]
    current = [loaded]
    host.store(LONGER_SPEC).rebuild(*tables_of([], []), NOON)
    worker = host.worker(lambda: current[0])
    worker.answer(made("first"))
    over = []

    def ask() -> None:
        while not over:
            assert worker.scorer.find("first") is not None

    with ThreadPoolExecutor(2) as pool:
        questions = [pool.submit(ask) for _ in range(2)]
        fallbacks = []
        for number in range(20):
            current[0] = champions[number % 2]
            fallbacks += [worker.answer(made(f"{number}-{n}", number + n / 10))["fallback"] for n in range(3)]
        over.append(True)
        for question in questions:
            question.result()
    assert set(fallbacks) == {None}


def test_an_entry_recorded_by_hand_is_what_the_store_returns(host: Host, loaded: Loaded, worker: Worker):
    """The record in the online store is the journal's, byte by byte."""
    worker.answer(made())
    (record,) = worker.deliver()
    outcome = host.store(SPEC).append(Position(0, 10**9), [Entry(made(), b"{}")])
    assert outcome.is_reset or outcome.decided == {"t-1": record}
    assert host.store(SPEC).decision("t-1") == record
