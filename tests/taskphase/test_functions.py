"""G3, G7, G15: proxies, mocks and generator functions as tasks and handlers, and handles as results."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from types import coroutine
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec, patch
from xmlrpc.client import ServerProxy
from xmlrpc.server import SimpleXMLRPCServer

import anyio
import pytest

from taskphase import Task, TaskHost, TaskStatus, current_host
from taskphase.testing import record_tasks

Logged = Callable[[], list[tuple[str, str]]]


async def double(number: int) -> int:
    await anyio.lowlevel.checkpoint()
    return 2 * number


def spell(number: int) -> str:
    return str(number)


async def fail() -> None:
    raise ValueError("why")


def report(task: Task[Any], error: Exception) -> None: ...


class Mailer:
    def send(self, to: str) -> None: ...
    async def asend(self, to: str) -> None: ...


@coroutine
def add_slowly(a: int, b: int) -> Generator[Any, Any, tuple[int, int]]:
    yield from anyio.lowlevel.checkpoint().__await__()
    return a + b, threading.get_ident()


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Run a server that adds; yield its address, and a list of all its requests."""
    requests: list[str] = []

    def add(a: int, b: int) -> int:
        requests.append("add")
        return a + b

    with SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
        server.register_function(add)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()
        thread.join()


async def test_a_method_of_another_machine_is_called_there_once_and_asked_for_nothing_g7(
    asked: tuple[str, list[str]],
) -> None:
    address, requests = asked
    async with TaskHost() as host:
        with ServerProxy(address) as remote:
            assert await host.schedule(remote.add, 1, 2) == 3
            assert await host.schedule(partial(remote.add, 1), 2) == 3
            task: Task[Any] = Task(remote.add, (1, 2))
            assert task.name == "xmlrpc.client._Method"
            with record_tasks(host) as tasks:
                host.schedule(remote.add, 3, 4)
                await tasks.await_all()
                assert tasks.assert_scheduled(tasks[0].func, 3, 4).return_value == 7
                assert "_Method(3, 4)" in str(tasks)
    assert requests == ["add"] * 3


async def test_a_generator_function_that_returns_an_awaitable_is_awaited_in_the_loop_g7() -> None:
    async with TaskHost() as host:
        for task in (
            host.schedule(add_slowly, 1, 2),
            host.schedule(add_slowly, 1, b=2),
            host.schedule(partial(add_slowly, 1), 2),
            host.task(timeout=5).schedule(add_slowly, 1, 2),
            host.schedule(lambda: add_slowly(1, 2)),
        ):
            assert await task == (3, threading.get_ident())


async def test_a_mock_is_called_with_the_arguments_whatever_its_spec_g7() -> None:
    mocks: list[Any] = [
        Mock(),
        MagicMock(),
        MagicMock(spec=spell),
        create_autospec(spell),
        create_autospec(Mailer, instance=True).send,
        create_autospec(Mailer),
        MagicMock(spec=Mailer),
    ]
    async with TaskHost() as host:
        for mock in mocks:
            assert await host.schedule(mock, "ada") is mock.return_value
            mock.assert_called_once_with("ada")
        with patch(f"{__name__}.spell", autospec=True, return_value="one") as mock:
            assert await host.schedule(spell, 1) == "one"
        mock.assert_called_once_with(1)


async def test_an_async_mock_is_awaited_in_the_loop_g7() -> None:
    async with TaskHost(max_threads=1) as host:
        for mock in (
            AsyncMock(),
            AsyncMock(spec=double),
            AsyncMock(spec=spell),
            MagicMock(spec=double),
            create_autospec(double),
            create_autospec(Mailer, instance=True).asend,
        ):
            mock.side_effect = lambda value: (value, threading.get_ident())
            task: Task[Any] = host.schedule(mock, 1)
            assert await task == (1, threading.get_ident())
            mock.assert_awaited_once_with(1)


async def test_a_mock_that_does_not_take_the_arguments_fails_its_task_only_g3_g7(logged: Logged) -> None:
    async with TaskHost() as host:
        task: Task[Any] = host.schedule(create_autospec(Mailer, instance=True).send, "ada", "again")
        await task.wait()
        assert isinstance(task.exception, TypeError)
    assert [level for level, _ in logged()] == ["ERROR"]


