"""Who chooses which of several runnable tasks steps next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Protocol


class Policy(Protocol):
    """Chooses, once for every decision of a run. One object serves one run."""

    def choose(self, count: int) -> int:
        """Return which of `count` runnable tasks steps next, from 0, the oldest, to `count - 1`.

        :param count: 2 or more
        :raises BaseException: whatever it likes; the run is given up, and `simulate()` raises it
        """
        ...


class TaskPolicy(Policy, Protocol):
    """A policy that wants to know which tasks there are."""

    def choose_task(self, numbers: Sequence[int]) -> int:
        """Return what `choose()` returns, which is not called then.

        :param numbers: of the runnable tasks, in the order of spawning from 0; the oldest in the queue first
        """
        ...


class Fifo:
    """First in, first out."""

    def choose(self, count: int) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


class Replay:
    """The choices of an earlier run; after the last of them first in, first out.

    A choice that is too large for its decision means the youngest task, so a list may be changed freely.

    :param choices: as in `Run.choices`; 0 or more each
    """

    def __init__(self, choices: Iterable[int]) -> None:
        self._choices = iter(list(choices))

    def choose(self, count: int) -> int:
        """Return the next choice of the list."""
        return min(next(self._choices, 0), count - 1)


class Deviate:
    """First in, first out, except at a few decisions.

    :param deviations: the choice, by the index of the decision, from 0; too large means the youngest task
    """

    def __init__(self, deviations: Mapping[int, int]) -> None:
        self._deviations = dict(deviations)
        self._index = -1

    def choose(self, count: int) -> int:
        """Return what is to be chosen at this decision, else 0."""
        self._index += 1
        return min(self._deviations.get(self._index, 0), count - 1)


class RandomWalk:
    """Any of them, each as likely as the other.

    :param seed: the same seed makes the same choices
    """

    def __init__(self, seed: int | str) -> None:
        self._random = Random(seed)  # noqa: S311

    def choose(self, count: int) -> int:
        """Return a random choice."""
        return self._random.randrange(count)


class PCT:
    """Random priorities, and a few moments at which the task in front falls behind all others.

    Probabilistic concurrency testing (Burckhardt et al., 2010): it finds a bug that takes `depth` ordering
    constraints with known probability, and, unlike a random walk, leaves tasks waiting for long.

    :param seed: the same seed makes the same choices
    :param depth: of the bug, 1 or more: there are `depth - 1` such moments
    :param steps: about how many decisions a run has, 1 or more: the moments are spread over them
    :raises ValueError: if one is less than that
    """

    def __init__(self, seed: int | str, depth: int = 3, steps: int = 100) -> None:
        if depth < 1 or steps < 1:
            raise ValueError(f"depth and steps must be 1 or more, not {depth!r} and {steps!r}")
        self._random = Random(seed)  # noqa: S311
        self._moments = {self._random.randrange(steps) for _ in range(depth - 1)}
        self._priorities: dict[int, float] = {}
        self._index = -1

    def choose(self, count: int) -> int:
        """Return a choice by priorities of places, for those who do not know which tasks there are."""
        return self.choose_task(range(count))

    def choose_task(self, numbers: Sequence[int]) -> int:
        """Return the place of the task of the highest priority.

        :param numbers: of the runnable tasks, as in `Actor.number`, the oldest first
        """
        self._index += 1
        for number in numbers:
            if number not in self._priorities:
                self._priorities[number] = self._random.random()
        best = max(numbers, key=self._priorities.__getitem__)
        if self._index in self._moments:
            self._priorities[best] = -self._index - 1.0  # behind all others, and those that fell before
            best = max(numbers, key=self._priorities.__getitem__)
        return numbers.index(best)
