"""Promotions in the ledger, and the bundles of the models they promoted."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fraud_pipelines.ledger import schema
from fraud_pipelines.ledger.database import Database
from fraud_pipelines.ledger.records import CurrentChampion, Promotion, utc_now
from fraud_pipelines.models.archive import pack

if TYPE_CHECKING:
    from fraud_pipelines.models.bundle import Bundle


class PromotionLog(Database):
    """Who was made champion, by whom and why; and what it is made of."""

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
