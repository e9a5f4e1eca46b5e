"""What a service that we start knows of the installation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fraud_pipelines.models.serve import SERVING_SETTINGS, service_environment
from fraud_pipelines.settings import PROJECT_ROOT, Settings

SECRETS = ("token_key", "rationale_key")


def test_a_service_reads_the_settings_it_was_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = Settings(
        _env_file=None, home=tmp_path / "home", env="ci", ledger_url=f"sqlite:///{tmp_path / 'a b.sqlite'}",
        online_store_url="redis://:p%40ss@127.0.0.1:1/0", serving_workers=3, decision_log_bytes=2**21, fallback="BLOCK",
        features_max_age_hours=0.1, model_review_days=7, rationale_url="http://127.0.0.1:2/v1", rationale_model="tiny",
        rationale_key="secret", token_key="t" * 32,
    )  # fmt: skip
    # What the shell says is not what was given.
    monkeypatch.setenv("FRAUD_SERVING_WORKERS", "9")
    monkeypatch.setenv("FRAUD_WAREHOUSE_URL", "postgresql+psycopg2://warehouse:password@127.0.0.1/warehouse")
    environment = service_environment(given)
    for name in [*(name for name in environment if name.startswith("FRAUD_")), "FRAUD_WAREHOUSE_URL"]:
        monkeypatch.delenv(name, raising=False)
    assert "password" not in "".join(environment.values())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, untouched = Settings(_env_file=None), Settings.model_fields
    for name in (*SERVING_SETTINGS, *SECRETS):
        assert getattr(found, name) == getattr(given, name), name
        assert getattr(given, name) != untouched[name].default, f"give {name} a value that is no default"


def test_without_a_language_model_none_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRAUD_RATIONALE_KEY", "of the shell")
    given = Settings(_env_file=None, home=tmp_path, rationale_key=None, token_key="t" * 32)
    assert "FRAUD_RATIONALE_KEY" not in service_environment(given)


def test_every_setting_that_serving_reads_is_passed_on():
    read = {
        name
        for file in (PROJECT_ROOT / "serving").glob("*.py")
        for name in re.findall(r"settings(?:\(\))?\.([a-z_]+)", file.read_text())
    }
    assert read & set(Settings.model_fields) <= {*SERVING_SETTINGS, *SECRETS}
    assert {"serving_workers", "ledger_url"} <= read
