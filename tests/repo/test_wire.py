"""The wire's own tests: what it shows, and that it lets nothing pass."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.backends import native_cancel_only
from tests.wire import Closed, Denied, Events, Session, WireError, lifespan, request, websocket

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
    """Return an app that sends `script` and returns; with `swallow`, whatever send raises."""

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


# HTTP: what passes


async def test_response_is_what_the_client_got() -> None:
    response = await request(scripted(START, MORE, LAST))
    assert (response.status, response.headers, response.body) == (200, [(b"x-a", b"1")], b"abc")
    assert response.messages == [START, MORE, LAST]
    assert response.complete
    assert response.raised is None


async def test_response_is_parsed_as_json() -> None:
    assert (await request(scripted(START, {**LAST, "body": b'{"a": 1}'}))).json() == {"a": 1}


async def test_http_scope_is_uvicorns() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await scripted(START, LAST)(scope, receive, send)

    await request(app, "POST", "/ä b", headers=[(b"X-A", b"1")], query=b"q=1", root_path="/base")
    [scope] = seen
    assert (scope["type"], scope["method"], scope["asgi"]["spec_version"]) == ("http", "POST", "2.3")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
        "/base",
        "/base/ä b",
        b"/base/%C3%A4%20b",
    )
    assert (scope["query_string"], scope["headers"]) == (b"q=1", [(b"host", b"wire"), (b"x-a", b"1")])
    assert "state" not in scope
    assert "extensions" not in scope


async def test_a_host_header_given_replaces_the_default() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["headers"] == [(b"host", b"mine")]
        await scripted(START, LAST)(scope, receive, send)

    assert (await request(app, headers=[(b"Host", b"mine")])).raised is None


async def test_http_state_is_a_copy() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["b"] = scope["state"]["a"]
        await scripted(START, LAST)(scope, receive, send)

    state = {"a": 1}
    assert (await request(app, state=state)).raised is None
    assert state == {"a": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", [(b"", False)]),
        (b"abc", [(b"abc", False)]),
        ((), [(b"", False)]),
        ((b"a", b"b"), [(b"a", True), (b"b", False)]),
    ],
)
async def test_request_body_comes_in_its_chunks(
    body: bytes | tuple[bytes, ...], expected: list[tuple[bytes, bool]]
) -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not got or got[-1]["more_body"]:
            got.append(await receive())
        await scripted(START, LAST)(scope, receive, send)

    await request(app, "POST", body=body if isinstance(body, bytes) else iter(body))
    assert [(message["body"], message["more_body"]) for message in got] == expected
    assert {message["type"] for message in got} == {"http.request"}


async def test_http_events_are_in_order() -> None:
    events: Events = ["before"]
    await request(scripted(START, MORE, MORE, LAST), events=events)
    assert events == ["before", "start", "body", "body", "final", "returned"]


async def test_a_pathsend_that_was_offered_is_final() -> None:
    events: Events = []
    response = await request(scripted(START, FILE), events=events, extensions={"http.response.pathsend": {}})
    assert events == ["start", "final", "returned"]
    assert (response.complete, response.body, response.messages[-1]) == (True, b"", FILE)


async def test_body_for_head_is_not_for_the_client() -> None:
    response = await request(scripted(START, LAST), "HEAD")
    assert (response.body, response.messages[-1]["body"], response.complete) == (b"", b"c", True)


async def test_what_the_app_writes_to_its_scope_changes_nothing_on_the_wire() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = scope["type"] = "changed"
        await scripted(START, LAST)(scope, receive, send)

    assert (await request(app, "HEAD")).body == b""


async def test_an_empty_body_may_follow_204() -> None:
    assert (await request(scripted({**START, "status": 204}, {**LAST, "body": b""}))).complete


async def test_messages_are_copies() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = {**START, "headers": iter([(b"x-a", b"1")])}
        await send(message)
        message["status"] = 500
        await send(LAST)

    response = await request(app)
    assert (response.status, response.headers) == (200, [(b"x-a", b"1")])


async def test_the_app_is_called_in_the_callers_task() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert anyio.get_current_task().id == caller
        await scripted(START, LAST)(scope, receive, send)

    caller = anyio.get_current_task().id
    assert (await request(app)).raised is None


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


# HTTP: on_send


async def test_on_send_sees_each_message_after_its_event() -> None:
    events: Events = []

    async def on_send(message: dict[str, Any]) -> None:
        events.append(message["type"])

    await request(scripted(START, LAST), events=events, on_send=on_send)
    assert events == ["start", "http.response.start", "final", "http.response.body", "returned"]


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


async def test_what_on_send_raises_send_raises() -> None:
    async def on_send(message: dict[str, Any]) -> None:
        raise OSError(message["type"])

    response = await request(scripted(START, LAST), on_send=on_send)
    assert repr(response.raised) == repr(OSError("http.response.start"))
    assert (response.status, response.complete, response.messages) == (None, False, [])


# HTTP: the client leaves


async def test_after_a_complete_response_receive_gives_disconnect_at_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scripted(START, LAST)(scope, receive, send)
        assert [await receive() for _ in range(2)] == [{"type": "http.disconnect"}] * 2

    assert (await request(app, "POST", body=[b"never", b"read"])).raised is None


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_client_is_gone_after_n_messages(sent: int) -> None:
    events: Events = []
    script = [START, MORE, LAST]
    response = await request(scripted(*script), events=events, disconnect_after=sent)
    assert events == [*["start", "body"][:sent], "returned"]
    assert response.messages == script[:sent]
    assert (response.status, response.complete) == (200 if sent else None, False)


async def test_a_client_that_leaves_after_the_last_message_got_it_all() -> None:
    assert (await request(scripted(START, LAST), disconnect_after=2)).complete
    with pytest.raises(WireError):
        await request(scripted(START, LAST, LAST), disconnect_after=2)


async def test_a_client_that_is_gone_from_the_start_is_seen_by_receive() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.disconnect"}

    assert (await request(app, body=b"lost", disconnect_after=0)).raised is None


async def test_a_receive_that_waits_learns_that_the_client_has_left() -> None:
    events: Events = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            events.append((await receive())["type"])

        await receive()
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            await scripted(START, MORE)(scope, receive, send)

    await request(app, events=events, disconnect_after=2)
    assert events == ["start", "body", "http.disconnect", "returned"]


async def test_an_endless_stream_to_nobody_can_be_timed_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while True:
            await send(MORE)

    with pytest.raises(TimeoutError):
        await request(app, disconnect_after=1, timeout=0)


# HTTP: the rules


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


async def test_the_first_of_several_offences_is_raised() -> None:
    with pytest.raises(WireError, match="waiting"):
        await request(scripted(LAST, {"type": "?"}, swallow=True))


async def test_an_offence_out_of_a_group_is_raised_bare() -> None:
    async def late(send: Send) -> None:
        await send(LAST)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(late, send)

    with pytest.raises(WireError):
        await request(app)


# HTTP: how the app ends


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


async def test_a_response_is_complete_even_if_the_app_raises_after_it() -> None:
    response = await request(raising(ValueError("x"), START, LAST))
    assert response.complete
    assert isinstance(response.raised, ValueError)


async def test_an_app_that_takes_too_long_raises_in_the_test() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await request(app, timeout=0)


async def test_cancelling_the_caller_cancels_the_app_which_may_clean_up() -> None:
    events: Events = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            cancel.cancel()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                events.append("cleaned up")

    with anyio.CancelScope() as cancel:
        await request(app, events=events)
    assert cancel.cancelled_caught
    assert events == ["start", "cleaned up", "raised"]


async def test_a_cancellation_in_a_group_reaches_its_scope() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            try:
                cancel.cancel()
                await anyio.sleep_forever()
            except BaseException as exc:
                raise BaseExceptionGroup("mixed", [exc, ValueError("x")]) from None

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True), anyio.CancelScope() as cancel:
        await request(app)


# lifespan


async def test_lifespan_is_started_and_shut_down_in_order() -> None:
    events: Events = []
    async with lifespan(scripted(RECEIVE, UP, RECEIVE, DOWN), events=events):
        events.append("body")
    assert events == ["startup.complete", "body", "shutdown", "shutdown.complete"]


async def test_lifespan_messages_are_those_of_the_specification() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        for answer in (UP, DOWN):
            got.append(await receive())
            await send(answer)

    async with lifespan(app):
        pass
    assert got == [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]


@pytest.mark.parametrize("state", [True, False])
async def test_lifespan_yields_the_state_of_its_scope(*, state: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if state:
            scope["state"]["a"] = 1
        assert ("state" in scope) is state
        await scripted(RECEIVE, UP, RECEIVE, DOWN)(scope, receive, send)

    async with lifespan(app, state=state) as got:
        assert got == ({"a": 1} if state else None)


async def test_lifespan_runs_in_a_task_of_its_own() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert anyio.get_current_task().id != caller
        await scripted(RECEIVE, UP, RECEIVE, DOWN)(scope, receive, send)

    caller = anyio.get_current_task().id
    async with lifespan(app):
        pass


@pytest.mark.parametrize("asked", [[], [UP, RECEIVE]], ids=["startup", "shutdown"])
@pytest.mark.parametrize("error", [None, ValueError("x")], ids=["returns", "raises"])
async def test_failed_is_raised_with_its_message(asked: list[Message], error: ValueError | None) -> None:
    events: Events = []
    failed = f"{'shutdown' if asked else 'startup'}.failed"
    script = (RECEIVE, *asked, {"type": f"lifespan.{failed}", "message": "why"})
    with pytest.raises(RuntimeError, match=r"^why$") as caught:
        async with lifespan(raising(error, *script) if error else scripted(*script), events=events):
            events.append("body")
    assert caught.value.__cause__ is error
    assert events == (["startup.complete", "body", "shutdown", failed] if asked else [failed])


async def test_a_lifespan_that_breaks_off_may_say_so_unasked() -> None:
    broken = {"type": "lifespan.shutdown.failed", "message": "why"}
    with pytest.raises(RuntimeError, match=r"^why$"):
        async with lifespan(raising(ValueError("x"), RECEIVE, UP, broken)):
            pass


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


async def test_a_body_that_raises_comes_before_a_shutdown_that_does() -> None:
    with pytest.raises(ValueError, match="body") as caught:
        async with lifespan(raising(KeyError("app"), RECEIVE, UP, RECEIVE, DOWN)):
            raise ValueError("body")
    assert caught.value.__notes__ == ["after that, on the wire: KeyError('app')"]


async def test_a_body_that_is_cancelled_cancels_the_lifespan() -> None:
    events: Events = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await scripted(RECEIVE, UP, RECEIVE, DOWN)(scope, receive, send)
        finally:
            events.append("cleaned up")

    with anyio.CancelScope() as cancel:
        async with lifespan(app, events=events):
            cancel.cancel()
            await anyio.sleep_forever()
    assert cancel.cancelled_caught
    assert events == ["startup.complete", "cleaned up"]


@native_cancel_only
async def test_a_lifespan_task_that_is_cancelled_natively_is_an_offence() -> None:
    events: Events = []
    with pytest.raises(WireError, match="cancelled when running"):
        async with lifespan(raising(asyncio.CancelledError(), RECEIVE, UP), events=events):
            await anyio.wait_all_tasks_blocked()
            events.append("the body goes on")
    assert events == ["startup.complete", "the body goes on"]


@pytest.mark.parametrize("script", [[RECEIVE, RECEIVE, UP], [RECEIVE, UP, RECEIVE, RECEIVE, DOWN]])
async def test_a_lifespan_is_asked_once_and_timed_out_if_it_waits_for_more(script: list[Message]) -> None:
    with pytest.raises(TimeoutError):
        # Long enough for the startup, where that is to succeed.
        async with lifespan(scripted(*script), timeout=0.5):
            assert UP in script[:2]


# websocket


@asynccontextmanager
async def accepted(app: ASGIApp, **options: Any) -> AsyncIterator[Session]:
    """Open a websocket and wait until it is accepted."""
    async with websocket(app, **options) as session:
        await session.accept()
        yield session


def serving(serve: Callable[[Receive, Send], Awaitable[None]]) -> ASGIApp:
    """Return a websocket app that accepts, and then does `serve`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send(ACCEPT)
        await serve(receive, send)

    return app


