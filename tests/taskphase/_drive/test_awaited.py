"""G9: the walk from a task's coroutine to the frame that waits for a thread."""

from __future__ import annotations

import gc
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from types import coroutine
from typing import Any, NoReturn

import pytest
from tests.ways import WAYS, Way, go

from taskphase._drive import awaited
from taskphase._drive.awaited import awaited_frames


@coroutine
def pause() -> Generator[None]:
    yield


async def wait() -> None:
    await pause()


def names_of(coro: object) -> list[str]:
    return [frame.f_code.co_name for frame in awaited_frames(coro)]


@contextmanager
def suspended(coro: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Take the first of the two steps of a coroutine, and later the second one."""
    coro.send(None)
    yield
    with pytest.raises(StopIteration):
        coro.send(None)


@pytest.mark.parametrize("outer", WAYS)
@pytest.mark.parametrize("inner", WAYS)
def test_a_frame_is_found_behind_all_that_can_be_awaited_g9(outer: Way, inner: Way) -> None:
    async def nested() -> None:
        await go(inner, wait)

    coro = go(outer, nested)
    with suspended(coro):
        names = names_of(coro)
    assert (names[0], names[-1]) == ("go", "pause")
    assert names.count("nested") == names.count("wait") == 1


def test_a_frame_is_found_behind_many_others_g9() -> None:
    async def deep(depth: int) -> None:
        await (go("anext", lambda: deep(depth - 1)) if depth else wait())

    coro = deep(50)
    with suspended(coro):
        assert names_of(coro).count("deep") == 51


def test_a_coroutine_that_has_not_begun_or_has_ended_waits_for_nothing_g9() -> None:
    coro = wait()
    assert names_of(coro) == ["wait"]
    with suspended(coro):
        assert names_of(coro) == ["wait", "pause"]
    assert names_of(coro) == names_of(None) == []


def test_the_walk_calls_no_code_of_the_user_g3_g9() -> None:
    class Hostile(type):
        def __hash__(cls) -> NoReturn:
            raise SystemExit

        def __eq__(cls, other: object) -> NoReturn:
            raise SystemExit

        def __getattribute__(cls, name: str) -> NoReturn:
            raise SystemExit

    class Stepping(metaclass=Hostile):
        def __init__(self, coro: Coroutine[Any, Any, None]) -> None:
            object.__setattr__(self, "coro", coro)

        def __await__(self) -> Stepping:
            return self

        def __next__(self) -> None:
            object.__getattribute__(self, "coro").send(None)

        def __hash__(self) -> NoReturn:
            raise SystemExit

        def __eq__(self, other: object) -> NoReturn:
            raise SystemExit

        def __getattribute__(self, name: str) -> NoReturn:
            raise SystemExit

    async def run() -> None:
        await Stepping(wait())  # type: ignore[misc]

    coro = run()
    with suspended(coro):
        assert names_of(coro) == ["run", "wait", "pause"]


class Waiting:
    """Awaits nothing, and refers to its arguments."""

    def __init__(self, *referents: object) -> None:
        for number, referent in enumerate(referents):
            setattr(self, f"referent_{number}", referent)
        self.done = False

    def __await__(self) -> Waiting:
        return self

    def __next__(self) -> None:
        if self.done:
            raise StopIteration
        self.done = True


async def wait_for(waiting: Waiting) -> None:
    await waiting  # type: ignore[misc]


def test_the_walk_ends_wherever_it_comes_g9(monkeypatch: pytest.MonkeyPatch) -> None:
    def refer(referring: object) -> list[Any]:
        looks.append(type(referring))
        return gc.get_referents(referring)

    looks = list[type]()
    monkeypatch.setattr(awaited, "get_referents", refer)

    waiting = Waiting()
    waiting.itself = waiting  # type: ignore[attr-defined]
    coro = wait_for(waiting)
    with suspended(coro):
        assert names_of(coro) == ["wait_for"]
    assert looks.count(Waiting) == 1

    for _ in range(2 * awaited._MOST_LOOKS):
        waiting = Waiting(waiting)
    coro = wait_for(waiting)
    looks.clear()
    with suspended(coro):
        assert names_of(coro) == ["wait_for"]
    assert len(looks) == awaited._MOST_LOOKS


def test_the_walk_does_not_go_where_nothing_is_awaited_g9() -> None:
    other = wait()
    with suspended(other):
        coro = wait_for(Waiting([other], (other,), lambda: other, type("Other", (), {"other": other}), gc))
        with suspended(coro):
            assert names_of(coro) == ["wait_for"]


def test_the_walk_finds_frames_of_others_too_and_each_of_them_once_g9() -> None:
    other = wait()
    with suspended(other):
        coro = wait_for(Waiting(other, {"other": other}))
        with suspended(coro):
            assert names_of(coro) == ["wait_for", "wait", "pause"]
