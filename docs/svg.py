"""Draws state machines and sequences from data, as SVG that is legible in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Pixels.
LINE = 19
HEAD = 26
WIDTH = 176
LONGEST = 20  # letters of a line in a box, without the arrow

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


@dataclass(frozen=True)
class Bend:
    """An arrow that is not a straight line between two neighbours.

    :ivar start: the point at which the arrow leaves its state, as a part of the width from the left; at the lower edge,
        or with `above` at the upper one
    :ivar end: the point at which the arrow enters the other state
    :ivar label: the point of the label, as a part of the arrow's length
    :ivar above: whether the arrow uses the upper edges, `lift` pixels high; otherwise the edges that face each other
    :ivar side: whether the arrow leaves at the right edge and enters at the left one
    """

    start: float = 0.5
    end: float = 0.5
    label: float = 0.5
    above: bool = False
    lift: float = 40
    side: bool = False


Rows = Mapping[str, Mapping[str, Sequence[str]]]
"""The names of the events, by state and next state."""


@dataclass(frozen=True)
class Machine:
    """A table, and the places of its states. Events that lead to an end, or back to the same state, are in the state's
    box.

    :ivar bends: by state and next state
    """

    title: str
    rows: Rows
    first: str
    places: Mapping[str, Place]
    bends: Mapping[tuple[str, str], Bend]

    def inside(self, state: str) -> list[tuple[str, str]]:
        """Return the events in the box of `state`, and their next states."""
        found = []
        for to, events in self.rows[state].items():
            if to == state or to not in self.places:
                joined = ", ".join(events)
                fits = len(joined) + len(to) < LONGEST
                found += [(what, "stays" if to == state else to) for what in ([joined] if fits else events)]
        return found

    def height(self, state: str) -> float:
        """Return the height of the box of `state`."""
        lines = self.inside(state)
        return HEAD + (len(lines) * LINE + 6 if lines else 6)

    def draw(self) -> str:
        """Return the SVG file."""
        assert set(self.rows) - set(self.places) == {state for state, row in self.rows.items() if not row}, self.title
        width = max(place.x for place in self.places.values()) + WIDTH / 2 + 8
        height = max(place.y + self.height(state) for state, place in self.places.items()) + 8
        return picture(width, height, self.title, self._shapes())

    def _shapes(self) -> Iterator[str]:
        for state, row in self.rows.items():
            for to, events in row.items():
                if to in self.places and to != state:
                    yield from self._arrow(state, to, events)
        for state in self.places:
            yield from self._box(state)

    def _box(self, state: str) -> Iterator[str]:
        place = self.places[state]
        left = place.x - WIDTH / 2
        style = "box first" if state == self.first else "box"
        yield rectangle(left, place.y, WIDTH, self.height(state), 6, style)
        yield text(place.x, place.y + 19, state, "name")
        for number, (events, to) in enumerate(self.inside(state)):
            yield text(left + 10, place.y + HEAD + 14 + number * LINE, f"{events} \N{RIGHTWARDS ARROW} {to}", "event")

    def _arrow(self, state: str, to: str, events: Sequence[str]) -> Iterator[str]:
        a, b, bend = self.places[state], self.places[to], self.bends.get((state, to))
        if bend is None and a.y == b.y:
            side = WIDTH / 2 if b.x > a.x else -WIDTH / 2
            y = a.y + HEAD - 6
            points = [(a.x + side, y), (a.x + side, y), (b.x - side, y), (b.x - side, y)]
            bend, above = Bend(), -7.0
        else:
            bend, above = bend or Bend(), 4.0
            points = self._curve(state, to, bend)
        start, *others = [f"{x:g} {y:g}" for x, y in points]
        yield f'<path class="arrow" d="M{start}C{", ".join(others)}" marker-end="url(#head)"/>'
        x, y = on_curve(points, bend.label)
        yield text(x, y + above, ", ".join(events), "event label")

    def _curve(self, state: str, to: str, bend: Bend) -> list[tuple[float, float]]:
        a, b = self.places[state], self.places[to]
        x1, x2 = a.x + (bend.start - 0.5) * WIDTH, b.x + (bend.end - 0.5) * WIDTH
        if bend.above:
            return [(x1, a.y), (x1, a.y - bend.lift), (x2, b.y - bend.lift), (x2, b.y)]
        if bend.side:
            x1, x2, y = a.x + WIDTH / 2, b.x - WIDTH / 2, HEAD - 6
            return [(x1, a.y + y), ((x1 + x2) / 2, a.y + y), ((x1 + x2) / 2, b.y + y), (x2, b.y + y)]
        down = b.y > a.y
        y1 = a.y + self.height(state) if down else a.y
        y2 = b.y if down else b.y + self.height(to)
        middle = (y1 + y2) / 2
        return [(x1, y1), (x1, middle), (x2, middle), (x2, y2)]


def on_curve(points: Sequence[tuple[float, float]], t: float) -> tuple[float, float]:
    """Return a point of a cubic Bezier curve."""
    weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    x, y = (sum(weight * point[axis] for weight, point in zip(weights, points, strict=True)) for axis in (0, 1))
    return x, y


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
