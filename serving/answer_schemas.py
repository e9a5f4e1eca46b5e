"""What the service answers: every field with its unit, its range and an example."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reason(BaseModel):
    """Why the decision is what it is: one of the strongest pushes towards fraud, or why a rule decided."""

    code: str = Field(
        description="Stable across versions. Upper case: a reason of the model, of the catalogue it was trained with. "
        "Lower case: why a rule decided instead of the model. docs/data-dictionary.md lists both.",
        examples=["PAYMENTS_ON_CARD", "online_store_unavailable"],
    )
    words: str = Field(
        description="The same in plain words.",
        examples=[
            "Number of payments with this card in the last hours, days or weeks",
            "The history of card and merchant cannot be read: a person must look",
        ],
    )
    feature: str | None = Field(
        description="The feature with this code that pushed most; null for a rule.", examples=["card_count_1h"]
    )
    value: float | None = Field(description="Its value; null when it was missing.", examples=[7.0])
    contribution: float | None = Field(
        description="Push towards fraud in log-odds, of all features with this code together; null for a rule.",
        examples=[1.27],
        allow_inf_nan=False,
    )


class Thresholds(BaseModel):
    """APPROVE below `review`, REVIEW from there, BLOCK from `block`."""

    review: float = Field(description="Probability in [0, 1].", examples=[0.3])
    block: float = Field(description="Probability in [0, 1].", examples=[0.7])


class Confidence(BaseModel):
    """The band of probabilities this one lies in, and what came of such payments on the model's validation days."""

    from_: float = Field(alias="from", description="Lowest probability of the band.", examples=[0.2])
    to: float = Field(description="Probability where the next band begins.", examples=[0.3])
    observed_rate: float | None = Field(description="Share of frauds among them; null without any.", examples=[0.24])
    observed_rate_low: float | None = Field(description="Lower end of its 95 % interval.", examples=[0.19])
    observed_rate_high: float | None = Field(description="Upper end of its 95 % interval.", examples=[0.30])
    transactions: int = Field(description="How many of them there were.", examples=[412])


class ModelVersion(BaseModel):
    """Which model decided."""

    name: str = Field(examples=["fraud-scorer"])
    version: str = Field(description="Registry version.", examples=["3"])
    bundle_digest: str = Field(description="SHA-256 of the model's files.", examples=["9f2c" * 16])


class Answer(BaseModel):
    """The decision on one transaction, as it is stored in the ledger."""

    transaction_id: str = Field(examples=["t-000001"])
    decision: Literal["APPROVE", "REVIEW", "BLOCK"]
    fraud_probability: float | None = Field(
        ge=0, le=1, description="Probability of fraud; null when a fallback rule decided.", examples=[0.0123]
    )
    anomaly_score: float | None = Field(
        ge=0,
        le=1,
        description="How easily it is told from all other payments; null in a model without.",
        examples=[0.47],
    )
    confidence: Confidence | None = Field(description="What such probabilities were worth; null in a fallback.")
    reasons: list[Reason] = Field(description="Strongest first; none for an approval.")
    thresholds: Thresholds | None = Field(description="What the probability was compared with; null in a fallback.")
    model: ModelVersion | None = Field(description="Null when no model decided.")
    feature_spec_hash: str | None = Field(description="Hash of the feature definitions the model was trained on.")
    state_as_of: datetime | None = Field(
        description="Up to when the online store was last filled from the warehouse, UTC; null when never."
    )
    feature_age_seconds: float | None = Field(
        ge=0, description="Time between that moment and the payment; 0 when the payment is earlier.", examples=[3600.0]
    )
    processing_time_ms: float = Field(ge=0, description="Time spent on this request.", examples=[3.1])
    decided_at: datetime = Field(description="When the decision was made, UTC; of the first one when repeated.")
    fallback: str | None = Field(
        description="Why a rule decided instead of the model; null when the model did.", examples=[None]
    )


class RefusedRow(BaseModel):
    """A row of a batch that was not decided on: its place, counted from 0, and why."""

    index: int = Field(ge=0, examples=[3])
    error: "ProblemDetail"


class BatchAnswer(BaseModel):
    """One result per payment, in the order they were sent."""

    results: list[Answer | RefusedRow]
    decided: int = Field(ge=0, description="How many were decided on.", examples=[2])
    refused: int = Field(ge=0, description="How many were not.", examples=[1])


class InputOfReason(BaseModel):
    """One input of the model behind a reason."""

    name: str = Field(examples=["card_count_1h"])
    value: float | None = Field(description="Null when it was missing.", examples=[7.0])
    contribution: float = Field(description="Exact SHAP value, log-odds.", examples=[0.8])
    meaning: str = Field(examples=["Payments with this card in the last hour"])


class ReasonOfExplanation(BaseModel):
    """One reason with everything behind it. Without a score to take apart, the reason of the decision alone."""

    code: str = Field(examples=["PAYMENTS_ON_CARD"])
    words: str
    meaning: str | None = None
    feature: str | None = None
    value: float | None = None
    contribution: float | None = Field(description="Sum over its inputs, log-odds; up or down.", examples=[1.27])
    inputs: list[InputOfReason] = Field(default_factory=list)


