"""Champion and challenger side by side, as people read it in a terminal."""

from datetime import timedelta

from fraud_pipelines import limits
from fraud_pipelines.models.policy import DECISIONS
from fraud_pipelines.models.replay_view import MONEY_WORDS, amount_words
from fraud_pipelines.models.shadow import SideBySide
from fraud_pipelines.terminal import heading, output, table


def show(found: SideBySide) -> None:
    """Print a comparison."""
    champions = ", ".join(found.champions)
    last_day = found.until - timedelta(days=1)
    heading(f"Challenger {found.version} beside champion {champions}, {found.since:%Y-%m-%d} to {last_day:%Y-%m-%d}")
    output.print(f"{found.rows:,} payments scored by both; on {found.canary_rows:,} the challenger decided\n")
    table(
        f"{found.flipped:,} payments are decided differently",
        ["champion \\ challenger", *DECISIONS, "all"],
        [
            [word, *(f"{count:,}" for count in row), f"{sum(row):,}"]
            for word, row in zip(DECISIONS, found.counts.tolist(), strict=True)
        ]
        + [["all", *(f"{count:,}" for count in found.counts.sum(axis=0).tolist()), f"{found.rows:,}"]],
    )
    both = (found.champion_money, found.challenger_money)
    left_out = f"{found.immature:,} too young, {found.unlabelled:,} without label"
    table(
        f"\nMoney, in units of the currency, on {found.labelled:,} labelled payments, {both[0].frauds:,} of them "
        f"frauds, labels as of {found.as_of:%Y-%m-%d %H:%M} ({left_out})",
        ["", "champion", "challenger"],
        [[words, *(amount_words(money, name) for money in both)] for name, words in MONEY_WORDS.items()],
    )
    output.print(f"\n{_in_words(found)}")


def _in_words(found: SideBySide) -> str:
    gain = found.gain
    if gain.value is None:
        return "Average precision: undefined, no labelled payment is a fraud."
    words = (
        f"Average precision: challenger {found.challenger_average_precision:.4f}, champion "
        f"{found.champion_average_precision:.4f}, {gain.value:+.2%}"
    )
    if gain.interval is None or gain.p_value is None:
        return (
            f"{words}; whether that is chance cannot be told: frauds lie on {gain.days} days, at least "
            f"{limits.FEWEST_BOOTSTRAP_DAYS} are needed."
        )
    return (
        f"{words} ({gain.interval.lower:+.2%} to {gain.interval.upper:+.2%} at {limits.INTERVAL_CONFIDENCE:.0%} "
        f"confidence), one-sided p {gain.p_value:.4f} by {gain.days} days."
    )
