"""Judging a way of training over past weeks: train as of each, judge on the week after, as it would have gone.

                 train_since      validation_since   train_until        week            as_of
                     |---- train ----|--- validation ---|-- label delay --|-- 7 days --|-- label delay --|

Every week trains anew on what was known when it began, so no week is judged by a model that saw a later one.
Source: Fraud Detection Handbook, chapter 5, "Prequential validation".
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import numpy as np

from fraud_pipelines import limits
from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.evaluation import AVERAGE_PRECISION, Evaluation, evaluate
from fraud_pipelines.models.splits import TEST, TimeSplit
from fraud_pipelines.models.training_set import TrainingSet, build_training_set
from fraud_pipelines.warehouse import Warehouse

Trainer = Callable[[TrainingSet], Bundle]


@dataclass(frozen=True)
class Week:
    """One week judged, and each baseline on the same rows. `seconds` is what training took, wall time."""

    split: TimeSplit
    bundle: Bundle
    evaluation: Evaluation
    baselines: dict[str, Evaluation]
    seconds: float

    @property
    def since(self) -> datetime:
        return self.split.test_since


def prequential(
    warehouse: Warehouse,
    spec: FeatureSpec,
    weeks: Sequence[datetime],
    train: Trainer,
    *,
    train_days: int = TimeSplit.train_days,
    validation_days: int = TimeSplit.validation_days,
    label_delay_days: int = limits.LABEL_DELAY_DAYS,
) -> Iterator[Week]:
    """Train and judge week after week, in the order given.

    Args:
        weeks: first days of the test weeks; labels must reach `label_delay_days` beyond each.
        train: makes a bundle of a training set; its 'test' rows are not for it.
    Raises:
        SettingInvalid: no weeks.
        MissingPartition, EmptySample: as `build_training_set`.
    """
    if not weeks:
        raise SettingInvalid("Prequential evaluation needs the first day of at least one test week; none was given.")
    for week in weeks:
        split = TimeSplit(
            week + timedelta(days=7 + label_delay_days),
            train_days=train_days,
            validation_days=validation_days,
            test_days=7,
            label_delay_days=label_delay_days,
        )
        rows = build_training_set(warehouse, spec, split)
        started = time.monotonic()
        bundle = train(rows)
        seconds = time.monotonic() - started
        of_week = partial(
            evaluate,
            bundle,
            rows.part(TEST),
            since=split.test_since,
            until=split.test_until,
            as_of=split.as_of,
            unlabelled=rows.unlabelled[TEST],
        )
        yield Week(split, bundle, of_week(), {name: of_week(baseline=name) for name in bundle.baselines}, seconds)


def mean_metrics(weeks: Sequence[Week], baseline: str | None = None) -> dict[str, float | None]:
    """Each metric's plain mean over the weeks, of models or of one baseline; None where a week does not define it."""
    judged = [week.baselines[baseline] if baseline else week.evaluation for week in weeks]
    values = {name: [found.metrics[name] for found in judged] for name in judged[0].metrics}
    return {
        name: None if any(value is None for value in found) else float(np.mean([v for v in found if v is not None]))
        for name, found in values.items()
    }


def leak_alarms(weeks: Sequence[Week]) -> list[str]:
    """Why these weeks are too good to be true, in words; empty where they are not. Look for a leak before believing."""
    found = []
    for week in weeks:
        value = week.evaluation.metrics[AVERAGE_PRECISION]
        if value is not None and value > limits.AVERAGE_PRECISION_ALARM:
            found.append(
                f"week {week.since:%Y-%m-%d}: average precision {value:.3f} is above {limits.AVERAGE_PRECISION_ALARM}"
            )
    mean = mean_metrics(weeks)[AVERAGE_PRECISION]
    if mean is not None and len(weeks) > 1 and mean > limits.MEAN_AVERAGE_PRECISION_ALARM:
        found.append(
            f"mean of {len(weeks)} weeks: average precision {mean:.3f} is above {limits.MEAN_AVERAGE_PRECISION_ALARM}"
        )
    return found
