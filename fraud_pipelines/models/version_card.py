"""The model card of a version that was just judged, as Markdown: kept with it in the registry, promoted or not.

Once a version is champion, the card of the compliance stage takes its place: with monitoring, and evidence per number.
"""

from collections.abc import Mapping

from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.evaluation import Evaluation, metrics_table, with_interval


def version_card(
    bundle: Bundle, version: str, judged: Mapping[str, Evaluation], baselines: Mapping[str, Evaluation]
) -> str:
    """What the version is, what it learnt from, how it won, how well it ranks beside champion and baselines.

    Args:
        judged: evaluations on the same rows by version, this one among them; baselines: by name.
    """
    split, thresholds, own = bundle.split, bundle.thresholds, judged[version]
    rows, frauds = (
        sum(bundle.row_counts.get(f"{part}_{kind}", 0) for part in ("train", "validation"))
        for kind in ("rows", "frauds")
    )
    weights = ", ".join(f"{name} {weight:.4g}" for name, weight in bundle.weights.items())
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in own.excluded.items())
    lines = [
        f"# Version {version}: {bundle.contender.replace('_', ' ')}",
        "Scores payment-card transactions for fraud. Not meant for credit decisions, account closure or pricing.",
        f"- Learnt from {rows:,} transactions with {frauds:,} frauds, {split.train_since:%Y-%m-%d} to "
        f"{split.train_until:%Y-%m-%d} (exclusive), as of {split.as_of:%Y-%m-%d %H:%M} UTC, labels "
        f"{split.label_delay_days} days late\n"
        f"- {len(bundle.feature_names)} features, spec `{bundle.spec_hash[:12]}`; training rows "
        f"`{bundle.data_hash[:12]}`; bundle `{bundle.digest[:12]}`; code {bundle.code_version or 'unknown'}\n"
        f"- Weights: {weights}\n"
        f"- APPROVE below {thresholds.review:.4f}, BLOCK from {thresholds.block:.4f}, REVIEW between",
        "## On days after its training",
        f"{own.rows:,} transactions with {own.fraud_count:,} frauds, {own.since:%Y-%m-%d} to {own.until:%Y-%m-%d} "
        f"(exclusive); left out: {left_out or 'none'}.",
        metrics_table({**judged, **baselines}),
    ]
    if bundle.comparison is not None:
        lines += ["## How it was chosen", bundle.comparison.markdown()]
    return "\n\n".join(lines) + "\n"


def summary(bundle: Bundle, own: Evaluation) -> str:
    """One line for a list of versions."""
    name = "average_precision"
    return (
        f"{bundle.contender.replace('_', ' ')}, trained on {bundle.split.train_since:%Y-%m-%d} to "
        f"{bundle.split.train_until:%Y-%m-%d}, average precision "
        f"{with_interval(own.metrics[name], own.intervals.get(name))} on {own.since:%Y-%m-%d} to {own.until:%Y-%m-%d}"
    )
