"""What people see in a terminal: one console, progress bars, tables. No logic of the domain."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fraud_pipelines import progress

# Dagster captures file descriptors 1 and 2 while a step works; a copy of the terminal stays ours.
_terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
console = Console(file=_terminal, highlight=False)
# Data may hold square brackets: nothing printed here is read as markup.
# A pipe or a log has no width: 160 columns keep a table's row on one line.
output = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 160)


def person() -> str:
    """Who is at the terminal; a container may run as a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def heading(text: str) -> None:
    """Print a line that stands out."""
    output.print(text, style="bold")


def report_error(error: Exception) -> None:
    """Print an error's kind and message on standard error, as they are."""
    console.print(Text.assemble((f"{type(error).__name__}: ", "bold red"), str(error)), soft_wrap=True)


@contextmanager
def working(title: str) -> Iterator[Any]:
    """Progress of one run: a line per step, a bar for whatever counts its rows. Yields the step listener."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        head = bars.add_task(title, total=None)
        counted: dict[str, Any] = {}

        def on_step(step: str, state: str) -> None:
            name = step.replace("__", "/")
            if state == "started":
                bars.update(head, description=f"{title}: {name}")
            else:
                mark = "[green]✓[/]" if state == "finished" else "[red]✗[/]"
                bars.console.print(f"  {mark} {name}")

        def on_count(what: str, done: int, total: int) -> None:
            if what not in counted:
                counted[what] = bars.add_task(f"  {what}", total=total)
            bars.update(counted[what], completed=done, total=total)

        with progress.listening(on_count):
            yield on_step


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table on standard output; None prints as a dash."""
    grid = Table(*columns, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    output.print(grid)


def print_checks(checks: list[Any]) -> None:
    """How many checks passed, and each that failed with its numbers."""
    failed = [check for check in checks if not check.passed]
    output.print(f"checks: {len(checks) - len(failed)} passed, {len(failed)} failed")
    for check in failed:
        numbers = ", ".join(
            f"{name}={value}" for name, value in check.metadata.items() if not isinstance(value, dict | list)
        )
        output.print(f"  {check.severity} {check.asset}: {check.name}  {numbers}")
