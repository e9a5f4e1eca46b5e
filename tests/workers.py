"""Workers of the scoring service without HTTP: real stores, journals and ledger of one host, in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from fraud_pipelines.errors import LedgerUnavailable, OnlineStoreUnavailable
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.ledger import Ledger, open_ledger
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.online_store.following import Entry, Outcome, Position
from serving.champion import Loaded, load_champion
from serving.delivery import Delivery, FeatureNames
from serving.journal import Journal
from serving.judging import Validity
from serving.problems import Problem
from serving.scoring import Scorer
from tests.journals import drain
from tests.stored_events import NOON, fill

Given = dict[str, Any] | Problem


def saved_champion(bundle: Bundle, folder: Path, version: str = "7") -> Loaded:
    """The champion that a Bento with this bundle would hold."""
    bundle.save(folder / "bundle")
    described = {"name": "fraud-scorer", "version": version, "bundle_digest": bundle.digest}
    (folder / "champion.json").write_text(json.dumps(described))
    return load_champion(folder)


def with_bundle(loaded: Loaded, bundle: Bundle) -> Loaded:
    """The same champion with another bundle that nobody verified."""
    assert loaded.champion is not None
    return replace(loaded, champion=replace(loaded.champion, bundle=bundle))


class Links:
    """What is cut between a worker and the stores. `before_append` runs between a read and its append."""

    def __init__(self) -> None:
        self.no_store = self.no_append = self.no_ledger = False
        self.before_append: Callable[[], None] | None = None


class _Linked:
    """A real online store at the end of a link that may be cut."""

    def __init__(self, store: OnlineStore, links: Links) -> None:
        self._store, self._links = store, links

    def __getattr__(self, name: str) -> Any:
        if self._links.no_store:
            raise OnlineStoreUnavailable("The link is cut.")
        return getattr(self._store, name)

    def append(self, since: Position, entries: Sequence[Entry]) -> Outcome:
        if self._links.no_store or self._links.no_append:
            raise OnlineStoreUnavailable("The link is cut.")
        if self._links.before_append is not None:
            self._links.before_append()
        return self._store.append(since, entries)


class Worker:
    """One scorer with a journal of its own."""

    def __init__(self, scorer: Scorer, journal: Journal, links: Links, delivery: Delivery) -> None:
        self.scorer, self.journal, self.links, self._delivery = scorer, journal, links, delivery

    def decide(self, *transactions: ScoredTransaction) -> list[Given]:
        """What each is answered with, all in one group."""
        return [
            given if isinstance(given, Problem) else orjson.loads(given.content)
            for given in self.scorer.make_durable([self.scorer.decide(transactions)])[0]
        ]

    def answer(self, transaction: ScoredTransaction) -> dict[str, Any]:
        """The answer to a group of one; its Problem is raised."""
        (given,) = self.decide(transaction)
        if isinstance(given, Problem):
            raise given
        return given

    def served(self, transaction_id: str) -> dict[str, float | None]:
        """The vector a decision was made from, by name."""
        stored = self.scorer.find(transaction_id)
        assert stored is not None
        names = self._delivery._names.of(stored.answer["feature_spec_hash"])
        return dict(zip(names or (), stored.features or (), strict=True))

    def deliver(self) -> list[bytes]:
        """Bring everything that is durable here to the ledger; the records."""
        records, broken = drain(self.journal)
        assert not broken
        self._delivery(records)
        return records


class Host:
    """A folder with an online store, a ledger and the journals of its workers.

    Args:
        as_of: when the online store was last filled, with nothing; None: never.
    """

    def __init__(self, folder: Path, ledger: Ledger | None = None, *, as_of: datetime | None = NOON) -> None:
        self.folder = folder
        self.store_url = f"sqlite:///{folder / 'online.sqlite'}"
        if as_of is not None:
            fill(self.store_url, as_of)
        self._journals: list[Journal] = []
        self._stores: list[OnlineStore] = []
        self.ledger: Ledger = ledger or open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}")

    def store(self, spec: FeatureSpec | None = None) -> OnlineStore:
        """The online store, as a process of its own would open it."""
        self._stores.append(open_online_store(self.store_url, spec=spec))
        return self._stores[-1]

    def worker(
        self,
        champion: Loaded | Callable[[], Loaded],
        *,
        validity: Validity = Validity(),  # noqa: B008  # it is frozen
        journal: Journal | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Worker:
        """Another process of the service on these stores.

        By its own clock nothing takes long: on a busy machine a link that is cut must not look like one that hangs.
        """
        links = Links()

        def ledger() -> Ledger:
            if links.no_ledger:
                raise LedgerUnavailable("The link is cut.")
            return self.ledger

        def open_store(spec: FeatureSpec | None) -> Any:
            if links.no_store:
                raise OnlineStoreUnavailable("The link is cut.")
            return _Linked(self.store(spec), links)

        if journal is None:
            journal = Journal(self.folder / "journal")
        self._journals.append(journal)
        names = FeatureNames(self.folder / "names")
        scorer = Scorer(
            champion if callable(champion) else lambda: champion,
            open_store,
            ledger,
            journal,
            validity,
            remember_names=names.remember,
            clock=clock or count(0.0, 0.001).__next__,
        )
        return Worker(scorer, journal, links, Delivery(lambda: self.ledger, names))

    def close(self) -> None:
        """Close what was opened."""
        for opened in (*self._journals, *self._stores, self.ledger):
            opened.close()
