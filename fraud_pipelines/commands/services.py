"""Commands that serve, report and look after the installation."""

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.settings import PROJECT_ROOT, load_settings
from fraud_pipelines.terminal import print_checks
from fraud_pipelines.verdicts import Verdict

app = typer.Typer()


Url = Annotated[str | None, typer.Option(help="Base URL of the service. Default: this machine.")]
KeyFile = Annotated[Path | None, typer.Option(help="File with the API key, where the service asks for one.")]


@app.command(
    epilog="Examples:  fraud score payment.json   |   fraud score --id 8841   |   fraud score - < payment.json   |   "
    "fraud score payment.json --url https://scoring.example --key-file checkout.key"
)
def score(
    file: Annotated[str | None, typer.Argument(help="JSON file with one transaction; - reads standard input.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Score a transaction of the warehouse instead.")] = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Send one transaction to the running service and print its answer."""
    from fraud_pipelines.raw.scoring_request import stored_transaction

    if (file is None) == (id_ is None):
        raise typer.BadParameter("Give either a JSON file or --id TRANSACTION_ID. Example: fraud score payment.json")
    if id_ is not None:
        transaction = stored_transaction(load_settings(), id_)
    else:
        try:
            transaction = json.loads(sys.stdin.read() if file == "-" else Path(str(file)).read_text())
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{file} cannot be read as one JSON transaction: {error}") from error
    _print_answer("/score", transaction, url, key_file)


@app.command(epilog="Example:  fraud explain 8841 --url https://scoring.example --key-file console.key")
def explain(
    transaction_id: Annotated[str, typer.Argument(help="A payment that was decided.")],
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Take a decision of the running service apart: every reason, what would have been approved, a text to read out."""
    _print_answer("/explain", {"transaction_id": transaction_id}, url, key_file)


@app.command(
    epilog="Examples:  fraud feedback 8841 CONFIRMED_FRAUD   |   "
    "fraud feedback 8841 FALSE_POSITIVE --note 'Customer called: it was her' --key-file console.key"
)
def feedback(
    transaction_id: Annotated[str, typer.Argument(help="The payment.")],
    verdict: Annotated[Verdict, typer.Argument(help="CONFIRMED_FRAUD and FALSE_POSITIVE become labels.")],
    note: Annotated[str | None, typer.Option(help="Free text; card numbers in it are masked.")] = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Tell the running service what came of a payment."""
    # Made here, so that a second attempt after a lost answer counts once.
    body = {"feedback_id": str(uuid.uuid4()), "transaction_id": transaction_id, "verdict": verdict, "note": note}
    _print_answer("/feedback", body, url, key_file)


def _print_answer(path: str, body: Any, url: str | None, key_file: Path | None) -> None:
    from fraud_pipelines.scoring_connection import ScoringConnection
    from fraud_pipelines.terminal import output

    base_url = url or f"http://127.0.0.1:{load_settings().serving_port}"
    # Fewer attempts than a program makes: a person waits, and can look.
    with ScoringConnection(base_url, _api_key(key_file) if key_file else None, retries=1) as connection:
        answer = connection.send("POST", path, json.dumps(body).encode())
    output.print_json(answer.decode())


def _api_key(file: Path) -> str:
    from fraud_pipelines.api_keys import KEY_PATTERN

    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error
    if not KEY_PATTERN.fullmatch(key):
        raise typer.BadParameter(
            f"{file} does not hold one API key, fk_<id>_<secret>. Make one: fraud keys create NAME --role score"
        )
    return key.decode()


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
    print_checks(outcome.checks)


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
