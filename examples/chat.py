"""A chat with rooms, and a complete record of each message and each session, also if a client vanishes.

    uvicorn chat:app --app-dir examples       serves the app; the record is in audit.jsonl
    python examples/chat.py                   two people talk, one vanishes, and the server stops in the middle

Tasks write the record, so no member waits for the disk. The tasks are shielded: when the server stops, they end before
the file is closed.
"""

import json
import logging
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import anyio
import uvicorn
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fastapi_tasks import Tasks, add_tasks, retry

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
log = logging.getLogger("chat")

BACKLOG = 100  # lines that a member may be behind; a slower member misses lines, and delays no other member


@dataclass
class Session:
    """What one user has done so far in a session."""

    user: str
    room: str
    messages: int = 0


class Audit:
    """The record: a file with a line of JSON for each event."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self.close = self._file.close

    def write(self, about: Session, said: str | None = None) -> None:
        """Write one message of a session, or without `said` the whole session. Raises if the file is closed."""
        time.sleep(0.1)  # a slow disk
        event = asdict(about) if said is None else {"user": about.user, "room": about.room, "said": said}
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()


rooms: defaultdict[str, set[MemoryObjectSendStream[str]]] = defaultdict(set)  # of this process


@contextmanager
def joined(room: str) -> Generator[MemoryObjectReceiveStream[str]]:
    """Join a room, and receive its lines."""
    said, lines = anyio.create_memory_object_stream[str](BACKLOG)
    rooms[room].add(said)
    try:
        with said, lines:
            yield lines
    finally:
        rooms[room].discard(said)
        if not rooms[room]:
            del rooms[room]


def tell(room: str, line: str) -> None:
    for member in rooms[room]:
        with suppress(anyio.WouldBlock):
            member.send_nowait(line)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Audit]]:
    audit = Audit(app.state.audit_file)
    yield {"audit": audit}
    audit.close()  # all tasks have ended


def get_audit(websocket: WebSocket) -> Audit:
    audit: Audit = websocket.state.audit
    return audit


app = FastAPI(title="Chat", lifespan=lifespan)
app.state.audit_file = Path("audit.jsonl")
add_tasks(app, max_threads=1, shield_timeout=20)  # one thread writes, so no two lines mix


async def deliver(lines: MemoryObjectReceiveStream[str], websocket: WebSocket) -> None:
    with suppress(WebSocketDisconnect):  # `chat()` ends then, too
        async for line in lines:
            await websocket.send_text(line)


@app.websocket("/rooms/{room}/{user}")
async def chat(
    websocket: WebSocket, room: str, user: str, tasks: Tasks, audit: Annotated[Audit, Depends(get_audit)]
) -> None:
    session = Session(user, room)
    # First, before code that may raise. The task runs after every outcome, when the session is complete.
    kept = tasks.task(when="always", shield=True, retry=retry(on=OSError))
    kept.after_response.schedule(audit.write, session)

    await websocket.accept()
    with joined(room) as lines:
        async with anyio.create_task_group() as tg:
            tg.start_soon(deliver, lines, websocket)
            async for text in websocket.iter_text():  # until the client leaves or vanishes
                kept.schedule(audit.write, session, said=text)  # first: no member hears a line that is not recorded
                session.messages += 1
                tell(room, f"{user}: {text}")
            tg.cancel_scope.cancel()


def talk(url: str, stop: Callable[[], None]) -> None:
    with connect(f"{url}/ada", proxy=None) as ada, connect(f"{url}/bob", proxy=None) as bob:
        for text in ("hello", "is anybody there?"):
            ada.send(text)
            log.info("bob reads: %s", bob.recv())
            time.sleep(0.2)
        bob.socket.shutdown(socket.SHUT_RDWR)  # without a close frame
        log.info("bob has vanished")
        for number in range(5):
            ada.send(f"good night {number}")
        stop()
        for line in ada:  # until the server ends the session
            log.info("ada reads: %s", line)


def main() -> None:
    """Serve two people, whose client is a thread, and stop while one of them is still there."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    def stop() -> None:
        server.should_exit = True

    def visit() -> None:
        with suppress(OSError, ConnectionClosed):  # after Ctrl-C
            talk("ws://{}:{}/rooms/lobby".format(*listener.getsockname()), stop)
        stop()

    threading.Thread(target=visit).start()
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        server.run([listener])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        app.state.audit_file = Path(folder, "audit.jsonl")
        main()
        log.info("the record:\n%s", app.state.audit_file.read_text().rstrip())
