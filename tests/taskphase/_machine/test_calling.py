"""G7: any callable, and an early `TypeError` for what cannot be called so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from taskphase._machine.calling import check_call, is_async, name_of


def sync(a: int, b: int = 0, *, c: int = 0) -> None: ...
async def coro(a: int, b: int = 0, *, c: int = 0) -> None: ...
def only_keyword(*, a: int) -> None: ...
def many(*args: int, **kwargs: int) -> None: ...
def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Holder:
    def method(self, a: int) -> None: ...
    async def coro_method(self, a: int) -> None: ...
    @classmethod
    async def coro_class_method(cls, a: int) -> None: ...
    @staticmethod
    def static(a: int) -> None: ...


class SyncCallable:
    def __call__(self, a: int) -> None: ...


class AsyncCallable:
    async def __call__(self, a: int) -> None: ...


def injecting(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator whose result takes other arguments than what `wraps` makes it look like."""

    @wraps(func)
    def wrapper(*args: Any) -> Any:
        return func("injected", *args)

    return wrapper


@injecting
def injected(session: str, a: int) -> None: ...


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (sync, (1,), False),
        (coro, (1,), True),
        (lambda a: coro(a), (1,), False),
        (partial(sync, 1), (2,), False),
        (partial(partial(coro, 1), c=3), (), True),
        (Holder().method, (1,), False),
        (Holder().coro_method, (1,), True),
        (Holder.coro_class_method, (1,), True),
        (Holder.static, (1,), False),
        (partial(Holder().coro_method, 1), (), True),
        (SyncCallable(), (1,), False),
        (AsyncCallable(), (1,), True),
        (partial(AsyncCallable(), 1), (), True),
        (Holder, (), False),
        (print, (1, 2, 3), False),
        (dict, (), False),
        (Mock(), (1,), False),
        (AsyncMock(), (1,), True),
        (injected, (1,), False),
    ],
)
def test_any_callable_is_taken_for_what_it_is_g7(func: Any, args: tuple[Any, ...], expected: bool) -> None:
    assert check_call(func, args, {}) is expected
    assert is_async(func) is expected


@pytest.mark.parametrize(
    "func", [sync, coro, partial(sync), Holder().method, Holder().coro_method, SyncCallable(), AsyncCallable()]
)
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"d": 1}), ((1,), {"a": 1})])
def test_wrong_arguments_are_refused_g7(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="cannot be called like this"):
        check_call(func, args, kwargs)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [(sync, (), {"a": 1, "c": 2}), (only_keyword, (), {"a": 1}), (many, (1, 2), {"x": 1}), (sync, (1, 2), {})],
)
def test_right_arguments_are_taken_in_every_form_g7(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert check_call(func, args, kwargs) is False


def test_a_missing_keyword_is_refused_g7() -> None:
    with pytest.raises(TypeError, match="'a'"):
        check_call(only_keyword, (), {})


@pytest.mark.parametrize(
    ("bound", "args"),
    [
        (partial(sync, 1, 2, 3, "hunter2"), ()),
        (partial(sync, pasword="hunter2"), ()),
        (partial(sync, c="hunter2"), (1,) * 9),
    ],
)
def test_what_a_partial_binds_is_in_no_message_g4_g7(bound: Any, args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError) as refusal:
        check_call(bound, args, {})
    assert "hunter2" not in str(refusal.value)
    assert "sync" in str(refusal.value)


def test_a_partial_of_a_built_in_that_tells_nothing_of_its_parameters_is_taken_g7() -> None:
    assert not check_call(partial(max, 1), (2,), {})


def test_a_partial_with_too_many_arguments_is_refused_g7() -> None:
    with pytest.raises(TypeError):
        check_call(partial(sync, 1, 2, 3, 4), (), {})


@pytest.mark.parametrize("func", [generator, async_generator, partial(generator), partial(async_generator)])
def test_a_generator_function_is_refused_because_nothing_of_it_would_run_g7(func: Any) -> None:
    with pytest.raises(TypeError, match="generator function"):
        check_call(func, (), {})


@pytest.mark.parametrize("func", [None, 1, "print", object()])
def test_what_is_not_callable_is_refused_g7(func: Any) -> None:
    with pytest.raises(TypeError, match="expected a callable, not " + type(func).__name__):
        check_call(func, (), {})


def test_a_coroutine_object_is_refused_with_a_hint_and_closed_g7() -> None:
    """Closed, so that Python does not warn that it was never awaited (which would be an error here)."""
    with pytest.raises(TypeError, match="pass the function and its arguments"):
        check_call(coro(1), (), {})  # type: ignore[arg-type]


def test_no_message_shows_the_arguments_g4() -> None:
    with pytest.raises(TypeError) as caught:
        check_call(sync, ("s3cret",), {"password": "s3cret"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("func", "name"),
    [(sync, "sync"), (partial(sync, 1), "sync"), (Holder().method, "Holder.method"), (SyncCallable(), "SyncCallable")],
)
def test_a_name_is_the_qualified_one_with_its_module(func: Any, name: str) -> None:
    assert name_of(func) == f"{__name__}.{name}"
