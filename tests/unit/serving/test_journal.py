"""What is appended is on disk and comes back, in order: after crashes, with damaged files, on full disks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from fraud_pipelines.errors import ContractBroken, JournalFull, JournalUnavailable
from serving import journal as journal_module
from serving.journal import Journal
from serving.segments import LINE_OVERHEAD_BYTES, framed
from tests.journals import crash, drain, segments, start_python


def numbered(first: int, count: int, size: int = 0) -> list[bytes]:
    return [b'{"n":%d,"pad":"%b"}' % (n, b"x" * size) for n in range(first, first + count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder)
    yield journal
    journal.close()


def test_records_come_back_in_order_and_leave_no_file(journal: Journal, folder: Path):
    journal.append(numbered(0, 3))
    journal.append(numbered(3, 700))
    # Each line is the record and 33 bytes more.
    assert journal.pending_bytes == sum(len(record) + 33 for record in numbered(0, 703))
    assert journal.pending_records == 703
    assert drain(journal) == (numbered(0, 703), [])
    assert journal.pending_records == journal.pending_bytes == 0
    journal.close()
    assert list(folder.iterdir()) == []


def test_a_batch_is_the_same_until_it_is_delivered(journal: Journal):
    journal.append(numbered(0, 5))
    assert [journal.next_batch(2).records for _ in range(2)] == [numbered(0, 2)] * 2  # type: ignore[union-attr]
    journal.delivered(journal.next_batch(2))  # type: ignore[arg-type]
    assert journal.next_batch(9).records == numbered(2, 3)  # type: ignore[union-attr]


def test_one_sync_per_append_covers_all_its_records_and_a_new_files_name(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[int | str] = []
    real, real_of_names = journal_module._sync, os.fsync

    def watched(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    def watched_of_names(descriptor: int) -> None:
        real_of_names(descriptor)
        assert os.path.samestat(os.fstat(descriptor), folder.stat())
        synced.append("folder")

    monkeypatch.setattr(journal_module, "_sync", watched)
    monkeypatch.setattr(os, "fsync", watched_of_names)
    for count in (1, 16):
        journal.append(numbered(0, count))
    lines = [len(framed(numbered(0, count), 0)) for count in (1, 16)]
    assert synced == [lines[0], "folder", sum(lines)]


def test_a_failed_sync_refuses_the_call_and_nothing_else(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal.append(numbered(0, 2))
    for _ in range(3):
        with monkeypatch.context() as patched, pytest.raises(JournalUnavailable, match="Input/output error"):
            patched.setattr(journal_module, "_sync", failing)
            journal.append(numbered(100, 2))
    # A file whose sync failed gets no further record, and empty ones do not pile up.
    journal.append(numbered(2, 2))
    assert len(segments(folder)) == 2
    crash(journal)
    after = Journal(folder)
    assert drain(after) == (numbered(0, 4), [])
    after.close()
    journal._is_closed = True  # for the fixture: what it would close is closed


LIMITED = """
import json, resource, signal, sys
from pathlib import Path
from fraud_pipelines.errors import JournalUnavailable
from serving.journal import Journal

journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
outcomes = []
for n in range(50):
    try:
        journal.append([b'{"n":%d,"pad":"%b"}' % (n, b"x" * 700)])
        outcomes.append(n)
    except JournalUnavailable:
        pass
print(json.dumps(outcomes), flush=True)
import os; os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_disk_that_ends_within_a_record_costs_that_record_alone(folder: Path):
    process = start_python(LIMITED, folder)
    printed, _ = process.communicate(timeout=30)
    # A line takes 700 + 16 or 17 + 33 bytes: 13 fit in 10,000, the 14th is cut off and refused, the next file begins.
    accepted = [n for n in range(50) if n % 14 != 13]
    assert printed == f"{accepted}\n".encode()
    journal = Journal(folder)
    assert drain(journal) == ([record for n in accepted for record in numbered(n, 1, 700)], [])
    journal.close()


