"""Runs `examples/demo.py`, and draws the run as an animated SVG: `python -m docs.film` writes `docs/demo.svg`.

Each table of the demo is a scene. The lines appear in the order of their real times, SLOWER times as slow, and never
faster than a reader can follow. The last scene is the summary. It is also the picture without animation, for readers
who prefer reduced motion. A test draws a new run, and compares the lines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.svg import picture, rectangle, text

FILE = Path(__file__).with_name("demo.svg")
DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
ENDS_WITHIN = 60.0  # seconds; the demo takes 3

TITLE = "make demo: what ran when"

SLOWER = 4  # times
GAP = 0.25  # the least seconds between two lines
HOLD = 2.5  # seconds after the last line of a scene
LAST_HOLD = 7.0  # seconds of the summary

# Pixels.
WIDTH = 720
MARGIN = 20
TOP = 74
ROW = 22
MS, CLIENT, SERVER = 56, 72, 232

LONGEST = 57  # letters of a line of the server
LONGEST_SUMMARY = 68  # letters

KINDS = ("immediate", "after_route", "after_response", "shielded", "unshielded")

STYLE = """\
text { font: 13.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328 }
.title { font: 600 16px system-ui, sans-serif }
.claim { font: 14px system-ui, sans-serif } .summary { font-size: 17px }
.ms { text-anchor: end } .ms, .head, .quiet { fill: #59636e } .client { font-weight: 600 }
.immediate { fill: #0969da } .after_route { fill: #8250df } .after_response, .ok { fill: #1a7f37 }
.shielded { fill: #9a6700 } .unshielded, .failed { fill: #cf222e }
.card { fill: #f6f8fa; stroke: #d1d9e0 } .progress { fill: #0969da; transform-box: fill-box }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .ms, .head, .quiet { fill: #9198a1 }
  .immediate { fill: #4493f8 } .after_route { fill: #ab7df8 } .after_response, .ok { fill: #3fb950 }
  .shielded { fill: #d29922 } .unshielded, .failed { fill: #f85149 }
  .card { fill: #151b23; stroke: #3d444d } .progress { fill: #4493f8 }
}
.scene { opacity: 0 } .last { opacity: 1 }
@media (prefers-reduced-motion: reduce) { .scene, .scene *, .progress { animation: none !important } }"""


@dataclass(frozen=True)
class Scene:
    """A table of the demo. Times of lines: milliseconds."""

    title: str
    summary: str
    lines: Sequence[tuple[float, str, str]]
    claims: Sequence[tuple[str, bool]]


@dataclass(frozen=True)
class Shot:
    """A shape, and the second of the film at which it appears."""

    at: float
    shape: str


def record() -> list[Scene]:
    """Run the demo, and return its scenes."""
    with tempfile.TemporaryDirectory(prefix="taskphase-film-") as folder:
        file = Path(folder, "run.json")
        command = [sys.executable, str(DEMO), "--record", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=ENDS_WITHIN)  # noqa: S603 - our own
        return [Scene(**scene) for scene in json.loads(file.read_text())]


def draw(scenes: Sequence[Scene]) -> str:
    """Return the SVG file."""
    shown = [scene for scene in scenes if scene.summary]
    films: list[list[Shot]] = []
    begin = 0.0
    begins: list[float] = []
    for shots in (*map(list, map(_shots, shown)), list(_summary(shown))):
        begins.append(begin)
        films.append([Shot(begin + shot.at, shot.shape) for shot in shots])
        begin = films[-1][-1].at + HOLD
    seconds = begin - HOLD + LAST_HOLD
    height = TOP + ROW * max(len(_rows(scene)) + len(scene.claims) + 2 for scene in shown)
    shapes, rules = _animate(films, [*begins, seconds], seconds)
    frame = [
        rectangle(0.5, 0.5, WIDTH - 1, height - 1, 10, "card"),
        rectangle(MARGIN, height - 12, WIDTH - 2 * MARGIN, 3, 1.5, "progress"),
    ]
    style = "\n".join(["<style>", STYLE, *rules, "</style>"])
    return picture(WIDTH, height, TITLE, iter([*frame, *shapes]), style)


def _rows(scene: Scene) -> list[tuple[float, str, str]]:
    """Return the lines to draw. Of uvicorn's lines, only the one that says that the response has begun."""
    return [line for line in scene.lines if not line[2].startswith("[uvicorn]") or "HTTP/" in line[2]]


def _shots(scene: Scene) -> Iterator[Shot]:
    yield Shot(0, text(MARGIN, 32, scene.title, "title"))
    yield Shot(
        0, text(MS, 56, "ms", "head ms") + text(CLIENT, 56, "client", "head") + text(SERVER, 56, "server", "head")
    )
    at, y = 0.0, float(TOP)
    for ms, side, words in _rows(scene):
        at = max(ms / 1000 * SLOWER, at + GAP)
        y += ROW
        place, style = (CLIENT, "client") if side == "client" else (SERVER, _kind(words))
        line = words.strip() if len(words) <= LONGEST else f"{words[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
        yield Shot(at, text(MS, y - 16, f"{ms:.0f}", "ms") + text(place, y - 16, line, style))
    for claim, is_true in scene.claims:
        at += GAP
        y += ROW
        yield Shot(at, _claim(y - 8, claim, is_true=is_true))


def _summary(scenes: Sequence[Scene]) -> Iterator[Shot]:
    yield Shot(0, text(MARGIN, 32, "What you saw", "title"))
    y, at = 96.0, 0.0
    for scene in scenes:
        at += GAP
        first, *rest = textwrap.wrap(scene.summary, LONGEST_SUMMARY)
        is_true = all(is_true for _, is_true in scene.claims)
        below = (text(MARGIN + 28, y + 25 * number, line, "claim summary") for number, line in enumerate(rest, 1))
        yield Shot(at, "".join([_claim(y, first, "claim summary", is_true=is_true), *below]))
        y += 25 * len(rest) + 52
    yield Shot(at + GAP, text(MARGIN + 28, y + 6, "$ make demo", "quiet"))


def _claim(y: float, words: str, style: str = "claim", *, is_true: bool) -> str:
    mark, kind = ("\N{CHECK MARK}", "ok") if is_true else ("\N{BALLOT X}", "failed")
    return text(MARGIN, y, mark, f"{style} {kind}") + text(MARGIN + 28, y, words, style)


def _kind(words: str) -> str:
    kind = words.partition(":")[0]
    return kind if kind in KINDS else "quiet" if words.startswith("[") else "plain"


def _animate(films: Sequence[Sequence[Shot]], bounds: Sequence[float], seconds: float) -> tuple[list[str], list[str]]:
    """Return the groups of the scenes, and the CSS rules that show each scene and each of its shapes in time."""

    def percent(at: float) -> str:
        return f"{at / seconds * 100:.2f}%"

    def animation(name: str) -> str:
        return f' style="animation: {name} {seconds:.1f}s step-end infinite"'

    shapes: list[str] = []
    rules = [f".progress {{ animation: progress {seconds:.1f}s linear infinite }}"]
    rules.append("@keyframes progress { from { transform: scaleX(0) } }")
    for scene, shots in enumerate(films):
        is_last = scene == len(films) - 1
        begin, end = bounds[scene], bounds[scene + 1]
        hidden = "" if is_last else f" {percent(end)} {{ opacity: 0 }}"
        start = "" if scene == 0 else "0% { opacity: 0 } "
        rules.append(f"@keyframes s{scene} {{ {start}{percent(begin)} {{ opacity: 1 }}{hidden} }}")
        shapes.append(f'<g class="scene{" last" if is_last else ""}"{animation(f"s{scene}")}>')
        for number, shot in enumerate(shots):
            name = f"s{scene}-{number}"
            if shot.at == begin:
                shapes.append(shot.shape)
                continue
            rules.append(f"@keyframes {name} {{ 0% {{ opacity: 0 }} {percent(shot.at)} {{ opacity: 1 }} }}")
            shapes.append(f"<g{animation(name)}>{shot.shape}</g>")
        shapes.append("</g>")
    return shapes, rules


if __name__ == "__main__":
    FILE.write_text(draw(record()))
