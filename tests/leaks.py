"""Searching a whole installation for card numbers: every file by what it is, not by what it is called.

DuckDB and Parquet compress text, PDF deflates it and Dagster packs snapshots: bytes on disk say little. What is stored
is therefore read back. The search knows the very numbers and nothing of how the product recognises them.
"""

import gzip
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

# Sixteen digits or more, in groups or not; the numbers searched for all have sixteen.
_RUN = re.compile(r"[0-9](?:[ ._/-]?[0-9]){15,}")
_DIGITS = 16


def leaks(home: Path, numbers: Iterable[str], *, leave_out: str) -> tuple[dict[str, set[str]], set[Path]]:
    """File below `home` -> the numbers of 16 digits found in it, and the set of files searched.

    The folder `leave_out` is where they come from.
    """
    wanted, found, searched = set(numbers), {}, set()
    for path in sorted(item for item in home.rglob("*") if item.is_file()):
        if leave_out in path.relative_to(home).parts:
            continue
        hits = {number for text in texts_of(path) for number in _numbers_in(text, wanted)}
        searched.add(path)
        if hits:
            found[path.relative_to(home).as_posix()] = hits
    return found, searched


def texts_of(path: Path) -> Iterator[str]:
    """Everything a file says, as text, whatever holds it; always its bytes too."""
    content = path.read_bytes()
    yield content.decode("latin-1")
    for is_one, read in _READERS:
        if is_one(content):
            yield from read(path)


def _numbers_in(text: str, wanted: set[str]) -> Iterator[str]:
    for run in _RUN.finditer(text):
        digits = re.sub("[^0-9]", "", run.group())
        yield from wanted.intersection(digits[start : start + _DIGITS] for start in range(len(digits) - _DIGITS + 1))


def _duckdb(path: Path) -> Iterator[str]:
    with duckdb.connect(str(path), read_only=True) as connection:
        columns = connection.execute(
            "select schema_name, table_name, column_name from duckdb_columns() where not internal "
            "and data_type not in ('DOUBLE', 'FLOAT', 'BOOLEAN', 'DATE') and data_type not like 'TIMESTAMP%'"
        ).fetchall()
        for schema, table, column in columns:
            # Whole numbers too: a card number may be stored as one.
            text = f'cast("{column}" as varchar)'
            values = connection.execute(
                f'select distinct {text} from "{schema}"."{table}" where regexp_matches({text}, \'{_RUN.pattern}\')'
            )
            for (value,) in values.fetchall():
                yield value


def _sqlite(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        names = [row[0].decode() for row in connection.execute("select name from sqlite_master where type = 'table'")]
        for name in names:
            for row in connection.execute(f'select * from "{name}"'):
                for value in row:
                    if isinstance(value, bytes) and len(value) >= _DIGITS:
                        yield value.decode("latin-1")
                        yield from _unpacked(value)
                    elif isinstance(value, int) and value >= 10 ** (_DIGITS - 1):
                        yield str(value)


def _unpacked(value: bytes) -> Iterator[str]:
    if value[:1] == b"\x78":  # what zlib begins with
        try:
            yield zlib.decompress(value).decode("latin-1")
        except zlib.error:
            return


def _parquet(path: Path) -> Iterator[str]:
    table = pq.read_table(path)
    for column in table.columns:
        for value in column.unique().to_pylist():
            yield str(value)


def _pdf(path: Path) -> Iterator[str]:
    from pypdf import PdfReader

    for page in PdfReader(path).pages:
        yield page.extract_text()


def _gzip(path: Path) -> Iterator[str]:
    yield gzip.decompress(path.read_bytes()).decode("latin-1")


def _archive(path: Path) -> Iterator[str]:
    raise AssertionError(f"{path}: an archive whose content nobody reads; teach tests/leaks.py to")


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[Path], Iterator[str]]], ...] = (
    (lambda content: content[8:12] == b"DUCK", _duckdb),
    (lambda content: content.startswith(b"SQLite format 3\0"), _sqlite),
    (lambda content: content.startswith(b"PAR1"), _parquet),
    (lambda content: content.startswith(b"%PDF"), _pdf),
    (lambda content: content.startswith(b"\x1f\x8b"), _gzip),
    (lambda content: content.startswith((b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")), _archive),
)
