"""Commands that compare a version with the champion on live payments."""

import json
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from fraud_pipelines.commands.models import FirstDay, LastDay
from fraud_pipelines.settings import load_settings
from fraud_pipelines.terminal import person

if TYPE_CHECKING:
    from fraud_pipelines.models.shadow import SideBySide

app = typer.Typer()

_MONEY_WORDS = {
    "fraud_blocked": "fraud amount stopped by BLOCK",
    "fraud_reviewed": "fraud amount sent to REVIEW",
    "fraud_missed": "fraud amount missed",
    "genuine_blocked": "genuine amount blocked",
    "genuine_reviewed": "genuine amount sent to REVIEW",
    "cost": "cost",
}


@app.command(
    epilog="Examples:  fraud challenge 4 --reason 'ticket 820'   |   "
    "fraud challenge 4 --canary-percent 5 --reason 'ticket 821'   |   fraud challenge --stop --reason 'ticket 822'"
)
def challenge(
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    actor: Annotated[str, typer.Option(default_factory=person, help="Who decides; kept in the ledger.")],
    version: Annotated[str | None, typer.Argument(help="Registry version to compare with the champion.")] = None,
    canary_percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of cards that it decides on, in percent.")
    ] = 0.0,
    stop: Annotated[bool, typer.Option("--stop", help="Compare nothing any more.")] = False,
) -> None:
    """Let running services score every payment with a second version, off the way to the answer, and log both."""
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.models.challenge import challenge as begin
    from fraud_pipelines.models.challenge import end_challenge
    from fraud_pipelines.models.registry import open_registry
    from fraud_pipelines.terminal import output

    if stop == (version is not None):
        raise typer.BadParameter("Give a VERSION to begin or change a challenge, or --stop to end it.")
    settings = load_settings()
    ledger = open_ledger(settings.ledger_url)
    if version is None:
        row = end_challenge(ledger, actor=actor, reason=reason)
        output.print(f"There is no challenger any more, ledger row {row.challenge_id}.")
    else:
        registry = open_registry(settings.registry_url, settings.artifacts_url)
        row = begin(registry, ledger, version=version, canary_percent=canary_percent, actor=actor, reason=reason)
        cards = f"decides on {canary_percent:g} % of the cards" if canary_percent else "decides on no card"
        output.print(f"Challenger is version {version}, which {cards}, ledger row {row.challenge_id}.")
    output.print("Running services follow within two seconds.")


@app.command(epilog="Example:  fraud shadow 4 --from 2026-03-01 --to 2026-03-14")
def shadow(
    version: Annotated[str, typer.Argument(help="Version that is or was challenger.")],
    since: FirstDay,
    until: LastDay,
    as_of: Annotated[
        datetime | None,
        typer.Option(help="Only labels known by then count, UTC. Default: the label delay after the range."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """What a challenger decided beside the champion: flips, money, and the paired test on mature labels."""
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.models.registry import open_registry
    from fraud_pipelines.models.shadow import side_by_side
    from fraud_pipelines.terminal import working
    from fraud_pipelines.warehouse import open_warehouse

    settings = load_settings()
    with working("Comparing"):
        found = side_by_side(
            open_warehouse(settings.warehouse_url),
            open_ledger(settings.ledger_url),
            open_registry(settings.registry_url, settings.artifacts_url).load,
            version=version,
            since=since,
            until=until + timedelta(days=1),
            as_of=as_of,
        )
    if as_json:
        sys.stdout.write(json.dumps(found.as_dict(), indent=2) + "\n")
    else:
        show(found)


def show(found: "SideBySide") -> None:
    """Print a comparison."""
    from fraud_pipelines.models.policy import DECISIONS
    from fraud_pipelines.terminal import heading, output, table

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
    table(
        f"\nMoney, in units of the currency, on {found.labelled:,} labelled payments, {both[0].frauds:,} of them "
        f"frauds, labels as of {found.as_of:%Y-%m-%d %H:%M} ({found.immature:,} too young, {found.unlabelled:,} without label)",
        ["", "champion", "challenger"],
        [[words, *(f"{getattr(money, name):,.2f}" for money in both)] for name, words in _MONEY_WORDS.items()],
    )
    output.print(f"\n{_in_words(found)}")


def _in_words(found: "SideBySide") -> str:
    from fraud_pipelines import limits

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
