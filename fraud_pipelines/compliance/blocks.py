"""The vocabulary of a document: what it says, without how it looks. documents.py writes it, layout.py prints it.

A value that comes from data is a `Fact`; everything else is plain text written by hand and holds no number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pandas as pd

from fraud_pipelines.evidence import Evidence

NOT_AVAILABLE = "NOT AVAILABLE"

Tone = Literal["good", "warning", "bad", "neutral"]


@dataclass(frozen=True)
class Fact:
    """One printed value, what it says, and where it comes from."""

    label: str
    text: str
    evidence: Evidence
    tone: Tone = "neutral"

    @property
    def is_available(self) -> bool:
        return self.text != NOT_AVAILABLE


Part = str | Fact


@dataclass(frozen=True)
class Section:
    """Starts a section; `number` is its number in the document, such as 3 or A."""

    number: str
    title: str


@dataclass(frozen=True)
class Paragraph:
    """Running text with facts inside."""

    parts: tuple[Part, ...]
    style: Literal["body", "note", "listing"] = "body"


@dataclass(frozen=True)
class Verdict:
    """The answer first: one line with a tone, and the findings that are open."""

    tone: Tone
    headline: tuple[Part, ...]
    findings: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Tiles:
    """A row of the few numbers that matter most."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Grid:
    """A table. `widths` are shares of the page's width, one per column; `align` has l or r per column."""

    title: str
    columns: tuple[Part, ...]
    rows: tuple[tuple[Part, ...], ...]
    widths: tuple[float, ...]
    align: str
    is_small: bool = False


@dataclass(frozen=True)
class Figure:
    """A vector plot as SVG; the caption holds the facts it was drawn from."""

    svg: bytes
    caption: tuple[Part, ...]
    alternative: str


Block = Section | Paragraph | Verdict | Tiles | Grid | Figure


@dataclass(frozen=True)
class Identity:
    """What the header of every page says."""

    title: str
    report_id: str
    model: str
    model_version: str
    content_hash: str
    previous_hash: str | None
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Document:
    """One document, ready to be laid out."""

    identity: Identity
    blocks: tuple[Block, ...]


def numbered_facts(document: Document) -> Iterator[tuple[str, str, Fact]]:
    """(number id, title of the place, fact) of every printed value; ids are section and position, such as 4.12."""
    section, place, position = "0", document.identity.title, 0
    for block in document.blocks:
        if isinstance(block, Section):
            section, place, position = block.number, block.title, 0
            continue
        where = block.title if isinstance(block, Grid) else place
        for fact in _facts_of(block):
            position += 1
            yield f"{section}.{position}", where, fact


def texts_by_hand(document: Document) -> Iterator[str]:
    """Every piece of text that is not a fact; a test holds that none of them carries a number."""
    for block in document.blocks:
        if isinstance(block, Section):
            yield block.title
        if isinstance(block, Grid):
            yield block.title
        if isinstance(block, Figure):
            yield block.alternative
        yield from (part for part in _parts_of(block) if isinstance(part, str))


def _facts_of(block: Block) -> Iterator[Fact]:
    return (part for part in _parts_of(block) if isinstance(part, Fact))


def _parts_of(block: Block) -> Iterator[Part]:
    match block:
        case Paragraph():
            yield from block.parts
        case Verdict():
            yield from block.headline
            for finding in block.findings:
                yield from finding
        case Tiles():
            yield from block.facts
        case Grid():
            yield from block.columns
            for row in block.rows:
                yield from row
        case Figure():
            yield from block.caption


# How values are written. None and NaN are never blank.


def as_text(value: Any, style: str) -> str:
    """`value` as printed: count 1,234; share 1.23 %; decimal 0.1234; money 1,234.50; day 2025-03-31; text as it is."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return NOT_AVAILABLE
    match style:
        case "count":
            return f"{int(value):,}"
        case "share":
            return f"{float(value):.2%}".replace("%", " %")
        case "decimal":
            return f"{float(value):.4f}"
        case "money":
            return f"{float(value):,.2f}"
        case "short":
            return f"{float(value):.3g}"
        case "day":
            return f"{pd.Timestamp(value):%Y-%m-%d}"
        case "month":
            return f"{pd.Timestamp(value):%Y-%m}"
        case "moment":
            return f"{pd.Timestamp(value):%Y-%m-%d %H:%M} UTC"
        case "hash":
            return str(value)[:12]
        case "text":
            return str(value) or NOT_AVAILABLE
    raise ValueError(f"unknown style {style!r}")
