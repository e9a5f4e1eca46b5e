"""An online store that was never filled from the warehouse: no model decides on its empty histories, on any backend."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.reasons import FALLBACK_REASONS, ONLINE_STORE_NEVER_FILLED
from serving.champion import Loaded
from serving.judging import Validity
from serving.metrics import fallback_of
from tests.served_models import tiny_bundle
from tests.stored_events import MINUTE_US, NOON, NOON_US, fill, payment, tables_of
from tests.workers import Host, saved_champion

APPROVED, BLOCKED = 1_234, 90_000  # minor units: the model was taught that fraud is likely exactly above 500


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return saved_champion(tiny_bundle(), tmp_path_factory.mktemp("champion"))


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """A host whose online store is new."""
    host = Host(tmp_path, as_of=None)
    if request.param != "sqlite":
        host.store_url = str(request.getfixturevalue(f"fresh_{request.param}_url"))
    yield host
    host.close()


def made(transaction_id: str, minutes: float, amount_minor: int = APPROVED) -> ScoredTransaction:
    return payment(transaction_id, NOON_US + round(minutes * MINUTE_US), amount_minor)


def test_a_person_decides_until_it_is_filled_and_what_was_recorded_meanwhile_counts(host: Host, loaded: Loaded):
    worker = host.worker(loaded)
    # By their amounts alone the model would approve the one and block the other.
    meanwhile = [made("small", 0), made("large", 1, BLOCKED)]
    counted = fallback_of(ONLINE_STORE_NEVER_FILLED)._value.get()
    first = worker.decide(*meanwhile)
    for answer in first:
        assert (answer["decision"], answer["fallback"]) == ("REVIEW", ONLINE_STORE_NEVER_FILLED)
        assert [reason["words"] for reason in answer["reasons"]] == [FALLBACK_REASONS[ONLINE_STORE_NEVER_FILLED].words]
        assert answer["fraud_probability"] is answer["model"] is answer["thresholds"] is answer["state_as_of"] is None
    assert fallback_of(ONLINE_STORE_NEVER_FILLED)._value.get() - counted == 2
    worker.deliver()
    # No number that was counted of nothing reaches the parity check.
    assert [decision.features for decision in host.ledger.decisions_on(["small", "large"]).values()] == [{}, {}]
    # The warehouse has one payment of before, and none of the two yet.
    host.store().rebuild(*tables_of([made("before", -60)], []), NOON + timedelta(hours=1))
    answer = worker.answer(made("next", 90))  # the very next one, of the same process
    assert (answer["decision"], answer["fallback"], answer["state_as_of"]) == ("APPROVE", None, "2026-06-01T13:00:00Z")
    assert worker.served("next")["card_count_24h"] == 3
    assert worker.decide(*meanwhile) == first


def test_filled_between_read_and_append_it_lets_the_model_decide(host: Host, loaded: Loaded):
    worker = host.worker(loaded, validity=Validity("BLOCK"))

    def filled_by_another() -> None:
        worker.links.before_append = None
        fill(host.store_url)

    worker.links.before_append = filled_by_another
    answer = worker.answer(made("t", 0))
    assert (answer["decision"], answer["fallback"], answer["state_as_of"]) == ("APPROVE", None, "2026-06-01T12:00:00Z")


def test_a_worker_that_starts_on_a_redis_that_lost_everything_lets_a_person_decide(
    fresh_redis_url: str, tmp_path: Path, loaded: Loaded
):
    import redis

    host = Host(tmp_path, as_of=None)
    host.store_url = fresh_redis_url
    fill(host.store_url)
    assert host.worker(loaded).answer(made("lost", 0))["fallback"] is None
    with redis.Redis.from_url(fresh_redis_url) as client:
        client.flushdb()
    # A worker that knew it before sees that it was emptied; one that starts cannot tell it from a new one.
    assert host.worker(loaded).answer(made("meanwhile", 1))["fallback"] == ONLINE_STORE_NEVER_FILLED
    host.close()
