"""The command line as people and scripts meet it: exit codes, and errors that teach."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.installation import Installation


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Installation:
    """An installation in which nothing has been done yet."""
    return Installation(tmp_path_factory.mktemp("empty"), {"FRAUD_TOKEN_KEY": "k" * 32})


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--help"], 0, ["demo", "rollback", "Exit codes"]),
        (["materialize", "--help"], 0, ["--from", "Examples"]),
        (["champion"], 0, ["champion: none"]),
        (["materialise"], 2, ["No such command"]),
        (["score"], 2, ["fraud score payment.json"]),
        (["score", "no-such-file.json"], 2, ["no-such-file.json cannot be read"]),
        (["materialize", "features", "--from", "2026-02-02", "--to", "2026-02-01"], 2, ["lies before"]),
        (["train"], 3, ["MissingPartition", "fraud ingest"]),
        (["tune"], 3, ["MissingPartition", "fraud ingest"]),
        (["tune", "--trials", "0"], 2, ["--trials"]),
        (["rollback", "--reason", "practice"], 3, ["NoChampion", "fraud train"]),
        (["serve"], 3, ["NoChampion", "fraud train"]),
        (["replay", "--from", "2026-02-01", "--to", "2026-02-02"], 3, ["NoChampion", "fraud train"]),
        (["materialize", "features"], 3, ["fraud ingest"]),
        (["promote", "7", "--reason", "hope"], 3, ["UnknownVersion"]),
        (["score", "--url", "http://127.0.0.1:9", "payment.json"], 4, ["fraud serve"]),
        (["score", "payment.json", "--key-file", "no-such.key"], 2, ["no-such.key cannot be read"]),
        (["score", "payment.json", "--key-file", "payment.json"], 2, ["fk_<id>_<secret>"]),
        (["explain", "8841", "--url", "http://127.0.0.1:9"], 4, ["fraud serve"]),
        (["feedback", "8841", "FALSE_POSITIVE", "--url", "http://127.0.0.1:9"], 4, ["fraud serve"]),
        (["feedback", "8841", "FRAUD"], 2, ["CONFIRMED_FRAUD"]),
        (["keys", "list"], 0, ["fraud keys create"]),
        (["keys", "create", "checkout"], 2, ["--role"]),
        (["keys", "create", "checkout", "--role", "emperor"], 2, ["auditor"]),
        (["keys", "create", "checkout", "--role", "score", "--rate", "0"], 2, ["--rate"]),
        (["keys", "revoke", "0123456789abcdef"], 3, ["UnknownKey", "fraud keys list"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_every_outcome_has_its_exit_code_and_says_what_to_do(empty, tmp_path, arguments, exit_code, words):
    payment = tmp_path / "payment.json"
    payment.write_text(json.dumps({"transaction_id": "1"}))
    printed = empty.run(*(str(payment) if word == "payment.json" else word for word in arguments), expect=exit_code)
    flat = " ".join(printed.split())
    assert [word for word in words if word not in flat] == []
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["champion"], 0, "champion: none"),
        (["no-such-command"], 2, "No such command"),
        (["serve"], 3, "NoChampion: "),
        (["score", "--url", "http://127.0.0.1:9", "payment.json"], 4, "fraud serve"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_script_that_is_installed_says_so_too(empty, tmp_path, arguments, exit_code, words):
    payment = tmp_path / "payment.json"
    payment.write_text(json.dumps({"transaction_id": "1"}))
    words_of_command = (str(payment) if word == "payment.json" else word for word in arguments)
    printed = empty.run_script(*words_of_command, expect=exit_code)
    assert words in " ".join(printed.split())
    assert "Traceback" not in printed


@pytest.fixture
def keyed(tmp_path) -> tuple[Installation, str]:
    """An installation with one API key, and that key."""
    installation = Installation(tmp_path, {"FRAUD_TOKEN_KEY": "k" * 32})
    printed = installation.run(
        *("keys", "create", "checkout", "--role", "score", "--role", "analyst", "--rate", "0.5", "--expires-days", "3")
    )
    [key] = re.findall(r"fk_[0-9a-f]{16}_[0-9a-f]{64}", printed)  # exactly once
    assert printed.splitlines()[0] == key  # alone on its line, for a pipe
    return installation, key


def test_a_key_is_shown_once_and_its_secret_is_kept_nowhere(keyed):
    installation, key = keyed
    _, key_id, secret = key.split("_")
    listed = installation.run("keys", "list")
    assert re.search(rf"{key_id} +checkout +active +score, analyst +0\.5 +1 ", listed)
    assert key_id in installation.run("keys", "revoke", key)  # the whole key, as it was found in a wrong place
    assert re.search(rf"{key_id} +checkout +revoked ", installation.run("keys", "list"))
    files = [path for path in installation.home.rglob("*") if path.is_file()]
    assert any(key_id.encode() in path.read_bytes() for path in files)
    assert not any(secret.encode() in path.read_bytes() for path in files)


def test_a_transaction_is_sent_with_the_key_of_a_file(keyed, tmp_path):
    installation, key = keyed
    sent: list[str | None] = []

    class TooMany(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.headers["Authorization"])
            self.send_error(429)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    (tmp_path / "checkout.key").write_text(f"{key}\n")
    with HTTPServer(("127.0.0.1", 0), TooMany) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        printed = installation.run(
            *("score", "-", "--url", f"http://127.0.0.1:{server.server_port}"),
            *("--key-file", str(tmp_path / "checkout.key")), expect=4, text='{"transaction_id": "1"}',
        )  # fmt: skip
        server.shutdown()
    assert sent == [f"Bearer {key}"] * 2  # the second after a moment
    assert "status_429" in printed
    assert key not in printed


def test_a_transaction_may_come_through_a_pipe(empty):
    printed = empty.run("score", "-", "--url", "http://127.0.0.1:9", expect=4, text='{"transaction_id": "1"}')
    assert "fraud serve" in printed
    assert "cannot be read" in empty.run("score", "-", expect=2, text="no JSON")


def test_a_mapping_nobody_knows_is_answered_with_those_there_are(empty, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    printed = empty.run("ingest", str(tmp_path / "a.csv"), "--mapping", "acme", expect=3)
    assert all(name in printed for name in ("handbook", "sparkov", "simulator"))


def test_square_brackets_in_a_message_are_printed_as_they_are(empty):
    printed = empty.run("materialize", "[/bold]odd", expect=3)
    assert "'[/bold]odd'" in printed
    assert "monitoring/drift" in printed  # what there is instead


def test_a_setting_that_cannot_be_read_is_named(empty):
    wrong = Installation(empty.home, empty.variables | {"FRAUD_ENV": "moon"})
    assert "FRAUD_ENV" in wrong.run("champion", expect=3)


def test_doctor_is_content_with_an_empty_installation(empty):
    printed = empty.run("doctor")
    assert "NOT OK" not in printed
    assert "none yet; run: fraud train" in printed


def test_doctor_names_a_store_that_is_away(empty):
    away = Installation(
        empty.home, empty.variables | {"FRAUD_WAREHOUSE_URL": "postgresql+psycopg2://u:secret@127.0.0.1:1/none"}
    )
    printed = away.run("doctor", expect=3)
    assert "WarehouseUnavailable" in printed
    assert "secret" not in printed
