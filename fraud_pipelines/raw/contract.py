"""The contract of a source row, as one DuckDB query: its texts, its parsed values, and why it is broken.

Amounts are rounded to minor units, half away from zero: 12.345 EUR are 1235 cents, and the float noise of
57.160000000000004 is gone. Each rule is a condition under which a row is broken and what was expected instead.
"""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from fraud_pipelines import limits
from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.raw import expressions as sql
from fraud_pipelines.raw.currencies import EXPONENTS, MINOR_DIGITS
from fraud_pipelines.raw.mapping import COORDINATES, IDENTIFIERS, LABEL_SOURCES, REQUIRED, Mapping, TimeColumn

CHANNELS = ("pos", "online", "atm")
TEXTS = (
    "transaction_id",
    "card_id",
    "merchant_id",
    "currency",
    "customer_id",
    "category",
    "channel",
    "country",
    "device_id",
)
CUSTOMER_TEXTS = ("age_band", "gender", "region")

# Upper ends of the age bands, years inclusive; the usual bands of survey statistics.
_AGE_BANDS = ((17, "0-17"), (24, "18-24"), (34, "25-34"), (44, "35-44"), (54, "45-54"), (64, "55-64"))


@dataclass(frozen=True)
class TimeBounds:
    """Moments a source's times must lie within, [since, until), naive UTC."""

    since: datetime = limits.EARLIEST_EVENT
    until: datetime = limits.LATEST_EVENT


@dataclass(frozen=True)
class Columns:
    """A mapping held against one file: our name -> the column that is there. Customers as `customer_<attribute>`."""

    theirs: dict[str, str]
    event_time: TimeColumn
    known_at: TimeColumn | None = None

    @property
    def all(self) -> list[str]:
        """Every source column that is read, each once."""
        times = [time.column for time in (self.event_time, self.known_at) if time]
        return list(dict.fromkeys([*self.theirs.values(), *times]))

    def scanned(self) -> "Columns":
        """What a scan of days needs: the times, the label as it decides whether there is one to be known, and the
        currency, of which the whole source has one."""
        narrow = {name: column for name, column in self.theirs.items() if name in ("label", "currency")}
        return Columns(narrow, self.event_time, self.known_at)

    def positional(self) -> "Columns":
        """The same with column_0, column_1 ... in the order of `all`: names that collide with nothing, in any case."""
        names = {name: f"column_{position}" for position, name in enumerate(self.all)}

        def renamed(time: TimeColumn) -> TimeColumn:
            return TimeColumn(names[time.column], time.formats)

        return Columns(
            {ours: names[theirs] for ours, theirs in self.theirs.items()},
            renamed(self.event_time),
            renamed(self.known_at) if self.known_at else None,
        )


def resolve(mapping: Mapping, names: list[str], place: str) -> Columns:
    """The columns of a file that the mapping asks for; exact names first, then ignoring case and outer spaces.

    Raises:
        SourceInvalid: a required column, the time or the label is not there; lists what is.
    """
    loose = {name.strip().lower(): name for name in reversed(names)}

    def find(alternatives: tuple[str, ...]) -> str | None:
        exact = [name for name in alternatives if name in names]
        return exact[0] if exact else next((loose[a.lower()] for a in alternatives if a.lower() in loose), None)

    wanted, required, known_at = dict(mapping.columns), set(REQUIRED), None
    if mapping.label:
        wanted["label"] = (mapping.label.column,)
        required.add("label")
        if mapping.label.source not in LABEL_SOURCES:
            wanted["label_source"] = (mapping.label.source,)
            required.add("label_source")
        if mapping.label.known_at:
            wanted["known_at"] = (mapping.label.known_at.column,)
            required |= {"known_at"} if mapping.label.delay is None else set()
    if mapping.customers and not mapping.customers.file:
        inline = {name: options for name, options in mapping.customers.columns.items() if name != "customer_id"}
        wanted |= {f"customer_{name}": options for name, options in inline.items()}
    theirs = {ours: column for ours, options in wanted.items() if (column := find(options))}
    times = [TimeColumn(column, item.formats) for item in mapping.event_time if (column := find((item.column,)))]
    missing = [f"{ours} ({' or '.join(wanted[ours])})" for ours in wanted if ours in required and ours not in theirs]
    missing += [] if times else [f"event_time ({' or '.join(item.column for item in mapping.event_time)})"]
    if missing:
        raise SourceInvalid(
            f"{place}: mapping {mapping.name} expects columns for {', '.join(missing)}; found {', '.join(names)}. "
            "Choose another --mapping, or write one: its form is in fraud_pipelines/raw/mapping.py."
        )
    column = theirs.pop("known_at", None)
    if column and mapping.label and mapping.label.known_at:
        known_at = TimeColumn(column, mapping.label.known_at.formats)
    return Columns(theirs, times[0], known_at)


