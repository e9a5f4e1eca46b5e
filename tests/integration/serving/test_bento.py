"""The Bento is built once per content, and serves far from the checkout it was built in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import httpx
import pytest
import yaml

from fraud_pipelines.errors import BundleCorrupt, ContractBroken, NoChampion, RetryableError, SettingInvalid
from fraud_pipelines.ledger import Promotion, open_ledger
from fraud_pipelines.models.bento import BuiltBento, build_bento
from fraud_pipelines.models.machine_code import add_machine_code
from fraud_pipelines.models.serve import champion_bento, running_service, stop_service
from fraud_pipelines.settings import PROJECT_ROOT, Settings
from tests.integration.serving.conftest import TOKEN_KEY, installed
from tests.integration.serving.test_http import free_port, wait_until_ready
from tests.served_models import payment, tiny_bundle

# The project is installed in editable form, so its root is on sys.path of every process of this environment and would
# lend the Bento whatever it lacks. This takes it off, and notes every file of the checkout that is opened all the same.
OUT_OF_REACH = """
import os, sys
root, environment, log = {root!r}, {environment!r}, {log!r}
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != root]
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        if path.startswith(root + os.sep) and not path.startswith(environment + os.sep):
            with open(log, "a") as file:
                file.write(path + chr(10))
sys.addaudithook(note)
"""


# The service without HTTP, as a notebook or another service would use it; then the packages that its code imported.
AS_AN_OBJECT = """
import ast, asyncio, json, sys
from pathlib import Path
from serving.problems import Problem
from serving.schemas import Transaction
from serving.service import FraudScorer

scorer = FraudScorer()
given = []
for changes in ({"amount": "900"}, {"amount": "900"}, {"amount": "1"}):
    try:
        given.append(asyncio.run(scorer.score(Transaction.model_validate(json.loads(sys.argv[1]) | changes))).decision)
    except Problem as problem:
        given.append(problem.status)
imported = set()
for name, module in list(sys.modules.items()):
    if name.split(".")[0] in ("serving", "fraud_pipelines") and getattr(module, "__file__", None):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
