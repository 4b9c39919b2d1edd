"""A cancelled task cannot tell whether it entered its scope at its first step, or the scope was put around it when it
was cancelled: whatever scopes it has entered and left before, and whatever it does then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import pytest
from anyio import CancelScope, from_thread, get_cancelled_exc_class, to_thread
from hypothesis import example, given
from hypothesis import strategies as st
from tests.ways import WAYS, Way, go

from property_tests.compact import Compact
from property_tests.simulated import run
from taskphase import TaskHost, TaskStatus, current_task
from taskphase._drive import enclosing
from taskphase.testing import pause

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@dataclass(frozen=True, repr=False)
class Block(Compact):
    """A piece of a task's code: `body` runs inside the kind of block that `what` says."""

    what: Literal["plain", "scope", "shield", "limit", "group", "stubborn"] | Way = "plain"
    body: tuple[Block | str, ...] = ()


# The actions in a block: let others run, wait for a thread, cancel the innermost scope, or remove its shield.
STEPS = st.sampled_from(["rest", "rest", "rest", "thread", "cancel", "bare"])
KINDS = st.sampled_from(["plain", "scope", "scope", "shield", "limit", "group", "stubborn"]) | st.sampled_from(WAYS)
BLOCKS: st.SearchStrategy[Block] = st.deferred(
    lambda: st.builds(
        nested,
        st.lists(KINDS, min_size=1, max_size=4),
        st.sampled_from(["rest", "thread"]),
        st.lists(STEPS | BLOCKS, max_size=3),
    )
)


def nested(kinds: list[Any], first: str, body: list[Block | str]) -> Block:
    """Return three nested blocks, the innermost of which begins with `first`."""
    block = Block(kinds[-1], (first, *body))
    for kind in reversed(kinds[:-1]):
        block = Block(kind, (block, "rest"))
    return block


class Walk:
    """Runs the code of a task, and notes all visible signs of its cancellation.

    :ivar log: the signs, in order
    """

    def __init__(self, cancel_at: int, *, by_itself: bool) -> None:
        """`cancel_at`: the number of rests before the task is cancelled."""
        self.log: list[tuple[object, ...]] = []
        self._cancel_at = cancel_at
        self._by_itself = by_itself
        self._rests = 0
        self.asked = anyio.Event()
        self.done = anyio.Event()

    async def through(self, block: Block, scope: CancelScope | None = None) -> None:
        match block.what:
            case "group":
                async with anyio.create_task_group() as group:
                    group.start_soon(self._steps, block, group.cancel_scope)
                    await self._rest()
                self._left(group.cancel_scope)
            case "stubborn":
                try:
                    await self._steps(block, scope)
                except get_cancelled_exc_class():
                    self.log.append(("held", anyio.current_effective_deadline()))
                await self._rest()
            case "plain":
                await self._steps(block, scope)
            case "for" | "asend" | "athrow" | "aclose" | "anext" | "context" | "method" | "generator" | "iterator":
                await go(block.what, lambda: self._steps(block, scope))
            case _:
                deadline = anyio.current_time() + 2.5 if block.what == "limit" else float("inf")
                with CancelScope(shield=block.what == "shield", deadline=deadline) as own:
                    await self._steps(block, own)
                self._left(own)

    async def _steps(self, block: Block, scope: CancelScope | None) -> None:
        for step in block.body:
            if isinstance(step, Block):
                await self.through(step, scope)
            elif step == "rest":
                await self._rest()
            elif step == "thread":
                await self._wait_for_a_thread()
            elif scope is not None and step == "cancel":
                scope.cancel()
            elif scope is not None:
                scope.shield = False

    async def _rest(self) -> None:
        number, self._rests = self._rests, self._rests + 1
        self.log.append((number, anyio.current_time(), anyio.current_effective_deadline()))
        try:
            if number == self._cancel_at and self._by_itself:
                current_task().cancel()
            elif number == self._cancel_at:
                self.asked.set()
                await self.done.wait()
            await anyio.sleep(1)
        except get_cancelled_exc_class():
            self.log.append((number, "cancelled", anyio.current_time()))
            raise

    async def _wait_for_a_thread(self) -> None:
        number, self._rests = self._rests, self._rests + 1
        cancelled = get_cancelled_exc_class()

        def look() -> None:
            if number == self._cancel_at and self._by_itself:
                current_task().cancel()
            elif number == self._cancel_at:
                from_thread.run_sync(self.asked.set)
            for _ in range(3):
                pause(0.5)
                try:
                    from_thread.check_cancelled()
                except cancelled:
                    self.log.append((number, "cancelled in the thread", from_thread.run_sync(anyio.current_time)))
                    raise

        await to_thread.run_sync(look)

    def _left(self, scope: CancelScope) -> None:
        self.log.append(("left", scope.cancel_called, scope.cancelled_caught, anyio.current_effective_deadline()))


@contextmanager
def entering(way: Literal["early", "late"]) -> Iterator[None]:
    """Make tasks enter their scopes this way. Without the self-test, because it would hide an error in `enclose()`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enclosing, "_verdicts", {"asyncio": True, "trio": True})
        patch.setenv("TASKPHASE_SCOPES", way)
        yield


def story_of(block: Block, cancel_at: int, backend: str, *, by_itself: bool) -> tuple[TaskStatus, Any, list[Any]]:
    async def main() -> tuple[TaskStatus, Any, list[Any]]:
        walk = Walk(cancel_at, by_itself=by_itself)
        async with TaskHost(drain_timeout=100) as host:
            task = host.schedule(walk.through, block)
            with anyio.move_on_after(50):
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel, walk, task)
                    await task.wait()
                    group.cancel_scope.cancel()
        result = task.exception if task.status is TaskStatus.FAILED else None
        return task.status, repr(result), walk.log

    async def cancel(walk: Walk, task: Any) -> None:
        await walk.asked.wait()
        task.cancel()
        walk.done.set()

    result: tuple[TaskStatus, Any, list[Any]] = run(main, backend)
    return result


@BACKENDS
@example(block=Block("shield", ("thread", "rest")), cancel_at=0, by_itself=False)
@given(block=BLOCKS, cancel_at=st.integers(0, 4), by_itself=st.booleans())
def test_a_late_scope_around_a_task_equals_a_scope_entered_first_g9_g17(
    backend: str, block: Block, cancel_at: int, by_itself: bool
) -> None:
    with entering("late"):
        late = story_of(block, cancel_at, backend, by_itself=by_itself)
    with entering("early"):
        early = story_of(block, cancel_at, backend, by_itself=by_itself)
    assert late == early
