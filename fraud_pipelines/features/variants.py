"""Features of many variants of one transaction, each against the history that was known when it happened.

A variant is the transaction with something changed: its amount, its device, its time. Its features are computed anew by
the engine of the warehouse and of the scoring service; the history is prepared once for all variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features.engine import NEVER_US, Asked, EntityEngine, Known, OwnEngine, OwnValues, Past
from fraud_pipelines.features.kernel import Double
from fraud_pipelines.features.online import EntityHistory, History, Label, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec

Features = Callable[[Sequence[ScoredTransaction]], np.ndarray]

# What the attributes of an event are in a transaction, by entity; and how many columns an event has.
_ATTRIBUTES = {"card": ("merchant_id", "country", "device_id", "category"), "merchant": ("card_id",)}
_WIDTHS = {"card": 9, "merchant": 4}


class VariantEngine:
    """Computes the vectors of a spec for variants. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._own = OwnEngine(spec)
        self._entities = {entity: EntityEngine(spec, entity) for entity in _ATTRIBUTES}
        parts = (self._own.features, *(engine.features for engine in self._entities.values()))
        computed = [feature.name for part in parts for feature in part]
        self._order = [computed.index(name) for name in spec.names]

    def prepare(self, transaction: ScoredTransaction, history: History) -> Features:
        """A function from variants of `transaction` to their features.

        It gives an array of shape (n, f), columns in the spec's order, single precision, NaN is missing: the values of
        OnlineEngine to the last bit. A variant of a later time sees no more than the transaction itself could, see
        `as_it_was`.

        Raises:
            ContractBroken: raised by the function for a variant of another card or merchant, whose history is not here.
        """
        then = as_it_was(transaction, history)
        sides = [
            (engine, *_prepared(entity, getattr(then, entity)), _ATTRIBUTES[entity])
            for entity, engine in self._entities.items()
        ]

        def features(variants: Sequence[ScoredTransaction]) -> np.ndarray:
            if any((v.card_id, v.merchant_id) != (transaction.card_id, transaction.merchant_id) for v in variants):
                raise ContractBroken("Variants: expected the card and the merchant of the transaction, found others.")
            in_time = sorted(variants, key=lambda variant: variant.event_time_us)
            values = self._own.compute(_own_values(in_time))
            for engine, past, known, numbers, attributes in sides:
                values += list(engine.compute(past, known, _asked(in_time, numbers, attributes)))
            columns = np.array(values)[self._order].astype(np.float32)
            place = np.argsort([variant.event_time_us for variant in variants], kind="stable")
            rows = np.empty(columns.T.shape, np.float32)
            rows[place] = columns.T
            return rows

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


def _prepared(entity: str, history: EntityHistory[Any]) -> tuple[Past, Known, list[dict[str | None, int]]]:
    """The history as the engine takes it, and the number that each value of each attribute has in it."""
    columns = list(zip(*history.events, strict=True)) if history.events else [()] * _WIDTHS[entity]
    times, ids, amounts = columns[:3]
    attributes = columns[3 : 3 + len(_ATTRIBUTES[entity])]
    numbers = [dict[str | None, int]({None: -1}) for _ in attributes]
    codes = [
        [known.setdefault(value, len(known) - 1) for value in values]
        for known, values in zip(numbers, attributes, strict=True)
    ]
    latitudes, longitudes = columns[-2:] if entity == "card" else ((), ())
    past = Past(
        starts=np.array([0, len(times)]),
        time_us=np.array(times, np.int64),
        amount_minor=np.array(amounts, np.int64),
        first_label_us=_first_labels(ids, history.labels),
        codes=np.array(codes, np.int32),
        latitude=np.array(latitudes, np.float64),
        longitude=np.array(longitudes, np.float64),
    )
    counts_from, _, frauds, label_amounts = zip(*history.labels, strict=True) if history.labels else ((),) * 4
    known = Known(
        starts=np.array([0, len(counts_from)]),
        time_us=np.array(counts_from, np.int64),
        is_fraud=np.array(frauds, np.int64),
        amount_minor=np.array(label_amounts, np.int64),
    )
    return past, known, numbers


def _first_labels(ids: Sequence[str], labels: Sequence[Label]) -> np.ndarray:
    first: dict[str, int] = {}
    for counts_from_us, transaction_id, _, _ in labels:
        first.setdefault(transaction_id, counts_from_us)  # ascending: the first one stays
    return np.array([first.get(id_, NEVER_US) for id_ in ids], np.int64)


def _asked(variants: Sequence[ScoredTransaction], numbers: list[dict], attributes: tuple[str, ...]) -> Asked:
    codes = []
    for name, known in zip(attributes, numbers, strict=True):
        all_known = dict(known)
        own = [getattr(variant, name) for variant in variants]
        codes.append([all_known.setdefault(value, len(all_known) - 1) for value in own])
    return Asked(
        starts=np.array([0, len(variants)]),
        time_us=np.array([variant.event_time_us for variant in variants], np.int64),
        amount_minor=np.array([variant.amount_minor for variant in variants], np.int64),
        codes=np.array(codes, np.int32),
        latitude=_doubles(variants, "merchant_latitude"),
        longitude=_doubles(variants, "merchant_longitude"),
    )


def _own_values(variants: Sequence[ScoredTransaction]) -> OwnValues:
    return OwnValues(
        time_us=np.array([variant.event_time_us for variant in variants], np.int64),
        amount_minor=np.array([variant.amount_minor for variant in variants], np.int64),
        is_online=_is_channel(variants, "online"),
        is_atm=_is_channel(variants, "atm"),
        home_latitude=_doubles(variants, "home_latitude"),
        home_longitude=_doubles(variants, "home_longitude"),
        merchant_latitude=_doubles(variants, "merchant_latitude"),
        merchant_longitude=_doubles(variants, "merchant_longitude"),
    )


def _is_channel(variants: Sequence[ScoredTransaction], channel: str) -> Double:
    return np.array([None if v.channel is None else v.channel == channel for v in variants], np.float64)


def _doubles(variants: Sequence[ScoredTransaction], name: str) -> Double:
    return np.array([getattr(variant, name) for variant in variants], np.float64)
