"""Nothing that happened or became known later reaches a feature: in the tables, in the engine, in a model's skill."""

import math
import random
from dataclasses import replace
from datetime import timedelta
from statistics import fmean

import pytest
from hypothesis import given, settings

from fraud_pipelines import tables
from fraud_pipelines.features.online import EntityHistory, History, OnlineEngine
from fraud_pipelines.features.reference import Verdict
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.metrics import roc_auc
from fraud_pipelines.models.splits import TEST, TimeSplit
from fraud_pipelines.models.training import TrainingParameters, train
from fraud_pipelines.models.training_set import build_training_set
from tests.compiled_sql import DuckDBHistory
from tests.dbt_runs import DbtRun, loaded_warehouse
from tests.histories import DAY, HOUR, START, histories, online_history, scored, simulated_history

SPEC = load_spec()
ENGINE = OnlineEngine(SPEC)
T = START + timedelta(days=45, hours=7)


def with_another_future(payments, verdicts):
    """The same until T; from T on other payments, and other labels, of payments before T too."""
    draw = random.Random(5)
    later = [
        replace(p, transaction_id=f"later-{p.transaction_id}", amount_minor=p.amount_minor * 3 + 1, country="XX")
        for p in payments
        if p.event_time >= T and draw.random() < 0.8
    ]
    made = [p for p in payments if p.event_time < T]
    kept = {p.transaction_id for p in made}
    # Those known from T on are flipped, and each third payment hears at some later moment that it was the opposite.
    labels = [replace(v, is_fraud=v.is_fraud ^ (v.known_at >= T)) for v in verdicts if v.transaction_id in kept]
    last = {v.transaction_id: v.is_fraud for v in labels}
    labels += [
        Verdict(p.transaction_id, T + draw.choice((0, 1, 500)) * HOUR + position * timedelta(microseconds=1),
                not last.get(p.transaction_id, False))
        for position, p in enumerate(made[::3])
    ]  # fmt: skip
    labels += [Verdict(p.transaction_id, p.event_time, True) for p in later]
    return made + later, labels


@pytest.mark.parametrize("engine", ["by_compiled_engine", "by_sql"])
def test_another_future_changes_no_earlier_row(compiled_project, engine):
    payments, verdicts = simulated_history(payments=1_200, cards=15, days=70)
    earlier = {p.transaction_id for p in payments if p.event_time < T}
    assert len(earlier) > 600
    with DuckDBHistory(compiled_project, payments, verdicts) as history:
        found = getattr(history, engine)()
    with DuckDBHistory(compiled_project, *with_another_future(payments, verdicts)) as history:
        other = getattr(history, engine)()
    assert [id_ for id_ in earlier if found[id_] != other[id_]] == []
    # The other future is another one, and features of labels show it.
    shares = [
        [row["merchant_fraud_share_30d"] for id_, row in rows.items() if id_ not in earlier] for rows in (found, other)
    ]
    assert fmean(shares[1]) > fmean(shares[0]) + 0.1


def until(history, moment_us):
    """What a store could know at that moment."""
    return EntityHistory(
        [event for event in history.events if event[0] < moment_us],
        [label for label in history.labels if label[0] <= moment_us],
    )


@settings(max_examples=50)
@given(history=histories())
def test_a_vector_is_the_same_whether_or_not_the_engine_is_shown_the_future(history):
    payments, verdicts = history
    for payment in payments:
        now, everything = scored(payment), online_history(payments, verdicts, payment)
        known = History(until(everything.card, now.event_time_us), until(everything.merchant, now.event_time_us))
        assert ENGINE.vector(now, everything) == ENGINE.vector(now, known)


SPLIT = TimeSplit(START + 84 * DAY, train_days=35, validation_days=0, test_days=14, label_delay_days=7)
# The label of one's own transaction, and of all that the merchant sold in the window, whether known yet or not.
LEAK = """
update features.transaction_features set merchant_fraud_share_{days}d = (
    select avg(cast(l.is_fraud as integer)) from raw.labels l join raw.transactions t using (transaction_id)
    where t.merchant_id = transaction_features.merchant_id and t.event_time <= transaction_features.event_time
        and t.event_time > transaction_features.event_time - interval {days} day)
"""


@pytest.fixture(scope="module")
def coin_flips(tmp_path_factory):
    """A warehouse with features, whose labels are coin flips independent of everything, known hours to days later."""
    folder = tmp_path_factory.mktemp("coins")
    url = f"duckdb:///{folder / 'warehouse.duckdb'}"
    payments, _ = simulated_history(payments=12_000, cards=100, merchants=50, days=77, seed=11)
    draw = random.Random(12)
    verdicts = [
        Verdict(p.transaction_id, p.event_time + draw.randrange(1, 7 * 24) * HOUR, draw.random() < 0.5)
        for p in payments
    ]
    warehouse = loaded_warehouse(url, payments, verdicts)
    DbtRun(url, folder)("run")
    return warehouse


def later_auc(warehouse):
    """ROC-AUC on the held-out later days, and the limit of what chance gives.

    Under chance the AUC has mean 1/2 and variance (n1 + n0 + 1) / (12 n1 n0): the null of Mann and Whitney's U, which
    Hanley and McNeil 1982 give for an AUC of 1/2. The limit is 4 standard errors: 1 in 16,000 by chance, and seeded.
    """
    rows = build_training_set(warehouse, SPEC, SPLIT)
    bundle = train(rows, SPEC, TrainingParameters(LearnerParameters(trees=60), ("xgboost",))).bundle
    test = rows.part(TEST)
    is_fraud = test["is_fraud"].to_numpy(bool)
    frauds, genuine = int(is_fraud.sum()), int((~is_fraud).sum())
    assert min(frauds, genuine) > 400
    standard_error = math.sqrt((frauds + genuine + 1) / (12 * frauds * genuine))
    return roc_auc(is_fraud, bundle.predict(to_matrix(test, SPEC.names))), 4 * standard_error


def test_random_labels_cannot_be_predicted(coin_flips):
    auc, limit = later_auc(coin_flips)
    assert limit < 0.06
    assert abs(auc - 0.5) < limit


def test_a_feature_that_ignores_when_labels_were_known_would_be_noticed(coin_flips):
    kept = coin_flips.read(tables.TRANSACTION_FEATURES)
    for days in (1, 7, 30):
        coin_flips.execute(LEAK.format(days=days))
    try:
        auc, limit = later_auc(coin_flips)
        assert auc > 0.5 + limit
    finally:
        coin_flips.overwrite(tables.TRANSACTION_FEATURES, kept)
