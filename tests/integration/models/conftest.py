"""One MLflow database for every test here: creating its tables takes seconds."""

from __future__ import annotations

import pytest

from fraud_pipelines.models.registry import CHALLENGER, CHAMPION, Registry, open_registry


@pytest.fixture(scope="session")
def registry_urls(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("registry")
    return f"sqlite:///{folder / 'mlflow.sqlite'}", str(folder / "artifacts")


@pytest.fixture
def registry(registry_urls) -> Registry:
    """The shared registry without aliases; versions of earlier tests stay."""
    opened = open_registry(*registry_urls)
    for alias in (CHALLENGER, CHAMPION):
        opened.clear_alias(alias)
    return opened