def test_a_full_journal_refuses_and_recovers(folder: Path):
    line = len(numbered(0, 1)[0]) + LINE_OVERHEAD_BYTES
    journal = Journal(folder, limit_bytes=3 * line)
    journal.append(numbered(0, 2))
    with pytest.raises(JournalFull, match=f"{2 * line} of at most {3 * line} wait for the ledger"):
        journal.append(numbered(2, 2))
    assert journal.is_full
    journal.append(numbered(2, 1))
    journal.delivered(journal.next_batch(1))  # type: ignore[arg-type]
    assert not journal.is_full
    journal.append(numbered(3, 1))
    assert drain(journal) == (numbered(1, 3), [])
    journal.close()


def test_what_is_no_line_or_comes_too_late_is_refused(journal: Journal):
    with pytest.raises(ContractBroken, match="with 1 newlines"):
        journal.append([b"{}", b"{\n}"])
    assert journal.pending_records == 0
    journal.close()
    with pytest.raises(JournalUnavailable, match="closed"):
        journal.append([b"{}"])


def test_a_folder_that_cannot_be_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnavailable, match="file/journal cannot be written to: Not a directory"):
        Journal(tmp_path / "file" / "journal")


def test_a_torn_last_line_is_dropped_wherever_it_tears(folder: Path):
    last = len(framed(numbered(2, 1), 0))
    for cut in range(1, last + 1):
        writer = Journal(folder)
        writer.append(numbered(0, 3))
        crash(writer)
        (segment,) = segments(folder)
        os.truncate(segment, segment.stat().st_size - cut)
        reader = Journal(folder)
        # Without its newline alone, the record is whole.
        assert drain(reader) == (numbered(0, 3 if cut == 1 else 2), [])
        reader.close()


