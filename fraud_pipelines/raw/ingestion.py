"""One ingestion: a file or folder through a mapping into raw.transactions, raw.labels, raw.customers, raw.quarantine.

The whole load is one warehouse transaction and then one ledger row. Its identifier comes from the content and the
mapping's name, so the same file again finds every row already there and changes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_pipelines import limits, tables
from fraud_pipelines.errors import ContractBroken, SourceInvalid
from fraud_pipelines.ledger import Ingestion, Ledger
from fraud_pipelines.raw import expressions as sql
from fraud_pipelines.raw.cleaning import Cleaned, Cleaner
from fraud_pipelines.raw.contract import Columns, TimeBounds, resolve, scan_query
from fraud_pipelines.raw.currencies import USABLE
from fraud_pipelines.raw.customers import customers_of_file, customers_of_rows
from fraud_pipelines.raw.mapping import Mapping, load_mapping
from fraud_pipelines.raw.quarantine import QUARANTINE_SCHEMA
from fraud_pipelines.raw.repeats import label_conflicts, split_repeats, stored_conflicts
from fraud_pipelines.raw.source import SourceFile, column_names, content_hash, list_files, read_batches
from fraud_pipelines.warehouse import Session, Warehouse

# (rows done, rows in all)
Progress = Callable[[int, int], None]

_CANONICAL = [name for name in tables.TRANSACTIONS.columns if name not in ("source", "ingestion_id")]
_LABEL = ["transaction_id", "event_time", "known_at", "is_fraud", "label_source"]


@dataclass(frozen=True)
class Loaded:
    """One call of `ingest`. `ingestion` counts what the warehouse holds of this source, so it is the same after every
    repetition; the `new_` counts are what this call added."""

    ingestion: Ingestion
    new_transactions: int
    new_labels: int
    new_customers: int


@dataclass(frozen=True)
class Span:
    """What a scan of a source's times and currencies found. Days are of good times only, UTC, both inclusive."""

    rows: int
    bounds: TimeBounds
    first_event: datetime
    last_event: datetime
    last_known: datetime
    events: np.ndarray  # good times in order of the source, int64 microseconds since 1970, shape (n,)
    currency: str | None  # most frequent usable one; None when there is none

    @property
    def days(self) -> tuple[date, date]:
        """First and last day that the source's transactions and labels touch."""
        return self.first_event.date(), max(self.last_event, self.last_known).date()

    def rows_after(self, day: date) -> int:
        """Rows with a good time after the end of `day`."""
        return int((self.events >= _instant(datetime.combine(day + timedelta(days=1), time.min))).sum())


def days_in(path: str | Path, mapping: str | Path | Mapping) -> tuple[date, date]:
    """First and last day (UTC, inclusive) of a source's transactions and of the arrivals of their labels.

    Reads the time columns only: it is how partitions are chosen before a load.

    Raises:
        SourceInvalid: nothing readable, or no row has a time that can be read.
    """
    chosen = mapping if isinstance(mapping, Mapping) else load_mapping(mapping)
    return _scan(_resolved(Path(path), chosen), chosen, Path(path)).days


def content_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's files by name and hash: the same content is the same event."""
    return content_hash(list_files(Path(path)))


def ingestion_id_of(content_sha256: str, mapping_name: str) -> str:
    """Identifier of the ingestion of this content through the mapping of this name."""
    return f"ing_{hashlib.sha256(f'{content_sha256}:{mapping_name}'.encode()).hexdigest()[:24]}"