async def echo(receive: Receive, send: Send) -> None:
    """Send back what comes, until the client has left."""
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def listen(receive: Receive, send: Send) -> None:
    """Receive until the client has left, and raise what came last."""
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    raise LookupError(message["code"])


async def test_websocket_carries_text_and_bytes_both_ways() -> None:
    events: Events = []
    async with accepted(serving(echo), events=events) as session:
        for data in ("text", b"bytes", "", b""):
            await session.send(data)
            assert await session.receive() == data
    assert session.raised is None
    assert events == ["accept", *["ws.send"] * 4, "returned"]


async def test_websocket_scope_is_uvicorns() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        scope["state"]["b"] = 2
        await send({**ACCEPT, "subprotocol": "two", "headers": [(b"x-b", b"2")]})

    state = {"a": 1}
    options = {"state": state, "headers": [(b"X-A", b"1")], "subprotocols": ["one", "two"]}
    async with accepted(app, path="/ws", **options) as session:
        assert session.accepted == {**ACCEPT, "subprotocol": "two", "headers": [(b"x-b", b"2")]}
    [scope] = seen
    assert (scope["type"], scope["path"], scope["asgi"]["spec_version"]) == ("websocket", "/ws", "2.4")
    assert (scope["headers"], scope["subprotocols"]) == ([(b"host", b"wire"), (b"x-a", b"1")], ["one", "two"])
    assert (scope["state"], state) == ({"a": 1, "b": 2}, {"a": 1})
    assert scope["extensions"] == {"websocket.http.response": {}}


