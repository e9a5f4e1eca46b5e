"""What the journal holds arrives: through outages, poison and kill -9, in order, and for each process on its own."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from fraud_pipelines.errors import ContractBroken, LedgerUnavailable
from serving.forwarding import Forwarder, add_dead_letter
from serving.journal import Journal
from tests.journals import crash, segments, start_python


def numbered(first: int, count: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(first, first + count)]


class Receiver:
    """A ledger's stand-in that keeps what it gets, and can be away or find a record unacceptable."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.batches: list[int] = []
        self.is_away = False
        self.refused: set[bytes] = set()
        self.attempts = 0

    def deliver(self, records: list[bytes]) -> None:
        self.attempts += 1
        if self.is_away:
            raise LedgerUnavailable("The ledger is away.")
        if self.refused.intersection(records):
            raise ContractBroken("A record names no transaction.")
        self.batches.append(len(records))
        self.records += records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder)
    yield journal
    journal.close()


def soon(condition: Callable[[], object], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.002)


def letters(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "dead_letters.jsonl").read_text().splitlines()]


def test_a_record_is_delivered_at_once_and_an_idle_forwarder_sleeps(journal: Journal):
    arrived: list[float] = []
    forwarder = Forwarder(journal, lambda records: arrived.append(time.monotonic()))
    forwarder.start()
    soon(lambda: not journal.pending_records)
    delays = []
    for n in range(20):
        journal.append(numbered(n, 1))
        appended = time.monotonic()
        soon(lambda n=n: len(arrived) == n + 1)  # type: ignore[misc]
        delays.append(arrived[-1] - appended)
    assert sorted(delays)[10] < 0.2  # unwoken, it would look every two seconds
    used = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - used < 0.02
    assert forwarder.stop(5)
    assert forwarder.delivered_records == 20


def test_an_outage_delays_and_neither_loses_nor_reorders(folder: Path):
    # Memory for about 80 records of 1,000: the others are read back.
    journal, receiver = Journal(folder, memory_bytes=5_000, segment_bytes=10_000), Receiver()
    receiver.is_away = True
    errors: list[str | None] = []

    def deliver(records: list[bytes]) -> None:
        receiver.deliver(records)
        errors.append(forwarder.last_error)

    forwarder = Forwarder(journal, deliver, batch_records=70)
    forwarder.start()
    for n in range(0, 900, 10):
        journal.append(numbered(n, 10))
    soon(lambda: receiver.attempts >= 2)
    assert forwarder.is_behind
    assert forwarder.last_error == "LedgerUnavailable: The ledger is away."
    assert journal.pending_records == 900
    receiver.is_away = False
    for n in range(900, 1000):
        journal.append(numbered(n, 1))
    soon(lambda: not journal.pending_records)
    assert receiver.records == numbered(0, 1000)
    assert max(receiver.batches) == 70
    # The first delivery ends the outage.
    assert set(errors[1:]) == {None}
    assert not forwarder.is_behind
    assert forwarder.stop(5)
    journal.close()
    assert list(folder.iterdir()) == []


def test_it_lingers_only_when_less_than_a_batch_waits(folder: Path):
    # None in memory, and of each file fewer records than a batch may have.
    journal, receiver = Journal(folder, memory_bytes=0, segment_bytes=1_000), Receiver()
    for n in range(0, 500, 10):
        journal.append(numbered(n, 10))
    forwarder = Forwarder(journal, receiver.deliver, batch_records=50, linger_seconds=60)
    forwarder.start()
    soon(lambda: len(receiver.records) > 450)
    assert max(receiver.batches) < 50
    delivered = len(receiver.records)
    time.sleep(0.1)
    assert len(receiver.records) == delivered < 500
    assert forwarder.stop(5)
    assert receiver.records == numbered(0, 500)
    journal.close()


