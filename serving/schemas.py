"""What the service accepts: every field with its unit, its range and an example.

Strict on purpose. A payment service that misspells a field, sends NaN or swaps day and month should learn it from the
first answer, not from a model that quietly saw a null. What a field means is said in fraud_pipelines/tables.py.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
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

LONGEST_CARD = 64  # characters: nineteen digits, however they are grouped
# Long enough for a double written out; what is longer is not an amount.
_DECIMAL = re.compile(r"[0-9]{1,16}(\.[0-9]{1,20})?")
_EXACT = Context(prec=50)
ISO_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def read_amount(value: Any) -> Decimal:
    """A JSON number or a decimal string as the decimal that was written; 0.1 stays 0.1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("expected a number or a decimal string such as '12.34'")
    text = value if isinstance(value, str) else format(Decimal(str(value)), "f")
    if not _DECIMAL.fullmatch(text):
        raise ValueError("expected a plain decimal of at least 0 such as '12.34'")
    return Decimal(text)


def minor_units(amount: Decimal) -> int:
    """Minor units as ingest reads them: nine decimals, then half away from zero."""
    read = amount.quantize(Decimal("1e-9"), ROUND_HALF_UP, _EXACT)
    return int(read.scaleb(MINOR_DIGITS, _EXACT).to_integral_value(ROUND_HALF_UP))


def read_moment(value: Any) -> datetime:
    """An ISO 8601 moment as UTC; without an offset it is taken as UTC."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and ISO_MOMENT.fullmatch(value):
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


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC of a moment with an offset."""
    return (moment - _EPOCH) // _MICROSECOND


def readable_card(value: str) -> str:
    """A card number as it was written, or a token."""
    if not value.isprintable() or not any(map(str.isalnum, value)):
        raise ValueError("expected a card number or its token")
    if value.startswith("tok_") and not TOKEN.fullmatch(value):
        raise ValueError("expected a token of tok_ and 32 hexadecimal digits in lower case")
    return value


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
Channel = Literal["pos", "online", "atm"]
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
        BeforeValidator(read_moment),
        WithJsonSchema({"type": "string", "format": "date-time"}),
    ] = Field(
        description="When it happened, ISO 8601, from 1990 to 2099; UTC when it carries no offset. Microseconds count.",
        examples=["2025-03-01T12:34:56Z"],
    )
    card_id: SecretStr = Field(
        min_length=1,
        max_length=LONGEST_CARD,
        description="Card number, or its token (tok_ and 32 hex digits). A number is replaced by its token at once.",
        examples=["4000001234567899"],
    )
    merchant_id: Text = Field(description="Merchant or terminal.", examples=["m-0042"])
    amount: Annotated[
        Decimal,
        BeforeValidator(read_amount),
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
    channel: Channel | None = Field(None, description="How it was made.", examples=["pos"])
    country: Annotated[str, Field(pattern=r"^[A-Za-z]{2}$"), AfterValidator(str.upper)] | None = Field(
        None, description="ISO 3166 country of the merchant, two letters.", examples=["DE"]
    )
    device_id: Text | None = Field(None, description="Device or terminal fingerprint.", examples=["d-19"])
    home_latitude: Latitude | None = Field(None, examples=[52.52])
    home_longitude: Longitude | None = Field(None, examples=[13.40])
    merchant_latitude: Latitude | None = Field(None, examples=[52.50])
    merchant_longitude: Longitude | None = Field(None, examples=[13.35])

    @field_validator("card_id")
    @classmethod
    def _card(cls, value: SecretStr) -> SecretStr:
        readable_card(value.get_secret_value())
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
        if self.amount_minor > limits.LARGEST_AMOUNT_MINOR:
            raise ValueError(f"amount: expected 0 to {limits.LARGEST_AMOUNT_MINOR} minor units of {self.currency}")
        return self

    @property
    def amount_minor(self) -> int:
        """The amount in minor units."""
        return minor_units(self.amount)

    def scored(self, token_key: bytes) -> "ScoredTransaction":
        """The transaction as it is decided on: card as token, minor units, microseconds since 1970."""
        # Here, because a client reads this module, too, and has no use for the compiled feature engine.
        from fraud_pipelines.features.online import ScoredTransaction

        return ScoredTransaction(
            self.transaction_id,
            microseconds(self.event_time),
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
