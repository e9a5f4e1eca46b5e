"""Running the champion's Bento: `bentoml serve` as a child process that never outlives us."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fraud_pipelines.errors import NoChampion, RetryableError, SettingInvalid
from fraud_pipelines.models.bento import BuiltBento, bento_of
from fraud_pipelines.settings import TELEMETRY_OFF, Settings

# A cold start imports BentoML, SQLAlchemy and XGBoost: about 5 s on a quiet machine, several times that on a busy one.
READY_WITHIN_SECONDS = 120.0
STOPPED_WITHIN_SECONDS = 20.0
# What a service reads, besides its two secrets; the warehouse and the registry are none of its business.
SERVING_SETTINGS = (
    *("env", "home", "ledger_url", "online_store_url", "serving_workers", "decision_log_bytes"),
    *("fallback", "features_max_age_hours", "model_review_days", "rationale_url", "rationale_model"),
)


def champion_bento(settings: Settings, *, version: str | None = None) -> BuiltBento:
    """The Bento of `version`, or of the version the ledger names champion.

    Raises:
        NoChampion: nothing was promoted, or the version has no Bento.
    """
    if version is None:
        from fraud_pipelines.ledger import open_ledger

        version = open_ledger(settings.ledger_url).champion_at()
        if version is None:
            raise NoChampion("No model version has been promoted, so there is nothing to serve. Run: fraud train")
    return bento_of(version, bentoml_home=settings.bentoml_home)


@contextmanager
def running_service(
    settings: Settings,
    *,
    version: str | None = None,
    bento: BuiltBento | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    log: Path | None = None,
) -> Iterator[str]:
    """Serve a Bento for the length of the block; yields the base URL once the service is ready.

    Args:
        version, bento: what to serve; the champion when neither is given.
        port: None takes a free one.
        log: file that gets the service's output; None means <home>/logs/serving.log.
    Raises:
        NoChampion: there is no such Bento.
        SettingInvalid: the port is taken.
        RetryableError: the service ended or was not ready in time; the end of its log is in the message.
    """
    chosen = bento or champion_bento(settings, version=version)
    port = _free_port(host) if port is None else port
    log = log or settings.home / "logs" / "serving.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = start_service(settings, chosen, host=host, port=port, output=output)
        try:
            _wait_until_ready(process, f"http://{host}:{port}", log)
            yield f"http://{host}:{port}"
        finally:
            stop_service(process)


def serve(settings: Settings, *, version: str | None = None, host: str = "127.0.0.1", port: int | None = None) -> int:
    """Serve until SIGINT or SIGTERM, output on the terminal; returns the service's exit code, 0 when we stopped it.

    Raises:
        NoChampion: there is nothing to serve.
        SettingInvalid: the port is taken.
    """
    bento = champion_bento(settings, version=version)

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    # SIGINT, too: a process that a script starts in the background inherits it as ignored.
    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        process = start_service(settings, bento, host=host, port=port or settings.serving_port)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            stop_service(process)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def start_service(
    settings: Settings, bento: BuiltBento, *, host: str, port: int, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start `bentoml serve` on a Bento; it knows of this installation only the stores it needs.

    Raises:
        SettingInvalid: the port is taken.
    """
    with socket.socket() as probe:
        # As the service's own socket will: a port that a stopped service still holds in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingInvalid(
                f"The service cannot listen on {host}:{port} ({error.strerror}). "
                "Stop what does, or choose another: fraud serve --port <number>"
            ) from None
    return subprocess.Popen(
        [sys.executable, "-m", "bentoml", "serve", bento.tag, "--host", host, "--port", str(port)],
        cwd=bento.path,
        env=service_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        # Ctrl-C in a terminal reaches the whole group: we alone receive it, and stop the service in order.
        start_new_session=True,
    )


def service_environment(settings: Settings) -> dict[str, str]:
    """The environment of a service: this process's own, with what `settings` say of serving and of nothing else."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    passed = {f"FRAUD_{name.upper()}": str(getattr(settings, name)) for name in SERVING_SETTINGS}
    if settings.rationale_key is not None:
        passed["FRAUD_RATIONALE_KEY"] = settings.rationale_key.get_secret_value()
    return {
        **own,
        **TELEMETRY_OFF,
        **passed,
        "BENTOML_HOME": str(settings.bentoml_home),
        "FRAUD_TOKEN_KEY": settings.card_token_key().decode(),
    }


def stop_service(process: subprocess.Popen[bytes]) -> None:
    """Stop the service and every worker: asked first, forced after STOPPED_WITHIN_SECONDS."""
    import psutil  # type: ignore[import-untyped]

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # Workers are sessions of their own: they survive their supervisor when it is killed.
    _, alive = psutil.wait_procs(family, timeout=5)
    for worker in alive:
        worker.kill()
    psutil.wait_procs(alive, timeout=5)


def _wait_until_ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    import httpx

    deadline = time.monotonic() + READY_WITHIN_SECONDS
    # One client: to make one takes longer than to ask, and takes it from the service that starts.
    with httpx.Client(base_url=base_url, timeout=5) as client:
        while True:
            with suppress(httpx.TransportError):
                if client.get("/readyz").is_success:
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                state = f"ended with exit code {process.returncode}" if process.poll() is not None else "is not ready"
                last_words = log.read_text(errors="replace")[-2000:]
                raise RetryableError(f"The scoring service at {base_url} {state}. The end of {log}:\n{last_words}")
            time.sleep(0.1)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
