"""Run a program many times: under many schedules, shrinking a failing run, or with a shutdown at each step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import wraps
from inspect import signature
from random import Random
from typing import Any, Concatenate, ParamSpec

from anyio import CancelScope

from ..._machine.calling import is_async, name_of, shown
from .faults import Call
from .policy import PCT, Deviate, Fifo, Policy, RandomWalk, Replay
from .record import Run
from .running import Backend, simulate

P = ParamSpec("P")

# The most runs for shrinking. A human reads the result, and after so many runs it is short enough.
_MOST_TRIES = 300

# The most lines of the timeline in a failure's note.
_MOST_LINES = 120

# These end the exploration without shrinking.
_NOT_OURS = (KeyboardInterrupt, SystemExit)


def explore(
    schedules: int = 300,
    backends: Sequence[Backend] = ("asyncio", "trio"),
    seed: int | str = 0,
    *,
    replay: Sequence[int] | None = None,
    turns: bool = False,
    max_steps: int = 20_000,
    patience: float = 5.0,
) -> Callable[[Callable[P, Awaitable[object]]], Callable[P, None]]:
    """Decorate an async test function: it becomes a sync one that runs under many schedules.

    The schedules, in this order: first in, first out; schedules that deviate from it at one decision or at a few;
    random walks and random priorities (`PCT`). Each run calls the function again, with the same arguments. After the
    first failure the choices are shrunk. Then the exception of the failure is raised, with a note that says how to
    replay it.

    :param schedules: the number of runs on each backend, 1 or more
    :param backends: "asyncio", "trio", or both
    :param seed: the same seed makes the same schedules
    :param replay: the choices of a failure: run only these, on each backend
    :param turns: as for `simulate()`
    :param max_steps: the most steps of a run; then the run ends with a `Livelock`
    :param patience: the most real seconds of a worker thread for one step
    :raises TypeError: for `@explore` without parentheses, and for a function that is not async
    :raises ValueError: if `schedules` is less than 1
    """
    _refuse_function(schedules, "explore")
    if schedules < 1:
        raise ValueError(f"schedules must be 1 or more, not {schedules!r}")

    def decorate(test: Callable[P, Awaitable[object]]) -> Callable[P, None]:
        _refuse_sync(test, "explore")

        @wraps(test)
        def run_all(*args: P.args, **kwargs: P.kwargs) -> None:
            @wraps(test)
            def main() -> Awaitable[object]:
                return test(*args, **kwargs)

            for backend in backends:

                def run_with(policy: Policy, backend: Backend = backend) -> Run:
                    return simulate(
                        main, backend=backend, policy=policy, turns=turns, max_steps=max_steps, patience=patience
                    )

                if replay is not None:
                    _fail_if(run_with(Replay(replay)))
                else:
                    _explore(run_with, schedules, f"{seed}/{backend}")

        return run_all

    return decorate


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
    drains when its body is cancelled. A first run without a shutdown counts the steps, and has to pass, too.
    The first failure is raised with a note that says at which step the shutdown began.

    :param backends: "asyncio", "trio", or both
    :param replay: the step of a failure: run only this one
    :param max_steps: the most steps of a run; then the run ends with a `Livelock`
    :param patience: the most real seconds of a worker thread for one step
    :raises TypeError: for `@explore_shutdown` without parentheses, and for a function that is not async
    """
    _refuse_function(backends, "explore_shutdown")

    def decorate(test: Callable[Concatenate[CancelScope, P], Awaitable[object]]) -> Callable[P, None]:
        _refuse_sync(test, "explore_shutdown")

        def run_all(*args: P.args, **kwargs: P.kwargs) -> None:
            @wraps(test)
            def main(scope: CancelScope) -> Awaitable[object]:
                return test(scope, *args, **kwargs)

            for backend in backends:

                def run_with(step: int | None, backend: Backend = backend) -> Run:
                    return _run_with_shutdown(main, step, backend=backend, max_steps=max_steps, patience=patience)

                steps = range(1, run_with(None).steps + 1) if replay is None else [replay]
                for step in steps:
                    run_with(step)

        _disguise_as(test, run_all)
        return run_all

    return decorate


def _run_with_shutdown(main: Callable[[CancelScope], Awaitable[object]], step: int | None, **options: Any) -> Run:
    """Make one run with a shutdown at `step`, or without a shutdown. Raise its exception, if any."""
    scope: CancelScope | None = None

    @wraps(main)
    async def begun() -> object:
        nonlocal scope
        scope = CancelScope()
        if step == 1:  # the shutdown came before this
            scope.cancel()
        return await main(scope)

    def shut_down() -> None:
        if scope is not None:
            scope.cancel()

    faults = [] if step is None else [Call(step, shut_down)]
    found = simulate(begun, faults=faults, **options)
    how = f"with a shutdown at step {step}\nagain: @explore_shutdown(replay={step}, ...)"
    _fail_if(found, "without a shutdown" if step is None else how)
    return found


