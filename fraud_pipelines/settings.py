"""The only reader of environment variables: one frozen object, validated, every field documented.

Each store is one URL. Nothing but that URL changes between the embedded form and a server.
"""

import contextlib
import os
import re
import secrets
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraud_pipelines.errors import SettingInvalid

PROJECT_ROOT = Path(__file__).resolve().parents[1]

# Libraries that would call home unless told otherwise. Set before any of them is imported.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "EVIDENTLY_DISABLE_TELEMETRY": "1",
}


class Settings(BaseSettings):
    """Settings of one installation, read from the environment and from `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="FRAUD_", env_file=PROJECT_ROOT / ".env", extra="ignore", frozen=True, populate_by_name=True
    )

    home: Path = Field(PROJECT_ROOT / "var", description="Folder of everything the embedded form writes.")
    env: Literal["local", "ci", "production"] = Field(
        "local", description="Which schedules and sensors start by themselves: all of them in production, else none."
    )
    warehouse_url: str = Field("", description="Warehouse: duckdb:///path or postgresql+psycopg2://user:pw@host/db.")
    ledger_url: str = Field("", description="Ledger: sqlite:///path or postgresql+psycopg2://...")
    online_store_url: str = Field(
        "", description="Online store: sqlite:///path, postgresql+psycopg2://... or redis://... (rediss, valkey)."
    )
    registry_url: str = Field(
        "", description="MLflow tracking URI: sqlite:///path, postgresql+psycopg2://... or http://..."
    )
    artifacts_url: str = Field("", description="Where MLflow keeps artefacts: a folder or an object store URL.")
    inbox: Path | None = Field(
        None, description="Folder watched for new files: <inbox>/<mapping>/<file>. Default: <home>/inbox."
    )
    start_date: date | None = Field(None, description="First daily partition. Default: the first day ingested.")
    token_key: SecretStr | None = Field(
        None,
        description="Secret that replaces card numbers by tokens, at least 32 characters. "
        "Required in production; elsewhere one is generated in <home>/secrets.",
    )
    code_version: str = Field(
        "", description="Version printed as evidence. Default: the package version and git commit."
    )
    costs: str = Field(
        "",
        description="What decisions cost in units of the currency, such as 'review_cost=4, block_friction=30': those "
        "of the cost matrix that differ from its defaults.",
    )
    reviews_per_day: float | None = Field(
        None, ge=0, description="Payments people can review in a day. Default: one in a hundred of the daily volume."
    )
    model_review_days: int = Field(
        365,
        ge=1,
        le=36_500,
        description="Days after its promotion by which a champion must have been reviewed; from then on the service "
        "lets people decide.",
    )
    features_max_age_hours: float = Field(
        72, gt=0, description="Payments later than the online store's last rebuild by more go to the fallback."
    )
    fallback: Literal["REVIEW", "BLOCK"] = Field(
        "REVIEW", description="What is decided when no model can; an approval is not to be had."
    )
    decision_log_bytes: int = Field(
        2**30,
        ge=2**20,
        description="Bytes of decisions and feedback that may wait on disk for the ledger, each worker's own.",
    )
    serving_workers: int = Field(1, ge=1, le=64, description="Worker processes of the scoring service.")
    serving_port: int = Field(3000, ge=1, le=65535, description="Port of the scoring service.")
    rationale_url: str = Field(
        "",
        description="OpenAI-compatible API that puts explanations into words, such as http://localhost:11434/v1. "
        "Default: none is asked, a template does it.",
    )
    rationale_model: str = Field("", description="Name of the language model there.")
    rationale_key: SecretStr | None = Field(None, description="Its key, where it asks for one.")

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return (PROJECT_ROOT / value.expanduser()).resolve()

    @model_validator(mode="after")
    def _fill_defaults(self) -> Self:
        defaults = {
            "warehouse_url": f"duckdb:///{self.home / 'warehouse.duckdb'}",
            "ledger_url": f"sqlite:///{self.home / 'ledger.sqlite'}",
            "online_store_url": f"sqlite:///{self.home / 'online_store.sqlite'}",
            "registry_url": f"sqlite:///{self.home / 'registry' / 'mlflow.sqlite'}",
            "artifacts_url": str(self.home / "registry" / "artifacts"),
            "inbox": self.home / "inbox",
        }
        for name, default in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, default)
        # A relative path means the same file to every process, wherever each was started.
        for name in ("warehouse_url", "ledger_url", "online_store_url", "registry_url"):
            scheme, separator, path = getattr(self, name).partition(":///")
            if separator and scheme in ("duckdb", "sqlite"):
                object.__setattr__(self, name, f"{scheme}:///{PROJECT_ROOT / Path(path).expanduser()}")
        if ":" not in self.artifacts_url:
            object.__setattr__(self, "artifacts_url", str(PROJECT_ROOT / self.artifacts_url))
        object.__setattr__(self, "inbox", PROJECT_ROOT / str(self.inbox))
        if self.env == "production" and self.token_key is None:
            raise ValueError("token_key: FRAUD_TOKEN_KEY is required when FRAUD_ENV=production")
        if self.token_key is not None and len(self.token_key.get_secret_value()) < 32:
            raise ValueError("token_key: FRAUD_TOKEN_KEY must have at least 32 characters")
        return self

    @model_validator(mode="after")
    def _rationale_is_complete(self) -> Self:
        # Messages never repeat the URL: somebody may have put the key into it.
        url, key = self.rationale_url, self.rationale_key.get_secret_value() if self.rationale_key else ""
        if bool(url) != bool(self.rationale_model):
            raise ValueError(
                "FRAUD_RATIONALE_URL and FRAUD_RATIONALE_MODEL are needed together; found only one of them"
            )
        if url and not re.match(r"https?://[^/?#@]", url):
            raise ValueError("FRAUD_RATIONALE_URL: expected http://host/path or https://host/path")
        if re.search(r"[@?#\s]", url):
            raise ValueError(
                "FRAUD_RATIONALE_URL must be an address alone, because addresses are logged; set FRAUD_RATIONALE_KEY"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("FRAUD_RATIONALE_KEY: expected printable ASCII characters without spaces")
        return self

    @property
    def dagster_home(self) -> Path:
        """Dagster's own instance folder; DAGSTER_HOME wins where it is set."""
        return Path(os.environ.get("DAGSTER_HOME") or self.home / "dagster")

    @property
    def bentoml_home(self) -> Path:
        """BentoML's store of built Bentos; BENTOML_HOME wins where it is set."""
        return Path(os.environ.get("BENTOML_HOME") or self.home / "bentoml")

    @property
    def reports(self) -> Path:
        """Folder of generated documents: compliance PDFs, model cards, drift pages."""
        return self.home / "reports"

    @property
    def dbt_target(self) -> Path:
        """Folder of dbt's manifest and compiled SQL, so that dbt_project/ itself is never written to."""
        return self.home / "dbt" / "target"

    def card_token_key(self) -> bytes:
        """The HMAC key of card tokens.

        Outside production a missing key is generated once and kept in `<home>/secrets/token.key` (mode 0600).
        """
        if self.token_key is not None:
            return self.token_key.get_secret_value().encode()
        path = self.home / "secrets" / "token.key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(32))
            # A link fails where another process was first: every process reads one and the same key.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return path.read_bytes()


@cache
def load_settings() -> Settings:
    """Read the settings once per process and switch off the telemetry of every library.

    Raises:
        SettingInvalid: names each setting that cannot be read, and why.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"FRAUD_{'_'.join(map(str, item['loc'])).upper() or '...'}: {item['msg']} (found {item['input']!r})"
            if item["loc"]
            else item["msg"].removeprefix("Value error, ")
            for item in error.errors()
        )
        raise SettingInvalid(f"Settings cannot be read: {problems}. See .env.example for every setting.") from None
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("DAGSTER_HOME", str(settings.dagster_home))
    os.environ.setdefault("BENTOML_HOME", str(settings.bentoml_home))
    return settings
