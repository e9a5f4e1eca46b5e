"""The log of the embedded online store: found by an index of hashes, folded into the tables of histories in time."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import LabelArrival, ScoredTransaction
from fraud_pipelines.online_store import hash_index, open_online_store, sqlite_backend, sqlite_log, sqlite_snapshot
from fraud_pipelines.online_store.following import DECISIONS_KEPT_US, Entry
from fraud_pipelines.online_store.sqlite_log import Decided, LogIndex
from fraud_pipelines.online_store.sqlite_tables import create_tables
from tests.stored_events import DAY_US, NOON, NOON_US, ids, label, payment, tables_of

# Two words of one hash.
TWINS = ("plumless", "buckeroo")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store that does not exist yet."""
    return f"sqlite:///{tmp_path / 'online.sqlite'}"


def ask(url: str, question: str) -> list[tuple]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return connection.execute(question).fetchall()


def decide(store, *entries: Entry):
    return store.append(store.read(None).position, entries)


@pytest.mark.parametrize("many", [1, 32])
def test_texts_of_one_hash_are_told_apart(url, many, monkeypatch):
    one, other = TWINS
    assert crc32(one.encode()) == crc32(other.encode())
    monkeypatch.setattr(hash_index, "_MANY", many)
    store = open_online_store(url)
    decide(store, Entry(payment(one, NOON_US, 1, one, one), b"one"))
    assert (store.decision(other), store.transaction(other)) == (None, None)
    assert store.read(None, TWINS).stored == {one}
    nothing = store.history(other, other, NOON_US + 9)
    assert (nothing.card.events, nothing.merchant.events) == ([], [])
    decide(store, Entry(payment(other, NOON_US + 1, 2, other, other), b"other"))
    assert [store.decision(id_) for id_ in TWINS] == [b"one", b"other"]
    assert [ids(store.history(id_, id_, NOON_US + 9).card) for id_ in TWINS] == [[one], [other]]
    store.close()


def test_each_decision_of_a_row_is_found_whatever_its_size(url):
    store = open_online_store(url)
    decisions = [bytes([65 + number]) * size for number, size in enumerate((0, 1, 9_000, 3, 0, 70_000, 2))]
    for row in range(3):
        decide(store, *(Entry(payment(f"t{row} {n}", NOON_US + n), b"%d" % row + d) for n, d in enumerate(decisions)))
    with closing(open_online_store(url)) as another:
        for row in range(3):
            found = [another.decision(f"t{row} {number}") for number in range(len(decisions))]
            assert found == [b"%d" % row + decision for decision in decisions]
    store.close()


@pytest.mark.parametrize("table_lines", [1, 4, 1_024])
@pytest.mark.parametrize("near", [0, 2, 1_000])
def test_lines_are_found_wherever_they_are(url, table_lines, near, monkeypatch):
    monkeypatch.setattr(hash_index, "_TABLE_LINES", table_lines)
    monkeypatch.setattr(sqlite_log, "_NEAR", near)
    with closing(open_online_store(url)) as writer, closing(open_online_store(url)) as reader:
        made = []
        for number in range(60):
            # The card's payments are now beside each other, now far apart, in rows of one line and of several.
            part = [
                payment(f"t{number} {n}", NOON_US + number, n, f"tok_{(number * n) % 7}") for n in range(number % 4)
            ]
            made += part
            decide(writer, *(Entry(one, b"") for one in part))
        for card in range(7):
            expected = [one.transaction_id for one in made if one.card_id == f"tok_{card}"]
            assert ids(reader.history(f"tok_{card}", "m1", NOON_US + 99).card) == sorted(
                expected, key=lambda id_: (int(id_.split()[0][1:]), id_)
            )


def test_with_too_many_in_the_log_the_oldest_move_and_nothing_is_lost(url, monkeypatch):
    monkeypatch.setattr(sqlite_snapshot, "MOST_UNFOLDED", 10)
    store = open_online_store(url)
    in_tables = []
    for number in range(30):
        decide(store, Entry(payment(f"t{number:02}", NOON_US + number), b"%d" % number))
        in_tables.append(ask(url, "select count(*) from transactions")[0][0])
        assert store.sizes()["transactions"] == number + 1
        history = store.history("tok_a", "m1", NOON_US + 99)
        assert ids(history.card) == ids(history.merchant) == [f"t{n:02}" for n in range(number + 1)]
    # From the eleventh on two move for each that comes, until no more are there than may be.
    assert in_tables[:10] == [0] * 10
    assert in_tables[10:] == [number + 1 - 10 + (number % 2 == 0) for number in range(10, 30)]
    assert ask(url, "select number from folded") == [(in_tables[-1],)]
    # What moved is there once, and decided as before; a label of it finds its way, too.
    again = decide(store, Entry(payment("t00", NOON_US), b"again"))
    assert (again.decided, store.decision("t29")) == ({"t00": b"0"}, b"29")
    assert store.record_transaction(payment("t00", NOON_US)) is False
    assert store.record_label(label("t00", NOON_US + 50)) is True
    assert store.record_label(label("t00", NOON_US + 50)) is False
    store.close()


