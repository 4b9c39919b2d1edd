"""Find where a task waits: follow its coroutine down to the innermost frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from gc import get_referents
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any

# The names of two attributes for each type: the frame, and the awaited object. The keys are `id()`s, because a
# metaclass of the user may override `__hash__()` or `__eq__()`.
_NAMES = {
    id(CoroutineType): ("cr_frame", "cr_await"),
    id(GeneratorType): ("gi_frame", "gi_yieldfrom"),
    id(AsyncGeneratorType): ("ag_frame", "ag_await"),
}

# Objects of these types await nothing. Through them the walk would reach every module and any amount of data.
_LEADS_AWAY = {id(kind) for kind in (ModuleType, FunctionType, CodeType, FrameType, list, tuple, set, frozenset)}

# The most objects without such attributes that the walk looks into. CPython puts at most two in a row. But the
# attributes of an iterator written in Python may lead anywhere, and the event loop waits for the walk.
_MOST_LOOKS = 1000


def awaited_frames(coro: object) -> Iterator[FrameType]:
    """Yield the frames between `coro`, which is suspended, and the object for which it waits in the end.

    Each step leads from an object to the object that it awaits:

    1. Coroutines, generators and async generators have attributes for their frame and for the awaited object: `_NAMES`.
    2. Other objects have no such attributes: the objects of `asend()`, `athrow()` and `aclose()`, of `anext()` with a
       default, the iterator from a coroutine's `__await__()`, and iterators written in Python or Cython. But each of
       them refers to the awaited object and reports the reference to the garbage collector. So the walk follows all
       their references.

    Because of step 2 the walk may also yield frames for which `coro` does not wait: the caller has to recognise the
    right frame by its content. The walk misses a frame behind an object that reports no references, as in some C
    extensions, or behind more than `_MOST_LOOKS` objects of step 2.

    The walk ends, because it visits no object twice. It never raises, because it calls no user code: `isinstance()`
    would ask an object for its `__class__`, so the walk uses `type()`.
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


# Between two coroutines or generators CPython puts objects of these types, at most two in a row. Each refers to the
# next one.
_BETWEEN = {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"}

_name_of_type = type.__dict__["__name__"].__get__  # the metaclass of a user may have a `__name__` of its own

_PACKAGE = __name__.partition(".")[0] + "."
_ELSEWHERE = frozenset({f"{__package__}.threads", f"{__package__}.processes"})


def code_frames(native: Any) -> tuple[FrameType, ...] | None:
    """Return the frames of the user's code, the outermost first, that a native task of this package is suspended in.

    The frames of this package, and those around them, are left out: they begin with anyio's in a task group.

    :return: None if that code runs in a thread or in a process
    """
    coro = getattr(native, "coro", None)  # trio's name
    frames: list[FrameType] = []
    has_begun = is_inside = False
    for frame in own_frames(native.get_coro() if coro is None else coro):
        module = str(frame.f_globals.get("__name__", ""))
        is_ours = not is_inside and module.startswith(_PACKAGE)
        if is_ours and module in _ELSEWHERE:
            return None
        has_begun = has_begun or is_ours
        is_inside = has_begun and not is_ours
        if is_inside:
            frames.append(frame)
    return tuple(frames)


def own_frames(coro: Any) -> Iterator[FrameType]:
    """Yield the frames that `coro` is suspended in, the outermost first. The walk ends at an iterator of other code."""
    waits = coro
    while waits is not None:
        names = attributes_of(waits)
        if names is None:
            waits = _behind(waits)
            continue
        at = waits
        frame, waits = (getattr(at, name) for name in names)
        if frame is not None:
            yield frame


def attributes_of(waits: object) -> tuple[str, str] | None:
    """Return the names in `_NAMES` for a coroutine, a generator or an async generator; None for any other object."""
    return _NAMES.get(id(type(waits)))


def _behind(waits: object) -> Any:
    """Return the coroutine or generator that `waits`, which is neither, stands for; None if there is none."""
    if not _is_between(waits):
        return None
    referents: list[object] = get_referents(waits)
    return next((each for each in referents if id(type(each)) in _NAMES or _is_between(each)), None)


def _is_between(waits: object) -> bool:
    return _name_of_type(type(waits)) in _BETWEEN
