"""G21: `queue_contract()` accepts a queue that keeps the contract, and notices each queue that does not.

In virtual time: on a busy machine a good queue, too, may miss short deadlines.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import iscoroutine
from typing import Any, NoReturn

import anyio
import pytest
from tests.virtual import on_each_loop, run

from taskphase import TasksUnportableError
from taskphase.queues import Call, Queue, running
from taskphase.testing import QUEUE_CONTRACT, queue_contract

Body = tuple[str, str]


class Engine:
    """An engine in memory."""

    def __init__(self) -> None:
        self.state = "up"
        self.messages: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    @asynccontextmanager
    async def be(self, state: str) -> AsyncGenerator[None]:
        self.state = state
        yield
        self.state = "up"


class Good(Queue):
    """Keeps the contract. Subclasses break one part each."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        super().__init__("good", deadline=0.3, attempt_timeout=0.1, **settings)
        self.engine = engine
        self.is_open = False

    def prepare(self, call: Call) -> Any:
        try:
            return call.id, json.dumps({"function": call.function, "args": call.args, "kwargs": dict(call.kwargs)})
        except TypeError:
            raise TasksUnportableError(f"{call.function} has an argument that JSON cannot hold") from None

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        message, body = prepared
        assert self.is_open
        await anyio.lowlevel.checkpoint()
        if self.engine.state == "down":
            raise ConnectionRefusedError
        if self.engine.state == "hung":
            await anyio.sleep_forever()
        self.engine.messages.append((message, json.loads(body), dict(headers)))

    def refused(self, error: Exception) -> bool:
        return isinstance(error, ConnectionRefusedError)

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    def run(self, func: Callable[..., Any], name: str, message: str, body: dict[str, Any], headers: Any) -> Any:
        with running(self, name, message, headers):
            return func(*body["args"], **body["kwargs"])


async def check(kind: type[Good], engine: Engine | None = None, within: float = 0.7) -> None:
    engine = engine or Engine()

    def make_queue(**settings: Any) -> Good:
        return kind(engine, **settings)

    async def work() -> None:
        worker = make_queue(**QUEUE_CONTRACT)
        known = {f"{func.__module__}.{func.__qualname__}": func for func in worker.functions}
        while engine.messages:
            message, body, headers = engine.messages.pop(0)
            name = body["function"]
            result = worker.run(known[name], name, message, body, headers)
            if iscoroutine(result):
                with running(worker, name, message, headers):
                    await result

    down, hung = (partial(engine.be, state) for state in ("down", "hung"))
    await queue_contract(make_queue, work, down=down, hung=hung, trace=True, within=within)


@on_each_loop
def test_a_queue_that_keeps_the_contract_passes_g21(backend: Any) -> None:
    run(partial(check, Good), backend)


class Connects(Good):
    """Connects in the constructor."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        super().__init__(engine, **settings)
        with suppress(OSError), socket.socket() as connection:
            connection.connect(("127.0.0.1", 9))


class StartsThread(Good):
    """Starts a thread in the constructor."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        super().__init__(engine, **settings)
        threading.Thread(target=time.sleep, args=(0.2,), daemon=True, name="heartbeat").start()


class Marks(Good):
    """Writes to the function."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        super().__init__(engine, **settings)
        for func in self.functions:
            vars(func)[f"queue {id(self)}"] = self


class Loses(Good):
    """Confirms what the engine has not got."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        pass


class Late(Good):
    """Serialises the arguments too late."""

    def prepare(self, call: Call) -> Any:
        super().prepare(call)
        return call

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        await super().publish(super().prepare(prepared), headers)


class TakesAll(Good):
    """Refuses no argument."""

    def prepare(self, call: Call) -> Any:
        body = {"function": call.function, "args": call.args, "kwargs": dict(call.kwargs)}
        return call.id, json.dumps(body, default=repr)


class Tells(Good):
    """Tells the argument."""

    def prepare(self, call: Call) -> Any:
        try:
            return super().prepare(call)
        except TasksUnportableError:
            raise TasksUnportableError(f"this cannot be carried: {call.args}") from None


class Forgets(Good):
    """Does not carry the headers."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        await super().publish(prepared, {})


class LosesTrace(Good):
    """Carries only the variables."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        await super().publish(prepared, {name: headers[name] for name in self.carry if name in headers})


