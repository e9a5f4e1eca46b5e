"""The floor under every build: the compiled kernels alone, on arrays that are in memory already.

What a build takes beyond it is reading, sorting, joining and writing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import duckdb

from benchmarks.builds import STAGED
from fraud_pipelines.features.engine import EntityEngine, OwnEngine
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.features.warehouse_build import feature_table

PASSES = 3


def kernel_cpu_s(path: str, spec: FeatureSpec) -> float:
    """CPU seconds of the kernels for every feature of every transaction of a DuckDB warehouse; the best of three.

    The build's own reading prepares the arrays, untimed; then the kernels run over them again.
    """
    calls = _recorded(path, spec)
    passes = []
    for _ in range(PASSES):
        started = time.process_time()
        for call in calls:
            call()
        passes.append(time.process_time() - started)
    return min(passes)


def _recorded(path: str, spec: FeatureSpec) -> list[Callable[[], Any]]:
    """Every call of the kernels that a full build makes, with its arrays, to be made again."""
    calls: list[Callable[[], Any]] = []

    def recording(compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(lambda: compute(*arguments))
            return compute(*arguments)

        return call

    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(duckdb.connect(path, read_only=True))
        for engine in (EntityEngine, OwnEngine):
            stack.enter_context(mock.patch.object(engine, "compute", recording(engine.compute)))
        for _ in feature_table(connection, *STAGED, spec, None, None):
            pass
    return calls
