"""Which callables, with which arguments, and in which thread: G7, for functions of every signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from inspect import isawaitable
from threading import get_ident
from types import FunctionType, MethodType, coroutine
from typing import Any, Literal
from unittest.mock import MagicMock, create_autospec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from property_tests.compact import Compact
from property_tests.story import SECRET
from taskphase import Task, TaskConfig, TaskHost
from taskphase.testing import simulate

PROXIES = (
    "proxy that refuses",
    "proxy that agrees",
    "proxy that claims to be a function",
    "proxy that claims to be a partial",
)
MOCKS = ("autospecced mock", "mock with a spec")

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

Body = Literal["async def", "def", "lambda", "def that returns an awaitable", "generator that is awaited"]
Dress = str  # the form in the user's hands: "none", "method", "object", "partial", "decorated", or one of those above


@dataclass(frozen=True, repr=False)
class Signature(Compact):
    """The numbers of positional-only and of ordinary parameters; the last `defaults` of both have defaults. For each
    keyword-only parameter, whether it has a default. Whether there are `*args` and `**kwargs`.
    """

    only: int = 0
    positional: int = 0
    defaults: int = 0
    named: tuple[bool, ...] = ()
    more: bool = False
    any_name: bool = False

    def text(self, *before: str) -> str:
        """Return the parameters as Python code, after `before`."""
        names = [*before, *(f"p{i}" for i in range(self.only)), *(f"a{i}" for i in range(self.positional))]
        first_default = max(len(names) - self.defaults, len(before))
        parts = [name if i < first_default else f"{name}=0" for i, name in enumerate(names)]
        if self.only:
            parts.insert(len(before) + self.only, "/")
        if self.more or self.named:
            parts.append("*args" if self.more else "*")
        parts += [f"k{i}=0" if has_default else f"k{i}" for i, has_default in enumerate(self.named)]
        return ", ".join([*parts, "**kwargs"] if self.any_name else parts)


@dataclass(frozen=True, repr=False)
class Arguments(Compact):
    """The arguments of a call: the number of positional ones, and the names of the others."""

    count: int = 0
    names: tuple[str, ...] = ()

    def filled(self, value: str) -> tuple[list[str], dict[str, str]]:
        """Return the arguments, each with this value."""
        return [value] * self.count, dict.fromkeys(self.names, value)


signatures = st.builds(
    Signature,
    only=st.integers(0, 1),
    positional=st.integers(0, 2),
    defaults=st.integers(0, 2),
    named=st.lists(st.booleans(), max_size=2).map(tuple),
    more=st.booleans(),
    any_name=st.booleans(),
)
arguments = st.builds(
    Arguments,
    count=st.integers(0, 3),
    names=st.just(())
    | st.lists(st.sampled_from(["p0", "a0", "a1", "k0", "k1", "x"]), max_size=2, unique=True).map(tuple),
)
bodies = st.sampled_from(["async def", "def", "lambda", "def that returns an awaitable", "generator that is awaited"])


async def later(value: Any) -> Any:
    """Return `value`, and the thread in which this runs."""
    return value, get_ident()


class Later:
    """An awaitable that is not a coroutine."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        return later(self.value).__await__()


def function(body: Body, signature: str) -> Callable[..., Any]:
    """Return a function whose result is its arguments and the thread that computed the result."""
    sources = {
        "async def": f"async def f({signature}): return locals(), get_ident()",
        "def": f"def f({signature}): return locals(), get_ident()",
        "lambda": f"f = lambda {signature}: later(locals())",
        "def that returns an awaitable": f"def f({signature}): return Later(locals())",
        "generator that is awaited": f"@coroutine\ndef f({signature}): return (yield from later(locals()).__await__())",
    }
    names: dict[str, Any] = {"get_ident": get_ident, "later": later, "Later": Later, "coroutine": coroutine}
    exec(sources[body], names)
    return names["f"]  # type: ignore[no-any-return]


ASKED: list[str] = []
"""The attributes that were read from proxies."""


def refuse(self: object, name: str) -> Any:
    """Imitate a proxy that asks another machine for each attribute: here that is an error."""
    ASKED.append(name)
    raise ConnectionError(name)


def agree(self: object, name: str) -> Any:
    """Imitate an object that has every attribute."""
    ASKED.append(name)
    return self


# The attributes of a proxy class, beside its `__call__`.
PROXY_CLASSES: dict[str, dict[str, Any]] = {
    "proxy that refuses": {"__getattribute__": refuse},
    "proxy that agrees": {"__getattr__": agree},
    "proxy that claims to be a function": {"__getattr__": agree, "__class__": FunctionType},
    "proxy that claims to be a partial": {"__getattr__": refuse, "__class__": partial},
}


