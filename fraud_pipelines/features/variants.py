"""Features of many variants of one transaction, each against the history that was known when it happened.

A variant is the transaction with something changed: its amount, its device, its time. Its features are computed anew;
the history is prepared once for all variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features.entity_state import whole
from fraud_pipelines.features.online import (
    Context,
    EntityHistory,
    History,
    OnlineEngine,
    ScoredTransaction,
    TransactionColumns,
)

Features = Callable[[Sequence[ScoredTransaction]], np.ndarray]


def variant_features(engine: OnlineEngine, transaction: ScoredTransaction, history: History) -> Features:
    """A function from variants of `transaction` to their features.

    It gives an array of shape (n, f), columns in the spec's order, single precision, NaN is missing. A variant of a
    later time sees no more than the transaction itself could, see `as_it_was`.

    Raises:
        ContractBroken: raised by the function for a variant of another card or merchant, whose history is not here.
    """
    then = as_it_was(transaction, history)
    card = whole("card", then.card.events, then.card.labels)
    merchant = whole("merchant", then.merchant.events, then.merchant.labels)

    def features(variants: Sequence[ScoredTransaction]) -> np.ndarray:
        if any((v.card_id, v.merchant_id) != (transaction.card_id, transaction.merchant_id) for v in variants):
            raise ContractBroken("Variants: expected the card and the merchant of the transaction, found others.")
        rows = np.zeros(len(variants), np.int64)
        context = Context(TransactionColumns.of(variants), card.take(rows), merchant.take(rows))
        return engine.matrix(context).astype(np.float32)

    return features


def as_it_was(transaction: ScoredTransaction, history: History) -> History:
    """What was known when the transaction happened: nothing later, no label that arrived later, and not itself.

    The transaction may be in the online store by now, and a variant an hour later would take it for a payment before.
    """

    def of(entity: EntityHistory[Any]) -> EntityHistory[Any]:
        at_us, own = transaction.event_time_us, transaction.transaction_id
        return EntityHistory(
            [event for event in entity.events if event[0] <= at_us and event[1] != own],
            [label for label in entity.labels if label[0] <= at_us and label[1] != own],
        )

    return History(of(history.card), of(history.merchant))
