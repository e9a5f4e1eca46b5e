from datetime import date, datetime
from types import SimpleNamespace

import pytest

from fraud_pipelines.errors import PermanentError, SourceInvalid
from fraud_pipelines.ledger import Ingestion, open_ledger
from fraud_pipelines.orchestration.partitions import (
    EARLIEST_DAY,
    Window,
    first_partition_day,
    window_between,
    window_of,
)


def context(**tags: str) -> SimpleNamespace:
    names = {"start": "asset_partition_range_start", "end": "asset_partition_range_end", "partition": "partition"}
    run = SimpleNamespace(tags={f"dagster/{names[name]}": value for name, value in tags.items()})
    return SimpleNamespace(run=run)


def test_a_single_partition_is_one_half_open_day():
    assert window_of(context(partition="2026-02-28")) == Window(datetime(2026, 2, 28), datetime(2026, 3, 1))


def test_a_range_in_one_run_ends_after_its_last_day():
    window = window_of(context(start="2025-12-30", end="2026-01-01"))
    assert window == Window(datetime(2025, 12, 30), datetime(2026, 1, 2))
    assert [day.first_key for day in window.days()] == ["2025-12-30", "2025-12-31", "2026-01-01"]
    assert (window.first_key, window.last_key, str(window)) == ("2025-12-30", "2026-01-01", "2025-12-30 to 2026-01-01")


def test_a_run_without_days_says_what_to_do():
    with pytest.raises(PermanentError, match="fraud materialize"):
        window_of(context())


def test_partitions_begin_on_the_first_day_ingested_unless_a_setting_says_otherwise(tmp_settings):
    assert first_partition_day(tmp_settings) == EARLIEST_DAY
    open_ledger(tmp_settings.ledger_url).record_ingestion(
        Ingestion("i", "handbook", "a", "s", 1, 1, 0, 0, 1, date(2018, 4, 1), date(2018, 4, 2))
    )
    assert first_partition_day(tmp_settings) == date(2018, 4, 1)
    assert first_partition_day(tmp_settings.model_copy(update={"start_date": date(2019, 1, 1)})) == date(2019, 1, 1)


def test_labels_of_days_to_come_do_not_ask_for_partitions_that_do_not_exist():
    from fraud_pipelines.orchestration.ingesting import ingestible_window
    from fraud_pipelines.orchestration.partitions import daily_partitions

    last = date.fromisoformat(daily_partitions.get_last_partition_key())
    window = ingestible_window(last, date(last.year + 1, 1, 1))
    assert window == window_between(last.isoformat(), last.isoformat())


def test_a_source_before_the_first_partition_names_the_setting():
    from fraud_pipelines.orchestration.ingesting import ingestible_window

    with pytest.raises(SourceInvalid, match="FRAUD_START_DATE=1999-01-01"):
        ingestible_window(date(1999, 1, 1), date(1999, 1, 2))
