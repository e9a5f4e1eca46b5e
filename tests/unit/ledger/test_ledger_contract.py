"""One behavioural suite for every ledger: SQLite and a real PostgreSQL."""

import sqlite3
import threading
from dataclasses import asdict, replace
from datetime import date, datetime, timedelta
from itertools import chain
from pathlib import Path

import orjson
import pytest
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, update
from sqlalchemy.exc import DataError, IntegrityError

from fraud_pipelines.errors import ContractBroken, LedgerUnavailable, SettingInvalid, UnknownKey
from fraud_pipelines.ledger import (
    ApiKey,
    Challenge,
    CurrentChallenger,
    Decision,
    DecisionRow,
    Feedback,
    Ingestion,
    Ledger,
    Promotion,
    Report,
    ShadowDecision,
    open_ledger,
)
from fraud_pipelines.ledger.database import MIGRATIONS
from fraud_pipelines.ledger.decision_log import PIECE_ROWS
from fraud_pipelines.ledger.records import written, written_us
from fraud_pipelines.ledger.schema import model_bundles
from fraud_pipelines.models.archive import pack, unpack
from fraud_pipelines.models.bundle import Bundle
from tests.served_models import constant_bundle

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456)
BUNDLE, OTHER = constant_bundle(-1.0), constant_bundle(-2.0)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'ledger.sqlite'}"
    return request.getfixturevalue("fresh_postgres_url")


@pytest.fixture
def ledger(url: str) -> Ledger:
    ledger = open_ledger(url)
    yield ledger
    ledger.close()


def decision(transaction_id: str = "t1", **changes: object) -> Decision:
    return replace(
        Decision(
            transaction_id=transaction_id,
            event_time=NOON,
            card_id="tok_" + "0" * 32,
            merchant_id="m1",
            decision="REVIEW",
            fraud_probability=0.1 + 0.2,
            model_version="1",
            bundle_digest="d" * 64,
            thresholds={"review": 0.3, "block": 0.7},
            reasons=[{"code": "AMOUNT", "words": "häufig 🛒", "contribution": 0.5}],
            features={"amount": 12.34, "card_amount_std_30d": None},
            request={"transaction_id": transaction_id},
            decided_at=NOON,
        ),
        **changes,
    )


def promotion(kind: str, version: str, at: datetime, previous: str | None = None) -> Promotion:
    return Promotion(kind, version, previous, "ann", "why", [{"name": "floor", "value": 0.5}], None, at)


def test_a_decision_comes_back_as_it_was(ledger):
    assert ledger.record_decision(decision()) == decision()
    assert ledger.decision("t1") == decision()
    assert ledger.decision("unheard of") is None


def test_the_first_decision_on_a_transaction_wins(ledger):
    ledger.record_decision(decision())
    assert ledger.record_decision(decision(decision="BLOCK", fraud_probability=0.99)) == decision()
    assert len(ledger.decisions(datetime(2026, 1, 1), datetime(2026, 1, 2))) == 1


def test_decisions_are_cut_half_open_by_event_time(ledger):
    times = {"a": datetime(2026, 1, 1), "b": datetime(2026, 1, 1, 23, 59, 59, 999999), "c": datetime(2026, 1, 2)}
    for name, moment in times.items():
        ledger.record_decision(decision(name, event_time=moment))
    found = ledger.decisions(datetime(2026, 1, 1), datetime(2026, 1, 2))
    assert [row.transaction_id for row in found] == ["a", "b"]


