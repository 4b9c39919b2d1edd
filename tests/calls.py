"""Functions for worker processes. Each worker imports this module, so it imports little."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from anyio.lowlevel import checkpoint

REQUEST: ContextVar[str] = ContextVar("request", default="none")


def double(number: int, *, plus: int = 0) -> int:
    return 2 * number + plus


def length(values: list[int]) -> int:
    return len(values)


def pid() -> int:
    return os.getpid()


def wait(started: Path, until: Path | None = None) -> int:
    """Write the process id into the file `started`. Return it when the file `until` exists, or never."""
    note(started)
    while until is None or not until.exists():
        time.sleep(0.001)
    return os.getpid()


def note(file: Path) -> None:
    """Write the process id into `file`, in one step."""
    part = file.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(file)


def hold(started: Path, until: Path) -> tuple[float, float]:
    """Write the file `started`, and wait for the file `until`. Return when this call began and ended, by a clock that
    all processes share.
    """
    began = time.monotonic()
    wait(started, until)
    return began, time.monotonic()


def context() -> list[str]:
    from taskphase import NoCurrentError, current_host, current_task

    found: list[str] = []
    for current in (current_task, current_host):
        try:
            found.append(repr(current()))
        except NoCurrentError:
            found.append("none")
    return [REQUEST.get(), *found]


def fail(message: str) -> NoReturn:
    raise ValueError(message)


def fail_until(file: Path, attempts: int) -> int:
    """Kill this process, or return the number of attempts if there have been enough. The file counts them."""
    with file.open("a") as lines:
        lines.write("x")
    if file.stat().st_size < attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return file.stat().st_size


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def crash() -> None:
    ctypes.string_at(0)


def leave_by_exception(kind: str) -> None:
    raise {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
        "CancelledError": asyncio.CancelledError(),
        "BaseExceptionGroup": BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError()]),
    }[kind]


class Heavy:
    """Cannot be pickled."""

    def __init__(self, secret: str = "hunter2") -> None:
        self.secret = secret
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Heavy({self.secret!r})"

    def method(self) -> None: ...


class Telling:
    """Refuses to be pickled, and tells its secret."""

    def __reduce__(self) -> NoReturn:
        raise ValueError("hunter2")


class Mute:
    """Refuses to be pickled, by an exception that has no text."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(self)

    def __str__(self) -> NoReturn:
        raise LookupError


class Bare:
    """Refuses to be pickled, by an exception without arguments."""

    def __reduce__(self) -> NoReturn:
        raise ValueError


class OnlyHere:
    """Can be pickled, but not loaded."""

    def __reduce__(self) -> Any:
        return give_up, ("hunter2",)


def give_up(secret: str) -> NoReturn:
    raise ValueError(secret)


class Portable:
    def __init__(self, number: int) -> None:
        self.number = number

    def method(self, plus: int) -> int:
        return self.number + plus

    def __call__(self, plus: int) -> int:
        return self.number + plus


class NeedsTwo(Exception):
    """Is pickled, but not loaded: pickle passes one argument."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


class HoldsLock(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())


class Interrupts(Exception):
    """Is loaded as an exception that would end the program."""

    def __reduce__(self) -> Any:
        return KeyboardInterrupt, ()


def make(what: str) -> object:
    async def coroutine() -> None: ...

    makers: dict[str, Callable[[], object]] = {
        "lock": threading.Lock,
        "coroutine": coroutine,
        "local class": lambda: type("Local", (), {})(),
        "only there": OnlyHere,
        "mute": Mute,
    }
    return makers[what]()


def raise_it(what: str) -> NoReturn:
    raise {"needs two": NeedsTwo(1, 2), "holds a lock": HoldsLock(), "interrupts": Interrupts()}[what]


class Waits:
    """An awaitable that can be pickled."""

    def __await__(self) -> Any:
        return checkpoint().__await__()


def awaitable() -> Waits:
    return Waits()


def write_everywhere() -> str:
    """Write to the standard streams, in each way, and more than a pipe holds; and let a program read and write them."""
    text = "noise\n" * 20_000
    for file in (sys.stdout, sys.stderr):
        file.write(text)
        file.flush()
    for stream in (1, 2):
        os.write(stream, text.encode())
    subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read(1) or 'end', flush=True)"], check=True)
    return "quiet"


def close_streams() -> None:
    os.closerange(0, 64)


def leave_child(file: Path) -> None:
    """End this process as the system does when the memory is full. A forked child lives until there is a `file`."""
    if os.fork() == 0:
        while not file.exists():
            time.sleep(0.001)
        os._exit(0)
    kill()


def leave_thread(file: Path) -> None:
    """Leave a thread behind that writes to the standard output until there is a `file`."""

    def write() -> None:
        while not file.exists():
            os.write(1, b"progress\n")
            written.set()

    written = threading.Event()
    threading.Thread(target=write, daemon=True).start()
    written.wait()


def sigint() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return str(signal.getsignal(signal.SIGINT))


def stop_iterating() -> None:
    next(iter(()))


def big(size: int) -> bytes:
    return bytes(size)


def ignore(*_args: object, **_kwargs: object) -> None: ...
