"""Commands that bring transactions in and materialize what follows from them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fraud_pipelines.settings import Settings, load_settings
from fraud_pipelines.terminal import print_checks

app = typer.Typer()


@app.command(epilog="Examples:  fraud demo   |   fraud demo --days 60 --port 3005")
def demo(
    days: Annotated[int, typer.Option(min=45, help="Days to simulate; fewer mean fewer to train on.")] = 90,
    port: Annotated[int, typer.Option(help="Port of the scoring service while it runs.")] = 3000,
) -> None:
    """Simulate transactions, run the whole lineage, score over HTTP, and say what to look at next."""
    from fraud_pipelines.demo import run_demo

    run_demo(load_settings(), days=days, port=port)


@app.command(epilog="Examples:  fraud simulate var/sim --days 30   |   fraud simulate var/sim --drift-from 2026-03-15")
def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder for transactions.parquet and customers.parquet.")],
    days: Annotated[int, typer.Option(min=1, help="Days to simulate.")] = 90,
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")] = datetime(2026, 1, 1),
    cards: Annotated[int, typer.Option(min=1, help="Number of cards.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 7,
    drift_from: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day from which amounts and mix shift.")
    ] = None,
) -> None:
    """Write simulated transactions and customers that the mapping `simulator` ingests."""
    from fraud_pipelines.raw.simulator import SimulationConfig, simulate, write
    from fraud_pipelines.terminal import output

    config = SimulationConfig(
        start=start.date(), days=days, cards=cards, seed=seed, drift_from=drift_from.date() if drift_from else None
    )
    world = simulate(config)
    write(world, folder)
    frauds = int(world.transactions["is_fraud"].sum())
    output.print(
        f"{len(world.transactions):,} transactions, {frauds:,} frauds ({frauds / len(world.transactions):.2%}) "
        f"in {folder}\nNext: fraud ingest {folder} --mapping simulator"
    )


@app.command(
    epilog="Examples:  fraud ingest transactions.parquet --mapping handbook   |   fraud ingest data/ --mapping my.yml"
)
def ingest(
    path: Annotated[Path, typer.Argument(exists=True, help="A CSV or Parquet file, or a folder of them.")],
    mapping: Annotated[str, typer.Option(help="handbook, sparkov, simulator, or the path of your own mapping file.")],
) -> None:
    """Load transactions and labels: tokenized, checked, each row once. The same file again changes nothing."""
    from fraud_pipelines.orchestration import keys
    from fraud_pipelines.orchestration.ingesting import ingest_config, ingestible_window
    from fraud_pipelines.orchestration.running import run_job
    from fraud_pipelines.raw.ingestion import days_in
    from fraud_pipelines.terminal import output, table, working

    settings = load_settings()
    path = path.resolve()
    first, last = days_in(path, mapping)
    with working(f"Ingesting {path.name}") as on_step:
        outcome = run_job(
            "ingest_job",
            settings=settings,
            window=ingestible_window(first, last),
            run_config=ingest_config(path, mapping),
            assets=[keys.TRANSACTIONS, keys.LABELS, keys.CUSTOMERS],
            on_step=on_step,
        )
    rows = outcome.of(keys.TRANSACTIONS)
    table(
        f"Ingested {path.name} ({mapping}), {first} to {last}",
        ["read", "new", "duplicate", "quarantined", "labels new"],
        [[_count(rows.get(name)) for name in ("rows_read", "rows_loaded", "duplicate_count", "quarantined_count")]
         + [_count(outcome.of(keys.LABELS).get("rows_loaded"))]],
    )  # fmt: skip
    print_checks(outcome.checks)
    output.print("Next: fraud materialize features   then   fraud train")


@app.command(epilog="Examples:  fraud materialize features   |   fraud materialize monitoring/drift --from 2026-03-25")
def materialize(
    selection: Annotated[list[str], typer.Argument(help="Stages (features) or assets (monitoring/drift).")],
    since: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, UTC.")] = None,
) -> None:
    """Materialize stages or assets for a range of days, in a single run. Without days: all that were ingested."""
    from fraud_pipelines.orchestration.running import run_job
    from fraud_pipelines.orchestration.selection import needs_days, select
    from fraud_pipelines.terminal import output, table, working

    settings = load_settings()
    chosen = select(selection)
    window = _window(settings, since, until) if needs_days(chosen) else None
    with working("Materializing") as on_step:
        outcome = run_job("", settings=settings, window=window, assets=chosen, on_step=on_step)
    table(
        f"Materialized{f' {window}' if window else ''}",
        ["asset", "rows"],
        [
            [key.to_user_string(), _count(metadata.get("dagster/row_count"))]
            for key, metadata in outcome.metadata.items()
        ],
    )
    print_checks(outcome.checks)
    output.print(f"Run {outcome.run_id}. Next: fraud ui")


def _window(settings: Settings, first: datetime | None, last: datetime | None) -> Any:
    from fraud_pipelines.errors import MissingPartition
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.orchestration.ingesting import ingestible_window

    ingestions = open_ledger(settings.ledger_url).ingestions()
    starts = [row.first_day for row in ingestions if row.first_day]
    ends = [row.last_day for row in ingestions if row.last_day]
    if not starts and (first is None or last is None):
        raise MissingPartition(
            "Nothing has been ingested, so no day can be chosen. Run: fraud ingest FILE --mapping NAME"
        )
    since = first.date() if first else min(starts)
    until = last.date() if last else max(ends)
    if until < since:
        raise typer.BadParameter(f"--to {until} lies before --from {since}.")
    return ingestible_window(since, until)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"
