"""What the service accepts and answers: every field with its unit, its range and an example.

Strict on purpose. A payment service that misspells a field, sends NaN or swaps day and month should learn it from the
first answer, not from a model that quietly saw a null. What a field means is said in fraud_pipelines/tables.py.
"""

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from fraud_pipelines import limits
from fraud_pipelines.raw.currencies import EXPONENTS, MINOR_DIGITS
from fraud_pipelines.raw.tokens import TOKEN, contains_card_number, tokenize_card
from fraud_pipelines.verdicts import Verdict

if TYPE_CHECKING:
    from fraud_pipelines.features.online import ScoredTransaction

# The same bounds as on ingest: fixed moments, not the wall clock, so that a replay of old days is answered as it was.
EARLIEST, LATEST = limits.EARLIEST_EVENT.replace(tzinfo=UTC), limits.LATEST_EVENT.replace(tzinfo=UTC)

# Long enough for a double written out; what is longer is not an amount.
_DECIMAL = re.compile(r"[0-9]{1,16}(\.[0-9]{1,20})?")
_EXACT = Context(prec=50)
_ISO_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _read_amount(value: Any) -> Decimal:
    """A JSON number or a decimal string as the decimal that was written; 0.1 stays 0.1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("expected a number or a decimal string such as '12.34'")
    text = value if isinstance(value, str) else format(Decimal(str(value)), "f")
    if not _DECIMAL.fullmatch(text):
        raise ValueError("expected a plain decimal of at least 0 such as '12.34'")
    return Decimal(text)


def _read_moment(value: Any) -> datetime:
    """An ISO 8601 moment as UTC; without an offset it is taken as UTC."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and _ISO_MOMENT.fullmatch(value):
        moment = datetime.fromisoformat(value)
    else:
        raise ValueError("expected an ISO 8601 moment in UTC such as '2025-03-01T12:34:56Z'")
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        moment = LATEST
    if not EARLIEST <= moment < LATEST:
        raise ValueError(f"expected a moment in [{EARLIEST:%Y-%m-%d}, {LATEST:%Y-%m-%d})")
    return moment


def _plain(value: str) -> str:
    """Text as ingest would keep it."""
    if not value.isprintable() or value != value.strip():
        raise ValueError("expected printable characters without spaces around them")
    if contains_card_number(value):
        raise ValueError("holds a card number; only card_id may, where it is replaced by a token")
    return value


def _without_nul(value: str) -> str:
    if "\x00" in value:  # PostgreSQL cannot hold it
        raise ValueError("expected text without the character NUL")
    return value


Text = Annotated[str, Field(min_length=1, max_length=limits.LONGEST_TEXT), AfterValidator(_plain)]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, description="Degrees north.")]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, description="Degrees east.")]


