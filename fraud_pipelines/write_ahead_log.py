"""SQLite's write-ahead log, which lets readers go on while one process writes."""

import sqlite3
import time

_PAUSE_SECONDS = 0.01


def use_write_ahead_log(connection: sqlite3.Connection, *, busy_seconds: float) -> None:
    """Switch a file to the write-ahead log, as often as processes that open it at the same moment need it.

    SQLite waits for other writers as long as its busy timeout says, but not here: of two that switch a new file over at
    once, one is told "database is locked" immediately.

    Raises:
        sqlite3.OperationalError: the file is still locked after `busy_seconds`, or cannot be written to.
    """
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("pragma journal_mode = wal").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)
