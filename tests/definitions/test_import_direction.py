"""Data flows one way, and so do imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"fraud_pipelines", "assets", "checks", "serving"}
# The one composition root.
ROOT_MODULE = "fraud_pipelines/definitions.py"
# Libraries with one door each.
ONLY_IN = {
    "mlflow": ("fraud_pipelines/models/registry.py",),
    "reportlab": ("fraud_pipelines/compliance/",),
    "great_expectations": ("checks/",),
    "evidently": ("fraud_pipelines/monitoring/",),
    "dagster": ("fraud_pipelines/orchestration/", ROOT_MODULE, "assets/", "checks/"),
    "dagster_dbt": ("fraud_pipelines/orchestration/", "assets/features/"),
    "bentoml": ("serving/", "fraud_pipelines/models/bento.py"),
}


def modules() -> list[Path]:
    return sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", modules(), ids=named)
def test_packages_never_import_sideways_or_back(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = OURS if named(path) == ROOT_MODULE else {package, "fraud_pipelines"}
    imported = {name.split(".")[0] for name in imports(path)} & OURS
    assert imported <= allowed, f"{named(path)} imports {sorted(imported - allowed)}"


@pytest.mark.parametrize("path", modules(), ids=named)
def test_libraries_enter_through_their_own_door(path):
    for name in imports(path):
        library = name.split(".")[0]
        doors = ONLY_IN.get(library)
        assert doors is None or named(path).startswith(doors), f"{named(path)} imports {library}; only {doors} may"


def test_environment_variables_are_read_in_settings_alone():
    readers = {
        named(path)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"getenv", "environ"}
    }
    # dbt, BentoML and `dagster dev` are other programs: their environment is how they are told.
    tells = {
        "fraud_pipelines/orchestration/dbt.py",
        "fraud_pipelines/models/bento.py",
        "fraud_pipelines/models/serve.py",
        "fraud_pipelines/commands/services.py",
    }
    assert readers - tells == {"fraud_pipelines/settings.py"}


def test_serving_cannot_reach_the_warehouse():
    reached = {name for path in (ROOT / "serving").rglob("*.py") for name in imports(path)}
    assert not {name for name in reached if name.startswith(("fraud_pipelines.warehouse", "duckdb"))}
