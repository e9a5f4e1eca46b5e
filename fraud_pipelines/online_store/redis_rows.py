"""Rows of the online store as members of Redis's sorted sets, and back.

A set is sorted by score, then by the member's bytes. The score is the time in microseconds, which a double holds
exactly below 2^53 (the year 2255). A member begins with the row's identity, so ties are in order of transaction_id by
code point: UTF-8 sorts as its code points do, and the NUL after it, which no identifier holds, sorts before everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from fraud_pipelines.online_store.state import TRANSACTIONS, Table


class Item(NamedTuple):
    """One row, as the scripts take it (redis_scripts)."""

    identity: bytes
    time_us: int
    card_id: str
    merchant_id: str
    card_member: bytes
    merchant_member: bytes
    row: bytes


def item_of(table: Table, row: Sequence) -> Item:
    """The item of a row of one of TABLES."""
    card_id, time_us, transaction_id = row[:3]
    identity = transaction_id.encode()
    if table is TRANSACTIONS:
        merchant_id = row[4]
        of_card, of_merchant = row[1:10], (*row[1:4], card_id)
    else:
        known_at_us, is_fraud, amount_minor, merchant_id = row[3:]
        # Hexadecimal of a fixed width sorts as the number does, also before 1970.
        identity += b"\0%016x" % (known_at_us + 2**63)
        of_card = of_merchant = (time_us, transaction_id, is_fraud, amount_minor)
    start = identity + b"\0"
    return Item(
        identity,
        time_us,
        card_id,
        merchant_id,
        start + orjson.dumps(of_card),
        start + orjson.dumps(of_merchant),
        orjson.dumps(row),
    )


def events_of(members: Sequence[bytes]) -> list[tuple]:
    """Events or labels of a history, in the order of the members."""
    values = b",".join([member[member.rindex(b"\0") + 1 :] for member in members])
    return [tuple(event) for event in orjson.loads(b"[" + values + b"]")]
