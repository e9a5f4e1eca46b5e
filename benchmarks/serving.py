"""What a decision costs, end to end over HTTP: state, features, model, reasons, durable record.

    python benchmarks/serving.py                            # the handbook's file, or 200,000 simulated payments
    python benchmarks/serving.py transactions.parquet --mapping NAME
    python benchmarks/serving.py --quick                    # simulated, small: does it work

A model is trained on what was known 30 days before the data ends; the payments after that are sent in time order, by
another process, to the Bento of that model. The baseline is benchmarks/bare_service.py: the same booster in FastAPI on
uvicorn, on ready-made features, run by XGBoost; and once more as the compiled graph that our service runs. Each has one
worker; runs alternate, so that a noisy machine hits all.

Prints progress on stderr and one JSON object on stdout:

  cpu_ms_per_request        CPU of the service per payment at saturation, delivery to the ledger included
  p50_ms, p99_ms            of one client sending one payment after the other
  p99_ms_at_60_percent      of open-loop load at 60 % of saturation: waiting for one's turn counts
  requests_per_s            at saturation, 32 connections; baseline_requests_per_s is the bare service's
  throughput_ratio          of the two, median over the rounds; compiled_ratio over the bare service with the graph
  batch_rows_per_s_per_core payments per second of CPU through /score_batch, delivery to the ledger included;
                            ..._answered: until they are answered and durable, measured while the ledger takes nothing
  history_ratio             throughput with the whole history in the online store, over that with a hundredth of it
  soak                      requests, megabytes of memory after a fifth and at the end, growth in percent
  errors                    answers that were no success, over all runs; the exit code is 1 with any
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import builds, sources
from benchmarks.load import Load, run_load
from fraud_pipelines import tables
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.bento import build_bento
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.contenders import assembled, fit_member, unweighed
from fraud_pipelines.models.folds import learning_rows
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.policy import Thresholds
from fraud_pipelines.models.serve import running_service
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.models.training_set import build_training_set
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.warehouse_state import read_state
from fraud_pipelines.settings import PROJECT_ROOT, Settings
from fraud_pipelines.warehouse import Warehouse, open_warehouse

SIMULATED, QUICK = 200_000, 8_000
SERVED_DAYS = 30
CONNECTIONS = 32
_KEY = hashlib.sha256(b"benchmark").hexdigest()  # stands in for a secret: it protects nobody
_OPTIONAL = (
    "category",
    "channel",
    "country",
    "device_id",
    "home_latitude",
    "home_longitude",
    "merchant_latitude",
    "merchant_longitude",
)


@dataclass(frozen=True)
class Size:
    """How much is sent."""

    single: int = 3_000
    saturation: int = 8_000
    pairs: int = 3  # of runs at saturation; so many, too, of batches, and with each history
    rate_seconds: float = 15.0
    batches: int = 8
    batch_rows: int = 5_000
    soak: int = 200_000
    history_times: int = 100


QUICK_SIZE = Size(200, 600, 1, 2.0, 2, 1_000, 3_000, 5)


def main(given: list[str] | None = None) -> int:
    """Measure, and print the figures; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "transactions", type=Path, nargs="?", help="file or folder; default: the handbook's, where it is"
    )
    parser.add_argument("--mapping", default="handbook", help="how the file is read")
    parser.add_argument("--quick", action="store_true", help="simulated, small")
    parser.add_argument("--soak", type=int, help=f"requests of the soak; default {Size.soak}, 0 leaves it out")
    arguments = parser.parse_args(given)
    size = QUICK_SIZE if arguments.quick else Size()
    if arguments.soak is not None:
        size = replace(size, soak=arguments.soak)
    source = sources.choose(arguments.transactions, arguments.mapping, QUICK if arguments.quick else None, SIMULATED)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    builds.clean_up_when_terminated()
    with tempfile.TemporaryDirectory(prefix="fraud-serving-") as folder:
        figures = Benchmark(Path(folder), source, size, say).run()
    figures["seconds"] = round(time.monotonic() - started)
    print(json.dumps(figures, indent=2))
    return 1 if figures["errors"] else 0