class Transaction(BaseModel):
    """One raw transaction. Features are not accepted: they come from the online store."""

    # Inputs never show in errors or logs: one of them is a card number.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    transaction_id: Text = Field(
        description="Text given by the caller; sending it again returns the first decision.", examples=["t-000001"]
    )
    event_time: Annotated[
        datetime,
        BeforeValidator(_read_moment),
        WithJsonSchema({"type": "string", "format": "date-time"}),
    ] = Field(
        description="When it happened, ISO 8601, from 1990 to 2099; UTC when it carries no offset. Microseconds count.",
        examples=["2025-03-01T12:34:56Z"],
    )
    card_id: SecretStr = Field(
        min_length=1,
        max_length=64,
        description="Card number, or its token (tok_ and 32 hex digits). A number is replaced by its token at once.",
        examples=["4000001234567899"],
    )
    merchant_id: Text = Field(description="Merchant or terminal.", examples=["m-0042"])
    amount: Annotated[
        Decimal,
        BeforeValidator(_read_amount),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "number", "minimum": 0, "maximum": limits.LARGEST_AMOUNT_MINOR / 10**MINOR_DIGITS},
                    {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"},
                ]
            }
        ),
    ] = Field(
        description="Amount in units of the currency, a number or a decimal string; rounded to minor units, half up; "
        f"at most {limits.LARGEST_AMOUNT_MINOR} minor units.",
        examples=["12.34"],
    )
    currency: str = Field(
        pattern=r"^[A-Z]{3}$",
        description="ISO 4217 code in capitals, of a currency with two decimals.",
        examples=["EUR"],
        json_schema_extra={"enum": [code for code, digits in EXPONENTS.items() if digits == MINOR_DIGITS]},
    )
    customer_id: Text | None = Field(None, description="Owner of the card; never a feature.", examples=["c-0007"])
    category: Text | None = Field(None, description="Merchant category code or name.", examples=["grocery"])
    channel: Literal["pos", "online", "atm"] | None = Field(None, description="How it was made.", examples=["pos"])
    country: Annotated[str, Field(pattern=r"^[A-Za-z]{2}$"), AfterValidator(str.upper)] | None = Field(
        None, description="ISO 3166 country of the merchant, two letters.", examples=["DE"]
    )
    device_id: Text | None = Field(None, description="Device or terminal fingerprint.", examples=["d-19"])
    home_latitude: Latitude | None = Field(None, examples=[52.52])
    home_longitude: Longitude | None = Field(None, examples=[13.40])
    merchant_latitude: Latitude | None = Field(None, examples=[52.50])
    merchant_longitude: Longitude | None = Field(None, examples=[13.35])

    _amount_minor: int = PrivateAttr()

    @field_validator("card_id")
    @classmethod
    def _card(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text.isprintable() or not any(map(str.isalnum, text)):
            raise ValueError("expected a card number or its token")
        if text.startswith("tok_") and not TOKEN.fullmatch(text):
            raise ValueError("expected a token of tok_ and 32 hexadecimal digits in lower case")
        return value

    @field_validator("currency")
    @classmethod
    def _known_currency(cls, value: str) -> str:
        if value not in EXPONENTS:
            raise ValueError("expected an active ISO 4217 currency")
        if EXPONENTS[value] != MINOR_DIGITS:
            raise ValueError(
                f"expected a currency with {MINOR_DIGITS} decimals, found {value} with {EXPONENTS[value]}: features "
                "assume cents; convert the amount first"
            )
        return value

    @model_validator(mode="after")
    def _amount_within_range(self) -> Self:
        # As ingest reads it: nine decimals, then half away from zero.
        read = self.amount.quantize(Decimal("1e-9"), ROUND_HALF_UP, _EXACT)
        self._amount_minor = int(read.scaleb(MINOR_DIGITS, _EXACT).to_integral_value(ROUND_HALF_UP))
        if self._amount_minor > limits.LARGEST_AMOUNT_MINOR:
            raise ValueError(f"amount: expected 0 to {limits.LARGEST_AMOUNT_MINOR} minor units of {self.currency}")
        return self

    @property
    def amount_minor(self) -> int:
        """The amount in minor units."""
        return self._amount_minor

    def scored(self, token_key: bytes) -> "ScoredTransaction":
        """The transaction as it is decided on: card as token, minor units, microseconds since 1970."""
        # Here, because a client reads this module, too, and has no use for the compiled feature engine.
        from fraud_pipelines.features.online import ScoredTransaction

        since_epoch = self.event_time - _EPOCH
        return ScoredTransaction(
            self.transaction_id,
            (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds,
            tokenize_card(self.card_id.get_secret_value(), token_key),
            self.merchant_id,
            self.amount_minor,
            *(self.currency, self.customer_id, self.category, self.channel, self.country, self.device_id),
            *(self.home_latitude, self.home_longitude, self.merchant_latitude, self.merchant_longitude),
        )


class BatchRequest(BaseModel):
    """Payments to decide on, each for itself; they count for each other by their event time."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    # Each row is read for itself, so that one that is refused does not take the others with it.
    transactions: list[Any] = Field(min_length=1, description="Transactions as POST /score takes them.")


class ById(BaseModel):
    """A payment that is known already."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    transaction_id: Text = Field(examples=["t-000001"])


class FeedbackRequest(BaseModel):
    """What an analyst says of a payment."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    transaction_id: Text = Field(examples=["t-000001"])
    verdict: Verdict = Field(
        description="The first two become labels; a later verdict corrects an earlier one.",
        examples=["CONFIRMED_FRAUD"],
    )
    note: Annotated[str, Field(max_length=2000), AfterValidator(_without_nul)] | None = Field(
        None, description="Free text; card numbers in it are masked.", examples=["Customer called: not hers."]
    )
    feedback_id: Text | None = Field(
        None,
        description="Given by the caller, so that sending it again counts once; made up when absent.",
        examples=["f-17"],
    )


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
