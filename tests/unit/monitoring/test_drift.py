"""Drift scores against SciPy and against Evidently's own report; verdicts by hand."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fraud_pipelines import limits
from fraud_pipelines.errors import EmptySample
from fraud_pipelines.monitoring.drift import (
    METHODS,
    MODEL_OUTPUT,
    compare_windows,
    drift_page,
    sample,
    verdict_of,
)

DAY = datetime(2026, 3, 1)
NAMES = ("amount", "count_7d", "same")


def frame(seed: int, *, rows: int = 800, shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.lognormal(3, 1, rows) * (1 + shift),
            "count_7d": rng.poisson(4 + 10 * shift, rows).astype(float),
            "same": np.linspace(0, 1, rows),
            MODEL_OUTPUT: rng.beta(1, 30, rows),
        }
    )


def report_scores(reference: pd.DataFrame, current: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(column, method) -> score as Evidently's own report states it: a second route to the numbers."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    columns = list(reference.columns)
    definition = DataDefinition(numerical_columns=columns)
    metrics = [
        ValueDrift(column=name, method=method, threshold=limit)
        for name in columns
        for method, (limit, _) in METHODS.items()
    ]
    before, after = (Dataset.from_pandas(side, data_definition=definition) for side in (reference, current))
    snapshot = Report(metrics).run(after, before).dict()
    return {(found["config"]["column"], found["config"]["method"]): found["value"] for found in snapshot["metrics"]}


def test_scores_equal_scipy_and_evidentlys_report():
    reference, current = frame(1), frame(2, shift=0.4)
    current.loc[:99, "amount"] = np.nan
    rows = compare_windows(reference, current, features=NAMES, day=DAY, model_version="3").set_index(
        ["feature", "method"]
    )
    known = current["amount"].dropna()
    wasserstein = stats.wasserstein_distance(reference["amount"], known) / reference["amount"].std(ddof=0)
    assert rows.loc[("amount", "wasserstein"), "score"] == pytest.approx(wasserstein, rel=1e-3)
    assert rows.loc[("amount", "ks"), "score"] == pytest.approx(stats.ks_2samp(reference["amount"], known).pvalue)
    for key, score in report_scores(reference, current).items():
        assert rows.loc[key, "score"] == pytest.approx(score, rel=1e-9), key


def test_limits_alarm_on_their_own_side():
    rows = compare_windows(frame(1), frame(2, shift=0.5), features=NAMES, day=DAY, model_version="3")
    for row in rows.itertuples():
        limit, is_p_value = METHODS[row.method]
        assert row.threshold == limit
        assert row.is_drifted == (row.score < limit if is_p_value else row.score >= limit)
    by_key = rows.set_index(["feature", "method"])["is_drifted"]
    assert by_key[("count_7d", "ks")]
    assert by_key[("count_7d", "wasserstein")]
    assert not by_key[("same", "ks")]
    assert not by_key[("same", "wasserstein")]


def test_a_score_at_its_limit_alarms_for_a_distance_and_not_for_a_p_value(monkeypatch):
    def amounts():
        rows = compare_windows(frame(1), frame(2, shift=0.5), features=NAMES, day=DAY, model_version="3")
        return rows[rows["feature"] == "amount"].set_index("method")

    for method, score in amounts()["score"].items():
        monkeypatch.setitem(METHODS, method, (score, METHODS[method][1]))
    assert amounts()["is_drifted"].to_dict() == {"wasserstein": True, "ks": False, "jensenshannon": True}


def test_rows_of_both_samples_are_counted_on_their_own_side():
    rows = compare_windows(frame(1, rows=800), frame(2, rows=300), features=NAMES, day=DAY, model_version="3")
    assert set(rows["reference_rows"]) == {800}
    assert set(rows["current_rows"]) == {300}


def test_a_vanished_feature_has_drifted_and_ranks_worst():
    current = frame(2, shift=2.0)
    current["same"] = np.nan
    rows = compare_windows(frame(1), current, features=NAMES, day=DAY, model_version="3")
    vanished = rows[rows["feature"] == "same"]
    assert vanished["score"].isna().all()
    assert vanished["is_drifted"].all()
    verdict = verdict_of(rows)
    assert verdict.worst_feature == "same"
    assert verdict.worst_wasserstein is None


def test_a_feature_empty_on_both_sides_has_not_drifted():
    reference, current = frame(1), frame(2)
    reference["same"], current["same"] = np.nan, np.nan
    rows = compare_windows(reference, current, features=NAMES, day=DAY, model_version="3")
    assert not rows.loc[rows["feature"] == "same", "is_drifted"].any()


def rows_of(**alarms: tuple[bool, bool, bool]) -> pd.DataFrame:
    """DRIFT rows by hand: feature -> (wasserstein, ks, jensenshannon) alarmed."""
    return pd.DataFrame(
        [
            {
                "day": pd.Timestamp(DAY),
                "feature": name,
                "method": method,
                "score": 0.5 if alarmed else 0.05,
                "is_drifted": alarmed,
                "reference_rows": 10,
                "current_rows": 20,
            }
            for name, flags in alarms.items()
            for method, alarmed in zip(METHODS, flags, strict=True)
        ]
    )


def test_a_feature_counts_when_both_distances_alarm_whatever_ks_says():
    quiet = (False, True, False)
    rows = rows_of(a=(True, False, True), b=(True, True, False), c=quiet, fraud_probability=quiet)
    verdict = verdict_of(rows)
    assert (verdict.drifted_features, verdict.features, verdict.share) == (1, 3, pytest.approx(1 / 3))
    assert verdict.is_drifted  # 1/3 >= 0.3
    assert not verdict_of(rows, limit=0.5).is_drifted


def test_a_share_at_the_limit_is_drift():
    quiet, loud = (False, False, False), (True, True, True)
    rows = rows_of(a=loud, b=quiet, fraud_probability=quiet)
    assert verdict_of(rows, limit=0.5).is_drifted
    assert not verdict_of(rows, limit=0.51).is_drifted


def test_drift_of_the_output_alone_is_enough():
    quiet, loud = (False, False, False), (True, True, True)
    verdict = verdict_of(rows_of(a=quiet, b=quiet, fraud_probability=loud))
    assert verdict.share == 0
    assert verdict.is_output_drifted
    assert verdict.is_drifted


def test_the_sample_is_the_same_each_time_and_small_frames_are_whole():
    large = frame(5, rows=limits.DRIFT_SAMPLE_ROWS + 700)
    assert len(sample(large)) == limits.DRIFT_SAMPLE_ROWS
    pd.testing.assert_frame_equal(sample(large), sample(large))
    assert sample(large.head(10)) is not None
    assert len(sample(large.head(10))) == 10


def test_empty_windows_and_empty_verdicts_are_named():
    with pytest.raises(EmptySample, match="current sample has no rows"):
        compare_windows(frame(1), frame(1).iloc[:0], features=NAMES, day=DAY, model_version="3")
    with pytest.raises(EmptySample, match=r"monitoring\.drift has no rows"):
        verdict_of(rows_of())


def page_of(reference: pd.DataFrame, current: pd.DataFrame) -> str:
    rows = compare_windows(reference, current, features=NAMES, day=DAY, model_version="3")
    return drift_page(reference, current, features=NAMES, verdict=verdict_of(rows))


def test_the_page_begins_with_the_verdict_by_both_distances():
    reference, current = frame(1), frame(2, shift=0.2)
    alarms = compare_windows(reference, current, features=NAMES, day=DAY, model_version="3").pivot(
        index="feature", columns="method", values="is_drifted"
    )
    assert alarms.loc[["amount", "count_7d"], "wasserstein"].all()
    assert alarms["jensenshannon"].to_dict() == {"amount": False, "count_7d": True, "same": False, MODEL_OUTPUT: False}
    _, _, body = page_of(reference, current).partition("<body>")
    words = body[: body.index("</p>")]
    assert "Verdict of 2026-03-01: has drifted." in words
    assert "1 of 3 features drifted (share 0.333, limit 0.3); the model's output has not drifted." in words


def test_the_page_loads_nothing_from_elsewhere():
    import re

    page = page_of(frame(1), frame(2, shift=0.5))
    assert "count_7d" in page
    # What a browser fetches by itself: scripts, styles, images, fonts. Links in text are not fetched.
    assert re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=[\"']?(?:https?:)?//", page) == []
    assert re.findall(r"@import\s+(?:url\()?[\"']?https?:", page) == []
    assert re.findall(r"url\([\"']?https?:", page) == []


def test_the_page_compares_the_current_window_with_the_reference_and_not_the_other_way():
    import re

    reference, current = frame(1), frame(2, shift=0.5)
    page = page_of(reference, current)
    printed = re.search(r"Drift in column 'amount'.{,80}Wasserstein distance \(normed\)\. Drift score: ([\d.]+)", page)
    # The distance is divided by the reference's standard deviation: 0.477, where the other way gives 0.274.
    distance = stats.wasserstein_distance(reference["amount"], current["amount"])
    assert float(printed[1]) == pytest.approx(distance / reference["amount"].std(ddof=0), abs=1e-3)
