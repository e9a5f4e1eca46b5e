"""Beginning and ending a challenge, and what champion and challenger came to, on a real ledger and warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fraud_pipelines.commands.challenge import app
from fraud_pipelines.errors import ContractBroken, EmptySample, NoChampion, PromotionRefused, UnknownVersion
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.ledger import Ledger, Promotion, ShadowDecision, open_ledger
from fraud_pipelines.models.archive import unpack
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.challenge import challenge, end_challenge
from fraud_pipelines.models.intervals import RankedDays, average_precision_gain, draw_days
from fraud_pipelines.models.metrics import average_precision
from fraud_pipelines.models.policy import CostMatrix
from fraud_pipelines.models.shadow import side_by_side
from fraud_pipelines.models.shadow_view import show
from fraud_pipelines.warehouse import Warehouse, open_warehouse
from tests.builders import fill_warehouse, label, payment
from tests.served_models import POLICY_BASIS, constant_bundle

WHO = {"actor": "ada", "reason": "ticket 820"}
BUNDLES = {"1": constant_bundle(-1.0), "2": replace(constant_bundle(-2.0), policy=POLICY_BASIS)}
DIGESTS = {version: bundle.digest for version, bundle in BUNDLES.items()}


class Registry:
    """Bundles by version, as the registry gives them."""

    def __init__(self, **others: Bundle) -> None:
        self._bundles = BUNDLES | {name.removeprefix("v"): bundle for name, bundle in others.items()}

    def load(self, version: str) -> Bundle:
        if version not in self._bundles:
            raise UnknownVersion(f"no version {version}")
        return self._bundles[version]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    opened.record_promotion(Promotion("promote", "1", None, "ann", "why", []))
    yield opened
    opened.close()


def test_a_challenge_is_a_row_with_its_bundle_beside_it_and_leaves_the_champion(ledger):
    row = challenge(Registry(), ledger, version="2", canary_percent=5, **WHO)
    assert (row.model_version, row.bundle_digest, row.canary_percent) == ("2", DIGESTS["2"], 5.0)
    assert (row.actor, row.reason) == ("ada", "ticket 820")
    assert unpack(ledger.bundle_content(DIGESTS["2"]), origin="ledger") == BUNDLES["2"].contents
    assert ledger.challenger()[:3] == ("2", DIGESTS["2"], row.challenge_id)
    assert ledger.champion_at() == "1"
    end_challenge(ledger, **WHO)
    assert ledger.challenger() is None
    with pytest.raises(PromotionRefused, match="no challenger to stop"):
        end_challenge(ledger, **WHO)


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"version": "1"}, PromotionRefused, "champion already"),
        ({"version": "9"}, UnknownVersion, "no version 9"),
        ({"version": "3"}, PromotionRefused, "fraud backtest --version 3"),
        ({"version": "2", "canary_percent": 100.5}, PromotionRefused, "0 to 100 percent"),
        ({"version": "2", "reason": " "}, PromotionRefused, "missing: reason"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_written(ledger, asked, error, words):
    with pytest.raises(error, match=words):
        challenge(Registry(v3=replace(BUNDLES["2"], spec_hash="e" * 64)), ledger, **(WHO | asked))
    assert ledger.challenges() == []
    assert ledger.bundle_content(DIGESTS["2"]) is None


def test_without_a_champion_there_is_nothing_to_challenge(tmp_path):
    empty = open_ledger(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    with pytest.raises(NoChampion):
        challenge(Registry(), empty, version="2", **WHO)
    empty.close()


def test_the_command_takes_a_version_or_an_end():
    for arguments in (["challenge", "--reason", "x"], ["challenge", "2", "--stop", "--reason", "x"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "VERSION" in result.output


# Evaluating

DAYS, PER_DAY = 8, 30
SINCE = datetime(2026, 3, 1)
UNTIL = SINCE + timedelta(days=DAYS)
DELAY = timedelta(days=BUNDLES["2"].label_delay_days)
RNG = np.random.default_rng(4)
COUNT = DAYS * PER_DAY
IS_FRAUD = RNG.random(COUNT) < 0.2
# The challenger sees more of the truth than the champion.
CHAMPION_SCORES, CHALLENGER_SCORES = (
    np.clip(RNG.normal(0.3 + seen * IS_FRAUD, 0.15), 0.001, 0.999) for seen in (0.15, 0.4)
)
MOMENTS = [SINCE + timedelta(minutes=48 * n) for n in range(COUNT)]
WORDS = np.array(["APPROVE", "REVIEW", "BLOCK"])


def decided(scores: np.ndarray) -> np.ndarray:
    return WORDS[(scores >= 0.4).astype(int) + (scores >= 0.6)]


def compared(number: int, challenger: str = DIGESTS["2"]) -> ShadowDecision:
    return ShadowDecision(
        *(f"t{number}", MOMENTS[number], 1_000 * (1 + number % 7)),
        *("1", DIGESTS["1"], float(CHAMPION_SCORES[number]), str(decided(CHAMPION_SCORES)[number])),
        *("2", challenger, float(CHALLENGER_SCORES[number]), str(decided(CHALLENGER_SCORES)[number])),
        *(number % 10 == 0, MOMENTS[number]),
    )


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Every payment but the last five, of which nobody told; labels the label delay later.

    One fraud is reported within the hour; one label changes when it no longer counts.
    """
    warehouse = open_warehouse(f"duckdb:///{tmp_path_factory.mktemp('warehouse') / 'warehouse.duckdb'}")
    payments = [payment(f"t{n}", MOMENTS[n].isoformat()) for n in range(COUNT - 5)]
    labels = [
        label(f"t{n}", MOMENTS[n].isoformat(), (MOMENTS[n] + DELAY).isoformat(), bool(IS_FRAUD[n]))
        for n in range(COUNT - 5)
    ]
    labels.append(label("t200", MOMENTS[200].isoformat(), (MOMENTS[200] + timedelta(hours=1)).isoformat(), True))
    too_late = UNTIL + DELAY + timedelta(microseconds=1)
    labels.append(label("t0", MOMENTS[0].isoformat(), too_late.isoformat(), not IS_FRAUD[0]))
    fill_warehouse(warehouse, load_spec(), payments, labels)
    return warehouse


