"""Genuine payments: where, when, how much. Payments are parallel arrays, one element per payment."""

from dataclasses import dataclass, fields

import numpy as np

from fraud_pipelines.raw.simulator.config import SimulationConfig
from fraud_pipelines.raw.simulator.population import ATM, CATEGORIES, CITIES, ONLINE, POS, Cards, Merchants

DAY = 86_400.0
NO_DEVICE, FIRST_DEVICE, SECOND_DEVICE = -1, 0, 1
_MEDIANS = np.log(np.array([row[0] for row in CATEGORIES.values()], dtype=float))
_SPREADS = np.array([row[1] for row in CATEGORIES.values()])
_IS_DIGITAL = np.array([name == "digital" for name in CATEGORIES])
_LONGEST_SPREE = 6
_CASH = list(CATEGORIES).index("cash")
# Monday to Sunday; shopping peaks towards the weekend.
_WEEKDAYS = np.array([0.94, 0.95, 0.97, 1.0, 1.15, 1.18, 0.81])


@dataclass(frozen=True)
class Payments:
    """`second` since the start; `device` NO_DEVICE, the holder's FIRST or SECOND, or 2 + the number of a stranger's."""

    second: np.ndarray
    card: np.ndarray
    merchant: np.ndarray
    amount_eur: np.ndarray
    device: np.ndarray
    scenario: np.ndarray  # '' for genuine

    def where(self, mask: np.ndarray) -> "Payments":
        """The payments a boolean mask or an index array picks."""
        return Payments(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def joined(parts: list[Payments]) -> Payments:
    """Several payments after one another."""
    return Payments(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Payments)})


class Directory:
    """Merchants by city and channel, to pick from quickly."""

    def __init__(self, merchants: Merchants) -> None:
        self._merchants = merchants
        self._lists: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        for channel in (POS, ATM):
            for city in range(len(CITIES)):
                self._add((city, channel), np.flatnonzero((merchants.channel == channel) & (merchants.city == city)))
        self._add((-1, ONLINE), np.flatnonzero(merchants.channel == ONLINE))

    def _add(self, key: tuple[int, int], members: np.ndarray) -> None:
        weights = self._merchants.popularity[members]
        self._lists[key] = members, np.cumsum(weights) / weights.sum()

    def pick(
        self, card: np.ndarray, city: np.ndarray, channel: np.ndarray, chance: np.ndarray, loyalty: np.ndarray
    ) -> np.ndarray:
        """A merchant per payment. `chance` uniform picks by popularity; where `loyalty` (uniform) is below 0.65, among
        the card's few favourites instead."""
        picked = np.empty(len(card), dtype=np.int64)
        key_city = np.where(channel == ONLINE, -1, city)
        for (place, kind), (members, cumulative) in self._lists.items():
            here = np.flatnonzero((channel == kind) & (key_city == place))
            by_popularity = np.searchsorted(cumulative, chance[here])
            favourite = (card[here] * 7919 + np.floor(12 * chance[here] ** 2.2).astype(np.int64)) % len(members)
            chosen = np.where(loyalty[here] < 0.65, favourite, by_popularity)
            picked[here] = members[np.minimum(chosen, len(members) - 1)]
        return picked


def genuine_payments(
    config: SimulationConfig, count: int, cards: Cards, merchants: Merchants, directory: Directory
) -> Payments:
    """About `count` payments of the cardholders themselves, trips, sprees and device changes included."""
    rng = np.random.default_rng([config.seed, 4, config.start.toordinal()])
    count = round(count / 1.055)  # follow-ups and sprees come on top
    card = np.searchsorted(np.cumsum(cards.rate), rng.random(count)).clip(max=config.cards - 1)
    second = _moments(rng, config, count)
    drifted_mix = second >= config.drift_second("mix")
    online_share = np.where(drifted_mix, 0.35 + 0.65 * cards.online_share[card], cards.online_share[card])
    channel_chance, atm_chance = rng.random(count), rng.random(count)
    channel = np.where(channel_chance < online_share, ONLINE, np.where(atm_chance < 0.09, ATM, POS))
    city = _whereabouts(rng, config, cards, card, second)
    merchant = directory.pick(card, city, channel, rng.random(count), rng.random(count))
    payments = Payments(
        second=second,
        card=card,
        merchant=merchant,
        amount_eur=amounts(rng.normal(size=count), merchants.category[merchant], cards.level[card]),
        device=own_device(cards, card, second, merchants.channel[merchant]),
        scenario=np.full(count, "", dtype="<U20"),
    )
    payments = joined(
        [payments, _follow_ups(rng, payments, cards, merchants), _sprees(rng, payments, cards, merchants)]
    )
    factor = np.where(payments.second >= config.drift_second("amounts"), 1.35, 1.0)
    return Payments(**{**payments.__dict__, "amount_eur": (payments.amount_eur * factor).round(2)})


