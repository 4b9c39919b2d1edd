"""Calls observers: in which order, and with which effect if a method raises. No other place calls their methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from threading import RLock
from typing import Protocol, TypeVar
from weakref import WeakSet, ref

from . import report
from .hooks import Entry, Hook, Hooks, Telling, Watching

T = TypeVar("T")


class Watched(Protocol):
    """The part of a runner that this module needs.

    :ivar hooks: the methods of the host's own observers
    :ivar watching: None if there has never been a hook: then each task only looks at this attribute
    """

    hooks: tuple[Entry, ...]
    watching: Watching | None


_lock = RLock()  # a finalizer may open a host in the thread that has the lock
_watched: WeakSet[Watched] = WeakSet()
_everywhere: list[Entry] = []
_broken: list[tuple[str, ref[object]]] = []


def watch(runner: Watched, hooks: Iterable[Entry]) -> None:
    """From now on call `hooks`, and the hooks for all runners, for the tasks of `runner`. New ones come first."""
    with _lock:
        runner.hooks = (*hooks, *runner.hooks)
        _watched.add(runner)
        _refresh(runner)


def observe_everywhere(observer: object, hooks: Mapping[str, Hook]) -> None:
    """From now on tell `observer` of the tasks of every runner in the process. From any thread.

    :param hooks: the methods to call, by the name of the hook
    :raises RuntimeError: if `observer` is there already
    """
    with _lock:
        if any(entry.observer is observer for entry in _everywhere):
            raise RuntimeError("this observer observes already")
        _everywhere.extend(Entry(name, observer, hook) for name, hook in hooks.items())
        _refresh_all()


def forget_everywhere(observer: object) -> None:
    """Undo `observe_everywhere()`."""
    with _lock:
        _everywhere[:] = [entry for entry in _everywhere if entry.observer is not observer]
        _refresh_all()


def tell(hooks: Hooks, telling: Telling, subject: object) -> None:
    """Call all `hooks`. If a method raises, log the exception, and never call this method again, in any runner.

    :param telling: of this thread
    :raises KeyboardInterrupt: if a signal arrives while an observer runs; all hooks have been called then
    """
    if not hooks:
        return
    was_telling = telling.now
    try:
        telling.now = True
        for hook in hooks:
            hook(subject)
    except BaseException as exc:
        _go_on(hooks, hook, exc, (subject,))  # pyright: ignore[reportPossiblyUnboundVariable] - only a hook raises
    finally:
        telling.now = was_telling


def tell_all(hooks: Hooks, telling: Telling, args: tuple[object, ...]) -> None:
    """Do the same with any number of arguments: slower."""
    if not hooks:
        return
    was_telling = telling.now
    try:
        telling.now = True
        for hook in hooks:
            hook(*args)
    except BaseException as exc:
        _go_on(hooks, hook, exc, args)  # pyright: ignore[reportPossiblyUnboundVariable] - only a hook raises
    finally:
        telling.now = was_telling


def _go_on(hooks: Hooks, broken: Hook, error: BaseException, args: tuple[object, ...]) -> None:
    """Note that the hook `broken` has raised `error`, and call the hooks behind it."""
    try:
        if issubclass(type(error), KeyboardInterrupt):  # `isinstance()` may ask the error for its `__class__`
            raise error
        _break_off(hooks, broken, error)
    finally:
        del error  # its traceback has this frame: a cycle
        position = next(position for position, each in enumerate(hooks, 1) if each is broken)
        for_each(partial(_call, hooks, args), hooks[position:])


def _call(hooks: Hooks, args: tuple[object, ...], hook: Hook) -> None:
    try:
        hook(*args)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        _break_off(hooks, hook, exc)


def _break_off(hooks: Hooks, hook: Hook, error: BaseException) -> None:
    entry = next(each for each in hooks.entries if each.call is hook)
    with _lock:
        if _is_broken(entry):
            return  # another thread was in it, too
        _broken[:] = [each for each in _broken if each[1]() is not None]
        _broken.append((entry.name, ref(entry.observer)))
        _refresh_all()
    report.observer_failed(entry.observer, entry.name, error)


def _is_broken(entry: Entry) -> bool:
    return any(name == entry.name and observer() is entry.observer for name, observer in _broken)


def _refresh_all() -> None:
    for runner in list(_watched):
        _refresh(runner)


def _refresh(runner: Watched) -> None:
    entries = [entry for entry in (*runner.hooks, *_everywhere) if not _is_broken(entry)]
    # Never back to None: another thread, or an observer that has just raised, may be between two looks at it.
    if entries or runner.watching is not None:
        runner.watching = Watching(entries)


def for_each(func: Callable[[T], object], items: Iterable[T]) -> None:
    """Call `func` with each of the `items`.

    :raises KeyboardInterrupt: if a call raises it, because an observer or a log handler does; after all calls
    """
    interrupt: KeyboardInterrupt | None = None
    for item in items:
        try:
            func(item)
        except KeyboardInterrupt as exc:
            interrupt = exc
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            del interrupt  # its traceback has this frame: a cycle