async def test_a_close_instead_of_accept_is_denied() -> None:
    events: Events = []
    with pytest.raises(Denied) as caught:
        async with accepted(scripted(CLOSE), events=events):
            pass
    assert (caught.value.status, caught.value.code) == (403, 4000)
    assert events == ["ws.close", "returned"]


async def test_a_denial_response_is_denied() -> None:
    events: Events = []
    with pytest.raises(Denied) as caught:
        async with accepted(scripted(DENY, {**DENIAL, "more_body": True}, DENIAL), events=events):
            pass
    assert (caught.value.status, caught.value.code, caught.value.body) == (401, None, b"nono")
    assert events == ["start", "body", "final", "returned"]


async def test_an_app_that_raises_instead_of_accept_is_denied() -> None:
    events: Events = []
    error = ValueError("x")
    async with websocket(raising(error, RECEIVE), events=events) as session:
        with pytest.raises(Denied) as caught:
            await session.accept()
        assert (caught.value.status, caught.value.code, caught.value.__cause__) == (500, None, error)
    assert session.raised is error
    assert events == ["raised"]


async def test_a_denial_wakes_all_who_wait_for_accept() -> None:
    async with websocket(scripted(CLOSE)) as session:
        for use in (session.accept, session.receive, lambda: session.send("x")):
            with pytest.raises(Denied):
                await use()


