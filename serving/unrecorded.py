"""Decisions that the online store could not take, on this host's disk until it can: one per payment.

All workers of a host share the file, so they agree on a payment that reaches several of them while the store is away,
and what a killed worker had answered is still known to the next one. Durable they are by the journal: after a power
failure this file may lack the newest, which then reach the online store with its next rebuild.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fraud_pipelines.online_store.following import Entry
from serving.answers import StoredDecision
from serving.host_file import HostFile

# About a kilobyte each.
MOST_KEPT = 500_000
_TABLES = (
    "create table if not exists unrecorded "
    "(place integer primary key autoincrement, transaction_id text not null unique, decision blob not null)"
)
_PROBLEM = (
    "The decisions that wait for the online store, in {place}, cannot be used: {error}. Make room on its disk; where "
    "the file is damaged, remove it: the ledger has every decision in it."
)


class Unrecorded:
    """Safe for threads and processes; not to be used by a forked child.

    Args:
        path: on a local disk; None keeps them in memory, for this object alone.
    Raises:
        JournalUnavailable: the file cannot be used; so does every method.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = HostFile(path, _TABLES, _PROBLEM)
        with self._file.statements():
            pass

    def keep(self, entries: Sequence[Entry]) -> tuple[dict[str, bytes], int]:
        """Keep decisions; of several on one payment the first stays.

        Returns:
            Decisions that were there before, by transaction_id, and how many of the oldest had to go for want of room.
        """
        rows = [(transaction.transaction_id, decision) for transaction, decision in entries]
        with self._file.statements() as connection:
            connection.execute("begin immediate")
            earlier = _found(connection, [id_ for id_, _ in rows])
            connection.executemany("insert or ignore into unrecorded (transaction_id, decision) values (?, ?)", rows)
            gone = connection.execute(
                "delete from unrecorded where place <= (select max(place) from unrecorded) - ?", (MOST_KEPT,)
            ).rowcount
            connection.execute("commit")
        return earlier, gone

    def decisions(self, transaction_ids: Sequence[str]) -> dict[str, bytes]:
        """Those there are on some payments."""
        with self._file.statements() as connection:
            return _found(connection, transaction_ids)

    def oldest(self, most: int) -> list[Entry]:
        """The next to be recorded, in the order in which they were kept."""
        with self._file.statements() as connection:
            rows = connection.execute("select decision from unrecorded order by place limit ?", (most,)).fetchall()
        return [Entry(StoredDecision.read(decision).transaction, decision) for (decision,) in rows]

    def remove(self, entries: Sequence[Entry]) -> None:
        """Forget what the online store has."""
        with self._file.statements() as connection:
            connection.execute("begin immediate")
            connection.executemany(
                "delete from unrecorded where transaction_id = ? and decision = ?",
                [(transaction.transaction_id, decision) for transaction, decision in entries],
            )
            connection.execute("commit")


def _found(connection: sqlite3.Connection, transaction_ids: Sequence[str]) -> dict[str, bytes]:
    if connection.execute("select 1 from unrecorded limit 1").fetchone() is None:
        return {}
    found: dict[str, bytes] = {}
    for id_ in transaction_ids:
        row = connection.execute("select decision from unrecorded where transaction_id = ?", (id_,)).fetchone()
        if row is not None:
            found[id_] = row[0]
    return found
