"""The command line as people and scripts meet it: exit codes, and errors that teach."""

import json

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
