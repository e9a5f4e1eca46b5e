"""A key gets at most its burst and its rate, whoever counts: one process, three at once, or one that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import rate_limits
from serving.rate_limits import SECOND, RateLimit, RateLimits
from tests.installation import ROOT

KEY, OTHER = "00000000000000a1", "00000000000000b2"


class Clock:
    """A clock that stands still until it is moved; nanoseconds."""

    def __init__(self, now: int = 10**15) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def most_above_the_rate(admitted: Sequence[tuple[int, int]], per_second: float) -> Fraction:
    """Over all intervals that begin and end with an admission, the most by which the number admitted passes rate * T.

    Args:
        admitted: (moment in ns, transactions), in order of time.
    """
    rate = Fraction(per_second) / SECOND
    total, highest, lowest = 0, Fraction(0), None
    for moment, cost in admitted:
        before = total - rate * moment
        lowest = before if lowest is None else min(lowest, before)
        total += cost
        highest = max(highest, total - rate * moment - lowest)
    return highest


def test_a_full_bucket_holds_the_burst_and_refills_at_the_rate(tmp_path):
    clock = Clock()
    limits, limit = RateLimits(tmp_path / "limits", clock=clock), RateLimit(10, 3)
    assert [limits.take(KEY, limit) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]
    clock.now += SECOND // 10 - 1
    assert limits.take(KEY, limit) == pytest.approx(1e-9)  # a nanosecond early
    clock.now += 1
    assert [limits.take(KEY, limit) for _ in range(2)] == [0.0, pytest.approx(0.1)]
    clock.now += 3600 * SECOND
    assert [limits.take(KEY, limit) > 0 for _ in range(4)] == [False, False, False, True]


def test_a_batch_costs_its_rows_and_a_refused_one_costs_nothing(tmp_path):
    limits, limit = RateLimits(tmp_path / "limits", clock=Clock()), RateLimit(10, 5)
    assert limits.take(KEY, limit, 4) == 0.0
    assert limits.take(KEY, limit, 3) == pytest.approx(0.2)  # one is left, two are missing
    assert limits.take(KEY, limit, 1) == 0.0


def test_keys_have_buckets_of_their_own(tmp_path):
    limits, limit = RateLimits(tmp_path / "limits", clock=Clock()), RateLimit(1, 1)
    assert [limits.take(key, limit) > 0 for key in (KEY, KEY, OTHER)] == [False, True, False]


RATES = st.floats(min_value=0.001, max_value=100_000) | st.sampled_from([1.0, 3.0, 7.0, 200.0])
# A gap in thousandths of the time that the rate allows for one transaction, and what comes after it.
ARRIVALS = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 4)), min_size=1, max_size=60)


@given(RATES, st.integers(4, 20), ARRIVALS)
def test_no_interval_admits_more_than_the_burst_and_the_rate(rate, burst, arrivals):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        # Two that share a file, as two workers do.
        workers = [RateLimits(Path(folder) / "limits", clock=clock) for _ in range(2)]
        limit, admitted = RateLimit(rate, burst), []
        for turn, (gap, cost) in enumerate(arrivals):
            clock.now += gap * limit.interval_ns // 1000
            wait = workers[turn % 2].take(KEY, limit, cost)
            if wait == 0:
                admitted.append((clock.now, cost))
            else:  # what Retry-After promises
                clock.now += int(wait * SECOND) + 1
                assert workers[turn % 2].take(KEY, limit, cost) == 0
                admitted.append((clock.now, cost))
        assert most_above_the_rate(admitted, rate) <= burst


@given(RATES, st.integers(1, 3), st.lists(st.integers(0, 10**10), min_size=1, max_size=40))
def test_a_client_below_the_rate_is_never_refused(rate, burst, extra_ns):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        limits, limit = RateLimits(Path(folder) / "limits", clock=clock), RateLimit(rate, burst)
        for extra in extra_ns:
            assert limits.take(KEY, limit) == 0
            clock.now += limit.interval_ns + extra


# Asks as fast as it can for half a second, beginning at a given moment; prints the moments at which it was admitted.
ASKING = """
import json, sys, time
from pathlib import Path
from serving.rate_limits import RateLimit, RateLimits

