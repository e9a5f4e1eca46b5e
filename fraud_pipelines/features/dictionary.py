"""The data dictionary: the feature spec as a Markdown page, which `fraud dictionary` prints.

What each measure means is said here once, in plain words, for every pair of `measure` and `of` that a spec may name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fraud_pipelines.features.spec import Feature, FeatureSpec, LargeAmount
from fraud_pipelines.reasons import FALLBACK_REASONS, ReasonCode

PRESENT = "the present transaction"
PAST = "past transactions"
KNOWN = "known labels"

# Family of features -> (measure, of) -> (what it looks at, what it says). x is the present amount.
FAMILIES: dict[str, dict[tuple[str, str], tuple[str, str]]] = {
    "The transaction itself": {
        ("value", "amount"): (PRESENT, "Its amount."),
        ("value", "hour_of_day"): (PRESENT, "Hour, 0 to 23, UTC."),
        ("value", "day_of_week"): (PRESENT, "Day, 0 is Monday, 6 is Sunday, UTC."),
        ("value", "is_weekend"): (PRESENT, "1 on a Saturday or Sunday, else 0, UTC."),
        ("value", "is_night"): (PRESENT, "1 from 00:00 to 06:59 UTC, else 0."),
        ("value", "is_online"): (PRESENT, "1 when its channel is online, else 0; missing without a channel."),
        ("value", "is_atm"): (PRESENT, "1 when its channel is atm, else 0; missing without a channel."),
        ("value", "home_distance"): (PRESENT, "Great-circle distance from the cardholder's home to the merchant."),
    },
    "How many, how much": {
        ("count", "transactions"): (PAST, "How many there are."),
        ("sum", "amount"): (PAST, "Sum of the amounts."),
        ("mean", "amount"): (PAST, "Mean of the amounts."),
        ("std", "amount"): (PAST, "Sample standard deviation of the amounts; needs two transactions."),
        ("max", "amount"): (PAST, "Largest amount."),
        ("min", "amount"): (PAST, "Smallest amount."),
    },
    "The amount against what is usual": {
        ("ratio_to_mean", "amount"): (PAST, "x divided by the mean amount; missing unless that mean is positive."),
        ("zscore", "amount"): (PAST, "x less the mean, divided by std; missing unless std is positive."),
    },
    "Unusually large amounts": {
        ("count", "large_amounts"): (PAST, "How many were large."),
        ("time_since_last", "large_amount"): (PAST, "Minutes since the last large one."),
        ("max", "amount_ratio"): (PAST, "Largest own ratio; missing when no transaction has one."),
    },
    "Variety, new and changed": {
        ("distinct", "merchant"): (PAST, "Different merchants."),
        ("distinct", "card"): (PAST, "Different cards."),
        ("distinct", "country"): (PAST, "Different countries, unknown ones left out."),
        ("distinct", "device"): (PAST, "Different devices, unknown ones left out."),
        ("distinct", "category"): (PAST, "Different categories, unknown ones left out."),
        ("is_new", "merchant"): (PAST, "1 when none was at the present transaction's merchant, else 0."),
        ("is_new", "country"): (PAST, "1 when none was in its country, else 0; missing when that is unknown."),
        ("is_new", "device"): (PAST, "1 when none was with its device, else 0; missing when that is unknown."),
        ("is_new", "category"): (PAST, "1 when none was of its category, else 0; missing when that is unknown."),
        ("is_changed", "country"): (PAST, "1 when the last one's is another, else 0; missing unless both are known."),
        ("is_changed", "device"): (PAST, "1 when the last one's is another, else 0; missing unless both are known."),
        ("count", "same_merchant"): (PAST, "How many were at the present transaction's merchant."),
    },
    "Time and place": {
        ("time_since_last", "transaction"): (PAST, "Minutes since the last one."),
        ("share", "night"): (PAST, "Share that happened at night (see `is_night`)."),
        ("share", "weekend"): (PAST, "Share that happened on a weekend (see `is_weekend`)."),
        ("distance_from_last", "place"): (PAST, "Great-circle distance from the last one; needs both places."),
        ("speed_from_last", "place"): (PAST, "That distance divided by the time since the last one."),
    },
    "What labels say": {
        ("count", "unlabelled"): (PAST, "How many have no label that is known by t."),
        ("count", "labels"): (KNOWN, "How many there are."),
        ("count", "frauds"): (KNOWN, "How many say fraud."),
        ("count", "ordinary_frauds"): (KNOWN, "How many say fraud of an ordinary amount."),
        ("share", "frauds"): (KNOWN, "Share that says fraud."),
        ("last", "label"): (KNOWN, "1 when the last one says fraud, else 0; of several at one moment fraud wins."),
        ("streak", "frauds"): (KNOWN, "Frauds after the last genuine label; all of them when none is genuine."),
        ("streak_age", "frauds"): (KNOWN, "Minutes since the first of these frauds became known; missing without one."),
        ("time_since_last", "fraud"): (KNOWN, "Minutes since the last fraud became known."),
        ("time_since_last", "ordinary_fraud"): (KNOWN, "Minutes since a fraud of an ordinary amount became known."),
        ("time_since_last", "genuine"): (KNOWN, "Minutes since the last genuine label became known."),
        ("ratio_to_mean", "genuine_amount"): (
            KNOWN,
            "x divided by the mean amount of those that say genuine; missing unless that mean is positive.",
        ),
    },
}  # fmt: skip

_HEAD = """# Data dictionary

