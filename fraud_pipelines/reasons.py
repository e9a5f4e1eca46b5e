"""Reasons behind a decision: what a code is, and those of the service when no model decides.

The codes of a model stand with the features in dbt_project/models/features/transaction_features.yml (`reasons`), and so
travel in every bundle. docs/reason-codes.md says how to read and to extend them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fraud_pipelines.errors import SpecInvalid

# An input of the model that is no feature: it has no definition in the spec, but a reason like every other input.
ANOMALY_SCORE = "anomaly_score"
UNUSUAL_COMBINATION = "UNUSUAL_COMBINATION"

# Upper case: a code of the service (below) can never be taken for one of a model.
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_FIELDS = ("words", "meaning")


@dataclass(frozen=True)
class ReasonCode:
    """One reason: a stable code, the words a person reads ("the risk is higher because of: ..."), and its meaning."""

    code: str
    words: str
    meaning: str


NO_CHAMPION = "no_champion"
BUNDLE_CORRUPT = "bundle_corrupt"
SPEC_MISMATCH = "spec_mismatch"
WARM_UP_FAILED = "warm_up_failed"
ONLINE_STORE_UNAVAILABLE = "online_store_unavailable"
ONLINE_STORE_NEVER_FILLED = "online_store_never_filled"
ONLINE_STATE_TOO_SHORT = "online_state_too_short"
MODEL_FAILED = "model_failed"
MODEL_EXPIRED = "model_expired"
FEATURES_TOO_OLD = "features_too_old"

FALLBACK_REASONS = {
    reason.code: reason
    for reason in (
        ReasonCode(
            NO_CHAMPION, "No model has been promoted: a person must look", "The service was built without a champion."
        ),
        ReasonCode(
            BUNDLE_CORRUPT,
            "The model's files do not match their digests: a person must look",
            "A file of the champion is missing, changed or unreadable.",
        ),
        ReasonCode(
            SPEC_MISMATCH,
            "The model and its feature definitions do not belong together: a person must look",
            "The feature spec beside the model is not the one it was trained with.",
        ),
        ReasonCode(
            WARM_UP_FAILED, "The model cannot score: a person must look", "The champion's first prediction failed."
        ),
        ReasonCode(
            ONLINE_STORE_UNAVAILABLE,
            "The history of card and merchant cannot be read: a person must look",
            "The online store did not answer.",
        ),
        ReasonCode(
            ONLINE_STORE_NEVER_FILLED,
            "The history of card and merchant was never loaded: a person must look",
            "The online store was not filled from the warehouse yet, or lost all it held: every card would look new.",
        ),
        ReasonCode(
            ONLINE_STATE_TOO_SHORT,
            "The history of card and merchant does not go back far enough: a person must look",
            "The online store was filled for shorter windows than those of the model's features.",
        ),
        ReasonCode(
            MODEL_FAILED,
            "The model could not score this transaction: a person must look",
            "The champion failed on this transaction; the service's log has the error.",
        ),
        ReasonCode(
            MODEL_EXPIRED,
            "The model is overdue for its review: a person must look",
            "The champion was promoted more than FRAUD_MODEL_REVIEW_DAYS days ago, and nobody has renewed that since.",
        ),
        ReasonCode(
            FEATURES_TOO_OLD,
            "The history of card and merchant is out of date: a person must look",
            "The online store was filled too long before this transaction.",
        ),
    )
}
"""By code, in lower case: why a rule decided instead of the model."""


def read_reasons(given: Any) -> tuple[ReasonCode, ...]:
    """The catalogue of a feature spec, in its order.

    Args:
        given: `reasons` as the spec file has it: {CODE: {words: ..., meaning: ...}}.
    Raises:
        SpecInvalid: names the code, the field, what was found and what is allowed.
    """
    if not isinstance(given, dict) or not given:
        raise SpecInvalid(f"`reasons`: expected codes with their words and meaning, found {given!r}.")
    reasons = tuple(_reason(code, entry) for code, entry in given.items())
    if UNUSUAL_COMBINATION not in given:
        raise SpecInvalid(
            f"`reasons` lacks {UNUSUAL_COMBINATION}, the reason of the model input {ANOMALY_SCORE!r}, which is no "
            f"feature. Add {UNUSUAL_COMBINATION} with its words and meaning."
        )
    said: dict[str, str] = {}
    for reason in reasons:
        other = said.setdefault(reason.words.casefold(), reason.code)
        if other != reason.code:
            raise SpecInvalid(f"Reasons {other} and {reason.code} have the same words; expected each to say its own.")
    return reasons


def _reason(code: Any, entry: Any) -> ReasonCode:
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise SpecInvalid(f"Reason {code!r}: a code must be upper-case letters, digits and _, at most 63.")
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        raise SpecInvalid(f"Reason {code}: expected the fields {' and '.join(_FIELDS)}, found {entry!r}.")
    for name in _FIELDS:
        text = entry[name]
        if not isinstance(text, str) or not text.strip() or "\n" in text.strip():
            raise SpecInvalid(f"Reason {code}: `{name}` must be one line of text, found {text!r}.")
    return ReasonCode(code, entry["words"].strip(), entry["meaning"].strip())