path, key, rate, burst, begin = sys.argv[1:]
seen = []
def clock():
    seen.append(time.monotonic_ns())
    return seen[-1]
limits, limit = RateLimits(Path(path), clock=clock), RateLimit(float(rate), int(burst))
time.sleep(max(0, (int(begin) - time.monotonic_ns()) / 1e9))
admitted, asked = [], 0
while time.monotonic_ns() < int(begin) + 500_000_000:
    asked += 1
    if limits.take(key, limit) == 0:
        admitted.append(seen[-1])
print(json.dumps({"asked": asked, "admitted": admitted}))
"""


def test_three_processes_at_once_share_one_bucket(tmp_path):
    rate, burst = 2000, 100
    begin = time.monotonic_ns() + SECOND
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ASKING, str(tmp_path / "limits"), KEY, str(rate), str(burst), str(begin)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    found = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert all(one["admitted"] for one in found)
    moments = sorted(moment for one in found for moment in one["admitted"])
    assert sum(one["asked"] for one in found) > 2 * len(moments)  # they did ask for more
    assert most_above_the_rate([(moment, 1) for moment in moments], rate) <= burst
    assert len(moments) > rate * 0.5 * 0.5  # and what there was to get, they got


def test_threads_of_one_process_share_the_bucket(tmp_path):
    limits, limit = RateLimits(tmp_path / "limits"), RateLimit(0.001, 2000)
    admitted: list[int] = []

    def ask() -> None:
        admitted.append(sum(limits.take(KEY, limit) == 0 for _ in range(2000)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(admitted) == 2000


def test_a_process_killed_in_the_middle_leaves_no_lock(tmp_path):
    path = tmp_path / "limits"
    # The clock is read while the lock is held.
    program = (
        "import sys, time; from pathlib import Path; from serving.rate_limits import RateLimit, RateLimits\n"
        "def clock():\n    print('inside', flush=True); time.sleep(600)\n"
        "RateLimits(Path(sys.argv[1]), clock=clock).take(sys.argv[2], RateLimit(10, 1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path), KEY], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "inside\n"
    answers: list[float] = []
    asking = threading.Thread(target=lambda: answers.append(RateLimits(path).take(KEY, RateLimit(10, 1))))
    asking.start()
    asking.join(0.1)
    assert answers == []  # the lock is held
    process.kill()
    process.communicate()
    asking.join(10)
    assert answers == [0.0]


def test_a_slot_is_taken_from_the_key_that_was_idle_the_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(rate_limits, "SLOTS", 2)
    clock = Clock()
    first, second = (RateLimits(tmp_path / "limits", clock=clock) for _ in range(2))
    limit, third_key = RateLimit(1, 1), "00000000000000c3"
    assert first.take(KEY, limit) == 0
    clock.now += 2 * SECOND
    assert first.take(OTHER, limit) == 0
    assert second.take(third_key, limit) == 0  # in place of KEY, whose bucket is full again
    assert first.take(OTHER, limit) > 0
    # The first worker still knows the old place of KEY; it must not count on the third key's account.
    clock.now += SECOND
    assert second.take(third_key, limit) == 0
    assert first.take(KEY, limit) == 0
    assert second.take(third_key, limit) > 0


def test_after_a_reboot_buckets_begin_full(tmp_path):
    clock = Clock()
    limit = RateLimit(1, 2)
    RateLimits(tmp_path / "limits", clock=clock).take(KEY, limit, 2)
    clock.now = 5 * SECOND
    after = RateLimits(tmp_path / "limits", clock=clock)
    assert [after.take(KEY, limit) > 0 for _ in range(3)] == [False, False, True]


def test_buckets_outlive_the_process_and_the_file_is_its_owners_alone(tmp_path):
    clock, limit = Clock(), RateLimit(1, 1)
    RateLimits(tmp_path / "deep" / "limits", clock=clock).take(KEY, limit)
    assert RateLimits(tmp_path / "deep" / "limits", clock=clock).take(KEY, limit) == 1.0
    assert (tmp_path / "deep" / "limits").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0)])
def test_a_limit_that_admits_nothing_is_refused(rate, burst):
    with pytest.raises(ValueError, match=f"found {rate} and {burst}"):
        RateLimit(rate, burst)
