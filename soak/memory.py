"""The app's process at rest, measured by itself: which allocator's memory grows, if any?"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FunctionType, GeneratorType
from typing import Any

import fastapi_tasks
import taskphase
from taskphase._machine.parcel import Parcel

PACKAGES = tuple(f"{Path(package.__file__).parent}/" for package in (taskphase, fastapi_tasks))
NAMES = ("taskphase", "fastapi_tasks")
CODE: dict[type, str] = {
    FunctionType: "__code__",
    GeneratorType: "gi_code",
    CoroutineType: "cr_code",
    AsyncGeneratorType: "ag_code",
}

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h. `uordblks`: bytes in use in the main arena; `hblkhd`: bytes in maps."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def held(*, trim: bool) -> dict[str, Any]:
    """Return counts after a garbage collection.

    `rss`: MiB of the process; with `trim`, malloc first gives free memory back (`malloc_trim`).
    `blocks`: blocks in use of Python's allocator. `malloc`: MiB in use from glibc. `objects`: objects that the garbage
    collector tracks. `library`: those among them that are instances of our classes, or functions, generators or
    coroutines of our code. Without glibc `malloc` is 0, and `trim` has no effect.
    """
    gc.collect()
    everything = gc.get_objects()
    found = {
        "blocks": sys.getallocatedblocks(),
        "malloc": _malloc_in_use(),
        "objects": len(everything),
        "library": dict(Counter(_library(everything))),
    }
    del everything
    if trim and LIBC is not None:
        LIBC.malloc_trim(0)
    return {**found, "rss": rss(os.getpid())}


def rss(pid: int) -> float:
    """Return the MiB of a process that are in memory."""
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _library(objects: list[object]) -> Iterator[str]:
    for thing in objects:
        kind = type(thing)
        if str(kind.__module__).partition(".")[0] in NAMES:  # some classes have a descriptor as `__module__`
            if kind is not Parcel or not thing.is_shared:  # one for each function stays
                yield kind.__qualname__
        elif kind in CODE:
            code: CodeType = getattr(thing, CODE[kind])
            if code.co_filename.startswith(PACKAGES):
                yield code.co_qualname


def _malloc_in_use() -> float:
    if LIBC is None:
        return 0.0
    figures = LIBC.mallinfo2()
    return float(figures.uordblks + figures.hblkhd) / 2**20


def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    try:
        libc.mallinfo2.restype = _Mallinfo2
    except AttributeError:
        return None
    return libc


LIBC = _libc()
"""glibc 2.33 or later, or None."""
