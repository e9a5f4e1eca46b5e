"""The service over HTTP, as `fraud serve` runs it: a real `bentoml serve`, real stores, a real (tiny) model."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from fraud_pipelines.ledger import Challenge, open_ledger
from fraud_pipelines.models.bento import BuiltBento
from fraud_pipelines.models.serve import running_service, start_service, stop_service
from fraud_pipelines.raw.tokens import tokenize_card
from fraud_pipelines.settings import Settings
from tests.integration.serving.conftest import TOKEN_KEY, Service
from tests.served_models import CARD_NUMBER, constant_bundle, payment


@pytest.fixture(scope="module")
def service(service_settings: Settings, built: BuiltBento) -> Iterator[Service]:
    log = service_settings.home / "logs" / "serving.log"
    with (
        running_service(service_settings, bento=built, log=log) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield Service(client, log)


def test_a_transaction_is_decided(service: Service, built: BuiltBento):
    response = service.score(payment(transaction_id="http-1", amount="900"))
    assert response.status_code == 200
    answer = response.json()
    assert answer["transaction_id"] == "http-1"
    assert answer["decision"] == "BLOCK"
    assert 0.7 <= answer["fraud_probability"] <= 1
    assert answer["reasons"][0]["code"] == "AMOUNT"
    assert answer["reasons"][0]["words"] == "Amount of this payment"
    assert answer["model"] == {"name": "fraud-scorer", "version": "7", "bundle_digest": built.bundle_digest}
    assert answer["thresholds"] == {"review": 0.3, "block": 0.7}
    assert answer["fallback"] is None
    assert answer["processing_time_ms"] > 0
    assert abs((datetime.now(UTC) - datetime.fromisoformat(answer["decided_at"])).total_seconds()) < 60


def test_sending_it_again_gives_the_same_answer(service: Service):
    first, again = (service.score(payment(transaction_id="http-2", amount=501.5)).json() for _ in range(2))
    del first["processing_time_ms"], again["processing_time_ms"]
    assert first == again


def test_an_identifier_used_twice_is_a_conflict(service: Service):
    assert service.score(payment(transaction_id="http-3")).status_code == 200
    conflict = service.score(payment(transaction_id="http-3", amount="99"))
    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "transaction_id_reused"


def test_the_model_endpoint_names_what_decides(service: Service, built: BuiltBento):
    content = service.client.get("/model").json()
    assert content["model"]["version"] == "7"
    assert content["model"]["bundle_digest"] == built.bundle_digest
    assert "amount" in content["model"]["features"]
    assert content["fallback"] is None


def test_probes_and_metrics_answer(service: Service, built: BuiltBento):
    service.score(payment(transaction_id="http-4"))
    service.score({})
    assert service.client.get("/livez").status_code == 200
    assert service.client.get("/readyz").status_code == 200
    metrics = service.client.get("/metrics").text
    assert 'fraud_score_requests_total{decision="APPROVE",model="7",status="200"}' in metrics
    assert 'fraud_score_requests_total{decision="none",model="none",status="422"}' in metrics
    assert f'digest="{built.bundle_digest}"' in metrics
    for stage in ("features", "model", "record", "total"):
        assert f'fraud_score_latency_seconds_bucket{{le="0.002",stage="{stage}"}}' in metrics


def test_a_challenger_is_scored_beside_the_champion_and_decides_on_its_canary(
    service: Service, service_settings: Settings
):
    challenger = constant_bundle(0.0)  # REVIEW, whatever the payment is
    ledger = open_ledger(service_settings.ledger_url)
    ledger.store_bundle("8", challenger)

    def challenge(version: str | None, percent: float) -> None:
        digest = challenger.digest if version else None
        ledger.record_challenge(Challenge(version, digest, percent, "test", "test"))
        _until(lambda: service.client.get("/health").json()["challenger"]["canary_percent"] == percent)
        _until(lambda: service.client.get("/health").json()["challenger"]["is_compared"] == (version is not None))

    try:
        challenge("8", 0.0)
        answer = service.score(payment(transaction_id="http-shadow-1")).json()
        assert (answer["decision"], answer["model"]["version"]) == ("APPROVE", "7")
        challenge("8", 100.0)
        described = service.client.get("/model").json()
        assert (described["model"]["version"], described["challenger"]["version"]) == ("7", "8")
        answer = service.score(payment(transaction_id="http-shadow-2")).json()
        assert (answer["decision"], answer["model"]["bundle_digest"]) == ("REVIEW", challenger.digest)
        explained = service.client.post("/explain", json={"transaction_id": "http-shadow-2"}).json()
        assert explained["model"]["version"] == "8"
        range_ = (challenger.digest, datetime(2025, 3, 1), datetime(2025, 3, 2))
        _until(lambda: len(ledger.shadow_decisions(*range_)) == 2)
        assert {
            (row.transaction_id, row.champion_decision, row.challenger_decision, row.is_canary)
            for row in ledger.shadow_decisions(*range_)
        } == {("http-shadow-1", "APPROVE", "REVIEW", False), ("http-shadow-2", "APPROVE", "REVIEW", True)}
        assert 'fraud_shadow_total{outcome="flip"} 2.0' in service.client.get("/metrics").text
    finally:
        challenge(None, 0.0)
    assert service.score(payment(transaction_id="http-shadow-3")).json()["model"]["version"] == "7"


def _until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (payment(amount="a lot"), 422, "invalid_transaction", "amount"),
        (payment(event_time="1825-03-01T12:00:00Z"), 422, "invalid_transaction", "event_time"),
        (payment(merchant_id="m" * 10_000), 422, "invalid_transaction", "merchant_id"),
        (payment(unknown=1), 422, "invalid_transaction", "unknown"),
        # The body is the transaction itself, not wrapped in a name.
        ({"transaction": payment()}, 422, "invalid_transaction", "transaction_id"),
        ([payment()], 422, "invalid_transaction", None),
        ({}, 422, "invalid_transaction", "transaction_id"),
    ],
)
def test_what_cannot_be_meant_is_answered_with_the_field(service: Service, body, status, code, field):
    response = service.score(body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error.get("field")) == (status, code, field)
    assert error["message"]
    assert error["next"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{nonsense", {"content-type": "application/json"}, 400, "malformed_json"),
        (b"\xff\xfe", {"content-type": "application/json"}, 400, "malformed_json"),
        (json.dumps(payment()).encode()[:-1], {"content-type": "application/json"}, 400, "malformed_json"),
        (b"[" * 30_000, {"content-type": "application/json"}, 400, "malformed_json"),
        (b" " * 100_000, {"content-type": "application/json"}, 413, "body_too_large"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "media_type_not_supported"),
    ],
)
def test_what_is_not_json_is_refused(service: Service, content, headers, status, code):
    response = service.client.post("/score", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-0.01"])
def test_numbers_that_are_none_are_refused(service: Service, value):
    body = json.dumps(payment(amount=0)).replace('"amount": 0', f'"amount": {value}')
    response = service.client.post("/score", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "amount")


def test_unknown_paths_and_methods_have_the_error_shape(service: Service):
    assert service.client.get("/nothing").json()["error"]["code"] == "not_found"
    assert service.client.get("/score").json()["error"]["code"] == "method_not_allowed"


def test_the_openapi_document_shows_the_transaction_itself(service: Service):
    document = service.client.get("/docs.json").json()
    schema = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(payment()) <= set(schema["required"])
    assert schema["additionalProperties"] is False
    assert schema["properties"]["amount"]["examples"] == ["12.34"]
    responses = document["paths"]["/score"]["post"]["responses"]
    assert set(responses) == {"200", "400", "409", "413", "415", "422", "500", "503", "504"}
    referred = responses["422"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    shape = document["components"]["schemas"][referred]["properties"]["error"]
    error = service.score({}).json()["error"]
    assert set(shape["required"]) <= set(error) <= set(shape["properties"])
    assert "/model" in document["paths"]


def test_no_card_number_reaches_response_log_ledger_or_store(service: Service, service_settings: Settings):
    grouped = "4000 0012 3456 7899"
    bodies = [
        payment(transaction_id="pan-1"),
        payment(transaction_id="pan-2", card_id=grouped),
        payment(transaction_id="pan-3", merchant_id=CARD_NUMBER),
        payment(transaction_id="pan-4", amount=f"x{CARD_NUMBER}"),
        payment(transaction_id="pan-5", **{CARD_NUMBER: CARD_NUMBER}),
        {"card_id": [CARD_NUMBER]},
    ]
    responses = [service.score(body) for body in bodies]
    responses.append(
        service.client.post("/score", content=f"{{{CARD_NUMBER}".encode(), headers={"content-type": "application/json"})
    )
    assert [response.status_code for response in responses] == [200, 200, 422, 422, 422, 422, 400]
    assert not [response for response in responses if CARD_NUMBER in response.text or grouped in response.text]
    token = tokenize_card(CARD_NUMBER, TOKEN_KEY.encode())
    ledger = open_ledger(service_settings.ledger_url)
    assert {ledger.decision(name).card_id for name in ("pan-1", "pan-2")} == {token}
    written = [file for file in service_settings.home.rglob("*") if file.is_file()]
    assert service.log in written
    for file in written:
        content = file.read_bytes()
        for number in (CARD_NUMBER, grouped):
            assert number.encode() not in content, file


def test_the_log_holds_no_line_per_request(service: Service):
    before = len(service.log.read_text().splitlines())
    for number in range(20):
        service.score(payment(transaction_id=f"log-{number}"))
        service.score({})
    assert len(service.log.read_text().splitlines()) == before


def test_an_answered_decision_survives_a_kill_of_every_process(service_settings: Settings, built: BuiltBento):
    body = payment(transaction_id="killed", amount="700")
    log = service_settings.home / "logs" / "killed.log"
    with log.open("wb") as output:
        process = start_service(service_settings, built, host="127.0.0.1", port=free_port(), output=output)
        try:
            url = f"http://127.0.0.1:{process.args[process.args.index('--port') + 1]}"
            wait_until_ready(url)
            first = httpx.post(f"{url}/score", json=body, timeout=30).json()
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for member in family:
                os.kill(member.pid, signal.SIGKILL)
            process.wait()
            psutil.wait_procs(family, timeout=10)
        finally:
            stop_service(process)
    with running_service(service_settings, bento=built) as url:
        again = httpx.post(f"{url}/score", json=body, timeout=30).json()
    del first["processing_time_ms"], again["processing_time_ms"]
    assert first == again


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_fraud_serve_takes_its_service_with_it(service_settings: Settings, built: BuiltBento, sent: signal.Signals):
    """The blocking form, in a process of its own, as the command line runs it."""
    port = free_port()
    program = (
        "from fraud_pipelines.models.serve import serve; from fraud_pipelines.settings import load_settings; "
        f"raise SystemExit(serve(load_settings(), version='7', port={port}))"
    )
    environment = os.environ | {
        "FRAUD_HOME": str(service_settings.home),
        "BENTOML_HOME": str(service_settings.bentoml_home),
    }
    process = subprocess.Popen([sys.executable, "-c", program], env=environment | {"FRAUD_TOKEN_KEY": TOKEN_KEY})
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2  # the supervisor and its worker
        process.send_signal(sent)
        assert process.wait(30) == 0
        assert not [member for member in family if member.is_running()]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/livez")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_without_the_ledger_the_service_says_so_and_recovers(
    service_settings: Settings, built: BuiltBento, tmp_path: Path
):
    home = tmp_path / "home"
    home.mkdir()
    folder = home / "ledger"
    folder.write_text("a file where the ledger's folder should be")
    settings = service_settings.model_copy(
        update={
            "home": home,
            "ledger_url": f"sqlite:///{folder / 'ledger.sqlite'}",
            "online_store_url": f"sqlite:///{home / 'online.sqlite'}",
        }
    )
    with (home / "log").open("wb") as output:
        process = start_service(settings, built, host="127.0.0.1", port=(port := free_port()), output=output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, path="/livez")
        probe = httpx.get(f"{url}/readyz", timeout=30)
        assert (probe.status_code, probe.json()["error"]["code"]) == (503, "not_ready")
        refused = httpx.post(f"{url}/score", json=payment(), timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
        with sqlite3.connect(home / "online.sqlite") as connection:
            assert connection.execute("select count(*) from transactions").fetchone() == (0,)
        folder.unlink()
        assert httpx.post(f"{url}/score", json=payment(), timeout=30).json()["decision"] == "APPROVE"
        assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
    finally:
        stop_service(process)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, *, path: str = "/readyz") -> None:
    import time

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(url + path, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url}{path} did not answer within 120 s")
