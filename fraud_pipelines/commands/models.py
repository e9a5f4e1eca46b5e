"""Commands that train, judge, promote and replay models."""

import json
import sys
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from fraud_pipelines import limits
from fraud_pipelines.errors import NoChampion
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.settings import load_settings
from fraud_pipelines.terminal import person, print_checks

app = typer.Typer()

FirstDay = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC.")]
LastDay = Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, UTC.")]
TrainDays = Annotated[int, typer.Option(min=1, help="Days of training data, validation included.")]
LabelDelayDays = Annotated[int, typer.Option(min=0, help="Days until labels are known.")]
TestDays = Annotated[int, typer.Option(min=1, help="Days of test data.")]
AsOf = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"], help="Moment of the training; nothing known later is used. Default: end of the data."
    ),
]


@app.command(epilog="Examples:  fraud train   |   fraud train --as-of 2018-08-22 --train-days 28 --test-days 7")
def train(
    as_of: AsOf = None,
    train_days: TrainDays = TimeSplit.train_days,
    validation_days: Annotated[
        int, typer.Option(min=0, help="Last days of these: thresholds are chosen there.")
    ] = TimeSplit.validation_days,
    test_days: TestDays = TimeSplit.test_days,
    label_delay_days: LabelDelayDays = TimeSplit.label_delay_days,
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
    print_checks(outcome.checks)


@app.command(epilog="Examples:  fraud tune   |   fraud tune --trials 100 --minutes 60 --as-of 2018-08-22")
def tune(
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, those in use included.")] = limits.TUNING_TRIALS,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time budget. Default: as long as the trials take.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of what is tried. Default: the learners' own.")] = None,
    from_defaults: Annotated[
        bool, typer.Option("--from-defaults", help="Start from the defaults, not from what was tuned before.")
    ] = False,
    as_of: AsOf = None,
    train_days: TrainDays = TimeSplit.train_days,
    validation_days: Annotated[
        int, typer.Option(min=1, help="Days of each block of time that settings are judged on.")
    ] = TimeSplit.validation_days,
    test_days: TestDays = TimeSplit.test_days,
    label_delay_days: LabelDelayDays = TimeSplit.label_delay_days,
) -> None:
    """Search the settings of the boosted trees, the handling of imbalance among them, on blocks of past time.

    Those in use are tried first, and stay unless the best gains more than chance explains (docs/tuning.md).
    """
    from fraud_pipelines.orchestration import keys
    from fraud_pipelines.orchestration.running import run_job
    from fraud_pipelines.orchestration.schedules import tune_config
    from fraud_pipelines.terminal import output, table, working

    config = tune_config(
        as_of.isoformat() if as_of else None,
        tuning={"trials": trials, "minutes": minutes, "seed": seed, "from_defaults": from_defaults},
        train_days=train_days,
        validation_days=validation_days,
        test_days=test_days,
        label_delay_days=label_delay_days,
    )
    with working("Tuning") as on_step:
        outcome = run_job("tune_job", settings=load_settings(), run_config=config, on_step=on_step)
    found = outcome.of(keys.TUNING)
    best = [record.data for record in found["best_trials"].records]
    # One column per trial: a row of all settings would not fit a terminal.
    table(
        "Best trials",
        ["trial", *(str(record["trial"]) for record in best)],
        [[name, *(record[name] for record in best)] for name in best[0] if name != "trial"],
    )
    output.print(f"\n{found['verdict']} Every trial is in MLflow, under run {found['mlflow_run_id']}.")
    print_checks(outcome.checks)


