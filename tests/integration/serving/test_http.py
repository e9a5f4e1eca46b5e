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
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.ledger import Challenge, open_ledger
from fraud_pipelines.models.bento import BuiltBento
from fraud_pipelines.models.serve import running_service, start_service, stop_service
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import to_us
from fraud_pipelines.raw.tokens import tokenize_card
from fraud_pipelines.settings import Settings
from serving import answer_schemas
from serving.answer_schemas import ProblemAnswer
from tests.integration.serving.conftest import FILLED_AT, TOKEN_KEY, Service
from tests.served_models import CARD_NUMBER, constant_bundle, payment
from tests.stored_events import fill, tables_of


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
    for path in ("/livez", "/readyz", "/health"):
        assert service.client.get(path).status_code == 200
    metrics = service.client.get("/metrics").text
    assert 'fraud_score_requests_total{decision="APPROVE",model="7",status="200"}' in metrics
    assert 'fraud_score_requests_total{decision="none",model="none",status="422"}' in metrics
    assert f'digest="{built.bundle_digest}"' in metrics
    for stage in ("state", "features", "model", "record", "total"):
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
        (b'{"amount": NaN}', {"content-type": "application/json"}, 400, "malformed_json"),
        (b'{"\\ud800": 1}', {"content-type": "application/json"}, 400, "malformed_json"),
        (b'{"amount": 1, "amount": 2}', {"content-type": "application/json"}, 400, "duplicate_key"),
        (b"{}", {"content-type": "application/json", "content-encoding": "gzip"}, 415, "media_type_not_supported"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "media_type_not_supported"),
    ],
)
def test_what_is_not_json_is_refused(service: Service, content, headers, status, code):
    response = service.client.post("/score", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("value", ["1e999", "-0.01", "9" * 400])
def test_numbers_that_are_none_are_refused(service: Service, value):
    body = json.dumps(payment(amount=0)).replace('"amount": 0', f'"amount": {value}')
    response = service.client.post("/score", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "amount")


def test_every_refusal_has_one_shape_and_heads_have_no_body(service: Service):
    for method, path, status, code in (
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/score", 405, "method_not_allowed"),
        ("DELETE", "/decisions/t-1", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/decisions/no-such", 404, "transaction_unknown"),
        ("GET", "/decisions/", 404, "transaction_unknown"),
        ("GET", "/decisions/a%00b", 404, "transaction_unknown"),
    ):
        answer = service.client.request(method, path)
        ProblemAnswer.model_validate(answer.json(), extra="forbid")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert service.client.get("/score").headers["allow"] == "POST"
    for path in ("/health", "/model", "/readyz", "/docs.json"):
        head, whole = service.client.head(path), service.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert abs(int(head.headers["content-length"]) - len(whole.content)) < 20
    assert service.client.head("/decisions/no-such").status_code == 404


def checked(service: Service, method: str, path: str, body: object = None, *, of: str | None = None) -> dict[str, Any]:
    """The good answer of an endpoint, which is as its model and the OpenAPI document say."""
    response = service.client.request(method, path, json=body)
    assert response.status_code == 200, response.text
    document = service.client.get("/docs.json").json()
    described = document["paths"][of or path][method.lower()]
    if body is not None:
        taken = described["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**taken, "components": document["components"]})
    given = described["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**given, "components": document["components"]})
    getattr(answer_schemas, given["$ref"].rsplit("/", 1)[1]).model_validate(response.json())
    return response.json()


def test_every_endpoint_answers_as_it_is_described(service: Service, built: BuiltBento):
    moment = "2025-04-01T12:00:00Z"
    large = checked(service, "POST", "/score", payment(transaction_id="all/1 ü", amount=900, event_time=moment))
    assert large["decision"] == "BLOCK"
    again = checked(service, "POST", "/score_by_id", {"transaction_id": "all/1 ü"})
    assert {**again, "processing_time_ms": 0} == {**large, "processing_time_ms": 0}
    rows = [
        payment(transaction_id="all-2", event_time="2025-04-01T12:05:00Z"),
        payment(transaction_id="all-3", event_time="2025-04-01T12:01:00Z"),
        payment(transaction_id="all/1 ü", amount=900, event_time=moment),
    ]
    batch = checked(service, "POST", "/score_batch", {"transactions": rows})
    assert (batch["decided"], batch["refused"]) == (3, 0)
    said = checked(
        service, "POST", "/feedback", {"transaction_id": "all/1 ü", "verdict": "PENDING", "note": CARD_NUMBER}
    )
    explained = checked(service, "POST", "/explain", {"transaction_id": "all/1 ü"})
    assert explained["decision"] == "BLOCK"
    pushes = [reason["contribution"] for reason in explained["reasons"]]
    assert explained["base_value"] + sum(pushes) == pytest.approx(explained["log_odds"], abs=1e-4)
    assert explained["counterfactual"]["decision"] == "APPROVE"
    path = "/decisions/all%2F1%20%C3%BC"
    soon(lambda: service.client.get(path).json()["feedback"])
    record = checked(service, "GET", path, of="/decisions/{transaction_id}")
    assert record["answer"] == {k: v for k, v in large.items() if k != "processing_time_ms"}
    assert record["request"]["card_id"] == tokenize_card(CARD_NUMBER, TOKEN_KEY.encode())
    assert [f["feedback_id"] for f in record["feedback"]] == [said["feedback_id"]]
    assert CARD_NUMBER not in record["feedback"][0]["note"]
    names = checked(service, "GET", "/model")["model"]["features"]
    features = [service.client.get(f"/decisions/all-{n}").json()["features"] for n in (2, 3)]
    # By their time, not by their place in the batch.
    assert [vector[names.index("card_count_24h")] for vector in features] == [2, 1]
    assert checked(service, "GET", "/readyz") == {"status": "ready"}
    assert checked(service, "GET", "/health")["model"]["model_version"] == "7"
    described = set(service.client.get("/docs.json").json()["paths"])
    assert described == {
        *("/score", "/score_batch", "/score_by_id", "/explain", "/feedback", "/decisions/{transaction_id}"),
        *("/model", "/health", "/readyz", "/livez", "/metrics", "/docs.json"),
    }


def test_an_identifier_is_unquoted_once(service: Service):
    for id_ in ("100%41", "a+b", "a/b"):
        service.score(payment(transaction_id=id_))
        found = service.client.get("/decisions/" + quote(id_, safe=""))
        assert found.json()["answer"]["transaction_id"] == id_


def test_a_batch_answers_each_row_for_itself(service: Service):
    rows = [
        payment(transaction_id="row-0"),
        payment(transaction_id="row-1", amount="a lot"),
        payment(transaction_id="row-0", amount="99"),
        payment(transaction_id="row-0"),
        7,
    ]
    answer = checked_batch = service.client.post("/score_batch", json={"transactions": rows}).json()
    answer_schemas.BatchAnswer.model_validate(checked_batch)
    zero, one, two, three, four = answer["results"]
    assert (answer["decided"], answer["refused"]) == (2, 3)
    assert zero["transaction_id"] == "row-0"
    assert three == zero
    assert [(row["index"], row["error"]["code"]) for row in (one, two, four)] == [
        (1, "invalid_transaction"), (2, "transaction_id_reused"), (4, "invalid_transaction")
    ]  # fmt: skip
    assert one["error"]["field"] == "amount"
    for body, status in (({"transactions": []}, 422), ({"transactions": [0] * 10_001}, 413), ({}, 422)):
        assert service.client.post("/score_batch", json=body).status_code == status


def test_a_payment_of_the_warehouse_is_decided_by_its_identifier(service: Service, service_settings: Settings):
    token = tokenize_card(CARD_NUMBER, TOKEN_KEY.encode())
    at = datetime(2025, 5, 1, 12)
    before, now = (
        ScoredTransaction(f"pushed-{n}", to_us(at) + n * 60_000_000, token, "m-pushed", 90_000, "EUR") for n in (1, 2)
    )
    store = open_online_store(service_settings.online_store_url)
    store.rebuild(*tables_of([before, now], []), datetime(2025, 5, 2))
    store.close()
    answer = checked(service, "POST", "/score_by_id", {"transaction_id": "pushed-2"})
    assert (answer["decision"], answer["state_as_of"]) == ("BLOCK", "2025-05-02T00:00:00Z")
    names = service.client.get("/model").json()["model"]["features"]
    served = service.client.get("/decisions/pushed-2").json()["features"]
    assert served[names.index("merchant_count_1d")] == 1
    unknown = service.client.post("/score_by_id", json={"transaction_id": "nobody's"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "transaction_unknown")


def test_feedback_is_a_label_for_the_next_payment_at_the_merchant_and_counts_once(service: Service):
    # Labels are known when they are given, so the payment that has seen this one is later than today.
    later = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    service.score(payment(transaction_id="said-1", merchant_id="m-said", event_time="2025-05-01T00:00:00Z"))
    body = {"transaction_id": "said-1", "verdict": "CONFIRMED_FRAUD", "feedback_id": "f-1"}
    receipts = [service.client.post("/feedback", json=body).json() for _ in range(3)]
    assert receipts[0] == receipts[1] == receipts[2]
    changed = service.client.post("/feedback", json=body | {"verdict": "FALSE_POSITIVE"})
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "feedback_id_reused")
    service.score(payment(transaction_id="said-2", merchant_id="m-said", event_time=later))
    names = service.client.get("/model").json()["model"]["features"]
    served = dict(zip(names, service.client.get("/decisions/said-2").json()["features"], strict=True))
    assert served["merchant_fraud_count_7d"] == 1
    for unknown, status in (("nobody's", 404), ("said-1", 200)):
        body = {"transaction_id": unknown, "verdict": "PENDING"}
        assert service.client.post("/feedback", json=body).status_code == status


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
    soon(lambda: all(ledger.decision(name) for name in ("pan-1", "pan-2")))
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
    assert "decision" in first, first
    assert {**again, "processing_time_ms": 0} == {**first, "processing_time_ms": 0}


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


def test_without_the_ledger_decisions_are_made_and_delivered_when_it_is_back(
    service_settings: Settings, built: BuiltBento, tmp_path: Path
):
    home = tmp_path / "home"
    home.mkdir()
    folder = home / "ledger"
    settings = service_settings.model_copy(
        update={
            "home": home,
            "ledger_url": f"sqlite:///{folder / 'ledger.sqlite'}",
            "online_store_url": f"sqlite:///{home / 'online.sqlite'}",
        }
    )
    fill(settings.online_store_url, FILLED_AT)
    with running_service(settings, bento=built, log=home / "log") as url, httpx.Client(base_url=url) as client:
        # What a full disk, a lost mount or a half-done migration does to its file while the service runs.
        with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
            connection.execute("alter table decisions rename to hidden")
        first = client.post("/score", json=payment(), timeout=30).json()
        assert first["decision"] == "APPROVE"
        health = client.get("/health", timeout=30).json()
        assert (health["status"], health["can_decide"]) == ("degraded", True)
        assert health["ledger"] == {"ok": False, "problem": "LedgerUnavailable"}
        assert health["decision_log"]["pending_records"] == 1
        assert client.get("/readyz").status_code == 200
        known = client.get("/decisions/t-1", timeout=30).json()
        assert known["answer"]["decision"] == "APPROVE"
        unknown = client.get("/decisions/t-2", timeout=30)
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "ledger_unavailable")
        with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
            connection.execute("alter table hidden rename to decisions")
        soon(lambda: client.get("/health").json()["status"] == "ok")
        again = client.post("/score", json=payment()).json()
        assert {**again, "processing_time_ms": 0} == {**first, "processing_time_ms": 0}
        ledger = open_ledger(settings.ledger_url)
        soon(lambda: ledger.decision("t-1"))
        assert client.get("/health").json()["decision_log"]["dead_letters"] == 0


def test_a_first_start_lets_nobody_in_without_the_ledger_and_no_model_decide_without_a_filled_store(
    service_settings: Settings, built: BuiltBento, tmp_path: Path
):
    home = tmp_path / "home"
    home.mkdir()
    folder = home / "ledger"
    folder.write_text("a file where the ledger's folder should be")
    urls = {"ledger_url": f"sqlite:///{folder / 'ledger.sqlite'}", "online_store_url": f"sqlite:///{home / 'o.sqlite'}"}
    settings = service_settings.model_copy(update={"home": home} | urls)
    with (home / "log").open("wb") as output:
        process = start_service(settings, built, host="127.0.0.1", port=(port := free_port()), output=output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, path="/livez")
        probe = httpx.get(f"{url}/readyz", timeout=30)
        assert (probe.status_code, probe.json()["error"]["code"]) == (503, "not_ready")
        refused = httpx.post(f"{url}/score", json=payment(), timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "keys_not_read")
        health = httpx.get(f"{url}/health", timeout=30).json()
        assert (health["status"], health["ledger"]["ok"], health["can_decide"]) == ("degraded", False, False)
        folder.unlink()
        wait_until_ready(url)
        empty = httpx.post(f"{url}/score", json=payment(transaction_id="t-0"), timeout=30).json()
        assert (empty["decision"], empty["fallback"]) == ("REVIEW", "online_store_never_filled")
        health = httpx.get(f"{url}/health", timeout=30).json()
        assert (health["status"], health["can_decide"]) == ("degraded", True)
        next_step = "fraud materialize operations/online_state"
        assert health["online_store"] == {
            "ok": False, "as_of": None, "problem": "OnlineStoreNeverFilled", "next": next_step
        }  # fmt: skip
        assert numbers(url)['fraud_fallback_total{cause="online_store_never_filled"}'] == 1
        fill(settings.online_store_url, FILLED_AT)
        assert httpx.post(f"{url}/score", json=payment(), timeout=30).json()["decision"] == "APPROVE"
        soon(lambda: httpx.get(f"{url}/health", timeout=30).json()["status"] == "ok")
    finally:
        stop_service(process)
    assert f"never filled: until it is, a rule decides. Run: {next_step}" in (home / "log").read_text()


OF_THE_SERVICE = {
    *("fraud_score_requests_total", "fraud_score_latency_seconds", "fraud_score_value", "fraud_decision_amount_sum"),
    *("fraud_fallback_total", "fraud_feature_age_seconds", "fraud_feature_missing_total", "fraud_model_info"),
    *("fraud_state_behind_total", "fraud_state_conflicts_total", "fraud_decision_log_pending_records"),
    *("fraud_decision_log_pending_bytes", "fraud_decision_log_oldest_seconds", "fraud_decision_log_dead_letters_total"),
    *("fraud_feedback_total", "fraud_requests_refused_total"),
}


def test_two_workers_share_their_numbers_and_their_answers(
    service_settings: Settings, built: BuiltBento, tmp_path: Path
):
    home = tmp_path / "home"
    urls = {"ledger_url": f"sqlite:///{home / 'ledger.sqlite'}", "online_store_url": f"sqlite:///{home / 'o.sqlite'}"}
    fill(urls["online_store_url"], FILLED_AT)
    changed = {"home": home, "serving_workers": 2, "features_max_age_hours": 24.0}
    settings = service_settings.model_copy(update=changed | urls)
    with (
        running_service(settings, bento=built, log=home / "log") as url,
        httpx.Client(base_url=url, timeout=30, headers={"Connection": "close"}) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def score(number: int) -> dict[str, Any]:
            # Half of the transactions twice, each over a connection of its own: either worker may get it.
            body = payment(transaction_id=f"t-{number % 40}", amount=[10, 900][number % 2])
            return client.post("/score", json=body).json()

        answers = list(pool.map(score, range(60)))
        assert len({(a["transaction_id"], a["decided_at"]) for a in answers}) == 40
        httpx.post(f"{url}/score", json=payment(transaction_id="old", event_time="2025-03-02T00:00:01Z"), timeout=30)
        httpx.post(f"{url}/score", json={}, timeout=30)
        httpx.post(f"{url}/feedback", json={"transaction_id": "t-1", "verdict": "PENDING"}, timeout=30)
        soon(lambda: "fraud_feature_missing_total{" in httpx.get(f"{url}/metrics").text)
        soon(lambda: numbers(url)['fraud_feature_missing_total{feature="is_online"}'] == 41)
        found = numbers(url)
    assert "entry_service:fraud-scorer:2" in (home / "log").read_text()
    for name in OF_THE_SERVICE:
        assert [sample for sample in found if sample.startswith(name)], name

    def of(name: str) -> float:
        return found[name]

    assert of('fraud_score_requests_total{decision="APPROVE",model="7",status="200"}') == 30
    assert of('fraud_score_requests_total{decision="BLOCK",model="7",status="200"}') == 30
    assert of('fraud_score_requests_total{decision="REVIEW",model="none",status="200"}') == 1
    assert of('fraud_requests_refused_total{code="invalid_transaction",status="422"}') == 1
    # Each decision once, however often it was asked for.
    assert of('fraud_decision_amount_sum{currency="EUR",decision="APPROVE"}') == 20 * 10
    assert of('fraud_decision_amount_sum{currency="EUR",decision="BLOCK"}') == 20 * 900
    assert of("fraud_score_value_count") == 40
    assert of('fraud_fallback_total{cause="features_too_old"}') == 1
    assert of("fraud_feature_age_seconds") == 86_401
    assert of('fraud_feedback_total{verdict="PENDING"}') == 1
    assert of(f'fraud_model_info{{digest="{built.bundle_digest}",version="7"}}') == 1
    assert of('fraud_score_latency_seconds_count{stage="total"}') == 61


def numbers(url: str) -> dict[str, float]:
    """Every sample of /metrics, with its labels in the order of their names."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text)
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
        found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def soon(is_so: Callable[[], object]) -> None:
    """Wait until something holds that must hold in a moment."""
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, *, path: str = "/readyz") -> None:
    deadline = time.monotonic() + 120
    with httpx.Client(base_url=url, timeout=5) as client:
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get(path).status_code == 200:
                    return
            time.sleep(0.1)
    raise AssertionError(f"{url}{path} did not answer within 120 s")
