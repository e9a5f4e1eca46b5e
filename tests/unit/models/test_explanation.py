"""Explanations: exact values, and reasons that are reasons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken, EmptySample
from fraud_pipelines.features.spec import parse_spec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.explanation import full_reasons, reason_contributions, shap_summary, top_reasons
from tests.served_models import tiny_bundle


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle(slope=0.8, intercept=-0.3)


@pytest.fixture(scope="module")
def frame(bundle) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = pd.DataFrame(rng.uniform(0, 1000, (300, len(bundle.feature_names))), columns=list(bundle.feature_names))
    rows.iloc[::5, 3] = np.nan
    return rows


def test_the_shap_library_agrees_with_the_bundles_contributions(bundle, frame):
    summary = shap_summary(bundle, frame)
    ours = np.abs(bundle.contributions(to_matrix(frame, bundle.feature_names))[:, :-1]).mean(axis=0)
    expected = dict(zip(bundle.feature_names, ours, strict=True))
    assert summary.mean_absolute == pytest.approx(expected, abs=1e-6)
    assert list(summary.mean_absolute.values()) == sorted(summary.mean_absolute.values(), reverse=True)
    assert summary.rows == 300
    table = summary.table("7")
    assert set(table["model_version"]) == {"7"}
    assert len(table) == len(bundle.feature_names)


def test_a_sample_covers_the_window_evenly_and_is_the_same_every_time(bundle, frame):
    first, again = shap_summary(bundle, frame, max_rows=60), shap_summary(bundle, frame, max_rows=60)
    assert first.rows == 60
    assert first.mean_absolute == again.mean_absolute


def test_the_figure_has_title_and_labels(bundle, frame):
    figure = shap_summary(bundle, frame, max_rows=20).figure
    axes = figure.axes[0]
    assert axes.get_title()
    assert "log-odds" in axes.get_xlabel()
    assert {label.get_text() for label in axes.get_yticklabels()} <= set(bundle.feature_names)


def test_no_rows_are_an_error(bundle, frame):
    with pytest.raises(EmptySample, match="at least one row"):
        shap_summary(bundle, frame.head(0))


def contributions(spec, base=0.0, anomaly=None, **pushes):
    """A row with these pushes by feature, zero elsewhere; with the anomaly score's before the base value if given."""
    row = [pushes.pop(name, 0.0) for name in spec.names]
    assert not pushes
    return np.array([*row, *([] if anomaly is None else [anomaly]), base])


def summed(reasons):
    return [(reason["code"], pytest.approx(reason["contribution"]), reason["feature"]) for reason in reasons]


def test_features_of_one_code_add_up_and_overtake_a_stronger_single_one(bundle):
    row = contributions(bundle.spec, 9.0, amount=0.7, card_count_1h=0.4, card_count_24h=0.5, is_night=0.2)
    values = {"amount": 812.5, "card_count_24h": 14.0, "is_night": None}
    assert top_reasons(row, values, bundle.spec) == [
        {
            "code": "PAYMENTS_ON_CARD",
            "words": "Number of payments with this card in the last hours, days or weeks",
            "feature": "card_count_24h",
            "value": 14.0,
            "contribution": pytest.approx(0.9),  # 0.4 + 0.5
        },
        {
            "code": "AMOUNT",
            "words": "Amount of this payment",
            "feature": "amount",
            "value": 812.5,
            "contribution": 0.7,
        },
        {
            "code": "TIME_OF_DAY",
            "words": "Time of day, and how often this card is used at night",
            "feature": "is_night",
            "value": None,
            "contribution": 0.2,
        },
    ]


def test_what_a_code_pushes_down_is_taken_off(bundle):
    row = contributions(
        bundle.spec,
        amount=0.3,
        card_count_1h=1.5,
        card_count_7d=-1.5,  # cancels: no reason
        card_devices_24h=1.0,
        card_devices_7d=0.6,
        card_is_new_device_30d=-1.4,  # 0.2 is left: below the amount; and what pushed down most is not what pushed up
        hour_of_day=0.5,
        is_night=-2.0,  # down in all: no reason
    )
    reasons = top_reasons(row, {}, bundle.spec)
    assert summed(reasons) == [("AMOUNT", 0.3, "amount"), ("DEVICE_FOR_CARD", 0.2, "card_devices_24h")]