@settings(max_examples=150, database=None)
@given(st.data())
def test_a_flipped_byte_costs_the_record_it_is_in_and_names_its_place(data: st.DataObject):
    records = numbered(0, 6, size=data.draw(st.integers(0, 60)))
    with tempfile.TemporaryDirectory() as name:
        writer = Journal(Path(name))
        writer.append(records)
        crash(writer)
        (segment,) = segments(Path(name))
        content = bytearray(segment.read_bytes())
        # Of all but the last line, whose damage may look like a torn one.
        at = data.draw(st.integers(0, len(framed(records[:5], 0)) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        segment.write_bytes(content)
        reader = Journal(Path(name))
        found, places = drain(reader)
        reader.close()
    starts = [len(framed(records[:n], 0)) for n in range(6)]
    hit = max(n for n in range(6) if starts[n] <= at)
    if at == starts[hit + 1] - 1:  # its newline
        assert (found, places) == (records, [])
    else:
        assert found == records[:hit] + records[hit + 1 :]
        assert places[0] == f"{segment.name}:{starts[hit]}"


def test_a_file_that_shrank_or_went_away_is_reported_and_holds_up_nothing(folder: Path):
    journal = Journal(folder, segment_bytes=200, memory_bytes=0)
    for n in range(9):
        journal.append(numbered(n, 1))
    files = segments(folder)
    assert len(files) == 3  # a line takes 16 + 33 bytes: 4 in a file
    files[0].unlink()
    os.truncate(files[1], 49)
    assert drain(journal) == (numbered(4, 1) + numbered(8, 1), [f"{files[0].name}:0", f"{files[1].name}:49"])
    assert journal.pending_bytes == journal.pending_records == 0
    journal.close()


def test_a_position_survives_a_crash_so_that_little_comes_twice(folder: Path):
    writer = Journal(folder)
    writer.append(numbered(0, 10))
    writer.delivered(writer.next_batch(6))  # type: ignore[arg-type]
    writer.settle()
    writer.append(numbered(10, 1))
    crash(writer)
    reader = Journal(folder)
    assert drain(reader) == (numbered(6, 5), [])
    reader.close()


def test_a_file_whose_removal_a_power_cut_undid_is_not_delivered_again(folder: Path):
    writer = Journal(folder, segment_bytes=200)
    for n in range(9):
        writer.append(numbered(n, 1))
    first = segments(folder)[0]
    content = first.read_bytes()
    writer.delivered(writer.next_batch(6))  # type: ignore[arg-type]
    writer.settle()
    assert not first.exists()
    crash(writer)
    first.write_bytes(content)
    reader = Journal(folder)
    assert drain(reader) == (numbered(6, 3), [])
    reader.close()
    assert list(folder.iterdir()) == []


def test_a_position_that_cannot_be_read_brings_all_again(folder: Path):
    writer = Journal(folder)
    writer.append(numbered(0, 10))
    writer.delivered(writer.next_batch(6))  # type: ignore[arg-type]
    writer.settle()
    crash(writer)
    (position,) = folder.glob("*.position")
    content = bytearray(position.read_bytes())
    content[20] ^= 1
    position.write_bytes(content)
    reader = Journal(folder)
    assert drain(reader) == (numbered(0, 10), [])
    reader.close()


def test_disk_use_returns_to_nothing_when_all_is_delivered(folder: Path):
    journal = Journal(folder, segment_bytes=80_000)
    for n in range(0, 400, 20):
        journal.append(numbered(n, 20, size=1000))
    assert len(segments(folder)) == 7  # calls of 20 lines of 1,049 bytes: 3 in a file
    drain(journal)
    journal.settle()
    assert segments(folder) == []
    journal.append(numbered(0, 2))
    drain(journal)
    journal.settle()
    assert len(segments(folder)) == 1  # a small file is not worth a new one
    journal.close()


def test_a_long_outage_costs_disk_and_no_memory(folder: Path):
    journal = Journal(folder, memory_bytes=1_000_000)
    pad = b"x" * 10_000
    tracemalloc.start()
    try:
        for n in range(0, 4000, 20):
            journal.append([b'{"n":%d,"pad":"%b"}' % (i, pad) for i in range(n, n + 20)])
        waiting, peak = tracemalloc.get_traced_memory()
        assert journal.pending_bytes > 40_000_000
        assert waiting < 1_200_000 and peak < 2_200_000
        tracemalloc.reset_peak()
        n = 0
        while batch := journal.next_batch(500):
            for record in batch.records:
                assert record.startswith(b'{"n":%d,' % n)
                n += 1
            journal.delivered(batch)
        assert n == 4000
        del batch
        assert tracemalloc.get_traced_memory()[1] < waiting + 4_000_000
    finally:
        tracemalloc.stop()
    journal.close()


def test_the_oldest_record_says_how_long_it_waits_also_after_a_crash(folder: Path):
    writer = Journal(folder)
    assert writer.oldest_pending_seconds == 0
    moments = [time.time()]
    for n in range(2):
        writer.append(numbered(n, 1))
        moments.append(time.time())
        time.sleep(0.05)
    crash(writer)
    reader = Journal(folder)
    reader.adopt_orphans()
    for n in range(2):
        least, found, most = time.time() - moments[n + 1], reader.oldest_pending_seconds, time.time() - moments[n]
        assert least <= found <= most + 0.001  # milliseconds are written
        reader.delivered(reader.next_batch(1))  # type: ignore[arg-type]
    assert reader.oldest_pending_seconds == 0
    reader.close()


def test_an_orphan_is_left_to_others_where_it_does_not_fit(folder: Path):
    line = len(numbered(0, 1)[0]) + LINE_OVERHEAD_BYTES
    for _ in range(2):
        dead = Journal(folder)
        dead.append(numbered(0, 2))
        crash(dead)
    one, other = Journal(folder, limit_bytes=3 * line), Journal(folder, limit_bytes=3 * line)
    for journal in (one, other):
        journal.adopt_orphans()
        assert journal.pending_bytes == 2 * line
    with pytest.raises(JournalFull):
        one.append(numbered(0, 2))
    for journal in (one, other):
        assert drain(journal) == (numbered(0, 2), [])
        journal.close()
    assert list(folder.iterdir()) == []


def test_a_dead_process_s_backlog_and_new_records_take_turns(folder: Path):
    dead = Journal(folder)
    dead.append(numbered(0, 30))
    crash(dead)
    journal = Journal(folder)
    journal.append(numbered(100, 30))
    found, _ = drain(journal, most=10)
    firsts = {tuple(found[:10]), tuple(found[10:20])}
    assert firsts == {tuple(numbered(0, 10)), tuple(numbered(100, 10))}
    journal.close()


def test_a_journal_whose_lock_was_taken_for_an_orphans_begins_anew(folder: Path, monkeypatch: pytest.MonkeyPatch):
    other, real = Journal(folder), fcntl.flock

    def interrupted(descriptor: int, operation: int) -> None:
        # Between the making of the file and its lock, the other process finds it unlocked and clears it away.
        monkeypatch.setattr(fcntl, "flock", real)
        other.adopt_orphans()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", interrupted)
    young = Journal(folder)
    young.append(numbered(0, 1))
    other.adopt_orphans()
    assert (young.pending_records, other.pending_records) == (1, 0)
    assert drain(young) == (numbered(0, 1), [])
    young.close()
    other.close()
    assert list(folder.iterdir()) == []


class JournalMachine(RuleBasedStateMachine):
    """Two processes at a time share a folder: they append, deliver, stop and crash. The model is a list per writer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="journal-"))
        self.live: list[tuple[int, Journal]] = []
        self.appended: list[int] = []  # by writer: how many records it appended
        self.seen: list[int] = []  # by writer: how many of its first records were delivered
        self.crashed: set[int] = set()

    def _deliver(self, journal: Journal, most: int) -> None:
        batch = journal.next_batch(most)
        if batch is None:
            return
        assert batch.broken == [] and len(batch.records) <= most
        for record in batch.records:
            if record.startswith(b"unacknowledged"):
                continue
            writer, number = map(int, record.split(b",")[:2])
            assert number <= self.seen[writer]  # no gap, and in order
            if number < self.seen[writer]:
                assert writer in self.crashed  # comes again only after a crash
            self.seen[writer] = max(self.seen[writer], number + 1)
        journal.delivered(batch)

    @precondition(lambda self: len(self.live) < 2)
    @rule()
    def start(self) -> None:
        journal = Journal(self.folder, limit_bytes=2000, segment_bytes=300, memory_bytes=600)
        self.live.append((len(self.appended), journal))
        self.appended.append(0)
        self.seen.append(0)

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1), sizes=st.lists(st.integers(0, 120), min_size=1, max_size=6))
    def append(self, which: int, sizes: list[int]) -> None:
        writer, journal = self.live[which % len(self.live)]
        records = [b"%d,%d,%b" % (writer, self.appended[writer] + n, b"x" * size) for n, size in enumerate(sizes)]
        before = journal.pending_records, journal.pending_bytes
        fits = before[1] + sum(map(len, records)) + 33 * len(records) <= 2000
        if fits:
            journal.append(records)
            self.appended[writer] += len(records)
            assert journal.pending_records == before[0] + len(records)
        else:
            with pytest.raises(JournalFull):
                journal.append(records)
            assert (journal.pending_records, journal.pending_bytes) == before

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1), most=st.integers(1, 8))
    def deliver(self, which: int, most: int) -> None:
        self._deliver(self.live[which % len(self.live)][1], most)

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1))
    def settle(self, which: int) -> None:
        self.live[which % len(self.live)][1].settle()

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1))
    def adopt(self, which: int) -> None:
        self.live[which % len(self.live)][1].adopt_orphans()

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1), torn=st.integers(0, 100))
    def crash(self, which: int, torn: int) -> None:
        _, journal = self.live.pop(which % len(self.live))
        line = framed([b"unacknowledged", b"unacknowledged" * 3], 0)
        if journal._descriptor is not None:
            os.write(journal._descriptor, line[:torn])
        crash(journal)
        # What it had taken over may come again as well.
        live = {number for number, _ in self.live}
        self.crashed |= set(range(len(self.appended))) - live

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1))
    def stop(self, which: int) -> None:
        self.live.pop(which % len(self.live))[1].close()

    def teardown(self) -> None:
        for _, journal in self.live:
            journal.close()
        last = Journal(self.folder)
        last.adopt_orphans()
        while last.pending_bytes:
            self._deliver(last, 3)
        assert self.seen == self.appended
        assert last.pending_records == 0
        last.close()
        assert list(self.folder.iterdir()) == []
        shutil.rmtree(self.folder)


def test_whatever_happens_every_record_arrives_in_order():
    run_state_machine_as_test(JournalMachine, settings=settings(max_examples=60, stateful_step_count=40, database=None))
