"""The threads between the event loop and the scorer: order, groups, room, what waits for the disk, failure, end."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from fraud_pipelines.features.online import ScoredTransaction
from serving import lane as lane_module
from serving import pace
from serving.endpoints import _PIECES_AT_ONCE
from serving.lane import BATCH_PIECE, MOST_IN_GROUP, MOST_PIECES_WAITING, MOST_WAITING, DecisionLane, Result
from serving.problems import Problem
from tests.stored_events import payment


def made(name: str) -> ScoredTransaction:
    return payment(name, 0)


class Deciding:
    """Notes each group, and answers its identifiers; waits at a gate while it is shut."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.durable: list[list[list[str]]] = []
        self.disk, self.writing = threading.Event(), threading.Event()
        self.disk.set()
        self.gate, self.began = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, transactions: Sequence[ScoredTransaction]) -> list[str]:
        names = [transaction.transaction_id for transaction in transactions]
        self.groups.append(names)
        self.began.set()
        assert self.gate.wait(10)
        if "broken" in names:
            raise RuntimeError("cannot decide")
        return names

    def make_durable(self, groups: Sequence[list[str]]) -> list[list[Result]]:
        self.durable.append(list(groups))
        self.writing.set()
        assert self.disk.wait(10)
        if ["no disk"] in groups:
            raise OSError("no disk")
        return [[name.encode() for name in names] for names in groups]


@pytest.fixture(autouse=True)
def same_pace() -> Iterator[None]:
    """Leave the interpreter's own pace to the other tests."""
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(before)
    gc.set_threshold(*thresholds)


def run(scenario: Callable, deciding: Deciding | None = None) -> Deciding:
    deciding = deciding or Deciding()
    lane = DecisionLane(deciding, deciding.make_durable)
    lane.start()
    try:
        asyncio.run(asyncio.wait_for(scenario(lane, deciding), 20))
    finally:
        deciding.gate.set()
        deciding.disk.set()
        lane.stop(10)
    return deciding


async def behind_a_shut_gate(lane: DecisionLane, deciding: Deciding) -> asyncio.Task:
    """One payment that is being decided on until the gate opens."""
    deciding.gate.clear()
    deciding.began.clear()
    first = asyncio.create_task(lane.decide(made("first")))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(deciding.began.wait, 10)
    return first


def test_a_lone_payment_does_not_wait_for_company():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        assert [await lane.decide(made(name)) for name in "abc"] == [b"a", b"b", b"c"]

    assert run(scenario).groups == [["a"], ["b"], ["c"]]


def test_what_waits_is_one_group_in_order_with_pieces_of_batches_between():
    names = [f"t{n}" for n in range(MOST_IN_GROUP + 3)]
    pieces = [[f"p{n}" for n in range(BATCH_PIECE)], ["q"]]

    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        batches = [asyncio.create_task(lane.decide_piece([made(n) for n in piece])) for piece in pieces]
        singles = [asyncio.create_task(lane.decide(made(name))) for name in names]
        await asyncio.sleep(0)
        assert lane.waiting == len(names)
        deciding.gate.set()
        assert await asyncio.gather(first, *singles) == [name.encode() for name in ["first", *names]]
        assert await asyncio.gather(*batches) == [[name.encode() for name in piece] for piece in pieces]

    groups = run(scenario).groups
    # One piece after each group of singles: neither waits for all of the other.
    assert groups == [["first"], pieces[0], names[:MOST_IN_GROUP], pieces[1], names[MOST_IN_GROUP:]]


