"""Ways to await a coroutine function from behind something else than a coroutine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing, asynccontextmanager
from types import coroutine
from typing import Any, Literal, get_args

Func = Callable[[], Coroutine[Any, Any, None]]
Way = Literal["for", "asend", "athrow", "aclose", "anext", "context", "method", "generator", "iterator"]
WAYS: tuple[Way, ...] = get_args(Way)


async def go(way: Way, func: Func) -> None:
    """Await `func()` by way of an async generator, or of an object with `__await__()`."""
    match way:
        case "for":
            async for _ in _before(func):
                pass
        case "asend":
            async with aclosing(_before(func)) as generated:
                await generated.asend(None)
        case "athrow" | "aclose":
            generated = _after(func)
            await anext(generated)
            try:
                await (generated.aclose() if way == "aclose" else generated.athrow(_Thrown()))
            except _Thrown:
                pass
        case "anext":
            async with aclosing(_before(func)) as generated:
                await anext(generated, None)
        case "context":
            async with asynccontextmanager(_before)(func):
                pass
        case "method":
            await _Method(func)
        case "generator":
            await _generator(func)
        case "iterator":
            await _Iterator(func)


class _Thrown(Exception):
    """An exception that is thrown into a generator."""


async def _before(func: Func) -> AsyncGenerator[None, None]:
    await func()
    yield


async def _after(func: Func) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await func()


class _Method(Awaitable[None]):
    """Awaits the result of a method of the coroutine."""

    def __init__(self, func: Func) -> None:
        self._func = func

    def __await__(self) -> Generator[Any, Any, None]:
        return self._func().__await__()


@coroutine
def _generator(func: Func) -> Generator[Any, Any, None]:
    yield from func().__await__()


class _Iterator(Awaitable[None], Generator[Any, Any, None]):
    """Steps the coroutine by hand."""

    def __init__(self, func: Func) -> None:
        self._coro = func()

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def send(self, value: Any, /) -> Any:
        return self._coro.send(value)

    def throw(self, *exc: Any) -> Any:
        return self._coro.throw(*exc)
