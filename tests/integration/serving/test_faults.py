"""Processes and servers are killed and stopped under load: what was acknowledged is there, once, as it was said."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from fraud_pipelines.ledger import Ledger, open_ledger
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.models.bento import BuiltBento
from fraud_pipelines.settings import Settings
from tests.killable_service import KillableService, serving
from tests.payment_senders import Senders, made, promise
from tests.postgres_server import PostgresServer, postgres_server
from tests.stored_events import fill

EVER = (datetime(2020, 1, 1), datetime(2100, 1, 1))


def until_answered(client: httpx.Client, path: str, body: Any) -> dict[str, Any]:
    """A batch with every row decided."""
    while True:
        answer: dict[str, Any] = client.post(path, json=body).json()
        if not answer["refused"]:
            return answer
        time.sleep(0.1)


def wait_until(holds: Any, *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{holds.__name__} does not hold after {seconds} s"
        time.sleep(0.05)


@dataclass
class Story:
    """What happened under load: what the clients know, and what was seen on the way."""

    senders: Senders
    ledger: Ledger
    online_store_url: str
    settings: Settings
    seen: dict[str, Any] = field(default_factory=dict)
    looked_up: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent_again: dict[str, dict[str, Any]] = field(default_factory=dict)

    def end(self, url: str) -> None:
        """Stop the load, wait until the decision log is empty, and ask for everything once more."""
        self.senders.stop()

        # Each new connection may reach another worker.
        with httpx.Client(base_url=url, timeout=10, headers={"Connection": "close"}) as client:

            def drained() -> bool:
                parts = [client.get("/health").json() for _ in range(6)]
                return all(part["status"] == "ok" and part["decision_log"]["pending_records"] == 0 for part in parts)

            wait_until(drained)
        ids = list(self.senders.answers)
        with httpx.Client(base_url=url, timeout=10) as client:
            # Few at a time: what another worker decided is put into this one's decision log again, which is small.
            for start in range(0, len(ids), 100):
                bodies = {"transactions": [self.senders.body_of(id_) for id_ in ids[start : start + 100]]}
                rows = until_answered(client, "/score_batch", bodies)["results"]
                self.sent_again |= {row["transaction_id"]: promise(row) for row in rows}
            for id_ in ids[:: max(1, len(ids) // 250)]:
                self.looked_up[id_] = client.get(f"/decisions/{id_}").json()["answer"]

    def recorded(self) -> tuple[Counter[str], Counter[str]]:
        """How often the online store holds each payment, and how often it told followers of it."""
        engine = create_engine(self.online_store_url)
        schema = "online_store." if engine.dialect.name == "postgresql" else ""
        with engine.connect() as connection:
            held = Counter(connection.execute(text(f"select transaction_id from {schema}transactions")).scalars())
            if schema:
                bodies = connection.execute(
                    text(f"select body from {schema}changes where is_label = 0 and body <> 'null'")
                ).scalars()
                told = Counter(json.loads(body)[0] for body in bodies)
            else:
                lines = b"\n".join(connection.execute(text("select lines from log")).scalars()).split(b"\n")
                logged = Counter(json.loads(line[1:])[0] for line in lines if line.startswith(b"T"))
                held, told = held + logged, logged
        engine.dispose()
        return held, told


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def on_postgres(
    own_postgres: PostgresServer,
    service_settings: Settings,
    built: BuiltBento,
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    """Two workers on PostgreSQL: a worker dies, all die, the server goes, all die without it, it comes back."""
    home = tmp_path_factory.mktemp("faults")
    settings = service_settings.model_copy(
        update={
            "home": home,
            "ledger_url": own_postgres.create_database(),
            "online_store_url": own_postgres.create_database(),
            "serving_workers": 2,
            "decision_log_bytes": 2**20,
        }
    )
    fill(settings.online_store_url, utc_now())
    service = KillableService(settings, built, home / "log")
    with serving(service):
        senders = Senders(service.url)
        story = Story(senders, open_ledger(settings.ledger_url), settings.online_store_url, settings)
        senders.start()
        senders.wait_for(120)
        service.kill_a_worker()
        senders.wait_for(120)
        service.kill()
        service.start()
        senders.wait_for(120)

        # What is under way while the server goes is decided by whoever still reaches it: not sent twice meanwhile.
        senders.repeat_after = float("inf")
        time.sleep(1)
        before = list(senders.answers)[:50]
        own_postgres.stop()
        senders.repeat_after = time.monotonic() + 0.5
        senders.wait_for(100)
        service.kill()
        service.start()
        senders.wait_for(100)
        story.seen |= without_the_server(service.url, senders, before)
        own_postgres.start()

        def recovered() -> bool:
            answer = httpx.post(f"{service.url}/score", json=made(f"r-{time.time()}", random.Random(1)), timeout=10)
            return answer.status_code == 200 and answer.json()["fallback"] is None

        senders.repeat_after = 0.0
        wait_until(recovered)
        senders.wait_for(120)
        story.seen["ready"] = httpx.get(f"{service.url}/readyz", timeout=10).status_code
        story.end(service.url)
    return story


@pytest.fixture(scope="module")
def on_sqlite(service_settings: Settings, built: BuiltBento, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The embedded form: everything is killed under load."""
    home = tmp_path_factory.mktemp("embedded")
    settings = service_settings.model_copy(
        update={
            "home": home,
            "ledger_url": f"sqlite:///{home / 'ledger.sqlite'}",
            "online_store_url": f"sqlite:///{home / 'online.sqlite'}",
        }
    )
    fill(settings.online_store_url, utc_now())
    service = KillableService(settings, built, home / "log")
    with serving(service):
        senders = Senders(service.url)
        story = Story(senders, open_ledger(settings.ledger_url), settings.online_store_url, settings)
        senders.start()
        senders.wait_for(120)
        service.kill()
        service.start()
        senders.wait_for(120)
        story.end(service.url)
    return story


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def story(request: pytest.FixtureRequest) -> Story:
    told: Story = request.getfixturevalue(f"on_{request.param}")
    return told


