"""G20, G22: the journal on the page of the inspector, in a real browser, with real servers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser.test_inspector import CONTRASTS, EVIL, Tab
from tests.servers.apps.kept import PATH
from tests.servers.harness import SERVERS, Server

if sys.platform == "win32":
    pytest.skip("a journal needs fcntl", allow_module_level=True)

APP = "tests.servers.apps.kept:app"
MANY = 104  # more than the page shows


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "tasks.db"


@pytest.fixture(scope="module")
def server(chromium: Any, path: Path) -> Iterator[Server]:
    with Server(SERVERS[0], APP, {PATH: str(path)}) as server:
        yield server


@pytest.fixture
def tab(chromium: Any, server: Server) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    tab = Tab(context.new_page(), server)
    server.post("/discarded").raise_for_status()
    yield tab
    complaints = list(tab.complaints)
    context.close()
    assert complaints == []


def schedule(server: Server, name: str, function: str, count: int = 1) -> None:
    parameters: dict[str, str | int] = {"function": function, "count": count}
    server.client.post(f"/tasks/{name}", params=parameters).raise_for_status()


def due(tab: Tab, text: str) -> Any:
    return tab.page.locator("#due-rows tr", has_text=text)


def failed(tab: Tab, text: str) -> Any:
    return tab.page.locator("#kept-rows tr", has_text=text)


def test_tasks_of_all_processes_appear_and_go_without_a_reload_g20_g22(tab: Tab, path: Path) -> None:
    tab.open()
    tab.page.get_by_text("0 due, 0 failed for good").wait_for()
    assert tab.page.locator("#journal .empty:visible").all_inner_texts() == ["None.", "None."]
    with Server(SERVERS[0], APP, {PATH: str(path)}) as other:
        schedule(other, "of the other", "wait_once")
        schedule(other, "broken", "fail")
        due(tab, "of the other").wait_for()
        failed(tab, "broken").wait_for()
        row = due(tab, "of the other").inner_text()
        assert "kept.wait_once" in row
        assert "a living process has it" in row
        assert "ValueError: broken" in failed(tab, "broken").inner_text()
        tab.page.get_by_text("1 due, 1 failed for good").wait_for()
        os.killpg(other.pid, signal.SIGKILL)
        tab.page.locator("#chart .label", has_text="of the other").filter(has_text="recovered").wait_for()
    due(tab, "of the other").wait_for(state="detached")
    recovered = tab.page.locator("#counts div", has_text="recovered").locator("dd").inner_text()
    assert int(recovered) == 1
    tab.page.locator("#chart summary", has_text="of the other").click()
    assert "may have run before" in tab.page.locator("#chart .facts").first.inner_text()
    tab.page.get_by_label("Search").fill("recovered")
    tab.page.locator("#entries li", has_text="of the other").wait_for()
    assert tab.page.evaluate("performance.getEntriesByType('navigation').length") == 1


def test_a_row_shows_the_recoveries_and_the_process_of_its_task_g22(tab: Tab, path: Path) -> None:
    with Server(SERVERS[0], APP, {PATH: str(path)}) as other:
        schedule(other, "left alone", "wait")
        tab.open()
        due(tab, "left alone").wait_for()
        os.killpg(other.pid, signal.SIGKILL)
        tab.page.locator("#alive-rows tr", has_text="left alone").filter(has_text="recovered").wait_for()
        row = due(tab, "left alone").filter(has_text="a living process has it")
        row.locator("[data-label=Recoveries]", has_text="1").wait_for()


def test_html_in_names_and_errors_is_text_g20(tab: Tab) -> None:
    schedule(tab.server, EVIL, "fail")
    schedule(tab.server, EVIL, "wait")
    tab.open()
    due(tab, EVIL).wait_for()
    failed(tab, f"ValueError: {EVIL}").wait_for()
    assert tab.page.locator("img").count() == 0
    assert tab.page.title() == "Tasks"


def test_the_filter_is_for_the_journal_too(tab: Tab) -> None:
    schedule(tab.server, "one", "wait")
    schedule(tab.server, "two", "wait")
    schedule(tab.server, "two", "fail")
    tab.open()
    due(tab, "one").wait_for()
    failed(tab, "two").wait_for()
    tab.page.get_by_label("Search").fill("two")
    due(tab, "one").wait_for(state="detached")
    assert (due(tab, "two").count(), failed(tab, "two").count()) == (1, 1)
    tab.page.get_by_label("Status").select_option("failed")
    due(tab, "two").wait_for(state="detached")
    assert failed(tab, "two").count() == 1
    assert tab.page.locator("#no-due").inner_text() == "No task matches the filter."


def test_the_tables_are_bounded_and_say_how_many_more_there_are(tab: Tab) -> None:
    schedule(tab.server, "many", "fail", MANY)
    tab.open()
    tab.page.get_by_text(f"{MANY} failed for good").wait_for()
    assert tab.page.locator("#kept-rows tr").count() == 100
    assert tab.page.locator("#no-kept").inner_text() == "And 4 more."


def test_the_journal_has_roles_and_names(tab: Tab) -> None:
    schedule(tab.server, "one", "wait")
    schedule(tab.server, "two", "fail")
    tab.open()
    region = tab.page.get_by_role("region", name="Journal")
    for name in ("Due", "Failed for good"):
        table = region.get_by_role("table", name=name)
        table.get_by_role("cell").first.wait_for()
        assert table.get_by_role("columnheader").count() == 4
        assert region.get_by_role("heading", name=name).count() == 1


@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_journal_fits_its_screen_and_can_be_read(chromium: Any, tab: Tab, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    own = Tab(context.new_page(), tab.server)
    schedule(own.server, "long" * 30, "wait")
    schedule(own.server, "long" * 100, "fail")
    own.open()
    due(own, "long").wait_for()
    failed(own, "long").wait_for()
    assert own.page.evaluate("document.documentElement.scrollWidth") == width
    assert own.page.evaluate(CONTRASTS) == []
    context.close()