def test_while_no_single_payment_comes_pieces_go_together_without_those_whose_caller_has_gone(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(lane_module, "_QUIET_SECONDS", 3_600.0)
    names = ["ab", "c", "de", "f", "g", "h"]

    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        deciding.gate.clear()
        first = asyncio.create_task(lane.decide_piece([made("first")]))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(deciding.began.wait, 10)
        pieces = [asyncio.create_task(lane.decide_piece([made(name) for name in own])) for own in names]
        await asyncio.sleep(0)
        pieces[1].cancel()
        await asyncio.sleep(0)
        deciding.gate.set()
        assert await first == [b"first"]
        found = await asyncio.gather(*pieces, return_exceptions=True)
        assert isinstance(found.pop(1), asyncio.CancelledError)
        assert found == [[name.encode() for name in own] for own in (names[0], *names[2:])]
        # Once one has come, pieces go one by one again.
        assert await lane.decide(made("single")) == b"single"
        pieces = [asyncio.create_task(lane.decide_piece([made(name)])) for name in "xyz"]
        assert await asyncio.gather(*pieces) == [[b"x"], [b"y"], [b"z"]]

    assert run(scenario).groups == [["first"], [*"abdef"], ["g", "h"], ["single"], ["x"], ["y"], ["z"]]


def test_the_interpreter_turns_seldom_while_no_single_payment_comes(monkeypatch: pytest.MonkeyPatch):
    paces: dict[str, tuple[float, int]] = {}

    class Noting(Deciding):
        def __call__(self, transactions: Sequence[ScoredTransaction]) -> list[str]:
            paces[transactions[0].transaction_id] = sys.getswitchinterval(), gc.get_threshold()[0]
            return super().__call__(transactions)

    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        monkeypatch.setattr(lane_module, "_QUIET_SECONDS", 0.0)
        for name in ("quiet", "quiet too"):
            await lane.decide_piece([made(name)])
        await lane.decide(made("single"))
        monkeypatch.setattr(lane_module, "_QUIET_SECONDS", 3_600.0)
        await lane.decide_piece([made("soon after")])

    run(scenario, Noting())
    relaxed = pytest.approx(pace.RELAXED_SWITCH_SECONDS), pace.RELAXED_YOUNG_OBJECTS
    hurried = pytest.approx(pace.SWITCH_SECONDS), pace.YOUNG_OBJECTS
    assert paces == {"quiet": relaxed, "quiet too": relaxed, "single": hurried, "soon after": hurried}


def test_while_payments_come_faster_than_groups_the_next_one_gathers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lane_module, "_BUSY_SECONDS", 3.0)

    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        tasks = [first, asyncio.create_task(lane.decide(made("waited")))]
        await asyncio.sleep(0)
        deciding.gate.set()
        assert await first == b"first"
        tasks.append(asyncio.create_task(lane.decide(made("came by then"))))
        await asyncio.gather(*tasks)
        # Nobody came while that group was decided: who comes next does not wait for others.
        started = asyncio.get_running_loop().time()
        assert await lane.decide(made("alone")) == b"alone"
        assert asyncio.get_running_loop().time() - started < 2.5

    assert run(scenario).groups == [["first"], ["waited", "came by then"], ["alone"]]


def test_who_comes_when_too_many_wait_is_told_to_come_back():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        waiting = [asyncio.create_task(lane.decide(made(f"t{n}"))) for n in range(MOST_WAITING)]
        await asyncio.sleep(0)
        for one_more in (lane.decide(made("late")), lane.decide_piece([made("late")])):
            with pytest.raises(Problem) as caught:
                await one_more
            assert (caught.value.status, caught.value.code) == (503, "overloaded")
            assert (b"retry-after", b"1") in caught.value.header_pairs
        deciding.gate.set()
        await asyncio.gather(first, *waiting)
        assert await lane.decide(made("later")) == b"later"

    assert ["late"] not in run(scenario).groups


