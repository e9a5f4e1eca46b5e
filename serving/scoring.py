"""From raw transactions to durable decisions, a group of concurrent requests at a time. Knows nothing of HTTP.

    online store -> verdicts (judging.py) -> online store -> journal -> answers

The online store takes a decision together with its transaction: a transaction that the next one sees always has a
decision, and whoever sends it again gets that one. The journal comes before the answer (rule 7); from there decisions
reach the ledger (forwarding.py). What cannot be known leads to the fallback with its cause, never to an approval.
"""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

import numpy as np

from fraud_pipelines.errors import (
    FraudPipelinesError,
    JournalFull,
    JournalUnavailable,
    OnlineStateTooShort,
    OnlineStoreUnavailable,
)
from fraud_pipelines.features.online import Context, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec, load_spec
from fraud_pipelines.ledger import Ledger
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.online_store import OnlineStore
from fraud_pipelines.online_store.following import DECISIONS_KEPT_US, Entry
from fraud_pipelines.online_store.recent_state import RecentState, View
from fraud_pipelines.online_store.state import to_us
from fraud_pipelines.raw.currencies import MINOR_DIGITS
from fraud_pipelines.reasons import MODEL_EXPIRED, NO_CHAMPION, ONLINE_STATE_TOO_SHORT, ONLINE_STORE_UNAVAILABLE
from serving.answers import Answer, ModelFacts, StoredDecision, Verdict, answers_of, fallback, records_of
from serving.challenge import Rival, judge_with_canary
from serving.champion import Champion, Loaded
from serving.groups import Group, Latest, not_durable
from serving.judging import Validity, judge, stage
from serving.metrics import Missing, amount_of, fallback_of, metrics, observe_all, observe_sum
from serving.patience import Patience
from serving.problems import Problem
from serving.shadow import Compared
from serving.unrecorded import Unrecorded

# Others may keep writing to the same cards and merchants.
MOST_ATTEMPTS = 50
# Decisions the online store could not take before, given to it at once.
_UNRECORDED_AT_ONCE = 500
# After the online store was away, and after a start with a store that may have lost some of the latest decisions, one
# may be in the ledger alone.
ASK_LEDGER_SECONDS = 600.0
# Decisions from before a start that are looked for in the store; with more, the ledger is asked all the same.
_MOST_COMPARED = 2_000
_JOURNALED_KEPT = 50_000
_MINOR_IN_UNIT = 10**MINOR_DIGITS

logger = logging.getLogger("bentoml.fraud_scorer")


class DecisionLog(Protocol):
    """Where decisions become durable: serving.journal.Journal."""

    def append(self, records: Sequence[bytes]) -> None: ...


