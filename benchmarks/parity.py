"""Is every feature the same number by every route? Counts the cells that are not.

    python benchmarks/parity.py                                  # the handbook's file, or simulated transactions
    python benchmarks/parity.py payments.csv --mapping sparkov   # any file that a mapping reads
    python benchmarks/parity.py --simulate 200000                # with devices, countries, places and late labels
    python benchmarks/parity.py --sample 0.01 --days 3           # one card in a hundred, three days replayed

  engines   DuckDB with the compiled engine against PostgreSQL with SQL: every transaction, every feature
  sql       DuckDB with the same SQL against the compiled engine, in the same way
  ranges    the days built in pieces, in any order, against one full run: on DuckDB every day in uneven pieces and then
            single days again; on PostgreSQL single days
  rerun     the last day built once more: nothing changes
  replay    the online store rebuilt as of a moment, and the days from there replayed in the order of events: each
            transaction is scored, then recorded; each label is recorded when it became known

Equal means equal doubles, null only where null is. Only distances and speeds may differ by a billionth of their size.
Prints progress on stderr and one JSON object on stdout; exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import sources
from benchmarks.builds import COMPILED, SQL, Dbt, clean_up_when_terminated
from benchmarks.comparison import Comparison, tolerances
from benchmarks.replay import replay
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.tables import TRANSACTION_FEATURES
from fraud_pipelines.warehouse import Warehouse, open_warehouse

SIMULATED = 200_000
FULL_RUN = "features.full_run"
# Transactions of these days are compared at a time.
_COMPARED_DAYS = 14
# Shares of the whole stretch at which it is cut into pieces.
_CUTS = (0.13, 0.2, 0.55, 0.56)

Range = tuple[datetime, datetime]


def main(given: list[str] | None = None) -> int:
    """Compare, print the figures, and return the exit code; see the head of this file."""
    arguments = _arguments(given)
    source = sources.choose(arguments.transactions, arguments.mapping, arguments.simulate, otherwise=SIMULATED)
    with tempfile.TemporaryDirectory(prefix="fraud-parity-") as folder:
        figures = Parity(Path(folder), source, arguments).run()
    print(json.dumps(figures, indent=2))
    return 1 if figures["mismatches"] else 0


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transactions", nargs="?", type=Path, help="file or folder; default: see above")
    parser.add_argument("--mapping", default="handbook", help="how to read it (default: handbook)")
    parser.add_argument("--simulate", type=int, metavar="N", help="about N simulated transactions instead of a file")
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="share of the cards, default all: 1")
    parser.add_argument(
        "--days", type=int, default=30, help="last days to replay through the online store (default: 30)"
    )
    arguments = parser.parse_args(given)
    if not 0 < arguments.sample <= 1:
        parser.error(f"--sample: expected a share above 0, at most 1, found {arguments.sample}")
    return arguments


class Parity:
    """One run, with its files in one folder."""

    def __init__(self, folder: Path, source: sources.Source, arguments: argparse.Namespace) -> None:
        self._folder, self._source = folder, source
        self._card_share, self._days = arguments.sample, arguments.days
        self._spec = load_spec()
        self._tolerances = tolerances(self._spec)
        self._started = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Every figure, ready to print."""
        from tests.postgres_server import postgres_server

        self._say(f"ingesting {self._source}")
        url = f"duckdb:///{self._folder / 'warehouse.duckdb'}"
        extent = sources.load(self._source, url, self._folder, card_share=self._card_share)
        duckdb = open_warehouse(url)
        self._say(f"{extent.transactions:,} transactions; DuckDB with the compiled engine")
        compiled = self._dbt(url, COMPILED)
        compiled.build()
        found: dict[str, Any] = {"sql": self._sql(duckdb, extent)}
        with postgres_server() as server:
            postgres = open_warehouse(server.create_database())
            self._say("PostgreSQL: loading")
            sources.copy_raw(duckdb, postgres)
            self._say("PostgreSQL: every feature by SQL")
            with_sql = self._dbt(postgres.url, SQL)
            with_sql.build()
            found["engines"] = self._compared(duckdb, postgres, extent)
            days = _single_days(extent)
            found["ranges"] = {
                "duckdb": [self._in_pieces(duckdb, compiled, pieces) for pieces in (_pieces(extent), days)],
                "postgres": [self._in_pieces(postgres, with_sql, days)],
            }
            found["rerun"] = {
                "duckdb": self._again(duckdb, compiled, days[-1]),
                "postgres": self._again(postgres, with_sql, days[-1]),
            }
        self._say(f"replaying {self._days} days through the online store")
        found["replay"] = replay(
            duckdb, self._spec, self._folder / "online.sqlite", extent.until - timedelta(days=self._days),
            extent.until, self._tolerances, self._say,
        )  # fmt: skip
        return {
            "rows": extent.transactions,
            "features": len(self._spec.features),
            "cells": sum(part["cells"] for part in _parts(found)),
            "mismatches": sum(part["mismatches"] for part in _parts(found)),
            "source": extent.report(self._source),
            **found,
            "seconds": round(time.monotonic() - self._started),
        }

    def _dbt(self, url: str, engine: str) -> Dbt:
        return Dbt(url, self._folder / "dbt", engine=engine)

    def _sql(self, duckdb: Warehouse, extent: sources.Extent) -> dict[str, Any]:
        self._say("DuckDB with SQL")
        url = f"duckdb:///{self._folder / 'sql.duckdb'}"
        with_sql = open_warehouse(url)
        with with_sql.session():
            pass
        sources.copy_raw(duckdb, with_sql)
        self._dbt(url, SQL).build()
        return self._compared(duckdb, with_sql, extent)

    def _compared(self, one: Warehouse, other: Warehouse, extent: sources.Extent) -> dict[str, Any]:
        """Every row of two warehouses, some days at a time."""
        found = Comparison(self._spec.names, self._tolerances)
        since = extent.since
        while since < extent.until:
            until = since + timedelta(days=_COMPARED_DAYS)
            found.add(*(self._features(warehouse, since, until) for warehouse in (one, other)))
            since = until
        self._say(f"  {found.rows:,} rows compared, {found.mismatches} mismatches")
        return found.report()

    def _features(self, warehouse: Warehouse, since: datetime, until: datetime) -> Any:
        return warehouse.query_arrow(
            f"select transaction_id, {', '.join(self._spec.names)} from {TRANSACTION_FEATURES} "
            "where event_time >= :since and event_time < :until",
            since=since,
            until=until,
        )

    def _in_pieces(self, warehouse: Warehouse, dbt: Dbt, pieces: Sequence[Range]) -> dict[str, Any]:
        """Empty the days of the pieces, build them piece by piece, and compare with the run over everything."""
        self._keep_full_run(warehouse)
        for since, until in pieces:
            warehouse.execute(
                f"delete from {TRANSACTION_FEATURES} where event_time >= :since and event_time < :until",
                since=since,
                until=until,
            )
        for since, until in pieces:
            self._say(f"{warehouse.dialect}: {since:%Y-%m-%d} to {until:%Y-%m-%d} on its own")
            dbt.build(since, until)
        names = [f"{since:%Y-%m-%d}/{until:%Y-%m-%d}" for since, until in pieces]
        return {"pieces": names, **self._unchanged(warehouse)}

    def _again(self, warehouse: Warehouse, dbt: Dbt, piece: Range) -> dict[str, Any]:
        self._say(f"{warehouse.dialect}: {piece[0]:%Y-%m-%d} once more")
        dbt.build(*piece)
        return self._unchanged(warehouse)

    def _keep_full_run(self, warehouse: Warehouse) -> None:
        if not warehouse.exists(FULL_RUN):
            warehouse.execute(f"create table {FULL_RUN} as select * from {TRANSACTION_FEATURES}")

    def _unchanged(self, warehouse: Warehouse) -> dict[str, Any]:
        """The feature table against the copy of the full run, in the database: every cell, no tolerance."""
        names = self._spec.names
        differ = ", ".join(f"count(*) filter (where a.{name} is distinct from b.{name}) as {name}" for name in names)
        (row,) = warehouse.query_arrow(
            "select count(*) as rows_found, "
            "count(*) filter (where a.transaction_id is null or b.transaction_id is null) as rows_in_one_only, "
            f"{' + '.join(f'count(a.{name})' for name in names)} as filled, {differ} from {TRANSACTION_FEATURES} as a "
            f"full join {FULL_RUN} as b on b.transaction_id = a.transaction_id and b.event_time = a.event_time"
        ).to_pylist()
        found = Comparison(names, rows=row["rows_found"] - row["rows_in_one_only"])
        found.rows_in_one_only, found.values = row["rows_in_one_only"], row["filled"]
        for name in names:
            if row[name] > 0:
                found.differing[name] = row[name]
        self._say(f"  {found.mismatches} mismatches")
        return found.report()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.0f} s  {text}", file=sys.stderr, flush=True)


def _parts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Every comparison in the figures."""
    if "mismatches" in found:
        return [found]
    inner = [value for value in found.values() if isinstance(value, dict)]
    inner += [item for value in found.values() if isinstance(value, list) for item in value]
    return [part for value in inner for part in _parts(value)]


def _pieces(extent: sources.Extent) -> list[Range]:
    """The whole stretch in uneven pieces of days, the last one first."""
    days = (extent.until - extent.since).days
    cuts = sorted({0, *(round(days * share) for share in _CUTS), days})
    bounds = [extent.since + timedelta(days=cut) for cut in cuts]
    return list(pairwise(bounds))[::-1]


def _single_days(extent: sources.Extent) -> list[Range]:
    """The second day, one in the middle and the last one."""
    days = (extent.until - extent.since).days
    starts = [extent.since + timedelta(days=day) for day in sorted({min(1, days - 1), days // 2, days - 1})]
    return [(start, start + timedelta(days=1)) for start in starts]


if __name__ == "__main__":
    clean_up_when_terminated()
    sys.exit(main())
