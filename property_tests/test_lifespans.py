"""G13: lifespans of one app, opened and closed in any order in several event loops. Each request finds the right host.

The loops are real: on asyncio all in this thread, and on both backends each in its own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from tests import wire
from tests.fastapi_tasks.apps import host_of

from fastapi_tasks import Tasks, add_tasks, current_host
from fastapi_tasks._installation import Installation
from property_tests.compact import Compact
from taskphase import TaskHost

LOOPS = 2


@dataclass(frozen=True, repr=False)
class Step(Compact):
    """Open a lifespan in a loop, close an open one, or make a request in a loop.

    :ivar number: of the loop, or of the open lifespan to close, modulo their number
    :ivar told: the lifespan whose state the request has, modulo the number of lifespans so far; None: no state
    """

    does: str = "ask"  # or: open, close
    number: int = 0
    told: int | None = None


small = st.integers(0, 5)
steps = st.builds(Step, st.sampled_from(["open", "open", "close", "ask", "ask", "ask"]), small, st.none() | small)
programs = st.lists(steps, min_size=3, max_size=12)


class LoopHere:
    """An asyncio loop of this thread, which runs only during a call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def call(self, func: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async def run() -> Any:
            return await func(*args)

        return self._loop.run_until_complete(run())

    @contextmanager
    def lifespan(self, app: FastAPI) -> Iterator[Any]:
        async def run() -> None:
            async with wire.lifespan(app) as state:
                opened.set_result(state)
                await end.wait()

        opened, end = self._loop.create_future(), asyncio.Event()
        task = self._loop.create_task(run())
        try:
            yield self._loop.run_until_complete(opened)
        finally:
            end.set()
            self._loop.run_until_complete(task)

    def close(self) -> None:
        self._loop.close()


class LoopElsewhere:
    """An event loop of another thread."""

    def __init__(self, backend: str) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal(backend))

    def call(self, func: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return self._portal.call(func, *args)

    def lifespan(self, app: FastAPI) -> AbstractContextManager[Any]:
        return self._portal.wrap_async_context_manager(wire.lifespan(app))

    def close(self) -> None:
        self._stack.close()


Loop = LoopHere | LoopElsewhere
KINDS: dict[str, Callable[[], Loop]] = {
    "asyncio, one thread": LoopHere,
    "asyncio": lambda: LoopElsewhere("asyncio"),
    "trio": lambda: LoopElsewhere("trio"),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def loops(request: pytest.FixtureRequest) -> Iterator[list[Loop]]:
    made = [request.param() for _ in range(LOOPS)]
    yield made
    for loop in made:
        loop.close()


@dataclass(eq=False)
class Lifespan:
    """An opened lifespan, and its loop."""

    loop: Loop
    state: Any
    stack: ExitStack
    host: TaskHost


def expected(here: list[Lifespan], told: Lifespan | None) -> TaskHost | None:
    """Return the host that a request shares, or None. `here`: the open lifespans of its loop, the oldest first."""
    if told in here and told is not None:
        return told.host
    return here[-1].host if here else None


class Run:
    """One app, and the steps with it."""

    def __init__(self, loops: list[Loop], *, hold: bool) -> None:
        self.loops, self.hold = loops, hold
        self.ever: list[Lifespan] = []
        self.open: list[Lifespan] = []
        self.found: list[tuple[TaskHost, Any]] = []
        self.app = FastAPI()
        add_tasks(self.app, drain_timeout=5, hold=hold)
        self.app.add_api_route("/", self.endpoint)

    async def endpoint(self, tasks: Tasks) -> None:
        self.found.append((current_host(), tasks.after_response.schedule(anyio.sleep, 0.001)))

    def step(self, step: Step) -> None:
        if step.does == "open":
            loop, stack = self.loops[step.number % LOOPS], ExitStack()
            state = stack.enter_context(loop.lifespan(self.app))
            lifespan = Lifespan(loop, state, stack, host_of(self.app))
            self.ever.append(lifespan)
            self.open.append(lifespan)
        elif step.does == "close" and self.open:
            self.open.pop(step.number % len(self.open)).stack.close()
        elif step.does == "ask":
            self.ask(self.loops[step.number % LOOPS], step.told)

    def ask(self, loop: Loop, number: int | None) -> None:
        told = None if number is None or not self.ever else self.ever[number % len(self.ever)]

        async def ask() -> str:
            response = await wire.request(self.app, state=None if told is None else told.state)
            assert response.status == 200
            return str(self.found[-1][1].status.value)

        status = loop.call(ask)
        host = None if self.hold else expected([each for each in self.open if each.loop is loop], told)
        if host is None:
            assert self.found[-1][0] not in {each.host for each in self.ever}, "G13: the request has another's host"
            assert status == "succeeded", "G13: the call has not waited for its task"
        else:
            assert self.found[-1][0] is host, "G13: the request has another host than its own"

    def close(self) -> None:
        for lifespan in self.open:
            lifespan.stack.close()
        unended = [task for _, task in self.found if task.status.value != "succeeded"]
        assert not unended, f"G2: {unended}"


@given(program=programs, hold=st.sampled_from([False, False, True]))
def test_each_request_finds_the_host_of_its_loop_and_its_lifespan_g2_g13(
    loops: list[Loop], program: list[Step], hold: bool
) -> None:
    Installation.has_warned = True  # other tests check this warning
    run = Run(loops, hold=hold)
    try:
        for step in program:
            run.step(step)
    finally:
        run.close()
