"""Loads a server on this machine, with wrk if installed, otherwise with a client in Python.

`python -m benchmarks.load PORT CONNECTIONS SECONDS` is this client. It keeps the connections open, with one request on
each at any time.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n"

PATIENCE = 20.0  # seconds that the last responses may take

WRK = shutil.which("wrk")
GENERATOR = "wrk" if WRK else "a client of this repository's own"


def load(port: int, pid: int, connections: int, seconds: float) -> dict[str, float]:
    """Return `requests` per second, percentiles of their latency, and the CPU time of process `pid` for one.

    :raises RuntimeError: if a response was missing or its status was not 200
    """
    if WRK:
        script = Path(__file__).with_name("wrk.lua")
        command = [WRK, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script]
        command += [f"http://127.0.0.1:{port}/"]
    else:
        command = [sys.executable, "-m", "benchmarks.load", str(port), str(connections), str(seconds)]
    before = cpu_seconds(pid)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if answer["failed"] or not answer["requests"]:
        raise RuntimeError(f"the server did not answer as it should: {answer}")
    spent = (cpu_seconds(pid) - before) / answer["requests"]
    latency = {f"p{percent}, ms": answer[f"p{percent}"] for percent in (50, 95, 99)}
    return {"requests": answer["requests"] / answer["seconds"], **latency, "CPU, us": spent * 1e6}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, including all threads."""
    return time.clock_gettime(~pid << 3 | 2)  # the result of clock_getcpuclockid() in Linux's C library


class Client(asyncio.Protocol):
    """One connection, with one request at any time until `deadline`."""

    def __init__(self, deadline: float, latencies: list[float]) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.failed = 0
        self._deadline = deadline
        self._latencies = latencies

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not declare this type
        self._ask()

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio's
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < content_length(head):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._begin)
        self.failed += not head.startswith(b"HTTP/1.1 200 ")
        if now < self._deadline:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 - asyncio's
        self.failed += exc is not None or time.perf_counter() < self._deadline
        self.ended.set_result(None)

    def _ask(self) -> None:
        self._received = b""
        self._begin = time.perf_counter()
        self._transport.write(REQUEST)


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def ask(port: int, connections: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    begin = time.perf_counter()
    clients = [
        (await loop.create_connection(lambda: Client(begin + seconds, latencies), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + PATIENCE):
        for client in clients:
            await client.ended
    taken = time.perf_counter() - begin
    latencies.sort()
    percentiles = {f"p{percent}": latencies[len(latencies) * percent // 100] * 1e3 for percent in (50, 95, 99)}
    failed = sum(client.failed for client in clients)
    return {"requests": len(latencies), "seconds": taken, **percentiles, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(ask(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
