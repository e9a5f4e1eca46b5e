"""What POST /explain answers: a decision taken apart by the model that made it. Decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fraud_pipelines.errors import FraudPipelinesError
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.features.variants import variant_features
from fraud_pipelines.models.counterfactual import Counterfactual, KnownOfCard, counterfactual
from fraud_pipelines.models.explanation import FullReasons
from fraud_pipelines.models.policy import Thresholds
from fraud_pipelines.online_store import OnlineStore
from serving.answers import StoredDecision
from serving.champion import Champion
from serving.rationale import Facts


@dataclass(frozen=True)
class _Said:
    words: str
    contribution: float | None


@dataclass(frozen=True)
class Explained:
    """A decision taken apart: plain values for the answer, and the facts that may be put into words."""

    content: dict[str, Any]
    facts: Facts


def explain(
    stored: StoredDecision, champion_of: Callable[[str], Champion | None], open_store: Callable[[], OnlineStore]
) -> Explained:
    """Take one decision apart, from the feature values it was made with. Blocks.

    Args:
        champion_of: the model of a bundle digest, None where it cannot be had any more.
        open_store: the online store, for the history behind the counterfactual.
    """
    answer = stored.answer
    content: dict[str, Any] = {
        name: answer[name] for name in ("transaction_id", "decision", "fraud_probability", "model")
    }
    content |= {
        "base_value": None,
        "log_odds": None,
        "reasons": answer["reasons"],
        "counterfactual": None,
        "unexplained": None,
    }
    model = answer["model"]
    if model is None or stored.features is None:
        content["unexplained"] = f"A rule decided ({answer['fallback']}): there is no score to take apart."
        said = [_Said(reason["words"], reason["contribution"]) for reason in answer["reasons"]]
        return Explained(content, Facts(answer["decision"], None, None, said))
    thresholds = Thresholds(**answer["thresholds"])
    champion = champion_of(model["bundle_digest"])
    if champion is None:
        content["unexplained"] = (
            f"Version {model['version']}, which decided, is not kept any more: its reasons are those of the decision."
        )
        said = [_Said(reason["words"], reason["contribution"]) for reason in answer["reasons"]]
        return Explained(content, Facts(answer["decision"], answer["fraud_probability"], thresholds, said))
    full = _full_reasons(champion, stored)
    content |= {"base_value": full.base_value, "log_odds": full.log_odds}
    content["reasons"] = [
        {
            "code": reason.code,
            "words": reason.words,
            "meaning": reason.meaning,
            "contribution": reason.contribution,
            "inputs": [
                {"name": i.name, "value": i.value, "contribution": i.contribution, "meaning": i.meaning}
                for i in reason.inputs
            ],
        }
        for reason in full.reasons
    ]
    found: Counterfactual | None = None
    if answer["fraud_probability"] >= thresholds.review:
        try:
            found = _counterfactual(champion, stored.transaction, thresholds.review, open_store())
            content["counterfactual"] = found.as_dict() if found else None
            if found is None:
                content["unexplained"] = (
                    "By the history as it is known now the payment would have been approved, so there is no "
                    "counterfactual line; the reasons are of what was known then."
                )
        except FraudPipelinesError:
            content["unexplained"] = "The history of the card cannot be read now, so there is no counterfactual line."
    return Explained(content, Facts(answer["decision"], answer["fraud_probability"], thresholds, full.reasons, found))


def _full_reasons(champion: Champion, stored: StoredDecision) -> FullReasons:
    names = champion.bundle.feature_names
    values = dict(zip(names, stored.features or (), strict=True))
    row = np.array([[np.nan if value is None else value for value in values.values()]], np.float64).astype(np.float32)
    return champion.bundle.full_reasons(row, values)


def _counterfactual(
    champion: Champion, transaction: ScoredTransaction, review: float, store: OnlineStore
) -> Counterfactual | None:
    history = store.history(transaction.card_id, transaction.merchant_id, transaction.event_time_us + 1)
    features = variant_features(champion.engine, transaction, history)
    known = KnownOfCard.of(transaction, history)
    return counterfactual(transaction, known, lambda variants: champion.bundle.predict(features(variants)), review)
