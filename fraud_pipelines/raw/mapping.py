"""How a source's columns become ours: small YAML files, shipped or the user's own, checked when loaded.

name: acme
columns: {transaction_id: txn, card_id: pan, merchant_id: mid, amount: amt, currency: ccy}
event_time: {column: ts, format: unix_seconds}      # or iso (default), unix_milliseconds, a strptime format, a list
timezone: Europe/Paris                              # of times without an offset; default UTC
constants: {channel: online}
values: {channel: {ECOM: online, ATM: atm}}         # their word: ours
amount_unit: major                                  # or minor, when the file holds cents
card_numbers: [customer_id]                         # columns beside card_id that hold card numbers
label: {column: is_fraud, known_at: reported_at, delay_days: 7, source: matured}
customers: {file: people.csv, columns: {customer_id: id, birth_date: dob, gender: sex, region: state}}
"""

from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fraud_pipelines.errors import SourceInvalid

REQUIRED = ("transaction_id", "card_id", "merchant_id", "amount", "currency")
IDENTIFIERS = ("transaction_id", "card_id", "merchant_id", "customer_id", "device_id")
COORDINATES = ("home_latitude", "home_longitude", "merchant_latitude", "merchant_longitude")
COLUMNS = (*REQUIRED, "customer_id", "category", "channel", "country", "device_id", *COORDINATES)
CUSTOMER_COLUMNS = ("customer_id", "age_band", "birth_date", "gender", "region")
LABEL_SOURCES = ("chargeback", "analyst", "matured", "file")
KEYS = (
    *("name", "description", "columns", "event_time", "timezone", "constants", "values"),
    *("amount_unit", "card_numbers", "label", "customers"),
)


@dataclass(frozen=True)
class TimeColumn:
    """A time column and the formats to try in turn: iso, unix_seconds, unix_milliseconds or a strptime format."""

    column: str
    formats: tuple[str, ...] = ("iso",)


@dataclass(frozen=True)
class LabelMapping:
    """Where labels come from. known_at is its own column, or the event time plus `delay`, or the column with the
    delay as its fallback. `source` is a word of LABEL_SOURCES or a column that holds one."""

    column: str
    known_at: TimeColumn | None = None
    delay: timedelta | None = None
    source: str = "file"


@dataclass(frozen=True)
class CustomerMapping:
    """Customer attributes: from `file` beside the transactions, or (None) from their own columns."""

    columns: dict[str, tuple[str, ...]]
    file: str | None = None


@dataclass(frozen=True)
class Mapping:
    """One source's description. `columns` maps our name to theirs, alternatives in order of preference."""

    name: str
    columns: dict[str, tuple[str, ...]]
    event_time: tuple[TimeColumn, ...]
    description: str = ""
    timezone: str = "UTC"
    constants: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    amount_unit: str = "major"
    card_numbers: tuple[str, ...] = ("card_id",)
    label: LabelMapping | None = None
    customers: CustomerMapping | None = None


def shipped_mappings() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    folder = files("fraud_pipelines.raw") / "mappings"
    return tuple(sorted(item.name.removesuffix(".yml") for item in folder.iterdir() if item.name.endswith(".yml")))


def load_mapping(name_or_path: str | Path) -> Mapping:
    """A shipped mapping by name, or the user's own by the path of its YAML file.

    Raises:
        SourceInvalid: no such mapping, or the file is not a valid one; names the keys that are wrong.
    """
    import yaml

    text = str(name_or_path)
    if text in shipped_mappings():
        content, place = (files("fraud_pipelines.raw") / "mappings" / f"{text}.yml").read_text("utf-8"), text
    elif Path(text).is_file():
        content, place = Path(text).read_text("utf-8"), text
    else:
        raise SourceInvalid(
            f"mapping {text!r}: expected one of {', '.join(shipped_mappings())}, or the path of a YAML file; "
            f"found neither. Try: fraud ingest FILE --mapping {shipped_mappings()[0]}"
        )
    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise SourceInvalid(f"mapping {place}: not readable as YAML: {error}") from None
    return parse_mapping(document, place)


