"""The challenger beside the champion: whether both can be compared now, and the cards it decides on (its canary)."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress

import numpy as np

from fraud_pipelines.features.online import Context, ScoredTransaction
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.reasons import MODEL_EXPIRED, NO_CHAMPION
from serving.answers import ModelFacts, Verdict
from serving.champion import Champion, Loaded
from serving.judging import Validity, judge

NO_CHALLENGER, IS_CHAMPION, OTHER_FEATURES = "no_challenger", "is_champion", "other_feature_spec"
NOBODY = Loaded(None, NO_CHALLENGER)
# Never to be changed: cards would move between champion and challenger while a canary runs.
CANARY_SALT = b"fraud_pipelines canary 1:"
_PLACES = 2**48

logger = logging.getLogger("bentoml.fraud_scorer")


def canary_place(card_id: str) -> float:
    """Where a card lies in [0, 100), evenly over cards; a canary of P % takes the cards below P.

    It depends on the card's token alone: every replica and version finds the same place, and the cards of a small
    canary are among those of a larger one.
    """
    return int.from_bytes(hashlib.sha256(CANARY_SALT + card_id.encode()).digest()[:6]) * 100 / _PLACES


@dataclass(frozen=True)
class Rival:
    """A challenger that can score the champion's feature values, and the share of cards it decides on."""

    model: Champion
    facts: ModelFacts
    canary_percent: float


class Challenge:
    """Says whether the challenger can be compared with a champion, and why not.

    Args:
        challenger: the model that the ledger names challenger now, or why there is none.
        now: naive UTC.
    """

    def __init__(self, challenger: Callable[[], Loaded], now: Callable[[], datetime] = utc_now) -> None:
        self._challenger, self._now = challenger, now
        self._rival: tuple[Loaded, Rival] | None = None

    def rival_of(self, champion: Champion) -> Rival | None:
        """The challenger, where both can score the same payments; asked once per group."""
        loaded = self._challenger()
        if loaded.champion is None or self._difference(champion, loaded) is not None:
            return None
        if self._rival is None or self._rival[0] is not loaded:
            model = loaded.champion
            facts = ModelFacts.of(model.name, model.version, model.digest, model.bundle)
            self._rival = loaded, Rival(model, facts, loaded.canary_percent)
        return self._rival[1]

    def obstacle(self, champion: Champion | None) -> str | None:
        """Why nothing is compared now, as a code; None while it is."""
        loaded = self._challenger()
        if loaded.champion is None:
            return loaded.cause or NO_CHALLENGER
        return NO_CHAMPION if champion is None else self._difference(champion, loaded)

    def _difference(self, champion: Champion, loaded: Loaded) -> str | None:
        if loaded.champion is None or loaded.champion.digest == champion.digest:
            return IS_CHAMPION
        if loaded.champion.spec_hash != champion.spec_hash:
            # The online state is held in the windows of the champion's spec: other features of it would be wrong.
            return OTHER_FEATURES
        return MODEL_EXPIRED if loaded.is_expired(self._now()) else None


def judge_with_canary(
    champion: Champion,
    rival: Rival,
    transactions: Sequence[ScoredTransaction],
    context: Context,
    as_of_us: int | None,
    validity: Validity,
) -> list[Verdict]:
    """As `judge`, but the challenger decides on the cards of its canary; where it cannot, the champion does.

    A verdict of the challenger names it in `model`.
    """
    verdicts: list[Verdict | None] = [None] * len(transactions)

    def decide(model: Champion, is_asked: list[bool]) -> list[Verdict]:
        if all(is_asked):
            return judge(model, transactions, context, as_of_us, validity)
        asked = list(compress(transactions, is_asked))
        return judge(model, asked, context.take(np.flatnonzero(is_asked)), as_of_us, validity) if asked else []

    def fill(is_asked: list[bool], found: list[Verdict]) -> None:
        for row, verdict in zip(compress(range(len(verdicts)), is_asked), found, strict=True):
            verdicts[row] = verdict

    if rival.canary_percent > 0:
        is_canary = [canary_place(transaction.card_id) < rival.canary_percent for transaction in transactions]
        try:
            own = decide(rival.model, is_canary)
            fill(is_canary, [verdict._replace(model=rival.facts) for verdict in own])
        except Exception:  # whatever a challenger does wrong: the champion decides as if there were none
            logger.exception("Challenger %s could not decide on its canary", rival.model.version)
    left = [verdict is None or verdict.fallback is not None for verdict in verdicts]
    fill(left, decide(champion, left))
    return [verdict for verdict in verdicts if verdict is not None]
