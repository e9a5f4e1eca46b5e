"""The online store on PostgreSQL: schema `online_store`, shared by any number of scoring processes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import following, postgres_rebuild, state
from fraud_pipelines.online_store import postgres_statements as sql
from fraud_pipelines.online_store.following import (
    DECISIONS_KEPT_US,
    LOT_BITS,
    Change,
    Entry,
    Outcome,
    Position,
    Snapshot,
    Wanted,
    encode,
    is_time_to_trim,
    touches,
)
from fraud_pipelines.online_store.postgres_tables import create_tables
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TABLES, TRANSACTIONS, Reach, Table

if TYPE_CHECKING:
    import pyarrow as pa

# A payment waits for an answer: a server that is away or stuck is given up quickly, and scoring decides without it.
# Writers wait for one another, and for the moment in which a rebuild writes what differs.
_CONNECT_SECONDS = 2
_TIMEOUTS = "-clock_timeout=2000 -cstatement_timeout=3000"
# A host that vanished answers nothing at all, not even that it is gone.
_VANISHED = {"tcp_user_timeout": 3000, "keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 2}


class PostgresOnlineStore:
    """See OnlineStore. Connections come from a pool; one that a restarted server has closed is replaced."""

    def __init__(self, url: str, spec: FeatureSpec) -> None:
        import sqlalchemy

        self._needed, self._windows = Reach.of(spec), state.Windows.of(spec)
        parsed = sqlalchemy.make_url(url)
        defaults = {"connect_timeout": _CONNECT_SECONDS, **_VANISHED}
        self._engine = sqlalchemy.create_engine(
            parsed,
            pool_size=8,
            max_overflow=24,
            # Statements begin and commit by themselves where they have to: the driver's way costs a round trip more.
            isolation_level="AUTOCOMMIT",
            connect_args={
                **{name: value for name, value in defaults.items() if name not in parsed.query},
                "options": f"{_TIMEOUTS} {parsed.query.get('options', '')}",  # of two the last one counts
            },
        )
        with self._transaction("begin") as cursor:
            create_tables(cursor)

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        windows = self._windows
        asked = {
            "card": card_id,
            "merchant": merchant_id,
            "at": at_us,
            "card_since": at_us - windows.card_us,
            "merchant_since": at_us - windows.merchant_us,
            "card_labels_since": at_us - windows.card_labels_us,
            "merchant_labels_since": at_us - windows.merchant_labels_us,
        }
        rows = self._rows(sql.HISTORY, asked)
        self._needed.require(Reach.of_row(rows[-1][sql.STATE]), self._place())
        kinds: tuple[list[tuple], ...] = ([], [], [], [], [])
        for row in rows:
            kinds[row[sql.KIND]].append(row)
        return History(
            card=EntityHistory([row[sql.CARD_EVENT] for row in kinds[0]], [sql.label_of(row) for row in kinds[2]]),
            merchant=EntityHistory(
                [row[sql.MERCHANT_EVENT] for row in kinds[1]], [sql.label_of(row) for row in kinds[3]]
            ),
        )

    def read(
        self,
        since: Position | None,
        transaction_ids: Sequence[str] = (),
        cards: Sequence[Wanted] = (),
        merchants: Sequence[Wanted] = (),
    ) -> Snapshot:
        statement = sql.NEWS_AND_ASKED if transaction_ids else sql.NEWS + sql.NEWS_ORDER
        asked = {**_asked_since(since), "ids": list(transaction_ids)}
        found: list[tuple] = []
        if cards or merchants:
            with self._transaction(sql.BEGIN_SNAPSHOT + statement, asked) as cursor:
                rows = cursor.fetchall()
                cursor.execute(sql.WANTED, sql.asked_for(cards, merchants))
                found = cursor.fetchall()
        else:
            rows = self._rows(statement, asked)
        position, is_reset, changes, state_row = sql.changes_of(rows, since)
        self._needed.require(Reach.of_row(state_row), self._place())
        return Snapshot(
            position=position,
            is_reset=is_reset,
            changes=changes,
            decisions={row[2]: bytes(row[3]) for row in rows if row[sql.KIND] == 2},
            stored=frozenset(row[2] for row in rows if row[sql.KIND] == 3),
            as_of_us=state_row[0],
            cards=sql.histories_of(found, [wanted.id for wanted in cards], 0),
            merchants=sql.histories_of(found, [wanted.id for wanted in merchants], 1),
        )

    def append(self, since: Position, entries: Sequence[Entry]) -> Outcome:
        # Of a transaction that is there twice, the first decision stands.
        once: dict[str, Entry] = {}
        repeated = set()
        for entry in entries:
            id_ = entry.transaction.transaction_id
            if once.setdefault(id_, entry) is not entry:
                repeated.add(id_)
        with self._transaction(sql.BEGIN_WRITING + sql.NEWS + sql.NEWS_ORDER, _asked_since(since)) as cursor:
            position, is_reset, changes, state_row = sql.changes_of(cursor.fetchall(), since)
            if is_reset or touches(changes, entries):
                return Outcome(False, position, is_reset, changes)
            if not entries:
                return Outcome(True, position, changes=changes)
            first = entries[0].transaction
            columns = zip(*(state.transaction_row(entry.transaction) for entry in once.values()), strict=True)
            cursor.execute(
                sql.APPEND,
                {
                    **dict(zip(TRANSACTIONS.columns, map(list, columns), strict=True)),
                    "bodies": [encode(entry.transaction)[1].decode() for entry in once.values()],
                    "decisions": [entry.decision for entry in once.values()],
                    "sequence": _next(position.sequence, 0),
                    "lot_bits": LOT_BITS,
                    # One card and merchant per call: a batch must not pay for each of its rows.
                    "card": first.card_id,
                    "merchant": first.merchant_id,
                    "horizon": state.horizon_after(TRANSACTIONS, first.event_time_us, self._needed, state_row),
                },
            )
            rows = cursor.fetchall()
            recorded = sum(is_new for _, _, is_new, _ in rows)
            if recorded:
                position = Position(position.epoch, rows[0][3])
                self._trim(cursor, position.sequence, recorded)
        decided = {id_: bytes(decision) for id_, decision, _, _ in rows if decision is not None}
        return Outcome(
            True,
            position,
            changes=changes,
            decided=decided | {id_: once[id_].decision for id_ in repeated if id_ not in decided},
            stored=frozenset(id_ for id_, decision, is_new, _ in rows if decision is None and not is_new),
        )

    def transaction(self, transaction_id: str) -> ScoredTransaction | None:
        rows = self._rows(sql.TRANSACTION, (transaction_id,))
        return state.stored_transaction(rows[0]) if rows else None

    def decision(self, transaction_id: str) -> bytes | None:
        rows = self._rows(sql.DECISION, (transaction_id,))
        return bytes(rows[0][0]) if rows else None

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        t = transaction
        return self._record(TRANSACTIONS, t, state.transaction_row(t), t.event_time_us)

    def record_label(self, arrival: LabelArrival) -> bool:
        return self._record(LABEL_ARRIVALS, arrival, state.label_row(arrival), arrival.counts_from_us)

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime, *, reach: Reach | None = None) -> None:
        as_of_us, reach = state.to_us(as_of), reach or self._needed
        rows = {
            TRANSACTIONS: state.transaction_rows(transactions, reach, as_of_us),
            LABEL_ARRIVALS: state.label_rows(labels, reach, as_of_us),
        }
        with self._transaction("begin; set local lock_timeout = 0; set local statement_timeout = 0") as cursor:
            cursor.execute("select pg_advisory_xact_lock(%s)", (sql.REBUILD_LOCK,))
            # Finding the differences takes most of the time and no lock; writers wait only for those to be written.
            for table, new in rows.items():
                postgres_rebuild.fill_temporary(cursor, table, new)
                postgres_rebuild.find_differences(cursor, table, as_of_us, reach)
            cursor.execute(sql.LOCK_WRITERS)
            for table in TABLES:
                postgres_rebuild.apply_differences(cursor, table)
            cursor.execute(
                "delete from online_store.decisions where event_time_us <= %s", (as_of_us - DECISIONS_KEPT_US,)
            )
            cursor.execute(
                "update online_store.state set as_of_us = %s, transactions_reach_us = %s, labels_reach_us = %s, "
                "rebuilds = rebuilds + 1",
                (as_of_us, reach.transactions_us, reach.labels_us),
            )

    def as_of(self) -> datetime | None:
        as_of_us = self._rows(sql.READ_STATE)[0][0]
        return None if as_of_us is None else state.from_us(as_of_us)

    def reach(self) -> Reach | None:
        return Reach.of_row(self._rows(sql.READ_STATE)[0])

    def require_reach(self) -> None:
        self._needed.require(self.reach(), self._place())

    def sizes(self) -> dict[str, int]:
        return dict(zip((table.name for table in TABLES), self._rows(sql.SIZES)[0], strict=True))

    def close(self) -> None:
        self._engine.dispose()

    def _record(self, table: Table, change: Change, row: tuple, at_us: int) -> bool:
        is_label, body = encode(change)
        with self._transaction(sql.BEGIN_WRITING + sql.NEWS + sql.NEWS_ORDER, _asked_since(None)) as cursor:
            position, _, _, state_row = sql.changes_of(cursor.fetchall(), None)
            number = _next(position.sequence, 1)
            cursor.execute(
                sql.RECORD[table],
                {
                    **dict(zip(table.columns, row, strict=True)),
                    "sequence": number,
                    "is_label": is_label,
                    "body": body.decode(),
                    "card": change.card_id,
                    "merchant": change.merchant_id,
                    "horizon": state.horizon_after(table, at_us, self._needed, state_row),
                },
            )
            is_new: bool = cursor.fetchone()[0] == 1
            if is_new:
                self._trim(cursor, number, 1)
        return is_new

    def _trim(self, cursor: Any, newest: int, added: int) -> None:
        if is_time_to_trim(newest >> LOT_BITS, added):
            cursor.execute(
                "delete from online_store.changes where sequence <= %s",
                (newest - (following.CHANGES_KEPT << LOT_BITS),),
            )

    def _place(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    def _rows(self, statement: str, parameters: Any = None) -> list[tuple]:
        """What one statement answers, which is a transaction of its own."""
        with self._executed(statement, parameters) as cursor:
            rows: list[tuple] = cursor.fetchall()
        return rows

    @contextmanager
    def _transaction(self, statement: str, parameters: Any = None) -> Iterator[Any]:
        """A cursor that has executed what begins a transaction: committed at exit, rolled back on any exception."""
        with self._executed(statement, parameters) as cursor:
            yield cursor
            cursor.execute("commit")

    @contextmanager
    def _executed(self, statement: str, parameters: Any) -> Iterator[Any]:
        import sqlalchemy.exc

        errors = (self._engine.dialect.loaded_dbapi.Error, sqlalchemy.exc.SQLAlchemyError)
        try:
            connection, cursor = self._first_executed(statement, parameters, errors)
            try:
                yield cursor
            except BaseException:
                connection.invalidate()  # closed, which also ends its transaction
                raise
            finally:
                connection.close()
        except errors as error:
            raise OnlineStoreUnavailable(
                f"The online store {self._place()} cannot be used: {error}. Run: fraud doctor"
            ) from error

    def _first_executed(self, statement: str, parameters: Any, errors: tuple[type[Exception], ...]) -> tuple[Any, Any]:
        """A connection and a cursor that has executed the statement on it.

        A server that was restarted since has closed every connection of the pool, which shows at the first statement
        only; trying each one before use would cost a round trip for every score.
        """
        for is_last in (False, True):
            connection = self._engine.raw_connection()
            cursor = connection.cursor()
            try:
                cursor.execute(statement, parameters)
            except errors:
                is_closed = connection.dbapi_connection.closed  # type: ignore[union-attr]
                connection.invalidate()
                if is_last or not is_closed:
                    raise
                self._engine.dispose()
            else:
                break
        return connection, cursor


def _asked_since(since: Position | None) -> dict[str, int]:
    return {"epoch": -1, "sequence": 0} if since is None else {"epoch": since.epoch, "sequence": since.sequence}


def _next(sequence: int, step: int) -> int:
    """The number `step` changes after this one, with a lot of its own."""
    return (((sequence >> LOT_BITS) + step) << LOT_BITS) + random.getrandbits(LOT_BITS)