class Renames(Good):
    """Gives each message an id of its own."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        await super().publish((f"{prepared[0]}-{time.monotonic_ns()}", prepared[1]), headers)


class Anonymous(Good):
    """The worker does not know which task it runs."""

    def run(self, func: Callable[..., Any], name: str, message: str, body: dict[str, Any], headers: Any) -> Any:
        return func(*body["args"], **body["kwargs"])


class StaysClosed(Good):
    """Does not connect a second time."""

    closed = False

    async def open(self) -> None:
        if self.closed:
            raise ConnectionError
        self.is_open = True

    async def close(self) -> None:
        self.closed = True
        self.is_open = False


class Clings(Good):
    """Does not let an attempt be cancelled."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1.3 if self.engine.state == "hung" else 0)
        await super().publish(prepared, headers)


class Blocks(Good):
    """Blocks the event loop while the engine does not answer."""

    has_blocked = False

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        if self.engine.state == "hung":
            time.sleep(0.6)
        await super().publish(prepared, headers)


class Lies(Good):
    """Says that the engine has refused, although the engine has the message."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        if self.engine.state == "down":
            self.engine.messages.append((prepared[0], json.loads(prepared[1]), dict(headers)))
        await super().publish(prepared, headers)


class Confirms(Good):
    """Confirms a message to an engine that is down."""

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        with suppress(ConnectionRefusedError):
            await super().publish(prepared, headers)


class GivesUp(Good):
    """Does not work again after the engine was down."""

    was_down = False

    async def publish(self, prepared: Any, headers: Mapping[str, str]) -> None:
        self.was_down = self.was_down or self.engine.state == "down"
        if self.was_down:
            raise ConnectionRefusedError
        await super().publish(prepared, headers)


BROKEN: dict[type[Good], str] = {
    Connects: "has connected a socket",
    StartsThread: "has started threads: heartbeat",
    Marks: "has changed a function",
    Loses: "no worker has run message",
    Late: "too late",
    TakesAll: "raise TasksUnportableError in prepare",
    Tells: "the message of the error has the argument",
    Forgets: "'carried': None",
    LosesTrace: "'trace': None",
    Renames: "no worker has run message",
    Anonymous: "no worker has run message",
    StaysClosed: "the queue has not taken",
    Clings: "a cancelled attempt has not ended after 1 s",
    Blocks: "has blocked the event loop",
    Lies: "has said that the engine has refused",
    Confirms: "the engine did not answer, and",
    GivesUp: "the queue has not taken",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
@on_each_loop
def test_a_queue_that_breaks_the_contract_is_noticed_g21(backend: Any, kind: type[Good]) -> None:
    with pytest.raises((AssertionError, BaseExceptionGroup)) as caught:
        run(partial(check, kind), backend)
    for func in QUEUE_CONTRACT["functions"]:
        vars(func).clear()
    assert BROKEN[kind] in "\n".join(messages(caught.value))


def messages(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for inner in error.exceptions for text in messages(inner)]
    return [str(error)]


@on_each_loop
def test_a_thread_that_others_start_is_not_blamed_on_the_queue_g21(backend: Any) -> None:
    """As trio in guest mode does at any time."""

    class Slow(Good):
        """Its constructor lasts until another thread has started one."""

        def __init__(self, engine: Engine, **settings: Any) -> None:
            super().__init__(engine, **settings)
            go_on.set()
            assert has_started.wait(5)

    def start() -> None:
        assert go_on.wait(5)
        threads.append(threading.Thread(target=may_end.wait, args=(5,), name="of others"))
        threads[0].start()
        has_started.set()

    go_on, has_started, may_end = threading.Event(), threading.Event(), threading.Event()
    threads: list[threading.Thread] = []
    other = threading.Thread(target=start)
    other.start()
    try:
        run(partial(check, Slow), backend)
    finally:
        may_end.set()
        other.join()
        threads[0].join()


class Careless(Engine):
    """Loses the first message after each fault."""

    @asynccontextmanager
    async def be(self, state: str) -> AsyncGenerator[None]:
        async with super().be(state):
            yield
        self.messages = Sieve()  # type: ignore[assignment]


class Sieve(list[Any]):
    has_lost = False

    def append(self, message: Any, /) -> None:
        if self.has_lost:
            super().append(message)
        self.has_lost = True


@on_each_loop
def test_an_engine_may_lose_the_first_message_after_a_fault_g21(backend: Any) -> None:
    run(partial(check, Good, Careless(), within=3), backend)


async def test_a_queue_that_refuses_the_backend_is_not_checked_there_g13_g21(backend_name: str) -> None:
    class Elsewhere(Good):
        def check_loop(self, backend: str) -> NoReturn:
            raise RuntimeError(f"not on {backend}")

    with pytest.raises(RuntimeError, match=f"not on {backend_name}"):
        await check(Elsewhere)
