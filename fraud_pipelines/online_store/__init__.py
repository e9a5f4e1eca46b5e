"""The online store: recent events per card and merchant, read before every score. A backend per kind of URL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from fraud_pipelines.errors import SettingInvalid

if TYPE_CHECKING:
    import pyarrow as pa

    from fraud_pipelines.features.online import History, LabelArrival, ScoredTransaction
    from fraud_pipelines.features.spec import FeatureSpec
    from fraud_pipelines.online_store.following import Entry, Outcome, Position, Snapshot, Wanted
    from fraud_pipelines.online_store.state import Reach


class OnlineStore(Protocol):
    """State that any number of threads and processes read and write at once.

    Order of arrival never matters: events are kept by event time (labels by the moment they count from), so a late
    event counts for every later score as if it had come in time. Every method raises OnlineStoreUnavailable when the
    store cannot be reached.
    """

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        """What was known of both at `at_us`: transactions before it, labels known by it; one consistent snapshot.

        Card and merchant each go back as far as a feature of theirs can see.

        Raises:
            OnlineStateTooShort: the last rebuild did not go back that far, or the store was emptied because an earlier
                version had filled it with other columns.
        """

    def read(
        self,
        since: Position | None,
        transaction_ids: Sequence[str] = (),
        cards: Sequence[Wanted] = (),
        merchants: Sequence[Wanted] = (),
    ) -> Snapshot:
        """One consistent snapshot: what happened since a position, decisions there are, histories asked for.

        Args:
            since: None stands for a process that knows nothing yet: `is_reset`, no changes.
        Raises:
            OnlineStateTooShort: see `history`.
        """

    def append(self, since: Position, entries: Sequence[Entry]) -> Outcome:
        """Record decided transactions, all in one transaction or none: see Outcome.

        Raises nothing for a transaction that is there already: its first decision stands.
        """

    def transaction(self, transaction_id: str) -> ScoredTransaction | None:
        """A transaction the store holds, to be scored by its identifier."""

    def decision(self, transaction_id: str) -> bytes | None:
        """What `append` recorded for a transaction, while it is kept (DECISIONS_KEPT_US)."""

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        """Add a transaction that has no decision. Idempotent by transaction_id: the first one stays.

        Returns:
            Whether it is new.
        """

    def record_label(self, arrival: LabelArrival) -> bool:
        """Add a label arrival. Idempotent by (transaction_id, known_at_us); False says it was already there."""

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime, *, reach: Reach | None = None) -> None:
        """Replace what the warehouse said before `as_of` in one transaction by its rows now; readers see old or new.

        What was recorded by `record_transaction` and `record_label` stays until the warehouse holds it too, or no
        window can reach it: a payment that was scored counts, whether or not a source has delivered it yet. From then
        on the warehouse's row is the one that counts. What has a time at or after `as_of` stays in any case.

        Args:
            transactions: transaction_id, event_time, card_id, merchant_id, amount_minor, currency; and, where null is
                a value, the columns of state.OPTIONAL. Others are ignored.
            labels: transaction_id, event_time, known_at, is_fraud, and of its transaction amount_minor, card_id,
                merchant_id.
            as_of: naive UTC, exclusive: events of that moment and later, and rows older than any window, are left out.
            reach: how far back the tables go, and what the store promises from now on; the spec's by default.
        Raises:
            ContractBroken: a column is absent, a required one holds a null, or a row is there twice.
        """

    def as_of(self) -> datetime | None:
        """The moment of the last rebuild, naive UTC; None before the first."""

    def reach(self) -> Reach | None:
        """How far back the last rebuild went; None before the first of a new store."""

    def require_reach(self) -> None:
        """Refuse as `history` does, without reading one.

        Raises:
            OnlineStateTooShort: see `history`.
        """

    def sizes(self) -> dict[str, int]:
        """Rows held: `transactions` and `label_arrivals`."""

    def close(self) -> None:
        """Close every connection of this object."""


def open_online_store(url: str, *, spec: FeatureSpec | None = None) -> OnlineStore:
    """Open the store of a URL, creating its tables on first use.

    Args:
        url: `sqlite:///path`, `postgresql+psycopg2://user:password@host:port/database` or
            `redis://user:password@host:port/database` (with TLS `rediss://`; the same as `valkey://`, `valkeys://`).
        spec: whose longest windows bound what is kept and read; the project's own by default, the bundle's in service.
    Raises:
        SettingInvalid: no backend knows the URL.
        OnlineStoreUnavailable: the store cannot be reached.
    """
    from fraud_pipelines.features.spec import load_spec

    spec = load_spec() if spec is None else spec
    if url.startswith("sqlite:///"):
        from fraud_pipelines.online_store.sqlite_backend import SqliteOnlineStore

        return SqliteOnlineStore(url.removeprefix("sqlite:///"), spec)
    if url.startswith("postgresql+psycopg2://"):
        from fraud_pipelines.online_store.postgres_backend import PostgresOnlineStore

        return PostgresOnlineStore(url, spec)
    if url.startswith(("redis://", "rediss://", "valkey://", "valkeys://")):
        from fraud_pipelines.online_store.redis_backend import RedisOnlineStore

        return RedisOnlineStore(url, spec)
    raise SettingInvalid(
        "FRAUD_ONLINE_STORE_URL: expected sqlite:///path, postgresql+psycopg2://... or redis://..., "
        f"found {url.split('@')[-1]!r}."
    )
