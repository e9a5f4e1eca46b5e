"""Decisions and feedback in the ledger: the rows that follow the stream of payments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from functools import cache
from io import StringIO
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, tuple_
from sqlalchemy.exc import DBAPIError, IntegrityError

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.ledger import schema
from fraud_pipelines.ledger.database import Database
from fraud_pipelines.ledger.records import Arrival, Decision, DecisionRow, DecisionSummary, Feedback, Log, utc_now

# Rows of a log read at a time: a reader of SQLite keeps writers waiting, and a day need not fit into memory twice.
PAGE_ROWS = 20_000
# Rows that are written out and stored at a time. One `insert` of many takes SQLite two thirds of the CPU that as many
# take; of more rows than these the text is no longer in the processor's cache when the database takes it.
PIECE_ROWS = 64

_DECISION = [column for column in schema.decisions.columns if column.name != "position"]
_ROW = ", ".join(DecisionRow._fields)
# Key and moment of each log.
_LOGS = {
    "decisions": (schema.decisions.c.transaction_id, schema.decisions.c.decided_at),
    "feedback": (schema.feedback.c.feedback_id, schema.feedback.c.known_at),
}


class DecisionLog(Database):
    """Decisions, each with the feature values it was made from, and what analysts said of them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._known_names: dict[str, list[str]] = {}

    # Decisions

    def record_decision(self, decision: Decision) -> Decision:
        """Store a decision before it is answered. The first one for a transaction wins and is returned (rule 6)."""
        try:
            with self._transaction() as connection:
                self._remember_names(connection, [decision])
                connection.execute(insert(schema.decisions).values(_row(decision)))
        except IntegrityError:
            stored = self.decision(decision.transaction_id)
            if stored is None:
                raise
            return stored
        return decision

    def record_decisions(self, decisions: Sequence[Decision]) -> None:
        """Store a batch in one transaction. Of several for one transaction the first stays, stored or in the batch."""
        with self._transaction() as connection:
            self._remember_names(connection, decisions)
            self._insert_new(connection, schema.decisions, "transaction_id", list(map(_row, decisions)))

    def record_rows(self, pieces: Iterable[tuple[Sequence[DecisionRow], Mapping[str, Sequence[str]]]]) -> None:
        """Store a batch as `record_decisions` does, from rows that are written out already: five times as fast.

        Args:
            pieces: at most PIECE_ROWS rows each, and the names of every feature spec of these. Taken one by one while
                the transaction is open; what they raise ends it, and nothing is stored.
        Raises:
            ContractBroken: the names of a spec are other ones than before.
        """
        with self._transaction() as connection:
            all_rows = self._with_names_remembered(connection, pieces)
            if connection.dialect.name == "postgresql":
                _copy_new(connection, all_rows)
            else:
                for rows in all_rows:
                    with _driver_cursor(connection) as cursor:
                        cursor.execute(_insertion(len(rows)), tuple(chain.from_iterable(rows)))

    def decision(self, transaction_id: str) -> Decision | None:
        """The decision on one transaction, if there is one."""
        with self._transaction(reads_only=True) as connection:
            row = connection.execute(
                select(*_DECISION).where(schema.decisions.c.transaction_id == transaction_id)
            ).first()
            return self._decision(connection, row) if row else None

    def decisions_on(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The decisions there are on some transactions."""
        with self._transaction(reads_only=True) as connection:
            rows = connection.execute(
                select(*_DECISION).where(schema.decisions.c.transaction_id.in_(transaction_ids))
            ).all()
            return {row.transaction_id: self._decision(connection, row) for row in rows}

    def decided_since(self, since: datetime, *, most: int) -> dict[str, datetime] | None:
        """Transactions that were decided on at `since` or later, with their event times; None where these are more."""
        table = schema.decisions
        with self._transaction(reads_only=True) as connection:
            rows = connection.execute(
                select(table.c.transaction_id, table.c.event_time).where(table.c.decided_at >= since).limit(most + 1)
            ).all()
            return {row.transaction_id: row.event_time for row in rows} if len(rows) <= most else None

    def decisions(self, since: datetime, until: datetime) -> list[Decision]:
        """Decisions on transactions of [since, until), by event time."""
        table = schema.decisions
        with self._transaction() as connection:
            rows = connection.execute(
                select(*_DECISION)
                .where(table.c.event_time >= since, table.c.event_time < until)
                .order_by(table.c.event_time, table.c.transaction_id)
            ).all()
            return [self._decision(connection, row) for row in rows]

    def decision_summaries(self, since: datetime, until: datetime, *, through: int) -> Iterator[DecisionSummary]:
        """What was decided in [since, until), by `decided_at` and transaction, of positions up to `through`."""
        table = schema.decisions
        query = (
            select(*(table.c[item.name] for item in fields(DecisionSummary)))
            .where(table.c.decided_at >= since, table.c.decided_at < until, table.c.position <= through)
            .order_by(table.c.decided_at, table.c.transaction_id)
            .limit(PAGE_ROWS)
        )
        page = query
        while True:
            with self._transaction() as connection:
                rows = connection.execute(page).all()
            yield from (DecisionSummary(*row) for row in rows)
            if len(rows) < PAGE_ROWS:
                return
            last = rows[-1]
            after = tuple_(table.c.decided_at, table.c.transaction_id) > tuple_(last.decided_at, last.transaction_id)
            page = query.where(after)

    # Feedback

    def record_feedback(self, feedback: Sequence[Feedback]) -> None:
        """Store a batch in one transaction. Of several with one identifier the first stays, stored or in the batch."""
        recorded_at = utc_now()
        rows = [asdict(replace(item, recorded_at=recorded_at)) for item in feedback]
        for row in rows:
            del row["position"]
        with self._transaction() as connection:
            self._insert_new(connection, schema.feedback, "feedback_id", rows)

    def feedback(self, since: datetime, until: datetime, *, through: int | None = None) -> list[Feedback]:
        """Feedback known in [since, until), by `known_at`; of positions up to `through` where it is given."""
        table = schema.feedback
        query = select(table).where(table.c.known_at >= since, table.c.known_at < until)
        if through is not None:
            query = query.where(table.c.position <= through)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(table.c.known_at, table.c.feedback_id)).all()
        return [Feedback(**row._mapping) for row in rows]

    def feedback_on(self, transaction_id: str) -> list[Feedback]:
        """Everything said of one transaction, by `known_at`: the last verdict is the one that stands."""
        table = schema.feedback
        with self._transaction(reads_only=True) as connection:
            rows = connection.execute(
                select(table)
                .where(table.c.transaction_id == transaction_id)
                .order_by(table.c.known_at, table.c.feedback_id)
            ).all()
        return [Feedback(**row._mapping) for row in rows]

    # Logs: in which order their rows arrived, which is not that of their moments

    def last_position(self, log: Log) -> int:
        """Largest position of a log; 0 while it is empty."""
        with self._transaction() as connection:
            return connection.execute(select(func.max(_LOGS[log][0].table.c.position))).scalar() or 0

    def arrivals(self, log: Log, *, after: int, through: int) -> list[Arrival]:
        """The rows at positions after the one and up to the other, in order of arrival.

        On PostgreSQL a position is taken when a row is written and seen when its transaction commits: one below the
        last may still appear, and one of a transaction that failed never does.
        """
        key, moment = _LOGS[log]
        position = key.table.c.position
        with self._transaction() as connection:
            rows = connection.execute(
                select(position, key, moment).where(position > after, position <= through).order_by(position)
            ).all()
        return [Arrival(*row) for row in rows]

    def count(self, log: Log, since: datetime, until: datetime, *, through: int) -> int:
        """Rows of a log with their moment in [since, until), of positions up to `through`."""
        key, moment = _LOGS[log]
        query = select(func.count()).where(moment >= since, moment < until, key.table.c.position <= through)
        with self._transaction() as connection:
            return connection.execute(query).scalar_one()

    # Names of served features

    def feature_names(self, feature_spec_hash: str) -> list[str] | None:
        """Names of the features that were served for a spec, in its order; None of a spec no decision was made with."""
        with self._transaction(reads_only=True) as connection:
            return self._names(connection, feature_spec_hash)

    def _names(self, connection: Connection, spec_hash: str) -> list[str] | None:
        names = self._known_names.get(spec_hash)
        if names is None:
            table = schema.feature_names
            names = connection.execute(select(table.c.names).where(table.c.feature_spec_hash == spec_hash)).scalar()
        return names

    def _remember_names(self, connection: Connection, decisions: Sequence[Decision]) -> None:
        """Store the names of feature specs seen for the first time.

        Raises:
            ContractBroken: a decision has other features than its spec.
        """
        for decision in decisions:
            if decision.feature_spec_hash is not None and decision.features:
                self._remember(connection, decision.feature_spec_hash, list(decision.features))

    def _with_names_remembered(
        self, connection: Connection, pieces: Iterable[tuple[Sequence[DecisionRow], Mapping[str, Sequence[str]]]]
    ) -> Iterator[Sequence[DecisionRow]]:
        remembered: set[str] = set()
        for rows, names in pieces:
            for spec_hash in names.keys() - remembered:
                self._remember(connection, spec_hash, list(names[spec_hash]))
                remembered.add(spec_hash)
            yield rows

    def _remember(self, connection: Connection, spec_hash: str, names: list[str]) -> None:
        found = self._names(connection, spec_hash)
        if found is None:
            row = {"feature_spec_hash": spec_hash, "names": names}
            self._insert_new(connection, schema.feature_names, "feature_spec_hash", [row])
        elif found == names:
            self._known_names[spec_hash] = found  # read, and so committed
        else:
            raise ContractBroken(
                f"Decisions with the feature spec {spec_hash}: expected its features {found[:3]}..., found {names[:3]}"
                "... Keep one order of features per spec."
            )

    def _decision(self, connection: Connection, row: Row[Any]) -> Decision:
        values = dict(row._mapping)
        if isinstance(values["features"], list):
            names = self._names(connection, values["feature_spec_hash"]) or []
            values["features"] = dict(zip(names, values["features"], strict=True)) if values["features"] else {}
        return Decision(**values)


@cache
def _insertion(rows: int) -> str:
    """The statement that inserts so many rows, those of new transactions that is, on SQLite."""
    marks = f"({', '.join('?' * len(DecisionRow._fields))})"
    return f"insert into decisions ({_ROW}) values {', '.join([marks] * rows)} on conflict (transaction_id) do nothing"


def _copy_new(connection: Connection, all_rows: Iterable[Sequence[DecisionRow]]) -> None:
    """Insert the rows whose transactions have none, on PostgreSQL: COPY takes half the CPU of `insert ... values`."""
    create = f"create temp table if not exists incoming on commit delete rows as select {_ROW} from decisions limit 0"
    copy = f"copy incoming ({_ROW}) from stdin"
    insert_new = (
        f"insert into decisions ({_ROW}) select {_ROW} from incoming "
        # By key: two writers of overlapping batches would otherwise wait for each other (deadlock). As Python sorts: no
        # two writers may differ.
        'order by transaction_id collate "C" on conflict (transaction_id) do nothing'
    )
    lines, copied = StringIO(), set[str]()
    for rows in all_rows:
        # Of two for one transaction the first stays.
        new = {row.transaction_id: row for row in reversed(rows) if row.transaction_id not in copied}
        copied |= new.keys()
        lines.writelines(["\t".join(map(_copied, row)) + "\n" for row in new.values()])
    lines.seek(0)
    with _driver_cursor(connection) as cursor:
        cursor.execute(create)
        cursor.copy_expert(copy, lines)
        cursor.execute(insert_new)


@contextmanager
def _driver_cursor(connection: Connection) -> Iterator[Any]:
    """A cursor of the driver itself, past SQLAlchemy, whose errors are wrapped as SQLAlchemy would have."""
    driver: Any = connection.dialect.dbapi
    try:
        with closing(connection.connection.cursor()) as cursor:
            yield cursor
    except driver.Error as error:
        raise DBAPIError.instance(None, None, error, driver.Error) from error


def _copied(value: str | float | None) -> str:
    """A value in the text format of PostgreSQL's COPY."""
    if isinstance(value, str):
        # Looked for one by one, which str.translate takes ten times as long for.
        return value.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
    return r"\N" if value is None else repr(value)


def _row(decision: Decision) -> dict[str, Any]:
    row = dict(vars(decision))  # no asdict: it would copy every feature vector
    if decision.feature_spec_hash is not None:
        row["features"] = list(decision.features.values())
    return row
