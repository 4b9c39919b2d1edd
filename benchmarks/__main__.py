"""`python -m benchmarks`: microseconds for one task and for one request, and the ratios between them."""

from __future__ import annotations

import asyncio
import platform
from importlib.metadata import version

import trio
import uvloop

from . import requests, tasks
from .measure import table


def main() -> None:
    versions = [f"{name} {version(name)}" for name in ("anyio", "trio", "uvloop", "starlette", "fastapi")]
    print(f"Python {platform.python_version()}, {', '.join(versions)}\n")
    print(table("One task, asyncio", asyncio.run(tasks.on_asyncio())))
    print(table("One task, asyncio with uvloop", uvloop.run(tasks.on_asyncio())))
    print(table("One task, trio", trio.run(tasks.on_trio)))
    print(table("One request, uvloop", uvloop.run(requests.in_process())))


if __name__ == "__main__":
    main()
