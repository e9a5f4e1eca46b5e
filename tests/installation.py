"""An installation of its own, in a folder of its own, driven from outside as a user would: by the command `fraud`."""

import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fraud_pipelines.settings import Settings
from tests.prepared_process import run_fraud

ROOT = Path(__file__).resolve().parents[1]
# Of the fixture `demo`. `make demo` takes 90 days, which leave 55 to train on; these leave 29 and reach every stage.
DEMO_DAYS = 64


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, *, seconds: float = 180.0) -> None:
    """Wait until `url` answers; the process's own words are the message when it does not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)


@dataclass(frozen=True)
class Installation:
    """Settings, environment and command line of one installation; `output` is what made it."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    output: str = ""

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "DAGSTER_"))}
        clean.pop("BENTOML_HOME", None)
        return {**clean, "FRAUD_HOME": str(self.home), "COLUMNS": "160", "NO_COLOR": "1", **self.variables}

    @property
    def settings(self) -> Settings:
        fields = {name.removeprefix("FRAUD_").lower(): value for name, value in self.variables.items()}
        return Settings(home=self.home, **{name: fields[name] for name in fields if name in Settings.model_fields})

    @contextmanager
    def serving(self) -> Iterator[str]:
        """`fraud serve` for the length of the block; yields the base URL."""
        port, log = free_port(), self.home / "serve.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fraud_pipelines", "serve", "--port", str(port)],
                cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                wait_for(f"http://127.0.0.1:{port}/readyz", process, log)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(60)

    def run(self, *arguments: str, expect: int = 0, timeout: float = 1800, text: str | None = None) -> str:
        """Run `fraud ...`, require its exit code, return what it printed on both streams."""
        code, printed = run_fraud(arguments, folder=ROOT, environment=self.environment, text=text, timeout=timeout)
        assert code == expect, f"fraud {' '.join(arguments)} ended with {code}:\n{printed}"
        return printed

    def run_script(self, *arguments: str, expect: int = 0, timeout: float = 1800) -> str:
        """The same, from nothing: a new interpreter calls what pyproject.toml names as the script `fraud`."""
        with (ROOT / "pyproject.toml").open("rb") as file:
            module, _, function = tomllib.load(file)["project"]["scripts"]["fraud"].partition(":")
        done = subprocess.run(
            [sys.executable, "-c", f"import sys, {module}; sys.exit({module}.{function}())", *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert done.returncode == expect, f"fraud {' '.join(arguments)} ended with {done.returncode}:\n{printed}"
        return printed
