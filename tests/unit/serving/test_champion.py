"""A champion is used only when every digest holds and it can score; otherwise the cause is known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.settings import PROJECT_ROOT
from serving.champion import BUNDLE_CORRUPT, NO_CHAMPION, SPEC_MISMATCH, WARM_UP_FAILED, load_champion
from tests.served_models import tiny_bundle, unable_to_score


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def place(bundle: Bundle, folder: Path, **changes: str) -> Path:
    bundle.save(folder / "bundle")
    described = {"name": "fraud-scorer", "version": "3", "bundle_digest": bundle.digest} | changes
    (folder / "champion.json").write_text(json.dumps(described))
    return folder


def test_a_champion_that_verifies_decides(bundle, tmp_path):
    loaded = load_champion(place(bundle, tmp_path))
    assert loaded.cause is None
    assert (loaded.champion.version, loaded.champion.digest) == ("3", bundle.digest)
    assert loaded.champion.engine.spec.names == bundle.feature_names


def test_an_empty_folder_is_no_champion(tmp_path):
    assert load_champion(tmp_path).cause == NO_CHAMPION


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "feature_spec.yml", "reference.parquet", "manifest.json"])
def test_one_changed_byte_in_any_file_is_noticed(bundle, tmp_path, name):
    file = place(bundle, tmp_path) / "bundle" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    loaded = load_champion(tmp_path)
    assert (loaded.champion, loaded.cause) == (None, BUNDLE_CORRUPT)


def test_a_missing_file_and_another_models_digest_are_noticed(bundle, tmp_path):
    assert load_champion(place(bundle, tmp_path / "a", bundle_digest="0" * 64)).cause == BUNDLE_CORRUPT
    place(bundle, tmp_path / "b")
    (tmp_path / "b" / "bundle" / "model.onnx").unlink()
    assert load_champion(tmp_path / "b").cause == BUNDLE_CORRUPT


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x"}'])
def test_a_champion_file_that_cannot_be_read_is_noticed(bundle, tmp_path, text):
    (place(bundle, tmp_path) / "champion.json").write_text(text)
    assert load_champion(tmp_path).cause == BUNDLE_CORRUPT


def test_a_model_of_another_spec_is_noticed(bundle, tmp_path):
    other = replace(bundle, spec_hash="0" * 64)
    assert load_champion(place(other, tmp_path)).cause == SPEC_MISMATCH


def test_contributions_that_do_not_fit_the_spec_are_noticed_before_the_first_payment(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(Bundle, "contributions", lambda self, matrix: np.zeros((len(matrix), matrix.shape[1] + 3)))
    loaded = load_champion(place(bundle, tmp_path))
    assert loaded.cause == WARM_UP_FAILED
    assert "Contributions: expected shape" in loaded.problem


def test_a_model_that_cannot_score_is_noticed(bundle, tmp_path):
    broken = replace(bundle, model=unable_to_score(bundle.model))
    loaded = load_champion(place(broken, tmp_path))
    assert loaded.cause == WARM_UP_FAILED


# Compiled signatures per function: before a model was made ready, and after.
COMPILED = """
import json, sys
from pathlib import Path
from fraud_pipelines.features import engine, kernel
from fraud_pipelines.models import tree_shap
from serving import scoring
from serving.champion import compile_ahead, load_champion

def signatures():
    found = [value for module in (engine, kernel, tree_shap) for value in vars(module).values()]
    return {one.__name__: len(one.signatures) for one in found if hasattr(one, "signatures")}

compile_ahead()
before = signatures()
loaded = load_champion(Path(sys.argv[1]))
print(json.dumps([before, signatures(), loaded.problem, "pandas" in sys.modules]))
"""


def test_a_first_champion_waits_for_no_compiler_and_needs_no_pandas(bundle, tmp_path):
    """Compiling takes seconds; pandas costs a replica 0.3 s and 40 MB, and reading the reference would bring it in."""
    program = [sys.executable, "-c", COMPILED, str(place(bundle, tmp_path))]
    ran = subprocess.run(program, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    before, after, problem, is_pandas_there = json.loads(ran.stdout.splitlines()[-1])
    assert (problem, is_pandas_there) == (None, False)
    assert after == before
    assert before["_contributions"] == before["_paths"] == 1
