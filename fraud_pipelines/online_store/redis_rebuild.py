"""How a rebuild of the online store on Redis makes the next generation beside the current one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import orjson

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.online_store import redis_scripts as scripts
from fraud_pipelines.online_store.following import DECISIONS_KEPT_US
from fraud_pipelines.online_store.redis_rows import Item, item_of
from fraud_pipelines.online_store.state import TABLES, Reach, Table

if TYPE_CHECKING:
    from redis import Redis

# One rebuild waits for another; one that has not written for so long has died.
_LOCK_SECONDS = 60
# Items of one write, so that no reader waits for more than a few milliseconds.
_AT_ONCE = 500


def rebuild(client: Redis, rows: Mapping[Table, Sequence[tuple]], as_of_us: int, reach: Reach) -> None:
    """See OnlineStore.rebuild.

    Raises:
        OnlineStoreUnavailable: another rebuild took over, because this one was silent for too long.
    """
    token, generation = (str(random.getrandbits(53)) for _ in range(2))
    while not client.set(scripts.LOCK, token, nx=True, ex=_LOCK_SECONDS):
        time.sleep(0.05)

    def run(script: str, *arguments: Any) -> None:
        if not client.eval(script, 0, token, generation, *arguments):
            raise OnlineStoreUnavailable(
                "Another rebuild of the online store took over. Run: fraud materialize operations/online_state"
            )
        client.expire(scripts.LOCK, _LOCK_SECONDS)

    try:
        _sweep(client)  # what a rebuild that was killed has left
        for table, new in rows.items():
            load(client, generation, table, new)
        run(scripts.BUILD)
        for table in TABLES:
            _keep(client, table, as_of_us, reach, run)
        run(scripts.SWITCH, as_of_us, reach.transactions_us, reach.labels_us)
        _forget_decisions(client, as_of_us - DECISIONS_KEPT_US)
        _sweep(client)
    finally:
        client.eval(scripts.END, 0, token, generation)


def load(client: Redis, generation: str, table: Table, rows: Sequence[tuple]) -> None:
    """Write the warehouse's rows, in order of the table's key, where nobody looks yet."""
    base = f"{scripts.PREFIX}{generation}:{table.name}"
    merchant_at = table.columns.index("merchant_id")
    for entity, ordered in (("card", rows), ("merchant", sorted(rows, key=itemgetter(merchant_at)))):
        id_of, member_of = attrgetter(f"{entity}_id"), attrgetter(f"{entity}_member")
        for some in _batches(ordered):
            items = [item_of(table, row) for row in some]
            with client.pipeline(transaction=False) as pipeline:
                if entity == "card":
                    pipeline.hset(base, mapping={item.identity: item.row for item in items})
                for id_, its in groupby(items, key=id_of):
                    pipeline.zadd(f"{base}:{entity}:{id_}", {member_of(item): item.time_us for item in its})
                pipeline.expire(scripts.LOCK, _LOCK_SECONDS)
                pipeline.execute()


def _keep(client: Redis, table: Table, as_of_us: int, reach: Reach, run: Callable[..., None]) -> None:
    """Take over what the warehouse says nothing about: what it does not hold yet, and what is not before `as_of_us`."""
    generation, latest = client.hmget(scripts.STATE, "generation", "latest_as_of_us")
    base = f"{scripts.PREFIX}{int(generation)}:{table.name}"  # type: ignore[arg-type]
    horizon_us = reach.horizon_us(table, as_of_us)
    for some in _batches(client.sscan_iter(f"{base}:served", count=_AT_ONCE)):
        found = [item_of(table, orjson.loads(row)) for row in client.hmget(base, some) if row is not None]
        _keep_items(table, [item for item in found if item.time_us > horizon_us], run)
    if latest is not None and int(latest) > as_of_us:
        for pairs in _batches(client.hscan_iter(base, count=_AT_ONCE)):
            found = [item_of(table, orjson.loads(row)) for _, row in pairs]
            _keep_items(table, [item for item in found if item.time_us >= as_of_us], run)


def _keep_items(table: Table, items: Iterable[Item], run: Callable[..., None]) -> None:
    run(scripts.KEEP, table.name, *(value for item in items for value in item))


def _forget_decisions(client: Redis, until_us: int) -> None:
    while ids := client.zrangebyscore(scripts.DECISIONS_BY_TIME, "-inf", until_us, start=0, num=_AT_ONCE):
        with client.pipeline(transaction=True) as pipeline:
            pipeline.hdel(scripts.DECISIONS, *ids)
            pipeline.zrem(scripts.DECISIONS_BY_TIME, *ids)
            pipeline.execute()


def _sweep(client: Redis) -> None:
    """Free the keys of every generation but the current one."""
    generation = int(client.hget(scripts.STATE, "generation"))  # type: ignore[arg-type]
    shared = {key.encode() for key in scripts.SHARED}
    current = f"{scripts.PREFIX}{generation}:".encode()
    for keys in _batches(client.scan_iter(f"{scripts.PREFIX}*", count=1_000)):
        gone = [key for key in keys if key not in shared and not key.startswith(current)]
        if gone:
            client.unlink(*gone)
        client.expire(scripts.LOCK, _LOCK_SECONDS)


def _batches(items: Iterable) -> Iterator[list]:
    remaining = iter(items)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some
