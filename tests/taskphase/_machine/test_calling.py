"""G4, G7: any callable is taken, and a wrong call raises `TypeError` at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from types import MethodType, coroutine
from typing import Any, ClassVar
from unittest.mock import AsyncMock, MagicMock, Mock, NonCallableMock, create_autospec
from xmlrpc.client import ServerProxy

import pytest
import uvloop

from taskphase._machine.calling import bind, check_call, is_async, is_awaited, name_of, names_of, shown, type_name


def sync(a: int, b: int = 0, *, c: int = 0) -> None: ...
async def coro(a: int, b: int = 0, *, c: int = 0) -> None: ...
def only_keyword(*, a: int) -> None: ...
def many(*args: int, **kwargs: int) -> None: ...
def optional(a: int = 0, /, **kwargs: int) -> None: ...
def required(a: int, /, **kwargs: int) -> None: ...
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


@coroutine
def low_level(a: int) -> Iterator[Any]:
    yield from coro(a).__await__()


@coroutine
def low_level_in_disguise(a: int) -> Any:
    return low_level(a)


class SyncCallable:
    def __call__(self, a: int) -> None: ...


class AsyncCallable:
    async def __call__(self, a: int) -> None: ...


def injecting(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator whose result takes other arguments than `wraps` makes it appear to take."""

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
        (type("OfAnObject", (), {"__call__": AsyncCallable()})(), (1,), True),
    ],
)
def test_any_callable_is_taken_for_what_it_is_g7(func: Any, args: tuple[Any, ...], expected: bool) -> None:
    assert check_call(func, args, {}) is expected
    assert is_async(func) is expected


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (low_level, (1,), True),
        (partial(low_level, 1), (), True),
        (MethodType(low_level, 1), (), True),
        (low_level_in_disguise, (1,), False),
        (type("Low", (), {"__call__": lambda self, a: low_level(a)})(), (1,), False),
        (type("Lower", (), {"__call__": coroutine(lambda self, a: (yield))})(), (1,), True),
    ],
)
def test_a_generator_function_that_returns_an_awaitable_is_async_g7(
    func: Any, args: tuple[Any, ...], expected: bool
) -> None:
    assert check_call(func, args, {}) is expected
    assert is_async(func) is expected
    if func is not low_level_in_disguise:  # takes any arguments
        with pytest.raises(TypeError, match="cannot be called like this"):
            check_call(func, (*args, 2), {})


@pytest.mark.parametrize(
    ("mock", "expected"),
    [
        (Mock(), False),
        (MagicMock(), False),
        (AsyncMock(), True),
        (MagicMock(spec=sync), False),
        (MagicMock(spec=generator), False),
        (MagicMock(spec=coro), True),
        (AsyncMock(spec=sync), True),
        (Mock(spec=partial(sync)), False),
        (Mock(spec=Holder().method), False),
        (create_autospec(sync), False),
        (create_autospec(generator), False),
        (create_autospec(coro), True),
        (create_autospec(Holder), False),
        (create_autospec(Holder, instance=True).method, False),
        (create_autospec(Holder, instance=True).coro_method, True),
        (create_autospec(SyncCallable, instance=True), False),
        (create_autospec(AsyncCallable), False),
        (Mock().send.to.somebody, False),
    ],
)
@pytest.mark.parametrize("dress", [lambda func: func, partial, lambda func: partial(MethodType(func, 1))])
def test_a_mock_is_taken_for_what_it_does_and_not_for_what_it_answers_g7(mock: Any, expected: bool, dress: Any) -> None:
    func = dress(mock)
    assert check_call(func, (1,), {}) is expected
    assert check_call(func, (), {"a": 1}) is expected
    assert is_async(func) is expected
    assert type(name_of(func)) is str


@pytest.mark.parametrize(
    "mock",
    [
        NonCallableMock(),
        NonCallableMock(spec=sync),
        create_autospec(Holder, instance=True),
        NonCallableMock(spec=low_level(1)),
    ],
)
def test_a_mock_that_cannot_be_called_is_refused_g7(mock: Any) -> None:
    with pytest.raises(TypeError, match="expected a callable, not NonCallable"):
        check_call(mock, (), {})


class Asked(Exception):
    """A proxy was asked for an attribute."""

    names: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.names.append(name)


class Remote:
    """A proxy that asks another machine for each attribute; here that fails."""

    def __getattribute__(self, name: str) -> Any:
        raise Asked(name)

    def __call__(self, a: int, *more: int) -> int:
        return a


