"""Promotion: what follows from the gates, on a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import NoChampion, PromotionRefused, UnknownVersion
from fraud_pipelines.ledger import Ledger, Promotion, open_ledger
from fraud_pipelines.models.archive import unpack
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.gates import Gate
from fraud_pipelines.models.promotion import (
    champions,
    decide,
    mirror_champion,
    promote,
    promote_by_hand,
    rollback,
)
from tests.served_models import constant_bundle

AS_OF = datetime(2026, 4, 1)
WHO = {"actor": "ada", "reason": "ticket 812"}
PASSED = [Gate("average_precision_reaches_floor", 0.5, 0.15, True, "0.5, at least 0.15 is needed")]
FAILED = [Gate("average_precision_reaches_floor", 0.1, 0.15, False, "0.1, at least 0.15 is needed")]


def test_no_gates_at_all_are_a_refusal():
    assert decide([]) == "refuse"


BUNDLES = {str(number): constant_bundle(-float(number)) for number in range(1, 5)}


class AliasBook:
    """A registry of four models, with its aliases in memory, that can be told to fail before an alias moves."""

    def __init__(self) -> None:
        self.aliases, self.is_down = {}, False

    def version_of(self, alias: str) -> str | None:
        return self.aliases.get(alias)

    def set_alias(self, alias: str, version: str) -> None:
        if self.is_down:
            raise ConnectionError("registry away")
        self.aliases[alias] = version

    def clear_alias(self, alias: str) -> None:
        self.aliases.pop(alias, None)

    def load(self, version: str) -> Bundle:
        if version not in BUNDLES:
            raise UnknownVersion(f"no version {version}")
        return BUNDLES[version]


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


def test_what_becomes_champion_lies_in_the_ledger_before_its_row_and_a_refused_version_does_not(ledger):
    book, order = AliasBook(), []

    class Watched:
        def __getattr__(self, name):
            order.append(name)
            return getattr(ledger, name)

    row = promote(book, Watched(), version="1", gates=PASSED, **WHO)
    assert row.bundle_digest == BUNDLES["1"].digest
    assert order.index("store_bundle") < order.index("record_promotion")
    refused = promote(book, ledger, version="2", gates=FAILED, **WHO)
    assert refused.bundle_digest == BUNDLES["2"].digest
    assert ledger.bundle_content(BUNDLES["2"].digest) is None
    promote(book, ledger, version="3", gates=PASSED, **WHO)
    order.clear()
    assert rollback(book, Watched(), **WHO).bundle_digest == BUNDLES["1"].digest
    assert order.index("store_bundle") < order.index("record_promotion")
    assert unpack(ledger.bundle_content(BUNDLES["3"].digest), origin="x") == BUNDLES["3"].contents


def test_promoting_the_champion_again_puts_back_a_bundle_the_ledger_lacks(ledger):
    ledger.record_promotion(Promotion("promote", "1", None, "ada", "before the ledger kept bundles", []))
    assert ledger.champion()[:2] == ("1", None)
    promote(AliasBook(), ledger, version="1", gates=PASSED, **WHO)
    assert len(ledger.promotions()) == 1
    assert ledger.champion()[:2] == ("1", BUNDLES["1"].digest)


def test_a_forced_promotion_of_the_champion_renews_its_review_and_a_rollback_still_goes_to_the_one_before(ledger):
    book = AliasBook()
    promote(book, ledger, version="1", gates=PASSED, **WHO)
    promote(book, ledger, version="2", gates=PASSED, **WHO)
    renewed = promote_by_hand(book, ledger, version="2", force=True, actor="eve", reason="yearly review, ticket 900")
    assert (renewed.kind, renewed.model_version, renewed.previous_version) == ("promote", "2", "2")
    assert renewed.gates[-1]["words"] == "eve promoted by hand; gates that failed: none"
    assert ledger.champion().promotion_id == renewed.promotion_id == 3
    assert rollback(book, ledger, **WHO).model_version == "1"


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
