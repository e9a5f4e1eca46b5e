"""Feedback taken on this host, by its identifier: sent again it is the same feedback, whichever worker gets it.

The journal makes it durable and the ledger keeps it; this file remembers, so that it counts once before it is there.
"""

from pathlib import Path

from fraud_pipelines.ledger import Feedback
from serving.answers import feedback_of, feedback_record
from serving.host_file import HostFile

# Some hundred bytes each; long before one of them is forgotten the ledger has it.
MOST_KEPT = 100_000
_TABLES = (
    "create table if not exists feedback "
    "(place integer primary key autoincrement, feedback_id text not null unique, record blob not null)"
)
_PROBLEM = (
    "The feedback taken on this host, in {place}, cannot be used: {error}. Make room on its disk; where the file is "
    "damaged, remove it."
)


class TakenFeedback:
    """Safe for threads and processes; not to be used by a forked child.

    Args:
        path: on a local disk.
    """

    def __init__(self, path: Path) -> None:
        self._file = HostFile(path, _TABLES, _PROBLEM)

    def take(self, feedback: Feedback) -> Feedback:
        """The feedback that counts under this identifier: this one, or the one that was there before.

        Raises:
            JournalUnavailable: the file cannot be used.
        """
        id_ = feedback.feedback_id
        with self._file.statements() as connection:
            connection.execute("begin immediate")
            connection.execute(
                "insert or ignore into feedback (feedback_id, record) values (?, ?)", (id_, feedback_record(feedback))
            )
            connection.execute(
                "delete from feedback where place <= (select max(place) from feedback) - ?", (MOST_KEPT,)
            )
            row = connection.execute("select record from feedback where feedback_id = ?", (id_,)).fetchone()
            connection.execute("commit")
        return feedback_of(row[0])
