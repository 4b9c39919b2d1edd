"""G1, G2, G3, G6: the native tasks of asyncio, and their first steps on Python 3.11."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import FrameType
from typing import Any, TypeAlias
from weakref import ref

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns

from taskphase import Task, TaskHost, TaskStatus
from taskphase._drive import natives
from taskphase._drive.attempt import attempt
from taskphase._drive.enclosing_asyncio import enter_task, leave_task
from taskphase._drive.natives import Stepper, _by_hand, stepper_of

Step: TypeAlias = Callable[[Coroutine[Any, Any, None], "str | None", Context], None]

VAR: ContextVar[str] = ContextVar("VAR", default="unset")

pytestmark = native_cancel_only


class Name(str):
    """A name that calls `act()` when asyncio makes a task with it: there a finalizer or a signal handler may run."""

    act: Callable[[], object]
    __slots__ = ("act",)

    def __str__(self) -> str:
        self.act()
        return "name"


def named(act: Callable[[], object]) -> Name:
    name = Name("name")
    name.act = act
    return name


@pytest.fixture
def step(anyio_backend: object) -> Step:
    """The stepper of Python 3.11, which works on each Python. As the runner calls it."""

    def call(coro: Coroutine[Any, Any, None], name: str | None, context: Context) -> None:
        loop = asyncio.get_running_loop()
        make = _by_hand(loop)
        running = asyncio.current_task(loop)
        assert running is not None
        leave_task(loop, running)
        try:
            make(coro, name, context, {}, None)
        finally:
            enter_task(loop, running)

    return call


async def test_a_task_takes_its_first_step_at_once_in_its_context_g1_g6(step: Step) -> None:
    async def work() -> None:
        seen.append((asyncio.current_task(), VAR.get()))
        VAR.set("inside")
        await checkpoint()
        seen.append((asyncio.current_task(), VAR.get()))

    seen: list[tuple[Any, str]] = []
    here, context = asyncio.current_task(), copy_context()
    context.run(VAR.set, "outside")
    step(work(), "name", context)
    native = seen[0][0]
    assert seen == [(native, "outside")]
    assert (native.get_name(), native is here, asyncio.current_task() is here) == ("name", False, True)
    await native
    assert seen == [(native, "outside"), (native, "inside")]
    assert VAR.get() == "unset"


async def test_nothing_is_lost_that_comes_while_a_task_is_made_g2_g3(step: Step) -> None:
    async def note(text: str) -> None:
        seen.append(text)

    def interrupt() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(seen.append, "callback")
        others.append(loop.create_task(note("task")))
        loop.call_soon(seen.append, "callback with all", context=copy_context())
        loop.call_soon(partial(seen.append, "callback in a context"), context=copy_context())

    seen: list[str] = []
    others: list[asyncio.Task[None]] = []
    step(note("step"), named(interrupt), copy_context())
    assert seen == ["step"]
    try:
        await turns()
        assert sorted(seen) == ["callback", "callback in a context", "callback with all", "step", "task"]
    finally:
        asyncio.tasks._unregister_task(others[0])  # the loop would wait for ever for a task that was lost


async def test_a_tool_may_replace_call_soon_of_the_loop_while_tasks_are_made_g3(step: Step) -> None:
    async def work() -> None:
        loop.call_soon(lambda: None)

    def count(*args: Any, **options: Any) -> asyncio.Handle:
        calls.append(args)
        return call_soon(*args, **options)

    calls: list[tuple[Any, ...]] = []
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon
    loop.call_soon = count  # type: ignore[method-assign, assignment]
    try:
        step(work(), "name", copy_context())
        assert len(calls) == 1
        assert loop.__dict__["call_soon"] is count
        if sys.version_info < (3, 12):
            assert stepper_of(loop) is None
    finally:
        del loop.call_soon  # type: ignore[method-assign]
    step(work(), "name", copy_context())
    assert "call_soon" not in loop.__dict__
    await checkpoint()


async def test_an_error_while_a_task_is_made_leaves_the_loop_as_it_was_g3(step: Step) -> None:
    async def work() -> None: ...

    def fail() -> None:
        others.append(asyncio.get_running_loop().create_task(work()))
        raise MemoryError

    others: list[asyncio.Task[None]] = []
    loop, coro = asyncio.get_running_loop(), work()
    with pytest.raises(MemoryError):
        step(coro, named(fail), copy_context())
    coro.close()
    assert "call_soon" not in loop.__dict__
    await others[0]


async def test_an_interrupt_before_a_task_is_made_leaves_no_context_behind_g2() -> None:
    """The stepper lives as long as its host."""

    def interrupt(frame: FrameType, event: str, _arg: object) -> None:
        if event == "c_return" and frame.f_code is make.__code__:  # type: ignore[attr-defined]
            sys.setprofile(None)
            raise KeyboardInterrupt

    async def work() -> None: ...

    make, coro, context = _by_hand(asyncio.get_running_loop()), work(), copy_context()
    kept = ref(context)
    sys.setprofile(interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(coro, "name", context, {}, None)
    coro.close()
    del context
    gc.collect()
    assert kept() is None


async def test_an_interrupt_before_the_first_step_ends_the_task_g2(request: pytest.FixtureRequest) -> None:
    """Python calls signal handlers anywhere, also as the first step begins."""

    def interrupt(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code is attempt.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    async def work() -> None: ...

    request.addfinalizer(partial(gc.set_threshold, *gc.get_threshold()))
    gc.set_threshold(700)  # the barrier takes the first steps: an interrupt in the loop itself would stop the loop
    async with TaskHost() as host:
        if not getattr(host._runner.seam, "_can_step", False):
            pytest.skip("with early scopes Python 3.11 has no stepper")
        task, other = Task(work), Task(work)
        with pytest.raises(KeyboardInterrupt):
            async with host.scope() as tasks, tasks.route():
                task.__start__(tasks)
                other.__start__(tasks)
                sys.setprofile(interrupt)
        await turns()
        running = host.running
        if running:
            host._runner.bury(task)  # otherwise the host would wait for ever
    seen = running, task.status, other.status
    if seen != (0, TaskStatus.CANCELLED, TaskStatus.SUCCEEDED):
        # No `assert`: after such an interrupt Python 3.11 raises SystemError when pytest parses the source of the test.
        pytest.fail(f"the interrupt has left {seen}", pytrace=False)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio itself has such tasks")
@pytest.mark.parametrize("broken", ["a name is gone", "the step does not come"])
async def test_without_a_stepper_the_loop_takes_the_first_steps_g1_g2(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> str:
        await checkpoint()
        return "done"

    def by_hand(_loop: object) -> Stepper:
        def lose(coro: Coroutine[Any, Any, None], *_: object) -> None:
            coro.close()

        return lose

    monkeypatch.setattr(natives, "_verdicts", {})
    if broken == "a name is gone":
        monkeypatch.setattr(natives, "ASYNCIO_TASKS", (natives.ASYNCIO_TASKS[0]._replace(name="_is_gone"),))
    else:
        monkeypatch.setattr(natives, "_by_hand", by_hand)
    async with TaskHost(drain_timeout=10) as host, create_task_group() as tg:
        assert stepper_of(asyncio.get_running_loop()) is None
        tg.start_soon(checkpoint)
        async with host.scope() as tasks, tasks.route():
            task = tasks.schedule(work)
        assert task.started.is_set()
        assert await task == "done"
