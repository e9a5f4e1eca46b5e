"""What building the features costs, and how that compares with other ways to compute them, measured in one run.

    python benchmarks/features.py                                   # the handbook's file, or simulated transactions
    python benchmarks/features.py transactions.parquet              # a file in the handbook's layout
    python benchmarks/features.py payments.csv --mapping sparkov    # any file that a mapping reads
    python benchmarks/features.py --postgres                        # PostgreSQL as well: several minutes more
    python benchmarks/features.py --quick                           # a few thousand rows: does it work, not how fast

Raw tables are ingested first, uncounted. A build is the real dbt project, feature models without tests, in a fresh
process; parsing and imports do not count, reading, computing, writing and closing the warehouse do. CPU is user and
system seconds of all threads. Other work on the machine slows everything alike: judge by the ratios, not the seconds.

Prints progress on stderr and one JSON object on stdout:

  rows, features     what was built
  cpu_us_per_row     CPU microseconds per transaction of a full build on DuckDB, every feature
  peak_mib           peak memory of that process
  handbook_ratio     CPU per row of the handbook's own pandas code for its 15 features, divided by ours for the same 15
  growth_exponent    slope of log CPU over log rows for 1, 3 and 10 times the data, each copy with cards and merchants
                     of its own; 1 is linear
  increment_share    CPU of building the last day when all other days are there, divided by that of the full build
  floor_ratio        CPU of the full build divided by that of the compiled kernels alone on arrays in memory
  and under their own names all that these are made of
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import builds, floor, handbook_features, sources
from benchmarks.builds import COMPILED, SQL, Built
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.tables import TRANSACTION_FEATURES
from fraud_pipelines.warehouse import Warehouse, open_warehouse

SIMULATED, QUICK = 500_000, 6_000
SIZES, QUICK_SIZES = (1, 3, 10), (1, 2)
# 5 % of the handbook's: about ten seconds.
CUSTOMERS, TERMINALS = 250, 500


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Measure, and print the figures; see the head of this file."""
    arguments = _arguments(given)
    source = sources.choose(
        arguments.transactions, arguments.mapping, QUICK if arguments.quick else None, otherwise=SIMULATED
    )
    with tempfile.TemporaryDirectory(prefix="fraud-benchmark-") as folder:
        figures = Benchmark(Path(folder), source, arguments).run()
    print(json.dumps(figures, indent=2))
    return figures


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transactions", nargs="?", type=Path, help="file or folder; default: see above")
    parser.add_argument("--mapping", default="handbook", help="how to read it (default: handbook)")
    parser.add_argument("--postgres", action="store_true", help="measure PostgreSQL too, with the tests' own server")
    parser.add_argument(
        "--repeat", type=int, default=3, help="builds per figure, of which the median counts (default: 3)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, each once")
    return parser.parse_args(given)


