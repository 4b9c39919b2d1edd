"""Cancellations, errors and exits in random exception groups, requested or stray (G2, G4)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from property_tests.simulated import run
from taskphase import StrayCancellation, Task, TaskHost, TaskStatus

Kind: TypeAlias = Literal["cancellation", "error", "exit"]
Tree: TypeAlias = "Kind | list[Tree]"
Asking: TypeAlias = Literal["nobody", "the handle", "asyncio", "both"]

KINDS = {"cancellation": asyncio.CancelledError, "error": ValueError, "exit": SystemExit}
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.sampled_from(["cancellation", "error", "exit"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3),
    max_leaves=5,
)


def kinds_in(tree: Tree) -> Iterator[Kind]:
    if isinstance(tree, list):
        for inner in tree:
            yield from kinds_in(inner)
    else:
        yield tree


def build(tree: Tree) -> BaseException:
    return BaseExceptionGroup("", [build(inner) for inner in tree]) if isinstance(tree, list) else KINDS[tree]()


def outcome(tree: Tree, asking: Asking) -> Literal["cancelled", "stray", "failed", "failed in silence"]:
    """Return the end of the task; "in silence": its handler is not called."""
    kinds = set(kinds_in(tree))
    if "cancellation" not in kinds:
        return "failed in silence" if "exit" in kinds else "failed"
    if asking != "nobody":
        return "cancelled" if kinds == {"cancellation"} else "failed in silence"
    return "failed in silence" if "exit" in kinds else "stray"


@given(
    trees=st.lists(
        st.tuples(TREES, st.sampled_from(["nobody", "the handle", "asyncio", "both"])), min_size=1, max_size=4
    ),
    timeout=st.sampled_from([None, 10]),
    shield=st.booleans(),
    retries=st.integers(0, 2),
)
def test_a_cancellation_is_a_failure_unless_requested_g2_g4(
    trees: list[tuple[Tree, Asking]], timeout: float | None, shield: bool, retries: int
) -> None:
    questions: list[tuple[Task[Any], Exception]] = []
    heard: list[tuple[Task[Any], Exception]] = []

    async def raise_them(tree: Tree, asking: Asking, natives: list[asyncio.Task[Any]]) -> None:
        native = asyncio.current_task()
        assert native is not None
        natives.append(native)
        if asking != "nobody":
            try:
                await anyio.sleep(1)
            except asyncio.CancelledError:
                pass
        raise build(tree)

    def ask(task: Task[Any], error: Exception) -> float | None:
        questions.append((task, error))
        return 0 if task.attempt <= retries else None

    async def handle(task: Task[Any], error: Exception) -> None:
        heard.append((task, error))

    async def ask_to_stop(task: Task[Any], asking: Asking, natives: list[asyncio.Task[Any]]) -> None:
        await task.started.wait()
        if asking in ("the handle", "both"):
            task.cancel()
        if asking in ("asyncio", "both"):
            natives[0].cancel()

    async def main() -> None:
        begun: list[tuple[Tree, Asking, Task[Any], list[asyncio.Task[Any]]]] = []
        async with TaskHost() as host:
            define = host.task(timeout=timeout, shield=shield, on_error=handle, retry=ask)
            for tree, asking in trees:
                natives: list[asyncio.Task[Any]] = []
                begun.append((tree, asking, define.schedule(raise_them, tree, asking, natives), natives))
            for _, asking, task, natives in begun:
                await ask_to_stop(task, asking, natives)
            for _, _, task, _ in begun:
                await task.wait()
            assert host.running == 0
        for tree, asking, task, _ in begun:
            check(tree, asking, task)

    def check(tree: Tree, asking: Asking, task: Task[Any]) -> None:
        expected = outcome(tree, asking)
        assert task.status is (TaskStatus.CANCELLED if expected == "cancelled" else TaskStatus.FAILED)
        told = [error for to, error in heard if to is task]
        if expected in ("cancelled", "failed in silence"):
            assert told == []
            return
        assert told == [task.exception]
        asked = [error for to, error in questions if to is task]
        is_told_to_stop = asking in ("the handle", "both")
        assert (len(asked), task.attempt) == ((0, 1) if is_told_to_stop else (retries + 1, retries + 1))
        assert all(isinstance(error, StrayCancellation) is (expected == "stray") for error in (*asked, *told))
        if expected == "stray":
            assert all(error.__cause__ is not None for error in (*asked, *told))

    run(main, "asyncio")


@pytest.mark.parametrize("tree", ["cancellation", ["cancellation"], [["cancellation"], "error"]])
def test_the_model_calls_a_cancellation_stray_only_if_nobody_has_asked_for_it(tree: Tree) -> None:
    assert outcome(tree, "nobody") == "stray"
    assert outcome(tree, "asyncio") != "stray"
