"""The wire's own tests: its log, and that every error is noticed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.wire import Closed, Events, Session, WireError, lifespan, request, websocket

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}
MORE: Message = {"type": "http.response.body", "body": b"ab", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"c"}
FILE: Message = {"type": "http.response.pathsend", "path": "/tmp/file"}
ACCEPT: Message = {"type": "websocket.accept"}
TEXT: Message = {"type": "websocket.send", "text": "hello"}
CLOSE: Message = {"type": "websocket.close", "code": 4000}
DENY: Message = {"type": "websocket.http.response.start", "status": 401}
DENIAL: Message = {"type": "websocket.http.response.body", "body": b"no"}
UP: Message = {"type": "lifespan.startup.complete"}
DOWN: Message = {"type": "lifespan.shutdown.complete"}
RECEIVE: Message = {}  # in a script: the app receives here


def scripted(*script: Message, swallow: bool = False) -> ASGIApp:
    """Return an app that sends `script` and returns; with `swallow`, it ignores exceptions of `send`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in script:
            try:
                await (send(message) if message else receive())
            except WireError:
                if not swallow:
                    raise

    return app


def raising(error: BaseException, *script: Message) -> ASGIApp:
    """Return an app that plays `script` and raises `error`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scripted(*script)(scope, receive, send)
        raise error

    return app


class Oddity(BaseException):
    """An exception that is no Exception."""


# HTTP


async def test_response_is_what_the_client_got() -> None:
    response = await request(scripted(START, MORE, LAST))
    assert (response.status, response.headers, response.body) == (200, [(b"x-a", b"1")], b"abc")
    assert response.messages == [START, MORE, LAST]
    assert response.complete
    assert response.raised is None


async def test_send_and_receive_let_no_other_task_run() -> None:
    events: Events = []

    async def other() -> None:
        events.append("other")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await scripted(RECEIVE, START, MORE, LAST, RECEIVE)(scope, receive, send)
            events.append("done")

    await request(app, events=events)
    assert events == ["start", "body", "final", "done", "other", "returned"]


async def test_a_message_held_by_on_send_is_not_yet_sent() -> None:
    events: Events = []

    async def on_send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await anyio.wait_all_tasks_blocked()
            events.append("let go")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            assert (await receive())["type"] == "http.disconnect"
            events.append("disconnect")

        await receive()
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await scripted(START, LAST)(scope, receive, send)

    assert (await request(app, events=events, on_send=on_send)).raised is None
    assert events == ["start", "final", "let go", "disconnect", "returned"]


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_client_is_gone_after_n_messages(sent: int) -> None:
    events: Events = []
    script = [START, MORE, LAST]
    response = await request(scripted(*script), events=events, disconnect_after=sent)
    assert events == [*["start", "body"][:sent], "returned"]
    assert response.messages == script[:sent]
    assert (response.status, response.complete) == (200 if sent else None, False)


HTTP_OFFENCES: dict[str, tuple[list[Message], str]] = {
    "second start": ([START, START], "not allowed when started"),
    "body before start": ([LAST], "not allowed when waiting"),
    "start in the body": ([START, MORE, START], "not allowed when streaming"),
    "body after final": ([START, LAST, LAST], "not allowed when complete"),
    "start after final": ([START, LAST, START], "not allowed when complete"),
    "str body": ([START, {**LAST, "body": "c"}], "body has to be"),
    "bytearray body": ([START, {**LAST, "body": bytearray(b"c")}], "body has to be"),
    "more_body int": ([START, {**MORE, "more_body": 1}], "more_body has to be"),
    "upper-case header": ([{**START, "headers": [(b"X-A", b"1")]}], "lower case"),
    "str header name": ([{**START, "headers": [("x-a", b"1")]}], "pairs of bytes"),
    "str header value": ([{**START, "headers": [(b"x-a", "1")]}], "pairs of bytes"),
    "header of three": ([{**START, "headers": [(b"x-a", b"1", b"2")]}], "pairs of bytes"),
    "str status": ([{**START, "status": "200"}], "status has to be"),
    "no status": ([{"type": "http.response.start"}], "no status"),
    "unknown type": ([{"type": "http.response.trailers"}], "unknown here"),
    "no type": ([{"status": 200}], "unknown here"),
    "another protocol": ([ACCEPT], "unknown here"),
    "pathsend not offered": ([START, FILE], "has not offered"),
    "body with 204": ([{**START, "status": 204}, LAST], "body with status 204"),
    "body with 304": ([{**START, "status": 304}, MORE], "body with status 304"),
    "no response": ([], "returned when waiting"),
    "no body": ([START], "returned when started"),
    "no final body": ([START, MORE], "returned when streaming"),
}


@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("offence", HTTP_OFFENCES)
async def test_http_offence_is_raised_in_the_test(offence: str, *, swallow: bool) -> None:
    script, rule = HTTP_OFFENCES[offence]
    with pytest.raises(WireError, match=rule):
        await request(scripted(*script, swallow=swallow))


PATHSEND_OFFENCES: dict[str, tuple[list[Message], str]] = {
    "before start": ([FILE], "not allowed when waiting"),
    "after body": ([START, MORE, FILE], "not allowed when streaming"),
    "twice": ([START, FILE, FILE], "not allowed when complete"),
    "body after it": ([START, FILE, LAST], "not allowed when complete"),
    "bytes path": ([START, {**FILE, "path": b"/tmp/file"}], "path has to be"),
    "no path": ([START, {"type": "http.response.pathsend"}], "no path"),
    "with 204": ([{**START, "status": 204}, FILE], "body with status 204"),
}


@pytest.mark.parametrize("offence", PATHSEND_OFFENCES)
async def test_pathsend_offence_is_raised_in_the_test(offence: str) -> None:
    script, rule = PATHSEND_OFFENCES[offence]
    with pytest.raises(WireError, match=rule):
        await request(scripted(*script, swallow=True), extensions={"http.response.pathsend": {}})


async def test_an_offence_is_not_logged() -> None:
    events: Events = []
    with pytest.raises(WireError):
        await request(scripted(START, START), events=events)
    assert events == ["start", "raised"]


async def test_an_offence_out_of_a_group_is_raised_bare() -> None:
    async def late(send: Send) -> None:
        await send(LAST)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(late, send)

    with pytest.raises(WireError):
        await request(app)


ERRORS = [
    ValueError("x"),
    TimeoutError("the app's own"),
    Oddity("x"),
    ExceptionGroup("x", [ValueError("y")]),
    BaseExceptionGroup("x", [Oddity("y")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_what_the_app_raises_is_kept(error: BaseException) -> None:
    events: Events = []
    response = await request(raising(error, START), events=events)
    assert response.raised is error
    assert (response.status, response.complete, events) == (200, False, ["start", "raised"])


async def test_an_app_that_takes_too_long_raises_in_the_test() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await request(app, timeout=0)


# lifespan


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("stage", range(1, 5))
async def test_what_a_lifespan_raises_comes_out_as_itself(error: BaseException, stage: int) -> None:
    script = [RECEIVE, UP, RECEIVE, DOWN][:stage]
    with pytest.raises(type(error)) as caught:
        async with lifespan(raising(error, *script)):
            assert UP in script
    assert caught.value is error


LIFESPAN_OFFENCES: dict[str, tuple[list[Message], str]] = {
    "complete before startup": ([UP], "not allowed when new"),
    "startup twice": ([RECEIVE, UP, UP], "not allowed when running"),
    "failed after complete": ([RECEIVE, UP, {"type": "lifespan.startup.failed"}], "not allowed when running"),
    "shutdown first": ([RECEIVE, DOWN], "not allowed when starting"),
    "shutdown unasked": ([RECEIVE, UP, DOWN], "not allowed when running"),
    "startup at shutdown": ([RECEIVE, UP, RECEIVE, UP], "not allowed when stopping"),
    "shutdown twice": ([RECEIVE, UP, RECEIVE, DOWN, DOWN], "not allowed when stopped"),
    "complete after failed": ([RECEIVE, {"type": "lifespan.startup.failed"}, UP], "not allowed when failed"),
    "unknown type": ([RECEIVE, {"type": "lifespan.startup.done"}], "unknown here"),
    "another protocol": ([RECEIVE, START], "unknown here"),
    "bytes message": ([RECEIVE, {"type": "lifespan.startup.failed", "message": b"why"}], "message has to be"),
    "nothing": ([], "returned when new"),
    "no startup": ([RECEIVE], "returned when starting"),
    "early end": ([RECEIVE, UP], "returned when running"),
    "no shutdown": ([RECEIVE, UP, RECEIVE], "returned when stopping"),
}


@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("offence", LIFESPAN_OFFENCES)
async def test_lifespan_offence_is_raised_in_the_test(offence: str, *, swallow: bool) -> None:
    script, rule = LIFESPAN_OFFENCES[offence]
    with pytest.raises(WireError, match=rule):
        async with lifespan(scripted(*script, swallow=swallow)):
            await anyio.wait_all_tasks_blocked()


async def test_an_offence_ends_the_wait_for_startup() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scripted(DOWN, swallow=True)(scope, receive, send)
        await anyio.sleep_forever()

    with pytest.raises(WireError):
        async with lifespan(app):
            pytest.fail("has not started")


async def test_a_body_that_raises_shuts_down_and_raises_bare() -> None:
    events: Events = []
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as caught:
        async with lifespan(scripted(RECEIVE, UP, RECEIVE, DOWN), events=events):
            raise error
    assert caught.value is error
    assert events == ["startup.complete", "shutdown", "shutdown.complete"]


@pytest.mark.parametrize("script", [[RECEIVE, RECEIVE, UP], [RECEIVE, UP, RECEIVE, RECEIVE, DOWN]])
async def test_a_lifespan_is_asked_once_and_timed_out_if_it_waits_for_more(script: list[Message]) -> None:
    with pytest.raises(TimeoutError):
        # Long enough for a startup that should succeed.
        async with lifespan(scripted(*script), timeout=0.5):
            assert UP in script[:2]


# websocket


@asynccontextmanager
async def accepted(app: ASGIApp, **options: Any) -> AsyncIterator[Session]:
    """Open a websocket and wait until it is accepted."""
    async with websocket(app, **options) as session:
        await session.accept()
        yield session


async def test_frames_sent_before_the_close_are_received_before_it() -> None:
    events: Events = []
    async with accepted(scripted(ACCEPT, TEXT, CLOSE), events=events) as session:
        assert await session.receive() == "hello"
        for _ in range(2):
            with pytest.raises(Closed) as caught:
                await session.receive()
            assert caught.value.code == 4000
        with pytest.raises(Closed):
            await session.send("late")
    assert events == ["accept", "ws.send", "ws.close", "returned"]


@pytest.mark.parametrize("error", [None, ValueError("x")], ids=["returns", "raises"])
async def test_an_app_that_ends_without_close_closes_with_1006(error: ValueError | None) -> None:
    async with accepted(raising(error, ACCEPT) if error else scripted(ACCEPT)) as session:
        with pytest.raises(Closed) as caught:
            await session.receive()
    assert (caught.value.code, caught.value.__cause__, session.raised) == (1006, error, error)


WEBSOCKET_OFFENCES: dict[str, tuple[list[Message], str]] = {
    "send before accept": ([TEXT], "not allowed when connecting"),
    "accept twice": ([ACCEPT, ACCEPT], "not allowed when open"),
    "accept after close": ([CLOSE, ACCEPT], "not allowed when closed"),
    "send after close": ([ACCEPT, CLOSE, TEXT], "not allowed when closed"),
    "close twice": ([ACCEPT, CLOSE, CLOSE], "not allowed when closed"),
    "denial after accept": ([ACCEPT, DENY], "not allowed when open"),
    "denial without start": ([DENIAL], "not allowed when connecting"),
    "accept in a denial": ([DENY, ACCEPT], "not allowed when denying"),
    "body after a denial": ([DENY, DENIAL, DENIAL], "not allowed when closed"),
    "HTTP message": ([START], "unknown here"),
    "unknown type": ([{"type": "websocket.ping"}], "unknown here"),
    "empty frame": ([ACCEPT, {"type": "websocket.send"}], "either text or bytes"),
    "double frame": ([ACCEPT, {**TEXT, "bytes": b"x"}], "either text or bytes"),
    "text as bytes": ([ACCEPT, {**TEXT, "text": b"x"}], "text has to be"),
    "bytes as text": ([ACCEPT, {"type": "websocket.send", "bytes": "x"}], "bytes has to be"),
    "str code": ([ACCEPT, {**CLOSE, "code": "1000"}], "code has to be"),
    "upper-case header": ([{**ACCEPT, "headers": [(b"X-A", b"1")]}], "lower case"),
    "str denial body": ([DENY, {**DENIAL, "body": "no"}], "body has to be"),
    "no answer": ([], "returned when connecting"),
    "half a denial": ([DENY], "returned when denying"),
}


@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("offence", WEBSOCKET_OFFENCES)
async def test_websocket_offence_is_raised_in_the_test(offence: str, *, swallow: bool) -> None:
    script, rule = WEBSOCKET_OFFENCES[offence]
    with pytest.raises(WireError, match=rule):
        async with websocket(scripted(*script, swallow=swallow)):
            await anyio.wait_all_tasks_blocked()


async def test_an_offence_ends_the_wait_for_accept() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scripted(TEXT, swallow=True)(scope, receive, send)
        await anyio.sleep_forever()

    with pytest.raises(WireError):
        async with accepted(app):
            pytest.fail("was not accepted")
