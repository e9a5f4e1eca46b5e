"""The Dagster UI as an engineer meets it, in a real browser: look at the lineage, run an asset, read a check."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.installation import DEMO_DAYS, ROOT, free_port, wait_for

STAGES = ("raw", "staging", "features", "models", "monitoring", "compliance", "operations")
SLOW = 120_000  # a run starts a process and imports the code location


@pytest.fixture(scope="module")
def ui(moved) -> Iterator[str]:
    """`fraud ui` on a copy of the demo's installation: webserver and daemon."""
    port = free_port()
    log = (moved.home / "ui.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "fraud_pipelines", "ui", "--port", str(port)],
        cwd=ROOT, env=moved.environment, stdout=log, stderr=subprocess.STDOUT,
        # A group of its own, to be ended whole. Whatever starts the tests in the background ignores SIGINT, and what is
        # ignored stays so in every process below.
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/server_info", process, moved.home / "ui.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_lineage_page_shows_every_stage_and_fetches_nothing_from_elsewhere(page, ui):
    page.goto(f"{ui}/asset-groups")
    for stage in STAGES:
        expect(page.get_by_text(stage, exact=True).first).to_be_visible()
    assert {url.split("/")[2] for url in page.requested if url.startswith("http")} == {ui.split("/")[2]}


def test_an_asset_page_tells_grain_columns_and_rows(page, ui):
    page.goto(f"{ui}/assets/features/transaction_features")
    expect(page.get_by_text("One row per transaction", exact=False).first).to_be_visible()
    expect(page.get_by_text("card_count_24h").first).to_be_visible()
    expect(page.get_by_text("fraud-models").first).to_be_visible()


def test_materializing_an_asset_runs_it_and_its_check_results_are_there_to_read(page, ui):
    page.goto(f"{ui}/assets/compliance/evidence_index")
    page.locator("button", has_text="Materialize").first.click()
    page.get_by_text("Launched run").wait_for()
    page.get_by_text("View", exact=True).click()
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=SLOW)
    page.goto(f"{ui}/assets/compliance/evidence_index?view=checks&checkDetail=every_printed_number_has_evidence")
    expect(page.get_by_text("every_printed_number_has_evidence").locator("visible=true").first).to_be_visible()
    expect(page.get_by_text("Passed").locator("visible=true").first).to_be_visible()
    expect(page.get_by_role("cell", name="printed_values")).to_be_visible()


def test_the_days_of_the_demo_are_shown_as_materialized(page, ui):
    page.goto(f"{ui}/assets/features/transaction_features?view=partitions")
    # The days of payments, and 7 more of label arrivals.
    expect(page.get_by_text(f"Materialized ({DEMO_DAYS + 7})")).to_be_visible()
