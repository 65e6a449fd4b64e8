"""Figures in the colours of the page: SVG that follows its theme, and PNG of the light one."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

# By CSS variable: in the light theme, which figures are drawn in, and in the dark one. No light
# colour is there twice, so that the colours of an SVG can be replaced by their variables.
COLOURS = {
    "paper": ("#fdfdfb", "#14171a"),
    "panel": ("#f3f4f1", "#1d2125"),
    "ink": ("#1e2329", "#e4e7ea"),
    "muted": ("#5a646f", "#9aa5b1"),
    "line": ("#d5d9de", "#363d45"),
    "good": ("#1b7a4e", "#62cf97"),
    "bad": ("#b3353f", "#f08a90"),
    "series-1": ("#2a6bb0", "#7db4f0"),
    "series-2": ("#c4611a", "#f1a566"),
    "series-3": ("#2c8a5e", "#6acb9b"),
    "series-4": ("#7c54b2", "#bb9ceb"),
    "series-5": ("#b63e67", "#ee8fb0"),
    "series-6": ("#13808b", "#5fc7d1"),
    "series-7": ("#85652f", "#d3b06f"),
    "series-8": ("#66707a", "#aeb7c0"),
}
INK, MUTED, LINE = (COLOURS[name][0] for name in ("ink", "muted", "line"))
SERIES = [light for name, (light, _) in COLOURS.items() if name.startswith("series-")]
# Beside the colour, for whoever cannot tell those apart.
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2))]

# A phone shows a figure of 360 units about as wide as it is, so text stays as large as set here.
WIDTH_INCHES = 5.0
_TITLE_INCHES = 0.3
# Room for a line of a legend, and letters of a name in it.
_LEGEND_POINTS = 280
_LONGEST = 44
_DOTS_PER_INCH = 200
_SETTINGS: Any = {
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 9,
    # As high as a line of a legend.
    "axes.titlesize": 11.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    # A name of a run may hold a dollar.
    "text.parse_math": False,
    # Text stays text: it takes the page's font, can be searched, and is small.
    "svg.fonttype": "none",
    # Names of parts do not change from one report to the next.
    "svg.hashsalt": "lifelong-ctr",
}
# In href="#name" and url(#name).
_REFERENCE = re.compile(r"#([a-z][0-9a-z]{6,})")
_FONT = re.compile(r"font-family: [^;]+; ?")
_LONG = re.compile(r"-?\d+\.\d{3,}")
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: of the PNG's file, without its end; unlike those of other plots.
        title: of a few words; caption: what is shown and how to read it.
        svg: HTML, ready for the page; png: with the title inside, empty if none was wanted.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Sketch:
    """A figure that is yet to be drawn.

    Attributes:
        name, title, caption: as of `Plot`.
        draw: fills an empty figure.
        height: in inches; the width is the same for all.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Figure], None]
    height: float = 3.1


def render(sketch: Sketch, picture: bool = True) -> Plot:
    """Draw the figure for the page and, if a picture is wanted, as a PNG of its own."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Whatever the machine's own settings are.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        # Signs of a name that the PNG's font lacks: the page's fonts have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH_INCHES, sketch.height), layout="constrained")
        FigureCanvasAgg(figure)
        sketch.draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
        png = _picture(figure, sketch) if picture else b""
    svg = _for_page(text.getvalue(), sketch.name, f"{sketch.title}. {sketch.caption}")
    return Plot(sketch.name, sketch.title, sketch.caption, svg, png)


def _picture(figure: Figure, sketch: Sketch) -> bytes:
    """A PNG. A page says what a figure shows beside it; a picture has a line more for that."""
    above = 1 + 0.2 / sketch.height
    figure.text(0.012, above, sketch.title, va="top", fontsize=10.5, weight="bold")
    box = Bbox.from_bounds(0, 0, WIDTH_INCHES, sketch.height + _TITLE_INCHES)
    paper, written = COLOURS["paper"][0], io.BytesIO()
    figure.savefig(written, format="png", dpi=_DOTS_PER_INCH, facecolor=paper, bbox_inches=box)
    return written.getvalue()


def style_variables(dark: bool) -> str:
    """The CSS variables of a theme."""
    return " ".join(f"--{name}: {colours[dark]};" for name, colours in COLOURS.items())


def _for_page(text: str, name: str, label: str) -> str:
    """An SVG file as a part of an HTML page.

    Its colours become variables; its names, which would be those of other figures too, begin with
    that of the figure; what a file needs and a page does not is left out.
    """
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in [c for c in parent if _local(c.tag) in ("style", "metadata")]:
            parent.remove(child)
    used = set(
        _REFERENCE.findall(" ".join(v for part in root.iter() for v in part.attrib.values()))
    )
    for part in root.iter():
        part.tag, part.tail = _local(part.tag), None
        if part.tag not in ("text", "tspan"):
            part.text = None
        attributes = {_local(key): value for key, value in part.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        part.attrib.clear()
        for key, value in attributes.items():
            part.set(key, f"{name}-{value}" if key == "id" else _attribute(key, value, name))
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update(viewBox=box, role="img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its XML namespace."""
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, name: str) -> str:
    if key == "style":
        value = _FONT.sub("", value)
        for variable, (light, _) in COLOURS.items():
            value = value.replace(light, f"var(--{variable})")
    elif key in ("d", "x", "y", "width", "height", "transform"):
        # A hundredth of a point is too little to be seen.
        value = _LONG.sub(lambda found: f"{float(found[0]):.2f}", " ".join(value.split()))
    return _REFERENCE.sub(rf"#{name}-\1", value) if "#" in value else value


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def legend(plot: Axes) -> None:
    """Names of the series above the plot, where no line is hidden; none if there is only one."""
    handles, labels = plot.get_legend_handles_labels()
    if len(labels) < 2:
        return
    names = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in labels]
    columns = max(1, int(_LEGEND_POINTS / (34 + 5.2 * max(map(len, names)))))
    made = plot.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2
    )
    # It may be wider than its plot where another stands beside: lines of an empty title keep its
    # place free instead.
    made.set_in_layout(False)
    plot.set_title("\n".join([" "] * -(-len(names) // columns)))


def short(value: float) -> str:
    """A number of at most a few signs."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
