"""Two replicas under load follow promotion and rollback: nothing fails, nobody goes back, both end on one version."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from fraud_pipelines.errors import UnknownVersion
from fraud_pipelines.ledger import Ledger, Promotion, open_ledger
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.ledger.schema import model_bundles
from fraud_pipelines.models.bento import BuiltBento
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.gates import Gate
from fraud_pipelines.models.promotion import promote, rollback
from fraud_pipelines.settings import Settings
from tests.killable_service import KillableService, serving
from tests.payment_senders import made
from tests.served_models import tiny_bundle
from tests.stored_events import fill

WHO = {"actor": "ada", "reason": "ticket 812"}
PASSED = [Gate("average_precision_reaches_floor", 0.5, 0.15, True, "0.5, at least 0.15 is needed")]


class Shelf:
    """A registry of some bundles, with its aliases in memory."""

    def __init__(self, bundles: dict[str, Bundle]) -> None:
        self.bundles, self.aliases = bundles, {}

    def version_of(self, alias: str) -> str | None:
        return self.aliases.get(alias)

    def set_alias(self, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def clear_alias(self, alias: str) -> None:
        self.aliases.pop(alias, None)

    def load(self, version: str) -> Bundle:
        if version not in self.bundles:
            raise UnknownVersion(f"no version {version}")
        return self.bundles[version]


@dataclass(frozen=True)
class Answered:
    """One request: to which replica, when it was sent and answered (time.monotonic), and by which version."""

    replica: str
    sent: float
    received: float
    status: int
    version: str | None


class Load:
    """Two connections to each replica that send payments all the time; a failed request is noted, not repeated."""

    def __init__(self, *urls: str) -> None:
        self.answered: list[Answered] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, number)) for url in urls for number in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Until every replica answered so many more requests."""
        before = len(self.answered)
        replicas = {answered.replica for answered in self.answered}
        wait_until(lambda: all(len([a for a in self.answered[before:] if a.replica == r]) >= more for r in replicas))

    def _run(self, url: str, number: int) -> None:
        draw, count = random.Random(number), 0
        with httpx.Client(base_url=url, timeout=30) as client:
            while not self._is_over.is_set():
                count += 1
                sent = time.monotonic()
                try:
                    response = client.post("/score", json=made(f"{url}-{number}-{count}", draw))
                    status, body = response.status_code, response.json()
                except httpx.HTTPError:
                    status, body = 0, {}
                version = (body.get("model") or {}).get("version")
                self.answered.append(Answered(url, sent, time.monotonic(), status, version))
                time.sleep(0.003)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True)
class Story:
    """What was answered, and the moments just after each ledger row: version 8 promoted, rolled back to 7."""

    answered: list[Answered]
    promoted_at: float
    rolled_back_at: float
    corrupt_at: float
    health: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def story(
    postgres_server: Any,
    service_settings: Settings,
    built: BuiltBento,
    bundle_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("swap")
    urls = [postgres_server.create_database() for _ in range(2)]
    shared = dict(zip(("ledger_url", "online_store_url"), urls, strict=True))
    ledger = open_ledger(shared["ledger_url"])
    fill(shared["online_store_url"], utc_now())
    shelf = Shelf({"7": Bundle.load(bundle_folder), "8": tiny_bundle(seed=1), "9": tiny_bundle(seed=2)})
    promote(shelf, ledger, version="7", gates=PASSED, **WHO)
    replicas = [
        KillableService(service_settings.model_copy(update={**shared, "home": folder / name}), built, folder / name)
        for name in ("one", "other")
    ]
    for replica in replicas:
        replica.settings.home.mkdir()
        replica.log = replica.settings.home / "log"
    with serving(*replicas):
        with Load(*(replica.url for replica in replicas)) as load:
            wait_until(lambda: len(load.answered) > 40)
            load.wait_for(20)
            promote(shelf, ledger, version="8", gates=PASSED, **WHO)
            promoted_at = time.monotonic()
            all_answer(load, "8")
            load.wait_for(20)
            rollback(shelf, ledger, **WHO)
            rolled_back_at = time.monotonic()
            all_answer(load, "7")
            load.wait_for(20)
            promote_damaged(ledger, "9", shelf.bundles["9"])
            corrupt_at = time.monotonic()
            wait_until(lambda: all(health_of(replica)["model"]["pending"] for replica in replicas))
            load.wait_for(20)
        health = {replica.url: health_of(replica) for replica in replicas}
        story = Story(load.answered, promoted_at, rolled_back_at, corrupt_at, health)
    ledger.close()
    yield story
    for url in urls:
        postgres_server.drop_database(url)


def all_answer(load: Load, version: str) -> None:
    """Wait until the last answer of each replica is of a version."""
    wait_until(lambda: {a.replica: a.version for a in list(load.answered)} == dict.fromkeys(
        (a.replica for a in list(load.answered)), version
    ))  # fmt: skip


def promote_damaged(ledger: Ledger, version: str, bundle: Bundle) -> None:
    """A champion whose content is not what its digest says."""
    ledger.store_bundle(version, bundle)
    content = bytearray(ledger.bundle_content(bundle.digest) or b"")
    content[len(content) // 2] ^= 1
    with ledger._engine.begin() as connection:
        connection.execute(
            update(model_bundles).where(model_bundles.c.bundle_digest == bundle.digest).values(content=bytes(content))
        )
    ledger.record_promotion(Promotion("promote", version, "7", "ada", "why", [], bundle_digest=bundle.digest))


def health_of(replica: KillableService) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{replica.url}/health", timeout=10).json()
    return found


def test_no_request_fails_and_every_answer_names_a_version_that_was_champion(story: Story):
    assert len(story.answered) > 150
    assert {answered.status for answered in story.answered} == {200}
    assert {answered.version for answered in story.answered} == {"7", "8"}


@pytest.mark.parametrize("change", ["promotion", "rollback"])
def test_a_replica_never_goes_back_and_follows_in_time(story: Story, change: str):
    since, until, version = {
        "promotion": (story.promoted_at, story.rolled_back_at, "8"),
        "rollback": (story.rolled_back_at, story.corrupt_at, "7"),
    }[change]
    for replica in story.health:
        during = [a for a in story.answered if a.replica == replica and since <= a.received < until]
        first = min(a.received for a in during if a.version == version)
        print(f"{change}: {replica} answered with version {version} after {first - since:.2f} s")
        assert {a.version for a in during if a.sent > first} == {version}


def test_a_damaged_bundle_never_decides_and_health_names_it(story: Story):
    assert {a.version for a in story.answered if a.sent > story.corrupt_at} == {"7"}
    for health in story.health.values():
        model = health["model"]
        assert model["model_version"] == "7"
        assert (model["pending"]["model_version"], model["pending"]["cause"]) == ("9", "bundle_corrupt")
        assert (model["ok"], health["status"]) == (False, "degraded")


def test_both_replicas_end_on_one_version(story: Story):
    last = {answered.replica: answered.version for answered in story.answered}
    assert set(last.values()) == {"7"}
    assert len(last) == 2
    assert len({health["model"]["bundle_digest"] for health in story.health.values()}) == 1