def test_concurrent_writers_of_one_transaction_all_get_the_same_answer(ledger):
    answers = []

    def write(probability: float) -> None:
        answers.append(ledger.record_decision(decision(fraud_probability=probability)).fraud_probability)

    threads = [threading.Thread(target=write, args=(index / 10,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1


def test_of_a_batch_the_first_decision_on_each_transaction_stays(ledger):
    ledger.record_decision(decision("b"))
    later = [decision(name, decision="BLOCK", fraud_probability=0.99) for name in ("b", "c")]
    ledger.record_decisions([decision("c"), decision("a"), *later])
    ledger.record_decisions([])
    assert [ledger.decision(name) for name in "abc"] == [decision(name) for name in "abc"]


def test_a_batch_is_stored_whole_or_not_at_all(ledger):
    with pytest.raises(Exception, match=r"(?i)not.null"):
        ledger.record_decisions([decision("a"), decision("b", merchant_id=None)])
    assert ledger.decision("a") is None


def test_writers_of_overlapping_batches_do_not_lock_each_other_out(ledger):
    together, failures = threading.Barrier(2, timeout=30), []

    def write(step: int) -> None:
        try:
            for batch in range(3):
                decisions = [decision(f"t{batch}-{number:03d}") for number in range(400)]
                together.wait()
                ledger.record_decisions(decisions[::step])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(step,)) for step in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ledger.count("decisions", NOON, NOON + timedelta(days=1), through=ledger.last_position("decisions")) == 1200


def test_decisions_are_read_in_pages_by_the_moment_they_were_made(ledger, monkeypatch):
    monkeypatch.setattr("fraud_pipelines.ledger.decision_log.PAGE_ROWS", 2)
    moments = {"late": 5, "b": 1, "a": 1, "c": 1, "d": 3, "before": -1, "after": 24 * 3600}
    for name, seconds in moments.items():
        ledger.record_decisions([decision(name, decided_at=NOON + timedelta(seconds=seconds))])
    everything = ledger.last_position("decisions")
    window = NOON, NOON + timedelta(days=1)
    assert [row.transaction_id for row in ledger.decision_summaries(*window, through=everything)] == [
        "a", "b", "c", "d", "late",
    ]  # fmt: skip
    first, *_ = ledger.decision_summaries(*window, through=everything)
    whole = asdict(decision("a", decided_at=NOON + timedelta(seconds=1))) | {"position": first.position}
    assert asdict(first) == {name: whole[name] for name in asdict(first)}
    # "late" was written first and "b" second: by place in the log these are all there is up to the second.
    second = ledger.arrivals("decisions", after=0, through=everything)[1]
    assert [row.transaction_id for row in ledger.decision_summaries(*window, through=second.position)] == ["b", "late"]
    assert ledger.count("decisions", *window, through=second.position) == 2


def test_logs_tell_in_which_order_rows_arrived(ledger):
    assert (ledger.last_position("decisions"), ledger.last_position("feedback")) == (0, 0)
    for name, day in (("b", 3), ("a", 1), ("b", 9), ("c", 2)):
        ledger.record_decision(decision(name, decided_at=datetime(2026, 1, day)))
    last = ledger.last_position("decisions")
    arrivals = ledger.arrivals("decisions", after=0, through=last)
    assert [(row.key, row.moment.day) for row in arrivals] == [("b", 3), ("a", 1), ("c", 2)]
    assert ledger.arrivals("decisions", after=arrivals[0].position, through=arrivals[1].position) == arrivals[1:2]
    assert arrivals[-1].position == last


def feedback(feedback_id: str = "f1", **changes: object) -> Feedback:
    return replace(Feedback(feedback_id, "t1", "CONFIRMED_FRAUD", "ann", NOON, "called the häuslebauer 🛒"), **changes)


def as_given(rows: list[Feedback]) -> list[Feedback]:
    return [replace(row, position=None, recorded_at=None) for row in rows]


def test_feedback_comes_back_as_it_was_with_the_moment_it_was_stored(ledger):
    ledger.record_feedback([feedback()])
    (stored,) = ledger.feedback_on("t1")
    assert as_given([stored]) == [feedback()]
    assert stored.position == 1
    assert stored.recorded_at > NOON


def test_the_same_feedback_again_changes_nothing(ledger):
    ledger.record_feedback([feedback(), feedback(verdict="PENDING")])
    ledger.record_feedback([feedback(verdict="FALSE_POSITIVE", known_at=NOON + timedelta(days=2)), feedback("f2")])
    assert as_given(ledger.feedback_on("t1")) == [feedback(), feedback("f2")]


def test_what_was_said_of_a_transaction_is_in_the_order_it_was_known(ledger):
    said = [feedback("f9"), feedback("f1", verdict="PENDING", known_at=NOON + timedelta(hours=1))]
    said.append(feedback("f5", verdict="FALSE_POSITIVE", known_at=NOON + timedelta(hours=2)))
    ledger.record_feedback([said[2], feedback("other", transaction_id="t2"), said[0]])
    ledger.record_feedback([said[1]])
    assert as_given(ledger.feedback_on("t1")) == said
    assert ledger.feedback_on("unheard of") == []
    assert as_given(ledger.feedback(NOON, NOON + timedelta(hours=2))) == [
        said[0], feedback("other", transaction_id="t2"), said[1],
    ]  # fmt: skip


def test_a_card_number_in_a_note_is_masked_before_anybody_sees_it():
    assert feedback(note="card 4111 1111 1111 1111 was stolen").note == "card [card number] was stolen"


def test_an_unknown_verdict_is_refused_by_name():
    with pytest.raises(ContractBroken, match=r"f1: expected a verdict of CONFIRMED_FRAUD, .*, found 'MAYBE'"):
        feedback(verdict="MAYBE")


def test_the_champion_of_any_moment_follows_from_the_rows(ledger):
    assert ledger.champion_at() is None
    ledger.record_promotion(promotion("promote", "1", datetime(2026, 1, 1)))
    ledger.record_promotion(promotion("refuse", "2", datetime(2026, 1, 2), "1"))
    ledger.record_promotion(promotion("promote", "3", datetime(2026, 1, 3), "1"))
    ledger.record_promotion(promotion("rollback", "1", datetime(2026, 1, 4), "3"))
    moments = [datetime(2025, 12, 31), datetime(2026, 1, 1), datetime(2026, 1, 2, 12), datetime(2026, 1, 3, 1), None]
    assert [ledger.champion_at(moment) for moment in moments] == [None, "1", "1", "3", "1"]
    assert [row.promotion_id for row in ledger.promotions()] == [1, 2, 3, 4]
    assert ledger.promotions()[1].gates == [{"name": "floor", "value": 0.5}]


def test_the_champion_is_the_newest_row_that_was_no_refusal(ledger):
    assert ledger.champion() is None
    ledger.record_promotion(replace(promotion("promote", "1", NOON), bundle_digest="a" * 64))
    assert ledger.champion() == ("1", "a" * 64, 1, NOON)
    # Rows count, not their times: two machines' clocks may disagree.
    ledger.record_promotion(replace(promotion("promote", "2", datetime(2025, 1, 1), "1"), bundle_digest="b" * 64))
    ledger.record_promotion(replace(promotion("refuse", "3", datetime(2027, 1, 1), "2"), bundle_digest="c" * 64))
    assert ledger.champion() == ("2", "b" * 64, 2, datetime(2025, 1, 1))
    assert [row.bundle_digest for row in ledger.promotions()] == ["a" * 64, "b" * 64, "c" * 64]


def test_a_row_without_digest_is_about_the_bundle_stored_for_its_version(ledger):
    ledger.record_promotion(promotion("promote", "1", NOON))
    assert ledger.champion() == ("1", None, 1, NOON)
    ledger.store_bundle("2", OTHER)
    assert ledger.champion().bundle_digest is None
    ledger.store_bundle("1", BUNDLE)
    assert ledger.champion().bundle_digest == BUNDLE.digest


def stored_bundles(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger._engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(
            "select model_version, bundle_digest from model_bundles order by stored_at"
        )]  # fmt: skip


def test_a_bundle_is_stored_once_and_comes_back_as_it_was(ledger):
    assert ledger.bundle_content(BUNDLE.digest) is None
    ledger.store_bundle("1", BUNDLE)
    ledger.store_bundle("1", BUNDLE)
    ledger.store_bundle("2", OTHER)
    assert stored_bundles(ledger) == [("1", BUNDLE.digest), ("2", OTHER.digest)]
    files = unpack(ledger.bundle_content(BUNDLE.digest), origin="ledger")
    assert files == BUNDLE.contents
    assert Bundle.read(files.__getitem__, origin="ledger", digest=BUNDLE.digest).digest == BUNDLE.digest


def test_processes_that_store_one_bundle_together_store_it_once(ledger):
    failures = []

    def store() -> None:
        try:
            ledger.store_bundle("1", BUNDLE)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored_bundles(ledger) == [("1", BUNDLE.digest)]


def test_a_damaged_bundle_is_replaced_when_it_is_stored_again(ledger):
    ledger.store_bundle("1", BUNDLE)
    with ledger._engine.begin() as connection:
        connection.execute(update(model_bundles).values(content=b"torn"))
    assert ledger.bundle_content(BUNDLE.digest) == b"torn"
    ledger.store_bundle("1", BUNDLE)
    assert ledger.bundle_content(BUNDLE.digest) == pack(BUNDLE.contents)


def test_asking_for_the_champion_waits_for_no_writer(tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.record_promotion(promotion("promote", "1", NOON))
    ledger.store_bundle("1", BUNDLE)
    with ledger._transaction():  # holds SQLite's one write lock: whoever waits for it fails after 30 seconds
        assert ledger.champion().model_version == "1"
        assert ledger.bundle_content(BUNDLE.digest) is not None
    ledger.close()


def test_rows_from_before_bundles_were_kept_stay_as_they_are(url):
    """The tables of revision 0001 with one row, brought up to date."""
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "insert into promotions (kind, model_version, actor, reason, gates, decided_at)"
            " values ('promote', '1', 'ann', 'why', '[]', '2026-01-01 12:00:00.000000')"
        )
    engine.dispose()
    ledger = open_ledger(url)
    assert ledger.promotions() == [Promotion("promote", "1", None, "ann", "why", [], None, datetime(2026, 1, 1, 12), 1)]
    assert (ledger.champion_at(), ledger.champion().bundle_digest) == ("1", None)
    ledger.close()


def test_the_newest_challenge_stands_until_it_ends_and_no_promotion_is_touched(ledger):
    assert ledger.challenger() is None
    ledger.record_promotion(promotion("promote", "1", NOON))
    rows = [
        ledger.record_challenge(Challenge("2", "b" * 64, 0.0, "ann", "compare", NOON)),
        ledger.record_challenge(Challenge("2", "b" * 64, 2.5, "bob", "canary", NOON)),
    ]
    assert ledger.challenger() == CurrentChallenger("2", "b" * 64, 2, NOON, 2.5)
    rows.append(ledger.record_challenge(Challenge(None, None, 0.0, "ann", "enough seen", NOON)))
    assert ledger.challenger() is None
    assert ledger.challenges() == rows
    assert [row.challenge_id for row in rows] == [1, 2, 3]
    assert (ledger.champion_at(), len(ledger.promotions())) == ("1", 1)


def compared(transaction_id: str = "t1", **changes: object) -> ShadowDecision:
    sides = ("1", "a" * 64, 0.1 + 0.2, "REVIEW", "2", "b" * 64, 0.9, "BLOCK")
    return replace(ShadowDecision(transaction_id, NOON, 2**40, *sides, True, NOON), **changes)


def test_what_both_said_is_stored_once_per_payment_and_challenger(ledger):
    ledger.record_shadow_decisions([compared("b"), compared("a"), compared("a", challenger_decision="APPROVE")])
    ledger.record_shadow_decisions([compared("a", challenger_decision="APPROVE"), compared("c")])
    ledger.record_shadow_decisions([compared("a", challenger_digest="c" * 64, is_canary=False)])
    day = (datetime(2026, 1, 1), datetime(2026, 1, 2))
    assert ledger.shadow_decisions("b" * 64, *day) == [compared("a"), compared("b"), compared("c")]
    assert ledger.shadow_decisions("c" * 64, *day) == [compared("a", challenger_digest="c" * 64, is_canary=False)]
    assert ledger.shadow_decisions("b" * 64, datetime(2026, 1, 1), NOON) == []


def test_ingesting_the_same_content_again_replaces_its_row(ledger):
    row = Ingestion("i1", "handbook", "a.parquet", "s", 10, 9, 0, 1, 9, date(2018, 4, 2), date(2018, 4, 3), NOON)
    assert ledger.first_ingested_day() is None
    ledger.record_ingestion(row)
    ledger.record_ingestion(replace(row, rows_loaded=0, rows_duplicate=9))
    ledger.record_ingestion(replace(row, ingestion_id="i2", first_day=date(2018, 4, 1)))
    assert [(found.ingestion_id, found.rows_loaded) for found in ledger.ingestions()] == [("i1", 0), ("i2", 9)]
    assert ledger.first_ingested_day() == date(2018, 4, 1)


def test_reports_keep_their_order(ledger):
    reports = [Report(name, "compliance_report", "1", f"{name}.pdf", "s" * 64, None, NOON) for name in ("b", "a")]
    for report in reports:
        ledger.archive_report(report)
    assert ledger.reports() == reports


def test_an_archived_report_is_never_replaced(ledger):
    report = Report("r1", "compliance_report", "1", "r1.pdf", "a" * 64, None, NOON)
    ledger.archive_report(report)
    ledger.archive_report(report)
    ledger.archive_report(replace(report, created_at=datetime(2026, 1, 2)))  # the same bytes, printed again
    assert ledger.reports() == [report]
    with pytest.raises(ContractBroken, match=f"r1 is archived with SHA-256 {'a' * 64}; {'b' * 64} was offered"):
        ledger.archive_report(replace(report, sha256="b" * 64))
    assert ledger.reports() == [report]


def test_an_api_key_comes_back_as_it_was(ledger):
    first = ApiKey("0" * 16, "checkout", ["score"], "a" * 64, 0.5, 1, "ann", NOON)
    second = ApiKey("1" * 16, "audit", ["auditor", "analyst"], "b" * 64, 200, 400, "bob", NOON, datetime(2027, 1, 1))
    assert ledger.api_keys() == []
    for key in (second, first):
        ledger.add_api_key(key)
    assert ledger.api_keys() == [first, second]


def test_an_api_key_is_revoked_once(ledger):
    key = ApiKey("0" * 16, "checkout", ["score"], "a" * 64, 200, 400, "ann", NOON)
    ledger.add_api_key(key)
    revoked = replace(key, revoked_at=datetime(2026, 1, 2))
    assert ledger.revoke_api_key(key.key_id, at=datetime(2026, 1, 2)) == revoked
    assert ledger.revoke_api_key(key.key_id, at=datetime(2026, 1, 3)) == revoked
    assert ledger.api_keys() == [revoked]
    with pytest.raises(UnknownKey, match="fraud keys list"):
        ledger.revoke_api_key("2" * 16, at=NOON)


def test_sqlite_has_written_to_the_disk_when_a_commit_returns(tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with ledger._engine.connect() as connection:
        # 2 is FULL; with NORMAL a power failure takes the last decisions (sqlite.org/pragma.html, synchronous).
        assert connection.exec_driver_sql("pragma synchronous").scalar() == 2
    ledger.close()


def test_processes_that_open_a_new_ledger_together_create_it_once(url):
    open_ledger.cache_clear()
    failures = []

    def start() -> None:
        try:
            open_ledger.__wrapped__(url).promotions()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_ledger_from_before_feedback_keeps_its_decisions_and_numbers_them(url):
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, text

    from fraud_pipelines.ledger.database import MIGRATIONS

    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True) if "sqlite" in url else None
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for name in ("b", "c", "a"):
            connection.execute(
                text(
                    "insert into decisions (transaction_id, event_time, card_id, merchant_id, decision, "
                    "fraud_probability, thresholds, reasons, features, request, decided_at) values "
                    "(:name, '2026-01-01 12:00:00.123456', 'c1', 'm1', 'REVIEW', 0.1, '{}', '[]', "
                    """'{"amount": 0.3}', '{}', '2026-01-01 12:00:00.123456')"""
                ),
                {"name": name},
            )
    ledger = open_ledger(url)
    ledger.record_decisions([decision("a"), decision("d")])
    arrivals = ledger.arrivals("decisions", after=0, through=ledger.last_position("decisions"))
    assert [row.key for row in arrivals] == ["b", "c", "a", "d"]
    kept = ledger.decision("a")
    assert (kept.event_time, kept.fraud_probability, kept.features) == (NOON, 0.1, {"amount": 0.3})
    ledger.close()


def test_the_migrations_lead_to_the_schema_the_code_expects(url):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from fraud_pipelines.ledger.schema import metadata

    open_ledger(url).close()
    with create_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_file_of_the_version_before_keeps_its_pages_and_every_commit_is_synced(tmp_path):
    """A page size is of the file; a decision must be on disk when it is recorded (rule 7), in old and new ones."""
    for name, page_bytes in (("old", 4096), ("new", 16384)):
        path = tmp_path / f"{name}.sqlite"
        if name == "old":
            with sqlite3.connect(path) as connection:
                connection.execute(f"pragma page_size = {page_bytes}")
                connection.execute("create table of_old (a)")
        ledger = open_ledger(f"sqlite:///{path}")
        ledger.record_rows([([row("t1", "REVIEW", 0.5)], {"s" * 64: ["a", "b"]})])
        assert ledger.decision("t1").decision == "REVIEW"
        with ledger._engine.connect() as connection:
            found = [connection.exec_driver_sql(f"pragma {name}").scalar() for name in ("page_size", "synchronous")]
        assert found == [page_bytes, 2]
        ledger.close()


def test_an_unknown_scheme_names_the_setting():
    with pytest.raises(SettingInvalid, match="FRAUD_LEDGER_URL"):
        open_ledger("mongodb://somewhere")


def test_a_server_that_is_away_is_a_retryable_error_without_the_password():
    with pytest.raises(LedgerUnavailable) as caught:
        open_ledger("postgresql+psycopg2://u:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def row(transaction_id: str, decision: str, probability: float | None, model_version: str | None = "1") -> DecisionRow:
    return DecisionRow(
        transaction_id, written(NOON), "tok_" + "0" * 32, "m1", decision, probability, None, model_version, None, "{}",
        "[]", "[1.5,null]", "s" * 64, "{}", None, written(NOON), '{"decision":"' + decision + '"}',
    )  # fmt: skip


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_a_moment_is_written_the_same_from_microseconds(moment):
    assert written_us([(moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)]) == [written(moment)]


def test_of_two_rows_for_one_transaction_the_first_stays_whatever_they_hold(ledger):
    names = {"s" * 64: ["a", "b"]}
    ledger.record_rows([([row("t2", "REVIEW", 0.5), row("t1", "REVIEW", 0.4), row("t2", "BLOCK", None)], names)])
    later = [row("t1", "APPROVE", None), row("t3", "BLOCK", None)]
    ledger.record_rows([([row("t3", "REVIEW", 0.3)], names), (later, names)])
    kept = ledger.decisions_on(["t1", "t2", "t3"])
    assert {id_: found.decision for id_, found in kept.items()} == {"t1": "REVIEW", "t2": "REVIEW", "t3": "REVIEW"}
    assert kept["t2"].features == {"a": 1.5, "b": None}
    assert kept["t2"].answer == {"decision": "REVIEW"}


def test_what_was_decided_since_a_moment_whatever_its_event_time(ledger):
    assert ledger.decided_since(NOON, most=3) == {}
    for number, (event, decided) in enumerate([(9, 0), (1, 4), (2, 2), (3, 3)]):
        at, by = NOON + timedelta(hours=event), NOON + timedelta(hours=decided)
        made = row(f"t{number}", "REVIEW", 0.5)._replace(event_time=written(at), decided_at=written(by))
        ledger.record_rows([([made], {"s" * 64: ["a", "b"]})])
    since = NOON + timedelta(hours=2)
    assert ledger.decided_since(since, most=3) == {f"t{number}": NOON + timedelta(hours=number) for number in (1, 2, 3)}
    assert ledger.decided_since(since, most=2) is None


def test_a_row_comes_back_whatever_characters_it_holds(ledger):
    odd = "\\N \\. \t\n\r\x0b\x85\u2028 \\\\t 商店 \"'%s"
    for written_as in (odd, "\\N", "\\.", "", "NULL"):
        given = row(written_as, "REVIEW", 0.1 + 0.2, odd)._replace(
            merchant_id=odd, fallback="", request=orjson.dumps({"odd": odd}).decode(), anomaly_score=5e-324
        )
        ledger.record_rows([([given], {"s" * 64: ["a", "b"]})])
        kept = ledger.decision(written_as)
        assert (kept.transaction_id, kept.merchant_id, kept.model_version) == (written_as, odd, odd)
        assert (kept.bundle_digest, kept.fallback, kept.request) == (None, "", {"odd": odd})
        assert (kept.fraud_probability, kept.anomaly_score) == (0.1 + 0.2, 5e-324)


def test_a_row_that_breaks_a_rule_of_the_table_is_told_apart_from_an_outage(ledger):
    for broken in (row(None, "REVIEW", 0.5), row("t1", "REVIEW", 0.5)._replace(merchant_id=None)):
        with pytest.raises((DataError, IntegrityError)):
            ledger.record_rows([([broken], {})])
    assert ledger.last_position("decisions") == 0


def test_what_ends_a_batch_leaves_neither_rows_nor_names_of_the_pieces_before(ledger):
    names = {"s" * 64: ["a", "b"]}

    def pieces():
        yield [row("t1", "REVIEW", 0.5)], names
        yield [row("t2", "REVIEW", 0.5)], names
        raise ContractBroken("the third piece cannot be read")

    with pytest.raises(ContractBroken, match="third"):
        ledger.record_rows(pieces())
    assert ledger.decisions_on(["t1", "t2"]) == {}
    assert ledger.feature_names("s" * 64) is None
    ledger.record_rows([([row("t1", "REVIEW", 0.5)], names)])
    assert ledger.decision("t1").features == {"a": 1.5, "b": None}


def test_pieces_of_any_size_are_stored_whole(ledger):
    sizes = [1, PIECE_ROWS - 1, PIECE_ROWS, 2, PIECE_ROWS]
    names = {"s" * 64: ["a", "b"]}
    ids = [[f"t{piece}-{number}" for number in range(size)] for piece, size in enumerate(sizes)]
    ledger.record_rows([([row(transaction_id, "REVIEW", 0.5) for transaction_id in piece], names) for piece in ids])
    assert ledger.last_position("decisions") == sum(sizes)
    assert ledger.decisions_on(list(chain(*ids))).keys() == set(chain(*ids))
