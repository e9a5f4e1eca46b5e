"""A real scoring service that tests kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from fraud_pipelines.models.bento import BuiltBento
from fraud_pipelines.models.serve import start_service, stop_service
from fraud_pipelines.settings import Settings
from tests.installation import free_port

READY_SECONDS = 120


class KillableService:
    """`bentoml serve` on a port of its own, to be killed and started again on what it left behind."""

    def __init__(self, settings: Settings, bento: BuiltBento, log: Path) -> None:
        self.settings, self._bento, self.log = settings, bento, log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return once it answers."""
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Start it without waiting."""
        with self.log.open("ab") as output:
            self._process = start_service(self.settings, self._bento, host="127.0.0.1", port=self.port, output=output)

    def wait_until_up(self) -> None:
        """Return once it answers."""
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        # One client: to make one takes longer than to ask, and takes it from the service that starts.
        with httpx.Client(base_url=self.url, timeout=5) as client:
            while True:
                with suppress(httpx.TransportError):
                    if client.get("/livez").status_code == 200:
                        return
                assert self._process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-5000:]
                time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children()

    def kill_a_worker(self) -> None:
        """End one worker without a word; its supervisor starts another."""
        self.workers()[0].kill()

    def kill(self) -> None:
        """End every process without a word."""
        assert self._process is not None
        family = [psutil.Process(self._process.pid), *self.workers()]
        for member in family:
            os.kill(member.pid, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(family, timeout=10)

    def stop(self) -> None:
        """Stop it in order; again changes nothing."""
        if self._process is not None:
            stop_service(self._process)


@contextmanager
def serving(*services: KillableService) -> Iterator[None]:
    """Services started together, and stopped at the end of the block."""
    try:
        for service in services:
            service.launch()
        for service in services:
            service.wait_until_up()
        yield
    finally:
        for service in services:
            service.stop()
