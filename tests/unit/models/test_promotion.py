"""Promotion: a table of cases for the gates, and a real ledger for what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines import tables
from fraud_pipelines.errors import NoChampion, PromotionRefused, UnknownVersion
from fraud_pipelines.ledger import Decision, Ledger, Promotion, open_ledger
from fraud_pipelines.models.evaluation import Evaluation
from fraud_pipelines.models.promotion import (
    Gate,
    ServedParity,
    champions,
    decide,
    mirror_champion,
    promote,
    promote_by_hand,
    promotion_gates,
    rollback,
    served_parity,
)
from fraud_pipelines.warehouse import open_warehouse

AS_OF = datetime(2026, 4, 1)
WHO = {"actor": "ada", "reason": "ticket 812"}
PASSED = [Gate("average_precision_reaches_floor", 0.5, 0.15, True, "0.5, at least 0.15 is needed")]
FAILED = [Gate("average_precision_reaches_floor", 0.1, 0.15, False, "0.1, at least 0.15 is needed")]


def _evaluation(average_precision: float | None = 0.6, recall: float | None = 0.7, **changes) -> Evaluation:
    ids = pd.DataFrame({"transaction_id": ["a", "b", "c"]})
    values = {
        "metrics": {"average_precision": average_precision, "recall_at_1pct_fpr": recall},
        "rows": 5000,
        "fraud_count": 50,
        "since": datetime(2026, 3, 11),
        "until": datetime(2026, 3, 25),
        "as_of": AS_OF,
        "scores": ids,
        "excluded": {},
        "precision_recall": [],
        "roc": [],
    }
    return Evaluation(**(values | changes))


def _served(decisions: int = 100, compared: int = 100, mismatches: int = 0) -> ServedParity:
    return ServedParity(datetime(2026, 3, 25), datetime(2026, 3, 31), decisions, compared, mismatches)


@pytest.mark.parametrize(
    ("candidate", "champion", "served", "checks", "failing"),
    [
        (_evaluation(), None, None, [], []),
        (_evaluation(0.15, 0.30, rows=1000, fraud_count=30), None, _served(), [], []),
        (_evaluation(0.1499), None, None, [], ["average_precision_reaches_floor"]),
        (_evaluation(recall=0.2999), None, None, [], ["recall_reaches_floor"]),
        (_evaluation(None, None), None, None, [], ["average_precision_reaches_floor", "recall_reaches_floor"]),
        (_evaluation(rows=999), None, None, [], ["enough_labelled_rows"]),
        (_evaluation(fraud_count=29), None, None, [], ["enough_frauds"]),
        (_evaluation(0.5101), _evaluation(0.5), None, [], []),
        (_evaluation(0.5099), _evaluation(0.5), None, [], ["improves_on_champion"]),
        (_evaluation(0.5), _evaluation(0.5), None, [], ["improves_on_champion"]),
        (_evaluation(0.5), _evaluation(None), None, [], []),
        (_evaluation(None), _evaluation(0.5), None, [], ["average_precision_reaches_floor", "improves_on_champion"]),
        (_evaluation(), None, _served(mismatches=1), [], ["served_features_match"]),
        (_evaluation(), None, _served(compared=95), [], []),
        (_evaluation(), None, _served(compared=94), [], ["served_features_match"]),
        (_evaluation(), None, _served(compared=0), [], ["served_features_match"]),
        (_evaluation(), None, None, ["raw/transactions:keys_are_unique"], ["data_checks_pass"]),
    ],
)
def test_each_gate_passes_and_fails_by_its_own_number(candidate, champion, served, checks, failing):
    gates = promotion_gates(candidate, champion, served=served, failed_data_checks=checks)
    assert [gate.name for gate in gates if not gate.passed] == failing
    assert decide(gates) == ("refuse" if failing else "promote")
    assert len(gates) == 7


def test_models_judged_on_different_rows_cannot_be_compared():
    other = _evaluation(scores=pd.DataFrame({"transaction_id": ["a", "b", "d"]}))
    with pytest.raises(PromotionRefused, match="same rows"):
        promotion_gates(_evaluation(), other)


def test_no_gates_at_all_are_a_refusal():
    assert decide([]) == "refuse"


class AliasBook:
    """A registry that knows versions and aliases only, and can be told to fail before an alias moves."""

    def __init__(self, versions: tuple[str, ...] = ("1", "2", "3", "4")) -> None:
        self.versions, self.aliases, self.is_down = versions, {}, False

    def version_of(self, alias: str) -> str | None:
        return self.aliases.get(alias)

    def set_alias(self, alias: str, version: str) -> None:
        if self.is_down:
            raise ConnectionError("registry away")
        self.aliases[alias] = version

    def clear_alias(self, alias: str) -> None:
        self.aliases.pop(alias, None)

    def load(self, version: str) -> object:
        if version not in self.versions:
            raise UnknownVersion(f"no version {version}")
        return object()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


def test_a_promotion_is_a_row_and_then_an_alias(ledger):
    book = AliasBook()
    row = promote(book, ledger, version="1", gates=PASSED, as_of=AS_OF, **WHO)
    assert (row.kind, row.model_version, row.previous_version, row.actor, row.reason) == (
        "promote", "1", None, "ada", "ticket 812",
    )  # fmt: skip
    assert row.gates[0]["value"] == 0.5
    assert ledger.champion_at() == book.aliases["champion"] == "1"


def test_a_refused_candidate_leaves_a_row_and_the_champion(ledger):
    book = AliasBook()
    promote(book, ledger, version="1", gates=PASSED, **WHO)
    row = promote(book, ledger, version="2", gates=FAILED, **WHO)
    assert (row.kind, row.model_version, row.previous_version) == ("refuse", "2", "1")
    assert ledger.champion_at() == book.aliases["champion"] == "1"


def test_the_champion_stays_without_a_new_row(ledger):
    book = AliasBook()
    first = promote(book, ledger, version="1", gates=PASSED, **WHO)
    assert promote(book, ledger, version="1", gates=PASSED, **WHO) == first
    assert len(ledger.promotions()) == 1


def test_a_forced_promotion_says_who_forced_it_and_past_which_gates(ledger):
    book = AliasBook()
    row = promote(book, ledger, version="2", gates=FAILED, forced=True, **WHO)
    assert row.kind == "promote"
    assert row.gates[-1]["name"] == "forced_by_hand"
    assert "ada" in row.gates[-1]["words"]
    assert "average_precision_reaches_floor" in row.gates[-1]["words"]
    assert row.gates[0]["passed"] is False


@pytest.mark.parametrize("words", [{"actor": " ", "reason": "r"}, {"actor": "a", "reason": ""}])
def test_nobody_promotes_without_name_and_reason(ledger, words):
    with pytest.raises(PromotionRefused, match="missing"):
        promote(AliasBook(), ledger, version="1", gates=PASSED, **words)
    assert ledger.promotions() == []


def test_a_version_that_cannot_be_loaded_is_not_promoted(ledger):
    with pytest.raises(UnknownVersion):
        promote(AliasBook(), ledger, version="99", gates=PASSED, **WHO)
    assert ledger.promotions() == []


def test_a_crash_between_row_and_alias_heals_with_the_next_call(ledger):
    book = AliasBook()
    promote(book, ledger, version="1", gates=PASSED, **WHO)
    book.is_down = True
    with pytest.raises(ConnectionError):
        promote(book, ledger, version="2", gates=PASSED, **WHO)
    assert (ledger.champion_at(), book.aliases["champion"]) == ("2", "1")
    book.is_down = False
    assert mirror_champion(book, ledger) == "2"
    assert book.aliases["champion"] == "2"


def test_an_alias_set_by_hand_is_taken_back(ledger):
    book = AliasBook()
    book.set_alias("champion", "3")
    assert mirror_champion(book, ledger) is None
    assert "champion" not in book.aliases
    promote(book, ledger, version="1", gates=PASSED, **WHO)
    book.set_alias("champion", "3")
    mirror_champion(book, ledger)
    assert book.aliases["champion"] == "1"


def test_rollback_returns_to_the_champion_before_and_a_second_one_goes_further_back(ledger):
    book = AliasBook()
    for version in ("1", "2", "3"):
        promote(book, ledger, version=version, gates=PASSED, **WHO)
    row = rollback(book, ledger, **WHO)
    assert (row.kind, row.model_version, row.previous_version) == ("rollback", "2", "3")
    assert rollback(book, ledger, **WHO).model_version == "1"
    assert book.aliases["champion"] == "1"
    with pytest.raises(NoChampion, match="no champion before it"):
        rollback(book, ledger, **WHO)


def test_rollback_to_a_named_version_only_if_it_was_champion(ledger):
    book = AliasBook()
    with pytest.raises(NoChampion, match="fraud train"):
        rollback(book, ledger, **WHO)
    for version in ("1", "2", "3"):
        promote(book, ledger, version=version, gates=PASSED, **WHO)
    promote(book, ledger, version="4", gates=FAILED, **WHO)
    with pytest.raises(PromotionRefused, match="4 never was champion"):
        rollback(book, ledger, to="4", **WHO)
    with pytest.raises(PromotionRefused, match="3 is champion already"):
        rollback(book, ledger, to="3", **WHO)
    assert rollback(book, ledger, to="1", **WHO).model_version == "1"
    # Version 3 was champion once, so the way forward again is open.
    assert rollback(book, ledger, to="3", **WHO).model_version == "3"
    assert ledger.champion_at() == book.aliases["champion"] == "3"


def test_by_hand_the_recorded_gates_decide(ledger):
    book = AliasBook()
    promote(book, ledger, version="1", gates=PASSED, **WHO)
    promote(book, ledger, version="2", gates=FAILED, **WHO)
    with pytest.raises(PromotionRefused, match=r"0\.1, at least 0.15 is needed"):
        promote_by_hand(book, ledger, version="2", **WHO)
    assert [row.kind for row in ledger.promotions()] == ["promote", "refuse", "refuse"]
    forced = promote_by_hand(book, ledger, version="2", force=True, **WHO)
    assert (forced.kind, forced.gates[-1]["name"]) == ("promote", "forced_by_hand")
    assert ledger.champion_at() == book.aliases["champion"] == "2"


def test_by_hand_gates_measured_beside_another_champion_do_not_count(ledger):
    book = AliasBook()
    promote(book, ledger, version="1", gates=PASSED, **WHO)
    promote(book, ledger, version="2", gates=PASSED, **WHO)
    with pytest.raises(PromotionRefused, match="measured beside champion none, the champion now is 2"):
        promote_by_hand(book, ledger, version="1", **WHO)
    with pytest.raises(PromotionRefused, match="never evaluated"):
        promote_by_hand(book, ledger, version="3", **WHO)
    assert ledger.champion_at() == "2"


@given(st.lists(st.tuples(st.sampled_from(["promote", "refuse", "rollback"]), st.sampled_from("123")), max_size=12))
def test_the_line_of_champions_ends_with_the_present_one(events):
    rows = [Promotion(kind, version, None, "a", "r", []) for kind, version in events]
    decided = [row.model_version for row in rows if row.kind != "refuse"]
    assert champions(rows)[-1:] == decided[-1:]


def _serve(ledger: Ledger, day: int, count: int, features: dict[str, float | None] | None = None) -> None:
    for number in range(count):
        moment = datetime(2026, 3, day, 12, 0, number)
        ledger.record_decision(
            Decision(
                transaction_id=f"{day}-{number}",
                event_time=moment,
                card_id="tok_" + "0" * 32,
                merchant_id="m1",
                decision="APPROVE",
                fraud_probability=0.1,
                model_version="1",
                bundle_digest="d" * 64,
                thresholds={"review": 0.3, "block": 0.7},
                reasons=[],
                features={"amount": 1.0, "hour": 12.0} if features is None else features,
                request={},
                decided_at=moment,
            )
        )


def _parity(day: int, compared: int, mismatched: int = 0, absent: int = 0) -> pd.DataFrame:
    row = {"day": datetime(2026, 3, day), "compared_count": compared, "largest_difference": None,
           "absent_count": absent}  # fmt: skip
    features = [{"feature": "amount", "mismatch_count": mismatched}, {"feature": "hour", "mismatch_count": 0}]
    return pd.DataFrame([row | feature for feature in features])


def test_parity_looks_at_the_last_served_days_before_the_moment(tmp_path: Path, ledger):
    warehouse = open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    with warehouse.session() as session:
        # Days that only parity knows are no served days; a fallback has no features that could differ.
        session.upsert(tables.PARITY, _parity(30, 4, 4))
        _serve(ledger, 31, 2, features={})
        assert served_parity(session, ledger, AS_OF) is None
        # A mismatch on the 5th, then seven clean served days: it no longer blocks.
        _serve(ledger, 5, 3)
        session.upsert(tables.PARITY, _parity(5, 3, 3))
        for day in range(6, 12):
            _serve(ledger, day, 2)
            session.upsert(tables.PARITY, _parity(day, 2))
        expected = ServedParity(datetime(2026, 3, 5), datetime(2026, 3, 11), 15, 15, 3)
        assert served_parity(session, ledger, AS_OF) == expected
        _serve(ledger, 12, 1)
        session.upsert(tables.PARITY, _parity(12, 1))
        expected = ServedParity(datetime(2026, 3, 6), datetime(2026, 3, 12), 13, 13, 0)
        assert served_parity(session, ledger, AS_OF) == expected
        # What happens at or after the moment is not known yet; four weeks later nothing is left to look at.
        assert served_parity(session, ledger, datetime(2026, 3, 6)).mismatches == 3
        assert served_parity(session, ledger, datetime(2026, 4, 10)) is None


@pytest.mark.parametrize("rows", [[], [_parity(20, 0, absent=6)]], ids=["never materialized", "all absent"])
def test_parity_that_compared_nothing_refuses_and_says_so(tmp_path: Path, ledger, rows):
    _serve(ledger, 20, 6)
    with open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}").session() as session:
        for row in rows:
            session.upsert(tables.PARITY, row)
        served = served_parity(session, ledger, AS_OF)
    assert (served.decisions, served.compared, served.absent_share) == (6, 0, 1.0)
    gate = next(g for g in promotion_gates(_evaluation(), None, served=served) if g.name == "served_features_match")
    assert (gate.passed, gate.value) == (False, None)
    assert "0 of 6 decisions from 2026-03-20 to 2026-03-20 were compared" in gate.words
    assert "fraud materialize monitoring/parity --from 2026-03-20 --to 2026-03-20" in gate.words


def test_evaluations_compare_equal_rows_whatever_their_index():
    shuffled_index = _evaluation(0.5).scores.set_axis([7, 8, 9])
    gates = promotion_gates(_evaluation(0.6), replace(_evaluation(0.5), scores=shuffled_index))
    assert decide(gates) == "promote"
