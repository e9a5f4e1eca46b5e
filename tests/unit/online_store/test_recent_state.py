"""What one process holds in memory of a store: the same features as from the store itself, however little fits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.features.online import OnlineEngine, TransactionColumns
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.following import Entry
from fraud_pipelines.online_store.recent_state import RecentState
from tests.stored_events import NOON_US, label, payment

MINUTE_US = 60_000_000
SPEC = load_spec()
ENGINE = OnlineEngine(SPEC)

groups = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(-30, 30)), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25)
@given(groups, st.integers(1, 40))
def test_features_are_those_of_the_store_whatever_was_let_go_and_read_again(tmp_path_factory, groups, most_rows):
    """Groups of payments, some late and some of one moment; labels and payments recorded by another process between."""
    store = open_online_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/online.sqlite")
    state = RecentState(store, SPEC, most_rows=most_rows)
    for number, group in enumerate(groups):
        made = [
            payment(
                f"{number}-{place}", NOON_US + (60 * number + late) * MINUTE_US, 100 + place, f"tok_{card}",
                merchant=f"m{merchant}",
            )
            for place, (card, merchant, late) in enumerate(group)
        ]  # fmt: skip
        columns = TransactionColumns.of(made)
        state.read(columns)
        needed = {one.card_id for one in made} | {one.merchant_id for one in made}
        held = {*state._cards.least_recently_found(), *state._merchants.least_recently_found()}
        assert state.rows <= most_rows or held <= needed
        assert state.rows == state._cards.rows + state._merchants.rows or state.rows > most_rows
        found = ENGINE.matrix(state.include(columns))
        assert state.append([Entry(one, b"") for one in made]).is_recorded
        # Everything of the group is stored by now: what counts for each is what lies before its moment.
        for one, row in zip(made, found, strict=True):
            history = store.history(one.card_id, one.merchant_id, one.event_time_us)
            expected = ENGINE.vector(one, history)
            np.testing.assert_array_equal(row, [np.nan if x is None else x for x in expected.values()])
        first = made[0]
        store.record_label(
            label(
                first.transaction_id, first.event_time_us + MINUTE_US, event_time_us=first.event_time_us,
                card=first.card_id, merchant=first.merchant_id,
            )
        )  # fmt: skip
        store.record_transaction(
            payment(f"{number} other", first.event_time_us + 5, 7, first.card_id, merchant=first.merchant_id)
        )
    store.close()
