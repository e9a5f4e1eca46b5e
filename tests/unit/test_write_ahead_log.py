"""Many processes may open a new SQLite file at the same moment: a service's workers, at its first start."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from fraud_pipelines.write_ahead_log import use_write_ahead_log


def test_those_who_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path):
    for turn in range(40):  # without the wait, a few of these fail
        together = Barrier(4)

        def opened(_: int, path: Path = tmp_path / f"{turn}.sqlite", together: Barrier = together) -> str:
            connection = sqlite3.connect(path, isolation_level=None)
            together.wait()
            use_write_ahead_log(connection, busy_seconds=30)
            (mode,) = connection.execute("pragma journal_mode").fetchone()
            connection.close()
            return mode

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(opened, range(4))) == {"wal"}


def test_a_file_that_stays_locked_is_given_up(tmp_path: Path):
    path = tmp_path / "locked.sqlite"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin exclusive")
    waiting = sqlite3.connect(path, timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        use_write_ahead_log(waiting, busy_seconds=0.05)


def test_what_is_no_database_is_told_at_once(tmp_path: Path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at " * 20)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        use_write_ahead_log(sqlite3.connect(tmp_path / "text", isolation_level=None), busy_seconds=30)
