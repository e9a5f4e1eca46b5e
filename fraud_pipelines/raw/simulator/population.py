"""Who pays, with which card, where they live; and who is paid. All arrays are indexed by card or merchant number."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud_pipelines.raw.simulator.config import SimulationConfig

# City, country, latitude, longitude, share of cardholders.
CITIES: tuple[tuple[str, str, float, float, float], ...] = (
    ("Berlin", "DE", 52.52, 13.41, 0.11), ("Hamburg", "DE", 53.55, 9.99, 0.07), ("Munich", "DE", 48.14, 11.58, 0.08),
    ("Cologne", "DE", 50.94, 6.96, 0.07), ("Leipzig", "DE", 51.34, 12.37, 0.04), ("Paris", "FR", 48.86, 2.35, 0.12),
    ("Lyon", "FR", 45.76, 4.84, 0.05), ("Marseille", "FR", 43.30, 5.37, 0.04), ("Milan", "IT", 45.46, 9.19, 0.07),
    ("Rome", "IT", 41.90, 12.50, 0.06), ("Madrid", "ES", 40.42, -3.70, 0.07), ("Barcelona", "ES", 41.39, 2.17, 0.05),
    ("Amsterdam", "NL", 52.37, 4.90, 0.06), ("Vienna", "AT", 48.21, 16.37, 0.05), ("Brussels", "BE", 50.85, 4.35, 0.04),
    ("Warsaw", "PL", 52.23, 21.01, 0.02),
)  # fmt: skip
# Online shops sit in these countries besides the cardholders' own: country, latitude, longitude.
ABROAD = (
    ("GB", 51.51, -0.13),
    ("IE", 53.35, -6.26),
    ("LU", 49.61, 6.13),
    ("US", 37.77, -122.42),
    ("CN", 22.54, 114.06),
)
REGIONS = ("North", "East", "South", "West")
AGE_BANDS = {"18-24": 0.12, "25-34": 0.2, "35-44": 0.19, "45-54": 0.19, "55-64": 0.16, "65+": 0.14}
GENDERS = {"female": 0.5, "male": 0.48, "other": 0.02}

POS, ONLINE, ATM = 0, 1, 2
CHANNELS = np.array(["pos", "online", "atm"])
# Category: median amount in EUR, spread of its logarithm, share of shops, share of online shops.
CATEGORIES: dict[str, tuple[float, float, float, float]] = {
    "grocery": (22, 0.7, 0.32, 0.0), "restaurant": (25, 0.6, 0.20, 0.10), "fuel": (45, 0.35, 0.12, 0.0),
    "transport": (6, 0.7, 0.10, 0.0), "health": (18, 0.7, 0.08, 0.0), "clothing": (48, 0.65, 0.08, 0.22),
    "electronics": (100, 0.9, 0.04, 0.16), "home": (42, 0.8, 0.05, 0.12), "jewellery": (140, 0.9, 0.01, 0.02),
    "digital": (8, 0.75, 0.0, 0.28), "travel": (150, 0.9, 0.0, 0.10), "cash": (70, 0.6, 0.0, 0.0),
}  # fmt: skip
CATEGORY_NAMES = np.array(list(CATEGORIES))
_ATM_SHARE, _ONLINE_SHARE, _ABROAD_SHARE = 0.06, 0.25, 0.35


@dataclass(frozen=True)
class Cards:
    """Cards and what their holders tend to do. `level` is added to the logarithm of an amount."""

    number: np.ndarray  # card number as text, invented, with a valid check digit
    customer: np.ndarray  # customer number
    city: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    rate: np.ndarray  # share of all transactions
    level: np.ndarray
    online_share: np.ndarray
    new_device_day: np.ndarray  # day of the year-like clock at which the holder changes device; infinity for never


@dataclass(frozen=True)
class Merchants:
    """Merchants; `city` is -1 where there is no shop to walk into."""

    name: np.ndarray
    category: np.ndarray  # index into CATEGORY_NAMES
    channel: np.ndarray  # POS, ONLINE or ATM
    city: np.ndarray
    country: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    popularity: np.ndarray  # relative


def make_customers(config: SimulationConfig) -> pd.DataFrame:
    """One row per customer; attributes have no say in who is defrauded."""
    rng = np.random.default_rng([config.seed, 1])
    count = _customer_count(config)
    return pd.DataFrame(
        {
            "customer": np.char.add("C", np.char.zfill(np.arange(count).astype(str), 7)),
            "age_band": rng.choice(list(AGE_BANDS), count, p=list(AGE_BANDS.values())),
            "gender": rng.choice(list(GENDERS), count, p=list(GENDERS.values())),
            "region": rng.choice(REGIONS, count),
        }
    )


def make_cards(config: SimulationConfig) -> Cards:
    """Every customer has a card; some have two."""
    rng = np.random.default_rng([config.seed, 2])
    count, customers = config.cards, _customer_count(config)
    customer = np.concatenate([np.arange(customers), rng.integers(0, customers, count - customers)])
    home = rng.choice(len(CITIES), customers, p=np.array([city[4] for city in CITIES]) / sum(c[4] for c in CITIES))
    latitude = np.array([city[2] for city in CITIES])[home] + rng.normal(0, 0.12, customers)
    longitude = np.array([city[3] for city in CITIES])[home] + rng.normal(0, 0.18, customers)
    rate = rng.gamma(2.0, 0.5, count) + 0.05
    changes = rng.random(count) < 0.25
    return Cards(
        number=card_numbers(rng, count),
        customer=customer,
        city=home[customer],
        latitude=latitude[customer].round(4),
        longitude=longitude[customer].round(4),
        rate=rate / rate.sum(),
        level=rng.normal(0, 0.45, count),
        online_share=rng.beta(2.0, 3.5, count),
        new_device_day=np.where(changes, rng.uniform(0, 90, count), np.inf),
    )


def make_merchants(config: SimulationConfig) -> Merchants:
    """Shops and cash machines in the cities, and online shops at home and abroad."""
    rng = np.random.default_rng([config.seed, 3])
    count = config.merchants
    channel = np.full(count, POS)
    channel[rng.random(count) < _ONLINE_SHARE] = ONLINE
    # The first of each city are its cash machines and shops, so that no city is without.
    machines = max(len(CITIES), round(count * _ATM_SHARE))
    channel[:machines] = ATM
    channel[machines : machines + 2 * len(CITIES)] = POS
    channel[machines + 2 * len(CITIES) : machines + 2 * len(CITIES) + 8] = ONLINE
    category = np.full(count, list(CATEGORIES).index("cash"))
    for kind, column in ((POS, 2), (ONLINE, 3)):
        weights = np.array([row[column] for row in CATEGORIES.values()])
        chosen = channel == kind
        category[chosen] = rng.choice(len(weights), chosen.sum(), p=weights / weights.sum())
    spread = np.arange(count) % len(CITIES)
    popular = rng.choice(len(CITIES), count, p=np.array([city[4] for city in CITIES]) / sum(c[4] for c in CITIES))
    city = np.where(np.arange(count) < machines + 2 * len(CITIES), spread, popular)
    country = np.array([row[1] for row in CITIES])[city]
    latitude = np.array([row[2] for row in CITIES])[city] + rng.normal(0, 0.08, count)
    longitude = np.array([row[3] for row in CITIES])[city] + rng.normal(0, 0.12, count)
    away = (channel == ONLINE) & (rng.random(count) < _ABROAD_SHARE)
    place = rng.choice(len(ABROAD), count, p=[0.3, 0.2, 0.15, 0.2, 0.15])
    country = np.where(away, np.array([row[0] for row in ABROAD])[place], country)
    latitude = np.where(away, np.array([row[1] for row in ABROAD])[place], latitude)
    longitude = np.where(away, np.array([row[2] for row in ABROAD])[place], longitude)
    return Merchants(
        name=np.char.add("M", np.char.zfill(np.arange(count).astype(str), 6)),
        category=category,
        channel=channel,
        city=np.where(channel == ONLINE, -1, city),
        country=country,
        latitude=latitude.round(4),
        longitude=longitude.round(4),
        popularity=rng.pareto(1.6, count) + 0.3,
    )


def card_numbers(rng: np.random.Generator, count: int) -> np.ndarray:
    """Invented 16-digit card numbers as text, all different, with a valid check digit (Luhn)."""
    digits = np.zeros((count, 16), dtype=np.int64)
    is_visa = rng.random(count) < 0.6
    digits[:, 0] = np.where(is_visa, 4, 5)
    digits[:, 1] = np.where(is_visa, rng.integers(0, 10, count), rng.integers(1, 6, count))
    digits[:, 2:7] = rng.integers(0, 10, (count, 5))
    digits[:, 7:15] = (np.arange(count)[:, None] // 10 ** np.arange(7, -1, -1)) % 10
    doubled = digits[:, 0:15:2] * 2
    total = np.where(doubled > 9, doubled - 9, doubled).sum(axis=1) + digits[:, 1:15:2].sum(axis=1)
    digits[:, 15] = (-total) % 10
    return (digits + ord("0")).astype(np.uint32).view("<U16").ravel()


def _customer_count(config: SimulationConfig) -> int:
    return max(1, round(config.cards * 0.85))
