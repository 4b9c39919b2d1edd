"""Run a program many times, and shrink a failing run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import wraps
from random import Random
from typing import ParamSpec

from ..._machine.calling import is_async, name_of, shown
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
    refuse_function(schedules, "explore")
    if schedules < 1:
        raise ValueError(f"schedules must be 1 or more, not {schedules!r}")

    def decorate(test: Callable[P, Awaitable[object]]) -> Callable[P, None]:
        refuse_sync(test, "explore")

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


def refuse_function(first: object, decorator: str) -> None:
    """Refuse a function as the first argument of a decorator that takes settings.

    :raises TypeError: for a function
    """
    if callable(first):
        raise TypeError(f"write @{decorator}() with parentheses")


def refuse_sync(test: Callable[..., object], decorator: str) -> None:
    """Refuse a test function that is not async: its code would run in no task of the simulation.

    :raises TypeError: for a sync function
    """
    if not is_async(test):
        raise TypeError(f"@{decorator}() takes an async def, and {shown(name_of(test))} is not async")


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


def _fail_if(run: Run) -> None:
    """Raise the exception of `run`, if any, with a note that says how to repeat the run."""
    choices = _without_tail(run.choices)
    fail_if(
        run,
        f"with the choices {choices}\n"
        f"again: @explore(replay={choices}, backends=({run.backend!r},)), or\n"
        f"       simulate(..., backend={run.backend!r}, policy=Replay({choices})); `turns` as it was",
    )


def fail_if(run: Run, how: str) -> None:
    """Raise the exception of `run`, if any, with a note. `how`: the parameters of the run, and how to repeat it."""
    error = run.exception
    if error is None:
        return
    if not isinstance(error, _NOT_OURS):
        error.add_note(f"simulated on {run.backend}, {how}\n{run.timeline(_MOST_LINES)}")
    raise error
