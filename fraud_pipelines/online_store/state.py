"""What all backends agree on: layout, columns, how far back events are kept, how warehouse rows become state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fraud_pipelines.errors import ContractBroken, OnlineStateTooShort
from fraud_pipelines.features.online import LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec

if TYPE_CHECKING:
    import pyarrow as pa

# Raised with every change of the tables; a store of another layout is emptied when opened, and rebuilt.
LAYOUT = 5

_EPOCH = datetime(1970, 1, 1)
_DAY_US = 86_400_000_000

# An event this late still finds its whole history.
LATENESS_US = 2 * _DAY_US
# How far past the last rebuild an event may move the horizon: one event with a wrong year must not empty a card.
HORIZON_LEAD_US = 2 * _DAY_US


@dataclass(frozen=True)
class Table:
    """One table of the store. Beside `columns` a row has `from_warehouse`: 1 of a rebuild, 0 when only served.

    `key` is the order in which a card's rows are read, `time` its column that ages, `identity` what is there only once.
    """

    name: str
    time: str
    key: tuple[str, ...]
    identity: tuple[str, ...]
    columns: tuple[str, ...]


OPTIONAL = (
    *("country", "device_id", "category", "merchant_latitude", "merchant_longitude"),
    *("customer_id", "channel", "home_latitude", "home_longitude"),
)
"""Columns of a transaction that may be null; histories of cards have the first five."""

TRANSACTIONS = Table(
    "transactions",
    time="event_time_us",
    key=("card_id", "event_time_us", "transaction_id"),
    identity=("transaction_id",),
    columns=(
        *("card_id", "event_time_us", "transaction_id", "amount_minor", "merchant_id"),
        *OPTIONAL,
        "currency",
    ),
)
LABEL_ARRIVALS = Table(
    "label_arrivals",
    time="counts_from_us",
    key=("card_id", "counts_from_us", "transaction_id", "known_at_us"),
    identity=("transaction_id", "known_at_us"),
    columns=(
        *("card_id", "counts_from_us", "transaction_id", "known_at_us"),
        *("is_fraud", "amount_minor", "merchant_id"),
    ),
)
TABLES = (TRANSACTIONS, LABEL_ARRIVALS)
STATE_COLUMNS = ("as_of_us", "transactions_reach_us", "labels_reach_us")
"""The one row of the table `state`: the last rebuild's moment and reach, null before the first."""
EMPTIED = (None, 0, 0)
"""The same for a store that was of another layout: it held a history and lost it, so it is too short for any spec."""


@dataclass(frozen=True)
class Reach:
    """How far back transactions and label arrivals are complete, microseconds.

    One row serves its card and its merchant, so each is the longer of the two.
    """

    transactions_us: int
    labels_us: int

    @classmethod
    def of(cls, spec: FeatureSpec) -> Reach:
        """What a spec's features can see."""
        return cls(
            max(spec.transactions_reach_us(entity) for entity in ("card", "merchant")),
            max(spec.labels_reach_us(entity) for entity in ("card", "merchant")),
        )

    @classmethod
    def of_row(cls, row: Sequence[int | None] | None) -> Reach | None:
        """The reach in a row of STATE_COLUMNS; None in a new store, before the first rebuild."""
        if row is None or row[1] is None or row[2] is None:
            return None
        return cls(row[1], row[2])

    def widened(self, other: Reach | None) -> Reach:
        """The longer of both."""
        if other is None:
            return self
        return Reach(max(self.transactions_us, other.transactions_us), max(self.labels_us, other.labels_us))

    def require(self, found: Reach | None, place: object) -> None:
        """Refuse a store at `place` whose last rebuild reached back less than this.

        In a new store there is nothing to miss before the first rebuild: it has all it was ever given.

        Raises:
            OnlineStateTooShort: names both lengths and the next step.
        """
        if found is not None and found.widened(self) != found:
            raise OnlineStateTooShort(
                f"The online store {place} was filled with {found}, but the feature spec looks back {self}. "
                "Run: fraud materialize operations/online_state"
            )

    def of_table(self, table: Table) -> int:
        """Microseconds for one of TABLES."""
        return self.transactions_us if table is TRANSACTIONS else self.labels_us

    def horizon_us(self, table: Table, newest_us: int) -> int:
        """Rows of the table at or before this moment may go once something happened at `newest_us`."""
        return newest_us - self.of_table(table) - LATENESS_US

    def __str__(self) -> str:
        return f"{_days(self.transactions_us)} of transactions and {_days(self.labels_us)} of labels"


