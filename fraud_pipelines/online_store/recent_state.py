"""What one scoring process holds in memory of the online store: the cards and merchants it has met, kept up to date.

A store read costs more than the features themselves, and grows with the history; this makes it one small question for
a whole group of requests. What is held is never older than the group's own question, and a decision made on it counts
only when nobody else touched its card or merchant in between (OnlineStore.append).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from fraud_pipelines.features.entity_state import EntityStates
from fraud_pipelines.features.kernel import Int64
from fraud_pipelines.features.online import Context, LabelArrival, ScoredTransaction, TransactionColumns
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
        self._cards: EntityStates
        self._merchants: EntityStates
        self._rows: int
        self._position: Position | None
        # The numbers that the cards and merchants of the last read have.
        self._located: tuple[TransactionColumns, Int64, Int64] | None
        self.forget_everything()

    @property
    def rows(self) -> int:
        """Transactions and labels held, about."""
        return self._rows

    def read(self, transactions: TransactionColumns) -> View:
        """Bring the cards and merchants of these transactions up to date.

        Raises:
            OnlineStoreUnavailable, OnlineStateTooShort: see OnlineStore.read; what is held is forgotten.
        """
        try:
            while True:
                cards, merchants = self._wanted(transactions)
                snapshot = self._store.read(self._position, transactions.ids, cards, merchants)
                self._follow(snapshot.position, snapshot.is_reset, snapshot.changes)
                for states, wanted, found in (
                    (self._cards, cards, snapshot.cards),
                    (self._merchants, merchants, snapshot.merchants),
                ):
                    for id_, since_us, labels_since_us in wanted:
                        self._drop(states, id_)
                        history = found[id_]
                        owner = states.hold(id_, history.events, history.labels, since_us, labels_since_us)
                        self._rows += states.rows_of(owner)
                if not (snapshot.is_reset or snapshot.changes):
                    break  # what was held is as it was
                if not any(self._wanted(transactions)):
                    break
        except BaseException:
            self.forget_everything()
            raise
        self._make_room(transactions)
        return View(snapshot.decisions, snapshot.stored, snapshot.as_of_us)

    def include(self, transactions: TransactionColumns) -> Context:
        """Let transactions of the last `read` count for each other."""
        if self._located is None or self._located[0] is not transactions:
            self._located = (
                transactions,
                self._cards.find(transactions.card_ids),
                self._merchants.find(transactions.merchant_ids),
            )
        _, cards, merchants = self._located
        # The features of all of them come next, and one may be far older than another of its card.
        asked_from_us = int(transactions.time_us.min())
        try:
            context = Context(
                transactions,
                self._cards.add(cards, transactions.of_cards, asked_from_us=asked_from_us),
                self._merchants.add(merchants, transactions.of_merchants, asked_from_us=asked_from_us),
            )
        except BaseException:  # perhaps in the middle of it
            self.forget_everything()
            raise
        self._rows += 2 * len(transactions)
        return context

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
        self._drop(self._cards, transaction.card_id)
        self._drop(self._merchants, transaction.merchant_id)

    def forget_everything(self) -> None:
        """Start again with nothing."""
        # Not emptied but left to themselves: somebody may still compute with what was held.
        self._cards, self._merchants = (
            EntityStates(entity, keep_us=max(reach) + LATENESS_US, places=self._most_rows)
            for entity, reach in self._reach_us.items()
        )
        self._rows, self._position, self._located = 0, None, None

    def _wanted(self, transactions: TransactionColumns) -> tuple[list[Wanted], list[Wanted]]:
        """Cards and merchants that are not held, or not from far enough back."""
        cards, merchants = self._cards.find(transactions.card_ids), self._merchants.find(transactions.merchant_ids)
        wanted = (
            _wanted(self._cards, cards, transactions.card_ids, transactions.time_us, *self._reach_us["card"]),
            _wanted(
                self._merchants, merchants, transactions.merchant_ids, transactions.time_us, *self._reach_us["merchant"]
            ),
        )
        # Those that are wanted get other numbers.
        self._located = None if any(wanted) else (transactions, cards, merchants)
        return wanted

    def _follow(self, position: Position, is_reset: bool, changes: Sequence[Change]) -> None:
        if is_reset:
            self.forget_everything()
        new = [change for change in changes if isinstance(change, ScoredTransaction)]
        for states, whose, events in (
            (self._cards, attrgetter("card_id"), "of_cards"),
            (self._merchants, attrgetter("merchant_id"), "of_merchants"),
        ):
            held = [transaction for transaction in new if whose(transaction) in states]
            if held:
                states.add(states.find(map(whose, held)), getattr(TransactionColumns.of(held), events))
                self._rows += len(held)
        for change in changes:
            if isinstance(change, LabelArrival):
                for states, id_ in ((self._cards, change.card_id), (self._merchants, change.merchant_id)):
                    if id_ in states:
                        states.add_label(
                            *(int(states.find([id_])[0]), change.counts_from_us, change.transaction_id),
                            *(change.is_fraud, change.amount_minor, change.event_time_us),
                        )
                        self._rows += 1
        self._position = position

    def _drop(self, states: EntityStates, id_: str) -> None:
        if id_ in states:
            self._rows -= states.rows_of(int(states.find([id_])[0]))
            states.let_go(id_)
            self._located = None

    def _make_room(self, transactions: TransactionColumns) -> None:
        """Let go of what was not needed for longest, once there is too much."""
        if self._rows <= self._most_rows:
            return
        # Arrays forget by themselves, too: count anew before letting go.
        self._rows = self._cards.rows + self._merchants.rows
        for states, needed in (
            (self._merchants, set(transactions.merchant_ids)),
            (self._cards, set(transactions.card_ids)),
        ):
            for id_ in states.least_recently_found():
                if self._rows <= self._most_rows * 0.8 or id_ in needed:
                    break
                self._drop(states, id_)


def _wanted(
    states: EntityStates, owners: Int64, ids: Sequence[str], times_us: Int64, reach_us: int, labels_reach_us: int
) -> list[Wanted]:
    """Those of some transactions' cards or merchants that are not held, or not from far enough back."""
    is_known = (
        (owners >= 0)
        & (states.known_since_us[owners] <= times_us - reach_us)
        & (states.labels_known_since_us[owners] <= times_us - labels_reach_us)
    )
    wanted: dict[str, Wanted] = {}
    for row in np.flatnonzero(~is_known).tolist():
        # An event a little late finds its history, too.
        since_us = int(times_us[row]) - reach_us - LATENESS_US
        labels_since_us = int(times_us[row]) - labels_reach_us - LATENESS_US
        before = wanted.get(ids[row])
        if before is not None:
            since_us, labels_since_us = min(since_us, before[1]), min(labels_since_us, before[2])
        wanted[ids[row]] = Wanted(ids[row], since_us, labels_since_us)
    return list(wanted.values())
