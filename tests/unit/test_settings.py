import os
import shutil
import stat
import subprocess
import sys

import pytest

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.settings import PROJECT_ROOT, Settings, load_settings


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    return load_settings()


def test_every_store_has_an_embedded_default_under_home(tmp_settings):
    home = tmp_settings.home
    assert tmp_settings.warehouse_url == f"duckdb:///{home}/warehouse.duckdb"
    assert tmp_settings.ledger_url == f"sqlite:///{home}/ledger.sqlite"
    assert tmp_settings.inbox == home / "inbox"


def test_a_bad_value_is_named_with_what_was_found(tmp_settings, monkeypatch):
    with pytest.raises(SettingInvalid, match=r"FRAUD_ENV.*'moon'"):
        load(monkeypatch, FRAUD_ENV="moon")


def test_production_refuses_to_start_without_a_token_key(tmp_settings, monkeypatch):
    monkeypatch.delenv("FRAUD_TOKEN_KEY")
    with pytest.raises(SettingInvalid, match="FRAUD_TOKEN_KEY is required"):
        load(monkeypatch, FRAUD_ENV="production")


def test_a_short_token_key_is_refused_and_not_repeated(tmp_settings, monkeypatch):
    with pytest.raises(SettingInvalid, match="at least 32 characters") as caught:
        load(monkeypatch, FRAUD_TOKEN_KEY="hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_token_key_has_at_least_32_characters(tmp_settings, monkeypatch):
    with pytest.raises(SettingInvalid, match="at least 32 characters"):
        load(monkeypatch, FRAUD_TOKEN_KEY="k" * 31)
    assert load(monkeypatch, FRAUD_TOKEN_KEY="k" * 32).card_token_key() == b"k" * 32


def test_outside_production_a_key_is_made_once_and_kept_private(tmp_settings, monkeypatch):
    monkeypatch.delenv("FRAUD_TOKEN_KEY")
    settings = load(monkeypatch)
    key = settings.card_token_key()
    assert len(key) == 64
    assert settings.card_token_key() == key
    path = settings.home / "secrets" / "token.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["token.key"]


def test_the_secret_does_not_print(tmp_settings):
    assert tmp_settings.token_key.get_secret_value() not in repr(tmp_settings)


def test_relative_places_lie_in_the_project_folder_wherever_the_process_stands(tmp_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load(
        monkeypatch,
        FRAUD_HOME="somewhere",
        FRAUD_WAREHOUSE_URL="duckdb:///stores/w.duckdb",
        FRAUD_LEDGER_URL="sqlite:///stores/l.sqlite",
        FRAUD_ONLINE_STORE_URL="sqlite:///stores/o.sqlite",
        FRAUD_REGISTRY_URL="sqlite:///stores/r.sqlite",
        FRAUD_ARTIFACTS_URL="stores/artifacts",
        FRAUD_INBOX="stores/inbox",
    )
    assert settings.home == PROJECT_ROOT / "somewhere"
    assert settings.warehouse_url == f"duckdb:///{PROJECT_ROOT}/stores/w.duckdb"
    assert settings.ledger_url == f"sqlite:///{PROJECT_ROOT}/stores/l.sqlite"
    assert settings.online_store_url == f"sqlite:///{PROJECT_ROOT}/stores/o.sqlite"
    assert settings.registry_url == f"sqlite:///{PROJECT_ROOT}/stores/r.sqlite"
    assert settings.artifacts_url == f"{PROJECT_ROOT}/stores/artifacts"
    assert settings.inbox == PROJECT_ROOT / "stores" / "inbox"


def test_absolute_places_and_servers_stay_as_written(tmp_settings, tmp_path, monkeypatch):
    written = {
        "warehouse_url": "postgresql+psycopg2://u:p@db/fraud",
        "ledger_url": f"sqlite:///{tmp_path}/l.sqlite",
        "online_store_url": "postgresql+psycopg2:///fraud?host=/var/run/postgresql",
        "registry_url": "http://mlflow:5000",
        "artifacts_url": "s3://bucket/artifacts",
    }
    settings = load(monkeypatch, **{f"FRAUD_{name.upper()}": value for name, value in written.items()})
    assert {name: getattr(settings, name) for name in written} == written


def test_the_env_file_of_the_project_is_read_wherever_the_process_stands(tmp_path):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "fraud_pipelines").mkdir(parents=True)
    elsewhere.mkdir()
    for name in ("__init__.py", "errors.py", "settings.py"):
        shutil.copy(PROJECT_ROOT / "fraud_pipelines" / name, project / "fraud_pipelines" / name)
    (project / ".env").write_text("FRAUD_SERVING_PORT=4001\nFRAUD_HOME=data\n")
    (elsewhere / ".env").write_text("FRAUD_SERVING_PORT=4002\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    code = "from fraud_pipelines.settings import Settings; s = Settings(); print(s.serving_port, s.home)"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=environment | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split() == ["4001", str(project.resolve() / "data")]


def test_a_language_model_is_named_by_address_and_name_together(tmp_settings, monkeypatch):
    assert (tmp_settings.rationale_url, tmp_settings.rationale_key) == ("", None)
    with pytest.raises(SettingInvalid, match="FRAUD_RATIONALE_URL and FRAUD_RATIONALE_MODEL"):
        load(monkeypatch, FRAUD_RATIONALE_URL="https://models.example/v1")
    settings = load(monkeypatch, FRAUD_RATIONALE_MODEL="small", FRAUD_RATIONALE_KEY="sk-very-secret")
    assert settings.rationale_key.get_secret_value() == "sk-very-secret"
    assert "sk-very-secret" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("models.example/v1", ""),
        ("ftp://models.example/hunter2", ""),
        ("https://user:hunter2@models.example/v1", ""),
        ("https://models.example/v1?key=hunter2", ""),
        ("https://models.example/v1", "hunter2\nX-Other: 1"),
        ("https://models.example/v1", "hunter2é"),
    ],
)
def test_a_bad_address_or_key_of_a_language_model_is_refused_and_not_repeated(tmp_settings, monkeypatch, url, key):
    with pytest.raises(SettingInvalid, match="FRAUD_RATIONALE") as caught:
        load(monkeypatch, FRAUD_RATIONALE_URL=url, FRAUD_RATIONALE_MODEL="small", FRAUD_RATIONALE_KEY=key)
    assert "hunter2" not in str(caught.value)
