"""A replay as people read it in a terminal."""

from datetime import timedelta
from typing import Any

from fraud_pipelines.models.policy import DECISIONS
from fraud_pipelines.models.replay import LIVE
from fraud_pipelines.models.replay_summary import Money, Summary
from fraud_pipelines.terminal import heading, output, table

MONEY_WORDS = {
    "fraud_amount": "amount of frauds",
    "fraud_blocked": "  stopped by BLOCK",
    "fraud_reviewed": "  sent to REVIEW",
    "fraud_missed": "  missed",
    "genuine_blocked": "genuine amount blocked",
    "genuine_reviewed": "genuine amount sent to REVIEW",
    "cost": "cost",
    "cost_per_1000": "cost per 1,000 transactions",
}


def show(summary: Summary) -> None:
    """Print flips, money, reviews and group rates."""
    replay, flips, reviews = summary.replay, summary.flips, summary.reviews
    last_day = replay.until - timedelta(days=1)
    name = "the live policy" if replay.version == LIVE else f"version {replay.version}"
    heading(f"Replay of {name}, {replay.since:%Y-%m-%d} to {last_day:%Y-%m-%d}, labels as of {replay.as_of}")
    for version, thresholds in replay.thresholds.items():
        output.print(f"version {version}: REVIEW from {thresholds.review:.6g}, BLOCK from {thresholds.block:.6g}")
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in replay.left_out.items())
    output.print(
        f"{len(replay.rows):,} transactions, {int(replay.rows['is_served'].sum()):,} of them from the features that "
        f"were served; left out: {left_out}\n"
    )
    _show_flips(summary)
    columns = [summary.recorded, summary.replayed_decided, summary.replayed]
    table(
        f"Money, in units of the currency, on labelled transactions ({summary.unlabelled:,} have no label yet)",
        ["", "recorded", "replayed, same ones", "replayed, all"],
        [
            ["transactions", *(f"{column.transactions:,}" for column in columns)],
            ["frauds", *(f"{column.frauds:,}" for column in columns)],
            *([words, *(amount_words(column, name) for column in columns)] for name, words in MONEY_WORDS.items()),
            ["saved against approving all", *(_share(column.saving_share) for column in columns)],
        ],
    )
    output.print(
        f"\nReviews: {reviews.mean_per_day:,.1f} a day, at most {reviews.most_on_a_day:,}; the capacity is "
        f"{reviews.capacity_per_day:,.1f}, exceeded on {reviews.days_above_capacity} of {replay.days} days\n"
    )
    table(
        "Groups of customers (rates of small groups are not shown)",
        ["attribute", "group", "labelled", "frauds", "flagged", "false positive rate"],
        [
            [row.attribute, row.group_name, f"{row.rows:,}", f"{row.fraud_count:,}", _share(row.flagged_share),
             _share(row.false_positive_rate)]
            for row in summary.groups.itertuples()
        ],
    )  # fmt: skip
    if flips.moved:
        output.print(
            f"\n{flips.moved:,} of {flips.rescored:,} decisions scored again by the version that made them got another "
            "probability: libraries or hardware differ from those that served."
        )


def _show_flips(summary: Summary) -> None:
    flips = summary.flips
    if not flips.decided:
        output.print("No decision is recorded in this range: nothing to compare with.\n")
        return
    counts = flips.counts.tolist()
    table(
        f"{flips.flipped:,} of {flips.decided:,} recorded decisions come out differently",
        ["recorded \\ replayed", *DECISIONS],
        [[word, *(f"{count:,}" for count in row)] for word, row in zip(DECISIONS, counts, strict=True)],
    )
    output.print(f"{flips.fallbacks:,} more were decided by the fallback rule, without a model.\n")


def amount_words(money: Money, name: str) -> str | None:
    """One figure of MONEY_WORDS, to two decimals; None where it is undefined."""
    value = getattr(money, name)
    return None if value is None else f"{value:,.2f}"


def _share(value: Any) -> str | None:
    # A rate that is not known is None in a summary and NaN in a frame.
    return None if value is None or value != value else f"{value:.2%}"
