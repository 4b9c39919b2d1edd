"""Policies: the choice of the next task to step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Protocol


class Policy(Protocol):
    """Makes the choices of a run. Use a new object for each run.

    A policy may also have the method `choose_task(numbers)`, which is then called instead of `choose()`: see `PCT`.
    """

    def choose(self, count: int) -> int:
        """Return the index of the next task to step: from 0, the oldest, to `count - 1`.

        :param count: the number of runnable tasks, 2 or more
        :raises BaseException: ends the run; `simulate()` raises the same exception
        """
        ...


class Fifo:
    """First in, first out."""

    def choose(self, count: int) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


class Replay:
    """The choices of an earlier run, then first in, first out.

    A choice that is too large means the youngest task, so you can edit the list freely.

    :param choices: as in `Run.choices`; 0 or more each
    """

    def __init__(self, choices: Iterable[int]) -> None:
        self._choices = iter(list(choices))

    def choose(self, count: int) -> int:
        """Return the next choice of the list, or 0 at its end."""
        return min(next(self._choices, 0), count - 1)


class Deviate:
    """First in, first out, except at some decisions.

    :param deviations: the choices, by the index of the decision from 0; a choice that is too large means the youngest
        task
    """

    def __init__(self, deviations: Mapping[int, int]) -> None:
        self._deviations = dict(deviations)
        self._index = -1

    def choose(self, count: int) -> int:
        """Return the deviation for this decision, or 0."""
        self._index += 1
        return min(self._deviations.get(self._index, 0), count - 1)


class RandomWalk:
    """A random choice, with equal probability for each task.

    :param seed: the same seed makes the same choices
    """

    def __init__(self, seed: int | str) -> None:
        self._random = Random(seed)  # noqa: S311

    def choose(self, count: int) -> int:
        """Return a random choice."""
        return self._random.randrange(count)


class PCT:
    """Random priorities; at a few random moments the first task falls behind all others.

    Probabilistic concurrency testing (Burckhardt et al., 2010) finds a bug of `depth` ordering constraints with a known
    probability. Unlike a random walk it lets tasks wait for long.

    :param seed: the same seed makes the same choices
    :param depth: the depth of the bug, 1 or more: there are `depth - 1` such moments
    :param steps: the approximate number of decisions in a run, 1 or more: the moments are spread over them
    :raises ValueError: if `depth` or `steps` is less than 1
    """

    def __init__(self, seed: int | str, depth: int = 3, steps: int = 100) -> None:
        if depth < 1 or steps < 1:
            raise ValueError(f"depth and steps must be 1 or more, not {depth!r} and {steps!r}")
        self._random = Random(seed)  # noqa: S311
        self._moments = {self._random.randrange(steps) for _ in range(depth - 1)}
        self._priorities: dict[int, float] = {}
        self._index = -1

    def choose(self, count: int) -> int:
        """Return a choice by the priorities of the positions, if the tasks are unknown."""
        return self.choose_task(range(count))

    def choose_task(self, numbers: Sequence[int]) -> int:
        """Return the index of the task with the highest priority.

        :param numbers: the numbers of the runnable tasks, as in `Actor.number`, the oldest first
        """
        self._index += 1
        for number in numbers:
            if number not in self._priorities:
                self._priorities[number] = self._random.random()
        best = max(numbers, key=self._priorities.__getitem__)
        if self._index in self._moments:
            self._priorities[best] = -self._index - 1.0  # behind all others, including earlier fallen ones
            best = max(numbers, key=self._priorities.__getitem__)
        return numbers.index(best)
