"""Runs docs/shutdown.md, docs/limits.md and docs/retries.md: each `python` block, and their examples."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from tests.examples.programs import example
from tests.repo import uses_of_guides
from tests.repo.test_docs import FENCED, ROOT, Program, executed, programs
from tests.repo.uses import Use, requests, serving

from taskphase import TaskHost, retry
from taskphase.testing import simulate

PAGES = [ROOT / "docs" / name for name in ("shutdown.md", "limits.md", "retries.md")]
# The programs with an `output` block are in test_docs.py.
PROGRAMS = [program for page in PAGES for program in programs(page) if program.id not in uses_of_guides.USES]


def use_counts(module: ModuleType) -> None:
    with serving(module) as client:
        health = client.get("/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok", "oldest": "none"})


def use_timeouts(module: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as other:
        accepted = other.submit(listener.accept)
        requests(("POST", f"/events/a?port={listener.getsockname()[1]}", 202))(module)
        accepted.result(timeout=5)[0].close()


USES = {
    "docs/shutdown.md#tasks-that-watch-closing": Use(
        requests(),
        ("compress: stopped between two chunks", "poll: stopped between two rounds", "the pool is closed"),
    ),
    "docs/limits.md#reading-the-counts": Use(use_counts),
    "docs/retries.md#timeout": Use(use_timeouts, ("answers", "published a")),
    "docs/retries.md#the-outbox": Use(
        requests(("POST", "/orders/2?item=a bicycle", 202)),
        ("sent 'order 1: a bell' as outbox-1", "sent 'order 2: a bicycle' as outbox-2"),
    ),
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.id)
def test_each_program_of_the_pages_does_what_it_says(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    use = USES[program.id]
    with executed(program) as module:
        assert use.run is not None
        use.run(module)
    # Tasks that run beside each other may be done in any order.
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(use.printed)


def test_each_program_of_the_pages_is_used_and_has_an_app_of_its_own() -> None:
    assert [program.id for program in PROGRAMS] == list(USES)
    assert all("add_tasks(" in program.source for program in PROGRAMS)


# The examples, and their output in the pages


def listing(page: str, first_line: str) -> list[str]:
    """Return the lines of the block of a page that begins with `first_line`."""
    blocks = [block.splitlines()[1:-1] for block in FENCED.findall((ROOT / "docs" / page).read_text())]
    [found] = [block for block in blocks if first_line in block[0]]
    return found


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[str]]:
    """The output of the examples. They mostly wait, so they run at the same time."""
    names = ["graceful.py", "back_pressure.py", "idempotent.py"]
    with ThreadPoolExecutor(len(names)) as processes:
        return dict(zip(names, processes.map(example, names), strict=True))


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r"[\d.]+ m?s\b", "", line).strip() for line in lines]


def test_the_example_of_a_shutdown_prints_what_the_page_shows_g9_g10(outputs: dict[str, list[str]]) -> None:
    printed = without_times(outputs["graceful.py"])
    # A thread ends within its own tick.
    assert sorted(printed) == sorted(without_times(listing("shutdown.md", "the drain begins")))
    assert printed[0] == "the drain begins"
    assert printed[-1] == "database closed"


def test_the_example_of_back_pressure_refuses_some_and_prints_all_g15(outputs: dict[str, list[str]]) -> None:
    printed = outputs["back_pressure.py"]
    refused = [int(line.split()[-1]) for line in printed if line.startswith("accepted")]
    assert refused[0] > 0
    assert refused[-1] == 0
    assert 'tasks{state="waiting"} 4' in printed[2]
    assert printed[-1] == f"printed: {list(range(10))}"


def test_the_example_of_an_idempotency_key_prints_what_the_page_shows_g16(outputs: dict[str, list[str]]) -> None:
    printed = without_times(outputs["idempotent.py"])
    assert printed == without_times(listing("retries.md", "with an idempotency key"))
    assert "attempts: 2, charges: 1, the last answer: charge 1" in printed


# The sums


def rows(page: Path, *, below: str) -> Iterator[list[str]]:
    """Yield the cells of the first table below a heading, without the first two lines."""
    lines = page.read_text().partition(f"\n## {below}\n")[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("column", [2, 3])
def test_the_sum_for_kubernetes_is_right(column: int) -> None:
    *parts, total, period, reserve = [int(row[column]) for row in rows(PAGES[0], below="Kubernetes")]
    assert len(parts) == 5
    assert sum(parts) == total
    assert total + reserve == period


def test_the_time_that_a_task_with_its_retries_takes_is_right_g16() -> None:
    *attempts, [_, _, total] = rows(PAGES[2], below="How long it takes")
    parts = [int(cell) for _, *cells in attempts for cell in cells if cell]

    async def main() -> float:
        began = anyio.current_time()
        async with TaskHost() as host:
            again = retry(attempts=5, backoff=1, max_delay=4, jitter=False)
            await host.task(timeout=10, retry=again).schedule(anyio.sleep_forever).wait()
        return anyio.current_time() - began

    assert sum(parts) == int(total) == pytest.approx(simulate(main).result())