@pytest.fixture
def evaluated(ledger: Ledger) -> Ledger:
    challenge(Registry(), ledger, version="2", **WHO)
    ledger.record_shadow_decisions([compared(n) for n in range(COUNT)])
    ledger.record_shadow_decisions([compared(n, "0" * 64) for n in range(COUNT)])  # another challenger's
    return ledger


def test_both_are_judged_on_the_same_labelled_payments(evaluated, warehouse, capsys):
    found = side_by_side(warehouse, evaluated, Registry().load, version="2", since=SINCE, until=UNTIL)
    ours, theirs = decided(CHALLENGER_SCORES), decided(CHAMPION_SCORES)
    assert (found.rows, found.canary_rows, found.champions) == (COUNT, COUNT // 10, ("1",))
    assert found.flipped == int((ours != theirs).sum()) > 0
    for row, was in enumerate(WORDS):
        for column, now in enumerate(WORDS):
            assert found.counts[row, column] == int(((theirs == was) & (ours == now)).sum())
    assert (found.labelled, found.unlabelled, found.immature, found.as_of) == (COUNT - 5, 5, 0, UNTIL + DELAY)
    known = np.arange(COUNT) < COUNT - 5
    amounts = 1_000 * (1 + np.arange(COUNT) % 7)
    for money, words in ((found.champion_money, theirs), (found.challenger_money, ours)):
        assert money.frauds == int(IS_FRAUD[known].sum())
        assert money.fraud_blocked == amounts[known & IS_FRAUD & (words == "BLOCK")].sum() / 100
        assert money.genuine_blocked == amounts[known & ~IS_FRAUD & (words == "BLOCK")].sum() / 100
    assert found.costs == POLICY_BASIS.costs != CostMatrix()
    day = np.arange(COUNT) // PER_DAY
    ranked = [RankedDays(IS_FRAUD[known], s[known], day[known]) for s in (CHALLENGER_SCORES, CHAMPION_SCORES)]
    assert found.gain == average_precision_gain(*ranked, draw_days(DAYS))
    assert found.challenger_average_precision == average_precision(IS_FRAUD[known], CHALLENGER_SCORES[known])
    assert found.gain.value > 0
    assert found.gain.p_value < 0.05
    show(found)
    assert "one-sided p" in capsys.readouterr().out


def test_what_has_not_had_its_time_is_left_out_labelled_or_not(evaluated, warehouse):
    as_of = SINCE + timedelta(days=3) + DELAY
    found = side_by_side(warehouse, evaluated, Registry().load, version="2", since=SINCE, until=UNTIL, as_of=as_of)
    assert (found.rows, found.immature, found.labelled) == (COUNT, 5 * PER_DAY, 3 * PER_DAY)
    assert (found.gain.days, found.gain.p_value) == (3, None)  # too few days to tell from chance
    assert found.as_dict()["average_precision"]["gain"]["value"] == found.gain.value


def test_nothing_to_compare_is_an_error_with_the_next_step(evaluated, warehouse):
    registry = Registry(v3=constant_bundle(-3.0))
    with pytest.raises(UnknownVersion, match="fraud challenge 3"):
        side_by_side(warehouse, evaluated, registry.load, version="3", since=SINCE, until=UNTIL)
    with pytest.raises(EmptySample, match="GET /health"):
        later = UNTIL + timedelta(days=1)
        side_by_side(warehouse, evaluated, registry.load, version="2", since=UNTIL, until=later)
    with pytest.raises(ContractBroken, match="first day"):
        side_by_side(warehouse, evaluated, registry.load, version="2", since=UNTIL, until=SINCE)
    with pytest.raises(ContractBroken, match="not of one installation"):
        side_by_side(warehouse, evaluated, lambda _: BUNDLES["1"], version="2", since=SINCE, until=UNTIL)