class Benchmark:
    """One run, with its files in one folder."""

    def __init__(self, folder: Path, source: sources.Source, arguments: argparse.Namespace) -> None:
        self._folder, self._source = folder, source
        self._with_postgres = arguments.postgres
        self._is_quick = arguments.quick
        self._repeat = 1 if arguments.quick else arguments.repeat
        self._sizes = QUICK_SIZES if arguments.quick else SIZES
        self._spec = load_spec()
        self._started = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Every figure, ready to print."""
        self._say(f"ingesting {self._source}")
        url = f"duckdb:///{self._folder / 'warehouse.duckdb'}"
        extent = sources.load(self._source, url, self._folder)
        warehouse = open_warehouse(url)
        if not self._is_quick:
            self._warm_up()

        full = self._build("every feature", url)
        handbook, fifteen = self._handbook(warehouse, self._fresh(url, "fifteen"))
        with_sql = self._build("every feature, feature_engine sql", self._fresh(url, "sql"), engine=SQL, repeat=1)
        last_day = self._last_day(url, warehouse, extent)
        self._say("the kernels alone")
        floor_s = floor.kernel_cpu_s(url.removeprefix("duckdb:///"), self._spec)
        sizes = [self._of_size(url, extent, times, full) for times in self._sizes]
        rows = extent.transactions
        figures = {
            "rows": rows,
            "features": len(self._spec.features),
            "cpu_us_per_row": _short(full.cpu_s / rows * 1e6),
            "peak_mib": round(full.peak_mib),
            "handbook_ratio": _short(handbook.cpu_us_per_row / (fifteen.cpu_s / rows * 1e6)),
            "growth_exponent": _short(exponent([s["rows"] for s in sizes], [s["cpu_s"] for s in sizes])),
            "increment_share": _short(last_day.cpu_s / full.cpu_s),
            "floor_ratio": _short(full.cpu_s / floor_s),
            "source": extent.report(self._source),
            "duckdb_compiled": _readable(asdict(full)),
            "duckdb_sql": {**_readable(asdict(with_sql)), "ratio_to_compiled": _short(with_sql.cpu_s / full.cpu_s)},
            "duckdb_handbook_15": {
                **_readable(asdict(fifteen)),
                "cpu_us_per_row": _short(fifteen.cpu_s / rows * 1e6),
            },
            "pandas_handbook_15": {
                **_readable(asdict(handbook)),
                "cpu_us_per_row": _short(handbook.cpu_us_per_row),
            },
            "last_day": {"day": f"{extent.last_day:%Y-%m-%d}", **_readable(asdict(last_day))},
            "kernels": {"cpu_s": _short(floor_s)},
            "sizes": sizes,
        }
        if self._with_postgres:
            figures["postgres"] = self._postgres(warehouse, floor_s, rows)
        figures["machine"] = _machine()
        figures["seconds"] = round(time.monotonic() - self._started)
        return figures

    def _build(
        self, what: str, url: str, *, engine: str = COMPILED, project: Path = builds.PROJECT, repeat: int | None = None
    ) -> Built:
        """The build of median CPU time among those of a warehouse without features."""
        found = []
        for turn in range(repeat or self._repeat):
            self._say(f"{what}: build {turn + 1} of {repeat or self._repeat}")
            self._empty(url)
            found.append(builds.build(url, self._folder / "dbt" / project.name, engine=engine, project=project))
            self._say(f"  {found[-1].cpu_s:.1f} CPU s, {found[-1].wall_s:.1f} s, {found[-1].peak_mib:.0f} MiB")
        return _median(found)

    def _last_day(self, url: str, warehouse: Warehouse, extent: sources.Extent) -> Built:
        found = []
        for turn in range(self._repeat):
            self._say(f"the last day alone: build {turn + 1} of {self._repeat}")
            warehouse.execute(f"delete from {TRANSACTION_FEATURES} where event_time >= :day", day=extent.last_day)
            folder = self._folder / "dbt" / builds.PROJECT.name
            found.append(builds.build(url, folder, since=extent.last_day, until=extent.until))
        return _median(found)

    def _handbook(self, warehouse: Warehouse, url: str) -> tuple[handbook_features.Measured, Built]:
        """The handbook's own code on a sample, and our build of its features, in turns: other work slows both alike."""
        transactions = handbook_features.read(warehouse)
        project = builds.project_with(handbook_features.OURS, self._folder / "fifteen")
        measured, built = [], []
        for turn in range(self._repeat):
            self._say(f"the handbook's own pandas code on a sample of groups: {turn + 1} of {self._repeat}")
            measured.append(
                handbook_features.measure(transactions, customers=CUSTOMERS, terminals=TERMINALS, seed=turn)
            )
            self._say(f"  {measured[-1].cpu_us_per_row:.1f} CPU us per row")
            built.append(self._build("the handbook's 15 features", url, project=project, repeat=1))
        return sorted(measured, key=lambda one: one.cpu_us_per_row)[(len(measured) - 1) // 2], _median(built)

    def _of_size(self, url: str, extent: sources.Extent, times: int, full: Built) -> dict[str, Any]:
        built = full
        if times > 1:
            self._say(f"{times} times the data")
            path = self._folder / f"times_{times}.duckdb"
            built = self._build(f"{times} times the data", sources.multiply(url, path, times), repeat=1)
            path.unlink()
        return {"times": times, "rows": extent.transactions * times, **_readable(asdict(built))}

    def _postgres(self, origin: Warehouse, floor_s: float, rows: int) -> dict[str, Any]:
        from tests.postgres_server import postgres_server

        self._say("PostgreSQL: loading")
        with postgres_server() as server:
            url = server.create_database()
            sources.copy_raw(origin, open_warehouse(url))
            self._say("PostgreSQL: every feature")
            built = builds.build(url, self._folder / "dbt" / "postgres")
        return {
            **_readable(asdict(built)),
            "server_cpu_us_per_row": _short(built.server_cpu_s / rows * 1e6),
            "floor_ratio": _short(built.server_cpu_s / floor_s),
        }

    def _warm_up(self) -> None:
        """Compile the kernels, which a process finds on disk ever after."""
        self._say("compiling")
        folder = self._folder / "warm_up"
        folder.mkdir()
        url = f"duckdb:///{folder / 'warehouse.duckdb'}"
        sources.load(sources.Source(None, "simulator", 1_000), url, folder)
        builds.build(url, self._folder / "dbt" / builds.PROJECT.name)

    def _fresh(self, url: str, name: str) -> str:
        return sources.multiply(url, self._folder / f"{name}.duckdb", 1)

    def _empty(self, url: str) -> None:
        open_warehouse(url).execute(f"drop table if exists {TRANSACTION_FEATURES}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.0f} s  {text}", file=sys.stderr, flush=True)


def _median(found: list[Built]) -> Built:
    return sorted(found, key=lambda built: built.cpu_s)[(len(found) - 1) // 2]


def exponent(rows: list[int], seconds: list[float]) -> float:
    """Least-squares slope of log seconds over log rows."""
    slope, _ = np.polyfit(np.log(rows), np.log(seconds), 1)
    return float(slope)


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _readable(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _short(value) if isinstance(value, float) else value for name, value in values.items()}


def _machine() -> dict[str, Any]:
    import duckdb
    import pandas as pd

    return {
        "cpus": os.cpu_count(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
        "pandas": pd.__version__,
    }


if __name__ == "__main__":
    builds.clean_up_when_terminated()
    main()
