"""A process that follows the online store as scoring does, and decides by writing down what it had seen."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from threading import Barrier

import orjson

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.online_store.following import Change, Entry, Position, Wanted


class Follower:
    """Keeps which transactions it has seen per card and per merchant, of those it has met."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._position: Position | None = None
        self._seen: dict[tuple[str, str], set[str]] = {}
        self.refused = 0

    def decide(self, transactions: Sequence[ScoredTransaction]) -> dict[str, bytes]:
        """Append them all at once; the decisions that stand."""
        while True:
            self._catch_up(transactions)
            entries, seen = [], defaultdict(set, {entity: set(ids) for entity, ids in self._seen.items()})
            for made in transactions:
                both = ("card", made.card_id), ("merchant", made.merchant_id)
                entries.append(Entry(made, orjson.dumps([sorted(seen[entity]) for entity in both])))
                for entity in both:
                    seen[entity].add(made.transaction_id)
            time.sleep(0.0005)  # what computing a score takes, in which others get their turn
            outcome = self._store.append(self._position, entries)
            if outcome.is_reset:
                self._position, self._seen = None, {}
            else:
                self._position = outcome.position
                self._apply(outcome.changes)
            if outcome.is_recorded:
                self._apply(
                    [
                        entry.transaction
                        for entry in entries
                        if entry.transaction.transaction_id not in {*outcome.decided, *outcome.stored}
                    ]
                )
                return {entry.transaction.transaction_id: entry.decision for entry in entries} | dict(outcome.decided)
            self.refused += 1

    def _catch_up(self, transactions: Sequence[ScoredTransaction]) -> None:
        cards, merchants = {made.card_id for made in transactions}, {made.merchant_id for made in transactions}
        snapshot = self._store.read(
            self._position,
            cards=[Wanted(id_, -1, -1) for id_ in cards if ("card", id_) not in self._seen],
            merchants=[Wanted(id_, -1, -1) for id_ in merchants if ("merchant", id_) not in self._seen],
        )
        if snapshot.is_reset:
            self._seen = {}
        self._position = snapshot.position
        self._apply(snapshot.changes)
        for entity, histories in (("card", snapshot.cards), ("merchant", snapshot.merchants)):
            for id_, history in histories.items():
                self._seen[entity, id_] = {event[1] for event in history.events}
        if not self._seen.keys() >= {("card", id_) for id_ in cards} | {("merchant", id_) for id_ in merchants}:
            self._catch_up(transactions)  # what was met before the reset

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for entity in (("card", change.card_id), ("merchant", change.merchant_id)):
                if entity in self._seen:
                    self._seen[entity].add(change.transaction_id)


_together: Barrier | None = None


def wait_for(barrier: Barrier) -> None:
    """Let every `decide_all` of this process begin when all who share the barrier do."""
    global _together
    _together = barrier


def decide_all(url: str, batches: Sequence[Sequence[ScoredTransaction]]) -> tuple[dict[str, bytes], int]:
    """Decide with a store of this process's own: the decisions that stand, and how often the store refused."""
    store = open_online_store(url)
    try:
        follower, decided = Follower(store), {}
        assert _together is not None
        _together.wait(timeout=60)
        for batch in batches:
            decided |= follower.decide(batch)
        return decided, follower.refused
    finally:
        store.close()
