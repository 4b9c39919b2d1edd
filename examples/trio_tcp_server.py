"""A TCP server on trio. Each line that a client sends is a scope, with tasks of its own.

    python examples/trio_tcp_server.py [port]       then: nc 127.0.0.1 9999

`save <text>` is acknowledged at once. A shielded task stores the text afterwards, and Ctrl-C waits for this task.
`quit` ends the connection. Any other line is echoed.
"""

import signal
import sys
from contextlib import suppress
from functools import partial

import trio

from taskphase import Scope, TaskHost

_LONGEST_LINE = 1000  # bytes; a client that sends more without a line end is cut off


async def greet(peer: str) -> None:
    print(f"immediate: {peer} is here", flush=True)


async def count(line: str) -> None:
    print(f"after_route: counted {line!r}", flush=True)


async def store(text: str) -> None:
    print(f"after_response: storing {text!r}", flush=True)
    await trio.sleep(0.5)
    print(f"after_response: stored {text!r}", flush=True)


def reply_to(line: str, tasks: Scope) -> str:
    tasks.after_route.schedule(count, line)
    if line.startswith("save "):
        tasks.after_response.task(shield=True).schedule(store, line.removeprefix("save "))
        return "accepted"
    return line


async def read_line(stream: trio.SocketStream, buffer: bytearray) -> str | None:
    """Return the next line; None after the last one."""
    while b"\n" not in buffer:
        received = await stream.receive_some()
        buffer += received
        if not received or len(buffer) > _LONGEST_LINE:
            return None
    line, _, rest = bytes(buffer).partition(b"\n")
    buffer[:] = rest
    return line.decode(errors="replace").strip()


async def converse(host: TaskHost, stream: trio.SocketStream) -> None:
    buffer = bytearray()
    # A client may leave at any moment, also before its first line. That ends neither the server nor the client's tasks.
    with suppress(trio.BrokenResourceError, OSError):
        host.schedule(greet, "{}:{}".format(*stream.socket.getpeername()))
        while (line := await read_line(stream, buffer)) is not None and line != "quit":
            async with host.scope() as tasks:
                async with tasks.route():
                    reply = reply_to(line, tasks)
                await stream.send_all(f"{reply}\n".encode())


async def serve(port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve on loopback until cancelled, and report the port."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with TaskHost(shield_timeout=10) as host:
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(partial(converse, host), listeners)


async def main(port: int) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            print(f"listening on port {await nursery.start(serve, port)}", flush=True)
            await anext(aiter(signals))
            print("shutting down", flush=True)
            nursery.cancel_scope.cancel()
    print("closed: nothing of it is alive", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 9999)
