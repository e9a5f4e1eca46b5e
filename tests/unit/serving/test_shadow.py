"""A challenger beside the champion: on real stores, a real journal and real (tiny) models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest

from fraud_pipelines.errors import LedgerUnavailable
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.ledger import Challenge as ChallengeRow
from fraud_pipelines.ledger import Ledger, ShadowDecision, open_ledger
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.models.additive_model import AdditiveModel
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.policy import Thresholds
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.reasons import BUNDLE_CORRUPT, MODEL_EXPIRED
from serving import shadow as shadow_module
from serving.challenge import NOBODY, Challenge, canary_place
from serving.champion import Loaded, ready_to_decide
from serving.champion_watch import CHALLENGER, ChampionWatch
from serving.delivery import Delivery, FeatureNames
from serving.journal import Journal
from serving.metrics import metrics
from serving.scoring import Scorer
from serving.shadow import Compared, Shadow
from tests.journals import drain
from tests.served_models import constant_bundle, tiny_bundle, unable_to_score
from tests.stored_events import NOON, NOON_US, payment, tables_of

TINY = tiny_bundle()
# Half a chance for every payment: REVIEW at 0.25, where the champion says APPROVE or BLOCK.
UNDECIDED = replace(constant_bundle(0.0), thresholds=Thresholds(review=0.25, block=0.75), bands=TINY.bands)


def held(version: str, bundle: Bundle) -> Loaded:
    return ready_to_decide("fraud-scorer", version, bundle.digest, "test", lambda: bundle)


CHAMPION, RIVAL = held("7", TINY), held("8", UNDECIDED)


def with_model(loaded: Loaded, model: AdditiveModel, **changes: object) -> Loaded:
    """The same version, gone wrong after it was tried."""
    champion = replace(loaded.champion, bundle=replace(loaded.champion.bundle, model=model), digest="f" * 64)
    return replace(loaded, champion=champion, **changes)


class Raising(AdditiveModel):
    def scores(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        raise RuntimeError("the challenger is broken")


class Unexplained(AdditiveModel):
    def contributions(self, features: np.ndarray) -> np.ndarray:
        raise RuntimeError("no reasons")


class Stuck(AdditiveModel):
    """Says nothing until it is let go."""

    go = threading.Event()

    def scores(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        self.go.wait(30)
        return super().scores(features)


def of_class(kind: type[AdditiveModel], model: AdditiveModel) -> AdditiveModel:
    return kind(model.feature_count, model.intercept, linear=model.linear)


def shadow_counts() -> dict[str, float]:
    counted = metrics().shadow.collect()[0].samples
    return {sample.labels["outcome"]: sample.value for sample in counted if sample.name.endswith("_total")}


@dataclass
class World:
    """A scorer with everything beside it; `challenger` is what it is compared with from the next group on."""

    ledger: Ledger
    journal: Journal
    names: FeatureNames
    store: OnlineStore
    challenger: Loaded
    before: dict[str, float]

    def __post_init__(self) -> None:
        self.shadow = Shadow(self.journal, linger_seconds=0.0)
        self.challenge = Challenge(lambda: self.challenger)
        self.scorer = Scorer(
            lambda: CHAMPION, lambda spec: self.store, lambda: self.ledger, self.journal,
            rival_of=self.challenge.rival_of, offer=self.shadow.offer, remember_names=self.names.remember,
        )  # fmt: skip

    def decide(self, *transactions: ScoredTransaction) -> list[dict]:
        return [
            orjson.loads(answer.content) for answer in self.scorer.make_durable([self.scorer.decide(transactions)])[0]
        ]

    def compared(self) -> list[ShadowDecision]:
        """What the shadow wrote of everything that was offered, by way of journal and ledger."""
        if not self.shadow._thread.is_alive():
            self.shadow.start()
        self.shadow.stop(20)
        records, _ = drain(self.journal)
        deliver = Delivery(lambda: self.ledger, self.names)
        deliver(records)
        deliver(records)  # as after a crash between delivery and the note of it
        everything = (datetime(2000, 1, 1), datetime(2100, 1, 1))
        return self.ledger.shadow_decisions(self.challenger.champion.digest, *everything)

    @property
    def counted(self) -> dict[str, float]:
        """By outcome, since the test began."""
        now = shadow_counts()
        return {name: now[name] - self.before.get(name, 0) for name in now if now[name] != self.before.get(name, 0)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    store = open_online_store(f"sqlite:///{tmp_path / 'online.sqlite'}", spec=TINY.spec)
    store.rebuild(*tables_of([], []), NOON)
    journal = Journal(tmp_path / "journal", limit_bytes=2**20)
    world = World(ledger, journal, FeatureNames(tmp_path / "names"), store, RIVAL, shadow_counts())
    yield world
    Stuck.go.set()
    world.shadow.stop(5)
    journal.close()
    store.close()
    ledger.close()


def some(count: int, *, cards: int = 1000, first: int = 0) -> list[ScoredTransaction]:
    """Payments in turn of 12.34 and of 900.00, which the champion approves and blocks."""
    return [
        payment(f"t{n}", NOON_US + n * 1_000_000, 90_000 if n % 2 else 1_234, card=f"tok_{n % cards}")
        for n in range(first, first + count)
    ]


def test_both_are_logged_side_by_side_on_the_served_values(world):
    for start in range(0, 30, 10):
        world.decide(*some(10, first=start))
    found = {row.transaction_id: row for row in world.compared()}
    decisions = world.ledger.decisions_on([f"t{n}" for n in range(30)])
    assert set(found) == set(decisions)
    for name, row in found.items():
        served = decisions[name]
        values = np.array([[np.nan if v is None else v for v in served.features.values()]], np.float32)
        assert (row.champion_version, row.champion_digest) == ("7", CHAMPION.champion.digest)
        assert (row.champion_probability, row.champion_decision) == (served.fraud_probability, served.decision)
        assert row.challenger_probability == UNDECIDED.predict(values)[0] == 0.5
        assert (row.challenger_version, row.challenger_decision, row.is_canary) == ("8", "REVIEW", False)
        assert (row.event_time, row.amount_minor) == (served.event_time, served.request["amount_minor"])
    assert world.counted == {"flip": 30}


def test_a_payment_sent_again_is_compared_once_and_one_a_rule_decided_never(world):
    world.decide(*some(2))
    world.decide(*some(2))
    world.store.rebuild(*tables_of([], []), datetime(2026, 1, 1))  # five months before the payments: features too old
    late = world.decide(*some(1, first=4))
    assert late[0]["fallback"] == "features_too_old"
    assert [row.transaction_id for row in world.compared()] == ["t0", "t1"]


@pytest.mark.parametrize("canary_percent", [0.0, 100.0])
def test_on_a_store_that_was_never_filled_neither_decides_and_nothing_is_compared(world, tmp_path, canary_percent):
    world.challenger = replace(RIVAL, canary_percent=canary_percent)
    filled, world.store = world.store, open_online_store(f"sqlite:///{tmp_path / 'new.sqlite'}", spec=TINY.spec)
    filled.close()
    assert [(a["decision"], a["fallback"], a["model"]) for a in world.decide(*some(4))] == [
        ("REVIEW", "online_store_never_filled", None)
    ] * 4
    assert (world.shadow.waiting, world.compared(), world.counted) == (0, [], {})


def test_what_another_process_decided_first_is_left_to_it(world):
    group, shadow = some(2), world.shadow
    offered: list[Compared] = []
    world.scorer._offer = lambda compared, answered: offered.append(compared)
    world.decide(*group)
    shadow.offer(offered[0], {"t1"})
    assert [row.transaction_id for row in world.compared()] == ["t1"]


@pytest.mark.parametrize("canary_percent", [0.0, 50.0])
@pytest.mark.parametrize("kind", ["raises", "says nonsense"])
def test_a_challenger_that_fails_changes_no_answer(world, kind, canary_percent):
    if kind == "raises":
        broken = with_model(RIVAL, of_class(Raising, UNDECIDED.model))
    else:
        broken = with_model(CHAMPION, unable_to_score(TINY.model))
    world.challenger = replace(broken, canary_percent=canary_percent)
    answers = world.decide(*some(40))
    assert [answer["decision"] for answer in answers] == ["APPROVE", "BLOCK"] * 20
    assert {answer["model"]["version"] for answer in answers} == {"7"}
    assert {answer["fallback"] for answer in answers} == {None}
    assert world.compared() == []
    assert world.counted == {"failed": 40}


def test_a_challenger_that_scores_but_has_no_reasons_decides_on_nothing(world):
    world.challenger = with_model(RIVAL, of_class(Unexplained, UNDECIDED.model), canary_percent=100.0)
    assert [(a["decision"], a["model"]["version"]) for a in world.decide(*some(4))] == [
        ("APPROVE", "7"), ("BLOCK", "7"), ("APPROVE", "7"), ("BLOCK", "7"),
    ]  # fmt: skip
    assert [row.is_canary for row in world.compared()] == [False] * 4


def test_a_challenger_that_hangs_holds_up_nothing_and_what_it_misses_is_counted(world, monkeypatch):
    monkeypatch.setattr(shadow_module, "MOST_WAITING", 12)
    world.challenger = with_model(RIVAL, of_class(Stuck, UNDECIDED.model))
    Stuck.go.clear()
    world.shadow.start()
    answers = []
    for start in range(0, 60, 10):
        answers += world.decide(*some(10, first=start))
        if not start:
            while world.shadow.waiting:  # the first ten are with the model now
                threading.Event().wait(0.005)
    assert [answer["decision"] for answer in answers] == ["APPROVE", "BLOCK"] * 30
    assert world.shadow.waiting == 12
    assert world.counted == {"dropped": 38}  # of 50 that came after the first ten
    Stuck.go.set()
    assert len(world.compared()) == 22


def test_the_journal_keeps_its_room_for_decisions(world, monkeypatch):
    world.decide(*some(20))
    pending = world.journal.pending_bytes
    world.journal.limit_bytes = int(pending * 2)
    world.shadow.start()
    world.shadow.stop(20)
    assert world.counted == {"flip": 20, "dropped": 20}
    assert world.journal.pending_bytes == pending
    assert not world.journal.is_full
    assert world.decide(*some(1, first=50))[0]["decision"] == "APPROVE"


# Canary


@pytest.mark.parametrize("percent", [0.5, 5.0, 50.0])
def test_a_canary_takes_its_share_of_the_cards(percent):
    cards = [f"tok_{n:032x}" for n in range(20_000)]
    taken = sum(canary_place(card) < percent for card in cards)
    expected = len(cards) * percent / 100
    # Four standard deviations of a binomial.
    assert abs(taken - expected) < 4 * np.sqrt(expected * (1 - percent / 100))
    assert all(canary_place(card) < 100 for card in cards)


def test_the_place_of_a_card_never_changes():
    # printf 'fraud_pipelines canary 1:tok_a' | sha256sum; its first 12 digits as a share of 2**48, in percent.
    assert canary_place("tok_a") == 0xA2696CDBD5A1 * 100 / 2**48


def test_cards_of_the_canary_are_decided_by_the_challenger_and_always_by_it(world):
    world.challenger = replace(RIVAL, canary_percent=40.0)
    cards = {f"tok_{n}" for n in range(30)}
    canary = {card for card in cards if canary_place(card) < 40}
    assert 0 < len(canary) < 30
    transactions = some(90, cards=30)
    answers = world.decide(*transactions[:45]) + world.decide(*transactions[45:])
    for transaction, answer in zip(transactions, answers, strict=True):
        if transaction.card_id in canary:
            assert (answer["model"]["version"], answer["model"]["bundle_digest"]) == ("8", UNDECIDED.digest)
            assert answer["thresholds"] == {"review": 0.25, "block": 0.75}
            assert (answer["fraud_probability"], answer["decision"]) == (0.5, "REVIEW")
            assert answer["confidence"]["observed_rate"] == pytest.approx(0.4)  # 40 of 100 between 0.3 and 0.7
        else:
            assert answer["model"]["version"] == "7"
            assert answer["thresholds"] == {"review": 0.3, "block": 0.7}
    # Both sides are complete, so the comparison is of all payments.
    rows = {row.transaction_id: row for row in world.compared()}
    stored = world.ledger.decisions_on(list(rows))
    assert len(rows) == len(stored) == 90
    for transaction in transactions:
        row, decision = rows[transaction.transaction_id], stored[transaction.transaction_id]
        assert row.is_canary == (transaction.card_id in canary) == (decision.model_version == "8")
        assert row.challenger_probability == 0.5
        values = np.array([[np.nan if v is None else v for v in decision.features.values()]], np.float32)
        assert row.champion_probability == TINY.predict(values)[0]
        assert row.champion_decision == ("BLOCK" if transaction.amount_minor == 90_000 else "APPROVE")


def test_a_canary_of_everything_and_one_of_nothing(world):
    world.challenger = replace(RIVAL, canary_percent=100.0)
    assert {answer["model"]["version"] for answer in world.decide(*some(20))} == {"8"}
    world.challenger = RIVAL
    assert {answer["model"]["version"] for answer in world.decide(*some(20, first=20))} == {"7"}


def of_other_features() -> Loaded:
    return replace(RIVAL, champion=replace(RIVAL.champion, bundle=replace(UNDECIDED, spec_hash="e" * 64)))


@pytest.mark.parametrize(
    ("challenger", "obstacle"),
    [
        (lambda: NOBODY, "no_challenger"),
        (lambda: Loaded(None, BUNDLE_CORRUPT), "bundle_corrupt"),
        (lambda: CHAMPION, "is_champion"),
        (of_other_features, "other_feature_spec"),
        (lambda: replace(RIVAL, expires_at=utc_now() - timedelta(seconds=1)), MODEL_EXPIRED),
    ],
)
def test_what_cannot_be_compared_soundly_is_not_and_the_champion_decides(world, challenger, obstacle):
    world.challenger = replace(challenger(), canary_percent=100.0)
    assert world.challenge.obstacle(CHAMPION.champion) == obstacle
    assert {answer["model"]["version"] for answer in world.decide(*some(4))} == {"7"}
    assert world.shadow.waiting == 0
    world.challenger = RIVAL
    assert world.challenge.obstacle(CHAMPION.champion) is None


# Following the ledger


@pytest.fixture
def watch(world: World, tmp_path: Path) -> Callable[..., ChampionWatch]:
    def make(open_ledger: Callable[[], Ledger] = lambda: world.ledger) -> ChampionWatch:
        return ChampionWatch(open_ledger, tmp_path / "challengers", bento=NOBODY, review_days=30, role=CHALLENGER)

    return make


def challenged(ledger: Ledger, version: str | None, bundle: Bundle | None = None, percent: float = 0.0) -> None:
    digest = bundle.digest if bundle else None
    ledger.record_challenge(ChallengeRow(version, digest, percent, "ann", "why", datetime(2026, 1, 1)))


def test_a_service_follows_the_challenge_its_canary_and_its_end(world, watch):
    replica = watch()
    assert replica.check_once()
    assert (replica.current.champion, replica.current.cause) == (None, "no_challenger")
    world.ledger.store_bundle("8", UNDECIDED)
    challenged(world.ledger, "8", UNDECIDED)
    assert replica.check_once()
    first = replica.current
    assert (first.champion.version, first.champion.digest, first.canary_percent) == ("8", UNDECIDED.digest, 0.0)
    assert first.expires_at == datetime(2026, 1, 31)
    challenged(world.ledger, "8", UNDECIDED, 5.0)
    assert replica.check_once()
    assert replica.current.canary_percent == 5.0
    assert replica.current.champion.bundle is first.champion.bundle  # nothing is loaded again
    assert replica.state()["challenge_id"] == 2
    challenged(world.ledger, None)
    assert replica.check_once()
    assert (replica.current.champion, replica.state()["challenge_id"]) == (None, None)


def test_a_restart_without_the_ledger_keeps_the_canary(world, watch):
    def away() -> Ledger:
        raise LedgerUnavailable("the ledger is away")

    world.ledger.store_bundle("8", UNDECIDED)
    challenged(world.ledger, "8", UNDECIDED, 5.0)
    watch().check_once()
    again = watch(away)
    assert not again.check_once()
    assert (again.current.champion.version, again.current.canary_percent) == ("8", 5.0)


def test_a_challenger_that_is_replaced_decides_no_more_even_where_the_next_one_cannot_be_used(world, watch):
    world.ledger.store_bundle("8", UNDECIDED)
    challenged(world.ledger, "8", UNDECIDED, 5.0)
    replica = watch()
    replica.check_once()
    challenged(world.ledger, "9", constant_bundle(1.0), 5.0)  # its bundle was never stored
    assert not replica.check_once()
    assert (replica.current.champion, replica.current.cause) == (None, BUNDLE_CORRUPT)
    assert "fraud challenge 9" in replica.problem
    assert watch().current is NOBODY  # nor after a restart
