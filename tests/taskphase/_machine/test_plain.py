"""G4, G14: what `PLAIN` remembers of a function holds for each task of this function, and keeps no object alive."""

from __future__ import annotations

import gc
from types import FunctionType
from typing import Any
from weakref import ref

import pytest

from taskphase import Task, TaskHost, TasksUnportableError
from taskphase._machine import plain
from taskphase._machine.plain import PLAIN


async def waits(one: object, two: object = None) -> object:
    return one, two


async def takes_one(one: object) -> object:
    return one


async def asks_for_a_keyword(one: object, *, two: object) -> None: ...


def works(one: object, two: object = None) -> object:
    return one, two


def works_with_one(one: object) -> object:
    return one


def yields(one: object, two: object) -> object:
    yield one, two


def renewed(func: Any, code: Any) -> Any:
    """Return a copy of `func` that is in this module, was scheduled before, and has another code now."""
    copy = FunctionType(func.__code__, globals(), "renewed_copy")
    copy.__qualname__ = "renewed_copy"
    globals()["renewed_copy"] = copy
    Task(copy, (1, 2))
    assert copy in PLAIN
    copy.__code__ = code
    return copy


@pytest.mark.parametrize("remembered", [waits, works])
async def test_each_call_of_a_remembered_function_is_checked_g4(remembered: Any) -> None:
    Task(remembered, (1, 2))
    assert remembered in PLAIN
    for args, kwargs in (((1, 2, 3), {}), ((), {}), ((1, 2), {"three": 3}), ((1,), {"one": 1})):
        with pytest.raises(TypeError, match=remembered.__name__):
            Task(remembered, args, kwargs)
    async with TaskHost() as host:
        assert await host.schedule(remembered, 1, 2) == (1, 2)
        assert await host.schedule(remembered, 1) == (1, None)
        assert await host.schedule(remembered, 1, two=3) == (1, 3)


@pytest.mark.parametrize(("before", "after"), [(waits, takes_one), (works, works_with_one)])
async def test_a_function_with_new_code_is_checked_anew_g4(before: Any, after: Any) -> None:
    changed: Any = renewed(before, after.__code__)
    with pytest.raises(TypeError, match="renewed_copy"):
        Task(changed, (1, 2))
    async with TaskHost() as host:
        assert await host.schedule(changed, 1) == 1


async def test_each_call_of_a_remembered_function_goes_to_its_process_g23() -> None:
    async with TaskHost() as host:
        tasks = [host.task(run_in="process").schedule(works, each, None) for each in (1, 2)]
        assert [await task for task in tasks] == [(1, None), (2, None)]
        for _ in range(2):
            with pytest.raises(TasksUnportableError):
                host.task(run_in="process").schedule(works, 1, lambda: None)


def test_only_plain_functions_of_a_module_are_remembered_g4() -> None:
    async def inner(one: object) -> None: ...

    class Service:
        async def method(self, one: object) -> None: ...

    alias = FunctionType(takes_one.__code__, {"__name__": "elsewhere"}, "takes_one")
    copy = FunctionType(takes_one.__code__, globals(), "takes_one")  # the module has another one under this name
    Task(inner, (1,))
    Task(Service().method, (1,))
    with pytest.raises(TypeError):
        Task(yields, (1, 2))
    Task(alias, (1,))
    Task(copy, (1,))
    Task(asks_for_a_keyword, (1,), {"two": 2})
    assert not {inner, Service.method, yields, alias, copy, asks_for_a_keyword} & set(PLAIN)


def test_no_function_of_a_request_is_kept_g4() -> None:
    def request() -> ref[object]:
        class Session: ...

        session = Session()

        async def write(to: object = session) -> None: ...

        Task(write, (session,))
        return ref(session)

    session = request()
    gc.collect()
    assert session() is None


def test_a_program_that_defines_functions_for_ever_does_not_fill_the_memory_g4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain, "_MOST", 10)
    for _ in range(30):
        renewed(waits, waits.__code__)
        assert len(PLAIN) <= 10


def test_the_tasks_of_one_function_share_its_name_g14() -> None:
    Task(takes_one, (0,))  # the first one has `PLAIN` know the function
    first, second = Task(takes_one, (1,)), Task(takes_one, (2,))
    assert first._parcel is second._parcel
    assert first._parcel.names == (first.name, "takes_one")


def test_no_namespace_that_is_not_a_module_s_is_kept_g2_g4() -> None:
    """A notebook, a plug-in, a template: the globals of its functions may be large."""

    class Data: ...

    def run(name: str) -> ref[object]:
        names: dict[str, Any] = {"__name__": name, "data": Data()}
        exec("async def work(one): ...", names)
        Task(names["work"], (1,))
        return ref(names["data"])

    gone = [run("a_namespace"), run(__name__)]
    gc.collect()
    assert [each() for each in gone] == [None, None]


@pytest.mark.parametrize("attribute", ["__qualname__", "__module__"])
def test_a_name_with_code_of_its_own_is_not_asked_g3(attribute: str) -> None:
    class Name(str):
        __slots__ = ()

        def __format__(self, _spec: str) -> str:
            raise LookupError

    func: Any = FunctionType(waits.__code__, globals())
    func.__qualname__ = "odd"
    setattr(func, attribute, Name(getattr(func, attribute)))
    globals()["odd"] = func
    try:
        Task(func, (1, 2))
    finally:
        del globals()["odd"]
    assert func not in PLAIN
