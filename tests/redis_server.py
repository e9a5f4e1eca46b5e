"""A real Redis for the tests, from the Debian package redis-server. Nothing here outlives the test session."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import redis

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
START_SECONDS = 20.0
_DATABASES = 256


class RedisServer:
    """A server on a port of this machine that writes nothing to disk; it can be stopped and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self.port = folder, port
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count()

    def fresh_url(self) -> str:
        """URL of an empty database."""
        url = f"redis://127.0.0.1:{self.port}/{next(self._numbers) % _DATABASES}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def start(self) -> None:
        """Start with no data.

        Raises:
            RuntimeError: it did not start; the message holds the server's own output.
        """
        assert PROGRAM is not None
        log = self._folder / "server.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
                    *("--save", "", "--appendonly", "no", "--databases", str(_DATABASES)),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with redis.Redis(port=self.port) as client:
                    client.ping()
                return
            except redis.RedisError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Redis did not start on port {self.port}:\n{log.read_text()}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Start a server on a free port, yield it, stop it and delete its files."""
    folder = Path(tempfile.mkdtemp(prefix="fraud-redis-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = RedisServer(folder, port)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
