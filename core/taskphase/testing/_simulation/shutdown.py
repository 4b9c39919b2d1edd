"""Run a program many times, with a shutdown at each of its steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec

from anyio import CancelScope

from .exploring import fail_if, refuse_function, refuse_sync
from .faults import Call
from .record import Run
from .running import Backend, simulate

P = ParamSpec("P")


def explore_shutdown(
    backends: Sequence[Backend] = ("asyncio", "trio"),
    *,
    replay: int | None = None,
    max_steps: int = 20_000,
    patience: float = 5.0,
) -> Callable[[Callable[Concatenate[CancelScope, P], Awaitable[object]]], Callable[P, None]]:
    """Decorate an async test function: it becomes a sync one that runs once for each of its steps, with a shutdown
    there.

    The first argument of the function is a cancel scope. Enter the scope around the code to shut down: a `TaskHost`
    drains when its body is cancelled. The steps are those of a first run without a shutdown, which has to pass as well.
    The first failure is raised with a note that says at which step the shutdown began.

    :param backends: "asyncio", "trio", or both
    :param replay: the step of a failure: run only this one
    :param max_steps: the most steps of a run; then the run ends with a `Livelock`
    :param patience: the most real seconds of a worker thread for one step
    :raises TypeError: for `@explore_shutdown` without parentheses, and for a function that is not async
    """
    refuse_function(backends, "explore_shutdown")

    def run(main: Callable[[CancelScope], Awaitable[object]], backend: Backend, step: int | None) -> Run:
        begun = _Begun(main)
        faults = [] if step is None else [Call(step, begun.shut_down)]
        found = simulate(begun, backend=backend, faults=faults, max_steps=max_steps, patience=patience)
        how = f"with a shutdown at step {step}\nagain: @explore_shutdown(replay={step}, ...)"
        fail_if(found, "without a shutdown" if step is None else how)
        return found

    def decorate(test: Callable[Concatenate[CancelScope, P], Awaitable[object]]) -> Callable[P, None]:
        refuse_sync(test, "explore_shutdown")

        def run_all(*args: P.args, **kwargs: P.kwargs) -> None:
            @wraps(test)
            def main(scope: CancelScope) -> Awaitable[object]:
                return test(scope, *args, **kwargs)

            for backend in backends:
                steps = range(1, run(main, backend, None).steps + 1) if replay is None else [replay]
                for step in steps:
                    run(main, backend, step)

        _disguise_as(test, run_all)
        return run_all

    return decorate


class _Begun:
    """One run of a program. `shut_down()` works before and after the run has begun."""

    def __init__(self, main: Callable[[CancelScope], Awaitable[object]]) -> None:
        self._main = main
        self._scope: CancelScope | None = None
        self._is_shut_down = False
        self.__qualname__ = getattr(main, "__qualname__", "main")

    async def __call__(self) -> object:
        self._scope = CancelScope()
        if self._is_shut_down:
            self._scope.cancel()
        return await self._main(self._scope)

    def shut_down(self) -> None:
        self._is_shut_down = True
        if self._scope is not None:
            self._scope.cancel()


def _disguise_as(test: Callable[..., Any], function: Any) -> None:
    """Let `function` look like `test` without its first parameter, which pytest would take for a fixture."""
    wraps(test)(function)
    del function.__wrapped__
    parameters = list(signature(test).parameters.values())[1:]
    function.__signature__ = signature(test).replace(parameters=parameters)