class Benchmark:
    """One run in a folder of its own."""

    def __init__(self, folder: Path, source: sources.Source, size: Size, say: Any) -> None:
        self.folder, self.source, self.size, self.say = folder, source, size, say
        self.errors = 0
        for name in [name for name in os.environ if name.startswith("FRAUD_")]:
            del os.environ[name]
        # A month is sent in minutes: the online store is as old as the payments, not as the clock says.
        os.environ["FRAUD_FEATURES_MAX_AGE_HOURS"] = "1000000"
        self.settings = Settings(_env_file=None, home=folder / "home", token_key=_KEY)  # type: ignore[call-arg]

    def run(self) -> dict[str, Any]:
        """Every figure."""
        self.say(f"ingesting {self.source}")
        url = f"duckdb:///{self.folder / 'warehouse.duckdb'}"
        extent = sources.load(self.source, url, self.folder)
        self.say(f"{extent.transactions:,} payments: features")
        builds.build(url, self.folder / "dbt")
        warehouse = open_warehouse(url)
        cutoff = extent.until - timedelta(days=SERVED_DAYS)
        self.say(f"training on what was known on {cutoff:%Y-%m-%d}")
        bundle = trained(warehouse, extent.since, cutoff)
        saved = bundle.save(self.folder / "bundle")
        built = build_bento(saved, "1", bentoml_home=self.settings.bentoml_home)
        self.fill(warehouse, cutoff, bundle)
        payments = Payments(warehouse, cutoff, self.folder)
        figures: dict[str, Any] = {}
        bundled = self.folder / "bundle"
        with (
            bare(bundled / "boosted_trees.ubj") as bare_port,
            bare(bundled / "model.onnx") as compiled_port,
            self.service(built) as service,
        ):
            features = payments.features(bundle, self.size.saturation)
            self.say("warming up")
            service.load(payments.next(1_000), CONNECTIONS)
            for port in (bare_port, compiled_port):
                self.take(run_load(port, "/score", features, connections=CONNECTIONS))
            self.say("one client")
            alone = self.take(service.load(payments.next(self.size.single), 1))
            figures |= {"p50_ms": _short(alone.percentile(50)), "p99_ms": _short(alone.percentile(99))}
            ours, bares, graphs, cpu = [], [], [], []
            for _ in range(self.size.pairs):
                before = service.cpu_seconds()
                found = self.take(service.load(payments.next(self.size.saturation), CONNECTIONS))
                service.drain()
                cpu.append(1000 * (service.cpu_seconds() - before) / self.size.saturation)
                ours.append(found.requests_per_s)
                bares.append(self.take(run_load(bare_port, "/score", features, connections=CONNECTIONS)).requests_per_s)
                found = self.take(run_load(compiled_port, "/score", features, connections=CONNECTIONS))
                graphs.append(found.requests_per_s)
                self.say(
                    f"  {ours[-1]:.0f} payments/s at {cpu[-1]:.2f} ms CPU each; bare service {bares[-1]:.0f}, "
                    f"with the graph {graphs[-1]:.0f}"
                )
            saturation = statistics.median(ours)
            figures |= {
                "cpu_ms_per_request": _short(statistics.median(cpu)),
                "requests_per_s": round(saturation),
                "baseline_requests_per_s": round(statistics.median(bares)),
                "throughput_ratio": _short(statistics.median(a / b for a, b in zip(ours, bares, strict=True))),
                "compiled_ratio": _short(statistics.median(a / b for a, b in zip(ours, graphs, strict=True))),
            }
            rate = 0.6 * saturation
            self.say(f"60 % of saturation: {rate:.0f} payments/s")
            found = self.take(service.load(payments.next(int(rate * self.size.rate_seconds)), 64, per_second=rate))
            figures["p99_ms_at_60_percent"] = _short(found.percentile(99))
            figures["p50_ms_at_60_percent"] = _short(found.percentile(50))
            self.say("batches")
            figures |= self.batches(service, payments)
            if self.size.soak:
                figures["soak"] = self.soak(service, payments)
        self.say(f"{self.size.history_times} times the history")
        figures["history_ratio"] = self.history(built, payments)
        return {**figures, "errors": self.errors, "source": extent.report(self.source), "cpus": os.cpu_count()}

    def fill(self, warehouse: Warehouse, as_of: datetime, bundle: Bundle) -> None:
        """Push the history into the online store, as operations/online_state does."""
        store = open_online_store(self.settings.online_store_url, spec=bundle.spec)
        try:
            self.state = read_state(warehouse, bundle.spec, as_of)
            self.as_of, self.spec = as_of, bundle.spec
            store.rebuild(*self.state, as_of)
        finally:
            store.close()

    def history(self, built: Any, payments: Payments) -> float:
        """Throughput with the whole history in the online store, over that with one row in so many."""
        found = {}
        for share in (self.size.history_times, 1):
            url = f"sqlite:///{self.folder / f'history_{share}.sqlite'}"
            store = open_online_store(url, spec=self.spec)
            try:
                store.rebuild(*(table.take(list(range(0, len(table), share))) for table in self.state), self.as_of)
            finally:
                store.close()
            with self.service(built, online_store_url=url) as service:
                service.load(payments.next(self.size.saturation), CONNECTIONS)
                runs = [
                    self.take(service.load(payments.next(self.size.saturation), CONNECTIONS))
                    for _ in range(self.size.pairs)
                ]
            found[share] = statistics.median(run.requests_per_s for run in runs)
            self.say(f"  1 row in {share} of the history: {found[share]:.0f} payments/s")
        return _short(found[1] / found[self.size.history_times])

    def batches(self, service: Service, payments: Payments) -> dict[str, float]:
        """Through /score_batch, in turns: while decisions go on to the ledger, and while they have to wait."""
        rows = self.size.batches * self.size.batch_rows
        per_core, answered, per_second = [], [], []
        for _ in range(self.size.pairs):
            before, begun = service.cpu_seconds(), time.perf_counter()
            self.errors += service.batches(payments, self.size.batches, self.size.batch_rows)
            per_second.append(rows / (time.perf_counter() - begun))
            service.drain()
            per_core.append(rows / (service.cpu_seconds() - before))
            with _locked(self.settings.ledger_url):
                before = service.cpu_seconds()
                self.errors += service.batches(payments, self.size.batches, self.size.batch_rows)
                answered.append(rows / (service.cpu_seconds() - before))
            service.drain()
            self.say(
                f"  {per_second[-1]:.0f} payments/s, {per_core[-1]:.0f} per second of CPU, {answered[-1]:.0f} of them "
                "without the ledger"
            )
        return {
            "batch_rows_per_s_per_core": round(statistics.median(per_core)),
            "batch_rows_per_s_per_core_answered": round(statistics.median(answered)),
            "batch_rows_per_s": round(statistics.median(per_second)),
        }

    def soak(self, service: Service, payments: Payments) -> dict[str, float]:
        """Memory over many requests."""
        self.say(f"soak: {self.size.soak:,} payments")
        parts, memory = 5, []
        for part in range(parts):
            found = self.take(service.load(payments.next(self.size.soak // parts), CONNECTIONS))
            service.drain()
            memory.append(service.memory_mib())
            self.say(f"  {(part + 1) * self.size.soak // parts:,}: {found.requests_per_s:.0f}/s, {memory[-1]:.0f} MiB")
        return {
            "requests": self.size.soak,
            "mib_after_a_fifth": round(memory[0]),
            "mib_at_the_end": round(memory[-1]),
            "growth_percent": _short(100 * (memory[-1] / memory[0] - 1)),
        }

    @contextlib.contextmanager
    def service(self, built: Any, **settings: str) -> Iterator[Service]:
        """The Bento, running."""
        with running_service(self.settings.model_copy(update=settings), bento=built) as url:
            yield Service(url)

    def take(self, load: Load) -> Load:
        """Count a run's errors."""
        self.errors += load.errors
        return load


class Service:
    """A running service under test."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rsplit(":", 1)[1])
        self._client = httpx.Client(base_url=url, timeout=120)
        pids = {c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == self._port and c.pid}
        mains = [psutil.Process(pid) for pid in pids]
        self._processes = {p.pid: p for main in mains for p in (main, *main.children(recursive=True))}

    def load(self, bodies: Path, connections: int, per_second: float | None = None) -> Load:
        """Send payments; see run_load."""
        return run_load(self._port, "/score", bodies, connections=connections, per_second=per_second)

    def batches(self, payments: Payments, count: int, rows: int) -> int:
        """Send batches; how many rows were refused."""
        refused = 0
        for _ in range(count):
            body = b'{"transactions":[%b]}' % b",".join(payments.next(rows).read_bytes().splitlines())
            answer = self._client.post("/score_batch", content=body, headers={"Content-Type": "application/json"})
            refused += rows if answer.status_code != 200 else answer.json()["refused"]
        return refused

    def drain(self) -> None:
        """Wait until the ledger has everything."""
        while self._client.get("/health").json()["decision_log"]["pending_records"]:
            time.sleep(0.25)  # to ask takes a millisecond of its CPU

    def cpu_seconds(self) -> float:
        """CPU time of the service so far, all its processes."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes.values())

    def memory_mib(self) -> float:
        """Memory of the service, all its processes; pages they share count once."""
        return sum(process.memory_full_info().uss for process in self._processes.values()) / 2**20


class Payments:
    """Payments of the warehouse after a moment, in time order; when they are used up, again a stretch later."""

    def __init__(self, warehouse: Warehouse, since: datetime, folder: Path) -> None:
        self._warehouse, self._since, self._folder = warehouse, since, folder
        rows = warehouse.query_arrow(
            f"select transaction_id, event_time, card_id, merchant_id, amount_minor, currency, {', '.join(_OPTIONAL)} "
            f"from {tables.TRANSACTIONS.name} where event_time >= :since order by event_time, transaction_id",
            since=since,
        )
        self._rows = rows.to_pylist()
        self._length = self._rows[-1]["event_time"] - since + timedelta(days=1)
        self._given = 0

    def next(self, count: int) -> Path:
        """A file with the next payments, one body per line."""
        lines = []
        for number in range(self._given, self._given + count):
            turn, place = divmod(number, len(self._rows))
            row = self._rows[place]
            body = {
                **{name: row[name] for name in ("card_id", "merchant_id", "currency")},
                **{name: row[name] for name in _OPTIONAL if row[name] is not None},
                "transaction_id": f"{row['transaction_id']}-{turn}",
                "event_time": (row["event_time"] + turn * self._length).isoformat() + "Z",
                "amount": f"{row['amount_minor'] / 100:.2f}",
            }
            lines.append(json.dumps(body))
        self._given += count
        path = self._folder / "bodies.jsonl"
        path.write_text("\n".join(lines))
        return path

    def features(self, bundle: Bundle, count: int) -> Path:
        """A file with ready-made features of the first payments, for the bare service."""
        names = ", ".join(bundle.feature_names)
        rows = self._warehouse.query_arrow(
            f"select {names} from {tables.TRANSACTION_FEATURES} where event_time >= :since "
            f"order by event_time, transaction_id limit {count}",
            since=self._since,
        )
        path = self._folder / "features.jsonl"
        path.write_text("\n".join(json.dumps({"features": list(row.values())}) for row in rows.to_pylist()))
        return path


def trained(warehouse: Warehouse, since: datetime, cutoff: datetime) -> Bundle:
    """Boosted trees at the defaults of a training, on what was known at a moment; one payment in 100 is reviewed."""
    spec, learner = load_spec(), LearnerParameters()
    days = min(TimeSplit.train_days, (cutoff - since).days - 9)
    training_set = build_training_set(warehouse, spec, TimeSplit(cutoff, train_days=days, test_days=1))
    rows = learning_rows(training_set)
    features = to_matrix(rows, spec.names)
    member = fit_member("xgboost", features, rows["is_fraud"].to_numpy(bool), learner)
    model = assembled([member], unweighed(learner))
    review, block = np.quantile(1 / (1 + np.exp(-model.margin(features))), [0.99, 0.998])
    return Bundle(
        model=model,
        contender="xgboost",
        weights={"xgboost": 1.0},
        booster_bytes=member.booster_bytes,
        spec_text=spec.text,
        feature_names=tuple(spec.names),
        spec_hash=spec.hash,
        thresholds=Thresholds(float(review), float(block)),
        split=training_set.split,
        data_hash=training_set.data_hash,
        parameters=learner.as_dict(),
        metrics={},
        row_counts={"train_rows": len(rows)},
        reference=rows.loc[:999, list(spec.names)].astype(np.float64),
    )


@contextlib.contextmanager
def bare(model: Path) -> Iterator[int]:
    """The bare service, running; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.bare_service:app", "--port", str(port), "--no-access-log"]
    environment = {**os.environ, "MODEL": str(model), "PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen([*command, "--log-level", "warning"], env=environment, cwd=PROJECT_ROOT)
    try:
        with httpx.Client() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    client.get(f"http://127.0.0.1:{port}/docs")
                    break
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _locked(ledger_url: str) -> Iterator[None]:
    """Hold the only place for a writer of a SQLite ledger."""
    with contextlib.closing(sqlite3.connect(ledger_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("pragma busy_timeout = 30000")
        connection.execute("begin immediate")
        yield
        connection.execute("rollback")


def _short(value: float) -> float:
    return round(float(value), 3)


if __name__ == "__main__":
    sys.exit(main())
