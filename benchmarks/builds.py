"""A build of the feature tables in a process of its own, so that its CPU time and memory are nobody else's.

`build()` has `python -m benchmarks.builds`, which has imported dbt and done nothing else, fork itself. The new process
runs the real dbt project in process, as production does: the project is parsed, the staging views are there, and only
then the clock starts. It stops when the warehouse's file is written and closed. Tests of dbt are not run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from sqlalchemy.engine import make_url

from fraud_pipelines.features import spec as feature_spec
from fraud_pipelines.settings import PROJECT_ROOT, TELEMETRY_OFF

PROJECT = PROJECT_ROOT / "dbt_project"
COMPILED, SQL = "compiled", "sql"
STAGED = ("select * from staging.stg_transactions", "select * from staging.stg_labels")
_SPEC_IN_PROJECT = feature_spec.SPEC_PATH.relative_to(PROJECT)


@dataclass(frozen=True)
class Built:
    """What a build took: CPU seconds (user and system) and wall seconds of the dbt run, and the process's peak memory.

    `server_cpu_s` is what the processes of a database server took beside it; 0 for DuckDB, which has none.
    """

    cpu_s: float
    wall_s: float
    peak_mib: float
    server_cpu_s: float


def build(
    url: str,
    folder: Path,
    *,
    engine: str = COMPILED,
    since: datetime | None = None,
    until: datetime | None = None,
    project: Path = PROJECT,
) -> Built:
    """Build the feature tables of a warehouse for the days [since, until), all without them, and say what it took.

    Args:
        folder: for dbt's own files; the same folder again spares parsing.
        engine: `compiled` or `sql`; a warehouse other than DuckDB has SQL only.
    Raises:
        RuntimeError: dbt failed; the message is its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result, printed = folder / "result.json", folder / "printed.txt"
    result.unlink(missing_ok=True)
    days = [f"{day:%Y-%m-%d %H:%M:%S}" for day in (since, until) if day is not None]
    request = {"url": url, "folder": str(folder), "engine": engine, "days": days, "project": str(project)}
    server = _server()
    assert server.stdin
    assert server.stdout
    try:
        server.stdin.write(json.dumps([str(result), str(printed), request]) + "\n")
        server.stdin.flush()
        exit_code = server.stdout.readline().strip()
    except BaseException:  # this process was told to end: so is the build under way
        os.killpg(server.pid, signal.SIGKILL)
        raise
    if exit_code != "0" or not result.exists():
        output = printed.read_text()[-8000:] if printed.exists() else f"exit code {exit_code}"
        raise RuntimeError(f"The build of {url.rsplit('@', 1)[-1]} failed:\n{output}")
    return Built(**json.loads(result.read_text()))