def amounts(normal: np.ndarray, category: np.ndarray, level: np.ndarray) -> np.ndarray:
    """EUR, two decimals, at least 0.50: log-normal around the category's median and the card's level; cash in tens."""
    value = np.exp(_MEDIANS[category] + 0.7 * level + _SPREADS[category] * normal)
    return np.where(category == _CASH, np.maximum(10.0, (value / 10).round() * 10), np.maximum(0.5, value)).round(2)


def own_device(cards: Cards, card: np.ndarray, second: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """The holder's device of online payments; NO_DEVICE elsewhere."""
    newer = second / DAY >= cards.new_device_day[card]
    return np.where(channel == ONLINE, np.where(newer, SECOND_DEVICE, FIRST_DEVICE), NO_DEVICE)


def _moments(rng: np.random.Generator, config: SimulationConfig, count: int) -> np.ndarray:
    weekday = (config.start.weekday() + np.arange(config.days)) % 7
    weights = _WEEKDAYS[weekday] * rng.normal(1.0, 0.03, config.days).clip(0.8, 1.2)
    day = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(count)).clip(max=config.days - 1)
    by_day = rng.normal(14.0, 4.2, count) % 24
    hour = np.where(rng.random(count) < 0.1, rng.uniform(0, 24, count), by_day)
    return np.floor(day * DAY + hour * 3600)


def _whereabouts(
    rng: np.random.Generator, config: SimulationConfig, cards: Cards, card: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """City of each payment: home, or where the holder is on a trip (three in ten cards make one)."""
    travels = rng.random(config.cards) < 0.3
    begins = rng.uniform(0, config.days, config.cards) * DAY
    ends = begins + rng.uniform(2, 10, config.cards) * DAY
    destination = rng.integers(0, len(CITIES), config.cards)
    away = travels[card] & (second >= begins[card]) & (second < ends[card])
    return np.where(away, destination[card], cards.city[card])


def _follow_ups(rng: np.random.Generator, payments: Payments, cards: Cards, merchants: Merchants) -> Payments:
    """One payment in 22 is soon followed by another at the same merchant: a second round, a forgotten item."""
    again = np.flatnonzero(rng.random(len(payments.card)) < 0.045)
    copy = payments.where(again)
    second = copy.second + np.floor(20 + rng.exponential(700, len(again)))
    value = amounts(rng.normal(-0.3, 1, len(again)), merchants.category[copy.merchant], cards.level[copy.card])
    return Payments(**{**copy.__dict__, "second": second, "amount_eur": value})


def _sprees(rng: np.random.Generator, payments: Payments, cards: Cards, merchants: Merchants) -> Payments:
    """Several small digital purchases within the hour, as games and apps invite to: genuine, and hard to tell."""
    # Drawn before looking at the category, so that a drift of the mix leaves what came before it as it was.
    starts = np.flatnonzero(rng.random(len(payments.card)) < 0.035)
    sizes = rng.integers(2, _LONGEST_SPREE + 1, len(starts))
    gaps, normal = (
        rng.exponential(160, (len(starts), _LONGEST_SPREE)),
        rng.normal(-0.6, 0.8, (len(starts), _LONGEST_SPREE)),
    )
    sizes = np.where(_IS_DIGITAL[merchants.category[payments.merchant[starts]]], sizes, 0)
    is_step = np.arange(_LONGEST_SPREE) < sizes[:, None]
    step = np.broadcast_to(np.arange(1, _LONGEST_SPREE + 1), is_step.shape)[is_step]
    copy = payments.where(np.repeat(starts, sizes))
    second = copy.second + np.floor(step * (40 + gaps[is_step]))
    value = amounts(normal[is_step], merchants.category[copy.merchant], cards.level[copy.card])
    return Payments(**{**copy.__dict__, "second": second, "amount_eur": value})
