"""Challenges in the ledger, and what champion and challenger said of the same transactions."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime

from sqlalchemy import insert, select

from fraud_pipelines.ledger import schema
from fraud_pipelines.ledger.database import Database
from fraud_pipelines.ledger.records import Challenge, CurrentChallenger, ShadowDecision

_SIDE_BY_SIDE = [schema.shadow_decisions.c[item.name] for item in fields(ShadowDecision)]


class ChallengeLog(Database):
    """Which version was compared with the champion, by whom and why; and how it decided beside it."""

    def record_challenge(self, challenge: Challenge) -> Challenge:
        """Add the beginning, a change or the end of a challenge; returned with its number."""
        values = asdict(challenge)
        del values["challenge_id"]
        with self._transaction() as connection:
            key = connection.execute(insert(schema.challenges).values(values)).inserted_primary_key
        return replace(challenge, challenge_id=key[0] if key else None)

    def challenges(self) -> list[Challenge]:
        """Every challenge and every end of one, oldest first."""
        return [Challenge(**row._mapping) for row in self._rows(schema.challenges, schema.challenges.c.challenge_id)]

    def challenger(self) -> CurrentChallenger | None:
        """Who is compared with the champion now, in one cheap read; None before the first and after the last."""
        table = schema.challenges
        query = select(*(table.c[name] for name in CurrentChallenger._fields)).order_by(table.c.challenge_id.desc())
        with self._transaction(reads_only=True) as connection:
            row = connection.execute(query.limit(1)).first()
        return CurrentChallenger(*row) if row and row.model_version is not None else None

    def record_shadow_decisions(self, decisions: Sequence[ShadowDecision]) -> None:
        """Store a batch in one transaction. Of several for one transaction and challenger's bundle the first stays."""
        key = ("transaction_id", "challenger_digest")
        with self._transaction() as connection:
            self._insert_new(connection, schema.shadow_decisions, key, [dict(vars(row)) for row in decisions])

    def shadow_decisions(self, challenger_digest: str, since: datetime, until: datetime) -> list[ShadowDecision]:
        """What was decided beside one bundle on transactions of [since, until), by event time."""
        table = schema.shadow_decisions
        query = (
            select(*_SIDE_BY_SIDE)
            .where(table.c.challenger_digest == challenger_digest)
            .where(table.c.event_time >= since, table.c.event_time < until)
            .order_by(table.c.event_time, table.c.transaction_id)
        )
        with self._transaction(reads_only=True) as connection:
            return [ShadowDecision(*row) for row in connection.execute(query).all()]
