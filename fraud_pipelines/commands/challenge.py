"""Commands that compare a version with the champion on live payments."""

import json
import sys
from datetime import datetime, timedelta
from typing import Annotated

import typer

from fraud_pipelines.commands.models import FirstDay, LastDay
from fraud_pipelines.settings import load_settings
from fraud_pipelines.terminal import person

app = typer.Typer()


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
    from fraud_pipelines.models.shadow_view import show
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