def test_pauses_between_attempts_grow(journal: Journal):
    attempts: list[float] = []

    def deliver(records: list[bytes]) -> None:
        attempts.append(time.monotonic())
        raise ConnectionError("refused")

    journal.append(numbered(0, 1))
    forwarder = Forwarder(journal, deliver)
    forwarder.start()
    soon(lambda: len(attempts) == 4)
    first, second, third = (after - before for before, after in pairwise(attempts))
    assert first >= 0.05 and second >= 0.1 and third >= 0.2  # half to all of 0.1, 0.2 and 0.4 s
    forwarder.stop(0)


def test_a_record_the_ledger_can_never_take_is_set_aside_and_the_others_arrive(journal: Journal, folder: Path):
    receiver = Receiver()
    receiver.refused = {b'{"n":0}', b'{"n":33}', b'{"n":99}'}
    journal.append(numbered(0, 100))
    forwarder = Forwarder(journal, receiver.deliver, batch_records=40)
    forwarder.start()
    assert forwarder.stop(5)
    assert receiver.records == [record for record in numbered(0, 100) if record not in receiver.refused]
    assert [(letter["record"], letter["reason"]) for letter in letters(folder)] == [
        (f'{{"n":{n}}}', "A record names no transaction.") for n in (0, 33, 99)
    ]
    assert (forwarder.delivered_records, forwarder.dead_letters) == (97, 3)
    assert forwarder.last_error is None


def test_a_damaged_line_is_set_aside_with_its_place(folder: Path):
    dead = Journal(folder)
    dead.append(numbered(0, 5))
    crash(dead)
    (segment,) = segments(folder)
    content = bytearray(segment.read_bytes())
    content[2 * 40 + 35] = 0xFF  # within the third record: a line takes 7 + 33 bytes
    segment.write_bytes(content)
    journal, receiver = Journal(folder), Receiver()
    forwarder = Forwarder(journal, receiver.deliver)
    forwarder.start()
    soon(lambda: len(receiver.records) == 4)
    assert forwarder.stop(5)
    assert receiver.records == numbered(0, 2) + numbered(3, 2)
    (letter,) = letters(folder)
    assert letter["reason"] == f"{segment.name}:80: its checksum is wrong"
    assert "record" not in letter and letter["record_base64"]
    assert forwarder.dead_letters == 1
    journal.close()


def test_a_dead_letter_that_a_crash_tore_does_not_spoil_the_next(tmp_path: Path):
    path = tmp_path / "dead_letters.jsonl"
    path.write_bytes(b'{"at": "2026')
    add_dead_letter(path, "Å".encode(), "because")
    assert json.loads(path.read_bytes().split(b"\n")[1])["record"] == "Å"


def test_stopping_leaves_to_the_next_process_what_cannot_be_delivered(folder: Path):
    journal, receiver = Journal(folder), Receiver()
    receiver.is_away = True
    forwarder = Forwarder(journal, receiver.deliver)
    forwarder.start()
    journal.append(numbered(0, 3))
    assert not forwarder.stop(0.2)
    journal.close()
    receiver.is_away = False
    time.sleep(0.15)  # longer than between two attempts
    assert receiver.records == []
    journal = Journal(folder)
    forwarder = Forwarder(journal, receiver.deliver)
    forwarder.start()
    soon(lambda: len(receiver.records) == 3)
    assert forwarder.stop(5)
    journal.close()
    assert receiver.records == numbered(0, 3)


def test_threads_that_append_at_once_lose_nothing(journal: Journal):
    receiver = Receiver()
    forwarder = Forwarder(journal, receiver.deliver)
    forwarder.start()

    def append(thread: int) -> None:
        for n in range(50):
            journal.append([b"%d,%d" % (thread, n)])

    threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert forwarder.stop(5)
    for thread in range(4):
        mine = [record for record in receiver.records if record.startswith(b"%d," % thread)]
        assert mine == [b"%d,%d" % (thread, n) for n in range(50)]


