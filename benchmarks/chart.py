"""A bar chart as SVG, legible on light and on dark pages."""

from __future__ import annotations

from html import escape

from .figures import SHARED, Figure, Table

WIDTH, LABELS, BAR, GAP, TOP = 960, 470, 16, 8, 44
ROOM = 130  # for the figure behind the longest bar

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.label { text-anchor: end }
.ours { fill: #0969da } .theirs { fill: #bc4c00 } .other { fill: #8c959f }
.base { stroke: #1f2328; stroke-width: 1; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .ours { fill: #4493f8 } .theirs { fill: #db6d28 } .other { fill: #6e7681 }
  .base { stroke: #e6edf3 }
}"""


def chart(table: Table, width: int = WIDTH, labels: int = LABELS) -> str:
    """Return a chart with a bar for each figure. The length is the ratio to the base, which is a dashed line.

    :param width: of the chart, in pixels
    :param labels: the room for the names of the figures, in pixels
    """
    figures = [figure for figure in table.figures if SHARED not in figure.name]
    longest = max(figure.ratio for figure in figures)
    scale = (width - labels - ROOM) / longest
    height = TOP + len(figures) * (BAR + GAP) + GAP
    title = escape(table.title[0].upper() + table.title[1:])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
        f"<style>\n{STYLE}\n</style>",
        f'<text class="title" x="8" y="22">{title}: multiples of {escape(table.base)}</text>',
        *(bar(figure, table, labels, TOP + at * (BAR + GAP), scale) for at, figure in enumerate(figures)),
        f'<line class="base" x1="{labels + scale:.1f}" x2="{labels + scale:.1f}" y1="{TOP - 6}" y2="{height - 4}"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def bar(figure: Figure, table: Table, labels: int, top: int, scale: float) -> str:
    length = figure.ratio * scale
    value = f"{figure.value:.1f}" if table.unit == "us" else f"{figure.value:.0f}"
    line = top + BAR - 4
    return (
        f'<text class="label" x="{labels - 8}" y="{line}">{escape(figure.name)}</text>'
        f'<rect class="{kind(figure.name)}" x="{labels}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        f'<text x="{labels + length + 6:.1f}" y="{line}">{figure.ratio:.2f} ({value} {table.unit})</text>'
    )


def kind(name: str) -> str:
    if "PyPI" in name:
        return "theirs"
    return "ours" if name.startswith(("taskphase", "Tasks")) else "other"
