"""How tests use the blocks of docs/how-to/migrate-from-*.md. The expected output is in the pages."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import anyio
import pytest
from tests.repo.uses import Use, requests, serving
from tests.repo.uses_of_guides import logged, one_by_one


def use_after_the_move(module: ModuleType) -> None:
    one_by_one(("POST", "/orders/7", 200), ("POST", "/orders/13", 200), ("POST", "/orders/100", 404))(module)
    with serving(module) as client, pytest.raises(TypeError, match="count"):
        client.post("/mistakes")


def use_tests(module: ModuleType) -> None:
    """Run each test of a page as pytest would."""
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        anyio.run(test) if inspect.iscoroutinefunction(test) else test()


def use_main(module: ModuleType) -> None:
    asyncio.run(module.main())


def use_cleanup_context(module: ModuleType) -> None:
    async def main() -> None:
        app: dict[str, Any] = {}
        async with asynccontextmanager(module.tasks_of)(app):
            task = app[module.HOST].schedule(anyio.sleep, 0)
        assert task.status == "succeeded"

    anyio.run(main)


OF_BACKGROUND_TASKS = {
    "endpoints": Use(logged(use_after_the_move)),
    "services": Use(use_tests),
}
OF_THE_EARLIER_PACKAGE = {
    "by-hand": Use(requests(("POST", "/advanced", 200))),
}
OF_CREATE_TASK = {
    "migrate-from-asynciocreate_task": Use(logged(use_main)),
}
OF_AIOJOBS = {
    "migrate-from-aiojobs": Use(logged(use_main)),
    "in-aiohttp": Use(use_cleanup_context),
}
GUIDES = {
    "backgroundtasks": OF_BACKGROUND_TASKS,
    "fastapi-tasks": OF_THE_EARLIER_PACKAGE,
    "create-task": OF_CREATE_TASK,
    "aiojobs": OF_AIOJOBS,
}
USES = {
    f"docs/how-to/migrate-from-{name}.md#{heading}": use
    for name, headings in GUIDES.items()
    for heading, use in headings.items()
}