class Scorer:
    """Decides on groups of transactions, in the order of the calls, and makes them durable. `decide` is used from one
    thread, and so is `make_durable`; `find` from any.

    Args:
        champion: the model that decides now, or why there is none; asked once per group, so that no answer mixes two.
        open_online_store: called until it succeeds once per feature spec (None stands for the project's own).
        ledger: opens the ledger; it is asked for decisions that only it still has.
        journal: where decisions become durable.
        unrecorded: keeps what the online store could not take; by default in memory.
        rival_of: the challenger that is compared with a champion now; see Challenge.
        offer: takes what was answered while there is one; see Shadow.
        remember_names: keeps the names behind the feature values of a spec, before the first record that needs them.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        champion: Callable[[], Loaded],
        open_online_store: Callable[[FeatureSpec | None], OnlineStore],
        ledger: Callable[[], Ledger],
        journal: DecisionLog,
        validity: Validity = Validity(),  # noqa: B008  # it is frozen
        *,
        unrecorded: Unrecorded | None = None,
        rival_of: Callable[[Champion], Rival | None] = lambda champion: None,
        offer: Callable[[Compared, Container[str]], None] = lambda group, answered: None,
        remember_names: Callable[[str, Sequence[str]], None] = lambda spec_hash, names: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._champion, self._open_online_store = champion, open_online_store
        self._ledger, self._journal = ledger, journal
        self._rival_of, self._offer = rival_of, offer
        self._validity, self._remember_names, self._clock = validity, remember_names, clock
        self._opening = threading.Lock()
        self._opened: tuple[str | None, OnlineStore, RecentState] | None = None
        self._store_patience, self._ledger_patience = Patience("Online store", clock), Patience("Ledger", clock)
        self._facts: tuple[Champion, ModelFacts] | None = None
        self._unrecorded = unrecorded or Unrecorded()
        self._journaled = Latest(_JOURNALED_KEPT)
        self._ask_ledger_until, self._is_store_compared = clock() + ASK_LEDGER_SECONDS, False
        self.missing = Missing()

    def decide(self, transactions: Sequence[ScoredTransaction]) -> Group:
        """Decide on transactions that came together. Blocks; the next may be decided before these are durable."""
        group = Group.of(transactions)
        try:
            self._decide(group)
        except BaseException as error:
            if self._opened is not None:  # it may count transactions that nobody will ever have decided on
                self._opened[2].forget_everything()
            if not isinstance(error, JournalFull | JournalUnavailable):
                raise
            logger.warning("Journal: %s", error)
            group.problem = not_durable(error)
        return group

    def make_durable(self, groups: Sequence[Group]) -> list[list[Answer | Problem]]:
        """One answer per transaction of each group, in order: all but the time it took; or why there is none.

        All groups wait for the disk once. Used from one thread, which may be another than that of `decide`.

        Problems: 409 when the identifier belongs to another transaction, 503 when no decision can be made durable now.
        """
        sound = [group for group in groups if group.problem is None]
        try:
            with stage("record"):
                self._journal.append([record for group in sound for record in group.records])
        except (JournalFull, JournalUnavailable) as error:
            logger.warning("Journal: %s", error)
            for group in sound:
                group.problem = not_durable(error)
        else:
            for group in sound:
                self._became_durable(group)
        return [group.results() for group in groups]

    def find(self, transaction_id: str) -> StoredDecision | None:
        """The decision on one transaction, wherever it is by now. Safe from any thread.

        Raises:
            LedgerUnavailable: it is not in the online store, and the ledger cannot be asked.
        """
        record = self._unrecorded.decisions([transaction_id]).get(transaction_id)
        if record is None:
            try:
                record = self.online_store().decision(transaction_id)
            except FraudPipelinesError as error:
                logger.warning("Online store: %s", error)
        if record is not None:
            return StoredDecision.read(record)
        stored = self._ledger().decision(transaction_id)
        return StoredDecision.of(stored) if stored else None

    def online_store(self) -> OnlineStore:
        """The online store, opened on first use with the windows of the model that decides."""
        return self._stores(self._champion())[0]

    def cause(self, loaded: Loaded) -> str | None:
        """Why a rule decides in place of the model, whatever the payment; None: the model does."""
        if loaded.champion is None:
            return loaded.cause or NO_CHAMPION
        return MODEL_EXPIRED if loaded.is_expired(utc_now()) else None

    def _decide(self, group: Group) -> None:
        """Find or make a decision on each transaction."""
        loaded = self._champion()
        cause = self.cause(loaded)
        state: RecentState | None = None
        view: View | None = None
        try:
            if self._store_patience.is_over:
                raise OnlineStoreUnavailable("It is asked again in some seconds.")
            with self._store_patience.asking(), stage("state"):
                _, state = self._stores(loaded)
                self._record_the_unrecorded(state)
                view = state.read(group.columns)
                self._compare_with_ledger(view)
        except OnlineStateTooShort as error:
            # The windows of this model's features have grown; counting what is there would be a wrong number.
            self._store_patience.tell(error)
            cause = cause or ONLINE_STATE_TOO_SHORT
        except FraudPipelinesError as error:
            self._store_is_away(error)
            cause, state = cause or ONLINE_STORE_UNAVAILABLE, None
        self._find_earlier(group, view)
        if view is None or state is None:
            self._decide_unseen(group, loaded, cause or ONLINE_STORE_UNAVAILABLE, state)
        else:
            self._decide_on_state(group, loaded, cause, state, view)
        self._count(group, loaded, view.as_of_us if view else None)

    def _became_durable(self, group: Group) -> None:
        if group.compared is not None:
            self._offer(group.compared, {*group.ids})
        self._journaled.add(group.ids)
        self._journaled.add(group.earlier)

    def _decide_unseen(self, group: Group, loaded: Loaded, cause: str, state: RecentState | None) -> None:
        """The fallback, where no history can be had. A `state` that is too short to be read takes what is decided."""
        if not group.fresh:
            return
        entries = self._entries(group, loaded, [fallback(cause, self._validity.decision)] * len(group.fresh), None)
        if state is not None:
            try:
                group.was_recorded(entries, _record(state, entries), self._journaled)
                return
            except FraudPipelinesError as error:
                self._store_is_away(error)
        self._leave(group, entries)

    def _decide_on_state(self, group: Group, loaded: Loaded, cause: str | None, state: RecentState, view: View) -> None:
        for attempt in range(MOST_ATTEMPTS):
            if attempt:
                metrics().state_conflicts.inc()
                try:
                    view = self._look_again(group, state)
                except FraudPipelinesError as error:
                    self._store_is_away(error)
                    break
            if not group.fresh:
                return
            context = state.include(group.columns)
            if cause is None and loaded.champion is not None:
                verdicts = self._judge(group, loaded.champion, context, view.as_of_us)
            else:
                verdicts = [fallback(cause or NO_CHAMPION, self._validity.decision)] * len(group.fresh)
            entries = self._entries(group, loaded, verdicts, view.as_of_us)
            try:
                with stage("state"):
                    outcome = state.append(entries)
            except FraudPipelinesError as error:
                # Whether the store took them is unknown. They are sound, and recorded again when it is back.
                self._store_is_away(error)
                self._leave(group, entries)
                return
            if outcome.is_recorded:
                group.was_recorded(entries, outcome.decided, self._journaled)
                return
        group.compared = None
        # Sound numbers cannot be had: others write to the same cards and merchants all the time, or the store is away.
        verdicts = [fallback(ONLINE_STORE_UNAVAILABLE, self._validity.decision)] * len(group.fresh)
        self._leave(group, self._entries(group, loaded, verdicts, view.as_of_us))

    def _look_again(self, group: Group, state: RecentState) -> View:
        included = group.fresh
        view = state.read(group.columns)
        self._find_earlier(group, view)
        fresh = {transaction.transaction_id for transaction in group.fresh}
        others = [transaction for transaction in included if transaction.transaction_id not in fresh]
        for transaction in others:
            # Included by the attempt before, but recorded by another process: perhaps of another card or time.
            state.forget(transaction)
        return state.read(group.columns) if others and fresh else view

    def _judge(self, group: Group, champion: Champion, context: Context, as_of_us: int | None) -> list[Verdict]:
        rival, rest = self._rival_of(champion), (group.fresh, context, as_of_us, self._validity)
        if rival is None:
            group.compared = None
            return judge(champion, *rest)
        verdicts = judge_with_canary(champion, rival, *rest)
        group.compared = Compared(champion, rival.model, group.fresh, verdicts)
        return verdicts

    def _compare_with_ledger(self, view: View) -> None:
        """Once, after the start: a store that has all that was decided in the last minutes has lost nothing of them."""
        if self._is_store_compared or self._ledger_patience.is_over or self._opened is None:
            return
        try:
            with self._ledger_patience.asking():
                since = utc_now() - timedelta(seconds=ASK_LEDGER_SECONDS)
                latest = self._ledger().decided_since(since, most=_MOST_COMPARED)
        except Exception as error:  # whatever a database driver raises while its server is away
            self._ledger_patience.tell(error)
            return
        self._is_store_compared = True
        if latest is None:
            return
        kept_from_us = None if view.as_of_us is None else view.as_of_us - DECISIONS_KEPT_US
        expected = [id_ for id_, at in latest.items() if kept_from_us is None or to_us(at) > kept_from_us]
        if len(self._opened[1].read(None, expected).decisions) == len(expected):
            self._ask_ledger_until = self._clock()

    def _find_earlier(self, group: Group, view: View | None) -> None:
        """Decisions there are already: in the online store, on this host, or in the ledger where only that has them."""
        group.stand(self._unrecorded.decisions(group.ids) | (dict(view.decisions) if view else {}), self._journaled)
        is_uncertain = self._clock() < self._ask_ledger_until or view is None
        asked = [
            transaction.transaction_id
            for transaction in group.fresh
            if is_uncertain
            or (view and transaction.transaction_id in view.stored)
            or (view and view.as_of_us is not None and transaction.event_time_us <= view.as_of_us - DECISIONS_KEPT_US)
        ]
        if asked and not self._ledger_patience.is_over:
            try:
                with self._ledger_patience.asking():
                    found = self._ledger().decisions_on(asked)
            except Exception as error:  # whatever a database driver raises while its server is away
                self._ledger_patience.tell(error)
                return
            stored = {id_: StoredDecision.of(decision) for id_, decision in found.items()}
            group.were_decided(stored)
            # Those the online store lost, or never had, it takes with the next group.
            lost = [one for id_, one in stored.items() if view and id_ not in view.stored]
            if lost:
                self._unrecorded.keep([Entry(one.transaction, one.record) for one in lost])

    def _entries(self, group: Group, loaded: Loaded, verdicts: Sequence[Verdict], as_of_us: int | None) -> list[Entry]:
        group.verdicts = list(verdicts)
        group.answers = answers_of(
            group.fresh, verdicts, self._facts_of(loaded.champion), as_of_us, decided_at=datetime.now(UTC)
        )
        records = records_of(group.fresh, group.answers, [verdict.features for verdict in verdicts])
        return list(map(_entry_of, zip(group.fresh, records, strict=True)))

    def _count(self, group: Group, loaded: Loaded, as_of_us: int | None) -> None:
        if not group.fresh:
            return
        amounts: dict[tuple[str, str], list[int]] = defaultdict(list)
        causes: list[str] = []
        probabilities: list[float] = []
        vectors: list[np.ndarray] = []
        for transaction, (decision, probability, _, _, features, cause, _) in zip(
            group.fresh, group.verdicts, strict=True
        ):
            amounts[decision, transaction.currency].append(transaction.amount_minor)
            if cause is not None:
                causes.append(cause)
            elif probability is not None:
                probabilities.append(probability)
            if features is not None:
                vectors.append(features)
        for (decision, currency), minor in amounts.items():
            observe_sum(amount_of(decision, currency), len(minor), sum(minor) / _MINOR_IN_UNIT)
        for cause, count in Counter(causes).items():
            fallback_of(cause).inc(count)
        observe_all(metrics().score, probabilities)
        if vectors and loaded.champion:
            self.missing.add(loaded.champion.bundle.feature_names, vectors)
        if as_of_us is not None:
            newest_us = int(group.columns.time_us.max())
            metrics().feature_age.set(max(0.0, (newest_us - as_of_us) / 1e6))

    def _leave(self, group: Group, entries: list[Entry]) -> None:
        """Keep what the online store could not take; it is durable all the same."""
        earlier, gone = self._unrecorded.keep(entries)
        # The decisions that had to go stand, and the next rebuild of the online state brings their transactions.
        metrics().state_behind.inc(gone)
        group.records += [entry.decision for entry in entries if entry.transaction.transaction_id not in earlier]
        group.stand(earlier, self._journaled)

    def _record_the_unrecorded(self, state: RecentState) -> None:
        while entries := self._unrecorded.oldest(_UNRECORDED_AT_ONCE):
            decided = _record(state, entries)
            self._unrecorded.remove(entries)
            twice = [t.transaction_id for t, decision in entries if decided.get(t.transaction_id, decision) != decision]
            if twice:
                logger.warning(
                    "%d payments had been decided before the online store was away, and were again meanwhile; the "
                    "first decision stands, such as that on %s", len(twice), twice[0],
                )  # fmt: skip

    def _store_is_away(self, error: FraudPipelinesError) -> None:
        self._store_patience.tell(error)
        self._ask_ledger_until, self._is_store_compared = self._clock() + ASK_LEDGER_SECONDS, True

    def _stores(self, loaded: Loaded) -> tuple[OnlineStore, RecentState]:
        spec = loaded.champion.bundle.spec if loaded.champion else None
        spec_hash = spec.hash if spec else None
        with self._opening:  # questions open it, too
            if self._opened is None or self._opened[0] != spec_hash:
                store = self._open_online_store(spec)
                # The one before is closed with the last reference to it, never by hand: a question may be asking it in
                # another thread, and a SQLite connection that is closed under a statement takes the process with it.
                self._opened = spec_hash, store, RecentState(store, spec or load_spec())
            return self._opened[1], self._opened[2]

    def _facts_of(self, champion: Champion | None) -> ModelFacts | None:
        if champion is None:
            return None
        if self._facts is None or self._facts[0] is not champion:
            try:
                self._remember_names(champion.spec_hash, champion.bundle.feature_names)
            except OSError as error:
                raise JournalUnavailable(f"The names of the model's features cannot be stored: {error}") from error
            self._facts = champion, ModelFacts.of(champion.name, champion.version, champion.digest, champion.bundle)
        return self._facts[1]


# What Entry(...) does, for a third of its price: the constructor of a NamedTuple is a function of Python's.
_entry_of: Callable[[tuple[ScoredTransaction, bytes]], Entry] = partial(tuple.__new__, Entry)


def _record(state: RecentState, entries: Sequence[Entry]) -> Mapping[str, bytes]:
    """Record what was decided without a look at the state; of what was decided before, the decisions that stand."""
    while True:
        for entry in entries:
            state.forget(entry.transaction)
        outcome = state.append(entries)
        if outcome.is_recorded:
            return outcome.decided
