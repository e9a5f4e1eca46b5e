"""The champion of this Bento: found, verified, warmed up; or the cause why a rule must decide instead."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraud_pipelines.errors import BundleCorrupt, FraudPipelinesError
from fraud_pipelines.features.online import History, OnlineEngine, ScoredTransaction
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.explanation import top_reasons
from fraud_pipelines.reasons import BUNDLE_CORRUPT, NO_CHAMPION, SPEC_MISMATCH, WARM_UP_FAILED

# The build writes it beside the code; a checkout has none, and there every decision is the fallback's.
CHAMPION_FOLDER = Path(__file__).resolve().parents[1] / "champion"

logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(frozen=True)
class Champion:
    """A verified model version and the engine that computes its features. Never changes: a swap replaces it whole."""

    name: str
    version: str
    digest: str
    bundle: Bundle
    engine: OnlineEngine

    @property
    def spec_hash(self) -> str:
        """Hash of the feature definitions it was trained on."""
        return self.bundle.spec_hash


@dataclass(frozen=True)
class Loaded:
    """What the service decides with: a champion, or none and the cause (a code of fraud_pipelines/reasons.py)."""

    champion: Champion | None
    cause: str | None = None
    problem: str | None = None


def load_champion(folder: Path = CHAMPION_FOLDER) -> Loaded:
    """Load the champion of `folder` (champion.json and bundle/); never raises, since a service must answer.

    Every digest is checked before anything is parsed, the spec must be the one the model was trained with, and one
    prediction with reasons must come out finite.
    """
    if not (folder / "champion.json").is_file():
        return _fallback(NO_CHAMPION, f"{folder} holds no champion.json. Build a Bento: fraud materialize models/bento")
    try:
        described = json.loads((folder / "champion.json").read_text())
        name, version, digest = (str(described[key]) for key in ("name", "version", "bundle_digest"))
        bundle = Bundle.load(folder / "bundle", digest=digest)
    except (BundleCorrupt, OSError, ValueError, KeyError, TypeError) as error:
        return _fallback(BUNDLE_CORRUPT, str(error))
    try:
        spec = bundle.spec
        if spec.hash != bundle.spec_hash or tuple(spec.names) != bundle.feature_names:
            return _fallback(
                SPEC_MISMATCH,
                f"{folder}/bundle: the model expects spec {bundle.spec_hash} with {list(bundle.feature_names)}, "
                f"the spec beside it is {spec.hash} with {list(spec.names)}. Train again: fraud train",
            )
        engine = OnlineEngine(spec)
    except FraudPipelinesError as error:
        return _fallback(SPEC_MISMATCH, str(error))
    champion = Champion(name, version, digest, bundle, engine)
    try:
        _warm_up(champion)
    except Exception as error:  # whatever a broken model raises: the rule must decide, and the log must say why
        return _fallback(WARM_UP_FAILED, f"{folder}/bundle: the first prediction failed: {error}")
    logger.info("Champion %s version %s, bundle %s", name, version, digest)
    return Loaded(champion)


def _warm_up(champion: Champion) -> None:
    # The first call compiles features and SHAP values, or loads them compiled, and opens the model's session. No caller
    # should pay for that.
    champion.engine.vector(ScoredTransaction("warm-up", 0, "card", "merchant", 0, "EUR"), History())
    row = np.full((1, len(champion.bundle.feature_names)), np.nan, dtype=np.float32)
    for _ in range(3):
        probability = float(champion.bundle.predict(row)[0])
        contributions = champion.bundle.contributions(row)
        top_reasons(contributions[0], {}, champion.bundle.spec)
    if not (0.0 <= probability <= 1.0 and np.isfinite(contributions).all()):
        raise ValueError(f"expected a probability in [0, 1] and finite contributions, found {probability}")


def _fallback(cause: str, problem: str) -> Loaded:
    logger.error("No model decides, every transaction goes to review (%s): %s", cause, problem)
    return Loaded(None, cause, problem)
