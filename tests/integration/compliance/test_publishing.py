"""Documents printed twice: from the same facts, after re-runs, after a rollback, after the file was lost."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fraud_pipelines import tables
from fraud_pipelines.compliance.archive import verify_archive
from fraud_pipelines.compliance.documents import MODEL_CARD, evidence_rows, model_card
from fraud_pipelines.compliance.model_card import render_markdown
from fraud_pipelines.compliance.publishing import compose_as_first_printed, publish
from fraud_pipelines.errors import ContractBroken, NoChampion
from fraud_pipelines.ledger import Promotion, open_ledger
from fraud_pipelines.models.registry import Registry, open_registry
from tests import compliance_world as world
from tests.served_models import tiny_bundle


class Office:
    """A world with a ledger and a registry whose versions 1 to 3 are real, and the documents printed from it."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.warehouse = world.build_world(folder)
        self.ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.registry = registry
        self.root = folder / "reports"
        self.materialized = world.materialized()
        for ingestion in world.ingestions()[:1]:
            self.ledger.record_ingestion(ingestion)
        for promotion in world.promotions():
            self.ledger.record_promotion(promotion)

    def compose(self, as_of=None):
        return compose_as_first_printed(
            self.warehouse, self.ledger, self.registry,
            kind=MODEL_CARD, compose=model_card, as_of=as_of, materialized=self.materialized,
        )  # fmt: skip

    def print(self, as_of=None, render=lambda document: render_markdown(document).encode()):
        return publish(self.compose(as_of), render, ledger=self.ledger, kind=MODEL_CARD, root=self.root, suffix=".md")

    def run_again(self) -> None:
        self.materialized = {
            key: replace(evidence, run_id="another", partition="2026-03-30", data_hash="99" * 32)
            for key, evidence in self.materialized.items()
        }


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    folder = tmp_path_factory.mktemp("registry")
    opened = open_registry(f"sqlite:///{folder / 'mlflow.sqlite'}", str(folder / "artifacts"))
    for version in ("1", "2", "3"):
        tiny_bundle(seed=int(version)).save(folder / version)
        assert opened.register(folder / version, params={}, metrics={}, figures={}, tags={}) == version
    return opened


@pytest.fixture
def office(tmp_path, registry) -> Office:
    return Office(tmp_path, registry)


def test_a_rerun_on_unchanged_data_gives_the_same_report_the_same_bytes_and_the_first_evidence(office):
    report = office.print()
    path = office.root / report.path
    content, index = path.read_bytes(), evidence_rows(office.compose().document)
    office.run_again()
    again = office.compose()
    assert again.is_reprint
    assert evidence_rows(again.document).equals(index)
    assert office.print() == report
    assert path.read_bytes() == content
    assert len(office.ledger.reports()) == 1
    # What `fraud report --as-of` of the report's own moment prints is the same document.
    assert office.print(f"{world.AS_OF:%Y-%m-%dT%H:%M}") == report


def test_a_lost_or_edited_file_comes_back_as_archived_or_not_at_all(office):
    report = office.print()
    path = office.root / report.path
    path.write_bytes(b"edited")
    office.run_again()
    with pytest.raises(ContractBroken, match="nothing was written"):
        office.print(render=lambda document: b"other libraries, other bytes")
    assert path.read_bytes() == b"edited"
    assert office.print() == report
    assert [file.is_intact for file in verify_archive(office.ledger.reports(), office.root)] == [True]


def test_changed_facts_give_another_report_in_the_chain(office):
    first = office.print()
    office.warehouse.execute(f"update {tables.PERFORMANCE.name} set unlabelled_rows = 18")
    second = office.print()
    assert second.report_id != first.report_id
    assert second.previous_sha256 == first.sha256


def test_a_report_as_of_an_earlier_moment_is_about_the_champion_of_then(office):
    """Version 1 from 10 March, version 3 from 1 April; a rollback on 2 April, when the data ended on 31 March."""
    rollback = Promotion("rollback", "1", "3", "someone", "alerts", [], None, world.AS_OF + timedelta(hours=30))
    with pytest.raises(NoChampion, match="as of 2026-03-09"):
        office.compose("2026-03-09")
    assert office.compose().facts.model_version == "3"
    before = office.print("2026-03-31")
    office.ledger.record_promotion(rollback)
    facts = office.compose("2026-03-31").facts
    assert facts.model_version == "1"
    assert list(facts.promotions.rows["model_version"]) == ["1", "2"]  # neither version 3 nor the rollback
    assert office.print("2026-03-31") == before
    present = office.compose().facts
    assert present.model_version == "1" == office.ledger.champion_at()
    assert list(present.promotions.rows["kind"]) == ["promote", "refuse", "promote", "rollback"]
