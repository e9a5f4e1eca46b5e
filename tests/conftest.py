"""Fixtures every test may use: a real PostgreSQL, and settings that point into a temporary folder."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from fraud_pipelines.settings import TELEMETRY_OFF, Settings, load_settings
from tests.installation import DEMO_DAYS, Installation, free_port

# As in fraud_pipelines.cli, and for its reason: what is imported is no garbage.
gc.set_threshold(50_000, 20)

# One thread each: the test processes share the cores already, and threads that wait for one another keep them busy.
for _name, _value in {**TELEMETRY_OFF, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(_name, _value)

# Tests are not timed: another process may have the core.
settings.register_profile("untimed", parent=settings.default, deadline=None)
settings.load_profile("untimed")

TOKEN_KEY = "a-key-for-tests-only-0123456789abcdef"

TESTS = Path(__file__).parent
# Begun first, so that no core waits at the end for a long file that another has just begun; longest first.
LONGEST_FILES = (
    "integration/test_demo.py",
    "integration/benchmarks/test_benchmarks.py",
    "integration/test_production_form.py",
    "integration/serving/test_faults.py",
    "parity/test_increments.py",
    "parity/test_online_against_warehouse.py",
    "integration/serving/test_http.py",
    "integration/models/test_model_assets.py",
    "integration/serving/test_week_parity.py",
    "integration/serving/test_swap.py",
    "integration/serving/test_nginx.py",
    "integration/serving/test_bento.py",
    "integration/test_cli.py",
)

# Whatever a test imports must not read or write the developer's own installation.
for _name in [name for name in os.environ if name.startswith(("FRAUD_", "DAGSTER_HOME", "BENTOML_HOME"))]:
    del os.environ[_name]
Settings.model_config["env_file"] = None
_HOME = tempfile.mkdtemp(prefix="fraud-tests-")
os.environ["FRAUD_HOME"] = _HOME
os.environ["FRAUD_TOKEN_KEY"] = TOKEN_KEY
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Files go to the test processes in the order of collection, not by their number of tests.

    The feature engine is compiled before there are test processes: in a fresh clone each would compile it for itself.
    """
    config.option.loadscopereorder = False
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        from fraud_pipelines.features.online import OnlineEngine
        from fraud_pipelines.features.spec import load_spec

        OnlineEngine(load_spec()).warm_up()


def pytest_xdist_auto_num_workers() -> int:
    """One test process more than there are cores: tests of services and browsers wait a good part of their time."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others as they were."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST_FILES)}
    if missing := [path for path in places if not path.exists()]:
        raise pytest.UsageError(f"LONGEST_FILES of {__file__} names files that are gone: {missing}. Take them out.")
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """In CI, where every package and data set is there, a skipped test is a failed test."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[object]:
    """One PostgreSQL server per test process, started when the first test asks for it."""
    from tests.postgres_server import postgres_server as launch

    with launch() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server) -> str:
    """URL of the server's own database `postgres`; tests that write want `fresh_postgres_url`."""
    return postgres_server.url()


@pytest.fixture
def fresh_postgres_url(postgres_server) -> Iterator[str]:
    """URL (`postgresql+psycopg2://...`) of an empty database of this test's own, dropped afterwards."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[object]:
    """One Redis server per test process, started when the first test asks for it."""
    from tests.redis_server import PROGRAM
    from tests.redis_server import redis_server as launch

    if PROGRAM is None:
        pytest.skip("needs the Debian package redis-server")
    with launch() as server:
        yield server


@pytest.fixture
def fresh_redis_url(redis_server) -> str:
    """URL (`redis://...`) of an empty database."""
    return redis_server.fresh_url()


@pytest.fixture
def tmp_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Embedded settings whose every store lies in `tmp_path`; `load_settings()` returns them during the test.

    The developer's own environment and `.env` have no say.
    """
    for name in [name for name in os.environ if name.startswith("FRAUD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRAUD_TOKEN_KEY", TOKEN_KEY)
    monkeypatch.setenv("FRAUD_CODE_VERSION", "test")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home" / "bentoml"))
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation after `fraud demo`: every stage has run once. For tests that look at it; others take `moved`.

    One for all test processes: the first that asks makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-demo"
    installation, printed = Installation(shared / "home", {"FRAUD_TOKEN_KEY": TOKEN_KEY}), shared / "printed.txt"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        if not printed.exists():
            output = installation.run_script("demo", "--days", str(DEMO_DAYS), "--port", str(free_port()))
            shutil.copytree(installation.home, shared / "untouched")
            printed.write_text(output)
    return replace(installation, output=printed.read_text())


@pytest.fixture(scope="module")
def moved(demo: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The demo's home, moved to another place: for what runs on it or changes it, and proof that a home can move."""
    home = tmp_path_factory.mktemp("moved") / "home"
    # Not the home itself: another test process may be at work there.
    shutil.copytree(demo.home.with_name("untouched"), home)
    return Installation(home, demo.variables)
