"""Dagster resources: thin doors to the stores. The stores themselves know nothing of Dagster.

A resource's fields show in the UI and in Dagster's own database, and a store's URL may hold a password: so a URL is
read from the settings when a door opens, and is a field only for tests.
"""

from pathlib import Path

import dagster as dg

from fraud_pipelines.ledger import Ledger, open_ledger
from fraud_pipelines.models.registry import Registry, open_registry
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.settings import load_settings
from fraud_pipelines.warehouse import Warehouse, open_warehouse


class WarehouseResource(dg.ConfigurableResource[Warehouse]):
    """The warehouse; nothing stays open between calls."""

    url: str = ""

    def open(self) -> Warehouse:
        return open_warehouse(self.url or load_settings().warehouse_url)


class LedgerResource(dg.ConfigurableResource[Ledger]):
    """The ledger."""

    url: str = ""

    def open(self) -> Ledger:
        return open_ledger(self.url or load_settings().ledger_url)


class OnlineStoreResource(dg.ConfigurableResource[OnlineStore]):
    """The online store."""

    url: str = ""

    def open(self) -> OnlineStore:
        return open_online_store(self.url or load_settings().online_store_url)


class RegistryResource(dg.ConfigurableResource[Registry]):
    """The model registry (MLflow) and where it keeps artefacts."""

    url: str = ""
    artifacts_url: str = ""

    def open(self) -> Registry:
        settings = load_settings()
        return open_registry(self.url or settings.registry_url, self.artifacts_url or settings.artifacts_url)


class DocumentsResource(dg.ConfigurableResource[Path]):
    """Folder of generated documents."""

    root: str = ""

    def open(self) -> Path:
        """The folder that the ledger's paths of documents are relative to."""
        return Path(self.root or load_settings().reports)

    def folder(self, kind: str) -> Path:
        """The folder of one kind of document, created when missing."""
        path = self.open() / kind
        path.mkdir(parents=True, exist_ok=True)
        return path


def all_resources() -> dict[str, object]:
    """Every resource by the name that assets and checks ask for, each pointed at what the settings say."""
    return {
        "warehouse": WarehouseResource(),
        "ledger": LedgerResource(),
        "online_store": OnlineStoreResource(),
        "registry": RegistryResource(),
        "documents": DocumentsResource(),
    }
