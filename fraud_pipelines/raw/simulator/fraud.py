"""Fraud scenarios: how thieves pay. Amounts, places and times overlap with genuine ones; no column gives fraud away."""

import numpy as np

from fraud_pipelines.raw.simulator.config import SimulationConfig
from fraud_pipelines.raw.simulator.payments import DAY, Payments, amounts, joined, own_device
from fraud_pipelines.raw.simulator.population import ATM, CATEGORIES, CITIES, ONLINE, POS, Cards, Merchants

# Share of all frauds by scenario.
USUAL = {
    "card_testing": 0.24,
    "account_takeover": 0.2,
    "compromised_merchant": 0.24,
    "stolen_card": 0.22,
    "bust_out": 0.1,
}
SHIFTED = {"account_takeover": 0.55, "compromised_merchant": 0.45}

_RESALE = np.array([name in ("electronics", "jewellery", "clothing", "travel") for name in CATEGORIES])
_SMALL = np.array([name in ("digital", "restaurant") for name in CATEGORIES])


class Thieves:
    """Frauds of one world between two moments, in seconds since its start."""

    def __init__(
        self,
        rng: np.random.Generator,
        cards: Cards,
        merchants: Merchants,
        since: float,
        until: float,
        *,
        first_device: int,
    ) -> None:
        self._rng, self._cards, self._merchants = rng, cards, merchants
        self._since, self._until = since, until
        self._next_device = first_device
        online, shop = merchants.channel == ONLINE, merchants.channel == POS
        self._small_online = np.flatnonzero(online & _SMALL[merchants.category])
        self._resale_online = np.flatnonzero(online & _RESALE[merchants.category])
        self._resale_shops = np.flatnonzero(shop & _RESALE[merchants.category])
        self._shops = np.flatnonzero(shop)
        self._online = np.flatnonzero(online)
        self._machines = np.flatnonzero(merchants.channel == ATM)

    def frauds(self, counts: dict[str, int], *, quiet: bool = False) -> Payments:
        """About `counts[scenario]` frauds of each scenario. `quiet` take-overs use the holder's device and amounts."""
        parts = []
        for scenario, count in counts.items():
            if count:
                method = getattr(self, f"_{scenario}")
                part = method(count, quiet) if scenario == "account_takeover" else method(count)
                parts.append(part.where(np.arange(len(part.card)) < count))
        frauds = joined(parts)
        return frauds.where((frauds.second >= self._since) & (frauds.second < self._until))

    def _card_testing(self, count: int) -> Payments:
        """A list of stolen numbers is tried with small amounts in seconds; what works buys something of value."""
        card, second, first, last, step = self._incidents(count, 3, 8, gap_seconds=55.0)
        favourites = self._rng.choice(self._small_online, min(10, len(self._small_online)), replace=False)
        merchant = np.repeat(self._rng.choice(favourites, len(first)), last - first)
        tries = np.exp(np.log(3.0) + 0.75 * self._rng.normal(size=len(card))).clip(0.5, 40).round(2)
        is_last = step == np.repeat(last - first, last - first) - 1
        merchant = np.where(is_last, self._rng.choice(self._resale_online, len(card)), merchant)
        second = second + is_last * np.floor(self._rng.uniform(300, 7200, len(card)))
        value = np.where(is_last, self._usual(card, merchant, 0.5), tries)
        return self._paid("card_testing", card, second, merchant, value, self._strange_devices(first, last))

    def _account_takeover(self, count: int, quiet: bool = False) -> Payments:
        """Somebody else signs in: a new device, shops abroad, things that sell well, over some hours."""
        card, second, first, last, _ = self._incidents(count, 2, 5, gap_seconds=1500.0 if not quiet else 20_000.0)
        if quiet:
            merchant = self._rng.choice(self._online, len(card))
            device = own_device(self._cards, card, second, self._merchants.channel[merchant])
            return self._paid("account_takeover", card, second, merchant, self._usual(card, merchant, 0.2), device)
        foreign = self._resale_online[~np.isin(self._merchants.country[self._resale_online], [c[1] for c in CITIES])]
        abroad = self._rng.random(len(card)) < 0.65
        pool = foreign if len(foreign) else self._resale_online
        merchant = np.where(abroad, self._rng.choice(pool, len(card)), self._rng.choice(self._online, len(card)))
        device = self._strange_devices(first, last)
        known = np.repeat(self._rng.random(len(first)) < 0.2, last - first)
        device = np.where(known, own_device(self._cards, card, second, self._merchants.channel[merchant]), device)
        return self._paid("account_takeover", card, second, merchant, self._usual(card, merchant, 1.1), device)

    def _compromised_merchant(self, count: int) -> Payments:
        """A terminal copies cards for two to four weeks; the copies pay ordinary amounts there or next door."""
        merchants = self._rng.choice(self._shops, min(len(self._shops), max(2, round(count / 30))), replace=False)
        chosen = self._rng.integers(0, len(merchants), count)
        begins = self._spread(len(merchants), self._since - 10 * DAY, self._until - 2 * DAY)
        lasts = self._rng.uniform(14, 28, len(merchants)) * DAY
        second = begins[chosen] + self._rng.random(count) * lasts[chosen]
        # What falls outside the simulated days is moved into them, so the number of frauds holds.
        second = np.where(
            (second < self._since) | (second >= self._until),
            np.clip(begins[chosen], self._since, None)
            + self._rng.random(count)
            * (np.clip(begins + lasts, None, self._until) - np.clip(begins, self._since, None))[chosen],
            second,
        )
        merchant = merchants[chosen]
        card = self._locals(self._merchants.city[merchant])
        value = self._usual(card, merchant, 0.25)
        return self._paid("compromised_merchant", card, second, merchant, value, np.full(count, -1))

    def _stolen_card(self, count: int) -> Payments:
        """A wallet is gone: shops and a cash machine in the holder's city or the next, until the card is blocked."""
        card, second, first, last, _ = self._incidents(count, 2, 6, gap_seconds=1800.0)
        nearby = np.repeat(self._rng.random(len(first)) < 0.65, last - first)
        elsewhere = np.repeat(self._rng.integers(0, len(CITIES), len(first)), last - first)
        city = np.where(nearby, self._cards.city[card], elsewhere)
        kind = self._rng.random(len(card))
        merchant = self._in_city(self._resale_shops, city)
        merchant = np.where(kind < 0.45, self._in_city(self._shops, city), merchant)
        merchant = np.where(kind < 0.15, self._in_city(self._machines, city), merchant)
        return self._paid(
            "stolen_card", card, second, merchant, self._usual(card, merchant, 0.8), np.full(len(card), -1)
        )

    def _bust_out(self, count: int) -> Payments:
        """The holder means not to pay: after months of good conduct the limit is used up within days."""
        card, second, _, _, _ = self._incidents(count, 5, 12, gap_seconds=4 * 3600.0)
        goods = np.concatenate([self._resale_online, self._resale_shops])
        merchant = self._rng.choice(goods, len(card))
        device = own_device(self._cards, card, second, self._merchants.channel[merchant])
        return self._paid("bust_out", card, second, merchant, self._usual(card, merchant, 1.4), device)

    def _incidents(
        self, count: int, fewest: int, most: int, *, gap_seconds: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Payments of incidents of one card each: card, second, and per incident its first and end index; and each
        payment's step within its incident."""
        incidents = int(np.ceil(count / ((fewest + most) / 2)))
        sizes = self._rng.integers(fewest, most + 1, incidents)
        last = np.cumsum(sizes)
        first = last - sizes
        total = int(last[-1])
        step = np.arange(total) - np.repeat(first, sizes)
        gaps = np.floor(10 + self._rng.exponential(gap_seconds, total))
        elapsed = np.cumsum(gaps) - np.repeat(np.cumsum(gaps)[first], sizes)
        begins = self._spread(incidents, self._since, self._until)
        # An incident that would outlast the simulated days begins earlier.
        begins = np.maximum(self._since, np.minimum(begins, self._until - 1 - elapsed[last - 1]))
        card = self._rng.integers(0, len(self._cards.number), incidents)
        return np.repeat(card, sizes), np.floor(np.repeat(begins, sizes) + elapsed), first, last, step

    def _spread(self, count: int, since: float, until: float) -> np.ndarray:
        """`count` moments, one in each of as many equal slices of the time, so that no week is without fraud."""
        return since + (self._rng.permutation(count) + self._rng.random(count)) / count * (until - since)

    def _usual(self, card: np.ndarray, merchant: np.ndarray, shift: float) -> np.ndarray:
        """Amounts as the card would pay there, `shift` spreads higher."""
        normal = self._rng.normal(shift, 1.0, len(card))
        return amounts(normal, self._merchants.category[merchant], self._cards.level[card])

    def _strange_devices(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """A device of the thief's own per incident."""
        numbers = self._next_device + np.arange(len(first))
        self._next_device += len(first)
        return np.repeat(numbers, last - first)

    def _locals(self, city: np.ndarray) -> np.ndarray:
        """A card of each city, or any card where nobody lives there."""
        by_city = np.argsort(self._cards.city, kind="stable")
        sorted_city = self._cards.city[by_city]
        low, high = np.searchsorted(sorted_city, city), np.searchsorted(sorted_city, city, side="right")
        chance = self._rng.random(len(city))
        place = np.where(high > low, low + np.floor(chance * (high - low)), np.floor(chance * len(by_city)))
        return by_city[place.astype(np.int64)]

    def _in_city(self, pool: np.ndarray, city: np.ndarray) -> np.ndarray:
        """A merchant of `pool` in each city, or anywhere where the city has none."""
        pool = pool if len(pool) else self._shops
        ordered = pool[np.argsort(self._merchants.city[pool], kind="stable")]
        places = self._merchants.city[ordered]
        low, high = np.searchsorted(places, city), np.searchsorted(places, city, side="right")
        chance = self._rng.random(len(city))
        index = np.where(high > low, low + np.floor(chance * (high - low)), np.floor(chance * len(ordered)))
        return ordered[index.astype(np.int64)]

    @staticmethod
    def _paid(
        scenario: str, card: np.ndarray, second: np.ndarray, merchant: np.ndarray, value: np.ndarray, device: np.ndarray
    ) -> Payments:
        return Payments(
            second=np.floor(second),
            card=card,
            merchant=merchant,
            amount_eur=value.round(2),
            device=device,
            scenario=np.full(len(card), scenario, dtype="<U20"),
        )


def fraudulent_payments(config: SimulationConfig, count: int, cards: Cards, merchants: Merchants) -> Payments:
    """About `count` frauds over the simulated days, another pattern from the drift on when asked."""
    end = config.days * DAY
    shift = config.drift_second("fraud_pattern")
    usual = Thieves(_stream(config, 5), cards, merchants, 0.0, end, first_device=2)
    frauds = usual.frauds(_shared(count, USUAL))
    more = round(count * 1.5 * (end - shift) / end) if shift < end else 0
    if not more:
        return frauds.where(frauds.second < shift)
    later = Thieves(_stream(config, 6), cards, merchants, shift, end, first_device=1_000_000)
    shifted = later.frauds(_shared(more, SHIFTED), quiet=True)
    return joined([frauds.where(frauds.second < shift), shifted])


def _shared(count: int, shares: dict[str, float]) -> dict[str, int]:
    """`count` split by `shares`; what rounding leaves goes to the first."""
    counts = {name: int(count * share) for name, share in shares.items()}
    counts[next(iter(counts))] += count - sum(counts.values())
    return counts


def _stream(config: SimulationConfig, number: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, number, config.start.toordinal()])
