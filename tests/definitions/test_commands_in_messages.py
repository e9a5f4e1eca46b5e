"""A message, page or docstring that names a command names one that exists, with options that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fraud_pipelines.cli import app
from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.orchestration.selection import select

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fraud_pipelines", "assets", "checks", "serving")
# Stands for whatever an f-string fills in.
FILLED = "FILLED"

_NAMED = re.compile(r"\bfraud (?P<name>[a-z]+)\b")
# Before a command that is to be run as it stands: it must be whole.
_TOLD = re.compile(r"(?:: {1,2}|:\n *|\b[Rr]un |\|   |\n *|^)$")
# Before a word that surely is a command, whole or not ("`fraud promote` and `fraud rollback` restore the alias").
_QUOTED = re.compile(r"(?:`|\.venv/bin/)$")
# Where the sentence goes on after a command.
_ENDS = re.compile(r"[\n`#;|]|\.(?:\s|$)|,(?:\s|$)|\s\(|\s{2}|\s(?:then|and|or)\s|\s[<>]|\)")
_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|\S+")


COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def problems(text: str) -> Iterator[str]:
    """What is wrong with the commands that a text names; words such as "fraud probability" are none."""
    for match in _NAMED.finditer(text):
        before, name = text[: match.start()], match["name"]
        is_told, is_quoted = bool(_TOLD.search(before)), bool(_QUOTED.search(before))
        rest = text[match.end() :]
        end = _ENDS.search(rest)
        tokens = _TOKEN.findall(rest[: end.start()] if end else rest)
        words = f"fraud {name} {' '.join(tokens)}".strip()
        if name not in COMMANDS:
            if is_quoted or is_told or "--" in tokens:
                yield f"{words}: no such command"
            continue
        command = COMMANDS[name]
        if hasattr(command, "commands"):  # a command of commands, such as `fraud keys`
            if tokens and tokens[0] not in command.commands:
                yield f"{words}: no such command"
            if not tokens or tokens[0] not in command.commands:
                continue
            command, tokens = command.commands[tokens[0]], tokens[1:]
        yield from (f"{words}: {problem}" for problem in _misused(command, tokens, is_told))


def _misused(command: Any, tokens: list[str], is_told: bool) -> Iterator[str]:
    options = {name: option for option in command.params if option.param_type_name == "option" for name in option.opts}
    given, arguments, waiting = set(), [], False
    for token in tokens:
        if token.startswith("-") and token != "-":
            option = options.get(token)
            if option is None and token not in ("-h", "--help"):
                yield f"no option {token}"
            given.add(option)
            waiting = option is None or not option.is_flag
        elif waiting:
            waiting = False
        else:
            arguments.append(token)
    if not is_told:
        return
    required = [parameter for parameter in command.params if parameter.required]
    for option in required:
        if option.param_type_name == "option" and option not in given:
            yield f"{option.opts[0]} is required"
    if len(arguments) < sum(parameter.param_type_name == "argument" for parameter in required):
        yield "an argument is missing"
    if command.name == "materialize":
        for word in arguments:
            # Capitals stand for the reader's own choice.
            if not word.isupper():
                try:
                    select([word])
                except SettingInvalid:
                    yield f"{word} is no stage or asset"


def python_texts(path: Path) -> Iterator[str]:
    """Every string of a module, docstrings included; what an f-string fills in becomes FILLED."""
    tree = ast.parse(path.read_text())
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and node not in parts - {node}:
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.value


def sources() -> list[Path]:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted([*modules, ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_named_exists_with_its_options(path):
    texts = python_texts(path) if path.suffix == ".py" else [path.read_text()]
    assert [problem for text in texts for problem in problems(text)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run: fraud materialize features --from 2026-01-01 --to 2026-01-31", []),
        ("Run: fraud materialize ASSET --from DAY --to DAY, then: fraud train", []),
        ("Run: fraud ingest FILE --mapping NAME", []),
        ("the fraud probability and fraud share of a day", []),
        ("runs any `fraud promote` or `fraud rollback`", []),
        ("Run: fraud materialize --since 2026-01-01", [
            "fraud materialize --since 2026-01-01: no option --since",
            "fraud materialize --since 2026-01-01: an argument is missing",
        ]),
        ("Run: fraud train, then: fraud materialize", ["fraud materialize: an argument is missing"]),
        ("Run: fraud materialize for the missing days.", [
            f"fraud materialize for the missing days: {word} is no stage or asset"
            for word in ("for", "the", "missing", "days")
        ]),
        ("by hand: fraud promote 3 --force", ["fraud promote 3 --force: --reason is required"]),
        ("Run: fraud promote --force --reason 'WHY'", ["fraud promote --force --reason 'WHY': an argument is missing"]),
        ("Run: fraud keys create NAME --role score", []),
        ("Run: fraud keys create NAME", ["fraud keys create NAME: --role is required"]),
        ("Run: fraud keys forge NAME", ["fraud keys forge NAME: no such command"]),
        ("with `fraud retrain`", ["fraud retrain: no such command"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_command_is_found(text, expected):
    assert list(problems(text)) == expected


def test_f_strings_are_read_as_one_text(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('day = 1\nwords = (\n    f"Run: fraud materialize --since {day:%Y} "\n    "--to DAY"\n)\n')
    assert "Run: fraud materialize --since FILLED --to DAY" in list(python_texts(module))