def source_texts(mapping: Mapping, columns: Columns, types: dict[str, pa.DataType]) -> dict[str, str]:
    """Our name -> SQL of what the source says, as text and in our words."""
    texts = {
        ours: sql.translated(
            sql.text(theirs, types[theirs], is_identifier=ours in IDENTIFIERS), mapping.values.get(ours, {})
        )
        for ours, theirs in columns.theirs.items()
    }
    texts |= {ours: sql.literal(value) for ours, value in mapping.constants.items()}
    texts["event_time"] = sql.text(columns.event_time.column, types[columns.event_time.column])
    if columns.known_at:
        texts["known_at"] = sql.text(columns.known_at.column, types[columns.known_at.column])
    return texts


def staging_query(
    mapping: Mapping, columns: Columns, types: dict[str, pa.DataType], bounds: TimeBounds, currency: str | None
) -> str:
    """One row per row of `batch`: <name>_text for each text, the parsed values, and `reasons` ('' when good).

    `currency` is the only one taken; None takes any with two decimals.
    """
    texts = source_texts(mapping, columns, types)
    reasons = sql.joined_reasons(_reasons(mapping, columns, types, texts, bounds, currency))
    selected = [f"{expression} as {name}_text" for name, expression in texts.items()]
    selected += [
        f"{_event_time(mapping, columns, types)} as event_time",
        f"{_given(mapping, columns, types)} as given_at",
    ]
    return f"""
        with source as (select source_row, {", ".join(selected)} from batch),
        parsed as (select *, {", ".join(_parsed(mapping, columns, texts))} from source)
        select *, {reasons} as reasons from parsed
    """


def scan_query(mapping: Mapping, columns: Columns, types: dict[str, pa.DataType]) -> str:
    """event_time, known_at and currency of each row of `batch`, null where they cannot be read or there is no label."""
    currency = source_texts(mapping, columns, types).get("currency", "null")
    label = (
        f"{sql.text(columns.theirs['label'], types[columns.theirs['label']])} is not null" if mapping.label else "false"
    )
    return f"""
        with source as (
            select {label} as has_label, upper({currency}) as currency,
                {_event_time(mapping, columns, types)} as event_time, {_given(mapping, columns, types)} as given_at
            from batch)
        select event_time, case when has_label then {_known_at(mapping)} end as known_at, currency from source
    """


def _event_time(mapping: Mapping, columns: Columns, types: dict[str, pa.DataType]) -> str:
    return sql.time(columns.event_time, types[columns.event_time.column], timezone=mapping.timezone)


def _given(mapping: Mapping, columns: Columns, types: dict[str, pa.DataType]) -> str:
    if columns.known_at is None:
        return "cast(null as timestamp)"
    return sql.time(columns.known_at, types[columns.known_at.column], timezone=mapping.timezone)


def _known_at(mapping: Mapping) -> str:
    if mapping.label is None or mapping.label.delay is None:
        return "given_at"
    return f"coalesce(given_at, event_time + to_microseconds({round(mapping.label.delay.total_seconds() * 1e6)}))"


def _parsed(mapping: Mapping, columns: Columns, texts: dict[str, str]) -> list[str]:
    """SQL of each canonical value that is not its text; `null` where the source has no such column."""

    def of(name: str, expression: str, type_: str = "varchar") -> str:
        value = expression.replace("@", f"{name}_text") if name in texts else "null"
        return f"cast({value} as {type_}) as {name if name != 'label' else 'is_fraud'}"

    decimals = " ".join(
        f"when upper(currency_text) in ({', '.join(sql.literal(c) for c, e in EXPONENTS.items() if e == digits)}) "
        f"then {digits}"
        for digits in sorted(set(EXPONENTS.values()), key=lambda e: abs(e - MINOR_DIGITS))
    )
    scale = 10**MINOR_DIGITS if mapping.amount_unit == "major" else 1
    label_source = mapping.label.source if mapping.label else "file"
    return [
        of("currency", "upper(@)"),
        f"case {decimals} end as decimals",
        f"round(try_cast(amount_text as decimal(24, 9)) * cast({scale} as decimal(4, 0))) as exact_amount",
        of("customer_id", "@"), of("category", "@"), of("device_id", "@"),
        of("channel", "lower(@)"), of("country", "upper(@)"),
        *(of(name, "try_cast(@ as double)", "double") for name in COORDINATES),
        of("label", sql.truth("@"), "boolean"),
        f"{_known_at(mapping)} as known_at",
        "coalesce(lower(label_source_text), 'file') as label_source" if "label_source" in texts
        else f"{sql.literal(label_source)} as label_source",
        of("customer_gender", "@"), of("customer_region", "@"),
        of("customer_age_band", "@") if "customer_age_band" in texts
        else f"{age_band_sql('customer_birth_date_text', 'event_time')} as customer_age_band"
        if "customer_birth_date" in texts else of("customer_age_band", "@"),
    ]  # fmt: skip