print(json.dumps({"given": given, "imported": sorted(imported & set(sys.modules) - set(sys.stdlib_module_names))}))
scorer.finish()
"""


@contextmanager
def served_elsewhere(bento: Path, folder: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """Serve a Bento by its folder in a process that cannot import the checkout; yields a client and the note file."""
    opened = folder / "opened.txt"
    (folder / "site").mkdir(parents=True)
    installed(folder / "home")
    (folder / "site" / "sitecustomize.py").write_text(
        OUT_OF_REACH.format(root=str(PROJECT_ROOT), environment=str(Path(sys.prefix).resolve()), log=str(opened))
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "PYTHON"))}
    port = free_port()
    with (folder / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=kept
            | {
                "PYTHONPATH": str(folder / "site"),
                "BENTOML_HOME": str(folder / "bentoml"),
                "FRAUD_HOME": str(folder / "home"),
                "FRAUD_TOKEN_KEY": TOKEN_KEY,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client, opened
    finally:
        stop_service(process)


def test_a_bento_serves_from_another_folder_without_the_checkout(built: BuiltBento, tmp_path: Path):
    copied = shutil.copytree(built.path, tmp_path / "elsewhere" / "bento")
    machine_code = {path: path.stat().st_mtime_ns for path in copied.rglob("*.nb?")}
    with served_elsewhere(copied, tmp_path / "run") as (client, opened):
        answer = client.post("/score", json=payment(amount="900")).json()
        assert (answer["decision"], answer["model"]["version"]) == ("BLOCK", "7")
        assert client.get("/model").json()["model"]["bundle_digest"] == built.bundle_digest
        assert client.get("/docs.json").status_code == 200
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"Code of {copied / 'src'}" in log
    assert not opened.exists(), opened.read_text()
    # Nothing was compiled: the Bento came with everything.
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.nb?")} == machine_code
    assert {path.name.split("-")[0] for path in machine_code} >= {"kernel.compute", "tree_shap._contributions"}


def test_a_model_that_cannot_score_is_built_without_machine_code(tmp_path: Path):
    other = replace(tiny_bundle(), spec_text="features: []")
    add_machine_code(other, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bento_whose_model_was_changed_sends_everything_to_review(built: BuiltBento, tmp_path: Path):
    copied = shutil.copytree(built.path, tmp_path / "bento")
    model = copied / "src" / "champion" / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with served_elsewhere(copied, tmp_path / "run") as (client, _):
        answer = client.post("/score", json=payment(amount="1")).json()
        assert (answer["decision"], answer["fallback"], answer["model"]) == ("REVIEW", "bundle_corrupt", None)
        described = client.get("/model").json()
        assert (described["fallback"], described["model"]) == ("bundle_corrupt", None)
        assert 'fraud_fallback_total{cause="bundle_corrupt"} 1.0' in client.get("/metrics").text
        client.post("/score", json=payment(transaction_id="t-2"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "model.onnx: expected SHA-256" in log
    assert "cannot be used" not in log  # the online store works on without a model


@pytest.fixture(scope="module")
def unserved(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltBento:
    """A Bento that never ran: Python keeps bytecode beside the modules of one that did."""
    return build_bento(bundle_folder, "7", bentoml_home=tmp_path_factory.mktemp("unserved"))


def test_the_same_model_and_code_are_built_once(unserved: BuiltBento, bundle_folder: Path):
    before = (unserved.path / "bento.yaml").stat().st_mtime_ns
    home = unserved.path.parents[2]
    assert build_bento(bundle_folder, "7", bentoml_home=home) == unserved
    assert (unserved.path / "bento.yaml").stat().st_mtime_ns == before
    assert unserved.tag.startswith("fraud-scorer:7-")


def test_a_bento_holds_code_and_model_and_nothing_else(unserved: BuiltBento):
    source = unserved.path / "src"
    assert sorted(path.name for path in source.iterdir()) == [
        "bentofile.yaml", "champion", "dbt_project", "fraud_pipelines", "serving"
    ]  # fmt: skip
    assert not [path for path in source.rglob("*") if path.suffix in (".pyc", ".pkl", ".pickle", ".joblib")]
    assert unserved.size_bytes == sum(path.stat().st_size for path in unserved.path.rglob("*") if path.is_file())
    labels = yaml.safe_load((unserved.path / "bento.yaml").read_text())["labels"]
    assert labels == {"model_version": "7", "bundle_digest": unserved.bundle_digest}


def test_a_corrupt_bundle_is_not_built(bundle_folder: Path, bento_home: Path, tmp_path: Path):
    broken = shutil.copytree(bundle_folder, tmp_path / "bundle")
    (broken / "model.json").write_text("{}")
    with pytest.raises(BundleCorrupt, match=r"model\.json"):
        build_bento(broken, "8", bentoml_home=bento_home)


def test_a_build_that_bentoml_refuses_repeats_its_words(bundle_folder: Path, tmp_path: Path):
    (tmp_path / "bentoml").write_text("a file where BentoML's store should be")
    with pytest.raises((ContractBroken, FileExistsError)):
        build_bento(bundle_folder, "8", bentoml_home=tmp_path / "bentoml")


def test_the_champion_of_the_ledger_is_what_is_served(
    bundle_folder: Path, built: BuiltBento, service_settings: Settings, tmp_path: Path
):
    settings = service_settings.model_copy(update={"ledger_url": f"sqlite:///{tmp_path / 'ledger.sqlite'}"})
    with pytest.raises(NoChampion, match="fraud train"):
        champion_bento(settings)
    ledger = open_ledger(settings.ledger_url)
    for version in ("7", "8"):
        ledger.record_promotion(Promotion("promote", version, None, "test", "test", []))
    with pytest.raises(NoChampion, match="version 8"):
        champion_bento(settings)
    other = tiny_bundle(seed=1).save(tmp_path / "other")
    eight = build_bento(other, "8", bentoml_home=settings.bentoml_home)
    assert champion_bento(settings) == eight
    assert champion_bento(settings, version="7").bundle_digest == built.bundle_digest


def test_a_taken_port_and_a_service_that_ends_are_told_apart(
    service_settings: Settings, built: BuiltBento, tmp_path: Path
):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(SettingInvalid, match=rf"127\.0\.0\.1:{port}"),
            running_service(service_settings, bento=built, port=port),
        ):
            pass
    missing = BuiltBento("fraud-scorer:no-such", built.path, "7", built.bundle_digest)
    with (
        pytest.raises(RetryableError, match="not found"),
        running_service(service_settings, bento=missing, log=tmp_path / "log"),
    ):
        pass


def test_the_packages_of_the_bento_are_those_of_the_project():
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    development = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    bentofile = yaml.safe_load((PROJECT_ROOT / "serving" / "bentofile.yaml").read_text())
    pinned = {requirement.split(";")[0] for requirement in (*project, *development)}
    assert set(bentofile["python"]["packages"]) <= pinned


def test_the_service_decides_as_an_object_and_its_bento_names_every_package_it_imports(
    built: BuiltBento, tmp_path: Path
):
    installed(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", AS_AN_OBJECT, json.dumps(payment())],
        cwd=built.path / "src",
        env={name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
        | {"PYTHONPATH": str(built.path / "src"), "FRAUD_HOME": str(tmp_path), "FRAUD_TOKEN_KEY": TOKEN_KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["given"] == ["BLOCK", "BLOCK", 409]
    bentofile = yaml.safe_load((PROJECT_ROOT / "serving" / "bentofile.yaml").read_text())
    named = {_name(package) for package in bentofile["python"]["packages"]}
    # What they bring themselves: Starlette with BentoML, protobuf with ONNX, SciPy with XGBoost.
    brought = {_name(package) for name in named for package in requires(name) or () if "extra ==" not in package}
    distributions = packages_distributions()
    unnamed = {
        name: distributions[name]
        for name in found["imported"]
        if name not in ("serving", "fraud_pipelines")
        and not {_name(distribution) for distribution in distributions[name]} & (named | brought)
    }
    assert unnamed == {}


def _name(package: str) -> str:
    """A distribution's name out of a requirement."""
    return re.split(r"[^\w.-]", package)[0].lower().replace("_", "-")
