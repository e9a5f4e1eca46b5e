"""Who may call what, how often, and what refusals tell."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fraud_pipelines.api_keys import Role, new_key, state_of
from fraud_pipelines.errors import LedgerUnavailable
from fraud_pipelines.ledger import ApiKey, open_ledger
from fraud_pipelines.ledger.records import utc_now
from serving.access import ENDPOINTS, PUBLIC, Access
from serving.problems import Problem
from serving.rate_limits import RateLimits
from tests.installation import ROOT

Headers = list[tuple[bytes, bytes]]


def made(role: Role | str = Role.SCORE, **options) -> tuple[ApiKey, str]:
    return new_key("checkout", [role], created_by="ann", **options)


def bearer(text: str) -> Headers:
    return [(b"host", b"scoring"), (b"authorization", f"Bearer {text}".encode())]


class Ledger:
    """What the service reads its keys from; None is an outage."""

    def __init__(self, *keys: ApiKey) -> None:
        self.keys: Sequence[ApiKey] | None = keys

    def __call__(self) -> Sequence[ApiKey]:
        if self.keys is None:
            raise LedgerUnavailable("The ledger at sqlite:///somewhere cannot be used.")
        return self.keys


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., Access]:
    """Starts a service on this host: each has the same snapshot and the same buckets."""

    def start(ledger: Callable[[], Sequence[ApiKey]], *, keys_required: bool = True) -> Access:
        snapshot, limits = tmp_path / "serving" / "api_keys.json", RateLimits(tmp_path / "serving" / "rate_limits")
        return Access(ledger, keys_required=keys_required, snapshot=snapshot, limits=limits)

    return start


def refusal(access: Access, headers: Headers, method: str = "POST", path: str = "/score", **options) -> Problem:
    with pytest.raises(Problem) as caught:
        access.authorize(headers, method, path, **options)
    return caught.value


# Worked by hand: which of score, analyst, auditor, admin pass.
@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("POST", "/score", "score admin"),
        ("POST", "/score_batch", "score admin"),
        ("POST", "/score_by_id", "score admin"),
        ("GET", "/model", "score analyst auditor admin"),
        ("HEAD", "/model", "score analyst auditor admin"),
        ("GET", "/decisions/8841", "analyst auditor admin"),
        ("POST", "/explain", "analyst auditor admin"),
        ("POST", "/feedback", "analyst admin"),
        ("GET", "/metrics", "score analyst auditor admin"),
        # nothing is open because nobody thought of it
        ("GET", "/score", "admin"),
        ("DELETE", "/decisions/8841", "admin"),
        ("GET", "/decisions", "admin"),
        ("GET", "/decisions/", "admin"),
        ("GET", "/decisions/shop/8841", "analyst auditor admin"),  # the identifier is shop/8841
        ("GET", "/models/8841", "admin"),
        ("POST", "/score/", "admin"),
        ("POST", "/SCORE", "admin"),
        ("GET", "/", "admin"),
        ("GET", "/schema.json", "admin"),
    ],
)
def test_each_role_opens_its_endpoints_and_no_others(service, method, path, passes):
    keys = {role: made(role) for role in Role}
    access = service(Ledger(*(key for key, _ in keys.values())))
    for role, (key, text) in keys.items():
        if role in passes.split():
            assert access.authorize(bearer(text), method, path).key_id == (key.key_id if path not in PUBLIC else "")
        else:
            problem = refusal(access, bearer(text), method, path)
            assert (problem.status, problem.code) == (403, "role_missing")
            assert str(problem).endswith(f"one of: {', '.join(sorted(passes.split()))}.")


def test_every_endpoint_of_the_table_asks_for_a_key_and_probes_do_not(service):
    access = service(Ledger(made()[0]))
    for method, template in ENDPOINTS:
        assert refusal(access, [], method, template).status == 401
    for path in ("/livez", "/readyz", "/health", "/docs.json", "/metrics"):
        assert access.authorize([], "GET", path).name == "anyone"


def test_the_documented_table_is_the_one_that_is_applied():
    lines = (ROOT / "docs" / "access.md").read_text().splitlines()
    begin = lines.index("| endpoint | score | analyst | auditor | admin |")
    documented = {}
    for line in lines[begin + 2 : lines.index("", begin)]:
        endpoint, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        documented[endpoint.strip("`")] = {role for role, cell in zip(Role, cells, strict=True) if cell == "yes"}
    assert documented.pop("everything else") == {Role.ADMIN}
    assert documented == {f"{method} {path}": {*roles, Role.ADMIN} for (method, path), roles in ENDPOINTS.items()}


def test_a_key_of_two_roles_opens_both(service):
    key, text = new_key("console", [Role.SCORE, Role.ANALYST], created_by="ann")
    access = service(Ledger(key))
    assert access.authorize(bearer(text), "POST", "/score").roles == {Role.SCORE, Role.ANALYST}
    assert access.authorize(bearer(text), "POST", "/feedback").name == "console"


def test_a_role_of_a_later_version_opens_nothing(service):
    key, text = made("emperor")
    assert refusal(service(Ledger(key)), bearer(text)).status == 403


@pytest.mark.parametrize("spelled", ["authorization: Bearer KEY", "authorization: bearer  KEY ", "x-api-key: KEY",
                                     "authorization: Basic dTpw, x-api-key: KEY"])  # fmt: skip
def test_a_key_may_come_in_either_header(service, spelled):
    key, text = made()
    headers = [
        tuple(part.encode() for part in item.replace("KEY", text).split(": ", 1)) for item in spelled.split(", ")
    ]
    assert service(Ledger(key)).authorize(headers, "POST", "/score").key_id == key.key_id


def other_digit(text: str, at: int) -> str:
    at %= len(text)
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda text: "", "key_required"),
        (lambda text: "nonsense", "key_required"),
        (lambda text: text[:-1], "key_required"),
        (lambda text: text + "0", "key_required"),
        (lambda text: text.upper(), "key_required"),
        (lambda text: other_digit(text, -1), "key_unknown"),
        (lambda text: other_digit(text, 20), "key_unknown"),
        (lambda text: other_digit(text, 3), "key_unknown"),  # an identifier nobody has
        (lambda text: "fk_" + "0" * 16 + "_" + "0" * 64, "key_unknown"),
    ],
)
def test_a_refusal_says_what_to_do_and_repeats_nothing_of_what_was_sent(service, caplog, spoil, code):
    key, text = made()
    with caplog.at_level(logging.DEBUG):
        problem = refusal(service(Ledger(key)), bearer(spoil(text)))
    assert (problem.status, problem.code) == (401, code)
    response = problem.response()
    assert response.headers["www-authenticate"] == "Bearer"
    assert "fraud keys create" in json.loads(response.body)["error"]["next"]
    secret = text.rpartition("_")[2]
    shown = caplog.text + response.body.decode() + repr(problem) + str(vars(problem))
    assert secret[:12] not in shown.lower()
    assert secret[-12:-1] not in shown.lower()


def test_an_unknown_identifier_is_compared_like_a_known_one(service):
    key, text = made()
    access = service(Ledger(key))

    def calls(presented: str) -> list[str]:
        """Every C function that a refusal calls, in order."""
        found: list[str] = []
        sys.setprofile(lambda _frame, event, what: found.append(what.__name__) if event == "c_call" else None)
        try:
            access.authorize(bearer(presented), "POST", "/score")
        except Problem:
            pass
        finally:
            sys.setprofile(None)
        return found

    unknown, wrong_secret = calls(other_digit(text, 3)), calls(other_digit(text, -1))
    assert unknown == wrong_secret
    assert "compare_digest" in unknown


def test_revoked_and_expired_keys_are_named_to_who_has_the_secret_alone(service):
    revoked, revoked_text = made()
    brief, brief_text = made(lifetime=timedelta(milliseconds=150))
    revoked = replace(revoked, revoked_at=utc_now())
    access = service(Ledger(revoked, brief))
    assert refusal(access, bearer(revoked_text)).code == "key_revoked"
    assert refusal(access, bearer(other_digit(revoked_text, -1))).code == "key_unknown"
    assert access.authorize(bearer(brief_text), "POST", "/score").key_id == brief.key_id
    assert state_of(brief, now=utc_now()) == "active"
    time.sleep(0.16)
    assert refusal(access, bearer(brief_text)).code == "key_expired"
    assert [state_of(key, now=utc_now()) for key in (revoked, brief)] == ["revoked", "expired"]


def test_a_key_made_or_revoked_in_the_ledger_counts_from_the_next_refresh(service, tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    access = service(ledger.api_keys)
    (first, first_text), (second, second_text) = made(), made()
    ledger.add_api_key(first)
    access.refresh()
    assert access.authorize(bearer(first_text), "POST", "/score").key_id == first.key_id
    ledger.add_api_key(second)
    ledger.revoke_api_key(first.key_id, at=utc_now())
    access.refresh()
    assert refusal(access, bearer(first_text)).code == "key_revoked"
    assert access.authorize(bearer(second_text), "POST", "/score").key_id == second.key_id
    ledger.close()


def test_without_any_key_everything_is_open_outside_production_until_the_first(service, caplog):
    ledger = Ledger()
    access = service(ledger, keys_required=False)
    access.refresh()
    assert access.is_open
    assert access.authorize([], "POST", "/score").name == "anyone"
    assert [record.message for record in caplog.records if "There is no API key" in record.message] == [
        "There is no API key, so whoever reaches this service may use it. To ask for keys, make the first: "
        "fraud keys create NAME --role score"
    ]
    key, text = made()
    ledger.keys = [key]
    access.refresh()
    assert not access.is_open
    assert refusal(access, []).status == 401
    assert access.authorize(bearer(text), "POST", "/score").key_id == key.key_id
    ledger.keys = [replace(key, revoked_at=utc_now())]  # the last one gone opens nothing again
    access.refresh()
    assert refusal(access, []).status == 401


def test_without_any_key_nothing_is_open_in_production(service):
    access = service(Ledger())
    assert not access.is_open
    problem = refusal(access, [])
    assert (problem.status, problem.code) == (401, "no_keys")
    assert "fraud keys create" in (problem.next_step or "")
    assert access.authorize([], "GET", "/readyz").name == "anyone"


def test_keys_stay_valid_while_the_ledger_is_away_and_it_is_said_once(service, caplog):
    key, text = made()
    ledger = Ledger(key)
    access = service(ledger)
    ledger.keys = None
    for _ in range(3):
        access.refresh()
        assert access.authorize(bearer(text), "POST", "/score").key_id == key.key_id
    assert len(caplog.records) == 1


def test_a_start_during_an_outage_knows_the_keys_of_before(service, tmp_path):
    key, text = made(lifetime=timedelta(days=1))
    gone, gone_text = made()
    gone = replace(gone, revoked_at=utc_now())
    service(Ledger(key, gone))
    snapshot = tmp_path / "serving" / "api_keys.json"
    assert snapshot.stat().st_mode & 0o777 == 0o600
    assert text.rpartition("_")[2] not in snapshot.read_text()
    ledger = Ledger()
    ledger.keys = None
    access = service(ledger)
    assert access.authorize(bearer(text), "POST", "/score").key_id == key.key_id
    assert refusal(access, bearer(gone_text)).code == "key_revoked"
    ledger.keys = []  # the ledger is back, and has the last word
    access.refresh()
    assert refusal(access, bearer(text)).code == "no_keys"


@pytest.mark.parametrize("content", [None, "", "{", '{"keys": [{"key_id": "a"}]}', "[1]"])
def test_a_first_start_without_a_ledger_is_closed_even_outside_production(service, tmp_path, content):
    if content is not None:
        (tmp_path / "serving").mkdir()
        (tmp_path / "serving" / "api_keys.json").write_text(content)
    ledger = Ledger()
    ledger.keys = None
    access = service(ledger, keys_required=False)
    problem = refusal(access, [])
    assert (problem.status, problem.code) == (503, "keys_not_read")
    assert problem.response().headers["retry-after"] == "1"
    assert access.authorize([], "GET", "/livez").name == "anyone"


def test_a_snapshot_that_cannot_be_written_is_written_later(service, tmp_path, caplog):
    key, _ = made()
    snapshot = tmp_path / "serving" / "api_keys.json"
    snapshot.mkdir(parents=True)  # a folder in its place
    access = service(Ledger(key))
    access.refresh()
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    snapshot.rmdir()
    access.refresh()
    assert key.key_id in snapshot.read_text()


def test_a_key_beyond_its_rate_is_told_when_to_come_again_and_no_other_key_is(service):
    (slow, slow_text), (other, other_text) = (made(rate_per_second=0.5, burst=2) for _ in range(2))
    access = service(Ledger(slow, other))
    for _ in range(2):
        access.authorize(bearer(slow_text), "POST", "/score")
    problem = refusal(access, bearer(slow_text))
    assert (problem.status, problem.code) == (429, "rate_limited")
    assert problem.response().headers["retry-after"] == "2"  # half a transaction per second
    # Another worker of the host knows of it, too.
    assert refusal(service(Ledger(slow, other)), bearer(slow_text)).status == 429
    assert access.authorize(bearer(other_text), "POST", "/score").key_id == other.key_id


def test_a_refused_role_costs_nothing(service):
    key, text = made(rate_per_second=0.001, burst=1)
    access = service(Ledger(key))
    assert [refusal(access, bearer(text), path="/feedback").status for _ in range(3)] == [403, 403, 403]
    access.authorize(bearer(text), "POST", "/score")


def test_a_batch_costs_its_rows(service):
    key, text = made(rate_per_second=0.001, burst=100)
    access = service(Ledger(key))
    principal = access.authorize(bearer(text), "POST", "/score_batch")
    access.charge(principal, 60 - 1)
    with pytest.raises(Problem) as caught:
        access.charge(principal, 41)  # 40 are left
    assert caught.value.status == 429
    access.charge(principal, 40)
    access.charge(principal, 0)
    with pytest.raises(Problem) as caught:
        access.charge(principal, 101)  # would never fit: waiting is no advice
    assert (caught.value.status, caught.value.code) == (413, "batch_beyond_burst")


def test_a_request_is_judged_in_under_ten_microseconds_of_cpu(service):
    keys = [made(rate_per_second=100_000, burst=1_000_000) for _ in range(50)]
    access = service(Ledger(*(key for key, _ in keys)))
    headers = [(b"x-header", b"value")] * 8 + bearer(keys[7][1])
    rounds = []
    for _ in range(20):
        begin = time.thread_time()
        for _ in range(500):
            access.authorize(headers, "POST", "/score")
        rounds.append((time.thread_time() - begin) / 500)
    assert min(rounds) < 10e-6
