"""Every online store, each with its real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_pipelines.online_store import OnlineStore, open_online_store


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'online.sqlite'}"
    return str(request.getfixturevalue(f"fresh_{request.param}_url"))


@pytest.fixture
def store(url: str) -> Iterator[OnlineStore]:
    """An empty store."""
    opened = open_online_store(url)
    yield opened
    opened.close()
