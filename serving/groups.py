"""Transactions that are decided together, and what their callers are told."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress

from fraud_pipelines.errors import JournalFull, JournalUnavailable
from fraud_pipelines.features.online import ScoredTransaction, TransactionColumns
from fraud_pipelines.online_store.following import Entry
from serving.answers import Answer, StoredDecision, Verdict, is_same
from serving.problems import Problem
from serving.shadow import Compared


@dataclass
class Group:
    """Transactions that are decided together: what is known of each by now, and what has yet to be durable.

    `asked` are all of them; `fresh` those that nothing was decided on before, one of each identifier. Once these are
    decided, `verdicts` and `answers` are theirs, in order. `problem` says why none can be answered.
    """

    asked: Sequence[ScoredTransaction]
    fresh: list[ScoredTransaction]
    first: Mapping[str, ScoredTransaction]
    problem: Problem | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    earlier: dict[str, StoredDecision] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)
    compared: Compared | None = None
    _columns: tuple[list[ScoredTransaction], TransactionColumns] | None = None

    @property
    def ids(self) -> Sequence[str]:
        """Identifiers of `fresh`."""
        return self.columns.ids if self.fresh else ()

    @property
    def columns(self) -> TransactionColumns:
        """The values of `fresh`, where there are any."""
        if self._columns is None or self._columns[0] is not self.fresh:
            self._columns = self.fresh, TransactionColumns.of(self.fresh)
        return self._columns[1]

    @classmethod
    def of(cls, asked: Sequence[ScoredTransaction]) -> "Group":
        """One of which nothing is known yet."""
        # Of one identifier the first of them is set last.
        first = {transaction.transaction_id: transaction for transaction in reversed(asked)}
        return cls(asked, [t for t in asked if first[t.transaction_id] is t], first)

    def were_decided(self, stored: Mapping[str, StoredDecision]) -> None:
        """Take over decisions there are. All at once: of a batch that is sent again they are as many as payments."""
        if not stored:
            return
        self.earlier.update(stored)
        is_other = [transaction.transaction_id not in stored for transaction in self.fresh]
        self.fresh = list(compress(self.fresh, is_other))
        self.verdicts, self.answers = list(compress(self.verdicts, is_other)), list(compress(self.answers, is_other))

    def stand(self, decided: Mapping[str, bytes], journaled: Container[str]) -> None:
        """Take over decisions by their records, which become durable with the group unless they are `journaled`: a
        process may have ended between the online store, or what that could not take, and its journal."""
        self.records += [record for id_, record in decided.items() if id_ not in journaled]
        self.were_decided({id_: StoredDecision.read(record) for id_, record in decided.items()})

    def was_recorded(self, entries: Sequence[Entry], decided: Mapping[str, bytes], journaled: Container[str]) -> None:
        """The online store has these entries; but of those `decided` before, the first decision stands."""
        self.records += [decision for t, decision in entries if t.transaction_id not in decided]
        self.stand(decided, journaled)

    def results(self) -> list[Answer | Problem]:
        """What the callers are told, one result for each transaction that was asked, once all is durable."""
        if self.problem is not None:
            return [self.problem] * len(self.asked)
        if len(self.fresh) == len(self.asked):
            return [*self.answers]
        answers = dict(zip(self.ids, self.answers, strict=True))
        return [self._result(transaction, answers) for transaction in self.asked]

    def _result(self, transaction: ScoredTransaction, answers: Mapping[str, Answer]) -> Answer | Problem:
        id_ = transaction.transaction_id
        earlier = self.earlier.get(id_)
        if earlier is not None:
            return earlier.as_answer if earlier.is_of(transaction) else _reused()
        first = self.first[id_]
        return answers[id_] if first is transaction or is_same(first, transaction) else _reused()


class Latest:
    """The latest of some identifiers, `most` of them or twice as many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids, self._before = set[str](), set[str]()

    def add(self, ids: Iterable[str]) -> None:
        """Take in more."""
        self._ids.update(ids)
        if len(self._ids) > self._most:
            self._ids, self._before = set(), self._ids

    def __contains__(self, id_: object) -> bool:
        return id_ in self._ids or id_ in self._before


def not_durable(error: JournalFull | JournalUnavailable) -> Problem:
    """What a caller is told when nothing can be made durable now."""
    return Problem(
        503,
        "decision_log_full" if isinstance(error, JournalFull) else "decision_log_unavailable",
        "Nothing can be stored durably now, so nothing is answered.",
        next_step="Send the same again shortly; until then apply your own fallback.",
        headers={"Retry-After": "1"},
    )


def _reused() -> Problem:
    return Problem(
        409,
        "transaction_id_reused",
        "This transaction_id was decided for another transaction: its time, card, merchant, amount or currency differ.",
        field="transaction_id",
        next_step="Send a new transaction_id, or exactly the same transaction to get its decision.",
    )
