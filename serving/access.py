"""Who may call what: API keys, their roles, and how often.

The keys are in the ledger (`fraud keys`); the service holds them in memory, renewed by whoever calls `refresh` every
second. Nothing here reads or writes a file or a socket while a request waits, and nothing logs or repeats a key.
"""

import hmac
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fraud_pipelines.api_keys import KEY_PATTERN, Role, secret_sha256
from fraud_pipelines.errors import LedgerUnavailable
from fraud_pipelines.ledger import ApiKey
from serving.problems import Problem
from serving.rate_limits import RateLimit, RateLimits

# Probes, the description of the service, and metrics, which the proxy keeps inside (deploy/nginx.conf).
PUBLIC = frozenset({"/livez", "/readyz", "/health", "/docs.json", "/metrics"})

# The roles that each endpoint is open to, besides admin. What is not here is for admin alone.
ENDPOINTS: dict[tuple[str, str], set[Role]] = {
    ("POST", "/score"): {Role.SCORE},
    ("POST", "/score_batch"): {Role.SCORE},
    ("POST", "/score_by_id"): {Role.SCORE},
    ("GET", "/model"): {Role.SCORE, Role.ANALYST, Role.AUDITOR},
    ("GET", "/decisions/{transaction_id}"): {Role.ANALYST, Role.AUDITOR},
    ("POST", "/explain"): {Role.ANALYST, Role.AUDITOR},
    ("POST", "/feedback"): {Role.ANALYST},
}

logger = logging.getLogger("bentoml.fraud_scorer.access")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request. `limit` is None for whoever calls without a key."""

    key_id: str
    name: str
    roles: frozenset[Role]
    limit: RateLimit | None


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    secret_sha256: str
    is_revoked: bool
    expires_at: float  # seconds since 1970


ANYONE = Principal("", "anyone", frozenset(), None)
# Compared with when no key has the identifier, so that the time of a refusal does not tell which identifiers exist.
_NOBODY = _Entry(ANYONE, "0" * 64, is_revoked=True, expires_at=0.0)


class Access:
    """Decides on each request from its headers alone. Threads may share it; each worker process makes its own."""

    def __init__(
        self, read_keys: Callable[[], Sequence[ApiKey]], *, keys_required: bool, snapshot: Path, limits: RateLimits
    ) -> None:
        """Read the keys: from the ledger or, while it is away, from the snapshot of the last time.

        Args:
            read_keys: every key of the ledger; may raise LedgerUnavailable.
            keys_required: whether a ledger without any key refuses everybody (production) or nobody.
            snapshot: file of this host (mode 0600, hashes only) that a start during an outage reads.
        """
        self._read_keys, self._keys_required = read_keys, keys_required
        self._snapshot, self._limits = snapshot, limits
        self._keys: tuple[ApiKey, ...] | None = None
        self._entries: dict[bytes, _Entry] = {}
        # What holds on and is said once: the ledger is away, the snapshot cannot be written.
        self._is_away = self._is_unsaved = False
        stored = self._stored()
        if stored is not None:
            self._adopt(stored)
        self.refresh()

    @property
    def are_keys_known(self) -> bool:
        """Whether the keys were ever read; until then everybody is refused."""
        return self._keys is not None

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything: outside production, as long as no key was ever made."""
        return self._keys == () and not self._keys_required

    def authorize(self, headers: Iterable[tuple[bytes, bytes]], method: str, path: str, *, cost: int = 1) -> Principal:
        """The sender of a request, who may send it now.

        Args:
            headers: of the ASGI scope, names in lower case.
            method, path: of the ASGI scope.
            cost: transactions to take from the key's bucket; `charge` takes those that are only known later.
        Raises:
            Problem: 401 no valid key, 403 a key of another role, 429 too many transactions (with Retry-After), 503
                while the service has never seen the ledger's keys.
        """
        if path in PUBLIC or self.is_open:
            return ANYONE
        principal = self._authenticated(headers)
        roles = _roles_of(method, path)
        if Role.ADMIN not in principal.roles and roles.isdisjoint(principal.roles):
            wanted = ", ".join(sorted({*roles, Role.ADMIN}))
            raise Problem(
                403,
                "role_missing",
                f"The key {principal.key_id} has not the role for this path, one of: {wanted}.",
                next_step="Use a key of that role; an administrator makes one with: fraud keys create NAME --role ROLE",
            )
        self.charge(principal, cost)
        return principal

    def charge(self, principal: Principal, cost: int) -> None:
        """Take `cost` transactions from the principal's bucket: a batch costs its rows.

        Raises:
            Problem: 429 with Retry-After; 413 when the bucket is smaller than the batch even when full.
        """
        limit = principal.limit
        if limit is None or cost <= 0:
            return
        if cost > limit.burst:
            raise Problem(
                413,
                "batch_beyond_burst",
                f"The key {principal.key_id} admits {limit.burst} transactions at once; these are {cost}.",
                next_step="Send smaller batches, or ask for a key with a larger burst.",
            )
        wait = self._limits.take(principal.key_id, limit, cost)
        if wait:
            raise Problem(
                429,
                "rate_limited",
                f"The key {principal.key_id} admits {limit.per_second:g} transactions per second and bursts of "
                f"{limit.burst}.",
                next_step="Send it again after the seconds in Retry-After.",
                headers={"Retry-After": str(math.ceil(wait))},
            )

    def refresh(self) -> None:
        """Read the keys again; while the ledger is away, those known stay valid until they expire."""
        try:
            keys = tuple(self._read_keys())
        except LedgerUnavailable as error:
            if not self._is_away:
                logger.warning("API keys stay as they were, changes will be seen when the ledger is back: %s", error)
            self._is_away = True
            return
        self._is_away = False
        changed = keys != self._keys
        if changed:
            self._adopt(keys)
        if changed or self._is_unsaved:
            self._store(keys)

    def _authenticated(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        if not self._keys:
            raise _no_keys_yet(are_known=self._keys is not None)
        presented = KEY_PATTERN.fullmatch(_presented(headers))
        if presented is None:
            raise _unauthorized("key_required", "The request has no API key of the form fk_<id>_<secret>.")
        key_id, secret = presented.groups()
        entry = self._entries.get(key_id, _NOBODY)
        is_known = hmac.compare_digest(secret_sha256(secret), entry.secret_sha256)
        if not is_known:
            raise _unauthorized("key_unknown", "The API key is unknown.")
        if entry.is_revoked:
            raise _unauthorized("key_revoked", f"The key {entry.principal.key_id} was revoked.")
        if entry.expires_at <= time.time():
            raise _unauthorized("key_expired", f"The key {entry.principal.key_id} has expired.")
        return entry.principal

    def _adopt(self, keys: tuple[ApiKey, ...]) -> None:
        was_open = self.is_open
        self._entries = {key.key_id.encode(): _entry(key) for key in keys}
        self._keys = keys
        if self.is_open and not was_open:
            logger.warning(
                "There is no API key, so whoever reaches this service may use it. To ask for keys, make the first: "
                "fraud keys create NAME --role score"
            )
        elif was_open and not self.is_open:
            logger.warning("The first API key was made: from now on every request needs one")

    def _stored(self) -> tuple[ApiKey, ...] | None:
        try:
            return tuple(_key_from_json(item) for item in json.loads(self._snapshot.read_bytes())["keys"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("The snapshot of API keys %s is left aside: %s", self._snapshot, error)
            return None

    def _store(self, keys: tuple[ApiKey, ...]) -> None:
        draft = self._snapshot.with_suffix(f".{os.getpid()}")
        try:
            self._snapshot.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"keys": [asdict(key) for key in keys]}, file, default=datetime.isoformat)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._snapshot)
            self._is_unsaved = False
        except OSError as error:
            if not self._is_unsaved:
                logger.warning(
                    "The snapshot of API keys cannot be written, so a start while the ledger is away would know older "
                    "keys: %s",
                    error,
                )
            self._is_unsaved = True


