"""Reading and writing the ledger."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Row, Table, create_engine, delete, event, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from fraud_pipelines.errors import ContractBroken, LedgerUnavailable, SettingInvalid
from fraud_pipelines.ledger import schema
from fraud_pipelines.ledger.records import CurrentChampion, Decision, Ingestion, Promotion, Report, utc_now
from fraud_pipelines.models.archive import pack

if TYPE_CHECKING:
    from fraud_pipelines.models.bundle import Bundle

MIGRATIONS = Path(__file__).parent / "migrations"
# Two processes that open a new ledger together must not both create it; any constant will do.
MIGRATION_LOCK = 0x66726175


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
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://", 1), pool_pre_ping=True)
    if scheme == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediately)
    ledger = Ledger(engine)
    ledger.migrate()
    return ledger


class Ledger:
    """Rows that are added, never changed; only the counts of a source loaded again, and a damaged bundle, are renewed.

    Every write is on disk when the call returns (rule 7).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
                connection.execute(insert(schema.decisions).values(asdict(decision)))
        except IntegrityError:
            stored = self.decision(decision.transaction_id)
            if stored is None:
                raise
            return stored
        return decision

    def decision(self, transaction_id: str) -> Decision | None:
        """The decision on one transaction, if there is one."""
        with self._transaction() as connection:
            row = connection.execute(
                select(schema.decisions).where(schema.decisions.c.transaction_id == transaction_id)
            ).first()
        return Decision(**row._mapping) if row else None

    def decisions(self, since: datetime, until: datetime) -> list[Decision]:
        """Decisions on transactions of [since, until), by event time."""
        table = schema.decisions
        with self._transaction() as connection:
            rows = connection.execute(
                select(table)
                .where(table.c.event_time >= since, table.c.event_time < until)
                .order_by(table.c.event_time, table.c.transaction_id)
            ).all()
        return [Decision(**row._mapping) for row in rows]

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

    def _rows(self, table: Table, *order: Any) -> list[Row[Any]]:
        with self._transaction() as connection:
            return list(connection.execute(select(table).order_by(*order)).all())


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
