"""Every online store, each with its real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_pipelines.online_store import OnlineStore, open_online_store, sqlite_snapshot
from tests.stored_events import FORGETTING


@pytest.fixture(params=["sqlite", *FORGETTING])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a store that does not exist yet. SQLite: all in its log, or all in its tables of histories."""
    if request.param.startswith("sqlite"):
        if request.param == "sqlite, folded":
            monkeypatch.setattr(sqlite_snapshot, "MOST_UNFOLDED", 0)
        return f"sqlite:///{tmp_path / 'state' / 'online.sqlite'}"
    return str(request.getfixturevalue(f"fresh_{request.param}_url"))


@pytest.fixture
def store(url: str) -> Iterator[OnlineStore]:
    """An empty store."""
    opened = open_online_store(url)
    yield opened
    opened.close()
