"""One example of every request, answer and refusal, all of one payment, for the OpenAPI document."""

from typing import Any

from pydantic import BaseModel

from serving.answer_schemas import (
    Answer,
    BatchAnswer,
    DecisionRecord,
    Explanation,
    FeedbackReceipt,
    Health,
    ModelDescription,
    Ready,
)
from serving.problems import Problem
from serving.schemas import BatchRequest, ById, FeedbackRequest, Transaction

_ID = "t-000001"
_PAYMENT = {
    "transaction_id": _ID,
    "event_time": "2025-03-01T12:34:56Z",
    "card_id": "4000001234567899",
    "merchant_id": "m-0042",
    "amount": "249.90",
    "currency": "EUR",
    "customer_id": "c-0007",
    "category": "electronics",
    "channel": "online",
    "country": "DE",
    "device_id": "d-19",
    "home_latitude": 52.52,
    "home_longitude": 13.4,
    "merchant_latitude": 52.5,
    "merchant_longitude": 13.35,
}
_MODEL = {"name": "fraud-scorer", "version": "3", "bundle_digest": "9f2c" * 16}
_SPEC = "5dd7" * 16
_WORDS = {
    "PAYMENTS_ON_CARD": "Number of payments with this card in the last hours, days or weeks",
    "AMOUNT": "Amount of this payment",
}
_DECIDED = {
    "transaction_id": _ID,
    "decision": "REVIEW",
    "fraud_probability": 0.4378,
    "anomaly_score": 0.47,
    "confidence": {
        "from": 0.4,
        "to": 0.5,
        "observed_rate": 0.45,
        "observed_rate_low": 0.39,
        "observed_rate_high": 0.51,
        "transactions": 260,
    },
    "reasons": [
        {
            "code": "PAYMENTS_ON_CARD",
            "words": _WORDS["PAYMENTS_ON_CARD"],
            "feature": "card_count_1h",
            "value": 7.0,
            "contribution": 2.5,
        },
        {
            "code": "AMOUNT",
            "words": _WORDS["AMOUNT"],
            "feature": "amount",
            "value": 249.9,
            "contribution": 0.75,
        },
    ],
    "thresholds": {"review": 0.3, "block": 0.7},
    "model": _MODEL,
    "feature_spec_hash": _SPEC,
    "state_as_of": "2025-03-01T02:00:00Z",
    "feature_age_seconds": 38096.0,
    "decided_at": "2025-03-01T12:34:56.512000Z",
    "fallback": None,
}
_REFUSED = {
    "code": "invalid_transaction",
    "message": "currency: expected an active ISO 4217 currency",
    "field": "currency",
    "next": "See the schema and example of /score in /docs.json.",
}
_REUSED = {
    "code": "transaction_id_reused",
    "message": "This transaction_id was decided for another transaction: its time, card, merchant, amount or currency "
    "differ.",
    "field": "transaction_id",
    "next": "Send a new transaction_id, or exactly the same transaction to get its decision.",
}

