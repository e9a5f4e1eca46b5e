"""What would have had to be different for a payment to be approved: the counterfactual line of an explanation.

One change that people understand is sought first, then a pair. Each is scored exactly: every feature it touches is
computed anew from the same history. Nothing is claimed of what was not scored.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from itertools import combinations, product
from typing import Any

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.features import kernel
from fraud_pipelines.features.online import History, ScoredTransaction
from fraud_pipelines.features.variants import as_it_was
from fraud_pipelines.models.policy import APPROVE
from fraud_pipelines.models.wording import money, percentages

AMOUNT, DEVICE, COUNTRY, CATEGORY, PLACE, CHANNEL, TIME = (
    *("AMOUNT", "DEVICE", "COUNTRY", "CATEGORY", "PLACE", "CHANNEL", "TIME"),
)
NONE_FOUND = "NONE_FOUND"

MOST_VARIANTS = 64
"""Variants of one call of the score function."""
MOST_CALLS = 10
"""Calls for one payment."""

# What counts as known for a card: the window of the features that say whether something is new.
KNOWN_US = 30 * kernel.DAY_US
# With three values of device, country and category, a shop, every hour of a day and 29 amounts, a first call is full.
_MOST_VALUES, _AMOUNTS = 3, 28
_DELAYS_HOURS = range(1, 25)
_DELAYS_HOURS_OF_PAIRS = (1, 6, 24)
_SHARES_OF_PAIRS = (0.9, 0.75, 0.5, 0.25, 0.1, 0.01)
# How far a change goes, so that changes of different kinds can be compared. An amount counts by the share taken off, a
# delay by its share of a day, and whatever is replaced by what is known for the card counts like half the amount.
_SIZE_OF_REPLACED = 0.5

Score = Callable[[Sequence[ScoredTransaction]], np.ndarray]


@dataclass(frozen=True, slots=True)
class KnownOfCard:
    """What is usual for a card: values of its payments of the 30 days before, most used first.

    `last_place` is country, latitude and longitude of the last of them, where its place is known; `places` the last
    place (latitude, longitude) by country. Degrees.
    """

    devices: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    last_place: tuple[str | None, float, float] | None = None
    places: Mapping[str | None, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, transaction: ScoredTransaction, history: History) -> "KnownOfCard":
        """Args: history: as the online store gives it; later events and the transaction itself are not looked at."""
        now = transaction.event_time_us
        last_place: tuple[str | None, float, float] | None = None
        places: dict[str | None, tuple[float, float]] = {}
        used: list[tuple[str | None, str | None, str | None]] = []
        before = as_it_was(transaction, history).card.events
        for at_us, _, _, _, country, device, category, latitude, longitude in before:
            if now - KNOWN_US < at_us < now:
                used.append((device, country, category))
                last_place = None
                if latitude is not None and longitude is not None:
                    last_place = (country, latitude, longitude)
                    places[country] = (latitude, longitude)
        devices, countries, categories = (_most_used([values[column] for values in used]) for column in range(3))
        return cls(devices, countries, categories, last_place, places)


def _most_used(values: Sequence[str | None]) -> tuple[str, ...]:
    # Of values used equally often the latest one first.
    return tuple(value for value, _ in Counter(values[::-1]).most_common() if value is not None)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that would have been different, in words; identifiers are described, never named.

    `before` and `after` may hold the category as the caller wrote it.
    """

    code: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What would have been approved, or that nothing tried would have been.

    `code` is the code of the change, two of them joined by + (`COUNTRY+AMOUNT`), or NONE_FOUND; stable. `probability`
    and `decision` are those of `variant`, the changed payment; all three are None when none was found. `sentence` holds
    no identifier, and no text that a caller wrote freely. `tried` is how many changes were scored.
    """

    code: str
    changes: tuple[Change, ...]
    probability: float | None
    decision: str | None
    sentence: str
    tried: int
    variant: ScoredTransaction | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for an answer; without the variant, which holds identifiers."""
        return {name: value for name, value in asdict(self).items() if name != "variant"}


def counterfactual(
    transaction: ScoredTransaction, known: KnownOfCard, score: Score, review_threshold: float
) -> Counterfactual | None:
    """The smallest single change of those tried with which the payment is approved, else a pair; None: it is already.

    Approved means: the probability is below `review_threshold`. An amount found is approved, and one minor unit more is
    not; it says nothing of smaller amounts, because a model need not be monotone. In a pair with an amount, that amount
    is the largest in the same sense. At most MOST_CALLS calls of at most MOST_VARIANTS variants.

    Args:
        score: calibrated fraud probabilities of variants, shape (n,), each against the same history.
        review_threshold: in [0, 1].
    Raises:
        ContractBroken: a score is no number, or there are more or fewer of them than variants.
    """
    return _Search(transaction, known, score, review_threshold).run()


