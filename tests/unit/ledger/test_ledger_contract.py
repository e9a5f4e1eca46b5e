"""One behavioural suite for every ledger: SQLite and a real PostgreSQL."""

import threading
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest

from fraud_pipelines.errors import ContractBroken, LedgerUnavailable, SettingInvalid, UnknownKey
from fraud_pipelines.ledger import ApiKey, Decision, Ingestion, Ledger, Promotion, Report, open_ledger

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456)


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
    for name, time in times.items():
        ledger.record_decision(decision(name, event_time=time))
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


def test_the_migrations_lead_to_the_schema_the_code_expects(url):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import create_engine

    from fraud_pipelines.ledger.schema import metadata

    open_ledger(url).close()
    with create_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_unknown_scheme_names_the_setting():
    with pytest.raises(SettingInvalid, match="FRAUD_LEDGER_URL"):
        open_ledger("mongodb://somewhere")


def test_a_server_that_is_away_is_a_retryable_error_without_the_password():
    with pytest.raises(LedgerUnavailable) as caught:
        open_ledger("postgresql+psycopg2://u:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
