"""The page: what it is made of, and its HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tools.report.drawing import Plot, style_variables

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Cell:
    """A cell: its text, a smaller line below, and its class in style.css."""

    text: str
    below: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its name, its cells, and the number of its run's colour from 1; 0 for none."""

    name: str
    cells: Sequence[Cell]
    series: int = 0


@dataclass(frozen=True)
class Table:
    """A table of numbers, or of words; the head names the first column too."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    words: bool = False


@dataclass(frozen=True)
class Missing:
    """Something that the report lacks, and the command that makes it."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Fold:
    """What is shown on request."""

    title: str
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page, shown in the order of the fields.

    Attributes:
        name: in links; title: of the section.
        texts: paragraphs; notes: those that warn; missing: what is not there.
        tables, told, plots, folds: as they are called; told are sentences in a list.
    """

    name: str
    title: str
    texts: Sequence[str] = ()
    notes: Sequence[str] = ()
    missing: Sequence[Missing] = ()
    tables: Sequence[Table] = ()
    told: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    folds: Sequence[Fold] = ()


@dataclass(frozen=True)
class Page:
    """The whole page.

    Attributes:
        kind: of report; title: of the page; facts: names and values below it.
        sections: in order; foot: lines at the end.
    """

    kind: str
    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    foot: Sequence[str]


def html(page: Page) -> str:
    """The page as one HTML file that loads nothing; text of any kind is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        kind=page.kind,
        title=page.title,
        facts=page.facts,
        sections=page.sections,
        foot=page.foot,
        light=style_variables(dark=False),
        dark=style_variables(dark=True),
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
    )
