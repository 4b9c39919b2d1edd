"""Runs a whole program on the real runtime, in virtual time."""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from anyio import CancelScope, create_task_group, get_cancelled_exc_class

from property_tests.programs import Action, Program, Schedule, Scope
from property_tests.recorder import Boom, Recorder
from property_tests.story import TAG, Log, Story
from taskphase import TaskObserver
from taskphase._drive.on_trio import TrioSeam
from taskphase._machine.life import ENDS
from taskphase.testing import Call, Policy, simulate
from taskphase.testing._simulation.faults import Fault

# The most steps of a run. The longest program needs a few hundred.
_MOST_STEPS = 20_000


@dataclass(frozen=True)
class Meddle:
    """An intervention of other code, at a step: with the host, with its body, or with the latest living task."""

    step: int
    how: Literal["close", "cancel body", "cancel task"]


class Runtime(Recorder):
    """Runs a program: its host, the host's body, and the scopes in it.

    :ivar close_now: makes other code close the host
    :ivar cancel_now: cancels the body
    """

    close_now: Callable[[], object] = bool
    cancel_now: Callable[[], object] = bool

    def meddle(self, how: str) -> None:
        if how == "close":
            self.close_now()
        elif how == "cancel body":
            self.cancel_now()
        else:
            alive = [task for _, _, task in self.story.tasks() if task.status not in ENDS]
            if alive:
                # Outside of all tasks trio's loop notices the call in its next turn, like a call from a thread.
                is_soon = isinstance(self.story.host._runner.seam, TrioSeam)
                self.note("cancel", self.number_of(alive[-1]), "outside" if is_soon else None)
                alive[-1].cancel()

    async def main(self) -> None:
        async with create_task_group() as self.watchers, self._from_threads[0]:
            self.watchers.start_soon(self.watch_those_of_threads)
            with CancelScope() as finished:
                self.watchers.start_soon(self._run, finished, name="body")
                await anyio.sleep_forever()

    async def _run(self, finished: CancelScope) -> None:
        # A native cancellation hits only this task.
        with suppress(get_cancelled_exc_class()):
            try:
                with CancelScope() as body:
                    self.cancel_now = body.cancel
                    await self._run_host(body)
            except* Boom:
                pass
        self.note("closed")
        finished.cancel()

    async def _run_host(self, body: CancelScope) -> None:
        program = self.story.program
        async with self.host, self._noting_close():
            self.is_open = True
            closing = anyio.Event()
            self.close_now = closing.set
            self.watchers.start_soon(self._close_when, closing)
            await self.follow([Schedule(spec) for spec in program.tasks], None, None)
            async with create_task_group() as scopes:
                if program.ending != "return":
                    scopes.start_soon(self._end, program, body)
                for number, scope in enumerate(program.scopes):
                    scopes.start_soon(self._run_scope, number, scope)
            await anyio.sleep(self.jitter(None, 70))

    @asynccontextmanager
    async def _noting_close(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self.note("closing")
            self.close_now()

    async def _close_when(self, closing: anyio.Event) -> None:
        await closing.wait()
        if not self.story.when("closing"):
            self.note("closing")
            await self.host.aclose()
            self.note("closed")

    async def _end(self, program: Program, body: CancelScope) -> None:
        await anyio.sleep(program.at + self.jitter(None, 50))
        match program.ending:
            case "raise":
                raise Boom
            case "cancel":
                body.cancel()
            case _:
                self.close_now()

    async def _run_scope(self, number: int, scope: Scope) -> None:
        await anyio.sleep(scope.at + self.jitter(None, 60 + number))
        failed = True
        try:
            with CancelScope() as cancelled:
                async with self.host.scope() as self.sinks[number]:
                    self.note("opened", number)
                    try:
                        if scope.route is not None:
                            await self._run_route(number, scope.route)
                        await self.follow(scope.rest, number, None)
                        if scope.ending == "cancel":
                            cancelled.cancel()
                            await anyio.sleep(0)
                        if scope.ending == "raise":
                            raise Boom
                        failed = False
                    finally:
                        self.note("over", number, failed)
        except Boom:
            pass

    async def _run_route(self, number: int, actions: Iterable[Action]) -> None:
        failed = True
        async with self.sinks[number].route():
            try:
                await self.follow(actions, number, None)
                failed = False
            finally:
                self.note("answered", number, failed)
        self.note("settled", number)


@contextmanager
def _logs_of(story: Story, *, closed_log: bool) -> Generator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            story.logs.append(Log(record.levelno, logging.Formatter().format(record), TAG.get()))
            if closed_log:
                raise ValueError("I/O operation on closed file")

    logger, handler = logging.getLogger("taskphase"), Handler()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _call(runtime: Runtime, meddle: Meddle) -> Call:
    return Call(meddle.step, lambda: runtime.meddle(meddle.how))


def _again(story: Story, faults: list[Fault | Meddle], flags: dict[str, bool]) -> str:
    """Return the command that repeats the run."""
    words = ["python", "-m", "property_tests.replay", *(flag for flag, given in flags.items() if given)]
    if any(story.run.choices):
        words.append(f"--choices={','.join(map(str, story.run.choices)).rstrip('0,')}")
    if faults:
        words.append(f"--faults={faults}".replace(repr(Boom), Boom.__name__))
    return shlex.join([*words, story.run.backend, str(story.program)])


def tell(
    program: Program,
    *,
    backend: Any,
    policy: Policy | None = None,
    faults: Iterable[Fault | Meddle] = (),
    turns: bool = False,
    jitter: bool = False,
    closed_log: bool = False,
    observers: Iterable[TaskObserver] = (),
) -> Story:
    """Run `program`, and return its story.

    :param jitter: whether no two tasks act at the same time
    :param closed_log: whether the log handler raises, as if its file were closed
    :param observers: are told before the observer that writes down what it is told
    :raises BaseException: the finding of the simulation, or an exception of the program
    """
    runtime = Runtime(program, jitter=jitter, observers=observers)
    faults = list(faults)
    plan = [_call(runtime, fault) if isinstance(fault, Meddle) else fault for fault in faults]
    story = runtime.story
    with _logs_of(story, closed_log=closed_log):
        story.run = simulate(
            runtime.main, backend=backend, policy=policy, faults=plan, turns=turns, max_steps=_MOST_STEPS
        )
    story.again = _again(story, faults, {"--turns": turns, "--jitter": jitter, "--closed-log": closed_log})
    if story.run.exception is not None:
        story.run.exception.add_note(f"{story.again}\n{story.run.timeline(60)}")
        raise story.run.exception
    return story
