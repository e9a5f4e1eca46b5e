"""Plots as SVG, byte for byte the same for the same numbers. Matplotlib only here."""

import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 6.85  # the text width of the page, so that font sizes are true
INK, ACCENT, MUTED, ALARM, FILL = "#1c2733", "#1f5f99", "#8795a1", "#b4442c", "#c9dcec"
CURVE_POINTS = 400
# Finer where frauds are rare: equal widths would put nearly all rows into the first band.
BAND_EDGES = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8])

STYLE = {
    "svg.hashsalt": "fraud-pipelines",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": "#e3e8ec",
    "grid.linewidth": 0.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
}


def ranking_curves(is_fraud: np.ndarray, probability: np.ndarray) -> bytes:
    """Precision against recall, and recall against false positive rate, side by side.

    Args:
        is_fraud: bool, shape (n,), with both classes; probability: shape (n,), in [0, 1].
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    precision, recall, _ = precision_recall_curve(is_fraud, probability)
    false_positive, true_positive, _ = roc_curve(is_fraud, probability)

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        kept = _thin(len(recall))
        left.step(recall[kept], precision[kept], where="post", color=ACCENT)
        left.axhline(is_fraud.mean(), color=MUTED, linestyle=":", linewidth=1, label="no skill (fraud share)")
        left.set(title="Precision and recall", xlabel="Recall", ylabel="Precision", xlim=(0, 1), ylim=(0, 1.02))
        left.legend(loc="lower left", bbox_to_anchor=(0, 0.04))
        kept = _thin(len(false_positive))
        right.plot(false_positive[kept], true_positive[kept], color=ACCENT)
        right.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1, label="no skill")
        right.set(title="ROC", xlabel="False positive rate", ylabel="Recall", xlim=(-0.01, 1), ylim=(0, 1.02))
        right.legend(loc="lower right")

    return _svg(draw, height=2.3)


def reliability(is_fraud: np.ndarray, probability: np.ndarray, *, review: float, block: float) -> bytes:
    """Observed fraud share against predicted probability in bands, and the score histogram."""
    bands = reliability_bands(is_fraud, probability)

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        shown = bands[bands["observed"] > 0]
        low = max(1e-5, min([1e-2, *shown["predicted"], *shown["observed"]]) / 2)
        left.plot([low, 1], [low, 1], color=MUTED, linestyle=":", linewidth=1, label="perfect calibration")
        left.plot(shown["predicted"], shown["observed"], "o-", markersize=3.5, color=ACCENT)
        left.set(xscale="log", yscale="log", xlim=(low, 1.3), ylim=(low, 1.3))
        left.set(title="Reliability", xlabel="Predicted probability (log)", ylabel="Observed fraud share (log)")
        left.legend(loc="upper left")
        edges = np.linspace(0, 1, 41)
        for mask, colour, label in ((~is_fraud, FILL, "genuine"), (is_fraud, ALARM, "fraud")):
            counts, _ = np.histogram(probability[mask], edges)
            right.stairs(counts, edges, fill=colour == FILL, color=colour, label=label, linewidth=1)
        for limit, name in ((review, "review"), (block, "block")):
            right.axvline(limit, color=INK, linewidth=0.7, linestyle="--")
            right.text(limit, 1.01, name, transform=right.get_xaxis_transform(), fontsize=6, ha="center", va="bottom")
        right.set(yscale="log", xlabel="Fraud probability", ylabel="Transactions (log)")
        right.set_title("Scores and thresholds", pad=12)
        right.set_xlim(0, 1)
        right.legend(loc="upper right", bbox_to_anchor=(1, 0.95))

    return _svg(draw, height=2.2)


def reliability_bands(is_fraud: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """`predicted` (mean probability), `observed` (fraud share) and `rows` per band of BAND_EDGES that has rows."""
    band = np.digitize(probability, BAND_EDGES)
    parts = [np.flatnonzero(band == number) for number in range(len(BAND_EDGES) + 1)]
    parts = [part for part in parts if len(part)]
    return pd.DataFrame(
        {
            "predicted": [float(probability[part].mean()) for part in parts],
            "observed": [float(is_fraud[part].mean()) for part in parts],
            "rows": [len(part) for part in parts],
        }
    )


def group_intervals(groups: pd.DataFrame) -> bytes:
    """Forest plot of false positive rates: one row per readable group, with its interval.

    Args:
        groups: `attribute`, `group_name`, `rate`, `low`, `high` (shares in [0, 1]) in the order to show.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        positions = _positions(groups["attribute"])
        rates, low, high = (100 * groups[name].to_numpy(float) for name in ("rate", "low", "high"))
        axes.hlines(positions, low, high, color=ACCENT, linewidth=1.2)
        axes.plot(rates, positions, "s", color=ACCENT, markersize=3.5)
        labels = list(groups["attribute"].str.replace("_", " ") + ": " + groups["group_name"])
        axes.set_yticks(positions, labels)
        axes.set(title="False positive rate per group, 95 % interval", xlabel="False positive rate (%)")
        axes.set_xlim(left=0)
        axes.set_ylim(max(positions) + 0.7, -0.7)
        axes.grid(axis="y", visible=False)

    return _svg(draw, height=0.7 + 0.15 * (len(groups) + groups["attribute"].nunique()))