@dataclass(frozen=True)
class Windows:
    """How far back one score reads of a card and a merchant, microseconds: as far as a feature can see, no further."""

    card_us: int
    merchant_us: int
    card_labels_us: int
    merchant_labels_us: int

    @classmethod
    def of(cls, spec: FeatureSpec) -> Windows:
        return cls(
            spec.transactions_reach_us("card"),
            spec.transactions_reach_us("merchant"),
            spec.labels_reach_us("card"),
            spec.labels_reach_us("merchant"),
        )


def horizon_after(table: Table, event_us: int, needed: Reach, row: Sequence[int | None] | None) -> int:
    """What an event at `event_us` makes superfluous in a table, given the store's row of STATE_COLUMNS.

    A store that was filled for a longer reach keeps it, whoever writes: another model may need it.
    """
    as_of_us = None if row is None else row[0]
    newest_us = event_us if as_of_us is None else min(event_us, as_of_us + HORIZON_LEAD_US)
    return needed.widened(Reach.of_row(row)).horizon_us(table, newest_us)


transaction_row: Callable[[ScoredTransaction], tuple] = attrgetter(*TRANSACTIONS.columns)
"""A transaction's values for the columns of TRANSACTIONS."""


def stored_transaction(row: Sequence[Any]) -> ScoredTransaction:
    """The transaction of a row of TRANSACTIONS."""
    return ScoredTransaction(**dict(zip(TRANSACTIONS.columns, row, strict=True)))


def label_row(arrival: LabelArrival) -> tuple:
    """A label arrival's values for the columns of LABEL_ARRIVALS."""
    a = arrival
    return (
        *(a.card_id, a.counts_from_us, a.transaction_id, a.known_at_us),
        *(int(a.is_fraud), a.amount_minor, a.merchant_id),
    )


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of a naive UTC datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(moment_us: int) -> datetime:
    """Naive UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=moment_us)


def transaction_rows(transactions: pa.Table, reach: Reach, as_of_us: int) -> list[tuple]:
    """Rows of TRANSACTIONS in order of its key: the warehouse's before `as_of_us` that a window can still reach.

    Raises:
        ContractBroken: a column is absent, a required one holds a null, or a transaction is there twice.
    """
    required = ("transaction_id", "event_time", "card_id", "merchant_id", "amount_minor", "currency")
    checked = _checked(transactions, "transactions", required, OPTIONAL)
    checked = checked.rename_columns(["event_time_us" if n == "event_time" else n for n in checked.column_names])
    return _rows(checked, TRANSACTIONS, reach, as_of_us)


def label_rows(labels: pa.Table, reach: Reach, as_of_us: int) -> list[tuple]:
    """Rows of LABEL_ARRIVALS in order of its key: the warehouse's before `as_of_us` that a window can still reach.

    Raises:
        ContractBroken: a column is absent or holds a null, or an arrival is there twice.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    required = ("transaction_id", "event_time", "known_at", "is_fraud", "amount_minor", "card_id", "merchant_id")
    checked = _checked(labels, "labels", required)
    known, event = checked["known_at"], checked["event_time"]
    checked = (
        checked.append_column("known_at_us", known)
        .append_column("counts_from_us", pc.max_element_wise(known, pc.add(event, 1)))
        .set_column(checked.column_names.index("is_fraud"), "is_fraud", pc.cast(checked["is_fraud"], pa.int64()))
    )
    return _rows(checked, LABEL_ARRIVALS, reach, as_of_us)


def _days(length_us: int) -> str:
    return f"{length_us / _DAY_US:g} days"


def _checked(rows: pa.Table, what: str, required: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """The named columns, timestamps as microseconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    absent = [name for name in (*required, *optional) if name not in rows.column_names]
    if absent:
        raise ContractBroken(f"Online state: {what} lack {', '.join(absent)}; found {', '.join(rows.column_names)}.")
    rows = rows.select([*required, *optional])
    for position, name in enumerate(required):
        column = rows[name]
        if column.null_count:
            raise ContractBroken(f"Online state: {what} have {column.null_count} nulls in {name}, where none may be.")
        if pa.types.is_timestamp(column.type):
            microseconds = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
            rows = rows.set_column(position, name, microseconds)
    return rows


def _rows(rows: pa.Table, table: Table, reach: Reach, as_of_us: int) -> list[tuple]:
    import pyarrow.compute as pc

    time = rows[table.time]
    rows = rows.filter(pc.and_(pc.greater(time, reach.horizon_us(table, as_of_us)), pc.less(time, as_of_us)))
    different = rows.group_by(list(table.identity)).aggregate([]).num_rows
    if different != rows.num_rows:
        raise ContractBroken(
            f"Online state: {rows.num_rows} {table.name} have {different} different {', '.join(table.identity)}; "
            "each may be there once."
        )
    # In the order of the key, so that a card's rows end up beside each other.
    rows = rows.sort_by([(name, "ascending") for name in table.key])
    return list(zip(*(rows[name].to_pylist() for name in table.columns), strict=True))
