"""A load generator: sends prepared requests over keep-alive connections and notes how long each answer took.

Run as a process of its own (`python -m benchmarks.load`), so that its work is not taken for the service's. It speaks
just enough HTTP/1.1 for answers with a Content-Length, because a full client costs more than the service under test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop


@dataclass(frozen=True)
class Load:
    """What a load run found: seconds of the whole run, milliseconds of each answer in order of sending, statuses."""

    seconds: float
    milliseconds: np.ndarray
    statuses: dict[str, int]

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds within which so many percent were answered."""
        return float(np.percentile(self.milliseconds, percent))

    @property
    def errors(self) -> int:
        """Answers that are no success, and connections that broke."""
        return sum(count for status, count in self.statuses.items() if status != "200")


def run_load(
    port: int, path: str, bodies: Path, *, connections: int, per_second: float | None = None, headers: str = ""
) -> Load:
    """Send every line of a file as one request, in order, from another process.

    Args:
        bodies: one JSON body per line.
        connections: at most so many requests at a time.
        per_second: start so many requests per second, whether or not earlier ones were answered, and count the time a
            request waited for its turn; None sends each as soon as a connection is free.
    """
    command = [sys.executable, "-m", "benchmarks.load", str(port), path, str(bodies), "--connections", str(connections)]
    if per_second is not None:
        command += ["--per-second", str(per_second)]
    if headers:
        command += ["--headers", headers]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Load(found["seconds"], np.array(found["milliseconds"]), found["statuses"])


class _Connection(asyncio.Protocol):
    """One keep-alive connection; asks for the next request as soon as an answer is complete."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = bytearray()
        self._expected = -1
        self._begun = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._expected < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            start = head.find(b"content-length:") + 15
            self._expected = end + 4 + int(head[start : head.find(b"\r", start) if b"\r" in head[start:] else None])
            self._status = head[9:12].decode()
        if len(self._received) >= self._expected:
            self._run.answered(self._begun, self._status)
            self._received.clear()
            self._expected = -1
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._expected >= 0 or self._begun:
            self._run.answered(self._begun, "lost")
        self._run.free()

    def _next(self) -> None:
        self._begun = 0.0
        request = self._run.next(self)
        if request is None:
            self._transport.close()
        elif request:
            self.send(*request)

    def send(self, due: float, request: bytes) -> None:
        """Send a request whose turn was at `due`."""
        self._begun = due
        self._transport.write(request)


class _Run:
    def __init__(self, requests: Iterator[bytes], per_second: float | None) -> None:
        self._requests, self._per_second = requests, per_second
        self._sent = 0
        self._open = 0
        self.milliseconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.done = asyncio.get_running_loop().create_future()
        self.started = time.perf_counter()

    def open(self) -> None:
        self._open += 1

    def free(self) -> None:
        self._open -= 1
        if not self._open and not self.done.done():
            self.done.set_result(None)

    def answered(self, begun: float, status: str) -> None:
        self.milliseconds.append((time.perf_counter() - begun) * 1000)
        self.statuses[status] += 1

    def next(self, connection: _Connection) -> tuple[float, bytes] | tuple[()] | None:
        """A request to send now; nothing yet (it is sent when its turn comes); None at the end."""
        request = next(self._requests, None)
        if request is None:
            return None
        now = time.perf_counter()
        if self._per_second is None:
            return now, request
        due = self.started + self._sent / self._per_second
        self._sent += 1
        if due <= now:
            return due, request
        asyncio.get_running_loop().call_later(due - now, connection.send, due, request)
        return ()


async def _main(port: int, path: str, bodies: Path, connections: int, per_second: float | None, headers: str) -> None:
    extra = "".join(f"{line}\r\n" for line in headers.split("|") if line)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{extra}"
    requests = [
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for body in bodies.read_bytes().splitlines()
        if body
    ]
    run = _Run(iter(requests), per_second)
    for _ in range(connections):
        run.open()
        await asyncio.get_running_loop().create_connection(lambda: _Connection(run), "127.0.0.1", port)
    await run.done
    seconds = time.perf_counter() - run.started
    print(json.dumps({"seconds": seconds, "milliseconds": run.milliseconds, "statuses": run.statuses}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send prepared requests and print how long they took, as JSON.")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path, help="file with one JSON body per line")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--per-second", type=float)
    parser.add_argument("--headers", default="", help="further header lines, separated by |")
    given = parser.parse_args()
    uvloop.install()
    asyncio.run(_main(given.port, given.path, given.bodies, given.connections, given.per_second, given.headers))
