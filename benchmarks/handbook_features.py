"""The features of the Fraud Detection Handbook the way its notebook computes them: pandas, one group after the other.

Source: Le Borgne et al., 2022, Chapter_3/BaselineFeatureTransformation.ipynb: rolling sums and counts of 1, 7 and 30
days per customer; per terminal the same of frauds, as the difference of a window that is 7 days longer and one of 7
days; and two flags per transaction. Written anew, in the same steps, so that its time can stand for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud_pipelines.warehouse import Warehouse

WINDOWS_DAYS = (1, 7, 30)
DELAY_DAYS = 7
# Ours for the handbook's: its amount and two flags, customer counts and means, terminal counts and risks.
OURS = (
    *("amount", "is_weekend", "is_night"),
    *(f"card_{what}_{window}" for window in ("24h", "7d", "30d") for what in ("count", "amount_mean")),
    *(f"merchant_{what}_{window}" for window in ("1d", "7d", "30d") for what in ("label_count", "fraud_share")),
)

_FLAGS = ("TX_DURING_WEEKEND", "TX_DURING_NIGHT")
_OF_CUSTOMERS = tuple(
    f"CUSTOMER_ID_{what}_{days}DAY_WINDOW" for days in WINDOWS_DAYS for what in ("NB_TX", "AVG_AMOUNT")
)


@dataclass(frozen=True)
class Measured:
    """CPU microseconds per row of the handbook's three steps, and the groups and rows they were measured on."""

    customers: int
    customer_rows: int
    terminals: int
    terminal_rows: int
    flags_us_per_row: float
    customers_us_per_row: float
    terminals_us_per_row: float

    @property
    def cpu_us_per_row(self) -> float:
        return self.flags_us_per_row + self.customers_us_per_row + self.terminals_us_per_row


def read(warehouse: Warehouse) -> pd.DataFrame:
    """The raw tables as the notebook has them: one row per transaction with its label, sorted by time."""
    rows = warehouse.query_arrow(
        'select t.transaction_id as "TRANSACTION_ID", t.event_time as "TX_DATETIME", t.card_id as "CUSTOMER_ID", '
        't.merchant_id as "TERMINAL_ID", t.amount_minor / 100.0 as "TX_AMOUNT", '
        'cast(coalesce(l.is_fraud, 0) as bigint) as "TX_FRAUD" from raw.transactions t left join '
        "(select transaction_id, max(cast(is_fraud as bigint)) as is_fraud from raw.labels group by transaction_id) l "
        "on l.transaction_id = t.transaction_id order by t.event_time, t.transaction_id"
    )
    found = rows.to_pandas()
    # Columns that its features do not use and its steps carry along.
    seconds = (found["TX_DATETIME"] - found["TX_DATETIME"].min().floor("D")).dt.total_seconds().astype("int64")
    return found.assign(TX_TIME_SECONDS=seconds, TX_TIME_DAYS=seconds // 86_400, TX_FRAUD_SCENARIO=found["TX_FRAUD"])


def measure(transactions: pd.DataFrame, *, customers: int, terminals: int, seed: int = 0) -> Measured:
    """Time the notebook's steps on a sample of whole groups: the cost is per group, so rows alone would mislead."""
    of_customers = _sample(transactions, "CUSTOMER_ID", customers, seed)
    of_terminals = _sample(transactions, "TERMINAL_ID", terminals, seed)
    both = pd.concat([of_customers, of_terminals])
    # Each step works on the frame that the one before it left.
    of_customers = of_customers.assign(**dict.fromkeys(_FLAGS, 0))
    of_terminals = of_terminals.assign(**dict.fromkeys(_FLAGS, 0), **dict.fromkeys(_OF_CUSTOMERS, 0.0))
    return Measured(
        customers=of_customers["CUSTOMER_ID"].nunique(),
        customer_rows=len(of_customers),
        terminals=of_terminals["TERMINAL_ID"].nunique(),
        terminal_rows=len(of_terminals),
        flags_us_per_row=_cpu_us(lambda: flags(both)) / len(both),
        customers_us_per_row=_cpu_us(lambda: customer_features(of_customers)) / len(of_customers),
        terminals_us_per_row=_cpu_us(lambda: terminal_features(of_terminals)) / len(of_terminals),
    )


def flags(transactions: pd.DataFrame) -> pd.DataFrame:
    """TX_DURING_WEEKEND and TX_DURING_NIGHT, by a Python function per row."""
    return transactions.assign(
        TX_DURING_WEEKEND=transactions["TX_DATETIME"].apply(lambda moment: int(moment.weekday() >= 5)),
        TX_DURING_NIGHT=transactions["TX_DATETIME"].apply(lambda moment: int(moment.hour <= 6)),
    )


def customer_features(transactions: pd.DataFrame) -> pd.DataFrame:
    """Count and mean amount per customer and window, the present transaction included."""
    return _per_group(transactions, "CUSTOMER_ID", _of_customer)


def terminal_features(transactions: pd.DataFrame) -> pd.DataFrame:
    """Count and share of frauds per terminal and window, as known a delay later; 0 without any."""
    return _per_group(transactions, "TERMINAL_ID", _of_terminal)


def _per_group(transactions: pd.DataFrame, key: str, features: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    found = transactions.groupby(key).apply(features)
    return found.sort_values("TX_DATETIME").reset_index(drop=True)


def _of_customer(group: pd.DataFrame) -> pd.DataFrame:
    group = group.sort_values("TX_DATETIME")
    group.index = pd.DatetimeIndex(group["TX_DATETIME"])
    for days in WINDOWS_DAYS:
        rolling = f"{days}D"
        total = group["TX_AMOUNT"].rolling(rolling).sum()
        count = group["TX_AMOUNT"].rolling(rolling).count()
        group[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = list(count)
        group[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = list(total / count)
    group.index = pd.Index(group["TRANSACTION_ID"])
    return group


def _of_terminal(group: pd.DataFrame) -> pd.DataFrame:
    group = group.sort_values("TX_DATETIME")
    group.index = pd.DatetimeIndex(group["TX_DATETIME"])
    delayed_frauds = group["TX_FRAUD"].rolling(f"{DELAY_DAYS}D").sum()
    delayed_count = group["TX_FRAUD"].rolling(f"{DELAY_DAYS}D").count()
    for days in WINDOWS_DAYS:
        rolling = f"{DELAY_DAYS + days}D"
        frauds = group["TX_FRAUD"].rolling(rolling).sum() - delayed_frauds
        count = group["TX_FRAUD"].rolling(rolling).count() - delayed_count
        group[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = list(count)
        group[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = list(frauds / count)
    group.index = pd.Index(group["TRANSACTION_ID"])
    return group.fillna(0)


def _sample(transactions: pd.DataFrame, key: str, groups: int, seed: int) -> pd.DataFrame:
    known = np.sort(transactions[key].unique())
    chosen = np.random.default_rng(seed).choice(known, size=min(groups, len(known)), replace=False)
    return transactions[transactions[key].isin(chosen)]


def _cpu_us(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1e6