async def test_after_a_denial_the_app_gets_disconnect() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(CLOSE)
        assert (await receive())["code"] == 1006

    async with websocket(app) as session:
        await session.wait()
    assert session.raised is None


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


async def test_a_close_without_code_is_1000() -> None:
    async with accepted(scripted(ACCEPT, {"type": "websocket.close"})) as session:
        with pytest.raises(Closed) as caught:
            await session.receive()
    assert caught.value.code == 1000


@pytest.mark.parametrize("error", [None, ValueError("x")], ids=["returns", "raises"])
async def test_an_app_that_ends_without_close_closes_with_1006(error: ValueError | None) -> None:
    async with accepted(raising(error, ACCEPT) if error else scripted(ACCEPT)) as session:
        with pytest.raises(Closed) as caught:
            await session.receive()
    assert (caught.value.code, caught.value.__cause__, session.raised) == (1006, error, error)


async def test_after_its_own_close_the_app_gets_disconnect() -> None:
    async def serve(receive: Receive, send: Send) -> None:
        await send(CLOSE)
        await listen(receive, send)

    async with accepted(serving(serve)) as session:
        await session.wait()
    assert repr(session.raised) == repr(LookupError(4000))


async def test_after_its_own_close_the_app_gets_no_frame() -> None:
    async def serve(receive: Receive, send: Send) -> None:
        await receive()
        await send(CLOSE)
        assert (await receive())["type"] == "websocket.disconnect"

    async with accepted(serving(serve)) as session:
        await session.send("one")
        await session.send("two")
        await session.wait()
    assert session.raised is None


async def test_the_app_gets_every_frame_and_then_the_clients_close() -> None:
    got: list[Message] = []

    async def serve(receive: Receive, send: Send) -> None:
        got.extend([await receive() for _ in range(3)])

    async with accepted(serving(serve)) as session:
        await session.send("one")
        await session.send(b"two")
        await session.close(3000)
        with pytest.raises(Closed) as caught:
            await session.receive()
    assert caught.value.code == 3000
    assert got == [
        {"type": "websocket.receive", "text": "one"},
        {"type": "websocket.receive", "bytes": b"two"},
        {"type": "websocket.disconnect", "code": 3000, "reason": ""},
    ]


async def test_leaving_closes_with_1000_and_waits() -> None:
    async with accepted(serving(listen)) as session:
        pass
    assert repr(session.raised) == repr(LookupError(1000))


async def test_leaving_before_accept_breaks_the_handshake_off() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await listen(receive, send)

    async with websocket(app) as session:
        pass
    assert repr(session.raised) == repr(LookupError(1006))


async def test_an_app_need_not_answer_a_client_who_left() -> None:
    async with websocket(scripted(RECEIVE, RECEIVE)) as session:
        pass
    assert session.raised is None