def test_there_are_at_most_k_reasons_and_of_equal_ones_the_first_of_the_catalogue(bundle):
    row = contributions(
        bundle.spec, is_online=0.5, card_amount_max_1h=0.5, card_amount_max_6h=0.5, home_distance_km=0.5, amount=0.5
    )
    assert summed(top_reasons(row, {}, bundle.spec)) == [
        ("SIZE_OF_CARD_PAYMENTS", 1.0, "card_amount_max_1h"),
        ("AMOUNT", 0.5, "amount"),
        ("WAY_OF_PAYING", 0.5, "is_online"),
    ]
    assert [reason["code"] for reason in top_reasons(row, {}, bundle.spec, k=1)] == ["SIZE_OF_CARD_PAYMENTS"]
    assert len(top_reasons(row, {}, bundle.spec, k=9)) == 4


def test_the_anomaly_score_is_a_reason_of_its_own(bundle):
    row = contributions(bundle.spec, 9.0, anomaly=0.6, amount=0.5)
    first, second = top_reasons(row, {"anomaly_score": 0.71, "amount": 3.0}, bundle.spec)
    assert first == {
        "code": "UNUSUAL_COMBINATION",
        "words": "How much this payment as a whole differs from the payments seen before",
        "feature": "anomaly_score",
        "value": 0.71,
        "contribution": 0.6,
    }
    assert (second["code"], second["value"]) == ("AMOUNT", 3.0)
    assert top_reasons(contributions(bundle.spec, 9.0, anomaly=-0.6), {}, bundle.spec) == []


def test_a_score_that_nothing_pushed_up_has_no_reasons_and_the_base_value_is_none(bundle):
    for anomaly in (None, -0.1):
        row = contributions(bundle.spec, 5.0, anomaly, **dict.fromkeys(bundle.spec.names, -0.1))
        assert top_reasons(row, {}, bundle.spec) == []


@pytest.mark.parametrize("surplus", [-1, 0, 3])
def test_contributions_of_another_spec_are_refused(bundle, surplus):
    count = len(bundle.spec.names)
    with pytest.raises(ContractBroken, match=rf"expected shape \({count + 1},\), or .*found \({count + surplus},\)"):
        top_reasons(np.zeros(count + surplus), {}, bundle.spec)
    with pytest.raises(ContractBroken, match="expected shape"):
        full_reasons(np.zeros(count + surplus), {}, bundle.spec)
    with pytest.raises(ContractBroken, match=rf"found \(1, {count + 1}\)"):
        reason_contributions(np.zeros((1, count + 1)), bundle.spec)


def test_all_reasons_and_the_base_value_together_are_the_log_odds(bundle, frame):
    matrix = to_matrix(frame, bundle.feature_names)
    rows, margins = bundle.contributions(matrix), bundle.margin(matrix)
    of_codes = [reason_contributions(row, bundle.spec) for row in rows]
    assert list(of_codes[0]) == [reason.code for reason in bundle.spec.reasons]
    totals = [sum(pushes.values()) + row[-1] for pushes, row in zip(of_codes, rows, strict=True)]
    np.testing.assert_allclose(totals, margins, atol=1e-5)  # single precision in XGBoost


@given(st.data())
def test_reasons_are_the_largest_positive_sums_whatever_the_contributions(bundle, data):
    spec = bundle.spec
    count = len(spec.names) + data.draw(st.sampled_from([1, 2]))
    # Quarters add up exactly in any order.
    quarters = data.draw(st.lists(st.integers(-8, 8), min_size=count, max_size=count))
    row = np.array(quarters) / 4
    pushes = reason_contributions(row, spec)
    assert sum(pushes.values()) + row[-1] == row.sum()
    for code, push in pushes.items():
        own = [row[place] for place, feature in enumerate(spec.features) if feature.reason == code]
        assert push == (sum(own) if code != "UNUSUAL_COMBINATION" else sum(row[len(spec.names) : -1]))
    reasons = top_reasons(row, {}, spec)
    assert [reason["contribution"] for reason in reasons] == sorted(filter(lambda x: x > 0, pushes.values()))[:-4:-1]
    for reason in reasons:
        assert pushes[reason["code"]] == reason["contribution"]


