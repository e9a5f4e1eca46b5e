"""The registry on a real MLflow: versions, aliases, digests, and promotion through it."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from fraud_pipelines.errors import BundleCorrupt, RegistryUnavailable, UnknownVersion
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.models.bundle import MANIFEST, Bundle
from fraud_pipelines.models.gates import Gate
from fraud_pipelines.models.plots import importance_figure, roc_figure
from fraud_pipelines.models.promotion import promote, promote_by_hand, rollback
from fraud_pipelines.models.registry import CHAMPION, MODEL_NAME, Registry, open_registry
from tests.served_models import tiny_bundle

_seeds = itertools.count(100)


@pytest.fixture
def new_version(registry: Registry, tmp_path: Path):
    """Registers a bundle nobody registered before; returns it with its version."""

    def register(**tags: str) -> tuple[Bundle, str]:
        seed = next(_seeds)
        bundle = tiny_bundle(seed=seed)
        folder = bundle.save(tmp_path / f"bundle-{seed}")
        version = registry.register(
            folder,
            params={"trees": 20},
            metrics={"validation_average_precision": 0.5, "validation_undefined": None},
            figures={"importance.png": importance_figure(bundle.importance())},
            tags={"data_hash": bundle.data_hash, **tags},
        )
        return bundle, version

    return register


def test_a_registered_bundle_comes_back_as_it_was(registry, new_version):
    bundle, version = new_version(training_window="[2026-01-01, 2026-03-01)")
    assert Bundle.load(registry.download(version)).digest == registry.load(version).digest == bundle.digest
    stored = registry.version(version)
    assert (stored.digest, stored.tags["training_window"]) == (bundle.digest, "[2026-01-01, 2026-03-01)")
    assert version in [item.version for item in registry.versions()]


def test_the_run_holds_parameters_metrics_figures_and_the_bundle(registry, registry_urls, new_version):
    import mlflow

    bundle, version = new_version()
    registry.annotate(
        version, metrics={"test_roc_auc": 0.9}, figures={"test_roc.png": roc_figure({"a": [(0, 0), (1, 1)]})}
    )
    client = mlflow.MlflowClient(tracking_uri=registry_urls[0], registry_uri=registry_urls[0])
    run = client.get_run(registry.version(version).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"trees": "20"}
    assert run.data.metrics == {"validation_average_precision": 0.5, "test_roc_auc": 0.9}
    assert run.data.tags["bundle_digest"] == bundle.digest
    figures = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert figures == {"figures/importance.png", "figures/test_roc.png"}
    assert f"bundle/{MANIFEST}" in {item.path for item in client.list_artifacts(run.info.run_id, "bundle")}


def test_a_card_is_kept_with_the_version_and_replaced_by_the_next(registry, registry_urls, new_version, tmp_path):
    import mlflow

    _, version = new_version()
    registry.describe(version, "# First", summary="xgboost, average precision 0.7123")
    registry.describe(version, "# Second")
    client = mlflow.MlflowClient(tracking_uri=registry_urls[0], registry_uri=registry_urls[0])
    found = client.get_model_version(MODEL_NAME, version)
    assert found.description == "xgboost, average precision 0.7123. See model_card.md of its run."
    assert Path(client.download_artifacts(found.run_id, "model_card.md", str(tmp_path))).read_text() == "# Second"
    with pytest.raises(UnknownVersion):
        registry.describe("99999", "# None")


def test_registering_the_same_bundle_again_is_the_same_version(registry, new_version, tmp_path):
    bundle, version = new_version()
    before = len(registry.versions())
    assert registry.register(bundle.save(tmp_path / "again"), {}, {}, {}, {}) == version
    assert len(registry.versions()) == before


def test_aliases_move_and_disappear(registry, new_version):
    (_, first), (_, second) = new_version(), new_version()
    assert registry.version_of(CHAMPION) is None
    registry.set_alias(CHAMPION, first)
    registry.set_alias(CHAMPION, second)
    assert registry.version_of(CHAMPION) == second
    assert registry.version(second).aliases == (CHAMPION,)
    registry.clear_alias(CHAMPION)
    registry.clear_alias(CHAMPION)
    assert registry.version_of(CHAMPION) is None


def test_unknown_versions_are_named(registry):
    for call in (registry.download, registry.load, registry.version, lambda it: registry.set_alias(CHAMPION, it)):
        with pytest.raises(UnknownVersion, match="no version 9999"):
            call("9999")


def test_a_file_exchanged_in_the_store_is_refused(registry, new_version):
    bundle, version = new_version()
    stored = registry.download(version)
    # A whole, sound bundle, but another one: only the registered digest tells.
    other = tiny_bundle(review=0.001, block=0.002, seed=1)
    for name, data in other.contents.items():
        (stored / name).write_bytes(data)
    with pytest.raises(BundleCorrupt, match=bundle.digest):
        registry.load(version)
    with pytest.raises(BundleCorrupt):
        registry.download(version)


def test_a_damaged_bundle_is_not_registered(registry, tmp_path):
    folder = tiny_bundle(seed=77).save(tmp_path / "bundle")
    (folder / "model.onnx").write_bytes(b"not a model")
    before = len(registry.versions())
    with pytest.raises(BundleCorrupt):
        registry.register(folder, {}, {}, {}, {})
    assert len(registry.versions()) == before


def test_promotion_and_rollback_move_the_real_alias(registry, new_version, tmp_path):
    (_, first), (_, second) = new_version(), new_version()
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    passed = [Gate("enough_frauds", 50.0, 30.0, True, "50, at least 30 is needed")]
    who = {"actor": "ada", "reason": "test"}
    promote(registry, ledger, version=first, gates=passed, **who)
    promote(registry, ledger, version=second, gates=passed, **who)
    assert registry.version_of(CHAMPION) == second
    assert rollback(registry, ledger, **who).model_version == first
    assert registry.version_of(CHAMPION) == ledger.champion_at() == first
    forced = promote_by_hand(registry, ledger, version=second, force=True, **who)
    assert (forced.kind, registry.version_of(CHAMPION)) == ("promote", second)
    ledger.close()


def test_a_damaged_version_cannot_be_rolled_back_to(registry, new_version, tmp_path):
    (_, first), (_, second) = new_version(), new_version()
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    passed = [Gate("enough_frauds", 50.0, 30.0, True, "50, at least 30 is needed")]
    for version in (first, second):
        promote(registry, ledger, version=version, gates=passed, actor="ada", reason="test")
    (registry.download(first) / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleCorrupt):
        rollback(registry, ledger, actor="ada", reason="test")
    assert registry.version_of(CHAMPION) == ledger.champion_at() == second
    ledger.close()


def test_a_store_that_cannot_be_reached_is_retryable_and_shows_no_password():
    with pytest.raises(RegistryUnavailable, match="FRAUD_REGISTRY_URL") as error:
        open_registry("postgresql+psycopg2://user:hunter2@127.0.0.1:1/mlflow", "artifacts")
    assert "hunter2" not in str(error.value)


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> tuple[Registry, Path, str, str]:
    """A registry in a home that was renamed after its first version, the version and its digest."""
    before, after = tmp_path_factory.mktemp("before") / "home", tmp_path_factory.mktemp("after") / "my home"
    bundle = tiny_bundle(seed=50)
    first = Registry(f"sqlite:///{before / 'mlflow.sqlite'}", str(before / "artifacts"))
    version = first.register(bundle.save(before / "bundle"), {}, {}, {}, {})
    shutil.copytree(before, after)
    shutil.rmtree(before)
    return Registry(f"sqlite:///{after / 'mlflow.sqlite'}", str(after / "artifacts")), before, version, bundle.digest


def test_a_home_that_was_moved_still_has_its_bundles(moved):
    registry, before, version, digest = moved
    assert registry.load(version).digest == digest
    registry.annotate(version, metrics={"x": 1.0}, figures={"roc.png": roc_figure({"a": [(0, 0), (1, 1)]})})
    assert (registry.download(version).parent / "figures" / "roc.png").stat().st_size > 0
    assert not before.exists()


def test_a_home_that_was_moved_keeps_new_versions_in_its_new_place(moved, tmp_path):
    registry, before, version, _ = moved
    bundle = tiny_bundle(seed=51)
    figures = {"importance.png": importance_figure(bundle.importance())}
    new = registry.register(bundle.save(tmp_path / "bundle"), {}, {}, figures, {})
    assert int(new) == int(version) + 1
    artifacts = registry.download(version).parents[2]
    assert registry.download(new).parents[2] == artifacts
    assert registry.load(new).digest == bundle.digest
    assert not before.exists()


def test_a_bundle_that_is_gone_is_named_with_its_place(registry, new_version):
    _, version = new_version()
    folder = registry.download(version)
    shutil.rmtree(folder)
    with pytest.raises(BundleCorrupt, match="is registered, but its bundle is not at") as error:
        registry.load(version)
    assert str(folder) in str(error.value)
    assert "fraud doctor" in str(error.value)