def _refuse_function(first: object, decorator: str) -> None:
    """Refuse a function as the first argument of a decorator that takes settings.

    :raises TypeError: for a function
    """
    if callable(first):
        raise TypeError(f"write @{decorator}() with parentheses")


def _refuse_sync(test: Callable[..., object], decorator: str) -> None:
    """Refuse a test function that is not async: its code would run in no task of the simulation.

    :raises TypeError: for a sync function
    """
    if not is_async(test):
        raise TypeError(f"@{decorator}() takes an async def, and {shown(name_of(test))} is not async")


def _disguise_as(test: Callable[..., Any], function: Any) -> None:
    """Let `function` look like `test` without its first parameter, which pytest would take for a fixture."""
    wraps(test)(function)
    del function.__wrapped__
    parameters = list(signature(test).parameters.values())[1:]
    function.__signature__ = signature(test).replace(parameters=parameters)


def _explore(run_with: Callable[[Policy], Run], schedules: int, seed: str) -> None:
    first = run_with(Fifo())
    _fail_if(first)
    if not first.decisions:
        return  # there is no other schedule
    for policy in _policies(first, schedules - 1, seed):
        run = run_with(policy)
        if run.exception is not None:
            _fail_if(_shrunk(run, lambda choices: run_with(Replay(choices))))


def _policies(first: Run, schedules: int, seed: str) -> Iterator[Policy]:
    """Yield the policies after first in, first out: single deviations for at most a third of the runs, then others."""
    random = Random(seed)  # noqa: S311
    singles = [
        (index, choice) for index, (_, count) in enumerate(first.decisions) for choice in range(1, min(count, 4))
    ]
    random.shuffle(singles)
    singles = singles[: -(-schedules // 3)]
    yield from (Deviate(dict([single])) for single in singles)
    for number in range(schedules - len(singles)):
        name = f"{seed}/{number}"
        if number % 3 == 0:
            # A deviation changes later decisions, so there may be more of them than in the first run.
            indices = (random.randrange(len(first.decisions) + 8) for _ in range(random.randint(2, 5)))
            yield Deviate({index: random.randint(1, 4) for index in indices})
        elif number % 3 == 1:
            yield RandomWalk(name)
        else:
            yield PCT(name, depth=random.randint(1, 5), steps=len(first.decisions))


def _shrunk(failure: Run, run_with: Callable[[Sequence[int]], Run]) -> Run:
    """Return a run that fails in the same way with simpler choices: fewer, then more zeros, then smaller numbers."""
    best, tries = failure, 0

    def fails(choices: Sequence[int]) -> bool:
        nonlocal best, tries
        tries += 1
        run = run_with(choices)
        if type(run.exception) is not type(failure.exception):
            return False
        best = run
        return True

    kept = _without_tail(failure.choices)
    while True:
        smaller = next((c for c in _smaller(kept) if tries < _MOST_TRIES and fails(c)), None)
        if smaller is None:
            break
        kept = _without_tail(smaller)
    # `best` is the last failing run, which had exactly the choices `kept`; or the given failure.
    return best


def _smaller(choices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield simpler lists, the shortest first. The last choice is never 0."""
    length = len(choices)
    for kept in sorted({length // 2, length - length // 4, length - 1} - {length}):
        yield _without_tail(choices[:kept])
    chunk = length
    while chunk:
        for start in range(0, length, chunk):
            if any(choices[start : start + chunk]):
                zeros = [0] * len(choices[start : start + chunk])
                yield _without_tail([*choices[:start], *zeros, *choices[start + chunk :]])
        chunk //= 2
    for index, choice in enumerate(choices):
        for less in range(1, choice):
            yield [*choices[:index], less, *choices[index + 1 :]]


def _without_tail(choices: Sequence[int]) -> list[int]:
    """Return the choices without trailing zeros, which have no effect."""
    length = len(choices)
    while length and not choices[length - 1]:
        length -= 1
    return list(choices[:length])


def _replay_of(run: Run) -> str:
    """Return how to repeat `run`, for the note of a failure."""
    choices = _without_tail(run.choices)
    return (
        f"with the choices {choices}\n"
        f"again: @explore(replay={choices}, backends=({run.backend!r},)), or\n"
        f"       simulate(..., backend={run.backend!r}, policy=Replay({choices})); `turns` as it was"
    )


def _fail_if(run: Run, how: str | None = None) -> None:
    """Raise the exception of `run`, if any, with a note.

    :param how: the parameters of the run, and how to repeat it; default: by its choices
    """
    error = run.exception
    if error is None:
        return
    if not isinstance(error, _NOT_OURS):
        error.add_note(f"simulated on {run.backend}, {how or _replay_of(run)}\n{run.timeline(_MOST_LINES)}")
    raise error
