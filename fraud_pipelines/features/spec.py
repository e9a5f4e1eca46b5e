"""The feature spec: reads and checks `dbt_project/models/features/transaction_features.yml`.

That dbt schema file is the only place a feature is defined. Nothing here computes a feature.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fraud_pipelines.errors import SpecInvalid
from fraud_pipelines.reasons import ANOMALY_SCORE, UNUSUAL_COMBINATION, ReasonCode, read_reasons
from fraud_pipelines.settings import PROJECT_ROOT

SPEC_PATH = PROJECT_ROOT / "dbt_project" / "models" / "features" / "transaction_features.yml"
MODEL = "transaction_features"

TRANSACTION_VALUES = (
    *("amount", "hour_of_day", "day_of_week", "is_weekend", "is_night", "is_online", "is_atm", "home_distance"),
)
OF_CARD = ("merchant", "country", "device", "category")
"""What the transactions of a card can differ in; of a merchant it is the card."""
WINDOW_MEASURES: dict[str, tuple[str, ...]] = {
    "count": ("transactions", "same_merchant", "large_amounts", "unlabelled", "labels", "frauds", "ordinary_frauds"),
    "sum": ("amount",),
    "mean": ("amount",),
    "std": ("amount",),
    "max": ("amount", "amount_ratio"),
    "min": ("amount",),
    "ratio_to_mean": ("amount", "genuine_amount"),
    "zscore": ("amount",),
    "share": ("night", "weekend", "frauds"),
    "distinct": (*OF_CARD, "card"),
    "is_new": OF_CARD,
    "is_changed": ("country", "device"),
    "time_since_last": ("transaction", "large_amount", "fraud", "ordinary_fraud", "genuine"),
    "distance_from_last": ("place",),
    "speed_from_last": ("place",),
    "last": ("label",),
    "streak": ("frauds",),
    "streak_age": ("frauds",),
}
OF_ORDINARY = ("ordinary_frauds", "ordinary_fraud")
OF_LABELS = ("labels", "frauds", "fraud", "genuine", "label", "genuine_amount", *OF_ORDINARY)
OF_LARGE = ("large_amounts", "large_amount", "amount_ratio")
OF_BASELINE = (*OF_LARGE, *OF_ORDINARY)
"""What compares amounts with the baseline of `large_amount`."""
# A merchant's transactions are by many cards, at one place, of one kind.
CARD_ONLY = ("same_merchant", *OF_CARD, "place")
MERCHANT_ONLY = ("card",)
_PLACE = ("merchant_latitude", "merchant_longitude")
# Columns that a source may lack, by what needs them.
OPTIONAL_COLUMNS = {
    "country": ("country",),
    "device": ("device_id",),
    "category": ("category",),
    "place": _PLACE,
    "is_online": ("channel",),
    "is_atm": ("channel",),
    "home_distance": ("home_latitude", "home_longitude", *_PLACE),
}
NEVER_EMPTY = ("count", "sum", "streak")
ENTITIES = ("transaction", "card", "merchant")
RESOLUTIONS = ("event",)
WHEN_EMPTY = ("zero", "missing")
DATA_TYPES = ("bigint", "double precision")
# What each engine writes: a whole number is a bigint, everything divided is a double.
WHOLE_VALUES = ("hour_of_day", "day_of_week", "is_weekend", "is_night", "is_online", "is_atm")
WHOLE_MEASURES = ("count", "distinct", "is_new", "is_changed", "last", "streak")

_HOUR_US = 3_600_000_000
_UNIT_US = {"h": _HOUR_US, "d": 24 * _HOUR_US}
_KEYS = ("entity", "measure", "of", "window", "resolution", "unit", "when_empty", "reason")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class Feature:
    """One feature.

    `window_us` is the window's length in microseconds, `window` the same as the file writes it (7d); both are None for
    entity `transaction`, which has no history.
    `when_empty` is `zero` or `missing` (null); `data_type` is `bigint` or `double precision`; `reason` is a code of the
    spec's reasons.
    """

    name: str
    entity: str
    measure: str
    of: str
    window_us: int | None
    resolution: str | None
    unit: str
    when_empty: str
    meaning: str
    reason: str
    data_type: str
    window: str | None = None

    @property
    def of_labels(self) -> bool:
        """True when it counts label arrivals rather than transactions."""
        return self.of in OF_LABELS

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Columns of a transaction without which it is missing, and which a source may lack."""
        return OPTIONAL_COLUMNS.get(self.of, ())


