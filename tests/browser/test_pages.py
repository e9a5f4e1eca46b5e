"""Pages people open besides those of Dagster: the service, the drift report. Neither asks anybody else for anything."""

import re
from pathlib import Path

from playwright.sync_api import expect


def test_the_service_page_documents_the_endpoint_and_scores_its_example(page, moved):
    with moved.serving() as base_url:
        page.goto(base_url)
        expect(page.get_by_text("/score").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        page.get_by_text("/score").first.click()
        page.get_by_role("button", name="Try it out").first.click()
        page.get_by_role("button", name="Execute").first.click()
        expect(page.get_by_text(re.compile("APPROVE|REVIEW|BLOCK")).locator("visible=true").first).to_be_visible()
        assert {url.split("/")[2] for url in page.requested if url.startswith("http")} == {base_url.split("/")[2]}


def test_the_drift_page_opens_without_a_network(page, demo):
    (path,) = sorted(Path(demo.home / "reports" / "drift").glob("*.html"))[-1:]
    page.goto(path.as_uri())
    expect(page.get_by_text(re.compile("Verdict of .*: has( not)? drifted"))).to_be_visible()
    # Evidently draws below it.
    expect(page.get_by_text(re.compile("Drift in column")).locator("visible=true").first).to_be_visible()
    assert {url for url in page.requested if url.startswith("http")} == set()
