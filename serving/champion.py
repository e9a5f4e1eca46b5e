"""A model made ready to decide: verified, warmed up, tried; or the cause why a rule must decide instead.

The first one is that of the Bento; champion_watch.py follows the ledger from there.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from fraud_pipelines.errors import BundleCorrupt, FraudPipelinesError
from fraud_pipelines.features.online import OnlineEngine
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.limits import LARGEST_COMPILED_DIFFERENCE
from fraud_pipelines.models.additive_model import AdditiveModel
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.explanation import top_reasons
from fraud_pipelines.models.onnx_graph import from_onnx, to_onnx
from fraud_pipelines.models.trees import LEAF, Trees
from fraud_pipelines.reasons import BUNDLE_CORRUPT, NO_CHAMPION, SPEC_MISMATCH, WARM_UP_FAILED

# The build writes it beside the code; a checkout has none, and there every decision is the fallback's.
CHAMPION_FOLDER = Path(__file__).resolve().parents[1] / "champion"
# Of the reference sample: enough to come by most of a model's trees, in a millisecond.
SMOKE_ROWS = 16

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
    """What the service decides with: a champion, or none and the cause (a code of fraud_pipelines/reasons.py).

    `expires_at`, naive UTC, is when its promotion must have been reviewed; None for a model that nobody promoted.
    `canary_percent`, of a challenger, is the share of cards it decides on.
    """

    champion: Champion | None
    cause: str | None = None
    problem: str | None = None
    expires_at: datetime | None = None
    canary_percent: float = 0.0

    def is_expired(self, now: datetime) -> bool:
        """Whether the review is overdue at `now`, naive UTC: then a rule must decide (MODEL_EXPIRED)."""
        return self.expires_at is not None and now >= self.expires_at


def load_champion(folder: Path = CHAMPION_FOLDER) -> Loaded:
    """Load the champion of `folder` (champion.json and bundle/); never raises, since a service must answer."""
    loaded = _of_folder(folder)
    if loaded.champion:
        champion = loaded.champion
        logger.info("Champion %s version %s, bundle %s", champion.name, champion.version, champion.digest)
    else:
        logger.error("No model decides, every transaction goes to review (%s): %s", loaded.cause, loaded.problem)
    return loaded


def ready_to_decide(name: str, version: str, digest: str, place: str, read: Callable[[], Bundle]) -> Loaded:
    """A champion that is verified and has scored, or none and why; never raises.

    Every digest is checked before anything is parsed, the spec must be the one the model was trained with, and the
    scores and reasons of a row of nothing and of the model's own reference sample must make sense.

    Args:
        place: what problems call the place of the bundle.
        read: loads the bundle, its files held against `digest`.
    """
    try:
        bundle = read()
    except (BundleCorrupt, OSError, ValueError, KeyError, TypeError) as error:
        return Loaded(None, BUNDLE_CORRUPT, str(error))
    try:
        spec = bundle.spec
        if spec.hash != bundle.spec_hash or tuple(spec.names) != bundle.feature_names:
            return Loaded(
                None,
                SPEC_MISMATCH,
                f"{place}: the model expects spec {bundle.spec_hash} with {list(bundle.feature_names)}, "
                f"the spec beside it is {spec.hash} with {list(spec.names)}. Train again: fraud train",
            )
        engine = OnlineEngine(spec)
    except FraudPipelinesError as error:
        return Loaded(None, SPEC_MISMATCH, str(error))
    champion = Champion(name, version, digest, bundle, engine)
    try:
        _warm_up(champion)
    except Exception as error:  # whatever a broken model raises: the rule must decide, and the log must say why
        return Loaded(None, WARM_UP_FAILED, f"{place}: the first prediction failed: {error}")
    return Loaded(champion)


def compile_ahead() -> None:
    """Compile what the first model of any kind needs; never raises.

    A new Bento brings its machine code, but for the processor it was built on. Elsewhere, where it has no champion, or
    one without trees, the first promotion would have to wait for seconds of it, and every request beside them.
    """
    try:
        OnlineEngine(load_spec()).warm_up()
        single, leaf = np.float32, [LEAF, LEAF]
        stump = Trees(
            roots=np.array([0], np.int32),
            left=np.array([1, *leaf], np.int32),
            right=np.array([2, *leaf], np.int32),
            feature=np.zeros(3, np.int32),
            threshold=np.zeros(3, single),
            missing_left=np.ones(3, bool),
            value=np.array([0, -1, 1], single),
            cover=np.array([2, 1, 1], single),
        )
        # Through a file, as every model comes: compiled code is for exactly the types it was called with.
        from_onnx(to_onnx(AdditiveModel(1, trees=stump))).contributions(np.zeros((1, 1), single))
    except FraudPipelinesError as error:
        logger.warning("Nothing is compiled ahead: %s", error)


def _of_folder(folder: Path) -> Loaded:
    if not (folder / "champion.json").is_file():
        problem = f"{folder} holds no champion.json. Build a Bento: fraud materialize models/bento"
        return Loaded(None, NO_CHAMPION, problem)
    try:
        described = json.loads((folder / "champion.json").read_text())
        name, version, digest = (str(described[key]) for key in ("name", "version", "bundle_digest"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Loaded(None, BUNDLE_CORRUPT, f"{folder}/champion.json cannot be read: {type(error).__name__} {error}")
    place = folder / "bundle"
    return ready_to_decide(name, version, digest, str(place), lambda: Bundle.load(place, digest=digest))


def _warm_up(champion: Champion) -> None:
    # The first call compiles features and SHAP values, or loads them compiled, and opens the model's session. No caller
    # should pay for that.
    champion.engine.warm_up()
    bundle = champion.bundle
    nothing = np.full((1, len(bundle.feature_names)), np.nan, dtype=np.float32)
    for _ in range(3):
        _require_sense(bundle, nothing)
    _require_sense(bundle, bundle.sample(SMOKE_ROWS))


def _require_sense(bundle: Bundle, rows: np.ndarray) -> None:
    probability, contributions = bundle.predict(rows), bundle.contributions(rows)
    for row in contributions[:1]:
        top_reasons(row, {}, bundle.spec)
    if not (((probability >= 0) & (probability <= 1)).all() and np.isfinite(contributions).all()):
        raise ValueError(f"expected probabilities in [0, 1] and finite contributions, found {probability}")
    # Two ways to the same number: the compiled graph, and the trees and terms that reasons are made of.
    difference = float(np.abs(contributions.sum(axis=1) - bundle.margin(rows)).max(initial=0.0))
    if difference > LARGEST_COMPILED_DIFFERENCE:
        raise ValueError(
            f"expected contributions that add up to the log-odds within {LARGEST_COMPILED_DIFFERENCE}, "
            f"found a difference of {difference:.3g}"
        )