EXAMPLES: dict[type[BaseModel], Any] = {
    Transaction: _PAYMENT,
    BatchRequest: {"transactions": [_PAYMENT, _PAYMENT | {"amount": "99.00"}]},
    ById: {"transaction_id": _ID},
    FeedbackRequest: {
        "transaction_id": _ID,
        "verdict": "CONFIRMED_FRAUD",
        "note": "Customer called: not hers.",
        "feedback_id": "f-17",
    },
    Answer: _DECIDED | {"processing_time_ms": 3.1},
    BatchAnswer: {
        "results": [_DECIDED | {"processing_time_ms": 4.2}, {"index": 1, "error": _REUSED}],
        "decided": 1,
        "refused": 1,
    },
    # The log-odds of 0.4378 are -0.25, the sum of base value and contributions.
    Explanation: {
        "transaction_id": _ID,
        "decision": "REVIEW",
        "fraud_probability": 0.4378,
        "model": _MODEL,
        "base_value": -3.5,
        "log_odds": -0.25,
        "reasons": [
            {
                "code": "PAYMENTS_ON_CARD",
                "words": _WORDS["PAYMENTS_ON_CARD"],
                "meaning": "How many earlier payments the card has, over an hour up to 30 days.",
                "contribution": 2.5,
                "inputs": [
                    {
                        "name": "card_count_1h",
                        "value": 7.0,
                        "contribution": 2.5,
                        "meaning": "Transactions of the card in the hour before.",
                    }
                ],
            },
            {
                "code": "AMOUNT",
                "words": _WORDS["AMOUNT"],
                "meaning": "How much is paid, by itself.",
                "contribution": 0.75,
                "inputs": [
                    {"name": "amount", "value": 249.9, "contribution": 0.75, "meaning": "Amount of the transaction."}
                ],
            },
        ],
        "counterfactual": {
            "code": "AMOUNT",
            "changes": [{"code": "AMOUNT", "before": "249.90 EUR", "after": "120.50 EUR"}],
            "probability": 0.28,
            "decision": "APPROVE",
            "sentence": "With an amount of 120.50 EUR in place of 249.90 EUR it would have been approved (probability "
            "28.0 %, review from 30 %).",
            "tried": 182,
        },
        "unexplained": None,
        "rationale": "This payment goes to review. The model puts the probability of fraud at 43.8 %; payments are "
        "reviewed from 30 %.",
        "rationale_source": "template",
        "template_because": None,
    },
    FeedbackReceipt: {
        "feedback_id": "f-17",
        "transaction_id": _ID,
        "verdict": "CONFIRMED_FRAUD",
        "known_at": "2025-03-03T09:15:00.250000Z",
    },
    DecisionRecord: {
        "answer": _DECIDED,
        "request": {
            **{name: value for name, value in _PAYMENT.items() if name not in ("event_time", "amount")},
            "event_time_us": 1740832496000000,
            "card_id": "tok_e2ca36d3a7646d3b4292f364822a3e57",
            "amount_minor": 24990,
        },
        "features": [249.9, 12.0, 7.0],
        "feedback": [
            {
                "feedback_id": "f-17",
                "verdict": "CONFIRMED_FRAUD",
                "actor": "console",
                "note": "Customer called: not hers.",
                "known_at": "2025-03-03T09:15:00.250000Z",
            }
        ],
    },
    ModelDescription: {
        "service_version": "0.1.0",
        "fallback": None,
        "model": {
            **_MODEL,
            "feature_spec_hash": _SPEC,
            "features": ["amount", "hour_of_day", "card_count_1h"],
            "thresholds": {"review": 0.3, "block": 0.7},
            "trained_on": {"as_of": "2025-03-01T00:00:00", "train_days": 56, "validation_days": 7, "test_days": 14},
            "data_hash": "41ae" * 16,
            "validation_metrics": {"average_precision": 0.71, "roc_auc": 0.88},
            "expires_at": "2026-03-01T04:00:00Z",
        },
        "challenger": None,
    },
    Health: {
        "status": "ok",
        "can_decide": True,
        "model": {"ok": True, "fallback": None, "model_version": "3", "bundle_digest": "9f2c" * 16},
        "online_store": {"ok": True, "as_of": "2025-03-01T02:00:00Z"},
        "ledger": {"ok": True},
        "decision_log": {"ok": True, "pending_records": 0, "pending_bytes": 0, "oldest_seconds": 0.0},
        "challenger": {"ok": True, "model_version": None},
    },
    Ready: {"status": "ready"},
}

REFUSALS: dict[int, Any] = {
    400: {"code": "malformed_json", "message": "The body is not valid JSON in UTF-8.", "next": "Send one JSON object."},
    401: {
        "code": "key_required",
        "message": "The request has no API key of the form fk_<id>_<secret>.",
        "next": "Send Authorization: Bearer <key>.",
    },
    403: {
        "code": "role_missing",
        "message": "The key 0123456789abcdef has not the role for this path, one of: admin, score.",
        "next": "Use a key of that role.",
    },
    404: {
        "code": "transaction_unknown",
        "message": "There is no decision on this transaction_id.",
        "field": "transaction_id",
        "next": "Check the identifier, or send the whole payment to /score.",
    },
    409: _REUSED,
    422: _REFUSED,
    429: {
        "code": "rate_limited",
        "message": "The key 0123456789abcdef admits 200 transactions per second and bursts of 400.",
        "next": "Send it again after the seconds in Retry-After.",
    },
} | {
    status: {"code": problem.code, "message": problem.message, "next": problem.next_step}
    for status in (405, 413, 415, 500, 503, 504)
    for problem in [Problem.common(status)]
}
