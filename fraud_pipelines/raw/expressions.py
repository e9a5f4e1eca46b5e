"""DuckDB expressions that read one source column as text, time, number or truth; what cannot be read is null.

CSV columns are text and Parquet columns are typed: both end as the same value, so the same data gives the same rows.
"""

import pyarrow as pa
import pyarrow.types as pt

from fraud_pipelines.raw.mapping import TimeColumn

# Integers above this are not exact in a double.
_EXACT_DOUBLE = 2**53
# Microseconds that DuckDB can hold with room to spare: about 12,000 years.
_LARGEST_MICROSECONDS = 400_000_000_000_000_000

TRUE_WORDS = ("1", "true", "t", "yes", "y")
FALSE_WORDS = ("0", "false", "f", "no", "n")


def quoted(name: str) -> str:
    """A column name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text value as SQL."""
    return "'" + text.replace("'", "''") + "'"


def readable(table: pa.Table) -> pa.Table:
    """`table` with dictionary, view and binary columns as plain text.

    Invalid UTF-8 in a binary column raises pa.ArrowInvalid: such a file is not text at all.
    """
    for position, field in enumerate(table.schema):
        type_ = field.type
        if pt.is_dictionary(type_):
            type_ = type_.value_type
            table = table.set_column(position, field.name, table.column(position).cast(type_))
        if pt.is_binary(type_) or pt.is_large_binary(type_) or pt.is_fixed_size_binary(type_):
            table = table.set_column(position, field.name, table.column(position).cast(pa.string()))
    return table


def text(column: str, type_: pa.DataType, *, is_identifier: bool = False) -> str:
    """Trimmed text; empty, NaN and null are null. A whole number has no ".0", whatever type it came in."""
    name = quoted(column)
    if pt.is_floating(type_):
        return (
            f"case when isnan({name}) then null "
            f"when {name} = trunc({name}) and abs({name}) < {_EXACT_DOUBLE} "
            f"then cast(cast({name} as bigint) as varchar) "
            f"else cast({name} as varchar) end"
        )
    if not is_text(type_):
        return f"cast({name} as varchar)"
    trimmed = f"nullif(trim({name}, e' \\t\\r\\n'), '')"
    # pandas writes an integer column with gaps as 596.0.
    return f"regexp_replace({trimmed}, '^([0-9]+)[.]0+$', '\\1')" if is_identifier else trimmed


def is_text(type_: pa.DataType) -> bool:
    """Whether a (readable) column's values are text as the source wrote it."""
    if pt.is_dictionary(type_):
        type_ = type_.value_type
    return bool(
        pt.is_string(type_) or pt.is_large_string(type_) or pt.is_string_view(type_)
        or pt.is_binary(type_) or pt.is_large_binary(type_) or pt.is_fixed_size_binary(type_)
    )  # fmt: skip


def time(column: TimeColumn, type_: pa.DataType, *, timezone: str) -> str:
    """Naive UTC timestamp in microseconds. Times without an offset are in `timezone`: the connection's TimeZone must
    be set to it."""
    name = quoted(column.column)
    if pt.is_timestamp(type_) or pt.is_date(type_):
        if type_.tz is None if pt.is_timestamp(type_) else True:
            return _utc(f"cast({name} as timestamp)", timezone)
        return f"cast({name} as timestamptz) at time zone 'UTC'"
    words = text(column.column, type_)
    readings = []
    for format_ in column.formats:
        if format_ in ("unix_seconds", "unix_milliseconds"):
            scale = 1_000_000 if format_ == "unix_seconds" else 1_000
            microseconds = f"try_cast(try_cast({words} as decimal(24, 6)) * {scale} as bigint)"
            readings.append(
                f"case when abs({microseconds}) < {_LARGEST_MICROSECONDS} then make_timestamp({microseconds}) end"
            )
        elif format_ == "iso":
            readings.append(f"try_cast({words} as timestamptz) at time zone 'UTC'")
        elif "%z" in format_:
            readings.append(f"try_strptime({words}, {literal(format_)}) at time zone 'UTC'")
        else:
            readings.append(_utc(f"try_strptime({words}, {literal(format_)})", timezone))
    return f"coalesce({', '.join(readings)})" if len(readings) > 1 else readings[0]


def _utc(naive: str, timezone: str) -> str:
    return naive if timezone == "UTC" else f"cast({naive} as timestamptz) at time zone 'UTC'"


def truth(words: str) -> str:
    """Boolean of a text expression: 1/0, true/false, yes/no."""
    trues, falses = (", ".join(map(literal, items)) for items in (TRUE_WORDS, FALSE_WORDS))
    lower = f"lower(regexp_replace({words}, '^([01])[.]0+$', '\\1'))"
    return f"case when {lower} in ({trues}) then true when {lower} in ({falses}) then false end"


def translated(words: str, meanings: dict[str, str]) -> str:
    """A text expression with the source's words replaced by ours."""
    if not meanings:
        return words
    cases = " ".join(f"when {literal(theirs)} then {literal(ours)}" for theirs, ours in meanings.items())
    return f"case {words} {cases} else {words} end"


def shortened(words: str) -> str:
    """SQL of a text in quotation marks, at most 60 characters: what a reason says was found.

    Where it is cut, digits and separators at the cut go too: half a card number could no longer be recognised.
    """
    cut = f"regexp_replace(left({words}, 60), '[^A-Za-z]+$', '') || '...'"
    return f"'''' || case when length({words}) > 60 then {cut} else {words} end || ''''"


def unreadable(words: str) -> str:
    """Whether a text holds a character that no table takes (NUL) or that stands for damaged bytes (U+FFFD)."""
    return f"contains({words}, chr(0)) or contains({words}, chr(65533))"


def joined_reasons(reasons: list[str]) -> str:
    """One text of all reasons that apply, '; ' between them; empty when the row is good."""
    return f"concat_ws('; ', {', '.join(reasons)})"
