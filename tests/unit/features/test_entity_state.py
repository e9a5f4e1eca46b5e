"""What one card or merchant is known by: events in any order, and what may be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.features.entity_state import Entities, EntityStates, EventColumns
from fraud_pipelines.features.kernel import AMOUNT, FIRST_LABEL, IS_FRAUD, NEVER_US, TIME

KEEP_US = 5
LONG_AGO_US = -1_000
Event = tuple[int, str, int, str | None]


@dataclass
class Merchant:
    """One merchant of some that are held."""

    states: EntityStates
    name: str = "merchant"

    @property
    def owner(self) -> int:
        (owner,) = self.states.find([self.name])
        return int(owner)

    @property
    def known_since_us(self) -> int:
        return int(self.states.known_since_us[self.owner])

    @property
    def rows(self) -> list[tuple]:
        """What the engine reads of it: time, id, amount, first label and card of each of its transactions."""
        numbers, codes, _, ids = self.states.events.columns
        place = self.states.events.rows(self.owner)
        values = {number: value for value, number in self.states._values[self.owner].items()}
        return [
            (time_us, id_, amount, first_label_us, values[code])
            for time_us, id_, amount, first_label_us, code in zip(
                *(numbers[TIME, place].tolist(), ids[0, place], numbers[AMOUNT, place].tolist()),
                *(numbers[FIRST_LABEL, place].tolist(), codes[0, place].tolist()),
                strict=True,
            )
        ]

    @property
    def ids(self) -> list[str]:
        return [id_ for _, id_, *_ in self.rows]

    @property
    def times(self) -> list[int]:
        return [time_us for time_us, *_ in self.rows]

    @property
    def arrivals(self) -> list[tuple]:
        """Its label arrivals: when they count from, whether fraud, the amount."""
        (columns,) = self.states.labels.columns
        place = self.states.labels.rows(self.owner)
        return list(zip(*(columns[line, place].tolist() for line in (TIME, IS_FRAUD, AMOUNT)), strict=True))

    def add(self, *events: Event, **given: int) -> None:
        add([self] * len(events), events, **given)

    def anew(self, events: Sequence[Event], labels: Sequence[tuple] = (), since_us: int = LONG_AGO_US) -> None:
        """Forget it, and hold it with what a store has."""
        if self.name in self.states:
            self.states.let_go(self.name)
        self.states.hold(self.name, events, labels, since_us, LONG_AGO_US)


def add(merchants: Sequence[Merchant], events: Sequence[Event], **given: int) -> Entities:
    """Transactions of some merchants that are held together."""
    times, ids, amounts, cards = zip(*events, strict=True)
    columns = EventColumns(ids, np.array(times), np.array(amounts), (cards,), np.empty((0, len(ids))))
    states = merchants[0].states
    return states.add(states.find(merchant.name for merchant in merchants), columns, **given)


def filled(times: range) -> Merchant:
    merchant = Merchant(EntityStates("merchant", keep_us=KEEP_US))
    merchant.anew([])
    for time_us in times:
        merchant.add((time_us, f"t{time_us}", 1, "card"))
    return merchant


def test_what_no_window_reaches_is_forgotten_when_space_runs_out():
    merchant = filled(range(16))
    merchant.add((16, "t16", 1, "card"))
    assert merchant.times == [11, 12, 13, 14, 15, 16]  # the newest before was 15, and 15 - 5 is 10
    assert merchant.known_since_us == 10


def test_a_late_event_finds_its_place_and_keeps_its_history():
    merchant = filled(range(16))
    merchant.add((3, "late", 1, "card"))
    assert merchant.times == [0, 1, 2, 3, 3, *range(4, 16)]
    assert merchant.ids[3:5] == ["late", "t3"]


def test_a_new_event_forgets_nothing_that_a_late_one_of_its_group_needs():
    merchant = filled(range(15))
    merchant.add((3, "late", 1, "card"), asked_from_us=3)
    merchant.add((100, "new", 1, "card"), asked_from_us=3)
    assert merchant.times == [0, 1, 2, 3, 3, *range(4, 15), 100]


groups = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), max_size=40)


@given(groups)
def test_every_group_sees_all_that_its_windows_reach(groups):
    """Against a plain list, read anew whenever what was forgotten is needed, as RecentState does."""
    everything: list[tuple[int, str]] = []
    merchant = filled(range(0))
    for number, times in enumerate(groups):
        if merchant.known_since_us > min(times) - KEEP_US:
            since_us = min(times) - KEEP_US
            merchant.anew(
                [(time_us, id_, 1, "card") for time_us, id_ in sorted(everything) if time_us > since_us],
                since_us=since_us,
            )
        events = [(time_us, f"{number:02}-{place}") for place, time_us in enumerate(times)]
        merchant.add(*((time_us, id_, 1, "card") for time_us, id_ in events), asked_from_us=min(times))
        everything += events
        held = list(zip(merchant.times, merchant.ids, strict=True))
        assert held == sorted(held)
        for time_us, _ in events:
            needed = {event for event in everything if time_us - KEEP_US < event[0] <= time_us}
            assert needed <= set(held)


def test_a_label_is_taken_after_every_other_one_was_forgotten():
    merchant = Merchant(EntityStates("merchant", keep_us=10))
    merchant.anew([(at, f"t{at}", 1, "card") for at in range(16)], [(5, "t5", 1, 1)])
    for at in range(1_000, 1_020):  # what was is out of reach: transactions and the label go
        merchant.add((at, f"t{at}", 1, "card"))
    assert merchant.arrivals == []
    merchant.states.add_label(merchant.owner, 1_019, "t1018", True, 1, 1_018)
    assert merchant.arrivals == [(1_019, 1, 1)]
    assert [row[3] for row in merchant.rows[-2:]] == [1_019, NEVER_US]


def test_a_label_that_came_before_its_transaction_is_known_with_it():
    merchant = filled(range(3))
    merchant.states.add_label(merchant.owner, 50, "t40", False, 1, 40)
    merchant.add((40, "t40", 1, "card"), (41, "t41", 1, "card"), (60, "t60", 1, "card"))
    assert [row[3] for row in merchant.rows[-3:]] == [50, NEVER_US, NEVER_US]


def test_what_is_let_go_cannot_be_used_and_its_place_is_taken_by_the_next():
    states = EntityStates("merchant", keep_us=KEEP_US)
    first, other, second = (Merchant(states, name) for name in ("first", "other", "second"))
    first.anew([(1, "a", 1, "card")], [(2, "a", 1, 1)], 0)
    other.anew([(1, "b", 7, None)], [], 0)
    owner, places = first.owner, states.events.rows(first.owner)
    states.let_go("first")
    assert "first" not in states
    assert first.owner == -1
    assert states.events.columns[3][0, places].tolist() == [None]  # nothing keeps the text in memory
    second.anew([(5, "c", 3, "new")], [], 4)
    assert (second.owner, states.events.rows(second.owner)) == (owner, places)
    assert (second.rows, second.arrivals) == ([(5, "c", 3, NEVER_US, "new")], [])
    assert other.rows == [(1, "b", 7, NEVER_US, None)]


def test_who_was_not_looked_for_for_longest_is_the_first_to_go():
    states = EntityStates("merchant", keep_us=KEEP_US)
    for name in "abcd":
        states.hold(name, [], [], 0, 0)
    states.find(["b", "unknown"])
    states.find(["a"])
    states.find(["b", "c", "d"])
    states.find(["d"])
    assert states.least_recently_found()[0] == "a"
    assert states.least_recently_found()[-1] == "d"


@pytest.mark.parametrize("at_once", [1, 8])
def test_values_of_transactions_that_went_are_forgotten(at_once):
    merchant = filled(range(0))
    for time_us in range(0, 400, at_once):
        merchant.add(*((at, f"{at:03}", 1, f"card {at}") for at in range(time_us, time_us + at_once)))
    assert len(merchant.states._values[merchant.owner]) <= 80
    assert {row[4] for row in merchant.rows} == {f"card {row[0]}" for row in merchant.rows}


times = st.integers(0, 40)
cards = st.sampled_from([None, "x", "y", "z"])
steps = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 2), times, st.integers(0, 30), cards), min_size=1, max_size=30),
        st.tuples(st.just("label"), st.integers(0, 2), times, st.integers(0, 30), st.booleans()),
        st.tuples(st.just("anew"), st.integers(0, 2)),
    ),
    max_size=25,
)


@given(steps)
def test_many_entities_in_shared_arrays_are_each_as_if_alone(steps):
    """Against plain lists of three merchants: blocks that grow, move, are given back and taken by another; late rows,
    ties in time, the same transaction again, labels before and after theirs. Nothing is forgotten (keep_us)."""
    states = EntityStates("merchant", keep_us=NEVER_US)
    merchants = [Merchant(states, f"merchant {number}") for number in range(3)]
    for merchant in merchants:
        merchant.anew([], since_us=-NEVER_US)
    events: list[dict[tuple[int, str], tuple[int, str | None]]] = [{} for _ in range(3)]
    labels: list[list[tuple[int, str, int, int]]] = [[] for _ in range(3)]

    def expected(which: int) -> list[tuple]:
        first = {id_: min(at for at, other, *_ in labels[which] if other == id_) for _, id_, *_ in labels[which]}
        return [
            (*key, amount, first.get(key[1], NEVER_US), card) for key, (amount, card) in sorted(events[which].items())
        ]

    for step in steps:
        if isinstance(step, list):
            new = [(which, time_us, f"{time_us}-{number}", number, card) for which, time_us, number, card in step]
            found = add([merchants[which] for which, *_ in new], [(*event,) for _, *event in new])
            owned = [states._values[merchants[which].owner] for which, *_ in new]
            codes = states.codes(found.owners, [[card for *_, card in new]]) if found.codes is None else found.codes
            assert codes.tolist() == [[own[card] for own, (*_, card) in zip(owned, new, strict=True)]]
            for which, time_us, id_, number, card in new:
                events[which].setdefault((time_us, id_), (number, card))
        elif step[0] == "label":
            _, which, time_us, number, is_fraud = step
            counts_from_us = time_us + 1 + number % 7
            owner = merchants[which].owner
            states.add_label(owner, counts_from_us, f"{time_us}-{number}", is_fraud, number, time_us)
            labels[which].append((counts_from_us, f"{time_us}-{number}", int(is_fraud), number))
        else:
            which = step[1]
            labels[which].sort()
            read = [(*key, *value) for key, value in sorted(events[which].items())]
            merchants[which].anew(read, labels[which], -NEVER_US)
        for which, merchant in enumerate(merchants):
            assert merchant.rows == expected(which)
            assert sorted(merchant.arrivals) == sorted((at, fraud, amount) for at, _, fraud, amount in labels[which])
            assert [at for at, *_ in merchant.arrivals] == sorted(at for at, *_ in labels[which])
            assert states.rows_of(merchant.owner) == len(events[which]) + len(labels[which])
        assert states.rows == sum(map(len, events)) + sum(map(len, labels))


def test_arrays_that_run_out_of_places_double_and_keep_what_they_hold():
    states = EntityStates("card", keep_us=NEVER_US, places=16)
    owners = [states.hold(f"card {n}", [(1, f"{n}", n, "m", "DE", None, None, 1.5, None)], [], 0, 0) for n in range(40)]
    ids, amounts = [f"{n}+" for n in range(40)], np.arange(40)
    attributes = ["m"] * 40, ["DE"] * 40, [None] * 40, [None] * 40
    places = np.array([[1.5] * 40, [np.nan] * 40])
    states.add(np.array(owners), EventColumns(ids, np.full(40, 2), amounts, attributes, places))
    numbers, codes, held_places, held_ids = states.events.columns
    for n, owner in enumerate(owners):
        rows_of = states.events.rows(owner)
        assert (numbers[AMOUNT, rows_of].tolist(), held_ids[0, rows_of].tolist()) == ([n, n], [f"{n}", f"{n}+"])
        assert codes[2:, rows_of].tolist() == [[-1, -1], [-1, -1]]
        np.testing.assert_array_equal(held_places[:, rows_of], [[1.5, 1.5], [np.nan, np.nan]])
