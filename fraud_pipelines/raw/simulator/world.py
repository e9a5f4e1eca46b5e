"""Putting a world together: payments of all kinds in order of time, their labels, and the files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud_pipelines.raw.simulator.config import SimulationConfig, letters_of
from fraud_pipelines.raw.simulator.fraud import fraudulent_payments
from fraud_pipelines.raw.simulator.payments import DAY, Directory, Payments, genuine_payments, joined
from fraud_pipelines.raw.simulator.population import (
    CATEGORY_NAMES,
    CHANNELS,
    ONLINE,
    Cards,
    Merchants,
    make_cards,
    make_customers,
    make_merchants,
)


@dataclass(frozen=True)
class SimulatedWorld:
    """`transactions`: one row per payment in order of time, with is_fraud, scenario (null when genuine),
    label_known_at and label_source. `customers`: one row per customer."""

    config: SimulationConfig
    transactions: pd.DataFrame
    customers: pd.DataFrame


def simulate(config: SimulationConfig) -> SimulatedWorld:
    """The world of `config`; a million transactions take seconds."""
    customers, cards, merchants = make_customers(config), make_cards(config), make_merchants(config)
    frauds = round(config.transaction_count * config.fraud_share)
    parts = [genuine_payments(config, config.transaction_count - frauds, cards, merchants, Directory(merchants))]
    if frauds:
        parts.append(fraudulent_payments(config, frauds, cards, merchants))
    payments = joined(parts)
    payments = payments.where((payments.second >= 0) & (payments.second < config.days * DAY))
    order = np.lexsort((payments.amount_eur, payments.merchant, payments.card, payments.second))
    return SimulatedWorld(config, _frame(config, payments.where(order), cards, merchants, customers), customers)


def write(world: SimulatedWorld, folder: str | Path) -> Path:
    """Write transactions.parquet and customers.parquet into `folder`, which is created; the same world, the same
    bytes. Other files there stay."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("transactions", world.transactions), ("customers", world.customers)):
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    return folder


def _frame(
    config: SimulationConfig, payments: Payments, cards: Cards, merchants: Merchants, customers: pd.DataFrame
) -> pd.DataFrame:
    occurred = np.datetime64(config.start, "us") + payments.second.astype("timedelta64[s]").astype("timedelta64[us]")
    is_fraud = payments.scenario != ""
    known, source = _labels(config, occurred, is_fraud)
    card, merchant = payments.card, payments.merchant
    return pd.DataFrame(
        {
            "transaction_id": _identifiers(config, payments.second),
            "occurred_at": occurred,
            "card_number": cards.number[card],
            "customer": customers["customer"].to_numpy()[cards.customer[card]],
            "merchant": merchants.name[merchant],
            "amount": payments.amount_eur,
            "currency": "EUR",
            "category": CATEGORY_NAMES[merchants.category[merchant]],
            "channel": CHANNELS[merchants.channel[merchant]],
            "country": merchants.country[merchant],
            "device": _device_names(payments, merchants.channel[merchant]),
            "home_latitude": cards.latitude[card],
            "home_longitude": cards.longitude[card],
            "merchant_latitude": merchants.latitude[merchant],
            "merchant_longitude": merchants.longitude[merchant],
            "is_fraud": is_fraud,
            "scenario": pd.Series(payments.scenario).where(is_fraud, None),
            "label_known_at": known,
            "label_source": source,
        }
    )


def _identifiers(config: SimulationConfig, second: np.ndarray) -> np.ndarray:
    """Start, short hash of the configuration and position: two worlds can be ingested into one warehouse.

    What comes before a drift is the same as without it, and so are its identifiers; from then on they are others.
    """
    settled, drifting = f"{config.start:%y%m%d}-{config.settled.digest}-", f"{config.start:%y%m%d}-{config.digest}-"
    is_settled = second < config.days_before_drift * DAY
    return np.char.add(np.where(is_settled, settled, drifting), np.char.zfill(np.arange(len(second)).astype(str), 8))


def _device_names(payments: Payments, channel: np.ndarray) -> pd.Series:
    """Null outside online payments. Names look alike, whoever holds the device."""
    own = payments.card * 2 + payments.device
    strange = 2_000_000_000 + payments.device
    number = np.where(payments.device >= 2, strange, own).astype(np.uint64)
    # A fixed odd multiplier scatters the numbers, so that a stranger's device is not the one with the high number.
    scattered = number * np.uint64(0x9E3779B97F4A7C15)
    unique, inverse = np.unique(scattered, return_inverse=True)
    # Sixteen hexadecimal digits are now and then all decimal, and then one in ten passes for a card number.
    names = np.array([f"dev-{letters_of(f'{value:016x}')}" for value in unique.tolist()], dtype=object)[inverse]
    return pd.Series(names).where(channel == ONLINE, None)


def _labels(config: SimulationConfig, occurred: np.ndarray, is_fraud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When each label becomes known, and from whom: genuine when the maturity period ends, fraud before.

    A chargeback takes a log-normal delay with median 2.5 days, an analyst's verdict (one fraud in four) 6 hours; what
    would take longer than the maturity period is spread over its last half.
    """
    rng = np.random.default_rng([config.seed, 7, config.start.toordinal()])
    count = len(occurred)
    # One row of draws per payment, so that what follows a drift cannot move the labels before it.
    chance = rng.random((count, 4))
    normal = np.sqrt(-2 * np.log1p(-chance[:, 0])) * np.cos(2 * np.pi * chance[:, 1])  # Box and Muller, 1958
    by_analyst = chance[:, 2] < 0.25
    days = np.where(by_analyst, 0.25, 2.5 * config.maturity_days / 7) * np.exp(0.7 * normal)
    late = days > 0.97 * config.maturity_days
    days = np.where(late, config.maturity_days * (0.5 + 0.47 * chance[:, 3]), days)
    days = np.where(is_fraud, days, config.maturity_days)
    known = occurred + np.floor(days * DAY).astype("timedelta64[s]").astype("timedelta64[us]")
    return known, np.where(is_fraud, np.where(by_analyst, "analyst", "chargeback"), "matured")
