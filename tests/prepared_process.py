"""A process that has the libraries of `fraud` imported before it starts: a command without its first seconds.

Importing MLflow, Dagster and dbt takes longer than most of what a command then does. It happens once per test process,
in a server that forks itself for each command: a process of its own, with an environment, streams and an exit code of
its own. Whatever reads a setting or looks at the terminal while it is imported, the child imports itself.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

LIBRARIES = (
    *("dagster", "dagster_dbt", "dbt.cli.main", "dbt.adapters.duckdb.impl", "dbt.adapters.postgres.impl"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("duckdb", "matplotlib", "numba", "pandas", "psycopg2", "pyarrow.parquet", "scipy.stats", "xgboost"),
)


def run_fraud(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], text: str | None, timeout: float
) -> tuple[int, str]:
    """Run `fraud ...` in a prepared process; its exit code, and what it printed: standard output, then the errors.

    Raises:
        TimeoutError: it took longer than `timeout` seconds, and was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    with tempfile.TemporaryDirectory(prefix="fraud-command-") as streams:
        given, printed, errors = (Path(streams) / name for name in ("stdin", "stdout", "stderr"))
        given.write_text(text or "")
        process = context.Process(
            target=_fraud, args=(tuple(arguments), folder, dict(environment), (given, printed, errors))
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"fraud {' '.join(arguments)} took more than {timeout:.0f} s.")
        return process.exitcode, printed.read_text() + errors.read_text()


def _fraud(arguments: tuple[str, ...], folder: Path, environment: dict[str, str], streams: tuple[Path, ...]) -> None:
    """In the child: become what a shell would have started."""
    for number, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2), strict=True)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["fraud", *arguments]
    from fraud_pipelines.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