def test_the_index_lets_go_of_what_moved(url, monkeypatch):
    monkeypatch.setattr(hash_index, "_TABLE_LINES", 8)
    monkeypatch.setattr(sqlite_log, "_FORGOTTEN_EVERY", 8)
    store = open_online_store(url)
    for day in range(3):
        for number in range(20):
            decide(store, Entry(payment(f"t{day} {number}", NOON_US + day * DAY_US + number), b"d"))
        store.rebuild(*tables_of([], []), NOON + timedelta(days=day, seconds=1))
        store.read(None)
    index = store._index
    # Decisions of two days are found, so the identifiers of 21 to 60 stay; cards and merchants are in the tables of
    # histories. Of tables of eight lines the ones with 17 to 24 and 57 to 64 are the last that go.
    assert [table.first for table in index._of_id._tables] == [17, 25, 33, 41, 49, 57]
    assert [table.first for table in index._of_card._tables] == [57]
    assert [table.first for table in index._of_merchant._tables] == [57]
    store.rebuild(*tables_of([], []), NOON + timedelta(days=5))
    store.read(None)
    assert ask(url, "select count(*) from log") == [(0,)]
    decide(store, Entry(payment("late", NOON_US), b"late"))
    assert ids(store.history("tok_a", "m1", NOON_US + 9 * DAY_US).card)[-1] == "t2 19"
    assert store.transaction("late") is not None
    store.close()


def test_numbers_go_on_where_the_log_is_empty(url):
    store = open_online_store(url)
    decide(store, *(Entry(payment(f"t{number}", NOON_US - DECISIONS_KEPT_US), b"") for number in range(5)))
    store.rebuild(*tables_of([], []), NOON)
    assert ask(url, "select count(*) from log") == [(0,)]
    here = store.read(None).position
    assert here.sequence == 5
    assert store.append(here, [Entry(payment("new", NOON_US), b"")]).position.sequence == 6
    assert [change.transaction_id for change in store.read(here).changes] == ["new"]
    store.close()


def test_what_was_looked_for_is_looked_for_again_once_others_wrote(url):
    with closing(open_online_store(url)) as mine, closing(open_online_store(url)) as theirs:
        here = mine.read(None, ["t"]).position
        theirs.append(here, [Entry(payment("t", NOON_US, card="tok_b", merchant="m2"), b"theirs")])
        # Another card and merchant: the append may go on, and finds the decision.
        outcome = mine.append(here, [Entry(payment("t", NOON_US), b"mine")])
        assert (outcome.is_recorded, outcome.decided) == (True, {"t": b"theirs"})
        assert mine.sizes()["transactions"] == 1


def test_what_was_recorded_reaches_the_file_beside_the_payments(url, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_backend, "_CHECKPOINT_BYTES", 10_000)
    store = open_online_store(url)
    for number in range(12):
        decide(store, Entry(payment(f"t{number}", NOON_US + number), bytes(1_000)))
    store._checkpoint.join()
    # The file alone, without SQLite's log beside it.
    alone = shutil.copy(tmp_path / "online.sqlite", tmp_path / "alone.sqlite")
    assert ask(f"sqlite:///{alone}", "select count(*) from log")[0][0] >= 9
    store.close()


def test_what_was_recorded_stands_where_the_system_has_no_thread_to_give(url, monkeypatch):
    monkeypatch.setattr(sqlite_backend, "_CHECKPOINT_BYTES", 100)
    store = open_online_store(url)
    before = threading.stack_size(2**46)  # no system has that much
    try:
        with pytest.raises(RuntimeError):
            threading.Thread().start()
        assert decide(store, Entry(payment("t", NOON_US), bytes(1_000))).is_recorded
    finally:
        threading.stack_size(before)
    assert store.decision("t") == bytes(1_000)
    assert decide(store, Entry(payment("u", NOON_US + 1), bytes(1_000))).is_recorded
    store._checkpoint.join()
    store.close()


def test_a_look_at_the_log_that_ends_half_way_counts_nothing_twice(url):
    """As when the disk cannot be read for a moment: the question fails, and the next one goes on from there."""
    with closing(open_online_store(url)) as writer, closing(open_online_store(url)) as reader:
        reader.decision("t0")
        for number in range(200):
            decide(writer, Entry(payment(f"t{number:03}", NOON_US + number), b"d"))
        connection = reader._connection()
        failed = 0
        for steps in itertools.count(20, 20):  # most of them end it while it reads the rows
            taken = itertools.count()
            connection.set_progress_handler(lambda taken=taken, steps=steps: next(taken) == steps, 1)
            try:
                reader.decision("t0")
                break
            except OnlineStoreUnavailable:
                failed += 1
            finally:
                connection.set_progress_handler(None, 1)
        assert failed > 5
        assert ids(reader.history("tok_a", "m1", NOON_US + 999).card) == [f"t{number:03}" for number in range(200)]