def _roles_of(method: str, path: str) -> set[Role]:
    method = "GET" if method == "HEAD" else method
    exact = ENDPOINTS.get((method, path))
    if exact is not None:
        return exact
    # Every template has its one parameter at the end, which may hold slashes of its own.
    for (of_method, template), roles in ENDPOINTS.items():
        folder, _, _ = template.partition("{")
        if of_method == method and template != folder and path.startswith(folder) and path != folder:
            return roles
    return set()


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The first key in `Authorization: Bearer` or `X-API-Key`; empty when there is none."""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip()
    return b""


def _entry(key: ApiKey) -> _Entry:
    # A role that this version does not know opens nothing.
    roles = frozenset(role for role in Role if role in key.roles)
    return _Entry(
        Principal(key.key_id, key.name, roles, RateLimit(key.rate_per_second, key.burst)),
        key.secret_sha256,
        is_revoked=key.revoked_at is not None,
        expires_at=key.expires_at.replace(tzinfo=UTC).timestamp() if key.expires_at else math.inf,
    )


def _key_from_json(item: dict[str, Any]) -> ApiKey:
    moments = {name: datetime.fromisoformat(value) for name, value in item.items() if name.endswith("_at") and value}
    return ApiKey(**item | moments)


def _unauthorized(code: str, message: str) -> Problem:
    return Problem(
        401,
        code,
        message,
        next_step="Send Authorization: Bearer <key>; an administrator makes it: fraud keys create NAME --role ROLE",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _no_keys_yet(*, are_known: bool) -> Problem:
    if are_known:
        return _unauthorized("no_keys", "This service needs an API key, and none has been made yet.")
    return Problem(
        503,
        "keys_not_read",
        "The service could not read its API keys yet: the ledger is away.",
        next_step="Send it again shortly.",
        headers={"Retry-After": "1"},
    )