@dataclass(frozen=True)
class LargeAmount:
    """What an unusually large amount is: more than `limit_tenths` / 10 times the mean of the `baseline_us` before it.

    That mean needs `at_least` transactions. Tenths, because a whole number compares exactly in every engine.
    """

    baseline_us: int
    limit_tenths: int
    at_least: int
    baseline: str


@dataclass(frozen=True)
class FeatureSpec:
    """The features in the order of the file, what `large_amount` means in them, their reasons, and the file's text."""

    features: tuple[Feature, ...]
    text: str
    large_amount: LargeAmount | None = None
    reasons: tuple[ReasonCode, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def hash(self) -> str:
        """sha256 over what decides the numbers: order, names, definitions. Meanings and reasons do not change it."""
        definitions: list[list[object]] = [
            [f.name, f.entity, f.measure, f.of, f.window_us, f.resolution, f.unit, f.when_empty, f.data_type]
            for f in self.features
        ]
        if self.large_amount is not None:
            large = self.large_amount
            definitions.append([large.baseline_us, large.limit_tenths, large.at_least])
        return hashlib.sha256(json.dumps(definitions, separators=(",", ":")).encode()).hexdigest()

    def feature(self, name: str) -> Feature:
        """The feature of that name.

        Raises:
            SpecInvalid: there is none; the message lists the known names.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SpecInvalid(f"The feature spec has no feature {name!r}. Known: {', '.join(self.names)}.")

    def reason(self, code: str) -> ReasonCode:
        """The reason of that code.

        Raises:
            SpecInvalid: there is none; the message lists the known codes.
        """
        for reason in self.reasons:
            if reason.code == code:
                return reason
        known = ", ".join(reason.code for reason in self.reasons)
        raise SpecInvalid(f"The feature spec has no reason {code!r}. Known: {known}.")

    def of_entity(self, entity: str) -> tuple[Feature, ...]:
        """Features of one entity, in the order of the file."""
        return tuple(feature for feature in self.features if feature.entity == entity)

    def transactions_reach_us(self, entity: str) -> int:
        """How far back a feature can see transactions of a card or merchant, microseconds; 0 without any feature.

        What an old transaction or label is compared with lies a baseline further back than the window that finds it.
        """
        baseline_us = self.large_amount.baseline_us if self.large_amount else 0
        return max(
            (
                (feature.window_us or 0) + (baseline_us if feature.of in OF_BASELINE else 0)
                for feature in self.of_entity(entity)
                if not feature.of_labels or feature.of in OF_BASELINE
            ),
            default=0,
        )

    def labels_reach_us(self, entity: str) -> int:
        """How far back a feature can see label arrivals of a card or merchant, microseconds; 0 without any feature."""
        return max(
            (
                feature.window_us or 0
                for feature in self.of_entity(entity)
                if feature.of_labels or feature.of == "unlabelled"
            ),
            default=0,
        )

    @property
    def reach_us(self) -> int:
        """How far back any feature can see, microseconds."""
        entities = ("card", "merchant")
        return max(max(self.transactions_reach_us(e), self.labels_reach_us(e)) for e in entities)


@cache
def load_spec(path: Path | None = None) -> FeatureSpec:
    """Read the project's spec, once per process.

    Raises:
        SpecInvalid: the file is missing, an entry cannot be computed, or it has no catalogue of reasons.
    """
    path = SPEC_PATH if path is None else path
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecInvalid(f"The feature spec {path} cannot be read: {error.strerror}.") from error
    spec = parse_spec(text)
    if not any(reason.code == UNUSUAL_COMBINATION for reason in spec.reasons):
        raise SpecInvalid(
            f"The feature spec {path} has no catalogue of reasons: expected `reasons` in config.meta of the model "
            f"{MODEL!r}, and the code of one as each feature's `reason`. docs/reason-codes.md shows how."
        )
    return spec


def parse_spec(text: str) -> FeatureSpec:
    """Read a spec from the text of a dbt schema file.

    A text without `reasons`, which bundles trained before there was a catalogue hold, has one reason per feature: the
    name in upper case, in the words of its entry. So such a version serves, and can be rolled back to, as it was.

    Raises:
        SpecInvalid: names the entry, the field, what was found and what is allowed.
    """
    import yaml

    try:
        # libyaml reads the same, in an eighth of the time: versions are swapped while requests are served.
        document = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise SpecInvalid(f"The feature spec is not YAML: {error}") from error
    models = document.get("models") if isinstance(document, dict) else None
    model = next((m for m in models or [] if isinstance(m, dict) and m.get("name") == MODEL), None)
    if model is None:
        raise SpecInvalid(f"The feature spec has no model {MODEL!r}: expected it under `models:`.")
    entries = [
        column
        for column in model.get("columns") or []
        if isinstance(column, dict) and "entity" in _meta(column)
    ]  # fmt: skip
    catalogue = read_reasons(_meta(model)["reasons"]) if "reasons" in _meta(model) else None
    features = tuple(_feature(entry, catalogue) for entry in entries)
    if not features:
        raise SpecInvalid(f"The feature spec has no feature: no column of {MODEL} has an `entity` in config.meta.")
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise SpecInvalid(f"Feature {feature.name!r} is defined twice; each name belongs to one entry.")
        seen.add(feature.name)
    uses_large = [feature.name for feature in features if feature.of in OF_BASELINE]
    given = _meta(model).get("large_amount")
    if uses_large and given is None:
        raise SpecInvalid(f"Feature {uses_large[0]!r} needs `large_amount` in config.meta of the model {MODEL!r}.")
    if catalogue is None:
        catalogue = tuple(ReasonCode(f.name.upper(), f.reason, f.meaning) for f in features)
        features = tuple(replace(feature, reason=feature.name.upper()) for feature in features)
    return FeatureSpec(features, text, None if given is None else _large_amount(given), catalogue)


def parse_window(text: str) -> int:
    """Length of a window such as `24h` or `7d` in microseconds.

    Raises:
        ValueError: it is not a positive whole number followed by h or d.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,3})([hd])", text)
    if match is None:
        raise ValueError(f"expected hours or days such as 24h or 7d, found {text!r}")
    return int(match[1]) * _UNIT_US[match[2]]