class AsyncRemote:
    def __getattr__(self, name: str) -> Any:
        raise Asked(name)

    async def __call__(self, a: int) -> int:
        return a


class RemoteInC(staticmethod):  # type: ignore[type-arg]
    """A proxy whose `__call__()` is written in C."""

    def __getattr__(self, name: str) -> Any:
        raise Asked(name)


class Liar:
    """A proxy that has an answer to everything."""

    def __getattr__(self, name: str) -> Any:
        return Liar()

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise Asked("__class__")

    def __call__(self, *args: object, **kwargs: object) -> None: ...


# (Made in the tests, because pytest asks its parameters for attributes.)
PROXIES: list[tuple[Callable[[], Any], tuple[int, ...], str, bool]] = [
    (Remote, (1,), "Remote", False),
    (AsyncRemote, (1,), "AsyncRemote", True),
    (lambda: RemoteInC(many), (1,), "many", False),
    (Liar, (1,), "Liar", False),
    (lambda: MethodType(Remote(), 1), (), "Remote", False),
    (lambda: partial(MethodType(AsyncRemote(), 1)), (), "AsyncRemote", True),
    (lambda: partial(Liar(), b=2), (), "Liar", False),
    (lambda: ServerProxy("http://127.0.0.1:9").orders.add, (1,), "_Method", False),
]


@pytest.mark.parametrize(("make", "args", "name", "expected"), PROXIES)
def test_a_proxy_is_asked_for_no_attribute_g7(
    make: Callable[[], Any], args: tuple[int, ...], name: str, expected: bool
) -> None:
    proxy = make()
    Asked.names.clear()
    assert check_call(proxy, args, {}) is expected
    assert is_async(proxy) is expected
    assert name_of(proxy).rpartition(".")[2] == name
    assert Asked.names == []


@pytest.mark.parametrize("make", [Remote, AsyncRemote, lambda: partial(Remote())])
def test_what_the_call_of_a_proxy_does_not_take_is_refused_g7(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="cannot be called like this: missing a required argument: 'a'"):
        check_call(make(), (), {})


def claiming(signature: object) -> Callable[..., Any]:
    def func(a: int) -> None: ...

    func.__signature__ = signature  # type: ignore[attr-defined]
    return func


class Claiming:
    def method(self, a: int) -> None: ...

    method.__signature__ = Signature()  # type: ignore[attr-defined]


class Unreadable:
    def __call__(self, a: int) -> None: ...

    @property
    def __signature__(self) -> Any:
        raise OSError


class Nowhere:
    """A descriptor whose owner cannot be called, and which raises its own exception."""

    def __get__(self, instance: object, owner: object = None) -> Any:
        raise OSError


@pytest.mark.parametrize(
    "func",
    [
        claiming(Signature()),
        claiming(3),
        claiming(lambda: 1 / 0),
        Unreadable(),
        partial(Unreadable()),
        Claiming().method,
    ],
)
def test_what_a_callable_says_of_its_parameters_decides_nothing_g7(func: Any) -> None:
    assert check_call(func, (1,), {}) is check_call(func, (), {"a": 1}) is False
    with pytest.raises(TypeError, match="cannot be called like this"):
        check_call(func, (), {})


@pytest.mark.parametrize("dress", [lambda func: func, partial])
def test_a_callable_of_which_nothing_can_be_told_is_taken_g7(dress: Any) -> None:
    func = dress(type("Odd", (), {"__call__": Nowhere()})())
    assert check_call(func, (1, 2), {"c": 3}) is False
    assert name_of(func).endswith("Odd")


def test_a_class_whose_metaclass_answers_with_errors_is_taken_g3_g7() -> None:
    own = class_that_answers_for_itself()
    for func in (own, own()):
        assert check_call(func, (), {}) is is_async(func) is False


class WithSignature:
    __code__ = 3
    __signature__ = Signature([Parameter("a", Parameter.POSITIONAL_ONLY)])

    def __init__(self, *args: int) -> None: ...


def test_a_class_may_say_what_it_takes_g7() -> None:
    assert check_call(WithSignature, (1,), {}) is False
    with pytest.raises(TypeError, match=r"WithSignature\(a, /\) cannot be called like this"):
        check_call(WithSignature, (), {})


