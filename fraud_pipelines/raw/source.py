"""Reading source files: CSV and Parquet, one file or a folder, in batches, with each row's number kept."""

import codecs
import gzip
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.raw.tokens import mask_long_digits

SUFFIXES = (".parquet", ".csv", ".csv.gz")
BATCH_ROWS = 200_000
_CSV_BLOCK_BYTES = 16 * 1024 * 1024
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class SourceFile:
    """One file to read: `name` is relative to the folder ingested, so it says nothing about the machine."""

    path: Path
    name: str

    @property
    def is_parquet(self) -> bool:
        return self.path.name.lower().endswith(".parquet")


@dataclass(frozen=True)
class Malformed:
    """One line whose columns cannot be told apart; digits are masked, as any of them may be a card number."""

    row: int
    reason: str
    text: str


@dataclass(frozen=True)
class Batch:
    """Rows of one file: the columns asked for, and `row_numbers`, counted from 1 in that file."""

    rows: pa.Table
    row_numbers: pa.Array
    malformed: list[Malformed] = field(default_factory=list)


def list_files(path: Path, *, leave_out: str | None = None) -> list[SourceFile]:
    """The CSV and Parquet files of a file or folder, in name order; hidden files and `leave_out` are skipped.

    Raises:
        SourceInvalid: nothing there, or nothing this can read.
    """
    path = Path(path).expanduser()
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise SourceInvalid(f"{path}: expected a file ending in {', '.join(SUFFIXES)}, found {path.name!r}.")
        return [SourceFile(path, path.name)]
    if not path.is_dir():
        raise SourceInvalid(f"{path}: expected a CSV or Parquet file, or a folder of them, found nothing.")
    found = [
        SourceFile(item, item.relative_to(path).as_posix())
        for item in sorted(path.rglob("*"))
        if item.is_file()
        and item.name.lower().endswith(SUFFIXES)
        and not any(part.startswith((".", "_")) for part in item.relative_to(path).parts)
        and item.name != leave_out
    ]
    if not found:
        raise SourceInvalid(f"{path}: expected files ending in {', '.join(SUFFIXES)}, found none in this folder.")
    return found


def content_hash(files: list[SourceFile]) -> str:
    """SHA-256 of one file's bytes; of several, of their names and hashes in order."""
    digests = [_file_hash(file.path) for file in files]
    if len(files) == 1:
        return digests[0]
    listing = "\n".join(f"{digest}  {file.name}" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def column_names(file: SourceFile) -> list[str]:
    """Names of a file's columns.

    Raises:
        SourceInvalid: the file cannot be read as what its name says.
    """
    if file.is_parquet:
        with _reading(file):
            return list(pq.read_schema(file.path).names)
    with _reading(file):
        return list(_open_csv(file, None, []).schema.names)


def read_batches(file: SourceFile, columns: list[str]) -> Iterator[Batch]:
    """The columns asked for, batch by batch in file order; CSV values are text, Parquet values keep their types.

    Raises:
        SourceInvalid: the file is damaged; the message carries no value of it.
    """
    with _reading(file):
        yield from _parquet_batches(file, columns) if file.is_parquet else _csv_batches(file, columns)


def _parquet_batches(file: SourceFile, columns: list[str]) -> Iterator[Batch]:
    with pq.ParquetFile(file.path) as source:
        first = 1
        for rows in source.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            table = pa.Table.from_batches([rows]).select(columns)
            yield Batch(table, pa.array(range(first, first + table.num_rows), pa.int64()))
            first += table.num_rows


def _csv_batches(file: SourceFile, columns: list[str]) -> Iterator[Batch]:
    broken: list[Any] = []
    reader = _open_csv(file, columns, broken)
    next_row, taken = 1, 0
    for rows in reader:
        # Lines are numbered with the header as 1; a line skipped as malformed still has its number.
        skipped = {line.number - 1 for line in broken}
        candidates = range(next_row, next_row + rows.num_rows + len(skipped))
        numbers = [number for number in candidates if number not in skipped][: rows.num_rows]
        next_row = numbers[-1] + 1 if numbers else next_row
        table, all_numbers = pa.Table.from_batches([rows]), pa.array(numbers, pa.int64())
        malformed = [_malformed(line) for line in broken[taken:]]
        taken = len(broken)
        for start in range(0, max(table.num_rows, 1), BATCH_ROWS):
            yield Batch(table.slice(start, BATCH_ROWS), all_numbers.slice(start, BATCH_ROWS), malformed)
            malformed = []
    if len(broken) > taken:
        yield Batch(
            reader.schema.empty_table(), pa.array([], pa.int64()), [_malformed(line) for line in broken[taken:]]
        )


def _malformed(line: Any) -> Malformed:
    reason = f"line: expected {line.expected_columns} columns, found {line.actual_columns}"
    return Malformed(line.number - 1, reason, mask_long_digits(line.text))


def _open_csv(file: SourceFile, columns: list[str] | None, broken: list[Any]) -> pyarrow.csv.CSVStreamingReader:
    """A streaming reader of text columns; lines with too many or too few columns are appended to `broken`."""

    def set_aside(line: Any) -> str:
        broken.append(line)
        return "skip"

    stream = io.BufferedReader(_Utf8Stream(file.path), _READ_BYTES)
    return pyarrow.csv.open_csv(
        stream,
        # One thread: with more, a malformed line does not know its number.
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(file.path), invalid_row_handler=set_aside),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns or [], pa.string()),
            strings_can_be_null=False,
        ),
    )


def _delimiter(path: Path) -> str:
    """The most frequent of , ; tab | in the header line; a comma when none is there."""
    header = io.BufferedReader(_Utf8Stream(path), _READ_BYTES).readline().decode()
    counts = {delimiter: header.count(delimiter) for delimiter in ",;\t|"}
    return max(counts, key=lambda delimiter: counts[delimiter])


class _Utf8Stream(io.RawIOBase):
    """A file's bytes as valid UTF-8: byte order marks honoured, unreadable bytes become U+FFFD.

    One damaged value must not stop the file; cleaning sets its row aside.
    """

    def __init__(self, path: Path) -> None:
        opened = gzip.open if path.name.lower().endswith(".gz") else open
        self._file = opened(path, "rb")
        start = self._file.read(3)
        self._file.seek(0)
        encoding = "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._pending = b""
        self._at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and not self._at_end:
            chunk = self._file.read(_READ_BYTES)
            self._at_end = not chunk
            self._pending = self._decoder.decode(chunk, final=self._at_end).encode()
        size = min(len(buffer), len(self._pending))
        buffer[:size], self._pending = self._pending[:size], self._pending[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _reading(file: SourceFile) -> Iterator[None]:
    """Turns what the readers raise on a damaged file into SourceInvalid, with the values masked."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        found = mask_long_digits((str(error).splitlines() or [type(error).__name__])[0][:200])
        expected = "a Parquet file" if file.is_parquet else "a CSV file with a header line"
        raise SourceInvalid(f"{file.path}: expected {expected}, found: {found}") from None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