async def test_a_mock_is_a_handler_g4_g7() -> None:
    async with TaskHost() as host:
        for mock in (Mock(return_value=None), AsyncMock(return_value=None), MagicMock(spec=report, return_value=None)):
            task = host.task(on_error=mock).schedule(fail)
            await task.wait()
            mock.assert_called_once_with(task, task.exception)


async def test_an_async_handler_waits_for_no_thread_g4_g8() -> None:
    blocked, handled = threading.Event(), list[int]()

    async def handle(task: Task[Any], error: Exception) -> None:
        handled.append(threading.get_ident())

    async with TaskHost(max_threads=1, drain_timeout=5) as host:
        host.schedule(blocked.wait)
        try:
            for handler in (handle, partial(handle), AsyncMock(side_effect=handle)):
                with anyio.fail_after(5):
                    await host.task(on_error=handler).schedule(fail).wait()
        finally:
            blocked.set()
    assert handled == [threading.get_ident()] * 3


async def test_a_handle_returned_by_a_sync_function_is_its_result_and_holds_no_slot_g7_g15() -> None:
    blocked = anyio.Event()
    async with TaskHost(max_running=1, drain_timeout=5) as host:
        first = host.schedule(lambda: current_host().schedule(blocked.wait))
        with anyio.fail_after(5):
            second = await first
        assert second.status != TaskStatus.SUCCEEDED
        blocked.set()
        assert (await second) is None

        def chain(number: int) -> Task[int]:
            return current_host().schedule(double, number)

        async def chain_async(number: int) -> Task[int]:
            return chain(number)

        for task in (
            host.schedule(chain, 1),
            host.schedule(partial(chain, 1)),
            host.schedule(chain_async, 1),
            host.schedule(partial(chain_async, 1)),
            host.schedule(lambda: chain_async(1)),
            host.task(timeout=5).schedule(chain, 1),
            host.task(timeout=5).schedule(chain_async, 1),
        ):
            inner = await task
            assert type(inner) is Task
            assert await inner == 2


async def test_a_handler_may_return_the_handle_of_what_it_has_scheduled_g4_g7() -> None:
    def schedule(task: Task[Any], error: Exception) -> Task[None]:
        return current_host().schedule(anyio.sleep_forever)

    async with TaskHost() as host:
        for handler in (schedule, AsyncMock(side_effect=schedule)):
            task = host.task(on_error=handler).schedule(fail)
            with anyio.fail_after(5):
                await task.wait()
            assert task.status == TaskStatus.FAILED


async def test_the_future_that_a_sync_function_returns_is_its_result_g7(backend_name: str) -> None:
    never: Future[int] = Future()
    async with TaskHost(max_running=1) as host:
        assert await host.schedule(lambda: never) is never
        if backend_name == "asyncio":
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            native = asyncio.ensure_future(asyncio.sleep(60))
            assert await host.schedule(lambda: future) is future
            assert await host.schedule(lambda: native) is native
            native.cancel()


@pytest.mark.skipif(not hasattr(anyio, "TaskHandle"), reason="anyio 4.14 was the first to have handles")
async def test_the_handle_of_anyio_that_a_sync_function_returns_is_its_result_g7() -> None:
    async with TaskHost(max_running=1) as host, anyio.create_task_group() as tg:
        handle: Any = tg.start_soon(anyio.sleep_forever)
        assert type(handle) is anyio.TaskHandle
        assert await host.schedule(lambda: handle) is handle
        tg.cancel_scope.cancel()


async def test_a_mock_that_claims_to_be_awaitable_is_a_result_g7() -> None:
    class Promise:
        def __await__(self) -> Generator[Any, Any, int]:
            yield from anyio.lowlevel.checkpoint().__await__()
            return 1

    promised = Mock(spec=Promise)
    async with TaskHost() as host:
        assert await host.schedule(lambda: promised) is promised
        assert await host.schedule(Promise) == 1