def parse_mapping(document: Any, place: str) -> Mapping:
    """A mapping from the content of its YAML file; `place` names it in messages.

    Raises:
        SourceInvalid: an unknown or missing key, or a value of the wrong kind.
    """
    document = _section(document, "mapping", KEYS, place)
    columns = {
        ours: _names(theirs, f"columns.{ours}", place)
        for ours, theirs in _section(document.get("columns"), "columns", COLUMNS, place).items()
    }
    constants = {
        ours: str(value) for ours, value in _section(document.get("constants", {}), "constants", COLUMNS, place).items()
    }
    missing = [name for name in REQUIRED if name not in columns and name not in constants]
    if missing:
        raise SourceInvalid(
            f"mapping {place}: {', '.join(missing)} required under columns: or constants:, found nothing."
        )
    if twice := sorted(columns.keys() & constants.keys()):
        raise SourceInvalid(f"mapping {place}: {', '.join(twice)} given both as column and as constant.")
    if "event_time" not in document:
        raise SourceInvalid(f"mapping {place}: event_time: required, found nothing.")
    event_time = document["event_time"]
    alternatives = event_time if isinstance(event_time, list) else [event_time]
    values = {
        ours: {str(key): str(value) for key, value in _section(words, f"values.{ours}", None, place).items()}
        for ours, words in _section(document.get("values", {}), "values", COLUMNS, place).items()
    }
    card_numbers = _names(document.get("card_numbers", []), "card_numbers", place)
    if unknown := sorted(set(card_numbers) - set(IDENTIFIERS)):
        raise SourceInvalid(
            f"mapping {place}: card_numbers: expected some of {', '.join(IDENTIFIERS)}, found {unknown}."
        )
    return Mapping(
        name=str(document.get("name") or Path(place).stem),
        description=str(document.get("description", "")).strip(),
        columns=columns,
        event_time=tuple(_time_column(item, "event_time", place) for item in alternatives),
        timezone=_timezone(document.get("timezone", "UTC"), place),
        constants=constants,
        values=values,
        amount_unit=_one_of(document.get("amount_unit", "major"), ("major", "minor"), "amount_unit", place),
        card_numbers=tuple(dict.fromkeys(("card_id", *card_numbers))),
        label=_label(document["label"], place) if document.get("label") else None,
        customers=_customers(document["customers"], place) if document.get("customers") else None,
    )


def _label(document: Any, place: str) -> LabelMapping:
    section = _section(document, "label", ("column", "known_at", "delay_days", "source"), place)
    if "column" not in section:
        raise SourceInvalid(f"mapping {place}: label.column: required, found nothing.")
    if "known_at" not in section and "delay_days" not in section:
        raise SourceInvalid(
            f"mapping {place}: label needs known_at (a column) or delay_days: a label is used only from the moment it "
            "was known. 7 is usual for simulated data, 30 to 90 for chargebacks."
        )
    delay = section.get("delay_days")
    if delay is not None and (isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= 3650):
        raise SourceInvalid(f"mapping {place}: label.delay_days: expected 0 to 3650 days, found {delay!r}.")
    return LabelMapping(
        column=str(section["column"]),
        known_at=_time_column(section["known_at"], "label.known_at", place) if "known_at" in section else None,
        delay=timedelta(days=delay) if delay is not None else None,
        source=str(section.get("source", "file")),
    )


def _customers(document: Any, place: str) -> CustomerMapping:
    section = _section(document, "customers", ("file", "columns"), place)
    columns = {
        ours: _names(theirs, f"customers.columns.{ours}", place)
        for ours, theirs in _section(section.get("columns"), "customers.columns", CUSTOMER_COLUMNS, place).items()
    }
    if "customer_id" not in columns:
        raise SourceInvalid(f"mapping {place}: customers.columns.customer_id: required, found nothing.")
    return CustomerMapping(columns=columns, file=str(section["file"]) if section.get("file") else None)


def _time_column(document: Any, key: str, place: str) -> TimeColumn:
    if isinstance(document, str):
        return TimeColumn(document)
    section = _section(document, key, ("column", "format"), place)
    if "column" not in section:
        raise SourceInvalid(f"mapping {place}: {key}.column: required, found nothing.")
    formats = _names(section.get("format", "iso"), f"{key}.format", place)
    for item in formats:
        if item not in ("iso", "unix_seconds", "unix_milliseconds") and "%" not in item:
            raise SourceInvalid(
                f"mapping {place}: {key}.format: expected iso, unix_seconds, unix_milliseconds or a format such as "
                f"'%d/%m/%Y %H:%M', found {item!r}."
            )
    return TimeColumn(str(section["column"]), formats)


def _section(document: Any, key: str, known: tuple[str, ...] | None, place: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise SourceInvalid(f"mapping {place}: {key}: expected `name: value` pairs, found {document!r}.")
    unknown = [str(name) for name in document if known is not None and name not in known]
    if unknown:
        raise SourceInvalid(
            f"mapping {place}: {key}: unknown {', '.join(unknown)}; expected some of {', '.join(known or ())}."
        )
    return document


def _names(value: Any, key: str, place: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and item for item in items):
        raise SourceInvalid(f"mapping {place}: {key}: expected a name or a list of names, found {value!r}.")
    return tuple(items)


def _one_of(value: Any, known: tuple[str, ...], key: str, place: str) -> str:
    if value not in known:
        raise SourceInvalid(f"mapping {place}: {key}: expected {' or '.join(known)}, found {value!r}.")
    return str(value)


def _timezone(value: Any, place: str) -> str:
    try:
        return ZoneInfo(str(value)).key
    except (ZoneInfoNotFoundError, ValueError):
        raise SourceInvalid(
            f"mapping {place}: timezone: expected a name such as Europe/Paris, found {value!r}."
        ) from None