def _meta(column: dict[str, Any]) -> dict[str, Any]:
    meta = (column.get("config") or {}).get("meta") or {}
    return meta if isinstance(meta, dict) else {}


def _feature(entry: dict[str, Any], catalogue: tuple[ReasonCode, ...] | None) -> Feature:
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecInvalid(f"Feature {name!r}: `name` must be lower-case letters, digits and _, at most 63.")
    meta = _meta(entry)
    for key in meta:
        if key not in _KEYS:
            raise SpecInvalid(f"Feature {name!r}: unknown field {key!r} in config.meta. Known: {', '.join(_KEYS)}.")

    entity = _one_of(name, "entity", meta.get("entity"), ENTITIES)
    if entity == "transaction":
        measure = _one_of(name, "measure", meta.get("measure"), ("value",))
        of = _one_of(name, "of", meta.get("of"), TRANSACTION_VALUES)
        for key in ("window", "resolution"):
            if key in meta:
                raise SpecInvalid(f"Feature {name!r}: {key!r} does not apply to entity transaction.")
        window_us, resolution = None, None
        whole = of in WHOLE_VALUES
    else:
        measure = _one_of(name, "measure", meta.get("measure"), tuple(WINDOW_MEASURES))
        foreign = MERCHANT_ONLY if entity == "card" else CARD_ONLY
        choices = tuple(of for of in WINDOW_MEASURES[measure] if of not in foreign)
        if not choices:
            raise SpecInvalid(f"Feature {name!r}: `measure` {measure!r} does not apply to entity {entity}.")
        of = _one_of(name, "of", meta.get("of"), choices)
        try:
            window_us = parse_window(str(meta.get("window")))
        except ValueError as error:
            raise SpecInvalid(f"Feature {name!r}: `window`: {error}.") from None
        resolution = _one_of(name, "resolution", meta.get("resolution"), RESOLUTIONS)
        whole = measure in WHOLE_MEASURES
    when_empty = _one_of(name, "when_empty", meta.get("when_empty"), WHEN_EMPTY)
    if measure in NEVER_EMPTY and when_empty != "zero":
        raise SpecInvalid(
            f"Feature {name!r}: a {measure} of nothing is 0: `when_empty` must be 'zero', found 'missing'."
        )
    data_type = _one_of(name, "data_type", entry.get("data_type"), ("bigint",) if whole else ("double precision",))
    return Feature(
        name=name,
        entity=entity,
        measure=measure,
        of=of,
        window_us=window_us,
        resolution=resolution,
        unit=_text(name, "unit", meta.get("unit")),
        when_empty=when_empty,
        meaning=_text(name, "description", entry.get("description")),
        reason=_reason(name, meta.get("reason"), catalogue),
        data_type=data_type,
        window=meta.get("window"),
    )


