"""The PDF as a reader meets it: text, outline, header, bytes, pages."""

import io
import shutil
import subprocess

import pytest
from pypdf import PdfReader

from fraud_pipelines.compliance.documents import compliance_report
from fraud_pipelines.compliance.layout import render_pdf
from tests import compliance_world as world


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return compliance_report(world.gather(world.build_world(tmp_path_factory.mktemp("world"))))


@pytest.fixture(scope="module")
def pdf(document) -> bytes:
    return render_pdf(document)


@pytest.fixture(scope="module")
def pages(pdf) -> list[str]:
    return [" ".join(page.extract_text().replace("\u200b", "").split()) for page in PdfReader(io.BytesIO(pdf)).pages]


def test_the_same_document_gives_the_same_bytes(document, pdf):
    assert render_pdf(document) == pdf


def test_it_is_short_and_every_page_says_what_it_is(document, pages):
    identity = document.identity
    assert 6 <= len(pages) <= 14
    for number, text in enumerate(pages, start=1):
        for expected in (
            "Compliance report · fraud-scorer version 3",
            identity.report_id,
            identity.content_hash[:32],
            "none (first report)",
            "2026-01-01 to 2026-04-01 (exclusive)",
            "generated, not edited",
            f"page {number} of {len(pages)}",
        ):
            assert expected in text, (number, expected)


def test_the_contents_name_the_pages_the_sections_are_on(pdf, pages):
    reader = PdfReader(io.BytesIO(pdf))
    outline = {entry.title: reader.get_destination_page_number(entry) + 1 for entry in reader.outline}
    assert [title.split()[0] for title in outline] == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "A", "B"]
    for title, page in outline.items():
        assert title in pages[page - 1], title
    contents = pages[0][pages[0].index("Contents") :]
    assert "Placeholder" not in contents
    for title, page in outline.items():
        # ReportLab draws the page number of an entry before its words.
        assert f" {page} {title}" in contents, title


def test_numbers_and_words_an_auditor_looks_for(pages):
    text = " ".join(pages)
    for expected in (
        "0.7123",
        "91,234",
        "suppressed",
        "SR 26-2 (formerly SR 11-7)",
        "sha256sum",
        "monitoring/drift",
        "0 open findings",
    ):
        assert expected in text, expected
    assert "complies with" not in text


def test_fonts_are_embedded_and_plots_are_vectors(pdf):
    reader = PdfReader(io.BytesIO(pdf))
    fonts = [font.get_object() for page in reader.pages for font in page["/Resources"]["/Font"].get_object().values()]
    named = {str(font["/BaseFont"]): font for font in fonts}
    used = {name for name in named if "DejaVu" in name}
    assert used
    for name in used:
        descriptor = named[name].get("/FontDescriptor")
        assert descriptor is not None, name
        assert "/FontFile2" in descriptor.get_object(), name
    assert sum(len(page.images) for page in reader.pages) == 0


@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="needs the Debian package poppler-utils")
def test_every_page_renders_and_is_neither_blank_nor_overfull(pdf, tmp_path):
    import numpy as np
    from matplotlib.image import imread

    (tmp_path / "report.pdf").write_bytes(pdf)
    subprocess.run(["pdftoppm", "-r", "50", "-png", "report.pdf", "page"], cwd=tmp_path, check=True, timeout=60)
    images = sorted(tmp_path.glob("page-*.png"))
    assert len(images) == len(PdfReader(io.BytesIO(pdf)).pages)
    for path in images:
        ink = np.asarray(imread(path))[..., :3].mean(axis=2) < 0.9
        _height, width = ink.shape
        assert ink.mean() > 0.02, path.name
        margin = int(width * 15 / 210)  # nothing leaves the text block by more than 3 mm
        assert not ink[:, :margin].any(), path.name
        assert not ink[:, width - margin :].any(), path.name


def test_a_world_without_monitoring_still_prints_and_says_so(tmp_path):
    facts = world.gather(world.build_world(tmp_path, has_monitoring=False), materialized={})
    reader = PdfReader(io.BytesIO(render_pdf(compliance_report(facts))))
    text = " ".join(page.extract_text() for page in reader.pages)
    assert text.count("NOT AVAILABLE") > 8
