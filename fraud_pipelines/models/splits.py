"""Cutting time into training, validation and test windows, with the delay of labels between them.

    train_since      validation_since   train_until          test_since          test_until          as_of
        |---- train ----|--- validation ---|---- label delay ----|------ test ------|---- label delay ---|

A model that starts to decide at `test_since` knows no younger label than one that arrived by then. So training rows
count with the labels known at `test_since`, test rows with those known at `as_of`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from typing import Any

from fraud_pipelines import limits
from fraud_pipelines.errors import MissingPartition, SettingInvalid

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True)
class TimeSplit:
    """Windows of one training run, derived from its moment. All bounds are [since, until), naive UTC.

    The Fraud Detection Handbook's baseline protocol is `TimeSplit(datetime(2018, 8, 22), train_days=7,
    validation_days=0, test_days=7, label_delay_days=7)`: training 2018-07-25 to 31, test 2018-08-08 to 14.
    Source: Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection, 2022, chapters 3 and 5.

    Args:
        as_of: the moment of the run; nothing known later is used. Usually midnight after the last day of data.
        train_days: days of training data, validation included; at least 1.
        validation_days: last days of these, where thresholds are chosen; 0 means no validation.
        test_days: days of test data; at least 1.
        label_delay_days: days until a label is expected to be known; at least 0.
        known_card_days: judging leaves out cards with a known fraud since this many days before the label delay that
            precedes the window (the handbook's 7 training days, whatever `train_days` is, so that the test rows stay
            the same); at least 0.
    Raises:
        SettingInvalid: a length is out of range.
    """

    as_of: datetime
    train_days: int = 56
    validation_days: int = 7
    test_days: int = 14
    label_delay_days: int = limits.LABEL_DELAY_DAYS
    known_card_days: int = 7

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, found {value}"
            for name, value, least in (
                ("train_days", self.train_days, 1),
                ("validation_days", self.validation_days, 0),
                ("test_days", self.test_days, 1),
                ("label_delay_days", self.label_delay_days, 0),
                ("known_card_days", self.known_card_days, 0),
            )
            if value < least
        ]
        if self.validation_days >= self.train_days:
            problems.append(
                f"validation_days ({self.validation_days}) must be below train_days ({self.train_days}), "
                "of which they are the last"
            )
        if self.as_of.tzinfo is not None:
            problems.append(f"as_of must be naive UTC, found {self.as_of.isoformat()}; see parse_as_of")
        if problems:
            raise SettingInvalid(f"The training windows cannot be cut: {'; '.join(problems)}.")

    @property
    def test_until(self) -> datetime:
        return self.as_of - timedelta(days=self.label_delay_days)

    @property
    def test_since(self) -> datetime:
        return self.test_until - timedelta(days=self.test_days)

    @property
    def train_until(self) -> datetime:
        return self.test_since - timedelta(days=self.label_delay_days)

    @property
    def validation_since(self) -> datetime:
        return self.train_until - timedelta(days=self.validation_days)

    @property
    def train_since(self) -> datetime:
        return self.train_until - timedelta(days=self.train_days)

    def known_cards_since(self, part: str) -> datetime:
        """First moment of the frauds that make a card known when this part (validation or test) is judged."""
        return self.window(part)[0] - timedelta(days=self.label_delay_days + self.known_card_days)

    def window(self, part: str) -> tuple[datetime, datetime]:
        """[since, until) of 'train', 'validation' or 'test'."""
        return {
            TRAIN: (self.train_since, self.validation_since),
            VALIDATION: (self.validation_since, self.train_until),
            TEST: (self.test_since, self.test_until),
        }[part]

    def labels_known_by(self, part: str) -> datetime:
        """Latest moment at which a label of this part may have become known, inclusive."""
        return self.as_of if part == TEST else self.test_since

    def require_data_since(self, first: datetime) -> None:
        """Refuse a split whose training window begins before the data does.

        Args:
            first: moment of the earliest transaction with features.
        Raises:
            MissingPartition: names the missing days and the longest training window that would fit.
        """
        first_day = datetime.combine(first.date(), time())
        if first_day <= self.train_since:
            return
        fits = (self.train_until - first_day).days
        least = self.validation_days + 1
        advice = (
            f"Run: fraud train --train-days {fits}"
            if fits >= least
            else "Ingest earlier days, or choose a later --as-of, fewer --test-days or fewer --validation-days"
        )
        raise MissingPartition(
            f"features.transaction_features begin on {first_day:%Y-%m-%d}, but training as of "
            f"{self.as_of:%Y-%m-%d %H:%M} needs {self.train_since:%Y-%m-%d} to {self.train_until:%Y-%m-%d} "
            f"({self.train_days} days, then {self.label_delay_days} days of label delay, {self.test_days} test days "
            f"and {self.label_delay_days} days of delay again). {advice}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Lengths and bounds as plain values, for bundles, tags and metadata."""
        bounds = ("train_since", "validation_since", "train_until", "test_since", "test_until")
        return {
            **asdict(self),
            "as_of": self.as_of.isoformat(),
            **{name: getattr(self, name).isoformat() for name in bounds},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TimeSplit":
        """The split that `as_dict` (or a row of models.training_split) describes."""
        lengths = ("train_days", "validation_days", "test_days", "label_delay_days", "known_card_days")
        as_of = values["as_of"]
        moment = datetime.fromisoformat(as_of) if isinstance(as_of, str) else as_of
        return cls(moment, **{name: int(values[name]) for name in lengths})


def parse_as_of(text: str | None, *, last_event: datetime) -> datetime:
    """The moment of a run: an ISO date or time, or by default the midnight that ends the last day of data.

    Args:
        text: such as 2018-08-22 (its first moment) or 2018-08-22T06:00; an offset is converted to UTC.
        last_event: moment of the latest transaction with features, naive UTC.
    Raises:
        SettingInvalid: the text is no ISO date or time.
    """
    if text is None:
        return datetime.combine(last_event.date() + timedelta(days=1), time())
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingInvalid(
            f"as_of: expected an ISO date or time such as 2018-08-22 or 2018-08-22T06:00, found {text!r}."
        ) from None
    if moment.tzinfo is None:
        return moment
    return (moment - (moment.utcoffset() or timedelta())).replace(tzinfo=None)