@dataclass(frozen=True)
class _Option:
    """A change that can be scored: the fields it sets, how far it goes, and `phrase`, which completes "With ..."."""

    change: Change
    fields: dict[str, Any]
    phrase: str
    size: float = _SIZE_OF_REPLACED


Options = tuple[_Option, ...]
"""None for the payment as it is, one, or two; an amount is the last."""


class _Search:
    def __init__(self, transaction: ScoredTransaction, known: KnownOfCard, score: Score, threshold: float) -> None:
        self.transaction, self.known, self.threshold = transaction, known, threshold
        self._score, self._tried = score, 0

    def run(self) -> Counterfactual | None:
        others = [*_replacements(self.transaction, self.known), *(_later(self.transaction, h) for h in _DELAYS_HOURS)]
        amounts = _first_amounts(self.transaction.amount_minor)
        singles = [(option,) for option in (*others, *(_amount(self.transaction, minor) for minor in amounts))]
        present, *probabilities = self._probabilities([(), *singles])
        if present < self.threshold:
            return None
        best = self._smallest(singles, probabilities)
        if best is None:
            pairs = self._pairs(list(zip(others, probabilities, strict=False)))
            best = self._smallest(pairs, self._probabilities(pairs)) if pairs else None
        return self._found(*best) if best else self._nothing([options[0].change.code for options in singles])

    def _probabilities(self, candidates: Sequence[Options]) -> list[float]:
        scores = np.asarray(self._score([self._variant(options) for options in candidates]), dtype=np.float64)
        if scores.shape != (len(candidates),) or not np.isfinite(scores).all():
            raise ContractBroken(
                f"Counterfactual: expected {len(candidates)} finite probabilities from the score function, found shape "
                f"{scores.shape} and {np.count_nonzero(~np.isfinite(scores))} that are not finite."
            )
        self._tried += sum(1 for options in candidates if options)
        return scores.tolist()

    def _variant(self, options: Options) -> ScoredTransaction:
        return replace(self.transaction, **{name: value for option in options for name, value in option.fields.items()})

    def _smallest(self, candidates: Sequence[Options], probabilities: Sequence[float]) -> tuple[Options, float] | None:
        """The smallest approved change, an amount in it raised as far as it is approved; None when none is approved."""
        scored = list(zip(candidates, probabilities, strict=True))
        approved = [(options, probability) for options, probability in scored if probability < self.threshold]
        with_amount = [entry for entry in approved if entry[0][-1].change.code == AMOUNT]
        if with_amount:
            options, probability = min(with_amount, key=_size)
            approved.append(self._raised(options, probability, [_minor(other) for other in candidates]))
        return min(approved, key=_size, default=None)

    def _raised(self, options: Options, probability: float, tried: Sequence[int | None]) -> tuple[Options, float]:
        """The approved change with its amount raised until one minor unit more is not approved, and its probability."""
        *others, amount = options
        low = amount.fields["amount_minor"]
        # The next amount tried was not approved, or this change would not be the smallest; nor was the present one.
        high = min({minor for minor in tried if minor is not None and minor > low} | {self.transaction.amount_minor})
        while high - low > 1:
            between = sorted(
                {low + (high - low) * k // (MOST_VARIANTS + 1) for k in range(1, MOST_VARIANTS + 1)} - {low}
            )
            candidates = [(*others, _amount(self.transaction, minor)) for minor in between]
            probabilities = self._probabilities(candidates)
            highest = max((k for k, found in enumerate(probabilities) if found < self.threshold), default=-1)
            high = between[highest + 1] if highest + 1 < len(between) else high
            if highest >= 0:
                low, options, probability = between[highest], candidates[highest], probabilities[highest]
        return options, probability

    def _pairs(self, alone: Sequence[tuple[_Option, float]]) -> list[Options]:
        """Pairs of kinds, each with the value that came closest to approval alone; few delays, few amounts."""
        closest: dict[str, _Option] = {}
        for option, _ in sorted(alone, key=lambda entry: entry[1]):
            if option.change.code != TIME:
                closest.setdefault(option.change.code, option)
        own = self.transaction.amount_minor
        shares = sorted({int(own * share) for share in _SHARES_OF_PAIRS} - {0, own})
        amounts = [_amount(self.transaction, minor) for minor in shares]
        delays = [_later(self.transaction, hours) for hours in _DELAYS_HOURS_OF_PAIRS]
        replaced = list(closest.values())
        return [*combinations(replaced, 2), *product(replaced, delays), *product((*replaced, *delays), amounts)]

    def _found(self, options: Options, probability: float) -> Counterfactual:
        then, review_from = percentages(probability, [self.threshold])
        phrases = " and ".join(option.phrase for option in options)
        return Counterfactual(
            code="+".join(option.change.code for option in options),
            changes=tuple(option.change for option in options),
            probability=probability,
            decision=APPROVE,
            sentence=f"With {phrases} it would have been approved (probability {then}, review from {review_from}).",
            tried=self._tried,
            variant=self._variant(options),
        )

    def _nothing(self, codes: Sequence[str]) -> Counterfactual:
        kinds = ", ".join(_KINDS[code] for code in dict.fromkeys(codes))
        sentence = (
            f"None of the {self._tried} changes tried, alone or in pairs ({kinds}), would have led to an approval."
        )
        return Counterfactual(NONE_FOUND, (), None, None, sentence, self._tried)


_KINDS = {
    AMOUNT: "a smaller amount",
    DEVICE: "a known device",
    COUNTRY: "a known country",
    CATEGORY: "a known kind of merchant",
    PLACE: "the place of the last payment",
    CHANNEL: "in a shop",
    TIME: "up to a day later",
}


def _size(entry: tuple[Options, float]) -> float:
    return sum(option.size for option in entry[0])


def _minor(options: Options) -> int | None:
    return options[-1].fields.get("amount_minor")


def _first_amounts(own: int) -> list[int]:
    """Amounts below one's own, in even steps and in even ratios: where the approved ones lie is not known yet."""
    steps = _AMOUNTS // 2 + 1
    even = {own * k // steps for k in range(1, steps)} | {int(own ** (k / steps)) for k in range(1, steps)}
    return sorted(minor for minor in even | {1} if 0 < minor < own)


def _amount(transaction: ScoredTransaction, minor: int) -> _Option:
    before, after = (money(value, transaction.currency) for value in (transaction.amount_minor, minor))
    size = 1 - minor / transaction.amount_minor
    phrase = f"an amount of {after} in place of {before}"
    return _Option(Change(AMOUNT, before, after), {"amount_minor": minor}, phrase, size)


def _later(transaction: ScoredTransaction, hours: int) -> _Option:
    later_us = transaction.event_time_us + hours * kernel.HOUR_US
    change = Change(TIME, *(_moment(at_us) for at_us in (transaction.event_time_us, later_us)))
    unit = "hour" if hours == 1 else "hours"
    return _Option(change, {"event_time_us": later_us}, f"the payment made {hours} {unit} later", hours / 24)


def _moment(at_us: int) -> str:
    return f"{datetime(1970, 1, 1) + timedelta(microseconds=at_us):%Y-%m-%d %H:%M} UTC"


def _replacements(now: ScoredTransaction, known: KnownOfCard) -> list[_Option]:
    """What is usual for the card in place of what is new for it, and a shop in place of the internet."""
    found = []
    if now.device_id is not None and now.device_id not in known.devices:
        phrase = "a device known for this card in place of a new one"
        change = Change(DEVICE, "a device new for this card", "a device known for this card")
        found += [_Option(change, {"device_id": device}, phrase) for device in known.devices[:_MOST_VALUES]]
    has_place = now.merchant_latitude is not None and now.merchant_longitude is not None
    if now.country is not None and now.country not in known.countries:
        for country in known.countries[:_MOST_VALUES]:
            phrase = f"a merchant in {country}, a country known for this card, in place of {now.country}"
            # A place in the other country would contradict it: where none is known there, none is given.
            latitude, longitude = known.places.get(country, (None, None)) if has_place else (None, None)
            fields = {"country": country, "merchant_latitude": latitude, "merchant_longitude": longitude}
            found.append(_Option(Change(COUNTRY, now.country, country), fields, phrase))
    elif has_place and known.last_place is not None:
        last_country, *place = known.last_place
        own = (now.merchant_latitude, now.merchant_longitude)
        distance = kernel.distances(*(np.array([degrees], np.float64) for degrees in (*own, *place)))[0]
        if distance > 0:
            away = f"{distance:.0f} km away"
            phrase = f"a merchant where the card's last payment was in place of one {away}"
            change = Change(PLACE, f"{away} from the card's last payment", "where the card's last payment was")
            fields = {"country": last_country, "merchant_latitude": place[0], "merchant_longitude": place[1]}
            found.append(_Option(change, fields, phrase))
    if now.category is not None and now.category not in known.categories:
        # The words of a category are the caller's own: they stay out of sentences, which a language model may read.
        phrase = "a merchant of a kind known for this card in place of a new one"
        for category in known.categories[:_MOST_VALUES]:
            found.append(_Option(Change(CATEGORY, now.category, category), {"category": category}, phrase))
    if now.channel == "online":
        phrase = "a payment in a shop in place of one on the internet"
        found.append(_Option(Change(CHANNEL, "online", "pos"), {"channel": "pos"}, phrase))
    return found
