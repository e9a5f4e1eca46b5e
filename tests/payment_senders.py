"""Clients of a scoring service that never give up: they note what was acknowledged, and send the rest again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx

CARDS, MERCHANTS = 25, 8
VERDICTS = ("CONFIRMED_FRAUD", "FALSE_POSITIVE", "PENDING")


def promise(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer promises: all but the time it took."""
    return {name: value for name, value in answer.items() if name != "processing_time_ms"}


class Senders:
    """Threads that send payments as time goes on, feedback on them, and payments that were answered before.

    Args:
        urls: of the replicas; each thread keeps to one of them.

    Attributes:
        answers: the first acknowledged answer on each payment.
        changed: later answers that were not the first one, with the first.
        feedback: acknowledged feedback by its identifier.
        refused: how often what came instead of an acknowledgement.
        repeat_after: payments acknowledged later (time.monotonic) are sent again; infinity: none is.
    """

    def __init__(self, *urls: str, threads: int = 4, pause: float = 0.008) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.changed: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.feedback: dict[str, dict[str, Any]] = {}
        self.refused: Counter[str] = Counter()
        self.repeat_after = 0.0
        self.failed: list[BaseException] = []
        self._bodies: dict[str, dict[str, Any]] = {}
        self._acknowledged: list[tuple[float, str]] = []
        self._twins: list[dict[str, Any]] = []
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._pause = pause
        self._threads = [
            threading.Thread(target=self._run, args=(number, urls[number % len(urls)]), daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each thread get its last acknowledgement, and end.

        Raises:
            AssertionError: a thread ended early, or gets none.
        """
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.failed, self.failed
        assert not any(thread.is_alive() for thread in self._threads), self.refused

    def acknowledge(self, body: dict[str, Any], answer: dict[str, Any]) -> None:
        """Note an answer."""
        promised = promise(answer)
        with self._lock:
            first = self.answers.setdefault(body["transaction_id"], promised)
            if first is promised:
                self._bodies[body["transaction_id"]] = body
                self._acknowledged.append((time.monotonic(), body["transaction_id"]))
            elif first != promised:
                self.changed.append((first, promised))

    def body_of(self, transaction_id: str) -> dict[str, Any]:
        """The payment as it was sent."""
        return self._bodies[transaction_id]

    def wait_for(self, more: int, *, seconds: float = 30) -> None:
        """Until so many more payments are acknowledged.

        Raises:
            AssertionError: they are not in time.
        """
        wanted, deadline = len(self.answers) + more, time.monotonic() + seconds
        while len(self.answers) < wanted:
            assert not self.failed, self.failed
            assert time.monotonic() < deadline, (len(self.answers), wanted, self.refused)
            time.sleep(0.02)

    def _run(self, number: int, url: str) -> None:
        draw, count = random.Random(number), 0
        try:
            with httpx.Client(base_url=url, timeout=15) as client:
                while not self._is_over.is_set():
                    kind, count = draw.random(), count + 1
                    if kind < 0.2:
                        self._repeat(client, draw)
                    elif kind < 0.3:
                        self._say(client, draw, f"f-{number}-{count}")
                    else:
                        body = made(f"p-{number}-{count}", draw)
                        if kind > 0.95 and self.repeat_after < float("inf"):
                            self._twins.append(body)  # another thread sends it at the same moment
                        self._score(client, body)
                    time.sleep(self._pause)
        except BaseException as error:
            self.failed.append(error)
            raise

    def _repeat(self, client: httpx.Client, draw: random.Random) -> None:
        if self._twins:
            self._score(client, self._twins.pop())
            return
        at, id_ = draw.choice(self._acknowledged[-300:] or [(0.0, "")])
        if id_ and at > self.repeat_after:
            self._score(client, self._bodies[id_])

    def _score(self, client: httpx.Client, body: dict[str, Any]) -> None:
        answer = self._until_acknowledged(client, "/score", body)
        self.acknowledge(body, answer)

    def _say(self, client: httpx.Client, draw: random.Random, feedback_id: str) -> None:
        if not self._acknowledged:
            return
        _, id_ = draw.choice(self._acknowledged[-300:])
        body = {"feedback_id": feedback_id, "transaction_id": id_, "verdict": draw.choice(VERDICTS)}
        self._until_acknowledged(client, "/feedback", body)
        self.feedback[feedback_id] = body

    def _until_acknowledged(self, client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while True:
            try:
                response = client.post(path, json=body)
            except httpx.TransportError as error:
                self.refused[type(error).__name__] += 1
            else:
                if response.status_code == 200:
                    answer: dict[str, Any] = response.json()
                    return answer
                self.refused[f"{response.status_code} {response.json()['error']['code']}"] += 1
                assert response.status_code == 503, (path, body, response.text)
                assert "retry-after" in response.headers or response.json()["error"]["next"]
            assert time.monotonic() < deadline, (path, body, self.refused)
            time.sleep(0.05)


def made(transaction_id: str, draw: random.Random) -> dict[str, Any]:
    """A payment of this moment, by one of a few cards at one of a few merchants."""
    return {
        "transaction_id": transaction_id,
        "event_time": datetime.now(UTC).isoformat(),
        "card_id": f"card-{draw.randrange(CARDS)}",
        "merchant_id": f"m-{draw.randrange(MERCHANTS)}",
        "amount": f"{draw.randrange(1, 1000)}.{draw.randrange(100):02d}",
        "currency": "EUR",
        "device_id": f"d-{draw.randrange(4)}",
    }
