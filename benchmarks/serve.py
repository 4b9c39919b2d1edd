"""`python -m benchmarks.serve APP LIBRARY`: one uvicorn worker. It prints its port, and ends when its input ends."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI

from . import keepers


def main(name: str, library: str) -> None:
    with TemporaryDirectory(prefix="benchmark-", dir=Path.cwd()) as place:
        serve(make_app(name, library, Path(place)))


def make_app(name: str, library: str, place: Path) -> FastAPI:
    if library in keepers.APPS:
        return keepers.APPS[library](place)
    from .realistic import served  # not every environment has `fastapi_tasks`

    return served(name, library, place)


def serve(app: FastAPI) -> None:
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    threading.Thread(target=end_with_stdin, args=[server], daemon=True).start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])


def end_with_stdin(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main(*sys.argv[1:])
