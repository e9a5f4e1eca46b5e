"""The command `fraud`: parses, calls, prints. What it runs are the project's own jobs and domain functions."""

import getpass
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fraud_pipelines.errors import FraudPipelinesError, SettingInvalid
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.settings import PROJECT_ROOT, Settings, load_settings

EXIT_CODES = """
Exit codes: 0 done; 1 unexpected error; 2 wrong usage; 3 something must be changed first; 4 try again later.
"""

app = typer.Typer(
    name="fraud",
    help="Payment-card fraud pipeline: ingest, features, models, monitoring, compliance, serving.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the command line; errors of the project end with their own exit code and no traceback."""
    try:
        app()
        sys.exit(0)
    except FraudPipelinesError as error:
        from fraud_pipelines.terminal import report_error

        report_error(error)
        sys.exit(error.exit_code)


def _who() -> str:
    """The person at the terminal; a container may run as a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


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
    _print_failed_checks(outcome.checks)
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
    _print_failed_checks(outcome.checks)
    output.print(f"Run {outcome.run_id}. Next: fraud ui")


@app.command(epilog="Examples:  fraud train   |   fraud train --as-of 2018-08-22 --train-days 28 --test-days 7")
def train(
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Moment of the training; nothing known later is used. Default: end of the data."
        ),
    ] = None,
    train_days: Annotated[
        int, typer.Option(min=1, help="Days of training data, validation included.")
    ] = TimeSplit.train_days,
    validation_days: Annotated[
        int, typer.Option(min=0, help="Last days of these: thresholds are chosen there.")
    ] = TimeSplit.validation_days,
    test_days: Annotated[int, typer.Option(min=1, help="Days of test data.")] = TimeSplit.test_days,
    label_delay_days: Annotated[
        int, typer.Option(min=0, help="Days until labels are known.")
    ] = TimeSplit.label_delay_days,
) -> None:
    """Train a candidate, evaluate it beside the champion on the same rows, promote it if the gates allow."""
    from fraud_pipelines.orchestration import keys
    from fraud_pipelines.orchestration.running import run_job
    from fraud_pipelines.orchestration.schedules import retrain_config
    from fraud_pipelines.terminal import output, working

    config = retrain_config(
        as_of.isoformat() if as_of else None,
        train_days=train_days,
        validation_days=validation_days,
        test_days=test_days,
        label_delay_days=label_delay_days,
    )
    with working("Training") as on_step:
        outcome = run_job("retrain_job", settings=load_settings(), run_config=config, on_step=on_step)
    for key in (keys.EVALUATION, keys.CHAMPION):
        for name, value in outcome.of(key).items():
            if isinstance(value, str | int | float) and not name.startswith("dagster/"):
                output.print(f"{key.path[-1]:>12}  {name}: {value}")
    _print_failed_checks(outcome.checks)


@app.command(epilog="Example:  fraud promote 3 --reason 'reviewed by model risk, ticket 812'")
def promote(
    version: Annotated[str, typer.Argument(help="Registry version to make champion.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    actor: Annotated[str, typer.Option(default_factory=_who, help="Who decides; kept in the ledger.")],
    force: Annotated[bool, typer.Option("--force", help="Past failed gates; the ledger row says so.")] = False,
) -> None:
    """Make a version champion by hand, if its recorded gates allow. A refusal is a ledger row, too."""
    from fraud_pipelines.models.promotion import promote_by_hand
    from fraud_pipelines.terminal import output

    ledger, registry = _ledger_and_registry()
    row = promote_by_hand(registry, ledger, version=version, actor=actor, reason=reason, force=force)
    output.print(
        f"Champion is version {row.model_version} (before: {row.previous_version or 'none'}), "
        f"ledger row {row.promotion_id}. Restart the service to use it: fraud serve"
    )


@app.command(
    epilog="Examples:  fraud rollback --reason 'alert storm'   |   fraud rollback --to 2 --reason 'ticket 815'"
)
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    actor: Annotated[str, typer.Option(default_factory=_who, help="Who decides; kept in the ledger.")],
    to: Annotated[str | None, typer.Option(help="Version to return to. Default: the champion before this one.")] = None,
) -> None:
    """Return to an earlier champion at once; nothing is retrained."""
    from fraud_pipelines.models.promotion import rollback
    from fraud_pipelines.terminal import output

    ledger, registry = _ledger_and_registry()
    row = rollback(registry, ledger, to=to, actor=actor, reason=reason)
    output.print(
        f"Champion is version {row.model_version} again (before: {row.previous_version}). "
        "Restart the service: fraud serve"
    )


@app.command(epilog="Examples:  fraud champion   |   fraud champion --as-of 2026-03-31T12:00:00")
def champion(
    as_of: Annotated[datetime | None, typer.Option(help="Moment, UTC. Default: now.")] = None,
) -> None:
    """Which model decided at a moment, and every promotion, refusal and rollback."""
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.terminal import output, table

    ledger = open_ledger(load_settings().ledger_url)
    output.print(f"champion: {ledger.champion_at(as_of) or 'none'}")
    table(
        "Ledger",
        ["#", "when (UTC)", "kind", "version", "before", "actor", "reason"],
        [
            [row.promotion_id, f"{row.decided_at:%Y-%m-%d %H:%M:%S}", row.kind, row.model_version, row.previous_version,
             row.actor, row.reason]
            for row in ledger.promotions()
        ],
    )  # fmt: skip


@app.command(
    epilog="Examples:  fraud replay --version live --from 2026-03-01 --to 2026-03-31   |   "
    "fraud replay --review 0.2 --block 0.8 --from 2026-03-01 --to 2026-03-31"
)
def replay(
    since: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC.")],
    until: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, UTC.")],
    version: Annotated[
        str | None,
        typer.Option(help="Registry version, or live: every decision by the version that made it. Default: champion."),
    ] = None,
    review: Annotated[float | None, typer.Option(help="REVIEW from here on. Default: the version's own.")] = None,
    block: Annotated[float | None, typer.Option(help="BLOCK from here on. Default: the version's own.")] = None,
    as_of: Annotated[
        datetime | None, typer.Option(help="Only labels known by then count, UTC. Default: end of the range.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Decide past transactions again, with any version and thresholds: flips, money, reviews, group rates."""
    from fraud_pipelines.models.replay import replay as replay_range
    from fraud_pipelines.models.replay_summary import summarize
    from fraud_pipelines.models.replay_view import show
    from fraud_pipelines.terminal import working
    from fraud_pipelines.warehouse import open_warehouse

    if until < since:
        raise typer.BadParameter(f"--to {until:%Y-%m-%d} lies before --from {since:%Y-%m-%d}.")
    ledger, registry = _ledger_and_registry()
    warehouse = open_warehouse(load_settings().warehouse_url)
    with working("Replaying"):
        result = replay_range(
            warehouse,
            ledger,
            registry.load,
            since=since,
            until=until + timedelta(days=1),
            as_of=as_of,
            version=version,
            review=review,
            block=block,
        )
        summary = summarize(result, warehouse)
    if as_json:
        sys.stdout.write(json.dumps(summary.as_dict(), indent=2) + "\n")
    else:
        show(summary)


@app.command(
    epilog="Examples:  fraud score payment.json   |   fraud score --id 8841   |   fraud score - < payment.json"
)
def score(
    file: Annotated[str | None, typer.Argument(help="JSON file with one transaction; - reads standard input.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Score a transaction of the warehouse instead.")] = None,
    url: Annotated[str | None, typer.Option(help="Base URL of the service. Default: this machine.")] = None,
) -> None:
    """Send one transaction to the running service and print its answer."""
    from fraud_pipelines.scoring_client import post_transaction, stored_transaction
    from fraud_pipelines.terminal import output

    settings = load_settings()
    if (file is None) == (id_ is None):
        raise typer.BadParameter("Give either a JSON file or --id TRANSACTION_ID. Example: fraud score payment.json")
    if id_ is not None:
        transaction = stored_transaction(settings, id_)
    else:
        try:
            transaction = json.loads(sys.stdin.read() if file == "-" else Path(str(file)).read_text())
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{file} cannot be read as one JSON transaction: {error}") from error
    answer = post_transaction(url or f"http://127.0.0.1:{settings.serving_port}", transaction)
    output.print_json(json.dumps(answer))


@app.command(epilog="Example:  fraud report")
def report(
    as_of: Annotated[
        str | None, typer.Option(help="ISO time, UTC, of the data; only what was known by then is printed.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write nothing; compare every document with its hash.")
    ] = False,
) -> None:
    """Write the champion's model card, compliance PDF and evidence index, or verify those written before."""
    if verify:
        _verify_documents()
        return
    from fraud_pipelines.orchestration import keys
    from fraud_pipelines.orchestration.running import run_job
    from fraud_pipelines.terminal import output, working

    with working("Writing the report") as on_step:
        steps = ("compliance__model_card", "compliance__compliance_report")
        config = {"ops": {step: {"config": {"as_of": as_of}} for step in steps}} if as_of else None
        outcome = run_job("publish_compliance_job", settings=load_settings(), run_config=config, on_step=on_step)
    output.print(str(outcome.of(keys.COMPLIANCE_REPORT).get("path", "")))
    _print_failed_checks(outcome.checks)


def _verify_documents() -> None:
    from fraud_pipelines.compliance.archive import verify_archive
    from fraud_pipelines.errors import ContractBroken
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.terminal import output

    settings = load_settings()
    files = verify_archive(open_ledger(settings.ledger_url).reports(), settings.reports)
    for file in files:
        output.print(f"{'ok     ' if file.is_intact else 'BROKEN '} {file.report.sha256}  {file.path}", soft_wrap=True)
    broken = [file.path for file in files if not file.is_intact]
    if broken:
        raise ContractBroken(
            f"{len(broken)} of {len(files)} documents are gone or differ from the ledger's hash, first {broken[0]}. "
            "Take them out of circulation and print them again: fraud report --as-of MOMENT"
        )
    if not files:
        output.print("The ledger has no documents yet. Run: fraud report")


@app.command(epilog="Examples:  fraud serve   |   fraud serve --port 3005")
def serve(
    port: Annotated[int | None, typer.Option(help="Port. Default: FRAUD_SERVING_PORT.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
) -> None:
    """Serve the champion's Bento over HTTP until interrupted."""
    from fraud_pipelines.models.serve import serve as serve_champion

    settings = load_settings()
    sys.exit(serve_champion(settings, host=host, port=port or settings.serving_port))


@app.command(epilog="Example:  fraud ui --port 3001")
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3001,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> NoReturn:
    """Open the Dagster UI and its daemon on this installation."""
    from fraud_pipelines.orchestration.running import open_instance

    open_instance(load_settings()).dispose()
    program = Path(sys.executable).with_name("dagster")
    os.chdir(PROJECT_ROOT)
    # `dagster dev` recommends its successor, a development tool that is not installed in production.
    os.environ["PYTHONWARNINGS"] = "ignore:Function `dev_command` is superseded"
    os.execv(program, [str(program), "dev", "-w", "workspace.yaml", "-h", host, "-p", str(port)])


@app.command(epilog="Example:  fraud doctor")
def doctor() -> None:
    """Check settings, stores and tools; say what is wrong and what to do."""
    from fraud_pipelines.doctor import examine
    from fraud_pipelines.terminal import table

    findings = examine(load_settings())
    table("Doctor", ["", "what", "found"], [["ok" if f.ok else "NOT OK", f.what, f.found] for f in findings])
    if not all(finding.ok for finding in findings):
        raise SettingInvalid("Not everything is ready; see the lines marked NOT OK.")


@app.command(epilog="Example:  fraud lineage")
def lineage() -> None:
    """Print the lineage graph as text."""
    from fraud_pipelines.definitions import defs
    from fraud_pipelines.orchestration.lineage import describe

    sys.stdout.write(describe(defs))


@app.command(epilog="Example:  fraud dictionary > docs/data-dictionary.md")
def dictionary() -> None:
    """Print the data dictionary that the feature spec generates."""
    from fraud_pipelines.features.dictionary import render
    from fraud_pipelines.features.spec import load_spec

    sys.stdout.write(render(load_spec()))


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


def _ledger_and_registry() -> Any:
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.models.registry import open_registry

    settings = load_settings()
    return open_ledger(settings.ledger_url), open_registry(settings.registry_url, settings.artifacts_url)


def _print_failed_checks(checks: list[Any]) -> None:
    from fraud_pipelines.terminal import output

    failed = [check for check in checks if not check.passed]
    output.print(f"checks: {len(checks) - len(failed)} passed, {len(failed)} failed")
    for check in failed:
        numbers = ", ".join(
            f"{name}={value}" for name, value in check.metadata.items() if not isinstance(value, dict | list)
        )
        output.print(f"  {check.severity} {check.asset}: {check.name}  {numbers}")


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"
