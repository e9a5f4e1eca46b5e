"""Daily partitions, UTC, half open; defined once. Model versions and documents are not partitions."""

from datetime import date, datetime, timedelta
from typing import NamedTuple

import dagster as dg

from fraud_pipelines.errors import PermanentError
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.settings import Settings, load_settings

# Before anything is ingested: early enough for the data sets whose mappings are shipped.
EARLIEST_DAY = date(2018, 1, 1)


class Window(NamedTuple):
    """[since, until), naive UTC."""

    since: datetime
    until: datetime

    @classmethod
    def of_day(cls, start: datetime) -> "Window":
        """The day that begins at `start`."""
        return cls(start, start + timedelta(days=1))

    def days(self) -> list["Window"]:
        """The window cut into days."""
        count = (self.until - self.since).days
        return [Window.of_day(self.since + timedelta(days=offset)) for offset in range(count)]

    @property
    def first_key(self) -> str:
        return self.since.date().isoformat()

    @property
    def last_key(self) -> str:
        return (self.until - timedelta(days=1)).date().isoformat()

    def __str__(self) -> str:
        return self.first_key if self.first_key == self.last_key else f"{self.first_key} to {self.last_key}"


def first_partition_day(settings: Settings) -> date:
    """FRAUD_START_DATE where set, else the first day ever ingested, else 2018-01-01."""
    return settings.start_date or open_ledger(settings.ledger_url).first_ingested_day() or EARLIEST_DAY


# The day that has begun is a partition, too: its first files may come before it ends. The daily run takes the last
daily_partitions = dg.DailyPartitionsDefinition(
    start_date=first_partition_day(load_settings()).isoformat(), end_offset=1
)


def window_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Window:
    """The days of this run: one partition, or a range of them in a single run.

    Raises:
        PermanentError: the run has no partition.
    """
    run = context.run
    start = run.tags.get("dagster/asset_partition_range_start") or run.tags.get("dagster/partition")
    end = run.tags.get("dagster/asset_partition_range_end") or start
    if start is None or end is None:
        raise PermanentError(
            f"{context.op_handle.name if hasattr(context, 'op_handle') else 'This step'} works on days, "
            "and this run names none. Choose a partition in the launchpad, or run: "
            "fraud materialize ASSET --from 2026-01-01 --to 2026-01-31"
        )
    return window_between(start, end)


def window_between(first_key: str, last_key: str) -> Window:
    """From the first moment of `first_key` to the last of `last_key` (ISO days, both inclusive)."""
    return Window(datetime.fromisoformat(first_key), datetime.fromisoformat(last_key) + timedelta(days=1))
