"""Settings through any number of layers, and the policies of `retry()`, against their documentation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskphase import Task, TaskConfig, TaskHost, TasksBatch, TasksScheduler, TaskStatus, current_task, retry
from taskphase.testing import simulate

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run(main: Any, backend: Any) -> Any:
    return simulate(main, backend=backend).result()


async def nothing() -> None:
    pass


def ignore(task: Task[Any], exc: Exception) -> None: ...
def forget(task: Task[Any], exc: Exception) -> None: ...


Layer = dict[str, Any]

layers = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", "c"]),
        "shield": st.sampled_from([True, False, 2]),
        "on_error": st.sampled_from([ignore, forget]),
        "when": st.sampled_from(["success", "failure", "always"]),
        "timeout": st.sampled_from([0, 5, 7]),
    },
)

several = st.lists(layers, max_size=3)


def merged(*layers: Layer) -> TaskConfig:
    """Return the merged layers: for each setting, the last layer that has it."""
    settings: Layer = {}
    for layer in layers:
        settings |= layer
    return TaskConfig(**settings)


def defined(place: Any, layers: list[Layer]) -> Any:
    for layer in layers:
        place = place.task(**layer)
    return place


@BACKENDS
@given(of_host=layers, before=several, behind=several, phase=st.sampled_from(["after_route", "after_response", None]))
def test_the_innermost_setting_wins_in_each_phase_of_a_scope_g17(
    backend: str, of_host: Layer, before: list[Layer], behind: list[Layer], phase: str | None
) -> None:
    async def main() -> None:
        async with TaskHost(config=TaskConfig(**of_host)) as host, host.scope() as tasks:
            place = defined(tasks, before)
            place = defined(place if phase is None else getattr(place, phase), behind)
            expected = merged(of_host, *before, *behind)
            # A definition is reusable.
            assert [place.schedule(nothing).config for _ in range(2)] == [expected, expected]

    run(main, backend)


@BACKENDS
@given(of_host=layers, behind=several)
def test_the_innermost_setting_wins_in_a_host_g17(backend: str, of_host: Layer, behind: list[Layer]) -> None:
    async def main() -> None:
        async with TaskHost(config=TaskConfig(**of_host)) as host:
            assert defined(host, behind).schedule(nothing).config == merged(of_host, *behind)

    run(main, backend)


@BACKENDS
@given(of_host=layers, of_scheduler=layers, of_task=several, is_of_host=st.booleans())
def test_a_task_by_hand_has_the_settings_of_its_starter_below_its_own_g17(
    backend: str, of_host: Layer, of_scheduler: Layer, of_task: list[Layer], is_of_host: bool
) -> None:
    async def main() -> None:
        async with TaskHost(config=TaskConfig(**of_host)) as host, anyio.create_task_group() as tg:
            tasks = TasksScheduler(host.tg if is_of_host else tg, TaskConfig(**of_scheduler))
            expected = merged(of_host if is_of_host else {}, of_scheduler, *of_task)
            batch = TasksBatch()
            in_batch = defined(batch, of_task).schedule(nothing)
            by_hand = Task(nothing, config=merged(*of_task))
            assert in_batch.config == by_hand.config == merged(*of_task)
            batch.start(tasks)
            by_hand.__start__(tasks)
            assert in_batch.config == by_hand.config == expected

    run(main, backend)


@dataclass(frozen=True)
class Policy:
    """The parameters of a `retry()`."""

    attempts: int
    on: type[Exception] | tuple[type[Exception], ...]
    backoff: float
    jitter: bool
    max_delay: float

    def pauses(self, raised: list[type[Exception]]) -> list[float]:
        """Return the longest possible pauses if the attempts raise these exceptions, one after the other."""
        pauses: list[float] = []
        for exc in raised:
            if len(pauses) + 1 == self.attempts or not issubclass(exc, self.on):
                break
            pauses.append(min(self.max_delay, self.backoff * 2 ** len(pauses)))
        return pauses


policies = st.builds(
    Policy,
    attempts=st.integers(1, 5),
    on=st.sampled_from([Exception, LookupError, KeyError, (KeyError, OSError)]),
    backoff=st.sampled_from([0, 0.5, 1, 3]),
    jitter=st.booleans(),
    max_delay=st.sampled_from([0, 0.75, 5, 60]),
)
errors = st.lists(st.sampled_from([KeyError, IndexError, OSError]), max_size=6)


@BACKENDS
@given(policy=policies, raised=errors)
def test_retry_makes_the_attempts_that_it_was_told_to_and_the_pauses_g16(
    backend: str, policy: Policy, raised: list[type[Exception]]
) -> None:
    begins: list[float] = []

    async def flaky() -> None:
        begins.append(anyio.current_time())
        attempt = current_task().attempt
        if attempt <= len(raised):
            raise raised[attempt - 1]

    async def main() -> Task[None]:
        async with TaskHost(drain_timeout=math.inf) as host:
            return host.task(retry=retry(**vars(policy))).schedule(flaky)

    task = run(main, backend)
    pauses = policy.pauses(raised)
    made = [after - before for before, after in pairwise(begins)]
    if policy.jitter:
        assert len(made) == len(pauses)
        assert all(0 <= pause <= longest + 1e-9 for pause, longest in zip(made, pauses, strict=True))
    else:
        assert made == pytest.approx(pauses)
    succeeded = len(pauses) == len(raised)
    assert task.status is (TaskStatus.SUCCEEDED if succeeded else TaskStatus.FAILED)
    if not succeeded:
        assert type(task.exception) is raised[len(pauses)]
