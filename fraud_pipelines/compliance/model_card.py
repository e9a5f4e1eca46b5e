"""The model card as Markdown: the same blocks as the PDF's, without plots."""

from fraud_pipelines.compliance.blocks import (
    Block,
    Document,
    Fact,
    Figure,
    Grid,
    Paragraph,
    Part,
    Section,
    Tiles,
    Verdict,
)


def render_markdown(document: Document) -> str:
    """Markdown of a document, character for character the same for the same document. Figures become their captions."""
    identity = document.identity
    head = [
        f"# {identity.title}: {identity.model} version {identity.model_version}",
        f"Report `{identity.report_id}`, {identity.since:%Y-%m-%d} to {identity.until:%Y-%m-%d} (exclusive). "
        f"Content hash `{identity.content_hash}`. Previous: `{identity.previous_hash or 'none'}`. "
        "Generated, not edited.",
    ]
    return "\n\n".join([*head, *(_markdown(block) for block in document.blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Section():
            return f"## {block.number}. {block.title}"
        case Paragraph():
            return _line(block.parts)
        case Verdict():
            return "\n".join(
                [f"**{_line(block.headline)}**", "", *(f"- {_line(parts)}" for parts in block.findings)]
            ).strip()
        case Tiles():
            return "\n".join(f"- {fact.label}: **{_text(fact)}**" for fact in block.facts)
        case Grid():
            rule = "|".join("---:" if side == "r" else "---" for side in block.align)
            lines = [_row(block.columns), f"|{rule}|", *(_row(row) for row in block.rows)]
            return "\n".join([f"**{block.title}**", "", *lines])
        case Figure():
            return f"_{block.alternative}. {_line(block.caption)}_"


def _line(parts: tuple[Part, ...]) -> str:
    return "".join(_text(part) for part in parts)


def _row(parts: tuple[Part, ...]) -> str:
    return "|" + "|".join(_text(part).replace("|", "\\|").replace("\n", " ") for part in parts) + "|"


def _text(part: Part) -> str:
    return part.text if isinstance(part, Fact) else part
