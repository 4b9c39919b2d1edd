"""`PrometheusTasks` in two workers of uvicorn, with the multi-process mode of prometheus_client (G9, G20)."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from tests.servers.harness import ANSWER_WITHIN, POLL_EVERY, Server, ServerKind

TWO_WORKERS = ServerKind("uvicorn-2", "uvicorn {app} --port {port} --workers 2", 0, 0)
MOST_REQUESTS = 200  # until both workers have answered; 10 were enough
IDLE = ("deferred", "recording", "delayed", "limited", "waiting", "retrying", "handing_over")
SAMPLE = re.compile(r"^taskphase_(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def values(text: str) -> dict[tuple[str, str], float]:
    """Return the values of the counters and of the gauge, by name and labels. A function without its module."""
    found = {(name, re.sub(r"tests\.servers\.apps\.metrics\.", "", labels)): float(value)
             for name, labels, value in SAMPLE.findall(text)}  # fmt: skip
    return {key: value for key, value in found.items() if key[0] in ("tasks", "tasks_ended_total")}


def ended(function: str, phase: str, outcome: str) -> tuple[str, str]:
    return "tasks_ended_total", f'function="{function}",outcome="{outcome}",phase="{phase}"'


def in_state(state: str) -> tuple[str, str]:
    return "tasks", f'state="{state}"'


def test_a_scrape_of_one_of_two_workers_has_the_tasks_of_both_g9_g20(tmp_path: Path) -> None:
    with Server(TWO_WORKERS, "tests.servers.apps.metrics:app", {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}) as server:

        def ask(_: int) -> int:
            return int(httpx.get(f"{server.base_url}/tasks", timeout=ANSWER_WITHIN, trust_env=False).text)

        pids: list[int] = []
        with ThreadPoolExecutor(4) as clients:
            while len(set(pids)) < 2 and len(pids) < MOST_REQUESTS:
                pids += clients.map(ask, range(10))
        assert len(set(pids)) == 2
        expected = {
            ended("count", "after_response", "succeeded"): len(pids),
            in_state("running"): len(pids),
            **{in_state(state): 0 for state in IDLE},
        }
        deadline = time.monotonic() + ANSWER_WITHIN
        while (seen := values(server.get("/metrics").text)) != expected and time.monotonic() < deadline:
            time.sleep(POLL_EVERY)
        assert seen == expected
        server.term()
        server.wait()

    # The files outlive the workers, which have cancelled what was left.
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))
    last = values(generate_latest(registry).decode())
    assert last[ended("hold", "immediate", "cancelled")] == len(pids)
    assert {last[in_state(state)] for state in ("running", *IDLE)} == {0}
