"""How long a rollback takes: the command as on-call types it, on a ledger and a registry with several versions.

    python benchmarks/rollback.py             # five rollbacks
    python benchmarks/rollback.py --quick     # one

Each rollback is a process of its own. Before each, a newer version is promoted by hand; after each, ledger and registry
must name the version before. Prints progress on stderr and one JSON object on stdout:

  rollback_seconds   longest wall time of the command, start to exit; promised: under 10
  seconds            of each rollback
  versions           registered versions; nothing is trained
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.models.additive_model import AdditiveModel, Linear
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.policy import DEFAULT_THRESHOLDS
from fraud_pipelines.models.promotion import promote
from fraud_pipelines.models.registry import CHAMPION, open_registry
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.settings import PROJECT_ROOT, load_settings

ROLLBACKS = 5


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Promote and roll back, and print the figures; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one rollback")
    count = 1 if parser.parse_args(given).quick else ROLLBACKS
    with tempfile.TemporaryDirectory(prefix="fraud-rollback-") as home:
        taken = _rollbacks(Path(home), count)
    figures = {"rollback_seconds": max(taken), "seconds": taken, "versions": count + 1}
    print(json.dumps(figures, indent=2))
    return figures


def _rollbacks(home: Path, count: int) -> list[float]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    environment = {**own, "FRAUD_HOME": str(home)}
    os.environ.update(environment)
    settings = load_settings()
    ledger, registry = open_ledger(settings.ledger_url), open_registry(settings.registry_url, settings.artifacts_url)
    versions = [
        registry.register(_bundle(number).save(home / "made" / str(number)), {}, {}, {}, {})
        for number in range(count + 1)
    ]
    taken = []
    for before, newer in pairwise(versions):
        for version in (before, newer):
            promote(registry, ledger, version=version, gates=[], actor="benchmark", reason="measured", forced=True)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "fraud_pipelines", "rollback", "--reason", "measured"],
            cwd=PROJECT_ROOT, env=environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        taken.append(round(time.perf_counter() - started, 2))
        if (ledger.champion_at(), registry.version_of(CHAMPION)) != (before, before):
            raise RuntimeError(f"Expected version {before} after the rollback, found {ledger.champion_at()}.")
        print(f"version {newer} to {before} in {taken[-1]} s", file=sys.stderr, flush=True)
    return taken


def _bundle(number: int) -> Bundle:
    """A model that says the same of every payment; each number another."""
    spec = load_spec()
    nothing = np.zeros(len(spec.names), dtype=np.float32)
    return Bundle(
        model=AdditiveModel(len(spec.names), -5.0 - number, linear=Linear(*[nothing] * 5)),
        contender="logistic_regression",
        weights={"logistic_regression": 1.0, "intercept": 0.0},
        spec_text=spec.text,
        feature_names=tuple(spec.names),
        spec_hash=spec.hash,
        thresholds=DEFAULT_THRESHOLDS,
        split=TimeSplit(datetime(2026, 3, 1)),
        data_hash="0" * 64,
        parameters={},
        metrics={},
        row_counts={},
        reference=pd.DataFrame(np.zeros((1, len(spec.names))), columns=list(spec.names)),
    )


if __name__ == "__main__":
    main()
