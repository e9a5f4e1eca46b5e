"""Both benchmarks at a small size: every part runs, on the real dbt project and real databases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import builds, features, models, parity, promotion, serving, sources
from benchmarks.handbook_features import OURS
from benchmarks.replay import replay
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.settings import PROJECT_ROOT
from fraud_pipelines.warehouse import open_warehouse

SPEC = load_spec()


def run(script, *arguments):
    """Exit code and the JSON object that a benchmark printed."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("benchmark", [features, parity, models, promotion, serving])
def test_help_shows_how_to_run_it(benchmark, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--help"])
    assert ended.value.code == 0
    assert f"python benchmarks/{Path(benchmark.__file__).name}" in capsys.readouterr().out


def test_the_cost_of_a_small_build():
    code, figures = run("features.py", "--quick", "--postgres")
    assert code == 0
    assert figures["rows"] == pytest.approx(6_000, rel=0.05)
    assert figures["features"] == len(SPEC.features)
    for name in ("cpu_us_per_row", "peak_mib", "handbook_ratio", "increment_share", "floor_ratio"):
        assert figures[name] > 0, name
    assert abs(figures["growth_exponent"]) < 2  # so few rows cost about the same as twice as many
    assert figures["floor_ratio"] > 1
    assert figures["postgres"]["server_cpu_s"] > 0
    assert [size["times"] for size in figures["sizes"]] == [1, 2]
    assert figures["sizes"][1]["rows"] == 2 * figures["rows"]


def test_a_few_payments_through_the_service():
    code, figures = run("serving.py", "--quick", "--soak", "1000")
    assert (code, figures["errors"]) == (0, 0), figures
    promised = ("cpu_ms_per_request", "p50_ms", "p99_ms", "requests_per_s", "throughput_ratio", "history_ratio")
    for name in (*promised, "batch_rows_per_s_per_core", "p99_ms_at_60_percent", "baseline_requests_per_s"):
        assert figures[name] > 0, name
    assert figures["soak"]["requests"] == 1000


def test_parity_of_a_small_history():
    code, figures = run("parity.py", "--simulate", "4000", "--days", "10")
    assert figures["mismatches"] == 0, figures
    assert code == 0
    assert figures["features"] == len(SPEC.features)
    assert figures["engines"]["cells"] == figures["rows"] * len(SPEC.features)
    assert figures["engines"]["cells_with_a_value"] > 0.5 * figures["engines"]["cells"]
    assert figures["rerun"]["duckdb"]["cells_with_a_value"] == figures["engines"]["cells_with_a_value"]
    assert figures["replay"]["transactions"] > 200
    assert figures["replay"]["label_arrivals"] > 200
    assert figures["replay"]["vector_us"]["median"] > 0
    assert len(figures["ranges"]["duckdb"]) == 2


def test_models_of_a_small_history_week_by_week():
    code, figures = run("models.py", "--quick")
    assert code == 0, figures["alarms"]
    assert figures["features"] == len(SPEC.features)
    assert len(figures["left_out"]) == 2  # weeks
    for name in ("average_precision", "recall_at_1pct_fpr", "roc_auc", "card_precision_at_100", "ece"):
        weeks = list(figures[name]["weeks"].values())
        assert figures[name]["mean"] == pytest.approx(sum(weeks) / 2, abs=1e-4), name
    assert figures["average_precision"]["mean"] > 0.2  # 1 % would be chance
    assert "reproduced" not in figures  # the published rows are about other data


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small built warehouse."""
    folder = tmp_path_factory.mktemp("small")
    url = f"duckdb:///{folder / 'warehouse.duckdb'}"
    extent = sources.load(sources.Source(None, "simulator", 1_500), url, folder)
    builds.build(url, folder / "dbt")
    return open_warehouse(url), extent


def replayed(small, folder):
    warehouse, extent = small
    return replay(warehouse, SPEC, folder / "online.sqlite", extent.last_day, extent.until, {})


def test_a_wrong_cell_in_the_warehouse_is_a_mismatch(small, tmp_path):
    warehouse, extent = small
    assert replayed(small, tmp_path / "a")["mismatches"] == 0
    change = (
        "update features.transaction_features set card_count_30d = card_count_30d {} 1 where transaction_id = "
        "(select max(transaction_id) from features.transaction_features where event_time >= :day)"
    )
    warehouse.execute(change.format("+"), day=extent.last_day)
    try:
        found = replayed(small, tmp_path / "b")
    finally:
        warehouse.execute(change.format("-"), day=extent.last_day)
    assert (found["mismatches"], found["differing_cells"]) == (1, {"card_count_30d": 1})


def test_a_row_that_the_warehouse_lacks_is_a_mismatch_of_every_feature(small, tmp_path):
    warehouse, extent = small
    row = "transaction_id = (select max(transaction_id) from raw.transactions where event_time >= :day)"
    kept = warehouse.query_arrow(f"select * from features.transaction_features where {row}", day=extent.last_day)
    warehouse.execute(f"delete from features.transaction_features where {row}", day=extent.last_day)
    try:
        assert replayed(small, tmp_path)["mismatches"] == len(SPEC.features)
    finally:
        with warehouse.session() as session:
            session.load("features.transaction_features", kept)


def test_any_mismatch_makes_the_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(parity.Parity, "run", lambda self: {"mismatches": 1})
    assert parity.main(["--simulate", "1000"]) == 1
    monkeypatch.setattr(parity.Parity, "run", lambda self: {"mismatches": 0})
    assert parity.main(["--simulate", "1000"]) == 0


def test_copies_have_cards_and_merchants_of_their_own(small, tmp_path):
    warehouse, extent = small
    thrice = sources.extent(open_warehouse(sources.multiply(warehouse.url, tmp_path / "thrice.duckdb", 3)))
    assert thrice.transactions == 3 * extent.transactions
    assert (thrice.cards, thrice.merchants) == (3 * extent.cards, 3 * extent.merchants)
    assert (thrice.since, thrice.until) == (extent.since, extent.until)


def test_a_sample_keeps_whole_cards(tmp_path):
    source = sources.Source(None, "simulator", 1_500)
    counts = []
    for share in (1.0, 0.4):
        folder = tmp_path / str(share)
        url = f"duckdb:///{folder / 'warehouse.duckdb'}"
        folder.mkdir()
        sources.load(source, url, folder, card_share=share)
        counts.append(open_warehouse(url).query("select card_id, count(*) as n from raw.transactions group by 1"))
    everything, sampled = (dict(zip(rows["card_id"], rows["n"], strict=True)) for rows in counts)
    assert 0 < len(sampled) < len(everything)
    assert sampled == {card: everything[card] for card in sampled}


def test_the_handbooks_project_has_its_fifteen_features(tmp_path):
    project = builds.project_with(OURS, tmp_path / "project")
    spec = load_spec(project / "models" / "features" / "transaction_features.yml")
    assert set(spec.names) == set(OURS)
    with pytest.raises(ValueError, match="has no nonsense"):
        builds.project_with(["nonsense"], tmp_path / "other")


def test_a_build_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"nowhere\.duckdb failed"):
        builds.build(f"duckdb:///{tmp_path / 'nowhere.duckdb'}", tmp_path / "dbt")
