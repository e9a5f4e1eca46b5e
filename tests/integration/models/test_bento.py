"""The Bento of the ledger's champion, built by its asset, and the check that notices when it is another's."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.models.bento import bento
from checks.models import bento_serves_the_champion
from fraud_pipelines.errors import NoChampion
from fraud_pipelines.ledger import Promotion, open_ledger
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource
from tests.served_models import tiny_bundle


def test_the_champion_is_built_and_checked(registry, registry_urls, tmp_settings, tmp_path: Path):
    ledger = open_ledger(tmp_settings.ledger_url)
    resources = {
        "registry": RegistryResource(url=registry_urls[0], artifacts_url=registry_urls[1]),
        "ledger": LedgerResource(url=tmp_settings.ledger_url),
    }

    def checked() -> dg.AssetCheckEvaluation:
        result = dg.materialize([bento, bento_serves_the_champion], resources=resources, selection=only_check)
        return result.get_asset_check_evaluations()[0]

    only_check = dg.AssetSelection.checks_for_assets(keys.BENTO)
    with pytest.raises(NoChampion, match="fraud train"):
        dg.materialize([bento], resources=resources)
    assert not checked().passed

    versions = []
    for seed in (40, 41):
        bundle = tiny_bundle(seed=seed)
        folder = bundle.save(tmp_path / str(seed))
        versions.append(registry.register(folder, {}, {}, {}, {}))
        ledger.record_promotion(Promotion("promote", versions[-1], None, "test", "test", []))
        assert not checked().passed  # promoted, not built
        result = dg.materialize([bento, bento_serves_the_champion], resources=resources)
        metadata = result.asset_materializations_for_node("models__bento")[0].metadata
        assert metadata["tag"].value.startswith(f"fraud-scorer:{versions[-1]}-")
        assert metadata["data_hash"].value == bundle.digest
        assert metadata["size_bytes"].value > 10_000
        assert result.get_asset_check_evaluations()[0].passed

    model = Path(metadata["path"].value) / "src" / "champion" / "bundle" / "model.json"
    model.write_text(model.read_text().replace('"review": 0.3', '"review": 0.9'))
    evaluation = checked()
    assert not evaluation.passed
    assert "model.json" in evaluation.metadata["problem"].value
