"""API keys of the scoring service: their form, their roles, and how one is made.

A key is `fk_<key_id>_<secret>`, 16 and 64 hexadecimal digits: a form that secret scanners can be taught.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fraud_pipelines.ledger import ApiKey

KEY_PATTERN = re.compile(rb"fk_([0-9a-f]{16})_([0-9a-f]{64})")

DEFAULT_RATE_PER_SECOND = 200.0
# Beyond it the time of one transaction, kept in whole nanoseconds, would be rounded by more than 1 in 10,000.
LARGEST_RATE_PER_SECOND = 100_000.0


class Role(StrEnum):
    """What a key is for; serving/access.py says which endpoints that opens."""

    SCORE = "score"
    ANALYST = "analyst"
    AUDITOR = "auditor"
    ADMIN = "admin"


def secret_sha256(secret: bytes) -> str:
    """What is kept of a secret, as hexadecimal digits; ApiKey says why this hash."""
    return hashlib.sha256(secret).hexdigest()


def new_key(
    name: str,
    roles: Sequence[Role],
    *,
    created_by: str,
    rate_per_second: float = DEFAULT_RATE_PER_SECOND,
    burst: int | None = None,
    lifetime: timedelta | None = None,
) -> tuple["ApiKey", str]:
    """A new key as the ledger keeps it, and as its owner gets it: the only place where the secret is.

    Args:
        burst: transactions at once after a pause; None means two seconds of the rate, at least 1.
        lifetime: None means until it is revoked.
    """
    from fraud_pipelines.ledger.records import ApiKey, utc_now

    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    now = utc_now()
    key = ApiKey(
        key_id=key_id,
        name=name,
        roles=[str(role) for role in roles],
        secret_sha256=secret_sha256(secret.encode()),
        rate_per_second=rate_per_second,
        burst=max(1, round(2 * rate_per_second)) if burst is None else burst,
        created_by=created_by,
        created_at=now,
        expires_at=now + lifetime if lifetime else None,
    )
    return key, f"fk_{key_id}_{secret}"


def state_of(key: "ApiKey", *, now: datetime) -> str:
    """`active`, `expired` or `revoked` at `now` (naive UTC)."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"