def ingest(
    path: str | Path,
    mapping: str | Path | Mapping,
    *,
    warehouse: Warehouse,
    ledger: Ledger,
    token_key: bytes,
    within: tuple[date, date] | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Load a source; rows whose key is known stay as they are, rows that break the contract go to quarantine.

    Of two rows with one transaction_id the first stays: an identical one is a duplicate, a different one is
    quarantined. So are rows in another currency than the warehouse holds; an empty one takes the source's most
    frequent.

    Args:
        within: first and last day (inclusive) its transactions may have, where the caller answers for certain days;
            labels may arrive later.
    Raises:
        SourceInvalid: the source or the mapping cannot be read, holds no row, or one outside `within`.
        ContractBroken: no row at all could be loaded; the quarantine is kept and says why.
    """
    path = Path(path).expanduser()
    chosen = mapping if isinstance(mapping, Mapping) else load_mapping(mapping)
    resolved = _resolved(path, chosen)
    span = _scan(resolved, chosen, path)
    if within:
        _require_within(span, within, f"fraud ingest {path} --mapping {chosen.name}", path)
    customer_file = _customer_file(path, chosen)
    content = content_hash([file for file, _ in resolved] + ([customer_file] if customer_file else []))
    load = _Load(chosen.name, ingestion_id_of(content, chosen.name))
    read = 0
    with warehouse.session() as session:
        session.execute("delete from raw.quarantine where ingestion_id = :id", id=load.ingestion_id)
        currency = _currency_held(session) or span.currency
        for file, columns in resolved:
            with Cleaner(chosen, columns, file.name, token_key, span.bounds, currency) as cleaner:
                for batch in read_batches(file, columns.all):
                    load.add(session, cleaner.clean(batch), file.name)
                    read += batch.rows.num_rows + len(batch.malformed)
                    if progress:
                        progress(read, max(span.rows, read))
        if customer_file:
            load.add_customers(session, *customers_of_file(customer_file, chosen, token_key, span.last_event))
        counts = _counts(session, load.ingestion_id, customer_file.name if customer_file else "")
    loaded, labels, quarantined, reason = counts
    record = Ingestion(
        ingestion_id=load.ingestion_id,
        mapping=chosen.name,
        source_name=path.name,
        content_sha256=content,
        rows_read=read,
        rows_loaded=loaded,
        # A row may be loaded and its label quarantined; it is then no duplicate.
        rows_duplicate=max(read - loaded - quarantined, 0),
        rows_quarantined=quarantined,
        labels_loaded=labels,
        first_day=span.days[0],
        last_day=span.days[1],
        last_event_day=span.last_event.date(),
    )
    before = {item.ingestion_id: item.recorded_at for item in ledger.ingestions()}
    ledger.record_ingestion(replace(record, recorded_at=before.get(record.ingestion_id, record.recorded_at)))
    if not loaded and not record.rows_duplicate:
        raise ContractBroken(
            f"{path}: none of its {read} rows could be loaded with mapping {chosen.name}; the first reason: {reason}. "
            f"All are in raw.quarantine under {load.ingestion_id}. Check the mapping, or choose another --mapping."
        )
    return Loaded(record, load.new_transactions, load.new_labels, load.new_customers)


class _Load:
    """The rows of one ingestion, on their way into an open session."""

    def __init__(self, mapping_name: str, ingestion_id: str) -> None:
        self.ingestion_id = ingestion_id
        self.new_transactions = self.new_labels = self.new_customers = 0
        self._mapping_name = mapping_name

    def add(self, session: Session, cleaned: Cleaned, file_name: str) -> None:
        """Insert what is new of a batch, and quarantine what was set aside or contradicts what is stored."""
        rows, within = split_repeats(cleaned.rows, file_name)
        source = pa.repeat(pa.scalar(self._mapping_name, pa.string()), rows.num_rows)
        stored = session.insert_new(
            tables.TRANSACTIONS, self._marked(rows.select(_CANONICAL).append_column("source", source))
        )
        self.new_transactions += rows.num_rows - stored.num_rows
        conflicts = stored_conflicts(rows, stored, file_name)
        kept = rows.filter(pc.invert(pc.is_in(rows["source_row"], conflicts["source_row"])))
        labelled = kept.filter(pc.is_valid(kept["is_fraud"]))
        known = session.insert_new(tables.LABELS, self._marked(labelled.select(_LABEL)))
        self.new_labels += labelled.num_rows - known.num_rows
        self._set_aside(session, cleaned.quarantine, within, conflicts, label_conflicts(labelled, known, file_name))
        self.add_customers(session, customers_of_rows(kept), QUARANTINE_SCHEMA.empty_table())

    def add_customers(self, session: Session, customers: pa.Table, broken: pa.Table) -> None:
        """Insert the customers that are new; the attributes of a known one stay as they are."""
        if customers.num_rows:
            stored = session.insert_new(tables.CUSTOMERS, self._marked(customers))
            self.new_customers += customers.num_rows - stored.num_rows
        self._set_aside(session, broken)

    def _set_aside(self, session: Session, *groups: pa.Table) -> None:
        for rows in groups:
            if rows.num_rows:
                session.upsert(tables.QUARANTINE, self._marked(rows))

    def _marked(self, rows: pa.Table) -> pa.Table:
        return rows.append_column("ingestion_id", pa.repeat(pa.scalar(self.ingestion_id, pa.string()), rows.num_rows))


def _resolved(path: Path, mapping: Mapping) -> list[tuple[SourceFile, Columns]]:
    leave_out = mapping.customers.file if mapping.customers else None
    return [
        (file, resolve(mapping, column_names(file), str(file.path))) for file in list_files(path, leave_out=leave_out)
    ]


def _customer_file(path: Path, mapping: Mapping) -> SourceFile | None:
    if mapping.customers is None or mapping.customers.file is None or not path.is_dir():
        return None
    file = path / mapping.customers.file
    return SourceFile(file, mapping.customers.file) if file.is_file() else None


def _require_within(span: Span, within: tuple[date, date], command: str, path: Path) -> None:
    first, last = span.first_event.date(), span.last_event.date()
    if within[0] <= first and last <= within[1]:
        return
    found = f"{path}: expected transactions from {within[0]} to {within[1]}, found {first} to {last}."
    # A day that has not ended has no partition: choosing others or trying again now would end here again.
    unfinished = max(within[1] + timedelta(days=1), datetime.now(UTC).date())
    if within[0] <= first and last >= unfinished:
        raise SourceInvalid(
            f"{found} {span.rows_after(unfinished - timedelta(days=1))} rows are of days that have not ended yet "
            f"({unfinished} or later, UTC); a day is ingested when it is over. Leave these rows out, or run on "
            f"{last + timedelta(days=1)} or later: {command}"
        )
    raise SourceInvalid(f"{found} Choose these partitions, or run: {command}")


def _currency_held(session: Session) -> str | None:
    """The currency of raw.transactions, None while it is empty; of several, from before there was a rule, the most
    frequent."""
    held = session.query(
        "select currency from raw.transactions group by currency order by count(*) desc, currency limit 1"
    )
    return None if held.empty else str(held["currency"].iloc[0])


def _scan(resolved: list[tuple[SourceFile, Columns]], mapping: Mapping, path: Path) -> Span:
    """Times and currency of every row, read on their own: the span of days, how far from the median a time may lie, and
    what amounts are in."""
    events, known = [], []
    currencies: Counter[str] = Counter()
    rows = 0
    with duckdb.connect() as connection:
        connection.execute(f"set TimeZone = {sql.literal(mapping.timezone)}")
        for file, columns in resolved:
            narrow = columns.scanned()
            for batch in read_batches(file, narrow.all):
                rows += batch.rows.num_rows + len(batch.malformed)
                source = sql.readable(batch.rows.rename_columns(narrow.positional().all))
                types = {field.name: field.type for field in source.schema}
                connection.register("batch", source)
                times = connection.sql(scan_query(mapping, narrow.positional(), types)).to_arrow_table()
                timed = times["currency"].filter(pc.is_valid(times["event_time"]))
                for item in timed.value_counts().to_pylist():
                    currencies[item["values"]] += item["counts"]
                events.append(_microseconds(times["event_time"]))
                known.append(_microseconds(times["known_at"]))
    if not rows:
        raise SourceInvalid(f"{path}: expected rows, found none.")
    since, until = _instant(limits.EARLIEST_EVENT), _instant(limits.LATEST_EVENT)
    all_events, all_known = np.concatenate(events), np.concatenate(known)
    good = all_events[(all_events >= since) & (all_events < until)]
    if not len(good):
        raise SourceInvalid(
            f"{path}: event_time ({resolved[0][1].event_time.column}): expected times from "
            f"{limits.EARLIEST_EVENT:%Y} to {limits.LATEST_EVENT:%Y}, found none in {rows} rows. "
            "Check the mapping's event_time format."
        )
    middle = int(np.median(good))
    far = int(limits.FARTHEST_FROM_MEDIAN.total_seconds()) * 1_000_000
    # Whole days, so that a reason reads well and a few more rows do not move the bounds.
    day = 86_400_000_000
    bounds = TimeBounds(
        _moment(max(since, (middle - far) // day * day)), _moment(min(until, ((middle + far) // day + 1) * day))
    )
    lowest, highest = _instant(bounds.since), _instant(bounds.until)
    good = all_events[(all_events >= lowest) & (all_events < highest)]
    good_known = all_known[(all_known >= lowest) & (all_known < highest)]
    last_event = _moment(int(good.max()))
    last_known = _moment(int(good_known.max())) if len(good_known) else last_event
    usable = [currency for currency, _ in currencies.most_common() if currency in USABLE]
    return Span(rows, bounds, _moment(int(good.min())), last_event, last_known, good, usable[0] if usable else None)


def _microseconds(times: pa.ChunkedArray) -> np.ndarray:
    """Times as int64 microseconds since 1970, shape (n,), nulls left out."""
    return times.drop_null().cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()


def _instant(moment: datetime) -> int:
    return int(np.datetime64(moment, "us").astype(np.int64))


def _moment(microseconds: int) -> datetime:
    return np.datetime64(int(microseconds), "us").astype(datetime)


def _counts(session: Session, ingestion_id: str, customer_file: str) -> tuple[int, int, int, str]:
    """Transactions, labels and quarantined rows that carry this ingestion, and the first reason.

    Broken rows of the customer file are quarantined too, but they are no transactions.
    """
    counts = session.query(
        """
        select (select count(*) from raw.transactions where ingestion_id = :id) as loaded,
            (select count(*) from raw.labels where ingestion_id = :id) as labels,
            (select count(*) from raw.quarantine where ingestion_id = :id and source_file <> :customers) as quarantined,
            (select reason from raw.quarantine where ingestion_id = :id
                order by source_file, source_row limit 1) as reason
        """,
        id=ingestion_id,
        customers=customer_file,
    ).iloc[0]
    return int(counts["loaded"]), int(counts["labels"]), int(counts["quarantined"]), str(counts["reason"])
