"""What documents say: every number a fact, every fact with evidence, findings where they belong."""

import re
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.compliance.archive import card_number_places, latest_report, verify_archive, write_document
from fraud_pipelines.compliance.blocks import NOT_AVAILABLE, Grid, numbered_facts, texts_by_hand
from fraud_pipelines.compliance.documents import (
    COMPLIANCE_REPORT,
    compliance_report,
    evidence_rows,
    identity_of,
    model_card,
    without_evidence,
)
from fraud_pipelines.compliance.findings import open_findings
from fraud_pipelines.compliance.model_card import render_markdown
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.ledger import Report
from tests import compliance_world as world


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return world.gather(world.build_world(tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def bare_facts(tmp_path_factory):
    """The same world before any monitoring ran, with no materialization known."""
    warehouse = world.build_world(tmp_path_factory.mktemp("bare"), has_monitoring=False)
    return world.gather(warehouse, materialized={})


def words(finding) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in finding.parts)


def test_no_number_is_typed_by_hand(facts):
    typed = [text for text in texts_by_hand(compliance_report(facts)) if re.search(r"\d", text)]
    assert typed == []


def test_every_printed_number_has_evidence(facts):
    rows = evidence_rows(compliance_report(facts))
    assert len(rows) > 300
    assert without_evidence(rows).empty
    assert not rows["number_id"].duplicated().any()
    assert set(rows.columns) == set(tables.EVIDENCE_INDEX.columns)


def test_a_number_without_run_or_hash_is_found_and_what_is_not_available_is_not():
    rows = pd.DataFrame(
        [
            ("ok", "monitoring/drift", "run", "hash", "1"),
            ("no run", "monitoring/drift", None, "hash", "1"),
            ("no hash", "monitoring/drift", "run", None, "1"),
            ("ledger rows have no run", "ledger/promotions", None, "hash", "1"),
            ("nothing printed", "monitoring/drift", None, None, NOT_AVAILABLE),
        ],
        columns=["label", "asset", "run_id", "data_hash", "printed_value"],
    ).assign(code_version="v")
    assert list(without_evidence(rows)["label"]) == ["no run", "no hash"]


def test_numbers_come_from_the_tables(facts):
    rows = evidence_rows(compliance_report(facts))
    printed = rows.groupby("label")["printed_value"].first()
    assert printed["PR-AUC, out of time"] == "0.7123 (0.6767 to 0.7479)"
    assert printed["Recall at one percent FPR"] == "76.54 % (72.71 % to 80.37 %)"
    assert printed["average_precision, 1"] == "0.6838"  # judged before intervals were stored
    interval = rows.set_index("label").loc["average_precision, 3"]
    assert (interval["asset"], interval["data_hash"]) == ("models/evaluation", facts.evaluation.evidence.data_hash)
    assert printed["Transactions"] == "6,000"
    assert printed["Left out: label not known"] == "17"
    assert printed["Training rows"] == "91,234"
    source = rows.set_index("label").loc["Left out: label not known"]
    assert (source["asset"], source["partition"]) == ("monitoring/performance", "2026-03-31")


def test_only_what_was_known_by_then_is_counted(tmp_path):
    warehouse = world.build_world(tmp_path)
    as_of = world.AS_OF - timedelta(days=40)
    facts = world.gather(warehouse, as_of=as_of)
    transactions = warehouse.read(tables.TRANSACTIONS)
    labels = warehouse.read(tables.LABELS)
    before = transactions["event_time"] < as_of
    assert facts.population.rows["rows"].iloc[0] == before.sum()
    known = labels[
        (labels["known_at"] <= as_of) & labels["transaction_id"].isin(transactions.loc[before, "transaction_id"])
    ]
    assert facts.months.rows["labelled_rows"].sum() == len(known)
    assert facts.months.rows["fraud_count"].sum() == known["is_fraud"].sum()
    assert not facts.drift.is_available  # computed for a later day
    assert facts.promotions.rows.empty  # the first one is about a later moment


def test_a_source_that_reaches_past_the_moment_is_named_without_its_counts(tmp_path):
    facts = world.gather(world.build_world(tmp_path), as_of=world.AS_OF - timedelta(days=40))
    row = facts.ingestions.rows.iloc[0]
    assert row["source_name"] == "transactions.parquet"
    assert row[["rows_read", "rows_loaded", "rows_quarantined", "labels_loaded"]].isna().all()
    printed = evidence_rows(compliance_report(facts)).groupby("label")["printed_value"].first()
    assert printed["Quarantined rows"] == NOT_AVAILABLE
    assert facts.quarantine.rows.empty


def test_quarantine_counts_sources_that_lie_before_the_moment(tmp_path):
    warehouse = world.build_world(tmp_path)  # three rows of source i1, January to March
    later = warehouse.read(tables.QUARANTINE).assign(ingestion_id="i2")  # a source of May
    warehouse.upsert(tables.QUARANTINE, later)
    assert list(world.gather(warehouse).quarantine.rows["rows"]) == [2, 1]


def test_results_of_other_versions_are_not_printed(tmp_path):
    """Version 4 scored the newest day; the report of version 3 prints what version 3 did, and says how old it is."""
    warehouse = world.build_world(tmp_path)
    for table in (tables.PERFORMANCE, tables.FAIRNESS, tables.DRIFT):
        rows = warehouse.read(table)
        changed = rows.assign(model_version="4", rows=1) if "rows" in rows else rows.assign(model_version="4")
        warehouse.execute(f"update {table.name} set day = day - interval '1 day'")
        warehouse.upsert(table, changed)
    facts = world.gather(warehouse)
    for group in (facts.performance, facts.fairness, facts.drift):
        assert set(group.rows["model_version"]) == {"3"}
        assert set(group.rows["day"]) == {pd.Timestamp("2026-03-30")}
    assert set(facts.performance.rows["rows"]) == {world.ROWS}
    assert [words(finding) for finding in open_findings(facts)] == [
        f"{name} was last computed for 2026-03-30." for name in ("Performance", "Fairness", "Drift")
    ]


def test_curves_and_explanations_belong_to_the_evaluation_printed(tmp_path):
    """An evaluation of the same version a week after the report's moment, on 100 rows, must not show."""
    warehouse = world.build_world(tmp_path)
    before = world.gather(warehouse)
    moment = pd.Timestamp(world.AS_OF + timedelta(days=7)).as_unit("us")
    for table in (tables.EVALUATIONS, tables.EVALUATION_SCORES, tables.ATTRIBUTIONS):
        warehouse.upsert(table, warehouse.read(table).head(100).assign(as_of=moment, model_version="3"))
    assert world.gather(warehouse).content_hash == before.content_hash
    later = world.gather(warehouse, as_of=moment.to_pydatetime())
    assert len(later.evaluation_scores.rows) == 100
    assert set(later.attributions.rows["as_of"]) == {moment}


def test_nothing_to_report_on_is_an_error_with_a_next_command(tmp_path):
    with pytest.raises(ContractBroken, match="fraud report --as-of"):
        world.gather(world.build_world(tmp_path), as_of=world.START)


def test_the_sources_of_later_days_are_left_out(facts):
    assert list(facts.ingestions.rows["source_name"]) == ["transactions.parquet"]


def test_a_world_in_order_has_no_findings(facts):
    assert [words(finding) for finding in open_findings(facts)] == []


def test_missing_evidence_is_said_everywhere_and_found(bare_facts):
    findings = [words(finding) for finding in open_findings(bare_facts)]
    assert f"Drift: {NOT_AVAILABLE}." in findings
    assert f"Group fairness: {NOT_AVAILABLE}." in findings
    document = compliance_report(bare_facts)
    rows = evidence_rows(document)
    assert (rows["printed_value"] == NOT_AVAILABLE).sum() >= 8
    assert (rows["printed_value"].str.strip() != "").all()
    assert all(block.rows for block in document.blocks if isinstance(block, Grid))


def test_findings_name_parity_gates_promotion_and_old_monitoring(facts):
    parity = replace(
        facts.parity, rows=facts.parity.rows.assign(mismatch_count=[2, *[0] * (len(facts.parity.rows) - 1)])
    )
    gates = replace(facts.gates, rows=facts.gates.rows.assign(passed=[False, True]))
    promotions = replace(facts.promotions, rows=facts.promotions.rows[facts.promotions.rows["model_version"] != "3"])
    later = replace(facts, as_of=facts.as_of + timedelta(days=2))
    assert "2 served feature values differ" in words(open_findings(replace(facts, parity=parity))[0])
    assert words(open_findings(replace(facts, gates=gates))[0]).startswith(
        "Gate failed: average_precision_is_high_enough"
    )
    assert "no promotion of version 3" in words(open_findings(replace(facts, promotions=promotions))[0])
    assert [words(finding) for finding in open_findings(later)] == [
        f"{name} was last computed for 2026-03-31." for name in ("Performance", "Fairness", "Drift")
    ]


def test_drifted_inputs_are_a_warning_with_the_worst_feature(facts):
    drift = replace(facts.drift, rows=facts.drift.rows.assign(is_drifted=True))
    (finding,) = open_findings(replace(facts, drift=drift))
    assert finding.tone == "warning"
    assert "worst amount" in words(finding)


def test_one_changed_number_changes_the_content_hash(facts):
    changed = facts.fairness.rows.copy()
    changed.loc[0, "rows"] += 1
    assert replace(facts, fairness=replace(facts.fairness, rows=changed)).content_hash != facts.content_hash
    other_code = replace(facts.fairness.evidence, code_version="another")
    assert replace(facts, fairness=replace(facts.fairness, evidence=other_code)).content_hash != facts.content_hash


def test_a_run_on_unchanged_data_does_not_change_the_content_hash(facts):
    def again(evidence):
        return replace(evidence, run_id="another", partition="2026-03-30", data_hash="99" * 32)

    rerun = {
        name: replace(group, evidence=replace(group.evidence, run_id="another")) for name, group in facts.sourced()
    }
    later = replace(facts, **rerun, lineage=tuple(again(evidence) for evidence in facts.lineage))
    # Code and ledger have no run; giving them one is a change.
    kept = {name: group for name, group in facts.sourced() if group.evidence.run_id is None}
    assert replace(later, **kept).content_hash == facts.content_hash
    never = (replace(facts.lineage[0], run_id=None), *facts.lineage[1:])
    assert replace(facts, lineage=never).content_hash != facts.content_hash


def test_reports_are_chained_and_a_repeated_one_keeps_its_predecessor(facts):
    first = identity_of(facts, COMPLIANCE_REPORT, [])
    assert first.previous_hash is None
    archived = [Report(first.report_id, COMPLIANCE_REPORT, "3", "a.pdf", "11" * 32, None)]
    later = replace(facts, as_of=facts.as_of + timedelta(days=1))
    second = identity_of(later, COMPLIANCE_REPORT, archived)
    assert second.previous_hash == "11" * 32
    assert second.report_id != first.report_id
    archived.append(Report(second.report_id, COMPLIANCE_REPORT, "3", "b.pdf", "22" * 32, "11" * 32))
    assert identity_of(facts, COMPLIANCE_REPORT, archived) == first
    assert identity_of(later, COMPLIANCE_REPORT, archived) == second


def test_the_model_card_says_the_same_numbers_in_markdown(facts):
    card = render_markdown(model_card(facts))
    assert card == render_markdown(model_card(facts))
    assert card.startswith("# Model card: fraud-scorer version 3")
    assert "|PR-AUC (average precision)|0.7123 (0.6767 to 0.7479)|0.6838|" in card
    assert "SR 26-2 (formerly SR 11-7)" in card
    assert "complies" not in card


def test_a_card_number_is_never_written(facts, tmp_path):
    reason = facts.promotions.rows.copy()
    reason.loc[0, "reason"] = "asked for by holder of 4111 1111 1111 1111"  # a published test number
    document = compliance_report(replace(facts, promotions=replace(facts.promotions, rows=reason)))
    assert len(card_number_places(document)) == 1
    with pytest.raises(ContractBroken, match=r"card number stands at 9\.7"):
        write_document(document, b"x", kind=COMPLIANCE_REPORT, root=tmp_path, suffix=".pdf")
    assert list(tmp_path.iterdir()) == []
    assert card_number_places(compliance_report(facts)) == []


def test_an_edited_or_lost_file_is_named(facts, tmp_path):
    report = write_document(compliance_report(facts), b"content", kind=COMPLIANCE_REPORT, root=tmp_path, suffix=".pdf")
    (file,) = verify_archive([report], tmp_path)
    assert file.is_intact
    path = tmp_path / COMPLIANCE_REPORT / f"{report.report_id}.pdf"
    assert file.path == path
    path.write_bytes(b"contenT")
    (file,) = verify_archive([report], tmp_path)
    assert not file.is_intact
    assert file.found_sha256 not in (None, report.sha256)
    path.unlink()
    (file,) = verify_archive([report], tmp_path)
    assert not file.is_intact
    assert file.found_sha256 is None
    assert latest_report([report], COMPLIANCE_REPORT) == report
    assert latest_report([report], "other") is None


def test_the_archive_is_verified_where_an_installation_has_moved_to(facts, tmp_path):
    report = write_document(
        compliance_report(facts), b"content", kind=COMPLIANCE_REPORT, root=tmp_path / "here", suffix=".pdf"
    )
    (tmp_path / "here").rename(tmp_path / "there")
    assert [file.is_intact for file in verify_archive([report], tmp_path / "there")] == [True]
    assert [file.found_sha256 for file in verify_archive([report], tmp_path / "here")] == [None]


def test_number_ids_count_within_a_section(facts):
    ids = [number for number, _, _ in numbered_facts(compliance_report(facts))]
    assert ids[0] == "1.1"
    for section in {number.split(".")[0] for number in ids}:
        positions = [int(number.split(".")[1]) for number in ids if number.split(".")[0] == section]
        assert positions == list(range(1, len(positions) + 1))


def test_what_was_not_computed_is_printed_as_not_available(bare_facts):
    """A missing table, drift and curves: never blank, never left out."""
    nothing = replace(bare_facts.evaluation_scores, rows=bare_facts.evaluation_scores.rows.iloc[:0])
    rows = evidence_rows(compliance_report(replace(bare_facts, evaluation_scores=nothing)))
    missing = set(rows.loc[rows["printed_value"] == NOT_AVAILABLE, "label"])
    assert {"Drift", "Curves", "In operation, on mature labels", "Rates per group"} <= missing


def test_a_fairness_finding_names_the_group(facts):
    rates = facts.fairness.rows.copy()
    rates.loc[rates["group_name"] == "south", "false_positive_rate"] = 0.2
    (finding,) = open_findings(replace(facts, fairness=replace(facts.fairness, rows=rates)))
    assert words(finding).startswith("False positive rates by region differ by a factor of at least ")
    assert "south" in words(finding)


def test_how_the_thresholds_were_chosen_is_said_with_its_costs(facts):
    card = render_markdown(model_card(facts))
    assert "2026-02-25 to 2026-03-04 (exclusive; 10,003 of them, 88 frauds)" in card
    assert "a review 5.00 (0.00 more on a genuine transaction) and catches 95.00 % of frauds" in card
    assert "at most 143 reviews a day" in card
    assert re.search(r"\|Cost of a thousand transactions\|1,099\.60 \([\d,.]+ to [\d,.]+\)\|", card)


def test_thresholds_that_were_not_chosen_are_called_defaults(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "MODEL", replace(world.MODEL, policy=None))
    without = world.gather(world.build_world(tmp_path))
    assert "Both thresholds are the project's defaults" in render_markdown(model_card(without))


def test_how_the_model_won_and_what_simpler_ones_reach_is_said(facts):
    text = render_markdown(model_card(facts))
    assert "31,007 transactions with 299 frauds of 21 days. Registered is XGBoost" in text
    assert "|XGBoost|0.7212|0.0021|0.0033|yes|" in text
    assert "|single tree|0.6789|0.0444|0.0111|no|" in text
    # 0.7123 * 0.9 and * 0.2: the table of baselines, in the order of their names.
    assert "|PR-AUC (average precision)|0.1425|0.6411|" in text
    assert "version single_tree" not in text


def test_a_model_without_a_comparison_has_no_table_of_contenders(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "MODEL", replace(world.MODEL, comparison=None))
    text = render_markdown(model_card(world.gather(world.build_world(tmp_path))))
    assert "Models that competed" not in text
