"""The guided tour: simulated data through the whole lineage, the service, and a summary of what came out."""

import json
import time
from datetime import date, timedelta
from typing import Any

from fraud_pipelines import tables
from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.settings import Settings
from fraud_pipelines.warehouse import open_warehouse

START = date(2026, 1, 1)
SEED = 7
# The last days differ from the rest, so that drift has something to find.
DRIFT_DAYS = 14
# Long enough for the windows of performance and fairness (limits.py).
SCORED_DAYS = 42
# Days that are no training data: the test window and a label delay on either side of it (models/splits.py), and a
# first week in which histories are still short.
OTHER_DAYS = 14 + 7 + 7 + 7
# Enough to see what a tuning does, too few to find much; and the training days it needs, of which two weeks lie before
# the last block and its label delay.
TRIALS, TUNING_DAYS = 2, 28


def run_demo(settings: Settings, *, days: int, port: int) -> None:
    """Run every stage on `days` simulated days and print the outcome. Running it again changes nothing but the log.

    Raises:
        SettingInvalid: this installation is a production one, or its warehouse holds other data.
    """
    from fraud_pipelines.models.splits import TimeSplit
    from fraud_pipelines.orchestration import keys
    from fraud_pipelines.orchestration.ingesting import ingest_config, ingestible_window
    from fraud_pipelines.orchestration.partitions import window_between
    from fraud_pipelines.orchestration.running import CheckOutcome, RunOutcome, run_job
    from fraud_pipelines.orchestration.schedules import retrain_config, tune_config
    from fraud_pipelines.raw.ingestion import days_in
    from fraud_pipelines.raw.simulator import SimulationConfig, simulate, write
    from fraud_pipelines.terminal import heading, output, working

    _refuse_other_data(settings)
    began = time.monotonic()
    checks: list[CheckOutcome] = []
    last_day = START + timedelta(days=days - 1)
    folder = settings.home / "simulated"

    heading(f"1/6 Simulate {days} days of card payments")
    config = SimulationConfig(start=START, days=days, seed=SEED, drift_from=last_day - timedelta(days=DRIFT_DAYS - 1))
    write(simulate(config), folder)

    def run(name: str, title: str, **arguments: Any) -> RunOutcome:
        with working(title) as on_step:
            outcome = run_job(name, settings=settings, on_step=on_step, **arguments)
        checks.extend(outcome.checks)
        return outcome

    heading("2/6 Ingest them, check them, build features")
    everything = ingestible_window(*days_in(folder, "simulator"))
    run("ingest_job", "ingest_job", window=everything, run_config=ingest_config(folder, "simulator"))

    heading("3/6 Tune, train, evaluate, promote through the gates, build the Bento")
    as_of, train_days = f"{last_day + timedelta(days=1)}T00:00:00", min(TimeSplit.train_days, days - OTHER_DAYS)
    if train_days >= TUNING_DAYS:
        run("tune_job", "tune_job", run_config=tune_config(as_of, tuning={"trials": TRIALS}, train_days=train_days))
    else:
        output.print(f"No tuning: {train_days} training days are too few for it, {TUNING_DAYS} would do.")
    training = run("retrain_job", "retrain_job", run_config=retrain_config(as_of, train_days=train_days))

    heading("4/6 Score in batch, measure drift, performance and fairness")
    scored = window_between((last_day - timedelta(days=min(SCORED_DAYS, days) - 1)).isoformat(), last_day.isoformat())
    today = window_between(last_day.isoformat(), last_day.isoformat())
    run("daily_job", "batch scores", window=scored, assets=[keys.SCORES])
    monitoring = run("daily_job", "monitoring", window=today, assets=[keys.DRIFT, keys.PERFORMANCE, keys.FAIRNESS])

    heading("5/6 Serve the champion and score over HTTP")
    run("online_state_job", "online_state")
    answers = _score_over_http(settings, last_day, port)
    parity = run("daily_job", "decisions and parity", window=today, assets=[keys.DECISIONS, keys.FEEDBACK, keys.PARITY])

    heading("6/6 Write the compliance documents")
    report = run("publish_compliance_job", "publish_compliance_job")

    _summarize(
        settings,
        training=training.of(keys.EVALUATION),
        drift=monitoring.of(keys.DRIFT),
        parity=parity.of(keys.PARITY),
        report=report.of(keys.COMPLIANCE_REPORT),
        answers=answers,
        checks=checks,
        seconds=time.monotonic() - began,
    )


