"""Figures of a model: curves, importance, SHAP, tuning. Okabe-Ito colours, told apart by shape too; no global state."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fraud_pipelines.models.comparison import Comparison

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
SIZE = (6.4, 4.2)  # inches
Points = Sequence[tuple[float, float]]


def precision_recall_figure(curves: Mapping[str, Points], *, fraud_share: float | None = None) -> "Figure":
    """Precision over recall, one line per model; the dashed line is what guessing would give."""
    figure, axes = _axes("Precision and recall", "Recall (share of frauds found)", "Precision (share of flagged)")
    _draw_curves(axes, curves, step=True)
    if fraud_share is not None:
        axes.axhline(fraud_share, color=GREY, linestyle=":", label=f"guessing ({fraud_share:.2%})")
    return _finished(figure, axes)


def roc_figure(curves: Mapping[str, Points]) -> "Figure":
    """True over false positive rate, one line per model; the dotted diagonal is what guessing would give."""
    figure, axes = _axes(
        "ROC curve", "False positive rate (share of genuine flagged)", "Recall (share of frauds found)"
    )
    _draw_curves(axes, curves, step=False)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="guessing")
    return _finished(figure, axes)


def importance_figure(importance: Mapping[str, float], *, most: int = 20) -> "Figure":
    """Share of the mean absolute SHAP value per input, largest on top."""
    names = sorted(importance, key=lambda name: importance[name], reverse=True)[:most][::-1]
    figure, axes = _axes(
        "Feature importance", "Share of mean |SHAP value| on training rows", "", height=1.2 + 0.28 * len(names)
    )
    axes.set_xlim(auto=True)
    axes.set_ylim(auto=True)
    axes.barh(names, [importance[name] for name in names], color=BLUE)
    figure.tight_layout()
    return figure


def comparison_figure(comparison: "Comparison") -> "Figure":
    """Average precision of each contender with its 95 % interval, simplest on top; the one registered is orange."""
    judged = [(item, item.average_precision) for item in comparison.standings if item.average_precision is not None]
    title = f"Contenders on {comparison.days} past days"
    figure, axes = _axes(title, "Average precision", "", height=1.4 + 0.5 * len(judged))
    axes.set_xlim(auto=True)
    axes.set_ylim(-0.6, len(judged) - 0.4)
    for row, (standing, value) in enumerate(reversed(judged)):
        colour = ORANGE if standing.name == comparison.winner else BLUE
        if standing.lower is not None and standing.upper is not None:
            axes.plot([standing.lower, standing.upper], [row, row], color=colour, linewidth=2)
        axes.plot([value], [row], "D" if standing.name == comparison.winner else "o", color=colour)
        axes.annotate(f"{value:.4f}", (value, row + 0.15), ha="center", fontsize=8)
    axes.set_yticks(range(len(judged)), [item.name.replace("_", " ") for item, _ in reversed(judged)])
    figure.tight_layout()
    return figure


def shap_figure(names: Sequence[str], shap_values: np.ndarray, values: np.ndarray, *, most: int = 15) -> "Figure":
    """One dot per row and feature: how far it moved the log-odds, coloured by the feature's rank in the sample.

    Args:
        names: f feature names.
        shap_values: shape (n, f), log-odds.
        values: shape (n, f), feature values; NaN is drawn grey.
    """
    order = np.argsort(-np.abs(shap_values).mean(axis=0), kind="stable")[:most][::-1]
    figure, axes = _axes("What moves the score", "SHAP value (change of log-odds)", "", height=1.4 + 0.3 * len(order))
    axes.set_xlim(auto=True)
    axes.set_ylim(-0.6, len(order) - 0.4)
    generator = np.random.default_rng(0)
    dots = None
    for row, feature in enumerate(order):
        column, pushed = values[:, feature], shap_values[:, feature]
        height = row + _swarm(pushed, generator)
        known = ~np.isnan(column)
        axes.scatter(pushed[~known], height[~known], s=4, color=GREY, linewidths=0)
        ranks = _ranks(column[known])
        dots = axes.scatter(pushed[known], height[known], s=4, c=ranks, cmap="cividis", vmin=0, vmax=1, linewidths=0)
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(order)), [names[feature] for feature in order])
    if dots is not None:
        bar = figure.colorbar(dots, ax=axes, ticks=[0, 1])
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("Feature value (rank in the sample; grey: missing)")
    figure.tight_layout()
    return figure


def optimisation_history_figure(
    values: Mapping[int, float | None], *, base: float, what: str = "Mean average precision over the blocks"
) -> "Figure":
    """Value of every complete trial, the best so far, and the base; trials without a value are crosses at the bottom.

    Args:
        values: number of the trial -> value.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes("Trials", "Trial", what)
    axes.set_xlim(-0.5, max(values) + 0.5)
    axes.set_ylim(auto=True)
    complete = {number: value for number, value in values.items() if value is not None}
    best = np.maximum.accumulate(list(complete.values()))
    axes.axhline(base, color=GREY, linestyle=":", label="base")
    axes.plot(list(complete), best, color=ORANGE, drawstyle="steps-post", label="best so far")
    axes.plot(list(complete), list(complete.values()), "o", color=BLUE, label="complete")
    pruned = [number for number, value in values.items() if value is None]
    if pruned:
        bottom = axes.get_xaxis_transform()
        axes.plot(pruned, [0.02] * len(pruned), "x", color=GREY, transform=bottom, label="not judged to the end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, axes)


def parameter_figure(
    parameters: Mapping[str, Sequence[Any]], values: Sequence[float], *, logarithmic: Sequence[str] = ()
) -> "Figure":
    """One small panel per parameter: its value in each complete trial, and how the trial was judged; the first is base.

    Args:
        parameters: name -> one value per trial, numbers or words.
        values: shape (trials,).
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = min(3, len(parameters))
    rows = -(-len(parameters) // columns)
    figure = Figure(figsize=(SIZE[0] * 1.4, 0.6 + 2.1 * rows))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for (name, chosen), axes in zip(parameters.items(), panels, strict=False):
        axes.plot(chosen[1:], values[1:], "o", color=BLUE, markersize=4)
        axes.plot(chosen[:1], values[:1], "D", color=ORANGE, markersize=6)
        if name in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(chosen) < 50 * min(chosen) else (1,)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    for unused in list(figure.axes)[len(parameters) :]:
        unused.remove()
    figure.suptitle("What the trials tried, and the mean average precision it gave (diamond: base)")
    figure.tight_layout()
    return figure


def _axes(title: str, x: str, y: str, *, height: float = SIZE[1]) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height))
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_curves(axes: "Axes", curves: Mapping[str, Points], *, step: bool) -> None:
    for (name, points), color, style in zip(curves.items(), COLOURS, STYLES, strict=False):
        x, y = [point[0] for point in points], [point[1] for point in points]
        axes.plot(x, y, color=color, linestyle=style, label=name, drawstyle="steps-post" if step else "default")


def _finished(figure: "Figure", axes: "Axes") -> "Figure":
    axes.legend(frameon=False)
    figure.tight_layout()
    return figure


def _swarm(pushed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Vertical offsets in [-0.4, 0.4], wider where more dots share a place."""
    if len(pushed) == 0 or np.ptp(pushed) == 0:
        return generator.uniform(-0.4, 0.4, len(pushed))
    density, edges = np.histogram(pushed, bins=60)
    place = np.clip(np.digitize(pushed, edges) - 1, 0, len(density) - 1)
    return generator.uniform(-0.4, 0.4, len(pushed)) * np.sqrt(density[place] / density.max())


def _ranks(column: np.ndarray) -> np.ndarray:
    """Rank of each value among the distinct ones, scaled to [0, 1]."""
    distinct, position = np.unique(column, return_inverse=True)
    return position / max(len(distinct) - 1, 1)
