"""Draws state machines and sequences from data, as SVG that is legible in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Literal

# Pixels.
LINE = 19
HEAD = 26
WIDTH = 176
LONGEST = 20  # letters of a line in a box, without the arrow
ENTRY = 16  # from the upper edge of a box to an arrow at its side
ROUND = 12  # the radius of a corner
ABOVE = -6  # from an arrow to the base line of its label

STYLE = """\
<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.name { font-weight: 600; text-anchor: middle }
.event { font: 11.5px ui-monospace, monospace; fill: #59636e }
.label { text-anchor: middle; paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round }
.beside { text-anchor: start }
.box { fill: #f6f8fa; stroke: #59636e } .first { stroke-width: 2.5 }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.3 } .dashed { stroke-dasharray: 4 3 }
.lane { stroke: #d1d9e0 } .bar { fill: #d1d9e0 } .ours { fill: #0969da } text.ours { font-weight: 600 }
.ours-line { stroke: #0969da; stroke-width: 1.8 } .head { fill: #59636e } .ours-head { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .event { fill: #9198a1 } .label { stroke: #0b0d12 }
  .box { fill: #21262d; stroke: #9198a1 } .arrow { stroke: #9198a1 }
  .lane { stroke: #3d444d } .bar { fill: #3d444d } .ours { fill: #4493f8 }
  .ours-line { stroke: #4493f8 } .head { fill: #9198a1 } .ours-head { fill: #4493f8 }
}
</style>
<defs>
<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto" \
markerUnits="userSpaceOnUse"><path class="head" d="M0 0L8 4L0 8z"/></marker>
<marker id="ours-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto" \
markerUnits="userSpaceOnUse"><path class="ours-head" d="M0 0L8 4L0 8z"/></marker>
</defs>"""


def picture(width: float, height: float, title: str, shapes: Iterator[str], style: str = STYLE) -> str:
    """Return an SVG file; a screen reader reads `title`."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img"'
    return "\n".join([f'{head} aria-label="{escape(title)}">', style, *shapes, "</svg>", ""])


def text(x: float, y: float, string: str, style: str) -> str:
    """Return a line of text."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{escape(string)}</text>'


def rectangle(x: float, y: float, width: float, height: float, radius: float, style: str) -> str:
    """Return a rectangle with round corners."""
    size = f'width="{width:g}" height="{height:g}" rx="{radius:g}"'
    return f'<rect class="{style}" x="{x:g}" y="{y:g}" {size}/>'


# State machines


@dataclass(frozen=True)
class Place:
    """The place of a state: the middle of its upper edge, in pixels."""

    x: float
    y: float


Edge = Literal["left", "right", "top", "bottom"]


@dataclass(frozen=True)
class Way:
    """The way of an arrow: straight, or with one corner.

    :ivar start: the edge at which the arrow leaves its state
    :ivar at: the point of this edge, in pixels from its left or upper end
    :ivar end: the edge at which the arrow enters the other state
    :ivar to: the point of that edge, likewise
    """

    start: Edge
    at: float
    end: Edge
    to: float


Point = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """An arrow, or a part of one.

    :ivar points: the begin, the corners, the end
    :ivar words: the label
    :ivar spot: the middle of the label's base line
    """

    points: tuple[Point, ...]
    words: str = ""
    spot: Point = (0, 0)

    def draw(self) -> Iterator[str]:
        """Yield the shapes. An arrow without a label is a part of a line, and has no head."""
        path = [f"M{pair(self.points[0])}"]
        for before, corner, after in zip(self.points, self.points[1:], self.points[2:], strict=False):
            path.append(f"L{pair(toward(corner, before))}Q{pair(corner)} {pair(toward(corner, after))}")
        head = ' marker-end="url(#head)"' if self.words else ""
        yield f'<path class="arrow" d="{"".join(path)}L{pair(self.points[-1])}"{head}/>'
        if self.words:
            yield text(*self.spot, self.words, "event label")


def pair(point: Point) -> str:
    return f"{point[0]:g} {point[1]:g}"


def toward(corner: Point, other: Point) -> Point:
    """Return the point at which a round corner ends."""
    length = abs(other[0] - corner[0]) + abs(other[1] - corner[1])
    part = min(ROUND / length, 1)
    return corner[0] + (other[0] - corner[0]) * part, corner[1] + (other[1] - corner[1]) * part


Rows = Mapping[str, Mapping[str, Sequence[str]]]
"""The names of the events, by state and next state."""


@dataclass(frozen=True)
class Machine:
    """A table, and the places of its states. Events that lead to an end, or back to the same state, are in the state's
    box.

    An arrow between two boxes side by side, or one above the other, is straight. Other arrows need a way.

    States may share a line, which leads down: from each state on the line an arrow leads to each stop further down.

    :ivar ways: by state and next state
    :ivar stops: the states to which the line leads, from the top
    :ivar line: the line's distance from the left, in pixels
    :ivar listed: changes without an arrow: their events are in the box of the state, as those that lead to an end
    """

    title: str
    rows: Rows
    first: str
    places: Mapping[str, Place]
    ways: Mapping[tuple[str, str], Way] = field(default_factory=dict)
    stops: Sequence[str] = ()
    line: float = 0
    listed: frozenset[tuple[str, str]] = frozenset()

    def inside(self, state: str) -> list[tuple[str, str]]:
        """Return the events in the box of `state`, and their next states."""
        found = []
        for to, events in self.rows[state].items():
            if to == state or to not in self.places or (state, to) in self.listed:
                joined = ", ".join(events)
                fits = len(joined) + len(to) < LONGEST
                found += [(what, "stays" if to == state else to) for what in ([joined] if fits else events)]
        return found

    def height(self, state: str) -> float:
        """Return the height of the box of `state`."""
        lines = self.inside(state)
        return HEAD + (len(lines) * LINE + 6 if lines else 6)

    def left(self, state: str) -> float:
        """Return the left edge of the box of `state`."""
        return self.places[state].x - WIDTH / 2

    def joins(self) -> dict[str, float]:
        """Return the states from which the line leads, and the points where they join it, from the top."""
        found = [state for state in self.rows if any(self._leads(state, stop) for stop in self.stops)]
        return {state: self.places[state].y + self.height(state) - 12 for state in found}

    def on_line(self) -> set[tuple[str, str]]:
        """Return the states between which the line leads, as drawn."""
        enters = {stop: self.places[stop].y + ENTRY for stop in self.stops}
        return {(state, stop) for state, leaves in self.joins().items() for stop in self.stops if leaves < enters[stop]}

    def draw(self) -> str:
        """Return the SVG file."""
        assert set(self.rows) - set(self.places) == {state for state, row in self.rows.items() if not row}, self.title
        width = max(place.x for place in self.places.values()) + WIDTH / 2 + 8
        height = max(place.y + self.height(state) for state, place in self.places.items()) + 8
        return picture(width, height, self.title, self._shapes())

    def _shapes(self) -> Iterator[str]:
        for arrow in self.arrows():
            yield from arrow.draw()
        for state in self.places:
            yield from self._box(state)

    def _box(self, state: str) -> Iterator[str]:
        place, left = self.places[state], self.left(state)
        style = "box first" if state == self.first else "box"
        yield rectangle(left, place.y, WIDTH, self.height(state), 6, style)
        yield text(place.x, place.y + 19, state, "name")
        for number, (events, to) in enumerate(self.inside(state)):
            yield text(left + 10, place.y + HEAD + 14 + number * LINE, f"{events} \N{RIGHTWARDS ARROW} {to}", "event")

    def arrows(self) -> Iterator[Arrow]:
        """Yield the arrows between the boxes, and the parts of the line."""
        if self.stops:
            yield from self._line()
        for state, row in self.rows.items():
            for to, events in row.items():
                if to in self.places and to not in (state, *self.stops) and (state, to) not in self.listed:
                    points = self._points(state, to)
                    yield Arrow(points, ", ".join(events), spot(points))

    def _line(self) -> Iterator[Arrow]:
        wanted = {(state, stop) for state in self.joins() for stop in self.stops if self._leads(state, stop)}
        assert self.on_line() == wanted, f"a line of {self.title!r} differs from the table: {self.on_line() ^ wanted}"
        joins = self.joins()
        enters = {stop: self.places[stop].y + ENTRY for stop in self.stops}
        yield Arrow(((self.line, min(joins.values()) + ROUND), (self.line, max(enters.values()) - ROUND)))
        for state, y in joins.items():
            yield Arrow(((self._beside_line(state), y), (self.line, y), (self.line, y + ROUND)))
        for stop, y in enters.items():
            [events] = {", ".join(row[stop]) for row in self.rows.values() if stop in row}
            edge = self._beside_line(stop)
            points = ((self.line, y - ROUND), (self.line, y), (edge, y))
            yield Arrow(points, events, ((self.line + edge) / 2, y + ABOVE))

    def _leads(self, state: str, stop: str) -> bool:
        """Return whether the line leads from `state` to `stop`, by the table."""
        return stop in self.rows[state] and (state, stop) not in self.listed

    def _beside_line(self, state: str) -> float:
        """Return the edge of a box that faces the line."""
        return self.left(state) + (WIDTH if self.places[state].x < self.line else 0)

    def _points(self, state: str, to: str) -> tuple[Point, ...]:
        way = self.ways.get((state, to)) or self._straight(state, to)
        a, b = self._point(state, way.start, way.at), self._point(to, way.end, way.to)
        if a[0] == b[0] or a[1] == b[1]:
            return a, b
        return a, (b[0], a[1]) if way.start in {"left", "right"} else (a[0], b[1]), b

    def _point(self, state: str, edge: Edge, at: float) -> Point:
        left, top = self.left(state), self.places[state].y
        if edge in {"left", "right"}:
            return left + (WIDTH if edge == "right" else 0), top + at
        return left + at, top + (self.height(state) if edge == "bottom" else 0)

    def _straight(self, state: str, to: str) -> Way:
        a, b = self.places[state], self.places[to]
        if a.x == b.x:
            down = b.y > a.y
            return Way("bottom" if down else "top", WIDTH / 2, "top" if down else "bottom", WIDTH / 2)
        y, right = max(a.y, b.y) + ENTRY, b.x > a.x
        assert y <= min(a.y + self.height(state), b.y + self.height(to)), f"{state} to {to} needs a way"
        return Way("right" if right else "left", y - a.y, "left" if right else "right", y - b.y)


def spot(points: Sequence[Point]) -> Point:
    """Return the place of a label: at the middle of the longest part of an arrow."""
    parts = pairwise(points)
    (x1, y1), (x2, y2) = max(parts, key=lambda part: abs(part[0][0] - part[1][0]) + abs(part[0][1] - part[1][1]))
    return (x1 + x2) / 2, (y1 + y2) / 2 + (ABOVE if y1 == y2 else 4)


# Sequences


@dataclass(frozen=True)
class Step:
    """One line of a sequence.

    :ivar who: the lane where the line begins
    :ivar to: the lane where the line ends; if it is the same lane, an event there
    :ivar kind: "call", "answer" (dashed), "begin" and "end" of the bar on the lane
    """

    who: str
    to: str
    what: str
    kind: str = "call"


LANE = 128
NARROW_LANE = 74  # five of them fit on a phone
STEP = 30
TOP = 46


def sequence(title: str, lanes: Sequence[str], ours: str, steps: Sequence[Step], lane: float = LANE) -> str:
    """Return the SVG file of a sequence.

    :param ours: the lane of the task
    :param lane: the width of a lane
    """
    width, height = lane * len(lanes) + 40, TOP + STEP * (len(steps) + 1)
    middle = {name: lane * (number + 0.5) for number, name in enumerate(lanes)}
    return picture(width, height, title, _sequence(middle, ours, steps, height))


def only(lanes: Mapping[str, str], steps: Sequence[Step]) -> list[Step]:
    """Return a sequence with fewer lanes.

    :param lanes: for each lane, the lane that replaces it; an arrow between two lanes that become one is left out
    """
    found = []
    for step in steps:
        who, to = lanes[step.who], lanes[step.to]
        if who != to or step.who == step.to:
            found.append(Step(who, to, step.what, step.kind))
    return found


def _sequence(middle: Mapping[str, float], ours: str, steps: Sequence[Step], height: float) -> Iterator[str]:
    for lane, x in middle.items():
        style = "name ours" if lane == ours else "name"
        words = lane.split("\n")
        for number, word in enumerate(words):
            yield text(x, 16 + number * 15 + (8 if len(words) == 1 else 0), word, style)
        yield f'<line class="lane" x1="{x:g}" x2="{x:g}" y1="{TOP - 6}" y2="{height - 8:g}"/>'
    yield from _bars(middle, ours, steps)
    for number, step in enumerate(steps):
        yield from _step(step, middle, ours, TOP + STEP * (number + 0.75))


def _bars(middle: Mapping[str, float], ours: str, steps: Sequence[Step]) -> Iterator[str]:
    began: dict[str, float] = {}
    for number, step in enumerate(steps):
        y = TOP + STEP * (number + 0.75)
        if step.kind == "begin":
            began[step.to] = y
        elif step.kind == "end":
            style = "ours" if step.who == ours else "bar"
            top = began.pop(step.who)
            yield rectangle(middle[step.who] - 4, top, 8, y - top, 2, style)
    assert not began, began


def _step(step: Step, middle: Mapping[str, float], ours: str, y: float) -> Iterator[str]:
    a, b = middle[step.who], middle[step.to]
    is_ours = ours in (step.who, step.to)
    words = "label ours" if is_ours else "label"
    if a == b:
        yield text(a + 10, y + 4, step.what, f"{words} beside")
        return
    line, head = ("arrow ours-line", "ours-head") if is_ours else ("arrow", "head")
    dashed = " dashed" if step.kind == "answer" else ""
    near = 5 if b > a else -5
    ends = f'x1="{a + near:g}" x2="{b - near:g}" y1="{y:g}" y2="{y:g}"'
    yield f'<line class="{line}{dashed}" {ends} marker-end="url(#{head})"/>'
    yield text((a + b) / 2, y - 7, step.what, words)