@pytest.mark.parametrize("table_lines", [1, 8, 1_024])
@pytest.mark.parametrize("many", [1, 32])
def test_who_opens_a_store_finds_what_others_did_whether_it_is_folded_or_not(url, table_lines, many, monkeypatch):
    monkeypatch.setattr(hash_index, "_TABLE_LINES", table_lines)
    monkeypatch.setattr(hash_index, "_MANY", many)
    with closing(open_online_store(url)) as before:
        for number in range(40):
            decide(
                before, *(Entry(payment(f"t{number} {n}", NOON_US + number), b"%d" % n) for n in range(1 + number % 3))
            )
            if number == 20:
                before.rebuild(*tables_of([], []), NOON + timedelta(seconds=1))
        expected = ids(before.history("tok_a", "m1", NOON_US + 99).card)
    with closing(open_online_store(url)) as after:
        assert ids(after.history("tok_a", "m1", NOON_US + 99).card) == expected
        assert [after.decision(f"t{number} 0") for number in range(40)] == [b"0"] * 40
        assert after.record_transaction(payment("t3 0", NOON_US + 3)) is False
        decide(after, Entry(payment("new", NOON_US + 40), b"new"))
        assert ids(after.history("tok_a", "m1", NOON_US + 99).card) == [*expected, "new"]


def test_a_row_is_read_once_however_many_of_its_lines_are_looked_for():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        index, now = LogIndex(), sqlite_log.numbers(connection)
        rows = [[payment(f"t{row}-{n}", NOON_US) for n in range(100)] for row in range(2)]
        for lines in rows:
            written = sqlite_log.write(connection, now, lines)
            index.wrote(written)
            now = written.after
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        ids = [line.transaction_id for lines in rows for line in lines] + ["unknown"]
        found = index.of_ids(connection, ids)
        assert {id_: [one.line.transaction_id for one in lines] for id_, lines in found.items()} == {
            id_: [id_] for id_ in ids[:-1]
        }
        assert len(statements) == 1


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
OPTIONAL_TEXTS, DEGREES = st.none() | TEXTS, st.none() | st.floats(allow_nan=False, allow_infinity=False)
LINES = st.one_of(
    st.builds(
        ScoredTransaction,
        *(TEXTS, NUMBERS, TEXTS, TEXTS, NUMBERS, TEXTS),
        *(OPTIONAL_TEXTS,) * 5,
        *(DEGREES,) * 4,
    ),
    st.builds(LabelArrival, TEXTS, NUMBERS, NUMBERS, st.booleans(), TEXTS, TEXTS, NUMBERS),
    st.builds(Decided, TEXTS, NUMBERS),
)


@given(st.lists(st.lists(LINES, min_size=1, max_size=5), max_size=4))
def test_lines_come_back_as_they_were_written(rows):
    """Any text, a line's end in it too, any number to its last bit, and each line as what it is."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        now, index = sqlite_log.numbers(connection), LogIndex()
        for lines in rows:
            written = sqlite_log.write(connection, now, lines)
            index.wrote(written)
            now = written.after
        made = [line for lines in rows for line in lines]
        found = [line for _, lines in sqlite_log.rows_after(connection, 0) for line in lines]
        assert list(map(repr, found)) == list(map(repr, made))  # which tells 0.0 from -0.0, and True from 1
        events = [line for line in made if type(line) is not Decided]
        assert sqlite_log.changes_after(connection, 0) == events
        after = LogIndex()
        after.follow(connection, now)
        for one in (index, after):
            for line in made:
                id_ = line.transaction_id
                of_id = [found.line for found in one.of_ids(connection, [id_])[id_]]
                assert of_id == [other for other in made if other.transaction_id == id_]
            for line in events:
                assert one.of_card(connection, line.card_id, 0) == [e for e in events if e.card_id == line.card_id]
                assert one.of_merchant(connection, line.merchant_id, 0) == [
                    e for e in events if e.merchant_id == line.merchant_id
                ]


def test_what_would_not_come_back_as_it_is_refused(url):
    store = open_online_store(url)
    for transaction in (payment("t", NOON_US, 2**64), payment("t", NOON_US, category="\ud800")):
        with pytest.raises(TypeError):
            decide(store, Entry(transaction, b"d"))
    assert store.sizes()["transactions"] == 0
    store.close()


def test_a_file_of_the_version_before_keeps_its_pages(tmp_path):
    for name, page_bytes in (("old", 4096), ("new", 8192)):
        path = tmp_path / f"{name}.sqlite"
        if name == "old":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute(f"pragma page_size = {page_bytes}")
                connection.execute("create table of_old (a)")
        with closing(open_online_store(f"sqlite:///{path}")) as store:
            decide(store, Entry(payment("t", NOON_US), b"d"))
            assert store.decision("t") == b"d"
        assert ask(f"sqlite:///{path}", "pragma page_size") == [(page_bytes,)]
