"""What the online store could not take is known to every worker of the host, and to those that come after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
import pytest

from fraud_pipelines.errors import JournalUnavailable
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.following import Entry
from fraud_pipelines.reasons import NO_CHAMPION
from serving import unrecorded as module
from serving.answers import answers_of, fallback, records_of
from serving.champion import Loaded
from serving.journal import Journal
from serving.problems import Problem
from serving.scoring import Scorer
from serving.unrecorded import Unrecorded

MOMENT_US = 1_740_830_400_000_000  # 2025-03-01 12:00


def paid(id_: str, amount_minor: int = 100) -> ScoredTransaction:
    return ScoredTransaction(id_, MOMENT_US, "card", "merchant", amount_minor, "EUR")


def decided(id_: str, decision: str = "REVIEW") -> Entry:
    verdict = fallback("online_store_unavailable", decision)
    (answer,) = answers_of([paid(id_)], [verdict], None, None, datetime.now(UTC))
    return Entry(paid(id_), records_of([paid(id_)], [answer], [None])[0])


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], Unrecorded]:
    return partial(Unrecorded, tmp_path / "serving" / "unrecorded.sqlite")


def test_of_two_decisions_on_a_payment_the_first_stays_whoever_made_it(opened):
    one, other = opened(), opened()
    first, second = decided("t", "REVIEW"), decided("t", "BLOCK")
    assert one.keep([first]) == ({}, 0)
    assert other.keep([second, decided("u")]) == ({"t": first.decision}, 0)
    assert other.decisions(["t", "nowhere"]) == {"t": first.decision}
    assert [entry.transaction.transaction_id for entry in one.oldest(10)] == ["t", "u"]
    assert one.oldest(1) == [first]


def test_what_was_kept_is_there_after_the_process_is_gone_and_removed_once_it_is_recorded(opened):
    kept = [decided(f"t{number}") for number in range(3)]
    opened().keep(kept)
    assert opened().oldest(10) == kept
    opened().remove(kept[:2])
    assert opened().oldest(10) == kept[2:]
    opened().remove([decided("t2", "BLOCK")])  # another decision on it, which is not the one that is there
    assert opened().oldest(10) == kept[2:]


def test_the_oldest_go_when_there_are_too_many(opened, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    kept = opened()
    assert kept.keep([decided(f"a{number}") for number in range(8)])[1] == 0
    assert kept.keep([decided(f"b{number}") for number in range(5)])[1] == 3
    assert [entry.transaction.transaction_id for entry in kept.oldest(2)] == ["a3", "a4"]


def test_workers_that_keep_the_same_payments_at_once_agree(opened):
    workers = [opened() for _ in range(4)]

    def keep(number: int) -> dict[str, bytes]:
        mine = [decided(f"t{position}", "REVIEW" if number % 2 else "BLOCK") for position in range(20)]
        return {entry.transaction.transaction_id: entry.decision for entry in mine} | workers[number].keep(mine)[0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(keep, range(4)))
    assert answers == [answers[0]] * 4


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "unrecorded.sqlite"
    path.write_bytes(b"no database" * 500)
    with pytest.raises(JournalUnavailable, match=r"unrecorded\.sqlite"):
        Unrecorded(path)


class Host:
    """Workers on one host; both stores are behind a folder that can be taken away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stores = folder, folder / "stores"
        self.stores.write_text("a file where the folder of the stores should be")

    def worker(self) -> Scorer:
        return Scorer(
            lambda: Loaded(None, NO_CHAMPION, "none was promoted"),
            lambda spec: open_online_store(f"sqlite:///{self.stores / 'online.sqlite'}", spec=spec),
            lambda: open_ledger(f"sqlite:///{self.stores / 'ledger.sqlite'}"),
            Journal(self.folder / "journal"),
            unrecorded=Unrecorded(self.folder / "unrecorded.sqlite"),
        )

    def bring_the_stores(self) -> None:
        self.stores.unlink()
        self.stores.mkdir()


def answers(scorer: Scorer, *transactions: ScoredTransaction) -> list:
    """What callers are told of a group: an answer's JSON, or a Problem."""
    (results,) = scorer.make_durable([scorer.decide(transactions)])
    return [result if isinstance(result, Problem) else result.content for result in results]


def test_without_the_stores_the_workers_of_a_host_give_one_answer_and_the_store_gets_it_once(tmp_path):
    host = Host(tmp_path)
    first, second = host.worker(), host.worker()
    [answer] = answers(first, paid("t"))
    assert answers(second, paid("t")) == [answer]
    assert second.find("t").answer == orjson.loads(answer)
    after_a_kill = host.worker()
    assert answers(after_a_kill, paid("t"), paid("u"))[0] == answer
    [conflict] = answers(after_a_kill, paid("t", amount_minor=101))
    assert conflict.code == "transaction_id_reused"
    host.bring_the_stores()
    assert answers(second, paid("t")) == [answer]
    assert answers(first, paid("t")) == [answer]
    store = second.online_store()
    assert store.sizes()["transactions"] == 2
    assert orjson.loads(store.decision("t"))["answer"] == orjson.loads(answer)
    assert Unrecorded(tmp_path / "unrecorded.sqlite").oldest(10) == []


def test_a_decision_from_before_the_outage_stands_in_the_store(tmp_path, caplog):
    host = Host(tmp_path)
    host.bring_the_stores()
    [before] = answers(host.worker(), paid("t"))
    away = host.stores.rename(tmp_path / "away")
    host.stores.write_text("away")
    [meanwhile] = answers(host.worker(), paid("t"))
    assert orjson.loads(meanwhile)["fallback"] == "no_champion"
    assert meanwhile != before  # nobody could know it
    host.stores.unlink()
    shutil.move(away, host.stores)
    assert answers(host.worker(), paid("t")) == [before]
    assert "decided before the online store was away" in caplog.text
