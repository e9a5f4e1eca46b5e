"""Reading files: numbering of rows, damaged lines, encodings, folders."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.raw import source
from fraud_pipelines.raw.source import SourceFile, column_names, content_hash, list_files, read_batches


def one(path):
    return SourceFile(path, path.name)


def rows_of(path, columns):
    return [row for batch in read_batches(one(path), columns) for row in batch.rows.to_pylist()]


def test_lines_with_the_wrong_number_of_columns_keep_their_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\n2\n3,z\n4111111111111111,y,too many\n5,w\n")
    (batch,) = read_batches(one(path), ["b", "a"])
    assert batch.rows.to_pylist() == [{"b": "x", "a": "1"}, {"b": "z", "a": "3"}, {"b": "w", "a": "5"}]
    assert batch.row_numbers.to_pylist() == [1, 3, 5]
    assert [(line.row, line.reason, line.text) for line in batch.malformed] == [
        (2, "line: expected 2 columns, found 1", "2"),
        (4, "line: expected 2 columns, found 3", "[digits],y,too many"),
    ]


def test_numbers_continue_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_CSV_BLOCK_BYTES", 64)
    path = tmp_path / "a.csv"
    lines = [f"{number},v{number}" if number % 7 else f"{number}" for number in range(1, 101)]
    path.write_text("a,b\n" + "\n".join(lines) + "\n")
    batches = list(read_batches(one(path), ["a"]))
    assert len(batches) > 5
    seen = [
        pair
        for batch in batches
        for pair in zip(batch.row_numbers.to_pylist(), batch.rows["a"].to_pylist(), strict=True)
    ]
    assert seen == [(number, str(number)) for number in range(1, 101) if number % 7]
    assert [line.row for batch in batches for line in batch.malformed] == list(range(7, 101, 7))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    path.write_text(delimiter.join(("a", "b")) + "\n" + delimiter.join(("1", '"x y"')) + "\n")
    assert rows_of(path, ["a", "b"]) == [{"a": "1", "b": "x y"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes("a,b\nß,日本\n".encode(encoding))
    assert rows_of(path, ["a", "b"]) == [{"a": "ß", "b": "日本"}]


def test_damaged_bytes_do_not_stop_the_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,caf\xe9\n2,ok\n")
    assert rows_of(path, ["b"]) == [{"b": "caf\ufffd"}, {"b": "ok"}]


def test_gzip_is_read(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n"))
    assert rows_of(path, ["a"]) == [{"a": "1"}]


def test_parquet_rows_are_numbered_over_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": range(10)}), path, row_group_size=3)
    numbers = [number for batch in read_batches(one(path), ["a"]) for number in batch.row_numbers.to_pylist()]
    assert numbers == list(range(1, 11))


def test_a_folder_is_read_in_name_order_without_hidden_and_other_files(tmp_path):
    for name in ("b.csv", "a.parquet", ".c.csv", "_SUCCESS", "notes.txt", "customers.parquet", "sub/d.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("a\n1\n")
    found = list_files(tmp_path, leave_out="customers.parquet")
    assert [file.name for file in found] == ["a.parquet", "b.csv", "sub/d.csv"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_nothing_to_read_is_said(tmp_path, make):
    make(tmp_path / "there")
    with pytest.raises(SourceInvalid, match=r"\.parquet, \.csv|CSV or Parquet"):
        list_files(tmp_path / "there")


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"no parquet 4111111111111111"), ("a.csv", b"")])
def test_a_file_that_is_not_what_it_says(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceInvalid, match=r"expected a (Parquet|CSV) file") as error:
        column_names(one(path))
    assert "4111111111111111" not in str(error.value)


def test_the_hash_of_one_file_is_its_sha256(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert content_hash([one(path)]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_several_files_sees_each(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("a\n1\n")
    before = content_hash(list_files(tmp_path))
    (tmp_path / "b.csv").write_text("a\n2\n")
    assert content_hash(list_files(tmp_path)) != before
