"""How a scoring process keeps up with a store that others write to as well: an ordered log beside the histories.

Every recorded event gets the next number of the store. A process remembers up to which number it knows everything, so
one small question brings what others did since, and nothing is decided on a history that has moved on in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import NamedTuple

import orjson

from fraud_pipelines.features.online import CardEvent, EntityHistory, LabelArrival, MerchantEvent, ScoredTransaction

# Changes a store keeps; who is further behind starts again. At a thousand payments a second that is a few minutes.
CHANGES_KEPT = 200_000
# Decisions are returned to who sends a payment again for so long after the payment; later the ledger is asked.
DECISIONS_KEPT_US = 2 * 86_400_000_000
# A server may lose its last commits in a crash or failover. The low bits of its changes' numbers are drawn by lot, so a
# number that was lost does not come again, and whoever had seen it starts over instead of missing what took its place.
LOT_BITS = 20


class Position(NamedTuple):
    """Up to where a process knows the store: another `epoch` after each rebuild, a larger `sequence` after each event.

    The numbers are the backend's own; only the store compares them.
    """

    epoch: int
    sequence: int


class Wanted(NamedTuple):
    """The history of one card or merchant, from these moments on (exclusive), microseconds."""

    id: str
    transactions_since_us: int
    labels_since_us: int


Change = ScoredTransaction | LabelArrival
TRANSACTION_VALUES, LABEL_VALUES = (
    attrgetter(*(field.name for field in fields(kind))) for kind in (ScoredTransaction, LabelArrival)
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store knew at one moment.

    `changes` are the events between the position asked from and `position`. With `is_reset` they are unknown (the store
    was rebuilt, or the position is too old): everything read before must be forgotten. `cards` and `merchants` hold
    everything since the moments asked, ascending. `decisions` are those asked for that exist, `stored` the transactions
    asked for whose events the store holds, decided or not. `as_of_us` is the last rebuild's moment.
    """

    position: Position
    is_reset: bool
    changes: Sequence[Change]
    decisions: Mapping[str, bytes]
    stored: frozenset[str]
    as_of_us: int | None
    cards: Mapping[str, EntityHistory[CardEvent]] = field(default_factory=dict)
    merchants: Mapping[str, EntityHistory[MerchantEvent]] = field(default_factory=dict)


class Entry(NamedTuple):
    """A decided transaction, and the decision as it is to be returned to who sends the transaction again."""

    transaction: ScoredTransaction
    decision: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an append.

    Not `is_recorded`: others touched a card or merchant of the entries since the position given, so nothing was
    written; apply `changes` (or forget everything, with `is_reset`) and decide again. Recorded: `decided` holds the
    decisions that were there before, which stand; `stored` the transactions whose events were there already.
    """

    is_recorded: bool
    position: Position
    is_reset: bool = False
    changes: Sequence[Change] = ()
    decided: Mapping[str, bytes] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()


def encode(change: Change) -> tuple[int, bytes]:
    """Whether it is a label arrival (1 or 0), and its values as JSON."""
    if isinstance(change, LabelArrival):
        return 1, orjson.dumps(LABEL_VALUES(change))
    return 0, orjson.dumps(TRANSACTION_VALUES(change))


def decode(is_label: int, body: bytes) -> Change:
    """The change that `encode` wrote."""
    return LabelArrival(*orjson.loads(body)) if is_label else ScoredTransaction(*orjson.loads(body))


def is_time_to_trim(count: int, added: int) -> bool:
    """Whether the oldest changes go now that `added` ones brought the store to `count`: now and then, many at once."""
    every = max(CHANGES_KEPT // 20, 1)
    return count // every != (count - added) // every


def touches(changes: Sequence[Change], entries: Sequence[Entry]) -> bool:
    """Whether a change is about a card or merchant of the entries."""
    if not changes:
        return False
    cards = {entry.transaction.card_id for entry in entries}
    merchants = {entry.transaction.merchant_id for entry in entries}
    return any(change.card_id in cards or change.merchant_id in merchants for change in changes)