def _refuse_other_data(settings: Settings) -> None:
    if settings.env == "production":
        raise SettingInvalid("The demo writes simulated transactions; this installation has FRAUD_ENV=production.")
    others = {row.mapping for row in open_ledger(settings.ledger_url).ingestions()} - {"simulator"}
    if others:
        raise SettingInvalid(
            f"{settings.home} already holds data of {', '.join(sorted(others))}, which the demo must not mix with. "
            "Give the demo a home of its own: FRAUD_HOME=var/demo fraud demo"
        )


def _score_over_http(settings: Settings, day: date, port: int) -> list[dict[str, Any]]:
    """Post five of the day's transactions, from the most to the least suspicious, and print the answers."""
    from fraud_pipelines.models.serve import running_service
    from fraud_pipelines.raw.scoring_request import as_request
    from fraud_pipelines.scoring_connection import ScoringConnection
    from fraud_pipelines.terminal import table

    ranked = open_warehouse(settings.warehouse_url).query(
        f"select t.* from {tables.SCORES.name} s join {tables.TRANSACTIONS.name} t using (transaction_id) "
        "where cast(s.event_time as date) = cast(:day as date) order by s.fraud_probability desc, t.transaction_id",
        day=day,
    )
    picks = [0, 1, len(ranked) // 100, len(ranked) // 2, len(ranked) - 1]
    bodies = [as_request(ranked.iloc[pick]) for pick in sorted(set(picks)) if pick < len(ranked)]
    bodies.sort(key=lambda body: body["event_time"])
    with running_service(settings, port=port) as base_url, ScoringConnection(base_url) as connection:
        answers = [json.loads(connection.send("POST", "/score", json.dumps(body).encode())) for body in bodies]
    table(
        f"POST {base_url}/score",
        ["transaction", "decision", "probability", "first reason", "ms"],
        [
            [answer["transaction_id"], answer["decision"], _rounded(answer["fraud_probability"]),
             answer["fallback"] or (answer["reasons"][0]["words"] if answer["reasons"] else None),
             f"{answer['processing_time_ms']:.1f}"]
            for answer in answers
        ],
    )  # fmt: skip
    return answers


def _rounded(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.4f}"


def _summarize(
    settings: Settings,
    *,
    training: dict[str, Any],
    drift: dict[str, Any],
    parity: dict[str, Any],
    report: dict[str, Any],
    answers: list[dict[str, Any]],
    checks: list[Any],
    seconds: float,
) -> None:
    from fraud_pipelines.terminal import heading, output

    ledger = open_ledger(settings.ledger_url)
    latest = ledger.promotions()[-1]
    heading(f"\nDone in {seconds:.0f} s")
    for name, value in training.items():
        if isinstance(value, int | float) and not name.startswith("dagster/"):
            output.print(f"  test {name}: {value:.4f}" if isinstance(value, float) else f"  test {name}: {value:,}")
    output.print(f"  champion: version {ledger.champion_at()} (last decision: {latest.kind} {latest.model_version})")
    output.print(
        f"  drift: {'detected' if drift['is_drifted'] else 'not detected'}, {drift['drifted_features']} features "
        f"({drift['drifted_share']:.0%}), worst {drift['worst_feature']}; page {drift['page']}"
    )
    output.print(f"  served features that differ from the warehouse: {parity['mismatches']}")
    output.print(f"  decisions over HTTP: {json.dumps([answer['decision'] for answer in answers])}")
    failed = [f"{check.asset}: {check.name} ({check.severity})" for check in checks if not check.passed]
    output.print(
        f"  checks: {len(checks) - len(failed)} of {len(checks)} passed; failed: {', '.join(failed) or 'none'}"
    )
    output.print(f"  compliance PDF: {report.get('path', 'NOT AVAILABLE')}")
    output.print(
        "\nLook at next\n"
        "  make ui                      the lineage, every run and check: http://localhost:3001\n"
        "  make serve                   the champion: http://localhost:3000 (API documentation on the same page)\n"
        "  .venv/bin/fraud champion     which model decided when, and why\n"
        "  .venv/bin/fraud --help       everything else"
    )
