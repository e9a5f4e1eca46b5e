"""The feature spec: reads and checks `dbt_project/models/features/transaction_features.yml`.

That dbt schema file is the only place a feature is defined. Nothing here computes a feature.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fraud_pipelines.errors import SpecInvalid
from fraud_pipelines.settings import PROJECT_ROOT

SPEC_PATH = PROJECT_ROOT / "dbt_project" / "models" / "features" / "transaction_features.yml"
MODEL = "transaction_features"

TRANSACTION_VALUES = ("amount", "hour_of_day", "day_of_week", "is_weekend", "is_night")
WINDOW_MEASURES: dict[str, tuple[str, ...]] = {
    "count": ("transactions", "labels", "frauds"),
    "sum": ("amount",),
    "mean": ("amount",),
    "std": ("amount",),
    "max": ("amount",),
    "ratio_to_mean": ("amount",),
    "time_since_previous": ("transactions",),
    "share": ("frauds",),
}
OF_LABELS = ("labels", "frauds")
NEVER_EMPTY = ("count", "sum")
ENTITIES = ("transaction", "card", "merchant")
RESOLUTIONS = ("event",)
WHEN_EMPTY = ("zero", "missing")
DATA_TYPES = ("bigint", "double precision")
# What each engine writes: a whole number is a bigint, everything divided is a double.
WHOLE_NUMBERS = ("hour_of_day", "day_of_week", "is_weekend", "is_night")

_HOUR_US = 3_600_000_000
_UNIT_US = {"h": _HOUR_US, "d": 24 * _HOUR_US}
_KEYS = ("entity", "measure", "of", "window", "resolution", "unit", "when_empty", "reason")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class Feature:
    """One feature.

    `window_us` is the window's length in microseconds, `window` the same as the file writes it (7d); both are None for
    entity `transaction`, which has no history.
    `when_empty` is `zero` or `missing` (null); `data_type` is `bigint` or `double precision`.
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


@dataclass(frozen=True)
class FeatureSpec:
    """The features in the order of the file, and the file's text."""

    features: tuple[Feature, ...]
    text: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def hash(self) -> str:
        """sha256 over what decides the numbers: order, names, definitions. Rewording a meaning does not change it."""
        definitions = [
            [f.name, f.entity, f.measure, f.of, f.window_us, f.resolution, f.unit, f.when_empty, f.data_type]
            for f in self.features
        ]
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

    def longest_window_us(self, entity: str, *, of_labels: bool | None = None) -> int:
        """Longest window of an entity's features in microseconds, 0 without any; `of_labels` restricts to one kind."""
        return max(
            (
                feature.window_us
                for feature in self.features
                if feature.entity == entity
                and feature.window_us is not None
                and (of_labels is None or feature.of_labels == of_labels)
            ),
            default=0,
        )


@cache
def load_spec(path: Path | None = None) -> FeatureSpec:
    """Read the project's spec, once per process.

    Raises:
        SpecInvalid: the file is missing or an entry cannot be computed.
    """
    path = SPEC_PATH if path is None else path
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecInvalid(f"The feature spec {path} cannot be read: {error.strerror}.") from error
    return parse_spec(text)


def parse_spec(text: str) -> FeatureSpec:
    """Read a spec from the text of a dbt schema file.

    Raises:
        SpecInvalid: names the entry, the field, what was found and what is allowed.
    """
    import yaml

    try:
        document = yaml.safe_load(text)
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
    features = tuple(_feature(entry) for entry in entries)
    if not features:
        raise SpecInvalid(f"The feature spec has no feature: no column of {MODEL} has an `entity` in config.meta.")
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise SpecInvalid(f"Feature {feature.name!r} is defined twice; each name belongs to one entry.")
        seen.add(feature.name)
    return FeatureSpec(features, text)


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


def _feature(entry: dict[str, Any]) -> Feature:
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
        whole = of in WHOLE_NUMBERS
    else:
        measure = _one_of(name, "measure", meta.get("measure"), tuple(WINDOW_MEASURES))
        of = _one_of(name, "of", meta.get("of"), WINDOW_MEASURES[measure])
        try:
            window_us = parse_window(str(meta.get("window")))
        except ValueError as error:
            raise SpecInvalid(f"Feature {name!r}: `window`: {error}.") from None
        resolution = _one_of(name, "resolution", meta.get("resolution"), RESOLUTIONS)
        whole = measure == "count"
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
        reason=_text(name, "reason", meta.get("reason")),
        data_type=data_type,
        window=meta.get("window"),
    )


def _one_of(name: str, field: str, found: Any, allowed: tuple[str, ...]) -> str:
    if found not in allowed:
        raise SpecInvalid(f"Feature {name!r}: `{field}` must be {' or '.join(map(repr, allowed))}, found {found!r}.")
    return str(found)


def _text(name: str, field: str, found: Any) -> str:
    if not isinstance(found, str) or not found.strip() or "\n" in found.strip():
        raise SpecInvalid(f"Feature {name!r}: `{field}` must be one line of text, found {found!r}.")
    return found.strip()
