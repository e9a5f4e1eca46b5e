"""deploy/nginx.conf as it is shipped, run by a real nginx in front of an application that asks Access."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from starlette.responses import JSONResponse

from fraud_pipelines.api_keys import Role, new_key
from serving.access import Access
from serving.endpoints import LARGEST_BATCH_BYTES, LARGEST_BODY_BYTES
from serving.problems import Problem
from serving.rate_limits import RateLimits
from tests.installation import ROOT, free_port

CONFIGURATION = (ROOT / "deploy" / "nginx.conf").read_text()
# Debian keeps it where only root looks.
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
OPENSSL = shutil.which("openssl")
needs_nginx = pytest.mark.skipif(not (NGINX and OPENSSL), reason="needs the Debian packages nginx-light and openssl")


@dataclass
class Scoring:
    """A stand-in for the service: it authorizes as the service does, and answers what it saw."""

    access: Access
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope, receive, send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        self.seen.append(
            {"path": scope["path"], "bytes": size, "connection": scope["client"][1], "forwarded":
             {name: headers.get(f"x-forwarded-{name}") for name in ("for", "proto")}}
        )  # fmt: skip
        try:
            principal = self.access.authorize(scope["headers"], scope["method"], scope["path"])
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await JSONResponse({"who": principal.name})(scope, receive, send)


@dataclass(frozen=True)
class Proxy:
    """A running nginx."""

    https: int
    http: int
    log: Path
    trust: ssl.SSLContext

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=f"https://localhost:{self.https}", verify=self.trust, headers=headers)


# Who, and what each may do: none of them gets more tokens during the tests.
KEYS = {
    name: new_key(name, [Role.SCORE], created_by="ann", rate_per_second=0.001, burst=burst)
    for name, burst in {"checkout": 1000, "slow": 3, **{f"shop-{number}": 2 for number in range(8)}}.items()
}


@pytest.fixture(scope="module")
def scoring(tmp_path_factory) -> Scoring:
    folder = tmp_path_factory.mktemp("access")
    access = Access(
        lambda: [key for key, _ in KEYS.values()],
        keys_required=True,
        snapshot=folder / "api_keys.json",
        limits=RateLimits(folder / "rate_limits"),
    )
    return Scoring(access)


@pytest.fixture(scope="module")
def upstream(scoring) -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(scoring, port=0, log_config=None, lifespan="off", proxy_headers=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def nginx(folder: Path, *, upstream: int) -> Iterator[Proxy]:
    """The shipped configuration with other ports and another temporary folder, and a certificate made for it."""
    (folder / "tls").mkdir()
    certificate, https, http = folder / "tls" / "fullchain.pem", free_port(), free_port()
    subprocess.run(
        [
            *(OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "tls" / "privkey.pem"), "-out", str(certificate)),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    configuration = CONFIGURATION
    for ours, here in {
        "server serving:3000;": f"server 127.0.0.1:{upstream};",
        "listen 80 ": f"listen 127.0.0.1:{http} ",
        "listen 443 ": f"listen 127.0.0.1:{https} ",
        " /tmp/": f" {folder}/",
    }.items():
        assert ours in configuration
        configuration = configuration.replace(ours, here)
    (folder / "nginx.conf").write_text(configuration)
    log = folder / "nginx.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", https)):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Proxy(https, http, log, ssl.create_default_context(cafile=str(certificate)))
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory, upstream) -> Iterator[Proxy]:
    with nginx(tmp_path_factory.mktemp("nginx"), upstream=upstream) as running:
        yield running


def text_of(name: str) -> str:
    return KEYS[name][1]


def error_of(response: httpx.Response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["message"] and error["next"]
    return error


@needs_nginx
def test_requests_arrive_over_tls_on_connections_that_stay(proxy, scoring):
    del scoring.seen[:]
    with proxy.client(text_of("checkout")) as client:
        for _ in range(5):
            response = client.post("/score", json={}, headers={"X-Forwarded-For": "203.0.113.7"})
            assert (response.status_code, response.json()) == (200, {"who": "checkout"})
            assert response.headers["strict-transport-security"] == "max-age=31536000"
    # What the client claims to be is not passed on.
    assert [one["forwarded"] for one in scoring.seen] == [{"for": "127.0.0.1", "proto": "https"}] * 5
    assert len({one["connection"] for one in scoring.seen}) == 1


@needs_nginx
def test_old_tls_is_refused(proxy):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", proxy.https)) as connection,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol"),
    ):
        old.wrap_socket(connection)


@needs_nginx
def test_a_request_in_the_clear_is_refused_and_told_why(proxy, scoring):
    before = len(scoring.seen)
    headers = {"Authorization": f"Bearer {text_of('checkout')}"}
    plain = httpx.post(f"http://127.0.0.1:{proxy.http}/score", json={}, headers=headers)
    wrong_port = httpx.post(f"http://127.0.0.1:{proxy.https}/score", json={}, headers=headers)
    assert (plain.status_code, wrong_port.status_code) == (403, 400)
    assert [error_of(response)["code"] for response in (plain, wrong_port)] == ["tls_required"] * 2
    assert len(scoring.seen) == before


@needs_nginx
def test_a_body_beyond_the_limit_ends_at_the_proxy(proxy, scoring):
    with proxy.client(text_of("checkout")) as client:
        assert client.post("/score", content=b" " * LARGEST_BODY_BYTES).status_code == 200
        assert scoring.seen[-1]["bytes"] == LARGEST_BODY_BYTES
        before = len(scoring.seen)
        announced = client.post("/score", content=b" " * (LARGEST_BODY_BYTES + 1))
        streamed = client.post("/score", content=(b" " * 1024 for _ in range(65)))
        batch = client.post("/score_batch", content=b" " * (LARGEST_BATCH_BYTES + 1))
    for response in (announced, streamed, batch):
        assert response.status_code == 413
        assert error_of(response)["code"] == Problem.common(413).code
    assert len(scoring.seen) == before


@needs_nginx
def test_a_compressed_body_is_refused(proxy, scoring):
    before = len(scoring.seen)
    with proxy.client(text_of("checkout")) as client:
        refused = client.post("/score", content=b"{}", headers={"Content-Encoding": "gzip"})
        assert client.post("/score", content=b"{}", headers={"Content-Encoding": "identity"}).status_code == 200
    assert refused.status_code == 415
    assert error_of(refused)["code"] == Problem.common(415).code
    assert len(scoring.seen) == before + 1


@needs_nginx
@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics", "/docs", "/docs.json"]
)
def test_what_is_for_operators_is_not_reached_from_outside(proxy, scoring, path):
    before = len(scoring.seen)
    # By hand: a client library would tidy the path up.
    with socket.create_connection(("127.0.0.1", proxy.https)) as plain:
        connection = proxy.trust.wrap_socket(plain, server_hostname="localhost")
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert json.loads(body)["error"]["code"] == "not_from_outside"
    assert len(scoring.seen) == before


@needs_nginx
def test_many_clients_behind_the_proxy_are_limited_each_by_its_own_key(proxy):
    def shop(number: int) -> list[int]:
        with proxy.client(text_of(f"shop-{number}")) as client:
            return [client.post("/score", json={}).status_code for _ in range(4)]

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(shop, range(8))) == [[200, 200, 429, 429]] * 8
    with proxy.client(text_of("slow")) as client:
        answers = [client.post("/score", json={}, headers={"X-Forwarded-For": f"203.0.113.{n}"}) for n in range(4)]
    assert [response.status_code for response in answers] == [200, 200, 200, 429]  # another address is no new bucket
    assert error_of(answers[3])["code"] == "rate_limited"
    assert 990 <= int(answers[3].headers["retry-after"]) <= 1000  # a transaction per 1,000 s


@needs_nginx
def test_a_service_that_is_down_is_a_503_in_the_service_s_own_shape(tmp_path):
    with nginx(tmp_path, upstream=free_port()) as proxy, proxy.client(text_of("checkout")) as client:
        response = client.post("/score", json={})
    assert response.status_code == 503
    assert error_of(response)["code"] == Problem.common(503).code
    assert "upstream_status=502" in proxy.log.read_text()


@needs_nginx
def test_no_key_and_no_body_reaches_a_log(proxy, upstream, caplog, tmp_path):
    text, card = text_of("checkout"), "4000001234567899"
    with caplog.at_level(logging.DEBUG), nginx(tmp_path, upstream=free_port()) as dead:
        for one in (proxy, dead):
            with one.client(text) as client:
                client.post("/score", json={"card_id": card})
                client.post("/score", json={"card_id": card}, headers={"X-API-Key": text + "0"})
                client.post(f"/score?key={text}", json={"card_id": card})
                client.post(f"/score?card_id={card}", json={})
                client.post(f"/score?key={text}", content=card.encode() * 8000)
                client.post("/score", content=card, headers={"Content-Encoding": text})
                client.get(f"/{text}")
                client.get(f"/metrics?{text}")
            httpx.get(f"http://127.0.0.1:{one.http}/?{text}")
            httpx.get(f"http://127.0.0.1:{one.https}/?{text}", headers={"Authorization": text, "Referer": text})
    logged = "".join(one.log.read_text() for one in (proxy, dead))
    # httpx is the client here, and the service has no access log (service.py).
    records = [record for record in caplog.records if not record.name.startswith(("http", "uvicorn.access"))]
    ours = "".join(record.getMessage() for record in records)
    secret = text.rpartition("_")[2]
    for words in (logged, ours):
        assert secret not in words
        assert card not in words
    for request in ("POST /score 503", "POST /score 413", "POST /score 415", "GET [key] 503", "GET /metrics 403"):
        assert f" {request} " in dead.log.read_text()


def test_the_answers_of_the_proxy_have_the_shape_and_the_codes_of_the_service():
    answers = [(int(status), json.loads(body)) for status, body in re.findall(r"return (\d+) '(.+?)';", CONFIGURATION)]
    assert len(answers) >= 9
    for _, body in answers:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message", "next"}
    codes = {status: body["error"]["code"] for status, body in answers if body["error"]["code"] != "tls_required"}
    for status in (400, 413, 415, 503, 504):
        assert codes[status] == Problem.common(status).code


def test_the_proxy_and_the_service_take_bodies_of_one_size():
    kilobytes = re.findall(r"client_max_body_size (\d+)k;", CONFIGURATION)
    assert [int(size) * 1024 for size in kilobytes] == [LARGEST_BODY_BYTES, LARGEST_BATCH_BYTES]


def test_compose_mounts_what_the_configuration_reads():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in services["nginx"]["volumes"])
    assert mounts == {"./deploy/nginx.conf": "/etc/nginx/nginx.conf", "./deploy/tls": "/etc/nginx/tls"}
    assert services["nginx"]["ports"] == ["80:80", "443:443"]
    port = services["serving"]["command"][-1]
    assert f"server serving:{port};" in CONFIGURATION
