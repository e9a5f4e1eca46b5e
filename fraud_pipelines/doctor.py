"""What `fraud doctor` looks at: settings, stores, tools. Each finding says what to do when it is not well."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from fraud_pipelines.errors import FraudPipelinesError
from fraud_pipelines.settings import PROJECT_ROOT, Settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    found: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; nothing raises, nothing is changed but schemas that are brought up to date."""
    return [
        Finding("Python", (3, 11) <= sys.version_info < (3, 14), sys.version.split()[0]),
        Finding("home", True, str(settings.home)),
        _look("free disk", lambda: f"{shutil.disk_usage(_existing(settings)).free / 2**30:.0f} GiB"),
        _look("warehouse", lambda: _warehouse(settings)),
        _look("ledger", lambda: _ledger(settings)),
        _look("online store", lambda: _online_store(settings)),
        _look("registry", lambda: _registry(settings)),
        _look("champion", lambda: _champion(settings)),
        _look("dbt project", lambda: _dbt(settings)),
        Finding("lock file", (PROJECT_ROOT / "uv.lock").exists(), "uv.lock"),
    ]


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except (FraudPipelinesError, OSError) as error:
        return Finding(what, False, f"{type(error).__name__}: {error}")


def _existing(settings: Settings) -> str:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    return str(folder)


def _warehouse(settings: Settings) -> str:
    from fraud_pipelines import tables
    from fraud_pipelines.warehouse import open_warehouse

    warehouse = open_warehouse(settings.warehouse_url)
    rows = warehouse.query(f"select count(*) as n from {tables.TRANSACTIONS.name}")["n"][0]
    return f"{warehouse.dialect}, {rows:,} transactions"


def _ledger(settings: Settings) -> str:
    from fraud_pipelines.ledger import open_ledger

    ledger = open_ledger(settings.ledger_url)
    return f"{len(ledger.ingestions())} ingestions, {len(ledger.promotions())} promotion decisions"


def _online_store(settings: Settings) -> str:
    from fraud_pipelines.online_store import open_online_store

    store = open_online_store(settings.online_store_url)
    try:
        as_of = store.as_of()
        store.require_reach()
    finally:
        store.close()
    return f"state as of {as_of}" if as_of else "never filled; run: fraud materialize operations/online_state"


def _registry(settings: Settings) -> str:
    from fraud_pipelines.models.registry import open_registry

    versions = open_registry(settings.registry_url, settings.artifacts_url).versions()
    return f"{len(versions)} model versions"


def _champion(settings: Settings) -> str:
    from fraud_pipelines.ledger import open_ledger

    return open_ledger(settings.ledger_url).champion_at() or "none yet; run: fraud train"


def _dbt(settings: Settings) -> str:
    from fraud_pipelines.orchestration.dbt import manifest_path, target_of

    return f"target {target_of(settings)}, manifest {manifest_path(settings).stat().st_size:,} bytes"
