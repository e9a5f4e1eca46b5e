"""docs/adding-a-feature.md, done as it says: its entry, its dictionary row, its commands, and a right column."""

import re
import shutil

import pandas as pd
import pytest

from benchmarks import builds, sources
from fraud_pipelines.features.dictionary import render
from fraud_pipelines.features.spec import SPEC_PATH, load_spec, parse_spec
from fraud_pipelines.settings import PROJECT_ROOT
from fraud_pipelines.warehouse import open_warehouse

PAGE = (PROJECT_ROOT / "docs" / "adding-a-feature.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
(ENTRY,) = [text for language, text in BLOCKS if language == "yaml"]
(ROW,) = [text.strip() for language, text in BLOCKS if language == ""]
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
(NEIGHBOUR,) = re.findall(r"here below\s`(\w+)`:", PAGE)
NAME = "merchant_amount_max_7d"


def spec_with_the_entry():
    """The project's spec with the entry where the page says."""
    text = SPEC_PATH.read_text(encoding="utf-8")
    below = text.index(f"      - name: {NEIGHBOUR}\n")
    following = text.index("\n      - name: ", below + 1) + 1
    return text[:following] + ENTRY + text[following:]


def test_the_entry_adds_one_feature_below_its_neighbour():
    names, before = parse_spec(spec_with_the_entry()).names, load_spec().names
    assert NAME not in before
    assert [name for name in names if name != NAME] == list(before)
    assert names[names.index(NAME) - 1] == NEIGHBOUR


def test_the_dictionary_gains_the_row_that_the_page_shows():
    before = render(load_spec()).splitlines()
    after = render(parse_spec(spec_with_the_entry())).splitlines()
    assert [line for line in after if line not in before and "features; definition" not in line] == [ROW]


def test_every_command_and_file_that_the_page_names_exists():
    targets = re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert COMMANDS
    for command in COMMANDS:
        program, *words = command.split()
        assert program in ("make", "fraud", ".venv/bin/pytest")  # of fraud: test_commands_in_messages.py
        assert program != "make" or set(words) <= set(targets)
        assert program != ".venv/bin/pytest" or all((PROJECT_ROOT / word).exists() for word in words)
    paths = re.findall(r"`((?:[\w.]+/)+[\w.]*)`", PAGE)
    assert len(paths) >= 7
    assert [path for path in paths if not (PROJECT_ROOT / path).exists()] == []
    assert "\n## Measures\n" in render(load_spec())


def test_the_next_run_fills_the_new_column(tmp_path):
    url = f"duckdb:///{tmp_path / 'warehouse.duckdb'}"
    sources.load(sources.Source(None, "simulator", 2_000), url, tmp_path)
    builds.build(url, tmp_path / "dbt")
    before = features(url, load_spec().names)

    project = tmp_path / "project"
    shutil.copytree(builds.PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    (project / "models" / "features" / SPEC_PATH.name).write_text(spec_with_the_entry(), encoding="utf-8")
    builds.build(url, tmp_path / "dbt", project=project)

    pd.testing.assert_frame_equal(features(url, load_spec().names), before, check_exact=True)
    expected = open_warehouse(url).query(
        "select t.transaction_id, max(p.amount_minor) / 100.0 as largest from raw.transactions t "
        "left join raw.transactions p on p.merchant_id = t.merchant_id and p.event_time < t.event_time "
        "and p.event_time > t.event_time - interval 7 day group by all order by t.transaction_id"
    )
    assert expected["largest"].notna().sum() > 1_000
    found = features(url, [NAME])
    assert list(found.index) == list(expected["transaction_id"])
    assert found[NAME].tolist() == pytest.approx(expected["largest"].tolist(), nan_ok=True, rel=0, abs=0)


def features(url, names):
    """The feature table by transaction."""
    rows = open_warehouse(url).query(f"select transaction_id, {', '.join(names)} from features.transaction_features")
    return rows.set_index("transaction_id").sort_index()
