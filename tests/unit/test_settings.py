import stat

import pytest

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.settings import Settings, load_settings


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