# argv: folder, file of deliveries, first number. Prints each number after its append returned, until it is killed.
SERVICE = """
import os, sys, time
from pathlib import Path
from serving.forwarding import Forwarder
from serving.journal import Journal

deliveries = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def deliver(records):
    os.write(deliveries, b"".join(record + b"\\n" for record in records))
    time.sleep(0.005)

journal = Journal(Path(sys.argv[1]), segment_bytes=20_000, memory_bytes=10_000)
Forwarder(journal, deliver).start()
n = int(sys.argv[3])
while True:
    group = 1 + n % 7
    journal.append([b"%d,%b" % (i, b"x" * (i % 90)) for i in range(n, n + group)])
    os.write(1, b"".join(b"%d\\n" % i for i in range(n, n + group)))
    n += group
"""


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(folder: Path, tmp_path: Path):
    file, acknowledged, possible = tmp_path / "deliveries", [], set()
    for number in range(8):
        process = start_python(SERVICE, folder, file, 1_000_000 * number)
        assert process.stdout is not None
        printed = process.stdout.read(2000 + 2500 * number)
        process.kill()
        printed += process.stdout.read()
        process.wait()
        acknowledged += [int(line) for line in printed.splitlines()]
        # The call it died in: its records may have reached the disk unacknowledged, and no others.
        following = acknowledged[-1] + 1
        possible |= set(range(following, following + 1 + following % 7))
    journal = Journal(folder)
    last: list[bytes] = []
    forwarder = Forwarder(journal, last.extend)
    forwarder.start()
    soon(lambda: not list(folder.glob("*.journal")))
    assert forwarder.stop(5)
    assert forwarder.dead_letters == 0
    journal.close()
    delivered = [int(line.split(b",")[0]) for line in file.read_bytes().splitlines() + last]
    assert set(acknowledged) - set(delivered) == set()
    assert set(delivered) - set(acknowledged) <= possible
    for number in range(8):
        first_arrivals = [n for n in dict.fromkeys(delivered) if n // 1_000_000 == number]
        assert first_arrivals == sorted(first_arrivals)
    # Killed between a delivery and the note of it, a process leaves records that come again.
    again = len(delivered) - len(set(delivered))
    assert 0 < again == sum(count - 1 for count in Counter(delivered).values())
    assert forwarder.delivered_records == len(last)
    assert list(folder.iterdir()) == []


# argv: folder, file of deliveries. Says "ready", delivers slowly until its standard input ends.
DELIVERER = """
import os, sys, time
from pathlib import Path
from serving.forwarding import Forwarder
from serving.journal import Journal

deliveries = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def deliver(records):
    os.write(deliveries, b"".join(b"%d %b\\n" % (os.getpid(), record) for record in records))
    time.sleep(0.005)

journal = Journal(Path(sys.argv[1]))
forwarder = Forwarder(journal, deliver, batch_records=20)
os.write(1, b"ready\\n")
sys.stdin.readline()
forwarder.start()
sys.stdin.read()
forwarder.stop(5)
journal.close()
"""


def test_two_processes_never_deliver_the_same_orphan(folder: Path, tmp_path: Path):
    file = tmp_path / "deliveries"
    for first in (0, 1000, 2000):
        dead = Journal(folder)
        dead.append(numbered(first, 500))
        crash(dead)
    processes = [start_python(DELIVERER, folder, file) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    soon(lambda: file.exists() and file.read_bytes().count(b"\n") >= 1500)
    # Another process dies while these two live; they find what it left.
    late = Journal(folder)
    late.append(numbered(3000, 50))
    crash(late)
    soon(lambda: file.read_bytes().count(b"\n") >= 1550)
    for process in processes:
        process.communicate(timeout=10)
    lines = [line.split() for line in file.read_bytes().splitlines()]
    assert Counter(record for _, record in lines) == Counter(
        record for first, count in ((0, 500), (1000, 500), (2000, 500), (3000, 50)) for record in numbered(first, count)
    )
    for first, count in ((0, 500), (1000, 500), (2000, 500), (3000, 50)):
        mine = [(pid, record) for pid, record in lines if record in set(numbered(first, count))]
        assert [record for _, record in mine] == numbered(first, count)
        assert len({pid for pid, _ in mine}) == 1
    assert list(folder.iterdir()) == []