def _reason(name: str, found: Any, catalogue: tuple[ReasonCode, ...] | None) -> str:
    if catalogue is None:
        return _text(name, "reason", found)
    codes = [reason.code for reason in catalogue if reason.code != UNUSUAL_COMBINATION]
    if found == UNUSUAL_COMBINATION:
        raise SpecInvalid(
            f"Feature {name!r}: `reason` {found} belongs to the model input {ANOMALY_SCORE!r} alone; "
            f"expected one of {', '.join(codes)}."
        )
    if found not in codes:
        raise SpecInvalid(
            f"Feature {name!r}: `reason` must be a code of the model's `reasons`, found {found!r}. "
            f"Name one of {', '.join(codes)}, or add a code there: docs/reason-codes.md shows how."
        )
    return str(found)


def _large_amount(given: Any) -> LargeAmount:
    known = ("baseline", "limit", "at_least")
    if not isinstance(given, dict) or set(given) != set(known):
        raise SpecInvalid(f"`large_amount`: expected the fields {', '.join(known)}, found {given!r}.")
    try:
        baseline_us = parse_window(str(given["baseline"]))
    except ValueError as error:
        raise SpecInvalid(f"`large_amount`: {error}.") from None
    limit, at_least = re.fullmatch(r"([0-9]+)(?:\.([0-9]))?", str(given["limit"])), given["at_least"]
    tenths = int(limit[1] + (limit[2] or "0")) if limit else 0
    if tenths == 0:
        raise SpecInvalid(f"`large_amount`: `limit` must be positive with one decimal, found {given['limit']!r}.")
    if not isinstance(at_least, int) or isinstance(at_least, bool) or at_least < 1:
        raise SpecInvalid(f"`large_amount`: `at_least` must be a positive whole number, found {at_least!r}.")
    return LargeAmount(baseline_us, tenths, at_least, str(given["baseline"]))


def _one_of(name: str, field: str, found: Any, allowed: tuple[str, ...]) -> str:
    if found not in allowed:
        raise SpecInvalid(f"Feature {name!r}: `{field}` must be {' or '.join(map(repr, allowed))}, found {found!r}.")
    return str(found)


def _text(name: str, field: str, found: Any) -> str:
    if not isinstance(found, str) or not found.strip() or "\n" in found.strip():
        raise SpecInvalid(f"Feature {name!r}: `{field}` must be one line of text, found {found!r}.")
    return found.strip()