def age_band_sql(birth_date: str, moment: str) -> str:
    """Age band at `moment` from a text birth date; null where it cannot be read or the age is not 0 to 120 years."""
    years = f"date_part('year', age({moment}, try_cast({birth_date} as timestamp)))"
    cases = " ".join(f"when {years} <= {last} then '{band}'" for last, band in _AGE_BANDS)
    return f"case when {years} < 0 or {years} > 120 then null {cases} when {years} is not null then '65+' end"


def _reasons(
    mapping: Mapping,
    columns: Columns,
    types: dict[str, pa.DataType],
    texts: dict[str, str],
    bounds: TimeBounds,
    currency: str | None,
) -> list[str]:
    """SQL of each rule: null when it holds, else what was expected and what was found."""
    within = f"a time from {bounds.since:%Y-%m-%d} to {bounds.until:%Y-%m-%d}"
    since, until = (f"timestamp '{moment}'" for moment in (bounds.since, bounds.until))
    largest_amount = limits.LARGEST_AMOUNT_MINOR
    rules = [_rule(name, f"{name}_text is null", "a value", None) for name in (*REQUIRED, "event_time")]
    rules += [
        # A damaged card number may still be most of one: it is not repeated.
        _rule("card_id", r"regexp_matches(card_id_text, '^[0-9.]+[eE][+]?[0-9]+$')", "every digit", "an exponent"),
        _rule("event_time", f"event_time is null or event_time < {since} or event_time >= {until}", within),
        _rule(
            "amount",
            f"decimals = {MINOR_DIGITS} and (exact_amount is null or exact_amount not between 0 and {largest_amount})",
            f"a number from 0 to {largest_amount} minor units",
        ),
        _rule("currency", "decimals is null", "an ISO 4217 code"),
        # Features do not know the currency: 1,000 JPY would count as 10 units, 100 USD as 100 EUR.
        _rule(
            "currency",
            f"decimals is not null and currency <> {sql.literal(currency)}"
            if currency
            else f"decimals <> {MINOR_DIGITS}",
            f"{currency}, the currency of the warehouse; convert amounts before ingesting"
            if currency
            else f"one with {MINOR_DIGITS} decimals; convert amounts before ingesting",
        ),
    ]
    if "channel" in texts:
        rules.append(_rule("channel", f"channel not in {CHANNELS}", " or ".join(CHANNELS)))
    if "country" in texts:
        rules.append(_rule("country", "not regexp_matches(country, '^[A-Z]{2}$')", "an ISO 3166 code of two letters"))
    for name in COORDINATES:
        if name in texts:
            largest = 90 if name.endswith("latitude") else 180
            rules.append(
                _rule(name, f"{name} is null or not abs({name}) <= {largest}", f"degrees from -{largest} to {largest}")
            )
    if mapping.label:
        rules.append(_rule("label", "is_fraud is null", "0 or 1"))
        labelled = "is_fraud is not null and event_time is not null and "
        known_text = "known_at" if columns.known_at else None
        if columns.known_at:
            rules.append(_rule("known_at", "given_at is null", within))
        rules += [
            _rule("known_at", labelled + "known_at is null", "a time with every label", None),
            _rule(
                "known_at", labelled + "known_at < event_time", "no time before event_time", text=known_text or "label"
            ),
            _rule("known_at", labelled + f"known_at >= {until}", within, text=known_text or "label"),
        ]
        if "label_source" in texts:
            rules.append(_rule("label_source", f"label_source not in {LABEL_SOURCES}", " or ".join(LABEL_SOURCES)))
    if "customer_birth_date" in texts:
        rules.append(
            _rule("customer_birth_date", "customer_age_band is null", "a date 0 to 120 years before the event")
        )
    for name, column in columns.theirs.items():
        if sql.is_text(types[column]) and name in (*TEXTS, *(f"customer_{item}" for item in CUSTOMER_TEXTS)):
            rules.append(_rule(name, sql.unreadable(f"{name}_text"), "readable UTF-8 text", "damaged characters"))
            rules.append(
                _rule(
                    name,
                    f"length({name}_text) > {limits.LONGEST_TEXT}",
                    f"at most {limits.LONGEST_TEXT} characters",
                    "more",
                )
            )
    return rules


def _rule(name: str, broken_when: str, expected: str, found: str | None = "", *, text: str | None = None) -> str:
    """A reason when the condition holds. `found`: None when nothing stood there (the rule is about absence), '' to
    repeat the text, else these words. Rules about a value do not apply where its text is null."""
    if found is None:
        return f"case when {broken_when} then {sql.literal(f'{name}: expected {expected}, found nothing')} end"
    column = f"{text or name}_text"
    words = sql.literal(found) if found else sql.shortened(column)
    start = sql.literal(f"{name}: expected {expected}, found ")
    return f"case when {column} is not null and ({broken_when}) then {start} || {words} end"