def clean_up_when_terminated() -> None:
    """Let SIGTERM unwind this process, so that a build under way ends too and gigabytes of temporary files go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def project_with(names: Sequence[str], folder: Path) -> Path:
    """A copy of the dbt project whose spec has only the features named; the folder of the copy."""
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("target", "logs", "__pycache__"))
    path = folder / _SPEC_IN_PROJECT
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    (model,) = (model for model in document["models"] if model["name"] == feature_spec.MODEL)
    model["columns"] = [
        column for column in model["columns"] if column["name"] in names or "entity" not in _meta(column)
    ]
    found = {column["name"] for column in model["columns"] if "entity" in _meta(column)}
    if found != set(names):
        raise ValueError(f"The feature spec has no {', '.join(sorted(set(names) - found))}.")
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder


def _meta(column: dict[str, Any]) -> dict[str, Any]:
    return column.get("config", {}).get("meta", {})


class Dbt:
    """The dbt project bound to one warehouse, in this process: parsed once, then run as often as wanted.

    Args:
        folder: for dbt's own files; the same folder again spares parsing.
        engine: `compiled` or `sql`; a warehouse other than DuckDB has SQL only.
    Raises:
        RuntimeError: dbt failed, here or in a run; the message is its own.
    """

    def __init__(self, url: str, folder: Path, *, engine: str = COMPILED, project: Path = PROJECT) -> None:
        self._url, self._engine = make_url(url), engine
        backend = self._url.get_backend_name()
        target = folder / f"{backend}-{engine}"
        self._arguments = [
            *("--project-dir", str(project), "--profiles-dir", str(project)),
            *("--target", {"postgresql": "postgres"}.get(backend, backend)),
            *("--target-path", str(target), "--log-path", str(target / "logs")),
        ]
        self._manifest = None
        self._manifest = self._invoke(["parse"], {}).result
        self._invoke(["run", "--select", "staging"], {})

    def build(self, since: datetime | None = None, until: datetime | None = None) -> None:
        """Build the feature tables for the days [since, until), all without them, and let go of the warehouse."""
        days = {}
        if since is not None and until is not None:
            days = {"since": f"{since:%Y-%m-%d %H:%M:%S}", "until": f"{until:%Y-%m-%d %H:%M:%S}"}
        self._invoke(["run", "--select", "features"], days)

    def _invoke(self, command: list[str], variables: dict[str, str]) -> Any:
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.cli.main import dbtRunner

        os.environ |= self._environment()
        variables = {"feature_engine": self._engine, **variables}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a benchmark prints is its figures
                outcome = dbtRunner(manifest=self._manifest).invoke(
                    ["--quiet", *command, *self._arguments, "--vars", json.dumps(variables)]
                )
        finally:
            # dbt-duckdb keeps its file open, and what it wrote apart from it, until told.
            DuckDBConnectionManager.close_all_connections()
        if not outcome.success:
            results = getattr(outcome.result, "results", [])
            failed = [f"{item.node.name}: {item.message}" for item in results if item.status == "error"]
            raise RuntimeError(f"dbt {' '.join(command)}: {outcome.exception or '; '.join(failed)}")
        return outcome

    def _environment(self) -> dict[str, str]:
        url = self._url
        if url.get_backend_name() == "duckdb":
            return {"FRAUD_DBT_DUCKDB_PATH": str(url.database)}
        return {
            "FRAUD_DBT_PG_HOST": str(url.host),
            "FRAUD_DBT_PG_PORT": str(url.port),
            "FRAUD_DBT_PG_USER": str(url.username),
            "FRAUD_DBT_PG_PASSWORD": str(url.password or ""),
            "FRAUD_DBT_PG_DATABASE": str(url.database),
        }


@cache
def _server() -> subprocess.Popen[str]:
    """The process that builds are forked from, one per process that asks for builds; it ends with that one."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.builds"], cwd=PROJECT_ROOT, env={**os.environ, **TELEMETRY_OFF},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _serve() -> None:
    """In the server: for every request on standard input a process of its own, whose exit code is the answer."""
    import dbt.adapters.duckdb.impl
    import dbt.adapters.postgres.impl
    import dbt.cli.main  # noqa: F401 - three seconds that every build would begin with

    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            result, printed, request = json.loads(line)
            _build_here(Path(result), Path(printed), request)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _build_here(result: Path, printed: Path, request: dict[str, Any]) -> NoReturn:
    """In the forked process: its output into one file, its figures into another, and its end."""
    code = 1
    try:
        with printed.open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        result.write_text(json.dumps(asdict(_measured(**request))))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _measured(url: str, folder: str, engine: str, days: list[str], project: str) -> Built:
    """A build in this process, which nothing else should have used."""
    dbt = Dbt(url, Path(folder), engine=engine, project=Path(project))
    is_duckdb = make_url(url).get_backend_name() == "duckdb"
    if is_duckdb and engine == COMPILED:
        _load_compiled_engine(url)
    server = None if is_duckdb else _Server(url)
    served = server.cpu_s() if server else 0.0
    usage, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    dbt.build(*(datetime.fromisoformat(day) for day in days))
    ended, now = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    return Built(
        cpu_s=now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime,
        wall_s=ended - started,
        peak_mib=peak_mib(),
        server_cpu_s=server.cpu_s() - served if server else 0.0,
    )


def _load_compiled_engine(url: str) -> None:
    """Compute the features of the first day, for nothing but to have the compiled code loaded: it is an import."""
    import duckdb

    from fraud_pipelines.features.warehouse_build import feature_table

    transactions, labels = STAGED
    with duckdb.connect(str(make_url(url).database), read_only=True) as connection:
        ((first,),) = connection.execute(f"select min(event_time) from ({transactions})").fetchall()
        until = first + timedelta(days=1)
        feature_table(connection, transactions, labels, feature_spec.load_spec(), first, until).read_all()


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which a child inherits from the process that started it.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


class _Server:
    """CPU time of a PostgreSQL server on this machine, all its processes together, ended ones included."""

    def __init__(self, url: str) -> None:
        import psutil
        import psycopg2

        connection = psycopg2.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
        with connection, connection.cursor() as cursor:
            cursor.execute("select pg_backend_pid()")
            (backend,) = cursor.fetchone()
            self._postmaster = psutil.Process(backend).parent()
        connection.close()

    def cpu_s(self) -> float:
        import psutil

        time.sleep(0.2)  # a backend whose client has just gone is about to end
        own = self._postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for process in self._postmaster.children():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total


if __name__ == "__main__":
    gc.set_threshold(50_000, 20)  # as in fraud_pipelines.cli
    _serve()