def test_eight_callers_of_large_batches_are_all_taken_and_no_single_payment_is_refused_for_them():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        assert MOST_PIECES_WAITING == 8 * _PIECES_AT_ONCE
        pieces = [asyncio.create_task(lane.decide_piece([made(f"p{n}")])) for n in range(MOST_PIECES_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await lane.decide_piece([made("late")])
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        single = asyncio.create_task(lane.decide(made("single")))
        await asyncio.sleep(0)
        deciding.gate.set()
        assert await asyncio.gather(first, single, *pieces) == [
            b"first", b"single", *([f"p{n}".encode()] for n in range(MOST_PIECES_WAITING))
        ]  # fmt: skip

    # After the piece that came before it.
    assert run(scenario).groups[:3] == [["first"], ["p0"], ["single"]]


def test_a_failure_is_an_answer_and_the_lane_goes_on(caplog: pytest.LogCaptureFixture):
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        group = [asyncio.create_task(lane.decide(made(name))) for name in ("broken", "beside")]
        await asyncio.sleep(0)
        deciding.gate.set()
        await first
        assert [(result.status, result.code) for result in await asyncio.gather(*group)] == [
            (500, "internal_error")
        ] * 2
        assert await lane.decide(made("after")) == b"after"

    run(scenario)
    assert "A group of 2 payments could not be decided" in caplog.text


def test_while_the_disk_writes_the_next_groups_are_decided_and_then_written_at_once():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        deciding.disk.clear()
        tasks = [asyncio.create_task(lane.decide(made("first")))]
        assert await asyncio.to_thread(deciding.writing.wait, 10)
        for name in "abc":
            tasks.append(asyncio.create_task(lane.decide(made(name))))
            while len(deciding.groups) < len(tasks):
                await asyncio.sleep(0.001)
        assert deciding.durable == [[["first"]]]
        assert not any(task.done() for task in tasks)  # decided, but not durable: nobody hears of it
        deciding.disk.set()
        assert await asyncio.gather(*tasks) == [b"first", b"a", b"b", b"c"]

    assert run(scenario).durable == [[["first"]], [["a"], ["b"], ["c"]], []]


def test_a_disk_that_falls_behind_holds_up_deciding():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        deciding.disk.clear()
        tasks = []
        for number in range(12):
            tasks.append(asyncio.create_task(lane.decide(made(f"t{number}"))))
            await asyncio.sleep(0)
            while len(deciding.groups) < min(number + 1, 6):
                await asyncio.sleep(0.001)
        # One is being written, four are decided and wait, one waits to be put beside them; the rest is one group later.
        assert deciding.groups == [[f"t{number}"] for number in range(6)]
        assert lane.waiting == 6
        deciding.disk.set()
        await asyncio.gather(*tasks)

    assert run(scenario).groups[6] == [f"t{number}" for number in range(6, 12)]


def test_what_cannot_be_made_durable_is_an_answer_and_the_lane_goes_on(caplog: pytest.LogCaptureFixture):
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        assert (await lane.decide(made("no disk"))).status == 500
        assert await lane.decide(made("after")) == b"after"

    run(scenario)
    assert "1 groups of payments could not be made durable" in caplog.text


def test_a_caller_that_goes_away_takes_nobody_with_it():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        gone, stays = (asyncio.create_task(lane.decide(made(name))) for name in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        deciding.gate.set()
        assert await asyncio.gather(first, stays) == [b"first", b"stays"]

    # It is decided all the same: whoever sends it again gets that decision.
    assert run(scenario).groups == [["first"], ["gone", "stays"]]


def test_stop_decides_on_what_waits_and_refuses_what_comes():
    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        first = await behind_a_shut_gate(lane, deciding)
        waiting = [asyncio.create_task(lane.decide(made(name))) for name in "ab"]
        piece = asyncio.create_task(lane.decide_piece([made("c")]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(asyncio.to_thread(lane.stop, 10))
        while not lane._is_stopping:
            await asyncio.sleep(0.001)
        with pytest.raises(Problem) as caught:
            await lane.decide(made("late"))
        assert (caught.value.status, caught.value.message) == (503, "This replica is about to end.")
        deciding.gate.set()
        assert await asyncio.gather(first, *waiting, piece) == [b"first", b"a", b"b", [b"c"]]
        await stopping

    run(scenario)


def test_who_comes_in_the_moment_of_the_end_is_answered():
    """Past the check, but the thread is gone already."""

    async def scenario(lane: DecisionLane, deciding: Deciding) -> None:
        lane._is_stopping = True
        lane._wake.put(True)
        await asyncio.to_thread(lane._thread.join, 10)
        lane._is_stopping = False
        late, piece = (
            asyncio.create_task(lane.decide(made("late"))),
            asyncio.create_task(lane.decide_piece([made("p")])),
        )
        await asyncio.sleep(0)
        lane.stop(1)
        assert (await late).status == 503
        assert [problem.status for problem in await piece] == [503]

    run(scenario)


def test_callers_of_two_event_loops_get_their_answers():
    deciding = Deciding()
    lane = DecisionLane(deciding, deciding.make_durable)
    deciding.gate.clear()
    found: list[Result] = []
    callers = [
        threading.Thread(target=lambda name=name: found.append(asyncio.run(lane.decide(made(name))))) for name in "ab"
    ]
    for caller in callers:
        caller.start()
    while lane.waiting < 2:
        pass
    deciding.gate.set()
    lane.start()
    for caller in callers:
        caller.join(10)
    lane.stop(10)
    assert sorted(found) == [b"a", b"b"]
    assert [sorted(group) for group in deciding.groups] == [["a", "b"]]


def test_an_event_loop_that_ended_leaves_the_lane_alive(caplog: pytest.LogCaptureFixture):
    deciding = Deciding()
    lane = DecisionLane(deciding, deciding.make_durable)

    async def leave() -> None:
        asyncio.get_running_loop().create_task(lane.decide(made("left")))
        await asyncio.sleep(0)

    asyncio.run(leave())
    lane.start()
    assert asyncio.run(lane.decide(made("next"))) == b"next"
    lane.stop(10)
    assert "before 1 answers could be given" in caplog.text
