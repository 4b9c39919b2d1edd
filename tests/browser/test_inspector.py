"""The page of the inspector in a real browser, with a real server."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.servers.harness import SERVERS, Server, ServerKind

APP = "tests.servers.apps.inspected:app"
PATIENCE = 10_000  # milliseconds for a change of the page, which takes 2 seconds at most
EVIL = '<img src=x onerror="document.title=1">'

# Each text against the ground behind it, as WCAG 2 computes it.
CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.tagName === "NOSCRIPT") continue;
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""

HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


class Tab:
    """A page of the browser; each complaint of the browser fails the test."""

    def __init__(self, page: Any, server: Server) -> None:
        self.page = page
        self.server = server
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))

    def open(self) -> None:
        self.page.goto(f"{self.server.base_url}/_tasks/")
        self.state("Live")

    def state(self, text: str) -> None:
        self.page.locator("#state", has_text=text).wait_for()

    def entry(self, text: str) -> Any:
        return self.page.locator("#entries button", has_text=text)

    def streams(self) -> int:
        return sum("/events" in url for url in self.requests)


@pytest.fixture(scope="module")
def server(chromium: Any) -> Iterator[Server]:
    with Server(SERVERS[0], APP) as server:
        yield server


@pytest.fixture
def tab(chromium: Any, server: Server) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    tab = Tab(context.new_page(), server)
    yield tab
    complaints = list(tab.complaints)
    context.close()
    assert complaints == []
    assert {url for url in tab.requests if not url.startswith(f"{server.base_url}/_tasks/")} == set()


def test_a_request_appears_with_its_waterfall_and_without_a_reload(tab: Tab) -> None:
    tab.open()
    tab.server.post("/orders/live").raise_for_status()
    tab.entry("POST /orders/live").wait_for()
    tab.page.get_by_role("heading", name="POST /orders/live").wait_for()
    rows = tab.page.locator("#chart .rows > li")
    rows.nth(3).wait_for()
    labels = [text.split("\n") for text in rows.locator(".label").all_inner_texts()]
    assert [label[0].lstrip("✓▸") for label in labels] == [
        "route, then response",
        "mail for live",
        "inspected.parent",
        "child of the order",
    ]
    child = rows.nth(3)
    child.locator("summary").click()
    assert "scheduled by task" in child.inner_text()
    assert "runs, " in child.inner_text()
    assert tab.page.evaluate("performance.getEntriesByType('navigation').length") == 1


def test_a_chain_of_tasks_may_be_longer_than_the_stack_of_the_browser(tab: Tab) -> None:
    tab.open()
    rows = tab.page.evaluate("""async () => {
      const { drawChart } = await import("./waterfall.js");
      const tasks = Array.from({ length: 200000 }, (_, id) => ({
        id, parent: id ? id - 1 : null, request: null, function: "f", name: null, phase: "immediate", attempt: 1,
        status: "succeeded", scheduled: 0, ended: 1, segments: [["run", 0, null]], error: null,
      }));
      const place = document.createElement("div");
      drawChart(place, { key: "t0", request: null, root: tasks[0], tasks, at: 0 }, { now: 1, scale: "all" });
      return [...place.querySelectorAll(".rows > li")].map((row) => row.innerText);
    }""")
    assert len(rows) == 61
    assert rows[-1] == "and 199940 more tasks"


def test_a_fault_of_the_page_is_not_told_as_one_of_the_server(tab: Tab) -> None:
    tab.open()
    tab.page.evaluate("document.getElementById('counts').remove()")
    tab.server.post("/orders/fault").raise_for_status()
    notice = tab.page.locator("#notice", has_text="This page has a fault")
    notice.wait_for()
    assert "TypeError" in notice.inner_text()
    tab.state("Live")
    tab.page.close()
    assert tab.complaints
    tab.complaints.clear()


def test_the_counts_and_the_alive_tasks_are_shown(tab: Tab) -> None:
    tab.open()
    tab.server.post("/waits").raise_for_status()
    row = tab.page.locator("#alive-rows tr", has_text="waits").first
    row.wait_for()
    assert "inspected.py" in row.inner_text()
    assert "wait_for_nothing" in row.inner_text()
    assert "running" in row.inner_text()
    assert tab.page.locator("#counts .none dt", has_text="running").count() == 0


def test_a_hand_over_has_a_bar_an_end_and_its_message_in_words_and_in_colour(tab: Tab) -> None:
    tab.open()
    tab.server.post("/handed/7").raise_for_status()
    tab.entry("POST /handed/7").click()
    row = tab.page.locator("#chart .rows > li", has_text="send 7")
    row.locator(".end.handed_over").wait_for()
    assert "after_response · handed over" in row.inner_text()
    bar = row.locator(".bar.handover.handed_over")
    assert bar.count() == 1
    assert row.locator(".bar.run").count() == 0
    colours = [tab.page.evaluate("(e) => getComputedStyle(e).color", each.element_handle()) for each in (
        row.locator(".mark"), tab.page.locator("#chart .rows > li", has_text="charge 7").locator(".mark"),
    )]  # fmt: skip
    row.locator("summary").click()
    facts = row.locator(".facts").inner_text()
    assert "waits for its hand-over, " in facts
    assert "handed over to later" in facts
    [message] = [line for line in facts.splitlines() if line.startswith("queue later, message ")]
    assert len(message.split()[-1]) == 32
    tab.page.locator("#chart .rows > li", has_text="charge 7").locator(".end.succeeded").wait_for()
    assert tab.entry("POST /handed/7").locator(".unseen", has_text="1 handed over").count() == 1
    assert tab.page.locator("#counts div", has_text="handed over").locator("dd").inner_text() != "0"
    tab.page.get_by_label("Status").select_option("handed over")
    tab.entry("POST /handed/7").wait_for()
    assert colours[0] != colours[1]


def test_a_refused_hand_over_is_a_failed_bar_before_the_run_here(tab: Tab) -> None:
    tab.open()
    tab.server.post("/handed/8").raise_for_status()
    tab.entry("POST /handed/8").click()
    row = tab.page.locator("#chart .rows > li", has_text="charge 8")
    row.locator(".end.succeeded").wait_for()
    assert (row.locator(".bar.handover.error").count(), row.locator(".bar.run.succeeded").count()) == (1, 1)
    row.locator("summary").click()
    assert "raises HandOverFailed" in row.locator(".facts").inner_text()


def test_an_alive_task_shows_the_queue_for_which_it_waits_and_its_message(tab: Tab) -> None:
    tab.open()
    tab.server.post("/hanging").raise_for_status()
    row = tab.page.locator("#alive-rows tr", has_text="hangs").first
    row.wait_for()
    text = row.inner_text()
    assert "handing over" in text
    assert "the queue 'hanging'" in text
    assert "inspected.py" in text
    assert "queue hanging, message " in text
    tab.page.locator("#counts dt", has_text="handing over").wait_for()


def test_failures_are_grouped_and_lead_to_their_request(tab: Tab) -> None:
    for _ in range(2):
        tab.server.post("/failures").raise_for_status()
    tab.open()
    group = tab.page.locator("#groups > li", has_text="no such order")
    group.wait_for()
    assert "2 times" in group.locator(".count").text_content()
    assert "no such order" in group.inner_text()
    group.get_by_role("button", name="Show the last request").click()
    tab.page.get_by_role("heading", name="POST /failures").wait_for()
    assert tab.page.evaluate("document.activeElement.id") == "chosen-title"
    failed = tab.page.locator("#chart .rows > li", has_text="fail")
    failed.locator("summary").click()
    assert "ValueError: no such order" in failed.locator(".facts").inner_text()


def test_a_request_ends_on_the_page_though_its_tasks_have_ended_before(tab: Tab) -> None:
    tab.open()
    facts = tab.page.locator("#chosen-facts")
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(tab.server.post, "/held")
        tab.page.locator("#chart .request", has_text="route runs").wait_for()
        tab.page.locator("#chart .end.succeeded").wait_for()
        assert "over at" not in facts.inner_text()
        tab.server.client.post("/release").raise_for_status()
        answer.result(timeout=5).raise_for_status()
    facts.filter(has_text="over at").wait_for()
    tab.page.locator("#chart .request", has_text="route succeeded").wait_for()


def test_a_failure_of_a_child_leads_to_the_tree_of_its_tasks(tab: Tab) -> None:
    tab.server.post("/services").raise_for_status()
    tab.open()
    tab.page.locator("#groups > li", has_text="the service is down").get_by_role("button").click()
    tab.page.get_by_role("heading", name="service").wait_for()
    names = tab.page.locator("#chart .name").all_inner_texts()
    assert [name.lstrip("✓✕") for name in names] == ["service", "inspected.break_down"]


def test_code_that_a_task_leaves_behind_schedules_into_the_request_of_its_task(tab: Tab) -> None:
    tab.server.post("/left").raise_for_status()
    tab.open()
    tab.page.locator("#chart .rows > li", has_text="left behind").wait_for()
    tab.page.get_by_role("heading", name="POST /left").wait_for()
    assert tab.entry("leaves code behind").count() == 0


def test_many_requests_make_the_page_no_longer(tab: Tab) -> None:
    for order in range(40):
        tab.server.post(f"/orders/{order}").raise_for_status()
    tab.open()
    tab.entry("POST /orders/39").wait_for()
    page, body = tab.page.evaluate("[document.documentElement.scrollHeight, document.body.offsetHeight]")
    assert page <= max(body, 900)


def test_durations_are_plain_numbers(tab: Tab) -> None:
    tab.open()
    shown = tab.page.evaluate("""async () => {
      const { seconds } = await import("./page-parts.js");
      const durations = [0, -2.8e-17, 2.9e-14, 2.9e-7, 3e-6, 0.00031, 0.0123, 0.9996, 1.239, 59.99, 86400, 1e7];
      return durations.map((each) => seconds(each));
    }""")
    sub_second = ["0 ms", "0 ms", "0 ms", "0 ms", "0.003 ms", "0.31 ms", "12 ms"]
    assert shown == [*sub_second, "1 s", "1.24 s", "60 s", "24 h", "115 days"]


def test_a_filter_outlives_a_reload(tab: Tab) -> None:
    tab.server.post("/orders/kept").raise_for_status()
    tab.server.post("/orders/other").raise_for_status()
    tab.open()
    tab.entry("POST /orders/other").wait_for()
    tab.page.get_by_label("Search").fill("mail kept")
    tab.entry("POST /orders/other").wait_for(state="detached")
    assert tab.entry("POST /orders/kept").count() == 1
    tab.page.reload()
    tab.state("Live")
    tab.entry("POST /orders/kept").wait_for()
    assert tab.page.get_by_label("Search").input_value() == "mail kept"
    assert tab.page.locator("#entries li").count() == 1
    tab.page.get_by_label("Status").select_option("failed")
    tab.page.get_by_text("No request matches the filter.").wait_for()


def test_html_in_names_is_text(tab: Tab) -> None:
    tab.server.client.post("/named", params={"text": EVIL}).raise_for_status()
    tab.open()
    tab.page.locator("#chart .name", has_text=EVIL).wait_for()
    assert tab.page.locator("img").count() == 0
    assert tab.page.title() == "Tasks"


def test_the_page_comes_back_with_its_server(tab: Tab) -> None:
    tab.open()
    tab.server.term()
    tab.server.wait()
    notice = tab.page.get_by_role("alert")
    notice.filter(has_text="No answer from the server since").wait_for()
    tab.server.start_again()
    tab.state("Live")
    notice.wait_for(state="hidden")
    tab.server.post("/orders/after").raise_for_status()
    tab.entry("POST /orders/after").wait_for()
    assert tab.page.locator("#entries li").count() == 1  # the history began anew
    assert tab.page.locator("#worker").inner_text().startswith("pid ")
    tab.complaints[:] = [text for text in tab.complaints if "net::ERR" not in text]  # of the connection


def test_a_worker_that_has_gone_is_forgotten_after_a_minute(chromium: Any) -> None:
    two_workers = ServerKind("uvicorn-2", "uvicorn {app} --port {port} --workers 2", 0, 0)
    with Server(two_workers, APP) as server:
        tab = Tab(chromium.new_page(), server)
        tab.page.clock.install()
        tab.open()
        worker = tab.page.locator("#worker")
        pid = worker.inner_text().removeprefix("pid ")
        os.kill(int(pid), signal.SIGTERM)
        worker.filter(has_text=re.compile("^[23] workers")).wait_for()  # the server starts another one
        assert worker.get_by_role("option", name=pid).get_attribute("selected") is not None
        tab.page.clock.set_system_time(datetime.now() + timedelta(seconds=61))
        worker.filter(has_not_text=pid).wait_for()
        server.post("/orders/of-another").raise_for_status()
        tab.state("Live")
        tab.page.close()


def test_a_hidden_tab_reads_no_stream(tab: Tab) -> None:
    """A headless Chromium hides no tab: the test sets the property and sends the event."""
    tab.open()
    tab.page.evaluate(HIDE, True)
    tab.state("Paused")
    before = tab.streams()
    tab.server.post("/orders/unseen").raise_for_status()
    tab.page.wait_for_timeout(2500)  # longer than one stream and the pause behind it
    assert tab.streams() == before
    assert tab.entry("POST /orders/unseen").count() == 0
    tab.page.evaluate(HIDE, False)
    tab.state("Live")
    tab.entry("POST /orders/unseen").wait_for()


def test_the_page_works_with_the_keyboard_alone(tab: Tab) -> None:
    for name in ("first", "second"):
        tab.server.post(f"/orders/{name}").raise_for_status()
    tab.open()
    tab.entry("POST /orders/first").wait_for()
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("heading", name="POST /orders/first").wait_for()
    assert tab.entry("POST /orders/first").get_attribute("aria-current") == "true"
    assert "POST /orders/first" in tab.page.evaluate("document.activeElement.innerText")
    summary = tab.page.locator("#chart summary").first
    summary.focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#chart details").first.get_attribute("open") is not None


def test_the_parts_of_the_page_have_roles_and_names(tab: Tab) -> None:
    tab.open()
    for name in ("Requests", "Alive", "Failures"):
        assert tab.page.get_by_role("region", name=name).count() == 1
    for role in ("banner", "main", "search", "status"):
        assert tab.page.get_by_role(role).count() == 1


def test_without_a_journal_the_page_shows_none_and_loads_nothing_for_it(tab: Tab) -> None:
    tab.open()
    assert tab.page.get_by_text("journal").filter(visible=True).count() == 0
    assert tab.page.get_by_text("recovered").count() == 0
    assert not [url for url in tab.requests if "journal" in url]


@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_screen_and_can_be_read(chromium: Any, server: Server, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = Tab(context.new_page(), server)
    for path in ("/waits", "/failures", "/hanging", "/handed/7", f"/orders/{'long' * 30}", "/orders/none"):
        server.post(path)
    tab.open()
    tab.page.locator("#groups > li").first.wait_for()
    tab.entry("none").first.wait_for()
    tab.page.locator("#chart summary").first.click()
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    assert tab.page.evaluate(CONTRASTS) == []
    context.close()