async def test_sending_to_a_client_who_left_is_an_oserror() -> None:
    async def serve(receive: Receive, send: Send) -> None:
        await receive()
        await send(TEXT)

    async with accepted(serving(serve)) as session:
        pass
    assert isinstance(session.raised, OSError)


async def test_wait_returns_when_the_call_of_the_app_has_ended() -> None:
    events: Events = []

    async def serve(receive: Receive, send: Send) -> None:
        await send(CLOSE)
        await anyio.wait_all_tasks_blocked()
        events.append("cleaned up")

    async with accepted(serving(serve), events=events) as session:
        await session.wait()
        assert events == ["accept", "ws.close", "cleaned up", "returned"]


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
    "subprotocol not offered": ([{**ACCEPT, "subprotocol": "three"}], "has not offered"),
    "str denial body": ([DENY, {**DENIAL, "body": "no"}], "body has to be"),
    "no answer": ([], "returned when connecting"),
    "half a denial": ([DENY], "returned when denying"),
}


@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("offence", WEBSOCKET_OFFENCES)
async def test_websocket_offence_is_raised_in_the_test(offence: str, *, swallow: bool) -> None:
    script, rule = WEBSOCKET_OFFENCES[offence]
    with pytest.raises(WireError, match=rule):
        async with websocket(scripted(*script, swallow=swallow), subprotocols=["one"]):
            await anyio.wait_all_tasks_blocked()


async def test_an_offence_ends_the_wait_for_accept() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scripted(TEXT, swallow=True)(scope, receive, send)
        await anyio.sleep_forever()

    with pytest.raises(WireError):
        async with accepted(app):
            pytest.fail("was not accepted")


async def test_a_body_that_raises_closes_and_raises_bare() -> None:
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as caught:
        async with accepted(serving(listen)) as session:
            raise error
    assert caught.value is error
    assert repr(session.raised) == repr(LookupError(1000))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_what_a_websocket_app_raises_is_kept(error: BaseException) -> None:
    events: Events = []
    async with accepted(raising(error, RECEIVE, ACCEPT, RECEIVE), events=events) as session:
        pass
    assert session.raised is error
    assert events == ["accept", "raised"]


async def test_a_session_that_is_cancelled_cancels_the_app() -> None:
    events: Events = []
    with anyio.CancelScope() as cancel:
        async with accepted(serving(listen), events=events):
            cancel.cancel()
            await anyio.sleep_forever()
    assert cancel.cancelled_caught
    assert events == ["accept", "raised"]


@pytest.mark.parametrize("use", ["accept", "receive", "wait"])
async def test_a_websocket_app_that_hangs_is_timed_out(use: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        async with websocket(app, timeout=0) as session:
            await getattr(session, use)()


async def test_leaving_a_websocket_app_that_hangs_is_timed_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        async with websocket(app, timeout=0):
            pass


# FastAPI on it


async def test_fastapi_runs_on_it(tmp_path: Path) -> None:
    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[dict[str, int]]:
        yield {"a": 1}

    app = FastAPI(lifespan=life)

    @app.get("/json")
    async def read() -> dict[str, int]:
        return {"b": 2}

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(tmp_path / "file")

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json({"state": socket.state.a, "got": await socket.receive_text()})

    await anyio.Path(tmp_path / "file").write_text("text")
    async with lifespan(app) as state:
        assert (await request(app, path="/json", state=state)).json() == {"b": 2}
        assert (await request(app, path="/file", state=state)).body == b"text"
        sent = await request(app, path="/file", extensions={"http.response.pathsend": {}})
        assert sent.messages[-1]["path"] == str(tmp_path / "file")
        async with accepted(app, path="/ws", state=state) as session:
            await session.send("hi")
            assert await session.receive() == '{"state":1,"got":"hi"}'


async def test_a_client_who_leaves_cancels_fastapis_stream() -> None:
    events: Events = []
    app = FastAPI()

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"a"
                await anyio.sleep_forever()
            finally:
                events.append("cancelled")

        return StreamingResponse(chunks())

    response = await request(app, events=events, disconnect_after=2)
    assert (response.raised, response.complete) == (None, False)
    assert events == ["start", "body", "cancelled", "returned"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_fastapis_failing_lifespan_is_caused_by_its_error(phase: str) -> None:
    error = ValueError(phase)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        if phase == "startup":
            raise error
        yield
        raise error

    with pytest.raises(RuntimeError, match=phase) as caught:
        async with lifespan(FastAPI(lifespan=life)):
            assert phase == "shutdown"
    assert caught.value.__cause__ is error