def test_the_full_reasons_hold_every_input_with_its_value_and_meaning(bundle):
    row = contributions(bundle.spec, -2.0, amount=0.75, card_count_1h=0.5, card_count_24h=-1.5, is_night=-0.25)
    full = full_reasons(row, {"amount": 812.5, "is_night": None, "card_count_24h": 2.0}, bundle.spec)
    pushes = [(reason.code, reason.contribution) for reason in full.reasons if reason.contribution]
    assert pushes == [("AMOUNT", 0.75), ("TIME_OF_DAY", -0.25), ("PAYMENTS_ON_CARD", -1.0)]  # 0.5 - 1.5
    assert (full.base_value, full.log_odds) == (-2.0, -2.5)
    amount = full.reasons[0]
    assert (amount.words, amount.meaning) == ("Amount of this payment", "How much is paid, by itself.")
    (entry,) = amount.inputs
    assert (entry.name, entry.value, entry.contribution) == ("amount", 812.5, 0.75)
    assert entry.meaning == "Amount of the transaction."
    of_card = next(reason for reason in full.reasons if reason.code == "PAYMENTS_ON_CARD")
    assert of_card.inputs[0].name == "card_count_1h"
    assert (of_card.inputs[-1].name, of_card.inputs[-1].value) == ("card_count_24h", 2.0)
    names = [entry.name for reason in full.reasons for entry in reason.inputs]
    assert sorted(names) == sorted(bundle.spec.names)  # each once, those that add nothing too
    assert "UNUSUAL_COMBINATION" not in {reason.code for reason in full.reasons}


def test_the_full_reasons_of_a_model_with_an_anomaly_score(bundle):
    row = contributions(bundle.spec, 9.0, anomaly=0.5, amount=0.25)
    first, *_ = full_reasons(row, {"anomaly_score": 0.71}, bundle.spec).reasons
    assert (first.code, [(entry.name, entry.value) for entry in first.inputs]) == (
        *("UNUSUAL_COMBINATION", [("anomaly_score", 0.71)]),
    )
    assert first.inputs[0].meaning == bundle.spec.reason("UNUSUAL_COMBINATION").meaning


def test_the_full_reasons_of_real_scores_add_up_to_their_log_odds(bundle, frame):
    matrix = to_matrix(frame, bundle.feature_names)
    margins = bundle.margin(matrix)
    for position in range(20):
        values = frame.iloc[position].replace({np.nan: None}).to_dict()
        full = bundle.full_reasons(matrix[position : position + 1], values)
        assert full.log_odds == pytest.approx(margins[position], abs=1e-4)
        order = [reason.contribution for reason in full.reasons]
        assert order == sorted(order, reverse=True)
        for reason in full.reasons:
            inputs = [entry.contribution for entry in reason.inputs]
            assert reason.contribution == pytest.approx(sum(inputs), abs=1e-12)
            assert inputs == sorted(inputs, reverse=True)
        shown = {entry.name: entry.value for reason in full.reasons for entry in reason.inputs}
        assert shown == pytest.approx(values)
        (top,) = bundle.reasons(matrix[position : position + 1], [values])
        assert [reason["code"] for reason in top] == [r.code for r in full.reasons[: len(top)]]


def test_a_bundle_of_before_the_catalogue_explains_feature_by_feature(bundle):
    text = """
models:
  - name: transaction_features
    columns:
      - name: card_count_1h
        data_type: bigint
        description: Transactions of the card in the hour before.
        config: {meta: {entity: card, measure: count, of: transactions, window: 1h, resolution: event,
          unit: transactions, when_empty: zero, reason: Number of payments in the last hour}}
"""
    assert top_reasons(np.array([0.5, 1.0]), {"card_count_1h": 4.0}, parse_spec(text)) == [
        {
            "code": "CARD_COUNT_1H",
            "words": "Number of payments in the last hour",
            "feature": "card_count_1h",
            "value": 4.0,
            "contribution": 0.5,
        }
    ]
