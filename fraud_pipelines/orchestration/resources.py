"""Dagster resources: thin, configurable doors to the stores. The stores themselves know nothing of Dagster."""

from pathlib import Path

import dagster as dg

from fraud_pipelines.ledger import Ledger, open_ledger
from fraud_pipelines.models.registry import Registry, open_registry
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.settings import Settings
from fraud_pipelines.warehouse import Warehouse, open_warehouse


class WarehouseResource(dg.ConfigurableResource[Warehouse]):
    """The warehouse at one URL; nothing stays open between calls."""

    url: str

    def open(self) -> Warehouse:
        return open_warehouse(self.url)


class LedgerResource(dg.ConfigurableResource[Ledger]):
    """The ledger at one URL."""

    url: str

    def open(self) -> Ledger:
        return open_ledger(self.url)


class OnlineStoreResource(dg.ConfigurableResource[OnlineStore]):
    """The online store at one URL."""

    url: str

    def open(self) -> OnlineStore:
        return open_online_store(self.url)


class RegistryResource(dg.ConfigurableResource[Registry]):
    """The model registry (MLflow) and where it keeps artefacts."""

    url: str
    artifacts_url: str

    def open(self) -> Registry:
        return open_registry(self.url, self.artifacts_url)


class DocumentsResource(dg.ConfigurableResource[Path]):
    """Folder of generated documents."""

    root: str

    def folder(self, kind: str) -> Path:
        """The folder of one kind of document, created when missing."""
        path = Path(self.root) / kind
        path.mkdir(parents=True, exist_ok=True)
        return path


def resources_of(settings: Settings) -> dict[str, dg.ConfigurableResource]:  # type: ignore[type-arg]
    """Every resource by the name that assets and checks ask for."""
    return {
        "warehouse": WarehouseResource(url=settings.warehouse_url),
        "ledger": LedgerResource(url=settings.ledger_url),
        "online_store": OnlineStoreResource(url=settings.online_store_url),
        "registry": RegistryResource(url=settings.registry_url, artifacts_url=settings.artifacts_url),
        "documents": DocumentsResource(root=str(settings.reports)),
    }
