"""Bundles: kept whole, loaded only when sound, never able to run code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.errors import BundleCorrupt, ContractBroken
from fraud_pipelines.models.bundle import BOOSTER, FILES, Bundle
from fraud_pipelines.models.comparison import Comparison, Standing
from tests.served_models import POLICY_BASIS, tiny_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def folder(bundle, tmp_path: Path) -> Path:
    return bundle.save(tmp_path / "bundle")


def _matrix(bundle: Bundle, rows: int = 50) -> np.ndarray:
    values = np.random.default_rng(5).uniform(0, 1000, (rows, len(bundle.feature_names))).astype(np.float32)
    values[::7, 1] = np.nan
    return values


def test_a_loaded_bundle_scores_and_says_the_same(bundle, folder):
    loaded = Bundle.load(folder, digest=bundle.digest)
    matrix = _matrix(bundle)
    np.testing.assert_array_equal(loaded.predict(matrix), bundle.predict(matrix))
    for name in ("feature_names", "spec_text", "spec_hash", "thresholds", "weights", "split", "metrics", "digest"):
        assert getattr(loaded, name) == getattr(bundle, name)
    pd.testing.assert_frame_equal(loaded.reference, bundle.reference)


def test_what_the_thresholds_were_chosen_with_is_kept(bundle, tmp_path):
    folder = dataclasses.replace(bundle, policy=POLICY_BASIS).save(tmp_path / "bundle")
    assert Bundle.load(folder).policy == POLICY_BASIS


def test_how_it_won_and_what_it_won_against_are_kept(bundle, tmp_path):
    comparison = Comparison("xgboost", (Standing("single_tree", 0.5, 0.4, 0.6, 0.1, 0.01), Standing("xgboost", 0.6)), 9)
    baselines = {"single_tree": tiny_bundle(seed=3).model.onnx_bytes}
    whole = dataclasses.replace(bundle, comparison=comparison, baselines=baselines)
    loaded = Bundle.load(whole.save(tmp_path / "bundle"), digest=whole.digest)
    assert loaded.comparison == comparison
    matrix = _matrix(bundle)
    np.testing.assert_array_equal(loaded.predict_baseline("single_tree", matrix), tiny_bundle(seed=3).predict(matrix))
    assert (loaded.predict_baseline("single_tree", matrix) != loaded.predict(matrix)).any()


def test_a_file_that_no_bundle_has_is_refused_even_with_its_digest(folder):
    (folder / "extra.py").write_text("print()")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["extra.py"] = hashlib.sha256(b"print()").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleCorrupt, match=r"extra\.py"):
        Bundle.load(folder)


def test_the_folder_holds_data_only(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, BOOSTER, "manifest.json"])
    assert not any(b"pickle" in path.read_bytes() for path in folder.iterdir())


def test_the_probability_is_the_calibrated_margin_of_the_booster(bundle):
    import xgboost

    calibrated = tiny_bundle(slope=0.5, intercept=-1.0)
    matrix = _matrix(bundle)
    booster = xgboost.Booster(model_file=bytearray(calibrated.booster_bytes))
    margin = booster.predict(xgboost.DMatrix(matrix), output_margin=True).astype(float)
    np.testing.assert_allclose(calibrated.predict(matrix), 1 / (1 + np.exp(1.0 - 0.5 * margin)), rtol=1e-5)


def test_contributions_add_up_to_the_log_odds(bundle):
    calibrated = tiny_bundle(slope=0.5, intercept=-1.0)
    matrix = _matrix(bundle)
    contributions = calibrated.contributions(matrix)
    assert contributions.shape == (50, len(bundle.feature_names) + 1)
    np.testing.assert_allclose(contributions.sum(axis=1), calibrated.margin(matrix), atol=1e-5)


def test_one_row_scores_as_it_does_among_many(bundle):
    matrix = _matrix(bundle)
    alone = np.concatenate([bundle.predict(matrix[row : row + 1]) for row in range(len(matrix))])
    np.testing.assert_array_equal(alone, bundle.predict(matrix))


def test_no_rows_give_no_scores(bundle):
    empty = np.empty((0, len(bundle.feature_names)), dtype=np.float32)
    assert bundle.predict(empty).shape == (0,)
    assert bundle.contributions(empty).shape == (0, len(bundle.feature_names) + 1)


def test_a_matrix_of_another_width_is_refused(bundle):
    with pytest.raises(ContractBroken, match="expects a matrix of shape"):
        bundle.predict(np.zeros((2, 3), dtype=np.float32))


@pytest.mark.parametrize("name", [*FILES, BOOSTER])
def test_one_changed_byte_in_any_file_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(BundleCorrupt, match=f"{name}: expected SHA-256"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", [*FILES, BOOSTER, "manifest.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleCorrupt, match=name):
        Bundle.load(folder)


def test_a_manifest_rewritten_for_other_files_has_another_digest(bundle, folder):
    other = tiny_bundle(review=0.01, block=0.02)
    other.save(folder)
    Bundle.load(folder)
    with pytest.raises(BundleCorrupt, match=f"expected bundle digest {bundle.digest}"):
        Bundle.load(folder, digest=bundle.digest)


def test_a_manifest_of_another_format_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(BundleCorrupt, match="expected format 3"):
        Bundle.load(folder)


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(bundle, folder):
    (folder / "stray.txt").write_text("from before")
    bundle.save(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert not (folder / "stray.txt").exists()


def test_the_reference_sample_holds_features_only(bundle):
    with pytest.raises(ContractBroken, match="exactly the features"):
        dataclasses.replace(bundle, reference=bundle.reference.assign(card_id="tok_1"))


def test_a_sample_is_the_head_of_the_reference_as_a_matrix(bundle, folder):
    gaps = bundle.reference.copy()
    gaps.iloc[1, 2] = np.nan
    with_gaps = dataclasses.replace(bundle, reference=gaps)
    sample = Bundle.load(with_gaps.save(folder)).sample(4)
    assert (sample.shape, sample.dtype) == ((4, len(bundle.feature_names)), np.float32)
    np.testing.assert_array_equal(sample, gaps.head(4).to_numpy(np.float32))
    assert len(bundle.sample(10_000)) == len(bundle.reference)