def without_the_server(url: str, senders: Senders, before: list[str]) -> dict[str, Any]:
    """Look at the service while both stores are away, until one worker's decision log is full."""
    seen: dict[str, Any] = {}
    draw = random.Random(99)
    with httpx.Client(base_url=url, timeout=10) as client:  # one connection: one worker
        seen["sent again"] = [client.post("/score", json=senders.body_of(id_)).json() for id_ in before]
        for batch in range(100):
            bodies = [made(f"b-{batch}-{row}", draw) for row in range(100)]
            rows = client.post("/score_batch", json={"transactions": bodies}).json()["results"]
            for body, row in zip(bodies, rows, strict=True):
                if "error" not in row:
                    senders.acknowledge(body, row)
            if "error" in rows[-1]:
                break
        for number in range(1000):
            body = made(f"s-{number}", draw)
            answer = client.post("/score", json=body)
            if answer.status_code != 200:
                break
            senders.acknowledge(body, answer.json())
        seen["refused"] = (answer.status_code, answer.json()["error"])
        seen["health"] = client.get("/health").json()
        ready = client.get("/readyz")
        seen["full"] = (ready.status_code, ready.json()["error"]["code"])
    return seen


def test_every_acknowledged_decision_is_in_the_ledger_as_it_was_acknowledged(story: Story):
    answers = story.senders.answers
    rows = story.ledger.decisions_on(list(answers))
    assert len(answers) >= 240
    assert set(rows) == set(answers)
    assert [(rows[id_].answer, answer) for id_, answer in answers.items() if rows[id_].answer != answer] == []
    assert all(rows[id_].decision == answer["decision"] for id_, answer in answers.items())
    assert not (story.settings.home / "serving" / "journal" / "dead_letters.jsonl").exists()


def test_whoever_asks_or_sends_again_gets_what_was_acknowledged(story: Story):
    answers = story.senders.answers
    assert story.senders.changed == []
    assert set(story.sent_again) == set(answers)
    assert len(story.looked_up) >= 200
    for found in (story.sent_again, story.looked_up):
        assert [(answer, answers[id_]) for id_, answer in found.items() if answer != answers[id_]] == []


def test_every_acknowledged_feedback_is_in_the_ledger_once(story: Story):
    said = Counter((f.feedback_id, f.transaction_id, f.verdict) for f in story.ledger.feedback(*EVER))
    assert len(story.senders.feedback) >= 10
    assert {(id_, body["transaction_id"], body["verdict"]) for id_, body in story.senders.feedback.items()} <= set(said)
    assert set(said.values()) == {1}


def test_the_online_store_holds_every_acknowledged_payment_once(story: Story):
    held, told = story.recorded()
    for counts in (held, told):
        assert [id_ for id_ in story.senders.answers if counts[id_] != 1] == []


def test_without_both_stores_a_payment_that_was_decided_before_is_reviewed_and_the_first_decision_stands(
    on_postgres: Story,
):
    """What nobody can know then: docs/serving.md says so."""
    again = on_postgres.seen["sent again"]
    assert {(answer["decision"], answer["fallback"]) for answer in again} == {("REVIEW", "online_store_unavailable")}
    rows = on_postgres.ledger.decisions_on([answer["transaction_id"] for answer in again])
    assert {row.fallback for row in rows.values()} == {None}


def test_a_full_decision_log_is_said_and_empties_by_itself(on_postgres: Story):
    status, error = on_postgres.seen["refused"]
    assert (status, error["code"]) == (503, "decision_log_full")
    assert error["next"]
    health = on_postgres.seen["health"]
    assert (health["status"], health["can_decide"], health["decision_log"]["ok"]) == ("degraded", False, False)
    assert 0.9 * 2**20 < health["decision_log"]["pending_bytes"] <= health["decision_log"]["limit_bytes"] == 2**20
    assert on_postgres.seen["full"] == (503, "not_ready")
    assert on_postgres.seen["ready"] == 200
