"""Evidence: where a number comes from, and a hash of the rows behind it (rule 11)."""

import hashlib
import subprocess
from dataclasses import asdict, dataclass
from functools import cache

import pandas as pd

from fraud_pipelines import __version__
from fraud_pipelines.settings import PROJECT_ROOT, load_settings


@dataclass(frozen=True)
class Evidence:
    """One materialization that a printed number can be traced to."""

    asset: str
    partition: str | None
    run_id: str | None
    code_version: str
    data_hash: str | None

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)


def hash_rows(frame: pd.DataFrame) -> str:
    """SHA-256 over column names, types and every value of `frame`, in the order given.

    Equal content gives equal hashes on every machine: values are hashed, not their memory layout.
    Order rows by key first. An empty frame has a hash of its columns alone.
    """
    digest = hashlib.sha256()
    digest.update("|".join(f"{name}:{_kind(frame[name])}" for name in frame.columns).encode())
    if len(frame):
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy("<u8").tobytes())
    return digest.hexdigest()


def _kind(column: pd.Series) -> str:
    """Storage-neutral type word, so that `object` and Arrow-backed text hash alike."""
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    if pd.api.types.is_integer_dtype(column):
        return "integer"
    if pd.api.types.is_float_dtype(column):
        return "float"
    if pd.api.types.is_datetime64_any_dtype(column):
        return "time"
    return "text"


@cache
def code_version() -> str:
    """FRAUD_CODE_VERSION where set; else the package version and, in a checkout, the commit (+ when modified)."""
    configured = load_settings().code_version
    if configured:
        return configured
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = "+" if _git("status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}+{commit}{changed}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), *arguments], check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
