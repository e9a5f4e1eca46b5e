"""Any sequence of events, duplicates, late arrivals and rebuilds gives the history of the naive list."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fraud_pipelines.online_store import open_online_store, sqlite_snapshot
from fraud_pipelines.online_store.state import from_us
from tests.stored_events import DAY_US, LATENESS_US, NOON_US, SPEC, NaiveStore, label, payment, tables_of

CARDS = ("tok_a", "karte-ä🂡", "'; drop table transactions; --")
MERCHANTS = ("m1", '商店 "%s"')
IDS = ("t1", "t10", "t2", "ä%s :x", "'; --", "t～", "t😀", "", "T1", "\\N")
# From one event to another or to the moment of a question: ties, and each length that matters and a microsecond beside.
LENGTHS_US = tuple(max(days * DAY_US + shift, 0) for days in (0, 1, 2, 14, 30, 32, 44, 46, 60) for shift in (-1, 0, 1))
AMOUNTS = st.integers(0, 3_000_000_000)
TEXTS = st.sampled_from((None, "", "DE", "d'1", "旅行"))
PLACES = st.one_of(st.none(), st.floats(-180, 180))
LATER = st.sampled_from(LENGTHS_US)
# Mostly within reach of each other.
SOON = st.one_of(st.sampled_from(LENGTHS_US[:9]), LATER)


class OnlineStoreMachine(RuleBasedStateMachine):
    """A transaction_id always names the same moment, whatever else differs between its deliveries.

    Otherwise one that was pruned could come back under a moment within reach, where the naive list has not forgotten.
    """

    fresh_url = None  # set by the test

    payments = Bundle("payments")
    arrivals = Bundle("arrivals")

    def __init__(self):
        super().__init__()
        self.url = self.fresh_url()
        # Two processes, as far as the store can tell.
        self.stores = [open_online_store(self.url), open_online_store(self.url)]
        self.naive = NaiveStore()
        self.in_warehouse, self.known_there = {}, {}
        self.moments, self.as_of_us = {}, None
        self.newest_us = NOON_US

    def teardown(self):
        for store in self.stores:
            store.close()

    @initialize(steps=st.lists(SOON, min_size=len(IDS), max_size=len(IDS)), data=st.data())
    def moments_of_ids(self, steps, data):
        moments = [NOON_US]
        for step in steps[1:]:
            moments.append(data.draw(st.sampled_from(moments)) + step)
        self.moments = dict(zip(IDS, data.draw(st.permutations(moments)), strict=True))

    @rule(
        target=payments,
        store=st.integers(0, 1),
        id_=st.sampled_from(IDS),
        amount=AMOUNTS,
        card=st.sampled_from(CARDS),
        merchant=st.sampled_from(MERCHANTS),
        texts=st.tuples(TEXTS, TEXTS, TEXTS),
        place=st.tuples(PLACES, PLACES),
    )
    def serve(self, store, id_, amount, card, merchant, texts, place):
        optional = dict(zip(("country", "device_id", "category"), texts, strict=True))
        optional |= dict(zip(("merchant_latitude", "merchant_longitude"), place, strict=True))
        made = payment(id_, self.moments[id_], amount, card, merchant, **optional)
        self.record(store, "record_transaction", made, made.event_time_us, 46 * DAY_US)
        return made

    @rule(store=st.integers(0, 1), made=payments)
    def serve_again(self, store, made):
        self.record(store, "record_transaction", made, made.event_time_us, 46 * DAY_US)

    @rule(
        target=arrivals,
        store=st.integers(0, 1),
        id_=st.sampled_from(IDS),
        delay=st.one_of(SOON, SOON.map(lambda length: -length)),
        is_fraud=st.booleans(),
        amount=AMOUNTS,
        card=st.sampled_from(CARDS),
        merchant=st.sampled_from(MERCHANTS),
    )
    def learn(self, store, id_, delay, is_fraud, amount, card, merchant):
        moment = self.moments[id_]
        made = label(id_, moment + delay, is_fraud, card, merchant, moment, amount)
        self.record(store, "record_label", made, made.counts_from_us, 32 * DAY_US)
        return made

    @rule(store=st.integers(0, 1), made=arrivals)
    def learn_again(self, store, made):
        self.record(store, "record_label", made, made.counts_from_us, 32 * DAY_US)

    def record(self, store, method, made, moment_us, keep_us):
        is_new = getattr(self.naive, method)(made)
        found = getattr(self.stores[store], method)(made)
        # What may have been pruned may be taken again: no question reaches it.
        if moment_us > self.newest_us - keep_us:
            assert found == is_new
        self.newest_us = max(self.newest_us, moment_us)

    @rule(
        store=st.integers(0, 1),
        served=st.lists(payments, max_size=8, unique_by=lambda t: t.transaction_id),
        known=st.lists(arrivals, max_size=8, unique_by=lambda a: (a.transaction_id, a.known_at_us)),
        lost=st.sets(st.sampled_from(IDS), max_size=2),
        corrected=st.sets(st.sampled_from(IDS), max_size=4),
        changes=st.fixed_dictionaries({}, optional={"amount_minor": AMOUNTS, "card_id": st.sampled_from(CARDS)}),
        after=st.sampled_from((-1, 0, 1, DAY_US)),
        data=st.data(),
    )
    def rebuild(self, store, served, known, lost, corrected, changes, after, data):
        """The warehouse has what it had and some of what was served, but lost a few rows and corrected others."""
        self.in_warehouse |= {t.transaction_id: t for t in served}
        self.known_there |= {(a.transaction_id, a.known_at_us): a for a in known}
        for rows in (self.in_warehouse, self.known_there):
            for key, row in list(rows.items()):
                if row.transaction_id in lost:
                    del rows[key]
                elif row.transaction_id in corrected:
                    rows[key] = replace(row, **changes)
        warehouse = list(self.in_warehouse.values()), list(self.known_there.values())
        ends = [*self.moments.values(), *(a.counts_from_us for a in self.known_there.values())]
        self.as_of_us = data.draw(st.sampled_from(ends)) + after
        self.stores[store].rebuild(*tables_of(*warehouse), from_us(self.as_of_us))
        self.naive.rebuild(*warehouse, self.as_of_us)
        self.newest_us = max(self.newest_us, self.as_of_us)

    @rule(store=st.integers(0, 1))
    def open_again(self, store):
        self.stores[store].close()
        self.stores[store] = open_online_store(self.url)

    @rule(
        store=st.integers(0, 1),
        card=st.sampled_from(CARDS),
        merchant=st.sampled_from(MERCHANTS),
        length=LATER,
        since=st.sampled_from(IDS),
    )
    def ask(self, store, card, merchant, length, since):
        # The store answers for every moment that is not later than LATENESS_US behind what it has seen.
        at_us = max(self.moments[since] + length, self.newest_us - LATENESS_US)
        self.compare(self.stores[store], card, merchant, at_us)

    @invariant()
    def the_present_is_right(self):
        for store, card in zip(itertools.cycle(self.stores), CARDS):  # an endless one
            for at_us in (self.newest_us - LATENESS_US, self.newest_us + 1):
                for merchant in MERCHANTS:
                    self.compare(store, card, merchant, at_us)

    @invariant()
    def the_rebuild_is_known(self):
        as_of = None if self.as_of_us is None else from_us(self.as_of_us)
        assert [store.as_of() for store in self.stores] == [as_of, as_of]

    def compare(self, store, card, merchant, at_us):
        assert store.history(card, merchant, at_us) == self.naive.history(card, merchant, at_us, SPEC)


@pytest.mark.parametrize(
    ("backend", "examples"),
    [("sqlite", 40), ("sqlite, folded", 20), ("sqlite, folding", 40), ("postgres", 15), ("redis", 30)],
)
def test_any_sequence_gives_the_history_of_the_naive_list(backend, examples, request, tmp_path, monkeypatch):
    if backend.startswith("sqlite"):
        # All in the log, all in the tables of histories, or on its way.
        monkeypatch.setattr(sqlite_snapshot, "MOST_UNFOLDED", {"sqlite": 99, "sqlite, folded": 0}.get(backend, 5))
        numbers = itertools.count()

        def fresh_url():
            return f"sqlite:///{tmp_path / f'{next(numbers)}.sqlite'}"
    elif backend == "redis":
        fresh_url = request.getfixturevalue("redis_server").fresh_url
    else:
        import sqlalchemy

        url = request.getfixturevalue("fresh_postgres_url")
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)

        def fresh_url():
            with engine.begin() as connection:
                connection.exec_driver_sql("drop schema if exists online_store cascade")
            return url

    class Machine(OnlineStoreMachine):
        pass

    Machine.fresh_url = staticmethod(fresh_url)
    run_state_machine_as_test(Machine, settings=settings(max_examples=examples, stateful_step_count=30, database=None))
