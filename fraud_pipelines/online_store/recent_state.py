"""What one scoring process holds in memory of the online store: the cards and merchants it has met, kept up to date.

A store read costs more than the features themselves, and grows with the history; this makes it one small question for
a whole group of requests. What is held is never older than the group's own question, and a decision made on it counts
only when nobody else touched its card or merchant in between (OnlineStore.append).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from fraud_pipelines.features.entity_state import EntityState, EntityStates
from fraud_pipelines.features.online import LabelArrival, ScoredTransaction, add_transactions
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import OnlineStore
from fraud_pipelines.online_store.following import Change, Entry, Outcome, Position, Wanted
from fraud_pipelines.online_store.state import LATENESS_US, Windows

# No store is ever there: it answers where it is, and not with everything that ever happened.
NOWHERE = Position(-1, 0)
# Transactions and labels held by one process, each counted for its card and for its merchant: about 130 bytes a row of
# one with many; one with few rows takes 1 to 2 kilobytes.
MOST_ROWS = 4_000_000


@dataclass(frozen=True, slots=True)
class View:
    """What the store said of a group of transactions: decisions there are already, which of the transactions it holds,
    and the moment of its last rebuild."""

    decisions: Mapping[str, bytes]
    stored: frozenset[str]
    as_of_us: int | None


class RecentState:
    """See the module. Used from one thread.

    Args:
        spec: whose longest windows say how far back a card or merchant is read.
    """

    def __init__(self, store: OnlineStore, spec: FeatureSpec, *, most_rows: int = MOST_ROWS) -> None:
        self._store, self._most_rows = store, most_rows
        windows = Windows.of(spec)
        self._reach_us = {
            "card": (windows.card_us, windows.card_labels_us),
            "merchant": (windows.merchant_us, windows.merchant_labels_us),
        }
        self._states: dict[str, EntityStates]
        self._held: dict[str, OrderedDict[str, EntityState]]
        self._rows: int
        self._position: Position | None
        self.forget_everything()

    @property
    def rows(self) -> int:
        """Transactions and labels held, about."""
        return self._rows

    def read(self, transactions: Sequence[ScoredTransaction]) -> View:
        """Bring the cards and merchants of these transactions up to date.

        Raises:
            OnlineStoreUnavailable, OnlineStateTooShort: see OnlineStore.read; what is held is forgotten.
        """
        ids = [transaction.transaction_id for transaction in transactions]
        try:
            while True:
                cards, merchants = self._wanted("card", transactions), self._wanted("merchant", transactions)
                snapshot = self._store.read(self._position, ids, cards, merchants)
                self._follow(snapshot.position, snapshot.is_reset, snapshot.changes)
                for entity, wanted, found in (
                    ("card", cards, snapshot.cards),
                    ("merchant", merchants, snapshot.merchants),
                ):
                    for id_, since_us, labels_since_us in wanted:
                        self._drop(entity, id_)
                        history = found[id_]
                        state = self._states[entity].hold(history.events, history.labels, since_us, labels_since_us)
                        self._held[entity][id_] = state
                        self._rows += state.rows
                if not (snapshot.is_reset or snapshot.changes):
                    break  # what was held is as it was
                if not (self._wanted("card", transactions) or self._wanted("merchant", transactions)):
                    break
        except BaseException:
            self.forget_everything()
            raise
        self._make_room(transactions)
        return View(snapshot.decisions, snapshot.stored, snapshot.as_of_us)

    def include(self, transactions: Sequence[ScoredTransaction]) -> tuple[list[EntityState], list[EntityState]]:
        """Let transactions of the last `read` count for each other; the state of the card and merchant of each."""
        held_cards, held_merchants = self._held["card"], self._held["merchant"]
        cards = [held_cards[transaction.card_id] for transaction in transactions]
        merchants = [held_merchants[transaction.merchant_id] for transaction in transactions]
        # The features of all of them come next, and one may be far older than another of its card.
        asked_from_us = min((transaction.event_time_us for transaction in transactions), default=None)
        try:
            add_transactions(transactions, cards, merchants, asked_from_us=asked_from_us)
        except BaseException:  # perhaps in the middle of it
            self.forget_everything()
            raise
        self._rows += 2 * len(transactions)
        return cards, merchants

    def append(self, entries: Sequence[Entry]) -> Outcome:
        """Record decided transactions that were included; not recorded, read and decide again.

        Raises:
            OnlineStoreUnavailable: what is held is forgotten, since it counts what was not recorded.
        """
        try:
            outcome = self._store.append(self._position or NOWHERE, entries)
        except BaseException:
            self.forget_everything()
            raise
        self._follow(outcome.position, outcome.is_reset, outcome.changes)
        if outcome.decided or outcome.stored:
            # The store has them as another route gave them, perhaps of another card or time.
            for transaction, _ in entries:
                if transaction.transaction_id in outcome.decided or transaction.transaction_id in outcome.stored:
                    self.forget(transaction)
        return outcome

    def forget(self, transaction: ScoredTransaction) -> None:
        """Read the card and merchant of a transaction anew when they are next needed."""
        self._drop("card", transaction.card_id)
        self._drop("merchant", transaction.merchant_id)

    def forget_everything(self) -> None:
        """Start again with nothing."""
        # Not emptied but left to themselves: somebody may still compute with what was held.
        self._states = {
            entity: EntityStates(entity, keep_us=max(reach) + LATENESS_US, places=self._most_rows)
            for entity, reach in self._reach_us.items()
        }
        self._held = {"card": OrderedDict(), "merchant": OrderedDict()}
        self._rows, self._position = 0, None

    def _wanted(self, entity: str, transactions: Sequence[ScoredTransaction]) -> list[Wanted]:
        """Cards or merchants that are not held, or not from far enough back."""
        held = self._held[entity]
        reach_us, labels_reach_us = self._reach_us[entity]
        wanted: dict[str, Wanted] = {}
        for transaction in transactions:
            id_ = transaction.card_id if entity == "card" else transaction.merchant_id
            since_us = transaction.event_time_us - reach_us
            labels_since_us = transaction.event_time_us - labels_reach_us
            state = held.get(id_)
            if state is not None:
                held.move_to_end(id_)
                if state.known_since_us <= since_us and state.labels_known_since_us <= labels_since_us:
                    continue
            # An event a little late finds its history, too.
            since_us, labels_since_us = since_us - LATENESS_US, labels_since_us - LATENESS_US
            before = wanted.get(id_)
            if before is not None:
                since_us, labels_since_us = min(since_us, before[1]), min(labels_since_us, before[2])
            wanted[id_] = Wanted(id_, since_us, labels_since_us)
        return list(wanted.values())

    def _follow(self, position: Position, is_reset: bool, changes: Sequence[Change]) -> None:
        if is_reset:
            self.forget_everything()
        held_cards, held_merchants = self._held["card"], self._held["merchant"]
        transactions = [change for change in changes if isinstance(change, ScoredTransaction)]
        cards = [held_cards.get(change.card_id) for change in transactions]
        merchants = [held_merchants.get(change.merchant_id) for change in transactions]
        add_transactions(transactions, cards, merchants)
        self._rows += sum(state is not None for state in chain(cards, merchants))
        for change in changes:
            if isinstance(change, LabelArrival):
                for state in (held_cards.get(change.card_id), held_merchants.get(change.merchant_id)):
                    if state is not None:
                        state.states.add_label(
                            *(state, change.counts_from_us, change.transaction_id, change.is_fraud),
                            *(change.amount_minor, change.event_time_us),
                        )
                        self._rows += 1
        self._position = position

    def _drop(self, entity: str, id_: str) -> None:
        state = self._held[entity].pop(id_, None)
        if state is not None:
            self._rows -= state.rows
            self._states[entity].let_go(state)

    def _make_room(self, transactions: Sequence[ScoredTransaction]) -> None:
        """Let go of what was not needed for longest, once there is too much."""
        if self._rows <= self._most_rows:
            return
        # Arrays forget by themselves, too: count anew before letting go.
        self._rows = sum(state.rows for held in self._held.values() for state in held.values())
        for entity, needed in (
            ("merchant", {transaction.merchant_id for transaction in transactions}),
            ("card", {transaction.card_id for transaction in transactions}),
        ):
            held = self._held[entity]
            while self._rows > self._most_rows * 0.8 and held and next(iter(held)) not in needed:
                self._drop(entity, next(iter(held)))
