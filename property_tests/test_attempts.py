"""One task alone, exact to the second: its attempts, timeouts, handler and pauses: G4, G16, G17."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from property_tests.compact import Compact
from property_tests.recorder import Boom
from taskphase import Task, TaskHost, TaskStatus, current_task
from taskphase.testing import pause, simulate
from taskphase.testing._simulation.schedule import here

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
S = TaskStatus


@dataclass(frozen=True, repr=False)
class Attempt(Compact):
    """Takes `seconds`, then raises or returns."""

    seconds: float = 0.25
    raises: bool = False

    def end(self, value: str) -> str:
        if self.raises:
            raise Boom
        return value


@dataclass(frozen=True, repr=False)
class Plan(Compact):
    """A task that is scheduled at a given time. Its policy asks for the next attempt, after a pause, while there are
    attempts left. Its handler, if any, takes time.
    """

    attempts: tuple[Attempt, ...]
    at: float = 0
    timeout: float = math.inf
    in_thread: bool = False
    handler: float | None = None
    handler_in_thread: bool = False
    pause: float = 0

    def story(self) -> list[tuple[Any, ...]]:
        """Return the expected events: the kind, the time and the attempt of each."""
        time = self.at
        story: list[tuple[Any, ...]] = []
        for number, attempt in enumerate(self.attempts, 1):
            story.append(("begins", time, number))
            time += min(attempt.seconds, self.timeout)
            is_late = attempt.seconds > self.timeout
            if not (is_late or attempt.raises):
                return [*story, (S.SUCCEEDED, time, number), ("value",)]
            error: type[Exception] = TimeoutError if is_late else Boom
            story.append((("asked", error), time, number))
            if number < len(self.attempts):
                time += self.pause
                continue
            if self.handler is not None:
                story.append((error, time, number))
                time += self.handler
            return [*story, (S.FAILED, time, number), (error,)]
        raise AssertionError("a task without an attempt")


plans = st.builds(
    Plan,
    attempts=st.lists(st.builds(Attempt, st.sampled_from([0.25, 1.5, 4.0]), st.booleans()), min_size=1, max_size=3).map(
        tuple
    ),
    at=st.sampled_from([0, 7.0, 50.0]),
    timeout=st.sampled_from([math.inf, 1.0, 3.0]),
    in_thread=st.booleans(),
    handler=st.sampled_from([None, 0, 0.5, 6.0]),
    handler_in_thread=st.booleans(),
    pause=st.sampled_from([0, 0.125, 9.0]),
)


class Doing:
    """Runs a plan, and records the events."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.story: list[tuple[Any, ...]] = []

    async def main(self) -> None:
        plan = self.plan
        handler = self._handle_in_thread if plan.handler_in_thread else self._handle
        async with TaskHost(drain_timeout=math.inf) as host:
            await anyio.sleep(plan.at)
            define = host.task(
                timeout=None if plan.timeout == math.inf else plan.timeout,
                on_error=None if plan.handler is None else handler,
                retry=self._ask,
            )
            task = define.schedule(self._do_in_thread if plan.in_thread else self._do, "value")
            await task.wait()
            self._note(task.status, task)
            result = type(task.exception) if task.status is S.FAILED else task.return_value
            self.story.append((result,))

    def _note(self, what: object, task: Task[Any]) -> None:
        self.story.append((what, here.schedule.now, task.attempt))

    def _begin(self) -> Attempt:
        self._note("begins", current_task())
        return self.plan.attempts[current_task().attempt - 1]

    async def _do(self, value: str) -> str:
        attempt = self._begin()
        await anyio.sleep(attempt.seconds)
        return attempt.end(value)

    def _do_in_thread(self, value: str) -> str:
        attempt = self._begin()
        pause(attempt.seconds)
        return attempt.end(value)

    def _ask(self, task: Task[Any], exc: Exception) -> float | None:
        self._note(("asked", type(exc)), task)
        return self.plan.pause if task.attempt < len(self.plan.attempts) else None

    async def _handle(self, task: Task[Any], exc: Exception) -> None:
        self._note(type(exc), task)
        await anyio.sleep(self.plan.handler or 0)

    def _handle_in_thread(self, task: Task[Any], exc: Exception) -> None:
        self._note(type(exc), task)
        pause(self.plan.handler or 0)


@BACKENDS
@given(plans)
def test_attempts_handlers_and_pauses_keep_their_times_and_bounds_g4_g16_g17(backend: Any, plan: Plan) -> None:
    doing = Doing(plan)
    simulate(doing.main, backend=backend).result()
    assert doing.story == plan.story()
