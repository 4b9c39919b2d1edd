"""docs/demo.svg is a film of the demo: another run gives the same lines, and a browser needs no other file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from docs import film

DRAW = "run: python -m docs.film"
LARGEST = 60_000  # bytes
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def scenes() -> list[film.Scene]:
    """A fresh run of the demo."""
    return film.record()


@pytest.fixture(scope="module")
def drawn(scenes: list[film.Scene]) -> str:
    return film.draw(scenes)


def groups(picture: str) -> list[list[str]]:
    """Return the texts of each scene, sorted, without numbers."""
    found = [group for group in ET.fromstring(picture).iter(f"{SVG}g") if "scene" in group.get("class", "")]
    return [sorted(without_numbers(text.text or "") for text in group.iter(f"{SVG}text")) for group in found]


def without_numbers(line: str) -> str:
    """Replace numbers by a sign. The longer they are, the earlier a long line is cut off, so that goes as well."""
    text = re.sub(r"\d[\d.]*", "#", line)
    return text[:40] if text.endswith("…") else text


def keyframes(picture: str) -> Iterator[tuple[str, list[float]]]:
    """Yield the name and the percentages of each animation of a scene or of a line."""
    for name, rule in re.findall(r"@keyframes (s[\d-]+) \{(.*)\}", picture):
        yield name, [float(percent) for percent in re.findall(r"([\d.]+)%", rule)]


def test_the_film_in_the_docs_shows_the_lines_of_a_fresh_run(drawn: str) -> None:
    assert groups(film.FILE.read_text()) == groups(drawn), DRAW


def test_the_film_has_each_claim_of_the_demo_and_ends_with_the_summary(scenes: list[film.Scene], drawn: str) -> None:
    texts = [text.text for text in ET.fromstring(drawn).iter(f"{SVG}text")]

    assert all(is_true for scene in scenes for _, is_true in scene.claims)
    shown = [scene for scene in scenes if scene.summary]
    assert [claim for scene in shown for claim, _ in scene.claims if claim not in texts] == []
    assert len(groups(drawn)) == len(shown) + 1
    assert "What you saw" in groups(drawn)[-1]


def test_the_lines_of_the_film_appear_in_order_within_their_scene(drawn: str) -> None:
    animations = dict(keyframes(drawn))
    uses = re.findall(r"animation: (s[\d-]+) ", drawn)

    assert sorted(uses) == sorted(animations)
    scenes = [name for name in animations if "-" not in name]
    for name in scenes:
        starts = [animations[line][-1] for line in uses if line.startswith(f"{name}-")]
        assert starts == sorted(starts)
        ends = 100.0
        if name != scenes[-1]:  # the next scene begins when this one ends
            ends = animations[name][-1]
            assert ends == animations[f"s{int(name[1:]) + 1}"][1]
        assert all(start < ends for start in starts)


def test_the_film_stands_alone_and_is_small(drawn: str) -> None:
    for picture in (drawn, film.FILE.read_text()):
        assert not re.search(r"href|url\(|@import|<script|<image", picture)
        assert re.findall(r"https?://[^\"]+", picture) == ["http://www.w3.org/2000/svg"]
        assert len(picture.encode()) < LARGEST


def test_the_film_is_its_last_scene_where_motion_is_not_wanted(drawn: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in drawn
    assert re.search(r"@media \(prefers-reduced-motion: reduce\) \{[^}]*animation: none !important", drawn)
    assert ".scene { opacity: 0 } .last { opacity: 1 }" in drawn
    assert len(re.findall(r'<g class="scene last"', drawn)) == 1
    assert drawn.rindex('<g class="scene last"') == drawn.rindex('<g class="scene')