class ChangeOfCounterfactual(BaseModel):
    """One thing that would have been different, in words; identifiers are described, never named."""

    code: str = Field(examples=["AMOUNT"])
    before: str = Field(examples=["900.00 EUR"])
    after: str = Field(examples=["120.50 EUR"])


class CounterfactualLine(BaseModel):
    """The smallest change tried with which the payment would have been approved; NONE_FOUND when none was."""

    code: str = Field(examples=["AMOUNT"])
    changes: list[ChangeOfCounterfactual]
    probability: float | None = Field(description="With the change.", examples=[0.012])
    decision: str | None
    sentence: str
    tried: int = Field(ge=0, description="Changes that were scored.")


class Explanation(BaseModel):
    """A decision taken apart: base value and contributions add up to the log-odds of its probability."""

    transaction_id: str
    decision: Literal["APPROVE", "REVIEW", "BLOCK"]
    fraud_probability: float | None
    model: ModelVersion | None
    base_value: float | None = Field(description="Log-odds with nothing known of the payment.")
    log_odds: float | None = Field(description="What base value and all contributions add up to.")
    reasons: list[ReasonOfExplanation] = Field(description="All of them, what pushed up most first.")
    counterfactual: CounterfactualLine | None
    unexplained: str | None = Field(description="Why a part is missing.")
    rationale: str = Field(description="A few sentences that a person can read out.")
    rationale_source: str = Field(examples=["template"])
    template_because: str | None = Field(description="Why a language model that is set was not used.")


class FeedbackReceipt(BaseModel):
    """A verdict that is durable."""

    feedback_id: str = Field(examples=["f-17"])
    transaction_id: str = Field(examples=["t-000001"])
    verdict: str = Field(examples=["CONFIRMED_FRAUD"])
    known_at: datetime = Field(description="From when on it counts, UTC.")


class FeedbackSaid(BaseModel):
    """One verdict on a payment."""

    feedback_id: str
    verdict: str
    actor: str = Field(description="Name of the API key that sent it.")
    note: str | None
    known_at: datetime


class DecisionRecord(BaseModel):
    """A stored decision: the answer as it was given, the payment as it was decided on, and the served features."""

    answer: dict[str, Any] = Field(description="As POST /score answered, without the time it took.")
    request: dict[str, Any] = Field(
        description="Card as token, amount in minor units, time in microseconds since 1970."
    )
    features: list[float | None] | None = Field(description="In the order of the model's features; null in a fallback.")
    feedback: list[FeedbackSaid] | None = Field(description="Oldest first; null while the ledger is away.")


class DescribedModel(BaseModel):
    """The model that decides."""

    name: str
    version: str
    bundle_digest: str
    feature_spec_hash: str
    features: list[str]
    thresholds: Thresholds
    trained_on: dict[str, Any]
    data_hash: str
    validation_metrics: dict[str, float | None]
    expires_at: datetime | None = Field(
        description="When it must have been reviewed; null for one that nobody promoted."
    )


class DescribedChallenger(BaseModel):
    """The version that is compared with the champion."""

    version: str
    bundle_digest: str
    canary_percent: float = Field(description="Share of cards that it decides on, in [0, 100].")
    is_compared: bool
    obstacle: str | None = Field(description="Why it is not compared, and decides on no card; null while it is.")


class ModelDescription(BaseModel):
    """What decides now, and the code it runs on."""

    service_version: str
    fallback: str | None = Field(description="Why a rule decides at present; null when the model does.")
    model: DescribedModel | None
    challenger: DescribedChallenger | None = Field(description="What is compared with it; null while nothing is.")


class PartHealth(BaseModel):
    """One thing the service depends on; further fields say more of it."""

    model_config = ConfigDict(extra="allow")

    ok: bool


class Health(BaseModel):
    """The service and what it depends on."""

    status: Literal["ok", "degraded"]
    can_decide: bool = Field(description="Whether a payment gets a decision, the model's or the fallback's.")
    model: PartHealth
    online_store: PartHealth
    ledger: PartHealth
    decision_log: PartHealth
    challenger: PartHealth = Field(description="What is compared with the model; of no weight for `status`.")


class Ready(BaseModel):
    """The service takes payments."""

    status: Literal["ready"]


class ProblemDetail(BaseModel):
    """What is wrong."""

    code: str = Field(description="Stable word for programs.", examples=["invalid_transaction"])
    message: str = Field(
        description="What was expected and what is wrong, for people.",
        examples=["currency: expected an active ISO 4217 currency"],
    )
    field: str | None = Field(None, description="The first field concerned; absent without one.", examples=["currency"])
    next: str | None = Field(
        None, description="What to do about it.", examples=["See the schema and example of /score in /docs.json."]
    )


class ProblemAnswer(BaseModel):
    """The one shape of every refusal."""

    error: ProblemDetail


RefusedRow.model_rebuild()
