"""Which ledger rows count at which moment of the data, by hand."""

from dataclasses import replace
from datetime import date, datetime

import pytest

from fraud_pipelines.compliance.known import (
    are_labels_whole,
    champion_of,
    data_end,
    is_whole,
    known_ingestions,
    known_promotions,
)
from fraud_pipelines.ledger import Ingestion, Promotion


def source(first: date | None, last: date | None, recorded: datetime) -> Ingestion:
    return Ingestion(f"i{recorded:%d%H}", "simulator", "file", "00", 1, 1, 0, 0, 1, first, last, recorded)


def decided(kind: str, version: str, as_of: datetime | None, at: datetime) -> Promotion:
    return Promotion(kind, version, None, "someone", "why", [], as_of, at)


# A live installation: each day's file arrives on the next morning.
LIVE = [source(date(2026, 3, day), date(2026, 3, day), datetime(2026, 3, day + 1, 6)) for day in range(1, 29)]
LIVE_ROWS = [
    decided("promote", "1", datetime(2026, 3, 9), datetime(2026, 3, 9, 7)),
    decided("promote", "2", datetime(2026, 3, 16), datetime(2026, 3, 16, 7)),
    decided("rollback", "1", None, datetime(2026, 3, 18, 15)),  # the data then ended on 17 March
    decided("refuse", "3", datetime(2026, 3, 23), datetime(2026, 3, 23, 7)),
]


@pytest.mark.parametrize(
    ("day", "rows", "champion"),
    [(8, 0, None), (9, 1, "1"), (15, 1, "1"), (16, 2, "2"), (17, 2, "2"), (18, 3, "1"), (22, 3, "1"), (23, 4, "1")],
)
def test_live_data_day_by_day(day, rows, champion):
    known = known_promotions(LIVE_ROWS, LIVE, datetime(2026, 3, day))
    assert known == LIVE_ROWS[:rows]
    assert champion_of(known) == champion


def test_historical_data_counts_by_its_own_time():
    """Data of 2018, ingested and decided on in 2026: the wall clock says nothing about when."""
    sources = [source(date(2018, 4, 1), date(2018, 9, 30), datetime(2026, 5, 1, 9))]
    rows = [
        decided("promote", "1", datetime(2018, 7, 1), datetime(2026, 5, 1, 10)),
        decided("promote", "2", datetime(2018, 8, 1), datetime(2026, 5, 1, 11)),
        decided("rollback", "1", None, datetime(2026, 5, 1, 12)),  # all data was there: it counts from its end
    ]
    moments = {datetime(2018, 6, 30): None, datetime(2018, 7, 15): "1", datetime(2018, 9, 30): "2"}
    assert {moment: champion_of(known_promotions(rows, sources, moment)) for moment in moments} == moments
    assert champion_of(known_promotions(rows, sources, datetime(2018, 10, 1))) == "1"


def test_a_rollback_never_counts_before_what_it_takes_back():
    rows = [LIVE_ROWS[0], LIVE_ROWS[1], LIVE_ROWS[2]]
    assert known_promotions(rows, [], datetime(2026, 3, 15)) == rows[:1]  # no source recorded: from 16 March on
    assert known_promotions(rows, [], datetime(2026, 3, 16)) == rows


def test_sources_count_once_they_have_begun_and_whole_once_they_have_ended():
    march = source(date(2026, 3, 1), date(2026, 3, 31), datetime(2026, 4, 1, 6))
    assert known_ingestions([march], datetime(2026, 3, 1)) == []
    assert known_ingestions([march], datetime(2026, 3, 1, 0, 1)) == [march]
    assert not is_whole(march, datetime(2026, 3, 31, 23))
    assert is_whole(march, datetime(2026, 4, 1))


def test_a_source_without_a_readable_day_counts_from_the_data_it_was_loaded_beside():
    broken = source(None, None, datetime(2026, 3, 18, 15))
    assert broken not in known_ingestions([*LIVE, broken], datetime(2026, 3, 17))
    assert broken in known_ingestions([*LIVE, broken], datetime(2026, 3, 18))


def test_the_end_of_the_data_is_a_midnight():
    assert data_end(LIVE, by=datetime(2026, 3, 18, 15)) == datetime(2026, 3, 18)
    assert data_end(LIVE, by=datetime(2026, 3, 1)) is None


def test_labels_that_arrive_later_do_not_hide_the_counts_of_the_transactions():
    march = source(date(2026, 3, 1), date(2026, 4, 7), datetime(2026, 4, 8))
    march = replace(march, last_event_day=date(2026, 3, 31))
    assert is_whole(march, datetime(2026, 4, 1))
    assert not are_labels_whole(march, datetime(2026, 4, 1))
    assert are_labels_whole(march, datetime(2026, 4, 8))
