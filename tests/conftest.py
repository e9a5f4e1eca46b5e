"""Fixtures every test may use: a real PostgreSQL, and settings that point into a temporary folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_pipelines.settings import TELEMETRY_OFF, Settings, load_settings

for _name, _value in TELEMETRY_OFF.items():
    os.environ.setdefault(_name, _value)

TOKEN_KEY = "a-key-for-tests-only-0123456789abcdef"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[object]:
    """One PostgreSQL server per test process, started when the first test asks for it."""
    from tests.postgres_server import postgres_server as launch

    with launch() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server) -> str:
    """URL of the server's own database `postgres`; tests that write want `fresh_postgres_url`."""
    return postgres_server.url()


@pytest.fixture
def fresh_postgres_url(postgres_server) -> Iterator[str]:
    """URL (`postgresql+psycopg2://...`) of an empty database of this test's own, dropped afterwards."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def tmp_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Embedded settings whose every store lies in `tmp_path`; `load_settings()` returns them during the test.

    The developer's own environment and `.env` have no say.
    """
    for name in [name for name in os.environ if name.startswith("FRAUD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRAUD_TOKEN_KEY", TOKEN_KEY)
    monkeypatch.setenv("FRAUD_CODE_VERSION", "test")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home" / "bentoml"))
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()
