"""How a document looks: the only user of ReportLab. The same document gives the same bytes.

Fonts come with matplotlib (DejaVu), so nothing depends on the fonts of a machine; plots go in as vectors.
"""

import io
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    PageTemplate,
    Spacer,
    Table,
    TableStyle,
)
from reportlab.platypus import Paragraph as Text
from reportlab.platypus.doctemplate import IndexingFlowable
from reportlab.platypus.tableofcontents import TableOfContents

from fraud_pipelines.compliance import blocks
from fraud_pipelines.compliance.blocks import Document, Fact, Identity, Part

WIDTH, HEIGHT = A4
MARGIN = 18 * mm
TOP = 30 * mm
BOTTOM = 18 * mm
TEXT_WIDTH = WIDTH - 2 * MARGIN

INK, ACCENT, MUTED, LINE, STRIPE = (HexColor(code) for code in ("#1c2733", "#1f5f99", "#5d6b78", "#cfd6dc", "#f4f6f8"))
TONES: dict[str, tuple[Color, Color]] = {
    "good": (HexColor("#1e6b43"), HexColor("#e8f4ed")),
    "warning": (HexColor("#8a5a00"), HexColor("#fdf4e1")),
    "bad": (HexColor("#a3341f"), HexColor("#fbeae6")),
    "neutral": (INK, STRIPE),
}


def render_pdf(document: Document) -> bytes:
    """The PDF of a document, byte for byte the same for the same document."""
    _register_fonts()
    buffer = io.BytesIO()
    identity = document.identity
    pages = _PageCount()
    template = _Template(
        buffer,
        identity,
        pages,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=TOP,
        bottomMargin=BOTTOM,
        title=f"{identity.title}: {identity.model} version {identity.model_version}",
        author="fraud-pipelines",
        subject=identity.report_id,
        lang="en",
        invariant=1,  # no clock and no random identifier in the file
    )
    template.multiBuild([pages, *_story(document)])
    return buffer.getvalue()


