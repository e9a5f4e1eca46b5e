"""Reading and writing the ledger."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError

from fraud_pipelines.errors import ContractBroken, LedgerUnavailable, SettingInvalid, UnknownKey
from fraud_pipelines.ledger import schema
from fraud_pipelines.ledger.records import (
    ApiKey,
    Arrival,
    CurrentChampion,
    Decision,
    DecisionSummary,
    Feedback,
    Ingestion,
    Log,
    Promotion,
    Report,
    utc_now,
)
from fraud_pipelines.models.archive import pack

if TYPE_CHECKING:
    from fraud_pipelines.models.bundle import Bundle

MIGRATIONS = Path(__file__).parent / "migrations"
# Two processes that open a new ledger together must not both create it; any constant will do.
MIGRATION_LOCK = 0x66726175
CONNECT_SECONDS = 5
# Rows of a log read at a time: a reader of SQLite keeps writers waiting, and a day need not fit into memory twice.
PAGE_ROWS = 20_000

_DECISION = [column for column in schema.decisions.columns if column.name != "position"]
# Key and moment of each log.
_LOGS = {
    "decisions": (schema.decisions.c.transaction_id, schema.decisions.c.decided_at),
    "feedback": (schema.feedback.c.feedback_id, schema.feedback.c.known_at),
}


@cache
def open_ledger(url: str) -> "Ledger":
    """The ledger at `url` (sqlite:///path or postgresql+psycopg2://...), its schema brought up to date.

    One per process and URL: the connection pool inside is shared by threads.

    Raises:
        SettingInvalid: the URL names no known ledger.
        LedgerUnavailable: it cannot be reached.
    """
    scheme = url.split("://", 1)[0]
    if scheme not in ("sqlite", "postgresql", "postgresql+psycopg2"):
        raise SettingInvalid(
            f"FRAUD_LEDGER_URL: expected sqlite:///path or postgresql+psycopg2://..., found scheme {scheme!r}."
        )
    if scheme == "sqlite":
        folder = Path(url.removeprefix("sqlite:///")).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerUnavailable(
                f"The ledger's folder {folder} cannot be made: {error}. Is FRAUD_LEDGER_URL right?"
            ) from error
    # By itself psycopg2 goes to the server and back for every row of a batch, and waits minutes for a server that is gone.
    options: dict[str, Any] = (
        {}
        if scheme == "sqlite"
        else {"executemany_mode": "values_plus_batch", "connect_args": {"connect_timeout": CONNECT_SECONDS}}
    )
    engine = create_engine(
        url.replace("postgresql://", "postgresql+psycopg2://", 1),
        pool_pre_ping=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        **options,
    )
    if scheme == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediately)
    ledger = Ledger(engine)
    ledger.migrate()
    return ledger


class Ledger:
    """Rows that are added, never changed; but the counts of a source loaded again and a damaged bundle are renewed, and
    an API key can be revoked.

    Every write is on disk when the call returns (rule 7).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known_names: dict[str, list[str]] = {}

    @contextmanager
    def _transaction(self, *, reads_only: bool = False) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(reads_only=reads_only) as connection, connection.begin():
                yield connection
        except OperationalError as error:
            raise LedgerUnavailable(
                f"The ledger at {self._engine.url.render_as_string(hide_password=True)} cannot be used: {error.orig}. "
                "Is its server up, and FRAUD_LEDGER_URL right?"
            ) from error

    def migrate(self) -> None:
        """Bring the schema up to date; safe when several processes start together."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        newest = ScriptDirectory.from_config(config).get_current_head()
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"select pg_advisory_xact_lock({MIGRATION_LOCK})"))
            if MigrationContext.configure(connection).get_current_revision() == newest:
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    # Ingestions

    def record_ingestion(self, ingestion: Ingestion) -> None:
        """Record a source; recording the same content again replaces the row."""
        with self._transaction() as connection:
            connection.execute(
                delete(schema.ingestions).where(schema.ingestions.c.ingestion_id == ingestion.ingestion_id)
            )
            connection.execute(insert(schema.ingestions).values(asdict(ingestion)))

    def ingestions(self) -> list[Ingestion]:
        """Every source ever loaded, oldest first."""
        order = (schema.ingestions.c.recorded_at, schema.ingestions.c.ingestion_id)
        return [Ingestion(**row._mapping) for row in self._rows(schema.ingestions, *order)]

    def first_ingested_day(self) -> date | None:
        """Day of the earliest transaction ever ingested; None before the first ingestion."""
        with self._transaction() as connection:
            return connection.execute(select(func.min(schema.ingestions.c.first_day))).scalar_one()

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

    def decision(self, transaction_id: str) -> Decision | None:
        """The decision on one transaction, if there is one."""
        with self._transaction() as connection:
            row = connection.execute(
                select(*_DECISION).where(schema.decisions.c.transaction_id == transaction_id)
            ).first()
            return self._decision(connection, row) if row else None

    def decisions_on(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The decisions there are on some transactions."""
        with self._transaction() as connection:
            rows = connection.execute(
                select(*_DECISION).where(schema.decisions.c.transaction_id.in_(transaction_ids))
            ).all()
            return {row.transaction_id: self._decision(connection, row) for row in rows}

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
        with self._transaction() as connection:
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

    # Promotions

    def record_promotion(self, promotion: Promotion) -> Promotion:
        """Add one promotion, refusal or rollback; returned with its number."""
        values = asdict(promotion)
        del values["promotion_id"]
        with self._transaction() as connection:
            result = connection.execute(insert(schema.promotions).values(values))
            key = result.inserted_primary_key
        return replace(promotion, promotion_id=key[0] if key else None)

    def promotions(self) -> list[Promotion]:
        """Every promotion, refusal and rollback, oldest first."""
        return [Promotion(**row._mapping) for row in self._rows(schema.promotions, schema.promotions.c.promotion_id)]

    def champion_at(self, moment: datetime | None = None) -> str | None:
        """The version that decided at `moment` (naive UTC; None means now); None before the first promotion."""
        table = schema.promotions
        query = select(table.c.model_version).where(table.c.kind != "refuse")
        if moment is not None:
            query = query.where(table.c.decided_at <= moment)
        with self._transaction() as connection:
            return connection.execute(query.order_by(table.c.promotion_id.desc()).limit(1)).scalar()

    def champion(self) -> CurrentChampion | None:
        """Who decides now and with which bundle, in one cheap read; None before the first promotion.

        A row without digest is about the bundle stored last for its version.
        """
        rows, kept = schema.promotions, schema.model_bundles
        stored = (
            select(kept.c.bundle_digest)
            .where(kept.c.model_version == rows.c.model_version)
            .order_by(kept.c.stored_at.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = (
            select(
                rows.c.model_version,
                func.coalesce(rows.c.bundle_digest, stored),
                rows.c.promotion_id,
                rows.c.decided_at,
            )
            .where(rows.c.kind != "refuse")
            .order_by(rows.c.promotion_id.desc())
            .limit(1)
        )
        with self._transaction(reads_only=True) as connection:
            row = connection.execute(query).first()
        return CurrentChampion(*row) if row else None

    # Bundles

    def store_bundle(self, version: str, bundle: "Bundle") -> None:
        """Keep a version's bundle, so that a service can load it from here; the same bundle is stored once.

        Content that is no longer what it was is replaced: the digest says what it must be, and `bundle` is verified.
        """
        content, table = pack(bundle.contents), schema.model_bundles
        is_it = table.c.bundle_digest == bundle.digest
        values = {"content": content, "size_bytes": len(content), "stored_at": utc_now()}
        added = insert(table).values(bundle_digest=bundle.digest, model_version=version, **values)
        try:
            with self._transaction() as connection:
                stored = connection.execute(select(table.c.content).where(is_it)).scalar()
                if stored is None:
                    connection.execute(added)
                elif stored != content:
                    connection.execute(update(table).where(is_it).values(**values))
        except IntegrityError:
            # Another process stored the same bundle in between.
            if self.bundle_content(bundle.digest) is None:
                raise

    def bundle_content(self, digest: str) -> bytes | None:
        """The archive (models/archive.py) of a bundle, not verified yet; None where it was never stored."""
        table = schema.model_bundles
        with self._transaction(reads_only=True) as connection:
            content = connection.execute(select(table.c.content).where(table.c.bundle_digest == digest)).scalar()
        return None if content is None else bytes(content)

    # Reports

    def archive_report(self, report: Report) -> None:
        """Record a generated document, once; the same report again changes nothing.

        Raises:
            ContractBroken: a report of that identifier is archived with other bytes.
        """
        with self._transaction() as connection:
            stored = connection.execute(
                select(schema.reports.c.sha256).where(schema.reports.c.report_id == report.report_id)
            ).scalar()
            if stored is None:
                connection.execute(insert(schema.reports).values(asdict(report)))
            elif stored != report.sha256:
                raise ContractBroken(
                    f"Report {report.report_id} is archived with SHA-256 {stored}; {report.sha256} was offered. "
                    "An archived report is never replaced. Run: fraud report --verify"
                )

    def reports(self) -> list[Report]:
        """Every archived document, oldest first."""
        rows = self._rows(schema.reports, schema.reports.c.position)
        return [Report(**{name: value for name, value in row._mapping.items() if name != "position"}) for row in rows]

    def _insert_new(self, connection: Connection, table: Table, key: str, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).on_conflict_do_nothing(index_elements=[key])
        # By key: two writers of overlapping batches would otherwise wait for each other (PostgreSQL: deadlock).
        connection.execute(statement, sorted(rows, key=lambda row: str(row[key])))

    def feature_names(self, feature_spec_hash: str) -> list[str] | None:
        """Names of the features that were served for a spec, in its order; None of a spec no decision was made with."""
        with self._transaction() as connection:
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
            spec_hash, names = decision.feature_spec_hash, list(decision.features)
            if spec_hash is None or not names:
                continue
            found = self._names(connection, spec_hash)
            if found is None:
                row = {"feature_spec_hash": spec_hash, "names": names}
                self._insert_new(connection, schema.feature_names, "feature_spec_hash", [row])
            elif found == names:
                self._known_names[spec_hash] = found  # read, and so committed
            else:
                raise ContractBroken(
                    f"Decision on {decision.transaction_id}: its features are not those of spec {spec_hash}; found "
                    f"{len(names)}, first {names[0]}. Keep one order of features per spec."
                )

    def _decision(self, connection: Connection, row: Row[Any]) -> Decision:
        values = dict(row._mapping)
        if isinstance(values["features"], list):
            names = self._names(connection, values["feature_spec_hash"]) or []
            values["features"] = dict(zip(names, values["features"], strict=True)) if values["features"] else {}
        return Decision(**values)

    # API keys

    def add_api_key(self, key: ApiKey) -> None:
        """Record a new key of the scoring service."""
        with self._transaction() as connection:
            connection.execute(insert(schema.api_keys).values(asdict(key)))

    def revoke_api_key(self, key_id: str, *, at: datetime) -> ApiKey:
        """Revoke a key as of `at` (naive UTC) and return it; a key revoked before keeps its first moment.

        Raises:
            UnknownKey: the ledger has no such key.
        """
        table = schema.api_keys
        with self._transaction() as connection:
            connection.execute(
                update(table).where(table.c.key_id == key_id, table.c.revoked_at.is_(None)).values(revoked_at=at)
            )
            row = connection.execute(select(table).where(table.c.key_id == key_id)).first()
        if row is None:
            raise UnknownKey(f"The ledger has no API key {key_id!r}. See those there are: fraud keys list")
        return ApiKey(**row._mapping)

    def api_keys(self) -> list[ApiKey]:
        """Every key ever made, revoked and expired ones too, oldest first."""
        order = (schema.api_keys.c.created_at, schema.api_keys.c.key_id)
        return [ApiKey(**row._mapping) for row in self._rows(schema.api_keys, *order)]

    def _rows(self, table: Table, *order: Any) -> list[Row[Any]]:
        with self._transaction() as connection:
            return list(connection.execute(select(table).order_by(*order)).all())


def _row(decision: Decision) -> dict[str, Any]:
    row = dict(vars(decision))  # no asdict: it would copy every feature vector
    if decision.feature_spec_hash is not None:
        row["features"] = list(decision.features.values())
    return row


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # pysqlite would begin transactions by itself, and late; see SQLAlchemy's notes on SQLite and savepoints.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("pragma journal_mode = wal")
    cursor.execute("pragma synchronous = full")
    cursor.execute("pragma busy_timeout = 30000")
    cursor.close()


def _begin_immediately(connection: Connection) -> None:
    # A reader that later writes would fail at once with "database is locked" instead of waiting its turn. One that
    # never writes need not wait for those who do.
    connection.exec_driver_sql("begin" if connection.get_execution_options().get("reads_only") else "begin immediate")
