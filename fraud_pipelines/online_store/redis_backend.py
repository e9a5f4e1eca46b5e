"""The online store on Redis 6.2 or newer, or Valkey: keys `online_store:*` of one database.

One server, or a primary with replicas that take over; not a cluster, because a score needs a card and a merchant in one
snapshot. Whether the server writes to disk is the operator's choice. Without it, and for the last moments before a
failover also with it, a crash loses recent events and decisions. Every decision is in the service's journal and the
ledger, and the state comes back with `fraud materialize operations/online_state`; until then no model decides on an
empty one. The server must not evict keys (`maxmemory-policy noeviction`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from fraud_pipelines.errors import OnlineStoreUnavailable, SettingInvalid
from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import following, redis_rebuild, state
from fraud_pipelines.online_store import redis_scripts as scripts
from fraud_pipelines.online_store.following import LOT_BITS, Change, Entry, Outcome, Position, Snapshot, Wanted
from fraud_pipelines.online_store.redis_rows import events_of, item_of
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TABLES, TRANSACTIONS, Reach, Table

if TYPE_CHECKING:
    import pyarrow as pa
    from redis import Redis

# A payment waits for an answer: a server that is away or stuck is given up quickly, and scoring decides without it.
_SECONDS = 1.0
# A rebuild has time.
_REBUILD_SECONDS = 60.0
_REACH_FIELDS = {TRANSACTIONS: "transactions_reach_us", LABEL_ARRIVALS: "labels_reach_us"}
# Sorts after every number.
_EVER = "+inf"


class RedisOnlineStore:
    """See OnlineStore. Safe to share between threads: the client has a pool of connections."""

    def __init__(self, url: str, spec: FeatureSpec) -> None:
        self._url, self._needed, self._windows = (
            url.replace("valkey", "redis", 1),
            Reach.of(spec),
            state.Windows.of(spec),
        )
        self._client = self._connect(_SECONDS)
        register = self._client.register_script
        self._open, self._read, self._append = map(register, (scripts.OPEN, scripts.READ, scripts.APPEND))
        self._record, self._transaction, self._sizes = map(
            register, (scripts.RECORD, scripts.TRANSACTION, scripts.SIZES)
        )
        with self._available():
            memory = self._client.info("memory")
            self._create(is_lost=False)
        if memory.get("maxmemory") and str(memory.get("maxmemory_policy")).startswith("allkeys"):
            raise SettingInvalid(
                f"FRAUD_ONLINE_STORE_URL: {self._place()} has maxmemory-policy {memory['maxmemory_policy']}, which "
                "drops histories without a word; expected noeviction. "
                "Run: redis-cli config set maxmemory-policy noeviction"
            )

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        windows = self._windows
        _, _, _, _, _, ranges = self._read_all(
            None,
            (),
            (
                *(f"transactions:card:{card_id}", f"({at_us - windows.card_us}", f"({at_us}"),
                *(f"label_arrivals:card:{card_id}", f"({at_us - windows.card_labels_us}", at_us),
                *(f"transactions:merchant:{merchant_id}", f"({at_us - windows.merchant_us}", f"({at_us}"),
                *(f"label_arrivals:merchant:{merchant_id}", f"({at_us - windows.merchant_labels_us}", at_us),
            ),
        )
        events = [events_of(members) for members in ranges]
        return History(card=EntityHistory(*events[:2]), merchant=EntityHistory(*events[2:]))

    def read(
        self,
        since: Position | None,
        transaction_ids: Sequence[str] = (),
        cards: Sequence[Wanted] = (),
        merchants: Sequence[Wanted] = (),
    ) -> Snapshot:
        wanted = [("card", one) for one in cards] + [("merchant", one) for one in merchants]
        asked: list[object] = []
        for entity, (id_, transactions_since_us, labels_since_us) in wanted:
            asked += (f"transactions:{entity}:{id_}", f"({transactions_since_us}", _EVER)
            asked += (f"label_arrivals:{entity}:{id_}", f"({labels_since_us}", _EVER)
        state_row, is_reset, changes, decisions, stored, ranges = self._read_all(since, transaction_ids, asked)
        histories: list[EntityHistory[Any]] = [
            EntityHistory(events_of(events), events_of(labels))
            for events, labels in zip(ranges[::2], ranges[1::2], strict=True)
        ]
        return Snapshot(
            position=_position(*state_row[:2]),
            is_reset=bool(is_reset),
            changes=_changes(changes),
            decisions={id_: found for id_, found in zip(transaction_ids, decisions, strict=True) if found is not None},
            stored=frozenset(id_ for id_, is_stored in zip(transaction_ids, stored, strict=True) if is_stored),
            as_of_us=_number(state_row[2]),
            cards={one.id: history for one, history in zip(cards, histories, strict=False)},
            merchants={one.id: history for one, history in zip(merchants, histories[len(cards) :], strict=True)},
        )

    def append(self, since: Position, entries: Sequence[Entry]) -> Outcome:
        arguments: list[object] = [*_since(since), _lot(), following.CHANGES_KEPT, self._needed.transactions_us]
        for transaction, decision in entries:
            arguments += item_of(TRANSACTIONS, state.transaction_row(transaction))
            arguments += (following.encode(transaction)[1], decision)
        is_recorded, generation, last, is_reset, changes, decided, stored = self._run(self._append, arguments)
        return Outcome(
            bool(is_recorded),
            _position(generation, last),
            bool(is_reset),
            _changes(changes),
            decided={id_.decode(): decision for id_, decision in decided},
            stored=frozenset(id_.decode() for id_ in stored),
        )

    def transaction(self, transaction_id: str) -> ScoredTransaction | None:
        with self._available():
            row = self._transaction(args=[transaction_id])
        return None if row is None else state.stored_transaction(orjson.loads(row))

    def decision(self, transaction_id: str) -> bytes | None:
        with self._available():
            found: bytes | None = self._client.hget(scripts.DECISIONS, transaction_id)  # type: ignore[assignment]
        return found

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        return self._record_row(TRANSACTIONS, transaction, state.transaction_row(transaction))

    def record_label(self, arrival: LabelArrival) -> bool:
        return self._record_row(LABEL_ARRIVALS, arrival, state.label_row(arrival))

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime, *, reach: Reach | None = None) -> None:
        as_of_us, reach = state.to_us(as_of), reach or self._needed
        rows = {
            TRANSACTIONS: state.transaction_rows(transactions, reach, as_of_us),
            LABEL_ARRIVALS: state.label_rows(labels, reach, as_of_us),
        }
        self._state()  # a store that was lost is there again
        with self._available():
            client = self._connect(_REBUILD_SECONDS)
            try:
                redis_rebuild.rebuild(client, rows, as_of_us, reach)
            finally:
                client.close()

    def as_of(self) -> datetime | None:
        as_of_us = self._state()[2]
        return None if as_of_us is None else state.from_us(int(as_of_us))

    def reach(self) -> Reach | None:
        return _reach(self._state())

    def require_reach(self) -> None:
        self._needed.require(self.reach(), self._place())

    def sizes(self) -> dict[str, int]:
        names = [table.name for table in TABLES]
        with self._available():
            return dict(zip(names, self._sizes(args=names), strict=True))

    def close(self) -> None:
        self._client.close()

    def _read_all(self, since: Position | None, ids: Sequence[str], ranges: Sequence[object]) -> list[Any]:
        found = self._run(self._read, [*_since(since), len(ids), *ids, *ranges])
        self._needed.require(_reach(found[0]), self._place())
        return found

    def _state(self) -> list[bytes | None]:
        """generation, last, as_of_us, transactions_reach_us, labels_reach_us."""
        return self._run(self._read, [*_since(None), 0])[0]

    def _record_row(self, table: Table, change: Change, row: tuple) -> bool:
        is_label, body = following.encode(change)
        reach = (_REACH_FIELDS[table], _lot(), following.CHANGES_KEPT, self._needed.of_table(table))
        return bool(self._run(self._record, [table.name, *reach, is_label, *item_of(table, row), body]))

    def _run(self, script: Any, arguments: Sequence[object]) -> Any:
        with self._available():
            answer = script(args=arguments)
            if answer is None:
                # The server came back without its data. There was a history, and it is not: to score on nothing would
                # be worse than not to score.
                self._create(is_lost=True)
                answer = script(args=arguments)
        return answer

    def _create(self, *, is_lost: bool) -> None:
        self._open(args=[state.LAYOUT, random.getrandbits(53), _lot(), int(is_lost)])

    def _connect(self, seconds: float) -> Redis:
        from redis import ConnectionError, Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return Redis.from_url(
            self._url,
            socket_timeout=seconds,
            socket_connect_timeout=_SECONDS,
            # Once, for a connection that a restarted server has closed. A timeout is not tried again.
            retry=Retry(NoBackoff(), 1, (ConnectionError,)),
        )

    def _place(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"

    @contextmanager
    def _available(self) -> Iterator[None]:
        from redis import RedisError

        try:
            yield
        except RedisError as error:
            raise OnlineStoreUnavailable(
                f"The online store {self._place()} cannot be used: {error}. Run: fraud doctor"
            ) from error


def _lot() -> int:
    return random.getrandbits(LOT_BITS) or 1  # a stream has no entry 0-0


def _since(position: Position | None) -> tuple[object, str]:
    if position is None:
        return "", ""
    return position.epoch, f"{position.sequence >> LOT_BITS}-{position.sequence & (1 << LOT_BITS) - 1}"


def _position(generation: bytes, last: bytes) -> Position:
    count, lot = map(int, last.split(b"-"))
    return Position(int(generation), (count << LOT_BITS) + lot)


def _changes(entries: Sequence[tuple[bytes, list[bytes]]]) -> list[Change]:
    return [following.decode(int(is_label), body) for _, (_, is_label, _, body, *_) in entries]


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _reach(state_row: Sequence[bytes | None]) -> Reach | None:
    return Reach.of_row([_number(value) for value in state_row[2:]])
