"""A strict in-process ASGI server, for tests of the messages on the wire.

`lifespan`, `request` and `websocket` serve one scope each, on asyncio, uvloop and trio, and behave like the measured
servers (like uvicorn, where servers differ). They are stricter than any server: a broken rule of the protocol raises
`WireError` in the app *and* in the test, so that an app cannot hide the error.

Messages are logged, in order, to a list to which the test's own tasks may write, too. `send` and `receive` let other
tasks run only if they have to wait, like uvicorn's. So everything in the log before an event has happened without the
help of this server.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Events = list[str]
Headers = Iterable[tuple[bytes, bytes]]
OnSend = Callable[[dict[str, Any]], Awaitable[None]]

_TIMEOUT = 10.0  # seconds; far more than an honest wait takes on a loaded machine

_EVENTS = {  # type of a message -> its name in the log; the last "body" becomes "final", and so does "file"
    "lifespan.startup.complete": "startup.complete",
    "lifespan.startup.failed": "startup.failed",
    "lifespan.shutdown.complete": "shutdown.complete",
    "lifespan.shutdown.failed": "shutdown.failed",
    "http.response.start": "start",
    "http.response.body": "body",
    "http.response.pathsend": "file",
    "websocket.accept": "accept",
    "websocket.send": "ws.send",
    "websocket.close": "ws.close",
    "websocket.http.response.start": "start",
    "websocket.http.response.body": "body",
}
_ORDER = {  # stage -> event -> next stage; other events are forbidden
    "starting": {"startup.complete": "running", "startup.failed": "failed"},
    # Unasked as well: so Starlette answers when its lifespan is broken off, and uvicorn takes it.
    "running": {"shutdown.failed": "failed"},
    "stopping": {"shutdown.complete": "stopped", "shutdown.failed": "failed"},
    "waiting": {"start": "started"},
    "started": {"body": "streaming", "final": "complete", "file": "complete"},
    "streaming": {"body": "streaming", "final": "complete"},
    "connecting": {"accept": "open", "ws.close": "closed", "start": "denying"},
    "denying": {"body": "denying", "final": "closed"},
    "open": {"ws.send": "open", "ws.close": "closed"},
}
_DONE = {"stopped", "failed", "complete", "open", "closed"}  # the stages in which the app may return
_FIELDS: dict[str, Any] = {  # field of any message -> its required type
    "status": int,
    "body": bytes,
    "more_body": bool,
    "path": str,
    "text": str | None,
    "bytes": bytes | None,
    "code": int,
    "message": str,
}


class WireError(AssertionError):
    """The app broke a rule of the protocol; the message says which."""


@dataclass(eq=False)
class Denied(Exception):
    """The websocket was refused, with an HTTP answer: 403 for a close (its `code`), 500 if the app raised."""

    status: int
    code: int | None
    body: bytes


@dataclass(eq=False)
class Closed(Exception):
    """The websocket is closed, with `code`: 1006 if the app ended without closing it, as on uvicorn."""

    code: int


@dataclass(frozen=True, slots=True)
class Response:
    """The client's view of an answer (`status`, `headers`, `body`), the sent messages (`messages`), and the exception
    of the app (`raised`).

    `status` is None if no response began. `body` is empty for HEAD and for a pathsend; the file is not read.
    `complete`: the final message was sent before the client left.
    """

    status: int | None
    headers: list[tuple[bytes, bytes]]
    body: bytes
    messages: list[dict[str, Any]]
    raised: BaseException | None
    complete: bool

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


def _is_header(pair: object) -> bool:
    match pair:
        case (bytes(name), bytes()):
            return name == name.lower()
    return False


def _fault(message: Message, scope: Scope) -> str | None:
    """Return the rule that `message` breaks by itself, at any stage; None if it breaks none."""
    kind = message["type"]
    for name in message.keys() & _FIELDS.keys():
        if not isinstance(message[name], _FIELDS[name]):
            return f"{name} has to be {_FIELDS[name]}"
    if not all(map(_is_header, message.get("headers", ()))):
        return "headers have to be pairs of bytes, the name in lower case"
    needed = {"start": "status", "file": "path"}.get(_EVENTS[kind], "type")
    if needed not in message:
        return f"it has no {needed}"
    if kind == "websocket.send" and (message.get("text") is None) == (message.get("bytes") is None):
        return "it has either text or bytes"
    if kind == "http.response.pathsend" and kind not in scope.get("extensions", ()):
        return "the server has not offered it"
    return None


def _passes(exc: BaseException) -> bool:
    """Say whether `exc` may not be kept: a cancellation has to reach its scope, on trio from a group too."""
    kinds = (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit, GeneratorExit)
    return exc.subgroup(kinds) is not None if isinstance(exc, BaseExceptionGroup) else isinstance(exc, kinds)


class _Keep:
    """Keep the exception of a block in `raised`, unless it has to pass."""

    raised: BaseException | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, exc: BaseException | None, traceback: object) -> bool:
        self.raised = None if exc is None or _passes(exc) else exc
        return self.raised is not None


@dataclass(eq=False)
class _Connection:
    """One scope on the wire: the call of the app, its messages in order, and the first broken rule."""

    scope: Scope
    stage: str
    events: Events
    timeout: float
    messages: list[dict[str, Any]] = field(default_factory=list)
    offence: WireError | None = None
    raised: BaseException | None = None
    ended: bool = False  # the call of the app
    gone: bool = False  # the client, before the app was done
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def offend(self, rule: str) -> WireError:
        """Record that `rule` was broken; return the error to raise in the app."""
        error = WireError(rule)
        self.offence = self.offence or error
        self._changed.set()
        return error

    def admit(self, message: Message) -> dict[str, Any]:
        """Check `message`, log it and enter its stage; return a copy.

        :raises WireError: the message breaks a rule; it is not logged, and the stage is unchanged
        """
        kind = message.get("type", "no type")
        if kind not in _EVENTS or not kind.startswith(self.scope["type"]):
            raise self.offend(f"{kind}: unknown here")
        copy = {key: list(value) if key == "headers" else value for key, value in message.items()}
        if rule := _fault(copy, self.scope):
            raise self.offend(f"{kind}: {rule}")
        last = _EVENTS[kind] == "body" and not message.get("more_body", False)
        event = "final" if last else _EVENTS[kind]
        if event not in _ORDER.get(self.stage, ()):
            raise self.offend(f"{kind}: not allowed when {self.stage}")
        self.stage = _ORDER[self.stage][event]
        self.events.append("final" if event == "file" else event)
        return copy

    def record(self, message: dict[str, Any]) -> None:
        """Count `message` as sent."""
        self.messages.append(message)
        self._changed.set()

    async def change(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`; not a checkpoint if it does already."""
        while not holds():
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait on the client's side until `holds()`; raise the app's offence, or TimeoutError, instead."""
        with anyio.fail_after(self.timeout):
            await self.change(lambda: self.offence is not None or holds())
        if self.offence is not None:
            raise self.offence

    async def call(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        """Call the app in the current task; keep its exception, except a cancellation."""
        end, kept = "raised", _Keep()
        try:
            with kept:
                await app(dict(self.scope), receive, send)  # a copy: apps write to it
                end = "returned"
        finally:
            self.ended, self.raised = True, kept.raised
            if end == "returned" and self.stage not in _DONE and not self.gone:
                self.offend(f"the app returned when {self.stage}")
            if self.scope["type"] != "lifespan":
                self.events.append(end)
            self._changed.set()


@asynccontextmanager
async def _beside(
    task: Callable[[], Awaitable[None]],
    finish: Callable[[], Awaitable[None]],
) -> AsyncIterator[None]:
    """Run `task` beside the body, then `finish()`; raise the exception of the body or of `finish` without a group."""
    body, end = _Keep(), _Keep()

    async def run() -> None:
        # A task that asyncio itself cancels would cancel the group, which would cut the body off in silence.
        with suppress(anyio.get_cancelled_exc_class()):
            await task()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with body:
            yield
        with end:
            await finish()
        failure = body.raised or end.raised
        if failure is not None:
            group.cancel_scope.cancel()
    if failure is not None:
        if end.raised not in (None, failure):
            failure.add_note(f"after that, on the wire: {end.raised!r}")
        raise failure


@dataclass(eq=False)
class _Lifespan(_Connection):
    started: bool = False  # the test has seen startup.complete
    asked: bool = False  # the shutdown has been sent

    async def receive(self) -> Message:
        if self.stage == "new":
            self.stage = "starting"
            return {"type": "lifespan.startup"}
        await self.change(lambda: self.asked and self.stage == "running")
        self.stage = "stopping"
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        self.record(self.admit(message))

    async def start(self) -> None:
        """Wait for startup.complete; raise an error if another event comes."""
        await self.until(lambda: self.ended or self.stage == "running")
        self.check("running")
        self.started = True

    async def finish(self) -> None:
        """Request the shutdown and wait for the app; raise its error. Does nothing if the app never started."""
        if not self.started:
            return
        if not self.ended:
            self.events.append("shutdown")
            self.asked = True
            self._changed.set()
        await self.until(lambda: self.ended)
        self.check("stopped")

    def check(self, stage: str) -> None:
        """Raise an error that says why the app has not reached `stage`."""
        if self.stage == "failed":
            raise RuntimeError(self.messages[-1].get("message", "")) from self.raised
        if self.raised is not None:
            raise self.raised
        if self.stage != stage:
            raise self.offend(f"the app was cancelled when {self.stage}")


@asynccontextmanager
async def lifespan(
    app: ASGIApp, *, state: bool = True, events: Events | None = None, timeout: float = _TIMEOUT
) -> AsyncIterator[dict[str, Any] | None]:
    """Run the app's lifespan in a task of its own around the body; yield the scope's state, if it has one.

    Logs "startup.complete", "shutdown" as it is sent, "shutdown.complete"; also either's "failed".
    A body that raises shuts the app down as well; a body that is cancelled cancels it.

    :param timeout: seconds, for the startup and for the shutdown each; the body may take any time
    :raises RuntimeError: the app answered with failed; its message, caused by what it then raised
    :raises WireError: the app broke a rule
    :raises BaseException: what the body or else the app raised, as itself and not in a group
    """
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
    if state:
        scope["state"] = {}
    server = _Lifespan(scope, "new", [] if events is None else events, timeout)
    async with _beside(lambda: server.call(app, server.receive, server.send), server.finish):
        await server.start()
        yield scope.get("state")


def _scope(kind: str, path: str, headers: Headers, state: Mapping[str, Any] | None) -> Scope:
    """Build the common part of uvicorn's scopes for HTTP and for websockets."""
    sent = [(name.lower(), value) for name, value in headers]
    host = [] if any(name == b"host" for name, _ in sent) else [(b"host", b"wire")]
    scope: Scope = {
        "type": kind,
        # Below 2.4 on HTTP, as on every server: so Starlette streams beside a task that awaits a disconnect.
        "asgi": {"version": "3.0", "spec_version": "2.3" if kind == "http" else "2.4"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "root_path": "",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": b"",
        "headers": host + sent,
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope


@dataclass(eq=False)
class _Exchange(_Connection):
    chunks: deque[bytes] = field(default_factory=deque)
    disconnect_after: int | None = None
    on_send: OnSend | None = None
    complete: bool = False  # not the stage: a final message that `on_send` holds back is not yet sent

    async def receive(self) -> Message:
        if self.chunks and not (self.complete or self.gone):
            return {"type": "http.request", "body": self.chunks.popleft(), "more_body": bool(self.chunks)}
        await self.change(lambda: self.complete or self.gone)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone:
            # A checkpoint; otherwise no timeout could end an endless stream to a client that has left.
            await anyio.lowlevel.checkpoint()
            return
        status = self.messages[0]["status"] if self.messages else None
        if status in (204, 304) and (message.get("body") or "path" in message):
            raise self.offend(f"a body with status {status}")
        copy = self.admit(message)
        if self.on_send is not None:
            await self.on_send(copy)
        self.record(copy)
        self.complete = self.stage == "complete"
        self.gone = not self.complete and len(self.messages) == self.disconnect_after

    def response(self) -> Response:
        """Return the events so far."""
        start = self.messages[0] if self.messages else {}
        headers = [(name, value) for name, value in start.get("headers", ())]
        body = b"".join(message.get("body", b"") for message in self.messages)
        body = b"" if self.scope["method"] == "HEAD" else body
        return Response(start.get("status"), headers, body, self.messages, self.raised, self.complete)


async def request(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Headers = (),
    query: bytes = b"",
    body: bytes | Iterable[bytes] = b"",
    state: Mapping[str, Any] | None = None,
    events: Events | None = None,
    extensions: Mapping[str, Any] | None = None,
    disconnect_after: int | None = None,
    on_send: OnSend | None = None,
    timeout: float = _TIMEOUT,
) -> Response:
    """Make one HTTP request, as uvicorn would; the app is called in the caller's task, and cancelled with it.

    Logs "start", "body" (more to come), "final" on entry of `send`; at the end "returned" or "raised".

    :param body: one message, or one for each chunk
    :param state: the lifespan's; the scope gets a copy
    :param extensions: what the server offers; only `http.response.pathsend` means anything here
    :param disconnect_after: messages until the client leaves; later ones are lost, not checked, not logged
    :param on_send: awaited inside `send`, before the message counts as sent; what it raises, `send` raises
    :param timeout: seconds for the whole request
    :raises WireError: the app broke a rule, or returned without a complete response to a client who waits
    :raises TimeoutError: the app took too long
    """
    scope = _scope("http", path, headers, state)
    scope.update(method=method, query_string=query)
    if extensions is not None:
        scope["extensions"] = dict(extensions)
    exchange = _Exchange(scope, "waiting", [] if events is None else events, timeout)
    exchange.chunks.extend([body] if isinstance(body, bytes) else list(body) or [b""])
    exchange.on_send, exchange.disconnect_after = on_send, disconnect_after
    exchange.gone = disconnect_after == 0
    with anyio.fail_after(timeout):
        await exchange.call(app, exchange.receive, exchange.send)
    if exchange.offence is not None:
        raise exchange.offence
    return exchange.response()


@dataclass(eq=False)
class Session(_Connection):
    """The client's end of a websocket; `raised`: the exception of the app, `accepted`: the accept message."""

    accepted: dict[str, Any] | None = None
    code: int = 1006  # of the close, after a proper close
    _to_app: deque[Message] = field(default_factory=lambda: deque([{"type": "websocket.connect"}]))
    _to_client: deque[str | bytes] = field(default_factory=deque)

    def over(self) -> bool:
        """Say whether either side has ended the session."""
        return self.gone or self.ended or self.stage == "closed"

    async def app_receive(self) -> Message:
        await self.change(lambda: bool(self._to_app) or self.over())
        if self._to_app and self.stage != "closed":
            return self._to_app.popleft()
        return {"type": "websocket.disconnect", "code": self.code, "reason": ""}

    async def app_send(self, message: Message) -> None:
        if self.gone:
            raise ConnectionResetError("the client has left")  # an OSError, as uvicorn's
        copy = self.admit(message)
        if copy["type"] == "websocket.accept":
            self.accepted = copy
        elif copy["type"] == "websocket.send":
            self._to_client.append(copy["bytes"] if copy.get("text") is None else copy["text"])
        elif copy["type"] == "websocket.close" and self.accepted:
            self.code = copy.get("code", 1000)
        self.record(copy)

    async def accept(self) -> None:
        """Wait for the app to accept; raise `Denied` if it refuses or ends."""
        await self.until(lambda: self.accepted is not None or self.over())
        if self.accepted is None:
            first = self.messages[0] if self.messages else {"status": 500}
            body = b"".join(message.get("body", b"") for message in self.messages)
            code = first.get("code", 1000) if "status" not in first else None
            raise Denied(first.get("status", 403), code, body) from self.raised

    async def send(self, data: str | bytes) -> None:
        """Send a frame, once accepted; raise `Closed` if the session is over."""
        await self.accept()
        if self.over():
            raise Closed(self.code) from self.raised
        self._to_app.append({"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data})
        self._changed.set()

    async def receive(self) -> str | bytes:
        """Wait for the next frame, once accepted; raise `Closed` if there is none and the session is over."""
        await self.accept()
        await self.until(lambda: bool(self._to_client) or self.over())
        if not self._to_client:
            raise Closed(self.code) from self.raised
        return self._to_client.popleft()

    async def close(self, code: int = 1000) -> None:
        """Close, unless the session is over; the app gets `code`, or 1006 if it has not accepted."""
        if not self.over():
            self.gone, self.code = True, code if self.accepted else 1006
            self._changed.set()

    async def wait(self) -> None:
        """Wait until the call of the app has ended."""
        await self.until(lambda: self.ended)

    async def finish(self) -> None:
        """Close, and wait for the app."""
        await self.close()
        await self.wait()


@asynccontextmanager
async def websocket(
    app: ASGIApp,
    path: str = "/",
    *,
    state: Mapping[str, Any] | None = None,
    events: Events | None = None,
    timeout: float = _TIMEOUT,
) -> AsyncIterator[Session]:
    """Open a websocket to the app, which runs in a new task. The exit closes with 1000, and waits for the app.

    Logs "accept", "ws.send", "ws.close", and for a denial "start", "body", "final"; "returned", "raised".

    :param timeout: seconds, for each single wait
    :raises WireError: the app broke a rule, or returned without an answer to the handshake
    :raises BaseException: the exception of the body; exceptions of the app are only kept in `raised`
    """
    scope = _scope("websocket", path, (), state)
    scope.update(subprotocols=[], extensions={"websocket.http.response": {}})
    session = Session(scope, "connecting", [] if events is None else events, timeout)
    async with _beside(lambda: session.call(app, session.app_receive, session.app_send), session.finish):
        yield session