class _PageCount(IndexingFlowable):
    """Knows from the previous pass how many pages there are; the document is built until both passes agree."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self._seen = 0

    def wrap(self, _width: float, _height: float) -> tuple[float, float]:
        return 0, 0

    def draw(self) -> None:
        """Nothing to see."""

    def isIndexing(self) -> int:  # noqa: N802 - ReportLab's names
        return 1

    def notify(self, kind: str, page: Any) -> None:
        if kind == "PageEnd":
            self._seen = page

    def beforeBuild(self) -> None:  # noqa: N802
        self.total, self._seen = self._seen, 0

    def isSatisfied(self) -> bool:  # noqa: N802
        return self.total == self._seen


class _Template(BaseDocTemplate):
    """Pages with a header; sections go to the table of contents and to the outline."""

    def __init__(self, target: io.BytesIO, identity: Identity, pages: _PageCount, **options: Any) -> None:
        super().__init__(target, **options)
        frame = Frame(MARGIN, BOTTOM, TEXT_WIDTH, HEIGHT - TOP - BOTTOM, 0, 0, 0, 0, id="body")

        def draw(canvas: Canvas, template: BaseDocTemplate) -> None:
            _draw_frame(canvas, identity, template.page, pages.total)

        self.addPageTemplates(PageTemplate(id="page", frames=[frame], onPageEnd=draw))

    def afterPage(self) -> None:  # noqa: N802
        self.notify("PageEnd", self.page)

    def afterFlowable(self, flowable: Flowable) -> None:  # noqa: N802
        bookmark = getattr(flowable, "bookmark", None)
        if bookmark is None:
            return
        text = flowable.getPlainText()
        self.canv.bookmarkPage(bookmark)
        self.canv.addOutlineEntry(text, bookmark, level=0)
        self.notify("TOCEntry", (0, text, self.page, bookmark))


def _draw_frame(canvas: Canvas, identity: Identity, page: int, pages: int) -> None:
    """Header and footer of one page."""
    top = HEIGHT - 12 * mm
    canvas.saveState()
    canvas.setFillColor(INK)
    canvas.setFont("DejaVu-Bold", 7.5)
    canvas.drawString(MARGIN, top, f"{identity.title} · {identity.model} version {identity.model_version}")
    canvas.setFont("DejaVu", 6.5)
    canvas.setFillColor(MUTED)
    canvas.drawRightString(WIDTH - MARGIN, top, f"{identity.since:%Y-%m-%d} to {identity.until:%Y-%m-%d} (exclusive)")
    canvas.setFont("DejaVu-Mono", 5.6)
    previous = identity.previous_hash[:32] if identity.previous_hash else "none (first report)"
    canvas.drawString(MARGIN, top - 9, f"report   {identity.report_id}")
    canvas.drawString(MARGIN, top - 17, f"content  {identity.content_hash[:32]}")
    canvas.drawRightString(WIDTH - MARGIN, top - 17, f"previous report  {previous}")
    canvas.setFont("DejaVu-Oblique", 6.2)
    canvas.drawRightString(WIDTH - MARGIN, top - 9, "generated, not edited")
    canvas.setStrokeColor(LINE)
    canvas.setLineWidth(0.6)
    canvas.line(MARGIN, top - 22, WIDTH - MARGIN, top - 22)
    canvas.setFont("DejaVu", 6.5)
    canvas.drawString(MARGIN, 10 * mm, "Every number is traced in section A." if pages > 1 else "")
    canvas.drawRightString(WIDTH - MARGIN, 10 * mm, f"page {page} of {pages}")
    canvas.restoreState()


def _story(document: Document) -> list[Flowable]:
    identity = document.identity
    story: list[Flowable] = [
        Text(escape(identity.title), _style("title")),
        Text(
            escape(
                f"{identity.model} version {identity.model_version}, {identity.since:%Y-%m-%d} to "
                f"{identity.until:%Y-%m-%d}"
            ),
            _style("subtitle"),
        ),
    ]
    blocks_left = list(document.blocks)
    # The verdict section comes first, then the table of contents, then the rest.
    first_section = [index for index, block in enumerate(blocks_left) if isinstance(block, blocks.Section)][1:2]
    split = first_section[0] if first_section else len(blocks_left)
    story += _flow(blocks_left[:split])
    if split < len(blocks_left):
        contents = TableOfContents(dotsMinLevel=0)
        contents.levelStyles = [_style("contents")]
        contents.tableStyle = TableStyle(
            [(f"{side}PADDING", (0, 0), (-1, -1), 0) for side in ("LEFT", "RIGHT", "TOP", "BOTTOM")]
        )
        # At the top level of the story: multiBuild does not look for it inside other flowables.
        story += [Spacer(0, 6), Text("Contents", _style("table_title")), contents]
    return story + _flow(blocks_left[split:])


def _flow(items: list[blocks.Block]) -> list[Flowable]:
    """Flowables of blocks; a heading stays with what follows it."""
    story: list[Flowable] = []
    pending: list[Flowable] = []
    for block in items:
        flowables = _flowables(block)
        if isinstance(block, blocks.Section):
            pending = flowables
            continue
        if pending:
            head, *rest = flowables
            # Enough room for the heading and the start of what it announces.
            story += [CondPageBreak(45 * mm), *pending, head, *rest]
            pending = []
        else:
            story += flowables
    return story + pending


def _flowables(block: blocks.Block) -> list[Flowable]:
    match block:
        case blocks.Section():
            heading = Text(escape(f"{block.number}  {block.title}"), _style("section"))
            heading.bookmark = f"section-{block.number}"
            return [heading]
        case blocks.Paragraph():
            return [Text(_markup(block.parts), _style(block.style))]
        case blocks.Verdict():
            return [_verdict(block), Spacer(0, 6)]
        case blocks.Tiles():
            return [_tiles(block), Spacer(0, 6)]
        case blocks.Grid():
            return _grid(block)
        case blocks.Figure():
            return [KeepTogether([_drawing(block.svg), Text(_markup(block.caption), _style("caption"))])]


def _verdict(block: blocks.Verdict) -> Table:
    ink, paper = TONES[block.tone]
    lines = [Text(_markup(block.headline), _style("headline", textColor=ink))]
    lines += [Text(_markup(finding), _style("finding"), bulletText="•") for finding in block.findings]
    table = Table([[lines]], colWidths=[TEXT_WIDTH])
    table.setStyle(
        TableStyle(
            [
                ("BACKGROUND", (0, 0), (-1, -1), paper),
                ("LINEBEFORE", (0, 0), (0, -1), 3, ink),
                ("LEFTPADDING", (0, 0), (-1, -1), 10),
                ("TOPPADDING", (0, 0), (-1, -1), 6),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 7),
            ]
        )
    )
    return table


def _tiles(block: blocks.Tiles) -> Table:
    def value(fact: Fact) -> Text:
        # The interval of a metric stands below it, smaller.
        text, has_interval, rest = fact.text.partition(" (")
        below = f'<br/><font size="7">({escape(rest)}</font>' if has_interval else ""
        size = 13 if len(text) <= 9 else 8.5
        return Text(escape(text) + below, _style("tile_value", fontSize=size, textColor=TONES[fact.tone][0]))

    cells = [[value(fact) for fact in block.facts], [Text(escape(fact.label), _style("tile")) for fact in block.facts]]
    table = Table(cells, colWidths=[TEXT_WIDTH / len(block.facts)] * len(block.facts))
    table.setStyle(
        TableStyle(
            [
                ("BACKGROUND", (0, 0), (-1, -1), STRIPE),
                ("LINEAFTER", (0, 0), (-2, -1), 3, HexColor("#ffffff")),
                ("LEFTPADDING", (0, 0), (-1, -1), 7),
                ("RIGHTPADDING", (0, 0), (-1, -1), 4),
                ("TOPPADDING", (0, 0), (-1, 0), 7),
                ("BOTTOMPADDING", (0, 0), (-1, 0), 1),
                ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
                ("VALIGN", (0, 1), (-1, 1), "TOP"),
            ]
        )
    )
    return table


def _grid(block: blocks.Grid) -> list[Flowable]:
    size = 6.6 if block.is_small else 7.6
    styles = {
        "l": _style("cell", fontSize=size, leading=size * 1.28),
        "r": _style("cell", fontSize=size, leading=size * 1.28, alignment=TA_RIGHT),
    }
    heads = {
        side: _style("head", fontSize=size, leading=size * 1.28, alignment=styles[side].alignment) for side in "lr"
    }
    cells = [[Text(_cell(name), heads[side]) for name, side in zip(block.columns, block.align, strict=True)]]
    for row in block.rows:
        cells.append([Text(_cell(part), styles[side]) for part, side in zip(row, block.align, strict=True)])
    total = sum(block.widths)
    table = Table(cells, colWidths=[TEXT_WIDTH * width / total for width in block.widths], repeatRows=1)
    table.setStyle(
        TableStyle(
            [
                ("LINEBELOW", (0, 0), (-1, 0), 0.8, INK),
                ("LINEBELOW", (0, -1), (-1, -1), 0.5, LINE),
                ("ROWBACKGROUNDS", (0, 1), (-1, -1), [None, STRIPE]),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
                ("LEFTPADDING", (0, 0), (-1, -1), 3),
                ("RIGHTPADDING", (0, 0), (-1, -1), 3),
                ("TOPPADDING", (0, 0), (-1, -1), 1.6),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1.8),
            ]
        )
    )
    title = Text(escape(block.title), _style("table_title"))
    if len(block.rows) <= 14:  # short tables are not torn apart
        return [KeepTogether([title, table]), Spacer(0, 7)]
    return [CondPageBreak(40 * mm), title, table, Spacer(0, 7)]


def _drawing(svg: bytes) -> Flowable:
    from svglib.svglib import svg2rlg

    drawing = svg2rlg(io.BytesIO(svg))
    scale = TEXT_WIDTH / drawing.width
    drawing.width, drawing.height = TEXT_WIDTH, drawing.height * scale
    drawing.scale(scale, scale)
    return drawing


def _markup(parts: tuple[Part, ...]) -> str:
    return "".join(escape(part) if isinstance(part, str) else _value(part) for part in parts)


def _cell(part: Part) -> str:
    return _breakable(escape(part)) if isinstance(part, str) else _value(part, is_cell=True)


def _value(fact: Fact, *, is_cell: bool = False) -> str:
    text = _breakable(escape(fact.text)) if is_cell else escape(fact.text)
    if not fact.is_available:
        return f'<font color="#8a5a00">{text}</font>'
    colour = TONES[fact.tone][0].hexval().replace("0x", "#")
    return text if fact.tone == "neutral" else f'<font name="DejaVu-Bold" color="{colour}">{text}</font>'


def _breakable(text: str) -> str:
    """Zero-width spaces after underscores and slashes, so that long identifiers can wrap."""
    return text.replace("_", "_\u200b").replace("/", "/\u200b")


@cache
def _register_fonts() -> None:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name, file in (
        ("DejaVu", "DejaVuSans.ttf"),
        ("DejaVu-Bold", "DejaVuSans-Bold.ttf"),
        ("DejaVu-Oblique", "DejaVuSans-Oblique.ttf"),
        ("DejaVu-Mono", "DejaVuSansMono.ttf"),
    ):
        pdfmetrics.registerFont(TTFont(name, folder / file))
    pdfmetrics.registerFontFamily("DejaVu", normal="DejaVu", bold="DejaVu-Bold", italic="DejaVu-Oblique")


def _style(name: str, **changes: Any) -> ParagraphStyle:
    base = {"fontName": "DejaVu", "fontSize": 8.6, "leading": 12.4, "textColor": INK}
    own: dict[str, dict[str, Any]] = {
        "title": {"fontName": "DejaVu-Bold", "fontSize": 19, "leading": 24, "spaceAfter": 1},
        "subtitle": {"fontSize": 10, "textColor": MUTED, "spaceAfter": 6},
        "section": {
            "fontName": "DejaVu-Bold",
            "fontSize": 12.5,
            "leading": 16,
            "textColor": ACCENT,
            "spaceBefore": 12,
            "spaceAfter": 5,
        },
        "contents": {"fontSize": 8.2, "leading": 11.5},
        "body": {"spaceAfter": 6},
        "note": {"fontSize": 7.4, "leading": 10.4, "textColor": MUTED, "spaceAfter": 6},
        "listing": {
            "fontName": "DejaVu-Mono",
            "fontSize": 7.2,
            "leading": 10,
            "backColor": STRIPE,
            "borderPadding": 4,
            "leftIndent": 4,
            "rightIndent": 4,
            "spaceBefore": 3,
            "spaceAfter": 9,
        },
        "caption": {"fontSize": 7.2, "leading": 10, "textColor": MUTED, "spaceAfter": 8},
        "table_title": {"fontName": "DejaVu-Bold", "fontSize": 8.4, "leading": 11, "spaceBefore": 4, "spaceAfter": 3},
        "headline": {"fontName": "DejaVu-Bold", "fontSize": 11.5, "leading": 15, "spaceAfter": 2},
        "finding": {"fontSize": 8.2, "leading": 11.6, "leftIndent": 10, "bulletIndent": 1},
        "tile_value": {"fontName": "DejaVu-Bold", "leading": 16},
        "tile": {"fontSize": 6.8, "leading": 9, "textColor": MUTED},
        "cell": {"splitLongWords": 1},
        "head": {"fontName": "DejaVu-Bold", "textColor": MUTED},
    }
    return ParagraphStyle(name, **{**base, **own[name], **changes})
