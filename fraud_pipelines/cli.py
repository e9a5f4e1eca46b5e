"""The command `fraud`: its commands parse, call and print; what they run are jobs and domain functions."""

import gc
import sys
from typing import NoReturn

import typer

from fraud_pipelines.commands import access, challenge, data, models, services
from fraud_pipelines.errors import FraudPipelinesError

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
for commands in (data, models, challenge, services, access):
    app.add_typer(commands.app)


def main() -> NoReturn:
    """Run the command line; errors of the project end with their own exit code and no traceback."""
    # Imports make hundreds of thousands of objects that live as long as the process, and the collector, which looks
    # for garbage after every 700 of them, finds none: a quarter of the time until a command starts.
    gc.set_threshold(50_000, 20)
    try:
        app()
        sys.exit(0)
    except FraudPipelinesError as error:
        from fraud_pipelines.terminal import report_error

        report_error(error)
        sys.exit(error.exit_code)
