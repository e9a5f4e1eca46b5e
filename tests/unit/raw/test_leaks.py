"""The search for card numbers finds one planted in every kind of file an installation holds."""

import gzip
import sqlite3
import zipfile
import zlib
from contextlib import closing

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.leaks import leaks

NUMBER, OTHER = "4111111111111111", "5500005555555559"
# Among enough like it for a column to be compressed: 4111111111111111 is number 11,111.
VALUES = [f"merchant {4_111_111_111_100_000 + number}" for number in range(20_000)]


def in_duckdb(path):
    with duckdb.connect(str(path)) as connection:
        connection.register("source", pa.table({"value": VALUES, "amount": [0.5] * len(VALUES)}))
        connection.execute("create schema raw; create table raw.payments as select * from source; checkpoint")


def in_sqlite(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table payments (merchant text)")
        connection.executemany("insert into payments values (?)", [(value,) for value in VALUES])


def as_integer_in_sqlite(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table payments (card integer)")
        connection.execute("insert into payments values (?)", (int(NUMBER),))


def packed_in_sqlite(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table snapshots (body blob)")
        connection.execute("insert into snapshots values (?)", (zlib.compress("".join(VALUES).encode()),))


def in_parquet(path):
    pq.write_table(pa.table({"merchant": VALUES}), path, compression="zstd")


def in_pdf(path):
    """A page by hand, with its text in a deflated stream."""
    stream = zlib.compress(f"BT /F1 12 Tf 72 720 Td (card {NUMBER}) Tj ET".encode())
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream" % (len(stream), stream),
    ]
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    content += b"xref\n0 5\n0000000000 65535 f \n%btrailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table, content.index(b"xref") if b"xref" in content else len(content)
    )  # fmt: skip
    path.write_bytes(content)


def in_gzip(path):
    path.write_bytes(gzip.compress(f"card {NUMBER}".encode()))


def in_text(path):
    path.write_text(f"run 17 of card 4111.1111-1111 1111 took 3 s, {OTHER[:-1]}")


HIDDEN = [in_duckdb, packed_in_sqlite, in_parquet, in_pdf, in_gzip]


@pytest.mark.parametrize("plant", [*HIDDEN, in_sqlite, as_integer_in_sqlite, in_text])
def test_a_planted_number_is_found(tmp_path, plant):
    path = tmp_path / "deep" / "planted"
    path.parent.mkdir()
    plant(path)
    (tmp_path / "deep" / "clean.txt").write_text("run 17 took 1234567890123456 ns")
    found, searched = leaks(tmp_path, [NUMBER, OTHER], leave_out="simulated")
    assert found == {"deep/planted": {NUMBER}}
    assert searched == {path, tmp_path / "deep" / "clean.txt"}


@pytest.mark.parametrize("plant", HIDDEN)
def test_bytes_on_disk_would_not_have_shown_it(tmp_path, plant):
    plant(tmp_path / "planted")
    assert NUMBER.encode() not in (tmp_path / "planted").read_bytes()


def test_the_source_of_the_numbers_is_left_out(tmp_path):
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "a.csv").write_text(NUMBER)
    assert leaks(tmp_path, [NUMBER], leave_out="simulated") == ({}, set())


def test_an_archive_that_nobody_reads_is_no_success(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", NUMBER)
    with pytest.raises(AssertionError, match=r"a\.zip"):
        leaks(tmp_path, [NUMBER], leave_out="simulated")