def test_a_compiled_function_is_taken_for_what_it_is_g7() -> None:
    """A function from Cython: not a Python function, but with a Python code object."""
    assert is_async(uvloop.Loop.shutdown_asyncgens)
    assert not is_async(uvloop.Loop.run_forever)
    assert name_of(uvloop.Loop.run_forever) == "uvloop.loop.Loop.run_forever"


@pytest.mark.parametrize(
    "func",
    [
        sync,
        coro,
        partial(sync),
        Holder().method,
        Holder().coro_method,
        SyncCallable(),
        AsyncCallable(),
        type("OfAnObject", (), {"__call__": AsyncCallable()})(),
    ],
)
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3, 4), {}), ((1,), {"d": 1}), ((1,), {"a": 1})])
def test_wrong_arguments_are_refused_g7(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="cannot be called like this"):
        check_call(func, args, kwargs)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (sync, (), {"a": 1, "c": 2}),
        (only_keyword, (), {"a": 1}),
        (many, (1, 2), {"x": 1}),
        (sync, (1, 2), {}),
        (optional, (), {"a": 1}),
        (required, (1,), {"a": 1}),
    ],
)
def test_right_arguments_are_taken_in_every_form_g7(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert check_call(func, args, kwargs) is False


class Hostile:
    def __repr__(self) -> str:
        raise Asked("repr")


def test_a_default_value_that_cannot_be_shown_hides_no_refusal_g3_g7() -> None:
    def func(a: int, b: object = Hostile()) -> None: ...

    with pytest.raises(TypeError, match=r"func\(\.\.\.\) cannot be called like this"):
        check_call(func, (), {})


@pytest.mark.parametrize("func", [required, lambda a=0, /: None])
def test_a_keyword_is_no_value_of_a_positional_only_parameter_g7(func: Any) -> None:
    with pytest.raises(TypeError, match=r"missing a required|passed as"):
        check_call(func, (), {"a": 1})


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


class Selfless:
    def method() -> None: ...  # type: ignore[misc]
    def __call__() -> None: ...  # type: ignore[misc]


@pytest.mark.parametrize("func", [Selfless().method, Selfless(), partial(Selfless().method)])
def test_a_method_that_does_not_take_its_object_is_refused_g7(func: Any) -> None:
    with pytest.raises(TypeError, match=r"Selfless.* does not accept its bound arguments"):
        check_call(func, (), {})


@pytest.mark.parametrize(("least", "most"), [(0, 0), (1, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("is_method", [False, True])
def test_a_sync_function_takes_as_many_arguments_as_it_has_parameters_g7(
    least: int, most: int, is_method: bool
) -> None:
    """These calls have a fast path."""
    names: dict[str, Any] = {}
    own = ["self"] if is_method else []
    parameters = [f"a{number}" if number < least else f"a{number}=None" for number in range(most)]
    exec(f"def func({', '.join(own + parameters)}): ...", names)
    func = MethodType(names["func"], object()) if is_method else names["func"]
    for count in range(5):
        if least <= count <= most:
            assert check_call(func, tuple(range(count)), {}) is False
        else:
            with pytest.raises(TypeError, match="func"):
                check_call(func, tuple(range(count)), {})


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
    """Closed, because Python warns about a coroutine that was never awaited, and warnings are errors here."""
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
def test_a_name_is_the_module_and_the_qualified_name(func: Any, name: str) -> None:
    assert name_of(func) == f"{__name__}.{name}"


class HostileText(str):
    """A string that overrides its `repr()` and its search methods."""

    __slots__ = ()

    def _refuse(self, *args: object) -> Any:
        raise Asked("text")

    __str__ = __repr__ = __format__ = __hash__ = __eq__ = __len__ = _refuse  # type: ignore[assignment]


def named(**attributes: object) -> Callable[..., Any]:
    def func() -> None: ...

    for name, value in attributes.items():
        setattr(func, name, value)
    return func


class Nameless:
    """Each attribute by which it could be known raises."""

    def __call__(self) -> None: ...

    def _refuse(self) -> Any:
        raise Asked("name")

    __name__ = __module__ = property(_refuse)  # type: ignore[assignment]


class Unbound:
    """A proxy outside of the context in which it has an object."""

    def __call__(self) -> None: ...

    def _get_current_object(self) -> Any:
        raise Asked("object")


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise Asked(name)


def class_that_answers_for_itself() -> Any:
    """Return such a class. (pytest asks each class of a module for attributes.)"""

    class Own(metaclass=HostileMeta):
        def __call__(self) -> None: ...

    return Own


class Wrapping:
    def __init__(self, func: Callable[..., Any]) -> None:
        self.__qualname__ = func.__qualname__
        self.__module__ = func.__module__

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: named(__qualname__=HostileText("a.b")), f"{__name__}.a.b"),
        (lambda: named(__qualname__="b", __module__=HostileText("a")), "a.b"),
        (lambda: named(__qualname__="b", __module__=None), "b"),
        (lambda: named(__qualname__="b", __module__=3), "b"),
        (lambda: partial(named(__qualname__=HostileText("a.b"))), f"{__name__}.a.b"),
        (Nameless, "Nameless"),
        (Unbound, f"{__name__}.Unbound"),
        (class_that_answers_for_itself, f"{__name__}.class_that_answers_for_itself.<locals>.Own"),
        (lambda: class_that_answers_for_itself()(), f"{__name__}.class_that_answers_for_itself.<locals>.Own"),
        (lambda: MethodType(Remote(), 1), f"{__name__}.Remote"),
        (lambda: Wrapping(sync), f"{__name__}.sync"),
        (lambda: Mock(__qualname__=3), "unittest.mock.Mock"),
        (lambda: MagicMock(spec=sync), "unittest.mock.MagicMock"),
        (lambda: [].append, "list.append"),
        (lambda: dict, "builtins.dict"),
    ],
)
def test_a_name_is_a_plain_string_whatever_the_callable_says_g3(make: Callable[[], Any], name: str) -> None:
    func = make()
    found = name_of(func)
    assert type(found) is str
    assert found == name
    assert type(names_of(func)[1]) is str
    assert names_of(func)[0] == found
    assert found.endswith(names_of(func)[1])


def test_a_name_is_found_behind_more_partials_than_the_stack_has_room_for_g3() -> None:
    class Own(partial[Any]): ...  # Python joins only plain partials

    func: Callable[..., Any] = sync
    for _ in range(2000):
        func = Own(func)
    assert name_of(func) == name_of(sync)


def test_the_name_of_a_class_is_told_past_its_metaclass_g3() -> None:
    assert type_name(class_that_answers_for_itself()()) == "Own"
    assert type_name(Remote()) == "Remote"


@pytest.mark.parametrize(
    "text", ["\n", "\r", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\ud800", "\x00"]
)
def test_what_cannot_be_printed_is_shown_as_its_escape_g4(text: str) -> None:
    assert shown(f"a{text}b").isprintable()
    assert text not in shown(f"a{text}b")


def test_a_name_that_can_be_printed_is_shown_as_it_is_g4() -> None:
    assert shown("charge Zoë's order (2)") == "charge Zoë's order (2)"


def test_a_function_s_name_is_escaped_in_a_refusal_g4_g7() -> None:
    for func in (named(__qualname__="a\nCRITICAL"), named(__qualname__="a\nCRITICAL").__get__(1)):
        with pytest.raises(TypeError, match=r"a\\nCRITICAL") as refusal:
            check_call(func, (1, 2), {})
        assert str(refusal.value).isprintable()
    with pytest.raises(TypeError) as refusal:
        check_call(type("a\nCRITICAL", (), {})(), (), {})  # type: ignore[arg-type]
    assert str(refusal.value).isprintable()


class Handle:
    """An object that runs by itself and can be cancelled."""

    def __await__(self) -> Iterator[Any]:
        yield

    def cancel(self) -> None: ...


class Promise:
    def __await__(self) -> Iterator[Any]:
        yield


class AwaitableClass(type):
    __await__ = Promise.__await__


class Made(metaclass=AwaitableClass): ...


def test_an_awaitable_is_awaited_and_a_handle_is_a_result_g7() -> None:
    low, proper = low_level(1), coro(1)
    assert all(is_awaited(result) for result in (low, proper, Promise(), Made))
    proper.close()
    for result in (None, 1, Made(), Handle(), type("More", (Handle,), {})(), generator(), Mock(spec=Promise), Liar()):
        assert not is_awaited(result)


def test_a_keyword_named_like_a_positional_only_parameter_is_one_of_the_others_g7() -> None:
    def func(a: int = 0, /, **others: int) -> None: ...

    bound = bind(signature(func), (), {"a": 1, "b": 2})
    assert (bound.args, bound.kwargs) == ((), {"a": 1, "b": 2})
    bound = bind(signature(func), (3,), {"a": 1})
    assert (bound.args, bound.kwargs) == ((3,), {"a": 1})
