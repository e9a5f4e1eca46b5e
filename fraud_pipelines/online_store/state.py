"""What both backends agree on: layout, statements, how long an event is kept, and how warehouse rows become state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features.online import EntityHistory, History
from fraud_pipelines.features.spec import FeatureSpec

if TYPE_CHECKING:
    import pyarrow as pa

# Raised with every change of the tables; a store of another layout is emptied when opened, and rebuilt.
LAYOUT = 2

_EPOCH = datetime(1970, 1, 1)
_DAY_US = 86_400_000_000

# An event this late still finds its whole history.
LATENESS_US = 2 * _DAY_US
# How far past the last rebuild an event may move the horizon: one event with a wrong year must not empty a card.
HORIZON_LEAD_US = 2 * _DAY_US

# Beside these columns every row has `from_warehouse`: 1 when a rebuild brought it, 0 when only serving recorded it.
TRANSACTION_COLUMNS = ("transaction_id", "event_time_us", "card_id", "merchant_id", "amount_minor")
LABEL_COLUMNS = ("transaction_id", "known_at_us", "counts_from_us", "card_id", "merchant_id", "is_fraud")


class Retention:
    """How far back a spec needs events: its longest window, plus what late events need."""

    def __init__(self, spec: FeatureSpec) -> None:
        # One row serves its card and its merchant, so the longer of the two windows decides.
        self.window_us = max(spec.longest_window_us("card"), spec.longest_window_us("merchant"))
        self.keep_us = self.window_us + LATENESS_US

    def horizon_us(self, newest_us: int, as_of_us: int | None) -> int:
        """Events at or before this moment may go, given an event at `newest_us` and the last rebuild."""
        if as_of_us is not None:
            newest_us = min(newest_us, as_of_us + HORIZON_LEAD_US)
        return newest_us - self.keep_us


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of a naive UTC datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(moment_us: int) -> datetime:
    """Naive UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=moment_us)


def history_statement(schema: str, marker: str) -> str:
    """One statement, hence one snapshot, for all a score needs: rows of (kind, moment, value) in order.

    Parameters, four times: entity id, moment after which, and moment up to which. Kinds 0 and 1 are transactions of the
    card and the merchant, 2 and 3 their label arrivals.
    """
    branches = [
        f"select {kind} as kind, {time} as moment_us, {value} as value from {schema}{table} "
        f"where {entity} = {marker} and {time} > {marker} and {time} {upper} {marker}"
        for kind, table, entity, time, value, upper in (
            (0, "transactions", "card_id", "event_time_us", "amount_minor", "<"),
            (1, "transactions", "merchant_id", "event_time_us", "amount_minor", "<"),
            (2, "label_arrivals", "card_id", "counts_from_us", "is_fraud", "<="),
            (3, "label_arrivals", "merchant_id", "counts_from_us", "is_fraud", "<="),
        )
    ]
    return " union all ".join(branches) + " order by 1, 2"


def history_parameters(card_id: str, merchant_id: str, at_us: int, window_us: int) -> tuple[str | int, ...]:
    """Parameters of `history_statement`."""
    since = at_us - window_us
    return (card_id, since, at_us, merchant_id, since, at_us) * 2


def history_of(rows: Iterable[Sequence[int]]) -> History:
    """The history in the rows of `history_statement`."""
    times: tuple[list[int], ...] = ([], [], [], [])
    values: tuple[list[int], ...] = ([], [], [], [])
    for kind, moment_us, value in rows:
        times[kind].append(moment_us)
        values[kind].append(value)
    return History(
        card=EntityHistory(times[0], values[0], times[2], values[2]),
        merchant=EntityHistory(times[1], values[1], times[3], values[3]),
    )


def transaction_rows(transactions: pa.Table, retention: Retention, as_of_us: int) -> list[tuple]:
    """Rows of TRANSACTION_COLUMNS for the warehouse's transactions before `as_of_us` that a window can still reach.

    Raises:
        ContractBroken: a column is absent or holds a null.
    """
    rows = _columns(
        transactions, "transactions", ("transaction_id", "event_time", "card_id", "merchant_id", "amount_minor")
    )
    horizon = as_of_us - retention.keep_us
    return [row for row in zip(*rows, strict=True) if horizon < row[1] < as_of_us]


def label_rows(labels: pa.Table, retention: Retention, as_of_us: int) -> list[tuple]:
    """Rows of LABEL_COLUMNS for the warehouse's label arrivals before `as_of_us` that a window can still reach.

    Raises:
        ContractBroken: a column is absent or holds a null.
    """
    names = ("transaction_id", "event_time", "known_at", "is_fraud", "card_id", "merchant_id")
    horizon = as_of_us - retention.keep_us
    found = []
    for id_, event_us, known_us, is_fraud, card, merchant in zip(*_columns(labels, "labels", names), strict=True):
        counts_from_us = max(known_us, event_us + 1)
        if horizon < counts_from_us < as_of_us:
            found.append((id_, known_us, counts_from_us, card, merchant, int(is_fraud)))
    return found


def _columns(table: pa.Table, what: str, names: Sequence[str]) -> list[list]:
    import pyarrow as pa
    import pyarrow.compute as pc

    absent = [name for name in names if name not in table.column_names]
    if absent:
        raise ContractBroken(f"Online state: {what} lack {', '.join(absent)}; found {', '.join(table.column_names)}.")
    columns = []
    for name in names:
        column = table[name]
        if column.null_count:
            raise ContractBroken(f"Online state: {what} have {column.null_count} nulls in {name}, where none may be.")
        if pa.types.is_timestamp(column.type):
            column = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
        columns.append(column.to_pylist())
    return columns
