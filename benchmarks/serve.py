"""`python -m benchmarks.serve APP LIBRARY`: one uvicorn worker. It prints its port, and ends when its input ends."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI

from .apps import RECORDED, make_apps, make_recorded_app


def main(name: str, library: str) -> None:
    with TemporaryDirectory(prefix="benchmark-", dir=Path.cwd()) as place:
        serve(make_recorded_app(name, Path(place)) if name in RECORDED.values() else make_apps(library)[name][0])


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