def drift_bars(rows: pd.DataFrame, *, limit: float) -> bytes:
    """One bar per column: normed Wasserstein distance, longest first; alarms in their own colour.

    Args:
        rows: `feature`, `score` (>= 0, null shown as no bar), `is_drifted`.
    """
    return _bars(
        rows.sort_values(["score", "feature"], ascending=[False, True], na_position="first"),
        title="Distance from the training reference",
        xlabel="Wasserstein distance (standard deviations of the reference)",
        limit=limit,
    )


def attribution_bars(rows: pd.DataFrame) -> bytes:
    """One bar per feature: mean absolute SHAP value, longest first.

    Args:
        rows: `feature`, `score` (>= 0, log-odds).
    """
    return _bars(
        rows.assign(is_drifted=False).sort_values(["score", "feature"], ascending=[False, True]),
        title="What the model relies on",
        xlabel="Mean absolute SHAP value (log-odds)",
        limit=None,
    )


def _bars(rows: pd.DataFrame, *, title: str, xlabel: str, limit: float | None) -> bytes:
    def draw(figure: "Figure") -> None:
        axes: Axes = figure.subplots()
        positions = np.arange(len(rows))
        scores = rows["score"].fillna(0.0).to_numpy(float)
        colours = [ALARM if drifted else ACCENT for drifted in rows["is_drifted"]]
        axes.barh(positions, scores, height=0.62, color=colours)
        axes.set_yticks(positions, list(rows["feature"]))
        axes.set(title=title, xlabel=xlabel, ylim=(len(rows) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        if limit is not None:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=0.7, label="limit")
            axes.legend(loc="lower right")
        axes.set_xlim(0, max([*scores, limit or 0.0]) * 1.08 or 1.0)

    return _svg(draw, height=0.7 + 0.145 * len(rows))


def _positions(attributes: pd.Series) -> list[float]:
    """Vertical positions with a gap between attributes."""
    positions: list[float] = []
    offset, previous = 0.0, None
    for index, attribute in enumerate(attributes):
        offset += 0.6 if previous is not None and attribute != previous else 0.0
        positions.append(index + offset)
        previous = attribute
    return positions


def _thin(points: int) -> np.ndarray:
    """At most CURVE_POINTS indices with both ends kept: more cannot be seen and would swell the file."""
    return np.unique(np.linspace(0, points - 1, min(points, CURVE_POINTS)).round().astype(int))


def _svg(draw, *, height: float) -> bytes:  # type: ignore[no-untyped-def]
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
