"""Raw tables to measure on: a file through the project's own ingestion, or simulated transactions; copies of them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb

from fraud_pipelines import tables
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.raw.ingestion import ingest
from fraud_pipelines.raw.simulator import SimulationConfig, simulate, write
from fraud_pipelines.settings import PROJECT_ROOT
from fraud_pipelines.warehouse import Warehouse, open_warehouse

HANDBOOK = PROJECT_ROOT.parent / "shared" / "data" / "handbook" / "transactions.parquet"
# Stands in for a secret: a benchmark's tokens protect nobody.
_TOKEN_KEY = hashlib.sha256(b"benchmark").digest()
_RAW = (tables.TRANSACTIONS, tables.LABELS)
_OWN = ("transaction_id", "card_id", "merchant_id")
# Transactions copied to PostgreSQL at a time.
_COPIED_DAYS = 30


@dataclass(frozen=True)
class Source:
    """A file or folder and the mapping that reads it; None simulates `transactions` of them."""

    path: Path | None
    mapping: str
    transactions: int = 0

    def __str__(self) -> str:
        return (
            f"{self.transactions} simulated transactions" if self.path is None else f"{self.path.name} ({self.mapping})"
        )


@dataclass(frozen=True)
class Extent:
    """What the raw tables hold. Days are half open: [since, until), naive UTC."""

    transactions: int
    label_arrivals: int
    cards: int
    merchants: int
    since: datetime
    until: datetime

    @property
    def last_day(self) -> datetime:
        return self.until - timedelta(days=1)

    def report(self, source: Source) -> dict[str, str | int]:
        """What was measured on, as the benchmarks print it."""
        found = asdict(self) | {"since": f"{self.since:%Y-%m-%d}", "until": f"{self.until:%Y-%m-%d}"}
        return {"what": str(source), **found}


def choose(path: Path | None, mapping: str, simulated: int | None, otherwise: int) -> Source:
    """The source that the arguments name: a file, simulated transactions, or the handbook's file where it is there.

    Args:
        otherwise: transactions to simulate where the handbook's file is not beside the project.
    """
    if path is None and simulated is None and HANDBOOK.exists():
        return Source(HANDBOOK, "handbook")
    return Source(path, mapping) if path else Source(None, "simulator", simulated or otherwise)


def load(source: Source, url: str, folder: Path, *, card_share: float = 1.0) -> Extent:
    """Ingest a source into an empty DuckDB warehouse.

    Args:
        card_share: share of the cards to keep, chosen by a hash of the card; merchants keep what these cards paid.
    """
    path = source.path
    if path is None:
        path = folder / "simulated"
        cards = max(20, source.transactions // 75)
        config = SimulationConfig(
            start=date(2026, 1, 1), days=90, cards=cards, merchants=max(100, cards * 3 // 4),
            transactions=source.transactions,
        )  # fmt: skip
        write(simulate(config), path)
    warehouse = open_warehouse(url)
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    ingest(path, source.mapping, warehouse=warehouse, ledger=ledger, token_key=_TOKEN_KEY)
    if card_share < 1:
        warehouse.execute(f"delete from raw.transactions where hash(card_id) % 10000 >= {round(card_share * 10_000)}")
        warehouse.execute(
            "delete from raw.labels where transaction_id not in (select transaction_id from raw.transactions)"
        )
    return extent(warehouse)


def extent(warehouse: Warehouse) -> Extent:
    """What the raw tables of a warehouse hold."""
    (row,) = warehouse.query_arrow(
        "select count(*) as transactions, count(distinct card_id) as cards, count(distinct merchant_id) as merchants, "
        "(select count(*) from raw.labels) as label_arrivals, "
        "min(event_time) as first, max(event_time) as last from raw.transactions"
    ).to_pylist()
    midnight = datetime.min.time()
    return Extent(
        transactions=row["transactions"],
        label_arrivals=row["label_arrivals"],
        cards=row["cards"],
        merchants=row["merchants"],
        since=datetime.combine(row["first"], midnight),
        until=datetime.combine(row["last"], midnight) + timedelta(days=1),
    )


def multiply(url: str, path: Path, times: int) -> str:
    """A new DuckDB warehouse with the raw tables of `url` several times over; its URL.

    Each copy has cards, merchants and transactions of its own, so that histories are as long as before.
    """
    copy = f"duckdb:///{path}"
    with open_warehouse(copy).session():
        pass  # creates the tables
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"attach '{url.removeprefix('duckdb:///')}' as original (read_only)")
        copies = f"(select 'x' || range as copy from range({times})) as copies"
        for table in _RAW:
            columns = ", ".join(f"{name} || copy" if name in _OWN else name for name in table.columns)
            connection.execute(f"insert into {table.name} select {columns} from {copies}, original.{table.name}")
    return copy


def copy_raw(origin: Warehouse, target: Warehouse) -> None:
    """Copy transactions and labels to an empty warehouse."""
    for table in _RAW:
        assert table.time_column
        bounds = origin.query_arrow(
            f"select min({table.time_column}) as a, max({table.time_column}) as b from {table.name}"
        )
        since, last = bounds["a"][0].as_py(), bounds["b"][0].as_py()
        while since <= last:
            until = since + timedelta(days=_COPIED_DAYS)
            rows = origin.query_arrow(
                f"select * from {table.name} where {table.time_column} >= :since and {table.time_column} < :until",
                since=since,
                until=until,
            )
            with target.session() as session:
                session.load(table.name, rows)
                session.rows_changed(table.name, rows.num_rows)
            since = until
