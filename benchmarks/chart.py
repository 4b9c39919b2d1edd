"""A bar chart as SVG, legible on light and on dark pages."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from html import escape

from .figures import SHARED, Figure, Table

# Pixels.
WIDTH, BAR, GAP, TOP, LINE = 960, 16, 8, 44, 20
LETTER, TITLE_LETTER = 7, 9  # a letter of a wide font, on average

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.label { text-anchor: end }
.value { paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round }
.ours { fill: #0969da } .theirs { fill: #bc4c00 } .other { fill: #8c959f }
.base { stroke: #1f2328; stroke-width: 1; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .value { stroke: #0b0d12 }
  .ours { fill: #4493f8 } .theirs { fill: #db6d28 } .other { fill: #6e7681 }
  .base { stroke: #e6edf3 }
}"""


def value(figure: Figure, unit: str) -> str:
    """Return the ratio, and the value with its unit."""
    digits = {"us": 1, "ms": 2}.get(unit, 0)
    number = f"{figure.value:.{digits}f}"
    return f"{figure.ratio:.2f} ({number} {unit})"


def chart(table: Table, width: int = WIDTH, text: Callable[[Figure, str], str] = value) -> str:
    """Return a chart with a bar for each figure. The length is the ratio to the base, which is a dashed line.

    :param width: of the chart, in pixels
    :param text: returns the text behind the bar of a figure, from the figure and its unit
    """
    figures = [figure for figure in table.figures if SHARED not in figure.name]
    labels = room(figure.name for figure in figures)
    longest = max(figure.ratio for figure in figures)
    scale = (width - labels - room(text(figure, table.unit) for figure in figures)) / longest
    title = f"{table.title[0].upper()}{table.title[1:]}"
    lines = textwrap.wrap(f"{title}: multiples of {table.base}", (width - 16) // TITLE_LETTER)
    top = TOP + (len(lines) - 1) * LINE
    height = top + len(figures) * (BAR + GAP) + GAP
    base = f"{labels + scale:.1f}"
    rows = [(top + at * (BAR + GAP), figure) for at, figure in enumerate(figures)]
    named = f'aria-label="{escape(title)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {named}>',
        f"<style>\n{STYLE}\n</style>",
        *(f'<text class="title" x="8" y="{22 + at * LINE}">{escape(line)}</text>' for at, line in enumerate(lines)),
        *(bar(figure, labels, y, scale) for y, figure in rows),
        f'<line class="base" x1="{base}" x2="{base}" y1="{top - 6}" y2="{height - 4}"/>',
        *(words(figure, text(figure, table.unit), labels, y, scale) for y, figure in rows),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def room(strings: Iterable[str]) -> int:
    """Return the pixels for the longest string, and for a gap at both sides."""
    return 16 + LETTER * max(map(len, strings))


def bar(figure: Figure, labels: int, y: int, scale: float) -> str:
    width = figure.ratio * scale
    return f'<rect class="{kind(figure.name)}" x="{labels}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'


def words(figure: Figure, text: str, labels: int, y: int, scale: float) -> str:
    """Return the name of a figure before its bar, and its `text` behind the bar."""
    line, end = y + BAR - 4, labels + figure.ratio * scale
    return (
        f'<text class="label" x="{labels - 8}" y="{line}">{escape(figure.name)}</text>'
        f'<text class="value" x="{end + 6:.1f}" y="{line}">{escape(text)}</text>'
    )


def kind(name: str) -> str:
    if "PyPI" in name:
        return "theirs"
    return "ours" if name.startswith(("taskphase", "Tasks")) else "other"
