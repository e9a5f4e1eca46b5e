"""What one card or merchant is known by: events in any order, and what may be forgotten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.features.kernel import NEVER_US
from fraud_pipelines.features.entity_state import EntityState, EntityStates
from fraud_pipelines.features.kernel import AMOUNT, FIRST_LABEL, IS_FRAUD, TIME

KEEP_US = 5
LONG_AGO_US = -1_000


def rows(state: EntityState) -> list[tuple]:
    """What the engine reads of a merchant: time, id, amount, first label and card of each of its transactions."""
    numbers, codes, _ = state.states.events.columns
    place = state.states.events.rows(state.owner)
    values = {number: value for value, number in state.numbers.items()}
    return [
        (time_us, id_, amount, first_label_us, values[code])
        for time_us, id_, amount, first_label_us, code in zip(
            *(numbers[TIME, place].tolist(), state.ids, numbers[AMOUNT, place].tolist()),
            *(numbers[FIRST_LABEL, place].tolist(), codes[0, place].tolist()),
            strict=True,
        )
    ]


def arrivals(state: EntityState) -> list[tuple]:
    """Its label arrivals: when they count from, whether fraud, the amount."""
    (columns,) = state.states.labels.columns
    place = state.states.labels.rows(state.owner)
    return list(zip(*(columns[line, place].tolist() for line in (TIME, IS_FRAUD, AMOUNT)), strict=True))


def held(state: EntityState) -> list[int]:
    return [row[0] for row in rows(state)]


def add(state: EntityState, time_us: int, id_: str, card: str | None = "card", **given: int) -> None:
    state.states.add([state], [(time_us, id_, 1, card)], **given)


def filled(times: range) -> EntityState:
    state = EntityStates("merchant", keep_us=KEEP_US).hold([], [], LONG_AGO_US, LONG_AGO_US)
    for time_us in times:
        add(state, time_us, f"t{time_us}")
    return state


def test_what_no_window_reaches_is_forgotten_when_space_runs_out():
    state = filled(range(16))
    add(state, 16, "t16")
    assert held(state) == [11, 12, 13, 14, 15, 16]  # the newest before was 15, and 15 - 5 is 10
    assert state.known_since_us == 10


def test_a_late_event_finds_its_place_and_keeps_its_history():
    state = filled(range(16))
    add(state, 3, "late")
    assert held(state) == [0, 1, 2, 3, 3, *range(4, 16)]
    assert state.ids[3:5] == ["late", "t3"]


def test_a_new_event_forgets_nothing_that_a_late_one_of_its_group_needs():
    state = filled(range(15))
    add(state, 3, "late", asked_from_us=3)
    add(state, 100, "new", asked_from_us=3)
    assert held(state) == [0, 1, 2, 3, 3, *range(4, 15), 100]


groups = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), max_size=40)


@given(groups)
def test_every_group_sees_all_that_its_windows_reach(groups):
    """Against a plain list, read anew whenever what was forgotten is needed, as RecentState does."""
    everything: list[tuple[int, str]] = []
    state = filled(range(0))
    for number, times in enumerate(groups):
        if state.known_since_us > min(times) - KEEP_US:
            states, since_us = state.states, min(times) - KEEP_US
            states.let_go(state)
            since = [event for event in sorted(everything) if event[0] > since_us]
            state = states.hold([(time_us, id_, 1, "card") for time_us, id_ in since], [], since_us, LONG_AGO_US)
        events = [(time_us, f"{number:02}-{place}") for place, time_us in enumerate(times)]
        state.states.add(
            [state] * len(events), [(time_us, id_, 1, "card") for time_us, id_ in events], asked_from_us=min(times)
        )
        everything += events
        events_held = list(zip(held(state), state.ids, strict=True))
        assert events_held == sorted(events_held)
        for time_us, _ in events:
            needed = {event for event in everything if time_us - KEEP_US < event[0] <= time_us}
            assert needed <= set(events_held)


def test_a_label_is_taken_after_every_other_one_was_forgotten():
    states = EntityStates("merchant", keep_us=10)
    state = states.hold([(at, f"t{at}", 1, "card") for at in range(16)], [(5, "t5", 1, 1)], -100, -100)
    for at in range(1_000, 1_020):  # what was is out of reach: transactions and the label go
        add(state, at, f"t{at}")
    assert arrivals(state) == []
    states.add_label(state, 1_019, "t1018", True, 1, 1_018)
    assert arrivals(state) == [(1_019, 1, 1)]


def test_what_is_let_go_cannot_be_used_and_its_place_is_taken_by_the_next():
    states = EntityStates("merchant", keep_us=KEEP_US)
    first = states.hold([(1, "a", 1, "card")], [(2, "a", 1, 1)], 0, 0)
    other = states.hold([(1, "b", 7, None)], [], 0, 0)
    places = states.events.rows(first.owner)
    states.let_go(first)
    with pytest.raises(AttributeError):
        first.rows  # noqa: B018
    second = states.hold([(5, "c", 3, "new")], [], 4, 4)
    assert states.events.rows(second.owner) == places
    assert (rows(second), arrivals(second)) == ([(5, "c", 3, NEVER_US, "new")], [])
    assert rows(other) == [(1, "b", 7, NEVER_US, None)]


@pytest.mark.parametrize("at_once", [1, 8])
def test_values_of_transactions_that_went_are_forgotten(at_once):
    state = filled(range(0))
    for time_us in range(0, 400, at_once):
        events = [(at, f"{at:03}", 1, f"card {at}") for at in range(time_us, time_us + at_once)]
        state.states.add([state] * at_once, events)
    assert len(state.numbers) <= 80
    assert {row[4] for row in rows(state)} == {f"card {row[0]}" for row in rows(state)}


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
    entities = [states.hold([], [], -NEVER_US, -NEVER_US) for _ in range(3)]
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
            states.add([entities[which] for which, *_ in new], [(*event,) for _, *event in new])
            for which, time_us, id_, number, card in new:
                events[which].setdefault((time_us, id_), (number, card))
        elif step[0] == "label":
            _, which, time_us, number, is_fraud = step
            counts_from_us = time_us + 1 + number % 7
            states.add_label(entities[which], counts_from_us, f"{time_us}-{number}", is_fraud, number, time_us)
            labels[which].append((counts_from_us, f"{time_us}-{number}", int(is_fraud), number))
        else:
            which = step[1]
            states.let_go(entities[which])
            labels[which].sort()
            read = [(*key, *value) for key, value in sorted(events[which].items())]
            entities[which] = states.hold(read, labels[which], -NEVER_US, -NEVER_US)
        for which, state in enumerate(entities):
            assert rows(state) == expected(which)
            assert sorted(arrivals(state)) == sorted((at, fraud, amount) for at, _, fraud, amount in labels[which])
            assert [at for at, *_ in arrivals(state)] == sorted(at for at, *_ in labels[which])
            assert state.rows == len(events[which]) + len(labels[which])


def test_arrays_that_run_out_of_places_double_and_keep_what_they_hold():
    states = EntityStates("card", keep_us=NEVER_US, places=16)
    place = ("DE", None, None, 1.5, None)
    held_states = [states.hold([(1, f"{n}", n, "m", *place)], [], 0, 0) for n in range(40)]
    states.add(held_states, [(2, f"{n}+", n, "m", *place) for n in range(40)])
    numbers, codes, places = states.events.columns
    for n, state in enumerate(held_states):
        rows_of = states.events.rows(state.owner)
        assert (numbers[AMOUNT, rows_of].tolist(), state.ids) == ([n, n], [f"{n}", f"{n}+"])
        assert codes[2:, rows_of].tolist() == [[-1, -1], [-1, -1]]
        np.testing.assert_array_equal(places[:, rows_of], [[1.5, 1.5], [np.nan, np.nan]])
