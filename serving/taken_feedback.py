"""Feedback taken on this host, by its identifier: sent again it is the same feedback, whichever worker gets it.

The journal makes it durable and the ledger keeps it; this file remembers, so that it counts once before it is there.
"""

import sqlite3
import threading
from pathlib import Path

from fraud_pipelines.errors import JournalUnavailable
from fraud_pipelines.ledger import Feedback
from serving.answers import feedback_of, feedback_record

# Some hundred bytes each; long before one of them is forgotten the ledger has it.
MOST_KEPT = 100_000
_BUSY_SECONDS = 5.0


class TakenFeedback:
    """Safe for threads and processes; not to be used by a forked child.

    Args:
        path: on a local disk.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def take(self, feedback: Feedback) -> Feedback:
        """The feedback that counts under this identifier: this one, or the one that was there before.

        Raises:
            JournalUnavailable: the file cannot be used.
        """
        with self._lock:
            try:
                connection = self._opened()
                with connection:
                    connection.execute(
                        "insert or ignore into feedback (feedback_id, record) values (?, ?)",
                        (feedback.feedback_id, feedback_record(feedback)),
                    )
                    connection.execute(
                        "delete from feedback where place <= (select max(place) from feedback) - ?", (MOST_KEPT,)
                    )
                row = connection.execute(
                    "select record from feedback where feedback_id = ?", (feedback.feedback_id,)
                ).fetchone()
            except (sqlite3.Error, OSError) as error:
                self._connection = None
                raise JournalUnavailable(
                    f"The feedback taken on this host, in {self._path}, cannot be used: {error}. Make room on its "
                    "disk; where the file is damaged, remove it."
                ) from error
        return feedback_of(row[0])

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False)
            self._connection.executescript(
                "pragma journal_mode = wal; pragma synchronous = normal; create table if not exists feedback "
                "(place integer primary key autoincrement, feedback_id text not null unique, record blob not null)"
            )
        return self._connection
