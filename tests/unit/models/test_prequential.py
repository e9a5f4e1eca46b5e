"""Weeks judged one after the other: their means, and the alarm of what is too good to be true."""

from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.models.evaluation import Evaluation
from fraud_pipelines.models.prequential import Week, leak_alarms, mean_metrics, prequential
from fraud_pipelines.models.splits import TimeSplit

FIRST = datetime(2018, 8, 8)


def week(number: int, baselines: dict[str, float] | None = None, **metrics: float | None) -> Week:
    split = TimeSplit(FIRST + timedelta(days=7 * number + 14), test_days=7)
    evaluation = Evaluation(
        metrics=metrics, rows=1, fraud_count=1, since=split.test_since, until=split.test_until, as_of=split.as_of,
        scores=None, excluded={}, precision_recall=[], roc=[],
    )  # fmt: skip
    others = {
        name: replace(evaluation, metrics={"average_precision": value}) for name, value in (baselines or {}).items()
    }
    return Week(split, bundle=None, evaluation=evaluation, baselines=others, seconds=1.0)


def test_a_week_is_judged_on_its_own_days():
    assert week(0).since == FIRST
    assert week(1).since == FIRST + timedelta(days=7)
    # The last label a model may have learnt from was known when its week began.
    assert week(1).split.train_until == FIRST


def test_means_are_plain_and_undefined_where_a_week_is():
    found = mean_metrics([week(0, average_precision=0.6, roc_auc=0.9), week(1, average_precision=0.7, roc_auc=None)])
    assert found == {"average_precision": pytest.approx(0.65), "roc_auc": None}


def test_baselines_have_means_of_their_own():
    weeks = [week(0, {"single_tree": 0.5}, average_precision=0.6), week(1, {"single_tree": 0.6}, average_precision=0.7)]
    assert mean_metrics(weeks, "single_tree") == {"average_precision": pytest.approx(0.55)}
    assert mean_metrics(weeks) == {"average_precision": pytest.approx(0.65)}


@pytest.mark.parametrize(
    ("values", "alarms"),
    [
        ((0.76, 0.82), []),  # at the limits is not above them
        ((0.79, 0.79), []),
        ((0.75, 0.8201), ["week 2018-08-15: average precision 0.820 is above 0.82"]),
        ((0.8, 0.79), ["mean of 2 weeks: average precision 0.795 is above 0.79"]),
        ((0.8,), []),  # one week's noise is wider than a mean's
        ((None, 0.9), ["week 2018-08-15: average precision 0.900 is above 0.82"]),
    ],
)
def test_what_is_too_good_to_be_true_raises_the_alarm(values, alarms):
    assert leak_alarms([week(n, average_precision=value) for n, value in enumerate(values)]) == alarms


def test_no_weeks_are_refused():
    nowhere = SimpleNamespace()
    with pytest.raises(SettingInvalid, match="at least one test week"):
        list(prequential(nowhere, nowhere, [], replace))
