"""What one card or merchant is known by: events in any order, and what may be forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.features.entity_state import EntityState

KEEP_US = 5


def held(state: EntityState) -> list[int]:
    return state.time_us[: state.size].tolist()


def filled(times: range) -> EntityState:
    state = EntityState("merchant", keep_us=KEEP_US, known_since_us=-1_000, labels_known_since_us=-1_000)
    for time_us in times:
        state.add_event(time_us, f"t{time_us}", 1, ("card",))
    return state


def test_what_no_window_reaches_is_forgotten_when_space_runs_out():
    state = filled(range(16))
    state.add_event(16, "t16", 1, ("card",))
    assert held(state) == [11, 12, 13, 14, 15, 16]  # the newest before was 15, and 15 - 5 is 10
    assert state.known_since_us == 10


def test_a_late_event_finds_its_place_and_keeps_its_history():
    state = filled(range(16))
    state.add_event(3, "late", 1, ("card",))
    assert held(state) == [0, 1, 2, 3, 3, *range(4, 16)]
    assert state.ids[3:5] == ["late", "t3"]


def test_a_new_event_forgets_nothing_that_a_late_one_of_its_group_needs():
    state = filled(range(15))
    state.add_event(3, "late", 1, ("card",), asked_from_us=3)
    state.add_event(100, "new", 1, ("card",), asked_from_us=3)
    assert held(state) == [0, 1, 2, 3, 3, *range(4, 15), 100]


groups = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), max_size=40)


@given(groups)
def test_every_group_sees_all_that_its_windows_reach(groups):
    """Against a plain list, read anew whenever what was forgotten is needed, as RecentState does."""
    everything: list[tuple[int, str]] = []
    state = filled(range(0))
    for number, times in enumerate(groups):
        if state.known_since_us > min(times) - KEEP_US:
            state = EntityState(
                "merchant", keep_us=KEEP_US, known_since_us=min(times) - KEEP_US, labels_known_since_us=-1_000
            )
            since = [event for event in sorted(everything) if event[0] > state.known_since_us]
            state.load([(time_us, id_, 1, "card") for time_us, id_ in since], [])
        events = [(time_us, f"{number:02}-{place}") for place, time_us in enumerate(times)]
        for time_us, id_ in events:
            state.add_event(time_us, id_, 1, ("card",), asked_from_us=min(times))
        everything += events
        events_held = list(zip(held(state), state.ids, strict=True))
        assert events_held == sorted(events_held)
        for time_us, _ in events:
            needed = {event for event in everything if time_us - KEEP_US < event[0] <= time_us}
            assert needed <= set(events_held)


def test_a_label_is_taken_after_every_other_one_was_forgotten():
    state = EntityState("merchant", keep_us=10, known_since_us=-100, labels_known_since_us=-100)
    state.load([(at, f"t{at}", 1, "card") for at in range(16)], [(5, "t5", 1, 1)])
    for at in range(1_000, 1_020):  # what was is out of reach: transactions and the label go
        state.add_event(at, f"t{at}", 1, ["card"])
    assert state.labels == 0
    state.add_label(1_019, "t1018", True, 1, 1_018)
    assert (state.labels, int(state.label_time_us[0])) == (1, 1_019)