@app.command(epilog="Example:  fraud promote 3 --reason 'reviewed by model risk, ticket 812'")
def promote(
    version: Annotated[str, typer.Argument(help="Registry version to make champion.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    actor: Annotated[str, typer.Option(default_factory=person, help="Who decides; kept in the ledger.")],
    force: Annotated[bool, typer.Option("--force", help="Past failed gates; the ledger row says so.")] = False,
) -> None:
    """Make a version champion by hand, if its recorded gates allow. A refusal is a ledger row, too."""
    from fraud_pipelines.models.promotion import promote_by_hand
    from fraud_pipelines.terminal import output

    ledger, registry = _ledger_and_registry()
    row = promote_by_hand(registry, ledger, version=version, actor=actor, reason=reason, force=force)
    output.print(
        f"Champion is version {row.model_version} (before: {row.previous_version or 'none'}), "
        f"ledger row {row.promotion_id}. Running services follow within two seconds."
    )


@app.command(
    epilog="Examples:  fraud rollback --reason 'alert storm'   |   fraud rollback --to 2 --reason 'ticket 815'"
)
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    actor: Annotated[str, typer.Option(default_factory=person, help="Who decides; kept in the ledger.")],
    to: Annotated[str | None, typer.Option(help="Version to return to. Default: the champion before this one.")] = None,
) -> None:
    """Return to an earlier champion at once; nothing is retrained."""
    from fraud_pipelines.models.promotion import rollback
    from fraud_pipelines.terminal import output

    ledger, registry = _ledger_and_registry()
    row = rollback(registry, ledger, to=to, actor=actor, reason=reason)
    output.print(
        f"Champion is version {row.model_version} again (before: {row.previous_version}). "
        "Running services follow within two seconds."
    )


@app.command(epilog="Examples:  fraud champion   |   fraud champion --as-of 2026-03-31T12:00:00")
def champion(
    as_of: Annotated[datetime | None, typer.Option(help="Moment, UTC. Default: now.")] = None,
) -> None:
    """Which model decided at a moment, every promotion, refusal and rollback, and every challenger."""
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
    if challenges := ledger.challenges():
        table(
            "\nChallengers",
            ["#", "when (UTC)", "version", "percent of cards", "actor", "reason"],
            [
                [row.challenge_id, f"{row.decided_at:%Y-%m-%d %H:%M:%S}", row.model_version or "none",
                 f"{row.canary_percent:g}", row.actor, row.reason]
                for row in challenges
            ],
        )  # fmt: skip


@app.command(
    epilog="Examples:  fraud replay --version live --from 2026-03-01 --to 2026-03-31   |   "
    "fraud replay --review 0.2 --block 0.8 --from 2026-03-01 --to 2026-03-31"
)
def replay(
    since: FirstDay,
    until: LastDay,
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
    epilog="Examples:  fraud backtest --from 2026-03-01 --to 2026-03-14   |   "
    "fraud backtest --version 3 --from 2026-03-01 --to 2026-03-14 --json"
)
def backtest(
    since: FirstDay,
    until: LastDay,
    version: Annotated[str | None, typer.Option(help="Registry version. Default: champion.")] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(help="Only labels known by then count, UTC. Default: the label delay after the range."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Judge any registered version on a past range: every metric with its interval, on mature labels."""
    from fraud_pipelines.models.backtest import backtest as judge
    from fraud_pipelines.models.evaluation import with_interval
    from fraud_pipelines.terminal import output, table, working
    from fraud_pipelines.warehouse import open_warehouse

    ledger, registry = _ledger_and_registry()
    chosen = version or ledger.champion_at()
    if chosen is None:
        raise NoChampion("No model version has been promoted, so there is none to judge. Run: fraud train")
    with working("Judging"):
        found = judge(
            open_warehouse(load_settings().warehouse_url), registry.load(chosen),
            since=since, until=until + timedelta(days=1), as_of=as_of,
        )  # fmt: skip
    result = found.evaluation
    if as_json:
        figures = {
            "version": chosen, "since": f"{since:%Y-%m-%d}", "until": f"{until:%Y-%m-%d}",
            "as_of": result.as_of.isoformat(), "rows": result.rows, "frauds": result.fraud_count,
            "left_out": result.excluded, "learnt_from": found.learnt_from, "metrics": result.metrics,
            "intervals": {name: [bounds.lower, bounds.upper] for name, bounds in result.intervals.items()},
            "baselines": {name: of.metrics for name, of in found.baselines.items()},
        }  # fmt: skip
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    table(
        f"Version {chosen}, {since:%Y-%m-%d} to {until:%Y-%m-%d}, labels as of {result.as_of:%Y-%m-%d %H:%M}",
        ["metric", "value (95 % interval)", *(name.replace("_", " ") for name in found.baselines)],
        [
            [
                name,
                with_interval(value, result.intervals.get(name)),
                *(with_interval(of.metrics[name], None) for of in found.baselines.values()),
            ]
            for name, value in result.metrics.items()
        ],
    )
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in result.excluded.items())
    output.print(f"\n{result.rows:,} transactions, {result.fraud_count:,} frauds; left out: {left_out}")
    if found.learnt_from:
        output.print(
            f"The version learnt from {found.learnt_from:,} of these days' transactions, which flatters it: "
            "judge it on days after its training."
        )


@app.command(epilog="Example:  fraud prequential --from 2018-08-08 --weeks 5")
def prequential(
    since: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of the first test week.")],
    weeks: Annotated[int, typer.Option(min=1, help="Test weeks, one after the other.")] = 4,
    train_days: TrainDays = TimeSplit.train_days,
    label_delay_days: LabelDelayDays = TimeSplit.label_delay_days,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Train anew for each of some past weeks and judge on it, as it would have gone. Nothing is registered."""
    from fraud_pipelines.features.spec import load_spec
    from fraud_pipelines.models.evaluation import with_interval
    from fraud_pipelines.models.prequential import leak_alarms, mean_metrics
    from fraud_pipelines.models.prequential import prequential as judge_weeks
    from fraud_pipelines.models.training import train as fit
    from fraud_pipelines.progress import report
    from fraud_pipelines.terminal import output, table, working
    from fraud_pipelines.warehouse import open_warehouse

    spec, judged = load_spec(), []
    with working("Weeks"):
        for week in judge_weeks(
            open_warehouse(load_settings().warehouse_url), spec, [since + timedelta(days=7 * n) for n in range(weeks)],
            lambda rows: fit(rows, spec).bundle, train_days=train_days, label_delay_days=label_delay_days,
        ):  # fmt: skip
            judged.append(week)
            report("weeks", len(judged), weeks)
    means, alarms = mean_metrics(judged), leak_alarms(judged)
    baselines = {name: mean_metrics(judged, name) for name in judged[0].baselines}
    if as_json:
        figures = {
            "weeks": [
                {"since": f"{week.since:%Y-%m-%d}", "contender": week.bundle.contender, **week.evaluation.metrics}
                for week in judged
            ],
            "mean": means, "baselines": baselines, "alarms": alarms,
        }  # fmt: skip
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    table(
        f"{weeks} test weeks, {train_days} training days each, labels {label_delay_days} days late",
        [
            "metric",
            *(f"{week.since:%Y-%m-%d} ({week.bundle.contender})" for week in judged),
            "mean",
            *(f"mean of {name.replace('_', ' ')}" for name in baselines),
        ],
        [
            [
                name,
                *(with_interval(week.evaluation.metrics[name], None) for week in judged),
                with_interval(mean, None),
                *(with_interval(of[name], None) for of in baselines.values()),
            ]
            for name, mean in means.items()
        ],
    )
    for alarm in alarms:
        output.print(f"Too good to be true, look for a leak: {alarm}")


def _ledger_and_registry() -> Any:
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.models.registry import open_registry

    settings = load_settings()
    return open_ledger(settings.ledger_url), open_registry(settings.registry_url, settings.artifacts_url)
