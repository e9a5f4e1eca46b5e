"""The suite that guards raw.transactions, and how to run a suite on a frame quietly.

Great Expectations is imported inside the functions: it costs seconds that only a run of the suite should pay.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from fraud_pipelines import limits
from fraud_pipelines.raw.contract import CHANNELS
from fraud_pipelines.raw.currencies import USABLE
from fraud_pipelines.raw.tokens import mask_card_numbers

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

# What the suite looks at; reading no more keeps a year of days in memory.
COLUMNS = (
    "transaction_id", "event_time", "card_id", "merchant_id", "amount_minor", "currency", "channel", "country",
    "home_latitude", "home_longitude", "merchant_latitude", "merchant_longitude",
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What one expectation of a suite found. `error` is set when it could not be computed, which is no verdict."""

    name: str
    passed: bool
    unexpected_count: int
    observed: str
    error: str | None = None


def transactions_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of raw.transactions (COLUMNS) as the suite takes them: the time also as microseconds since 1970, repeated
    text as categories, which the library reads many times faster."""
    repeated = ("card_id", "merchant_id", "currency", "channel", "country")
    frame = rows.astype(dict.fromkeys(repeated, "category"))
    frame["event_time_us"] = rows["event_time"].astype("datetime64[us]").astype("int64")
    return frame.drop(columns="event_time")


def transactions_suite(since: datetime, until: datetime) -> "list[Expectation]":
    """What every transaction of [since, until) must be."""
    import great_expectations.expectations as gxe

    required = ("transaction_id", "event_time_us", "card_id", "merchant_id", "amount_minor", "currency")
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in required),
        gxe.ExpectColumnValuesToBeUnique(column="transaction_id"),
        # Compared as microseconds: element by element comparison of times costs seconds in a year of days.
        gxe.ExpectColumnValuesToBeBetween(
            column="event_time_us", min_value=_microseconds(since), max_value=_microseconds(until) - 1
        ),
        gxe.ExpectColumnValuesToBeBetween(column="amount_minor", min_value=0, max_value=limits.LARGEST_AMOUNT_MINOR),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="currency", value_set=sorted(USABLE)),
        # Amounts become features without their currency.
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="currency", max_value=1),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="channel", value_set=list(CHANNELS)),
        gxe.ExpectColumnValueLengthsToEqual(column="country", value=2),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=f"{place}_{axis}", min_value=-largest, max_value=largest)
            for place in ("home", "merchant")
            for axis, largest in (("latitude", 90), ("longitude", 180))
        ),
    ]


def run_suite(frame: pd.DataFrame, expectations: "list[Expectation]") -> list[Expected]:
    """Validate a frame, each expectation on its own.

    An expectation that raises inside the library comes back as unsuccessful without an exception; it is told apart
    here by its exception_info. Columns without any value are left out: there is nothing to expect of them.
    """
    import great_expectations as gx
    from great_expectations.core.expectation_suite import ExpectationSuite

    gx_context = gx.get_context(mode="ephemeral")
    gx_context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
    batch = (
        gx_context.data_sources.add_pandas("frames")
        .add_dataframe_asset("frame")
        .add_batch_definition_whole_dataframe("whole")
        .get_batch({"dataframe": frame})
    )
    chosen = [item for item in expectations if not _is_about_nothing(item, frame)]
    result = batch.validate(ExpectationSuite(name="suite", expectations=chosen), result_format="BASIC")
    return [_expected(item.to_json_dict()) for item in result.results]


def _is_about_nothing(expectation: Any, frame: pd.DataFrame) -> bool:
    column = getattr(expectation, "column", None)
    is_about_null = expectation.expectation_type == "expect_column_values_to_not_be_null"
    return column in frame.columns and not is_about_null and bool(frame[column].isna().all()) and len(frame) > 0


def _expected(result: dict[str, Any]) -> Expected:
    config = result["expectation_config"]
    column = config["kwargs"].get("column")
    details = result.get("result") or {}
    return Expected(
        name=f"{config['type']}({column})" if column else config["type"],
        passed=bool(result["success"]),
        unexpected_count=int(details.get("unexpected_count") or 0),
        observed=mask_card_numbers(str(details.get("observed_value", details.get("partial_unexpected_list", ""))))[
            :200
        ],
        error=_error(result.get("exception_info") or {}),
    )


def _error(info: dict[str, Any]) -> str | None:
    """The message of what went wrong inside the library; it nests one entry per metric."""
    entries = [info] if "raised_exception" in info else [item for item in info.values() if isinstance(item, dict)]
    raised = [str(item.get("exception_message")) for item in entries if item.get("raised_exception")]
    return raised[0] if raised else None


def _microseconds(moment: datetime) -> int:
    return int(pd.Timestamp(moment).value) // 1000  # value is nanoseconds
