"""Opening the ledger; ingestions, reports and API keys in it. See the other *_log.py for the rest."""

from dataclasses import asdict
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, create_engine, delete, event, func, insert, select, update

from fraud_pipelines.errors import ContractBroken, LedgerUnavailable, SettingInvalid, UnknownKey
from fraud_pipelines.ledger import schema
from fraud_pipelines.ledger.challenge_log import ChallengeLog
from fraud_pipelines.ledger.decision_log import DecisionLog
from fraud_pipelines.ledger.promotion_log import PromotionLog
from fraud_pipelines.ledger.records import ApiKey, Ingestion, Report
from fraud_pipelines.write_ahead_log import use_write_ahead_log

CONNECT_SECONDS = 2
# SQLite: how long a writer waits for another one.
_BUSY_SECONDS = 30
_PAGE_BYTES = 16 * 1024
_CACHE_BYTES, _LOG_BYTES = 32 * 1024**2, 64 * 1024**2
# A server whose host is gone is noticed in seconds, not in a quarter of an hour.
_VANISHED = {"tcp_user_timeout": 5000, "keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 3}


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
    # By itself psycopg2 goes to the server and back for every row of a batch, and waits minutes for a server that went.
    options: dict[str, Any] = (
        {}
        if scheme == "sqlite"
        else {
            "executemany_mode": "values_plus_batch",
            "connect_args": {"connect_timeout": CONNECT_SECONDS, **_VANISHED},
        }
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


class Ledger(DecisionLog, PromotionLog, ChallengeLog):
    """Rows that are added, never changed; but the counts of a source loaded again and a damaged bundle are renewed, and
    an API key can be revoked.

    Every write is on disk when the call returns (rule 7).
    """

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


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # pysqlite would begin transactions by itself, and late; see SQLAlchemy's notes on SQLite and savepoints.
    connection.isolation_level = None
    connection.execute(f"pragma busy_timeout = {_BUSY_SECONDS * 1000}")
    # A decision takes two kilobytes: of SQLite's usual pages, of four, many would hold just one. For a new file alone.
    connection.execute(f"pragma page_size = {_PAGE_BYTES}")
    use_write_ahead_log(connection, busy_seconds=_BUSY_SECONDS)
    connection.execute("pragma synchronous = full")
    # Transaction identifiers come in any order, so each new one changes another page of their index: it is to be found
    # in memory, and copied from the log into the file not with every batch.
    connection.execute(f"pragma cache_size = -{_CACHE_BYTES // 1024}")
    connection.execute(f"pragma wal_autocheckpoint = {_LOG_BYTES // _PAGE_BYTES}")


def _begin_immediately(connection: Connection) -> None:
    # A reader that later writes would fail at once with "database is locked" instead of waiting its turn. One that
    # never writes need not wait for those who do.
    connection.exec_driver_sql("begin" if connection.get_execution_options().get("reads_only") else "begin immediate")