Generated from the feature spec, `dbt_project/models/features/transaction_features.yml`.
To change it, change the spec and run `make dictionary`: [adding-a-feature.md](adding-a-feature.md) shows how.

`features.transaction_features` has one row per transaction, as of its event time t. A feature looks at one of these:

- the **present transaction** itself, x is its amount;
- **past transactions** of the same card, or at the same merchant, whose age is strictly between 0 and the window w:
  neither the present one nor any other of its microsecond counts. The last one is the last in order of time, then
  identifier;
- **known labels** of such transactions, whose age since they became known is at least 0 and below w, however old the
  transaction is: a fraud nobody has reported yet reaches no feature.

Windows resolve to the single event, to the microsecond. Amounts are in major units of the transaction's currency, 100
minor units each. Missing is null. *When empty* is the value when there is nothing to compute from: no history, or a
column that the source lacks. What is new is new without any history as well."""

_LARGE = """
A transaction's **own ratio** is its amount divided by the mean amount of the same card (of the same merchant) in the
{baseline} before it; it takes at least {at_least} transactions and a positive mean. A transaction is **large** when its
own ratio is above {limit:.1f}. A fraud is of an **ordinary amount** unless the same ratio, but to the mean of the
{baseline} before its label became known, is above {limit:.1f}."""

_REASONS = """
## Reasons

What a score's reasons say: [reason-codes.md](reason-codes.md) explains how they come about. A reason gathers every
feature that names its code above. The words complete *The risk is higher because of:*"""

_FALLBACKS = """
### When no model decides

Then a rule sends the payment to REVIEW, with one of these as its only reason."""

_TITLES = {"transaction": "The transaction itself", "card": "Of the card", "merchant": "Of the merchant"}


def render(spec: FeatureSpec) -> str:
    """The page for a spec, ending with a newline."""
    parts = [_HEAD]
    if spec.large_amount is not None:
        parts.append(_large(spec.large_amount))
    parts.append(f"\n{len(spec.features)} features; definition `{spec.hash[:16]}`.")
    for entity, title in _TITLES.items():
        features = spec.of_entity(entity)
        if features:
            parts.append(f"\n## {title}")
        for family, pairs in FAMILIES.items():
            members = [feature for feature in features if (feature.measure, feature.of) in pairs]
            if members:
                parts += [] if family == title else [f"\n### {family}"]
                parts += ["", "| feature | meaning | measure | window | unit | type | when empty | reason |"]
                parts += ["|---|---|---|---|---|---|---|---|", *map(_row, members)]
    parts += ["\n## Measures", "", "| measure | looks at | value |", "|---|---|---|", *_measures(spec.features)]
    parts += [_REASONS, *_reasons(spec.reasons), _FALLBACKS, *_reasons(FALLBACK_REASONS.values())]
    return "\n".join(parts) + "\n"


def _large(large: LargeAmount) -> str:
    baseline = f"{large.baseline[:-1]} {'hours' if large.baseline.endswith('h') else 'days'}"
    return _LARGE.format(baseline=baseline, at_least=large.at_least, limit=large.limit_tenths / 10)


def measure_of(feature: Feature) -> str:
    """The measure as the spec writes it, in Markdown."""
    return f"`{feature.measure}` of `{feature.of}`"


def _row(feature: Feature) -> str:
    empty = {"zero": "0", "missing": "missing"}[feature.when_empty] if feature.window else ""
    return _cells(
        f"`{feature.name}`",
        feature.meaning,
        measure_of(feature),
        feature.window or "",
        feature.unit,
        feature.data_type,
        empty,
        f"`{feature.reason}`",
    )


def _reasons(reasons: Iterable[ReasonCode]) -> list[str]:
    rows = [_cells(f"`{reason.code}`", reason.words, reason.meaning) for reason in reasons]
    return ["", "| code | in words | meaning |", "|---|---|---|", *rows]


def _measures(features: Sequence[Feature]) -> list[str]:
    used = {(feature.measure, feature.of): measure_of(feature) for feature in features}
    return [
        _cells(used[pair], *meaning) for pairs in FAMILIES.values() for pair, meaning in pairs.items() if pair in used
    ]


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
