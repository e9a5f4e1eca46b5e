"""A Bento of a tiny model, built once, and served over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from fraud_pipelines.models.bento import BuiltBento, build_bento
from fraud_pipelines.models.serve import running_service
from fraud_pipelines.settings import Settings
from tests.served_models import tiny_bundle
from tests.stored_events import fill

TOKEN_KEY = "a-key-for-tests-only-0123456789abcdef"
# The day of served_models.payment.
FILLED_AT = datetime(2025, 3, 1)
# Payments of any year are decided by the model, and not by the rule for features that are too old.
MAX_AGE_HOURS = 1_000_000.0


@pytest.fixture(scope="session")
def bento_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bentoml")


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle().save(tmp_path_factory.mktemp("registry") / "bundle")


@pytest.fixture(scope="session")
def built(bundle_folder: Path, bento_home: Path) -> BuiltBento:
    return build_bento(bundle_folder, "7", bentoml_home=bento_home)


def installed(home: Path) -> Settings:
    """Settings of an installation whose online store was filled, with nothing yet."""
    settings = Settings(_env_file=None, home=home, token_key=TOKEN_KEY, features_max_age_hours=MAX_AGE_HOURS)
    fill(settings.online_store_url, FILLED_AT)
    return settings


@pytest.fixture(scope="session")
def service_settings(tmp_path_factory: pytest.TempPathFactory, bento_home: Path) -> Iterator[Settings]:
    """Settings of an installation of its own, whatever the developer's environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FRAUD_")]:
            patch.delenv(name)
        patch.setenv("BENTOML_HOME", str(bento_home))
        yield installed(tmp_path_factory.mktemp("home"))


@dataclass(frozen=True)
class Service:
    """A running service: a client of it, and where its output goes."""

    client: httpx.Client
    log: Path

    def score(self, body: object) -> httpx.Response:
        return self.client.post("/score", json=body)


@pytest.fixture(scope="session")
def conforming(
    service_settings: Settings, built: BuiltBento, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service of its own for requests of every kind: what they leave behind disturbs no other test."""
    settings = installed(tmp_path_factory.mktemp("conforming"))
    log = settings.home / "serving.log"
    with running_service(settings, bento=built, log=log) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield Service(client, log)
