"""Where a task waits: the way from its coroutine down to the innermost frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from gc import get_referents
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, ModuleType

# Where an object of these types has its frame, and the object that it awaits. (Types are compared by `id()`, because
# the metaclass of a user may have a `__hash__()` or an `__eq__()` of its own.)
_NAMES = {
    id(CoroutineType): ("cr_frame", "cr_await"),
    id(GeneratorType): ("gi_frame", "gi_yieldfrom"),
    id(AsyncGeneratorType): ("ag_frame", "ag_await"),
}

# Nothing awaits an object of these types. From them the walk would reach every module, and any amount of data.
_LEADS_AWAY = {id(kind) for kind in (ModuleType, FunctionType, CodeType, FrameType, list, tuple, set, frozenset)}

# How many objects without such names the walk looks into. CPython puts at most two of them in a row. But an iterator
# written in Python may have attributes that lead anywhere, and the event loop waits until the walk is over.
_MOST_LOOKS = 1000


def awaited_frames(coro: object) -> Iterator[FrameType]:
    """Yield the frames on the way from `coro`, which is suspended, to the object that it waits for in the end.

    Each step leads from an object to the object that it awaits:

    1. A coroutine, a generator and an async generator have attributes for their frame and for that object: `_NAMES`.
    2. The objects that CPython puts between these have none: those of `asend()`, `athrow()` and `aclose()`, of
       `anext()` with a default, and the iterator that a coroutine's `__await__()` returns. The same goes for iterators
       written in Python or Cython. But each refers to the object that it awaits, and tells the garbage collector so.
       The walk follows every reference of theirs.

    So, because of step 2, the walk may yield frames that `coro` does not wait for: the caller has to know the right one
    by its content. And it misses a frame behind an object that hides from the garbage collector, as some extensions in
    C do, or behind more than `_MOST_LOOKS` objects of step 2.

    The walk ends, because it visits no object twice. It raises nothing, because it calls no code of the user: hence
    `type()` and not `isinstance()`, which would ask an object for its `__class__`.
    """
    found: deque[object] = deque([coro])
    seen: set[int] = set()
    looks = 0
    while found:
        waits = found.popleft()
        if id(waits) in seen:
            continue
        seen.add(id(waits))
        kind = id(type(waits))
        names = _NAMES.get(kind)
        if names is not None:
            frame, awaited = (getattr(waits, name) for name in names)
            if frame is not None:
                yield frame
            found.append(awaited)
        elif looks < _MOST_LOOKS and kind not in _LEADS_AWAY and not issubclass(type(waits), type):
            looks += 1
            found.extend(get_referents(waits))