def dressed(dress: Dress, body: Body, signature: Signature, bound: Arguments) -> Callable[..., Any]:
    """Return such a function in the form that a user holds."""
    if dress in ("method", "object", *PROXIES):
        # The same object each time, because the arguments include it.
        func = function(body, signature.text("self"))
        if dress in PROXIES:
            return type("Proxy", (), {"__call__": func, **PROXY_CLASSES[dress]})()
        return MethodType(func, later) if dress == "method" else type("Called", (), {"__call__": func})()
    func = function(body, signature.text())
    if dress == "partial":
        values, named = bound.filled(SECRET)
        return partial(partial(func, *values), **named)
    if dress == "autospecced mock":
        return create_autospec(func, side_effect=func)
    if dress == "mock with a spec":
        return MagicMock(spec=func, side_effect=func)
    if dress == "decorated":

        @wraps(func)
        def wrapper(first: object, *args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        return wrapper
    return func


@BACKENDS
@given(
    dress=st.sampled_from(["none", "none", "method", "object", "partial", "decorated", *PROXIES, *MOCKS]),
    body=bodies,
    signature=signatures,
    bound=arguments,
    call=arguments,
)
def test_a_callable_runs_as_if_called_and_a_wrong_call_is_refused_at_once_g7(
    backend: Any, dress: Dress, body: Body, signature: Signature, bound: Arguments, call: Arguments
) -> None:
    func = dressed(dress, body, signature, bound)
    args, kwargs = call.filled(SECRET)
    ASKED.clear()

    async def main() -> None:
        async with TaskHost() as host:
            try:
                came = func(*args, **kwargs)
                value, here = await came if isawaitable(came) else came  # an `AsyncMock` calls its function only here
            except TypeError:
                # A decorator or mock may accept any arguments; an error then shows only in the call.
                if (dress == "decorated" and (args or "first" in kwargs)) or dress in MOCKS:
                    task = host.schedule(func, *args, **kwargs)
                    await task.wait()
                    assert isinstance(task.exception, TypeError)
                    return
                with pytest.raises(TypeError) as refusal:
                    host.schedule(func, *args, **kwargs)
                assert SECRET not in str(refusal.value)
                assert (host.running, host.waiting, host.deferred) == (0, 0, 0)
                return
            did, there = await host.schedule(func, *args, **kwargs)
        assert did == value
        assert (there == here) is (body != "def"), "a `def` runs in a thread, and nothing else does"

    simulate(main, backend=backend).result()
    assert ASKED == []


@given(dress=st.sampled_from(["none", "method", "object", *PROXIES]), body=bodies, signature=signatures)
def test_what_does_not_take_a_task_and_its_exception_is_refused_as_handler_g4_g7(
    dress: Dress, body: Body, signature: Signature
) -> None:
    handler = dressed(dress, body, signature, Arguments())
    try:
        came = handler(None, None)
    except TypeError:
        with pytest.raises(TypeError, match="on_error must be callable with"):
            TaskConfig(on_error=handler)
    else:
        if body in ("async def", "lambda"):
            came.close()
        assert TaskConfig(on_error=handler).on_error is handler


def generator() -> Any:
    yield


async def async_generator() -> Any:
    yield


class Generates:
    def __call__(self) -> Any:
        yield


@pytest.mark.parametrize("dress", [lambda func: func, partial])
@pytest.mark.parametrize("func", [None, 3, "text", generator, async_generator, Generates()])
def test_what_cannot_be_called_or_would_run_nothing_is_refused_g7(func: Any, dress: Any) -> None:
    with pytest.raises(TypeError):
        Task(dress(func))


class Handle(Later):
    """An object that runs by itself and can be cancelled."""

    def cancel(self) -> None: ...


@BACKENDS
@given(
    dress=st.sampled_from(["none", "partial", "autospecced mock", "mock with a spec"]),
    kind=st.sampled_from([Later, Handle]),
)
def test_what_a_sync_function_has_returned_is_awaited_unless_it_can_be_cancelled_g7(
    backend: Any, dress: Dress, kind: type[Later]
) -> None:
    made = kind(SECRET)

    def func() -> Later:
        return made

    if dress == "partial":
        called: Any = partial(func)
    else:
        called = {
            "none": func,
            "autospecced mock": create_autospec(func, side_effect=func),
            "mock with a spec": MagicMock(spec=func, side_effect=func),
        }[dress]

    async def main() -> None:
        async with TaskHost() as host:
            result: Any = await host.schedule(called)
        if kind is Handle:
            assert result is made
        else:
            assert result[0] == SECRET

    simulate(main, backend=backend).result()
