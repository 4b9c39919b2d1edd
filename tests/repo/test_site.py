"""The documentation site: it builds without a warning, has each page and each public name, and leads nowhere astray."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from shutil import copy, copytree
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "zensical.toml"
BUILD = ["-m", "zensical", "build", "--clean", "--strict"]
BUILDS_WITHIN = 60.0  # seconds; it takes about 7 on 2 cores

COLOURS = re.compile(r"\x1b\[[\d;]*m")

MODULES = [
    "taskphase",
    "taskphase.errors",
    "taskphase.celery",
    "taskphase.queues",
    "taskphase.taskiq",
    "taskphase.testing",
    "fastapi_tasks",
    "fastapi_tasks.errors",
    "fastapi_tasks.inspector",
    "fastapi_tasks.queues",
]
MODULES += ["fastapi_tasks.testing"] if find_spec("fastapi_tasks.testing") else []


@dataclass
class Page(HTMLParser):
    """One page, as a browser sees it.

    :ivar links: the targets of links and pictures
    :ivar loads: the files that a browser loads with the page
    :ivar titles: the tooltips
    """

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    titles: set[str] = field(default_factory=set)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        if "id" in values:
            self.ids.add(values["id"])
        if "title" in values:
            self.titles.add(values["title"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values or (tag == "link" and values.get("rel") in {"stylesheet", "preconnect", "icon"}):
            self.loads.append(values.get("src") or values["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    copytree(ROOT / "docs", folder / "docs")
    copy(CONFIGURATION, folder)  # a link would have it build where that leads to
    for name in ("core", "fastapi_binding", "CONTRIBUTING.md", "CHANGELOG.md"):
        (folder / name).symlink_to(ROOT / name)
    build = subprocess.run(
        [sys.executable, *BUILD], cwd=folder, capture_output=True, text=True, timeout=BUILDS_WITHIN, check=False
    )
    assert build.returncode == 0, COLOURS.sub("", build.stdout + build.stderr)
    assert (folder / "site" / "index.html").exists()
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def entries(nav: list[Any]) -> Iterator[str]:
    """Yield the files of a navigation, without their titles."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from entries(value) if isinstance(value, list) else [value]


def configuration() -> dict[str, Any]:
    """Return the settings of the site."""
    return tomllib.loads(CONFIGURATION.read_text())["project"]


def group(name: str) -> list[str]:
    """Return the pages of a group of the navigation."""
    [found] = [entry[name] for entry in configuration()["nav"] if name in entry]
    return list(entries(found))


def target(page: Page, link: str, site: Path) -> tuple[Path, str]:
    """Return the file that a link of a page leads to, and the fragment."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    file = page.path if not path else (site / path[1:] if path.startswith("/") else page.path.parent / path).resolve()
    return file / "index.html" if file.is_dir() else file, unquote(parts.fragment)


def test_make_docs_builds_as_strictly_as_this_test() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs: ")[2].partition("\n\n")[0]

    assert f"$(BIN)/{' '.join(BUILD[1:])}" in recipe


def test_each_page_is_in_the_navigation_and_each_entry_has_a_page() -> None:
    nav = list(entries(configuration()["nav"]))
    docs = ROOT / "docs"

    assert sorted(nav) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_each_page_is_built_with_a_title_of_its_own(pages: dict[Path, Page]) -> None:
    titles = [page.path.read_text().partition("<title>")[2].partition("</title>")[0] for page in pages.values()]

    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    assert sorted(set(titles)) == sorted(titles)


def test_the_menu_has_four_groups_and_the_internals() -> None:
    groups = [name for entry in configuration()["nav"] for name in entry]

    assert groups == ["Learn", "How-to", "Understand", "Reference", "Internals"]
    assert "navigation.tabs" in configuration()["theme"]["features"]


def test_the_colour_scheme_follows_the_system_and_has_a_switch(pages: dict[Path, Page], site: Path) -> None:
    palette = configuration()["theme"]["palette"]

    assert [(each["media"], each.get("scheme")) for each in palette] == [
        ("(prefers-color-scheme)", None),
        ("(prefers-color-scheme: light)", "default"),
        ("(prefers-color-scheme: dark)", "slate"),
    ]
    assert {each["toggle"]["name"] for each in palette} <= pages[site / "index.html"].titles


def test_each_page_has_the_version_and_the_logo(pages: dict[Path, Page], site: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    for page in pages.values():
        assert f"fastapi-tasks {version}" in page.text
        loaded = {target(page, link, site)[0] for link in page.loads if not urlsplit(link).scheme}
        assert site / "logo.svg" in loaded


SEARCHES = [
    "metrics",
    "queue",
    "crash",
    "sentry",
    "periodic",
    "test",
    "delay",
    "limit",
    "cancel a task",
    "cpu",
    "process",
]
SEARCHES += ["list running tasks", "one process", "run once", "admin page", "lock file"]


@pytest.mark.parametrize("words", SEARCHES)
def test_the_search_finds_a_page_to_the_point(words: str, site: Path) -> None:
    items = json.loads((site / "search.json").read_text())["items"]
    how_to = ("how-to/", "faq/", "testing/", "shutdown/", "limits/", "tutorial/")

    assert [item for item in items if item["location"].startswith(how_to) and has_in_title(item, words)]


def has_in_title(item: dict[str, str], words: str) -> bool:
    """Return whether the title of a section has all the words, as whole words or as their beginnings."""
    return all(re.search(rf"\b{word}", item["title"], re.IGNORECASE) for word in words.split())


def test_the_index_for_language_models_leads_to_each_page_for_users(site: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text())
    users = [page for name in ("Learn", "How-to", "Reference") for page in group(name) if page != "index.md"]

    assert [link for link in links if not (site / link / "index.html").exists()] == []
    assert {f"{page.removesuffix('.md')}/" for page in users} - set(links) == set(), "add these to docs/llms.txt"


@pytest.mark.parametrize("name", MODULES)
def test_each_public_name_is_on_a_page_of_the_reference(name: str, site: Path, pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.ids for path, page in pages.items() if path.is_relative_to(site / "reference")))
    others: list[ModuleType] = [importlib.import_module(other) for other in MODULES]
    module = importlib.import_module(name)

    def is_there(public: str) -> bool:
        """Return whether the object has an anchor, under this name or another of its names."""
        homes = [other for other in others if getattr(other, public, None) is getattr(module, public)]
        return any(f"{home.__name__}.{public}" in anchors for home in homes)

    assert module.__all__
    assert [public for public in module.__all__ if not is_there(public)] == []


def test_the_page_of_the_binding_lists_each_name_that_it_offers(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "reference" / "fastapi_tasks" / "index.html"]
    names = importlib.import_module("fastapi_tasks").__all__
    listed = set(re.findall(r"<code>(\w+)</code>", page.path.read_text()))

    assert [name for name in names if f"fastapi_tasks.{name}" not in page.ids and name not in listed] == []


def test_no_link_and_no_anchor_of_the_site_is_broken(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for page in pages.values():
        for link in [*page.links, *page.loads]:
            if urlsplit(link).scheme:
                continue
            file, fragment = target(page, link, site)
            if not file.exists() or (fragment and file in pages and fragment not in pages[file].ids | {"__top"}):
                broken.append(f"{page.path.relative_to(site)}: {link}")

    assert broken == []


def test_no_page_loads_anything_from_elsewhere(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert [link for link in page.loads if urlsplit(link).netloc] == []
        # The theme's script would download the code that draws these.
        assert 'class="mermaid"' not in page.path.read_text()
