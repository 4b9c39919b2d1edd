"""A tracer takes the place of a signal handler or a finalizer, at each place where Python runs these.

These places are after calls, at the begin of functions and of loop rounds, and where a container is built.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import taskphase

HOME = Path(taskphase.__file__).parent
FILES = {str(path) for path in (*HOME.glob("*.py"), *(HOME / "_drive").glob("*.py"))}

OPCODES = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP"}

# From Python 3.12 on a call has all its opcode events only if earlier calls of the function were traced, too.
TRACES_ALL = sys.version_info >= (3, 12)

Place = tuple[int, int]
"""The number of a call of this library, and the number of the place in the call. When a coroutine goes on, that is
another call."""


class Tracer:
    """Lists all places. Or calls `interrupt()` at one place.

    To trace each opcode takes four times as long as the program. So to find a place, the tracer counts the calls, and
    traces the opcodes of one call only (before Python 3.12).

    :param files: the code to interrupt; default: this library
    :ivar places: the places so far, without `at`
    :ivar where: the line of the interruption
    """

    def __init__(self, at: Place | None, interrupt: Callable[[], None], files: Collection[str] = FILES) -> None:
        self.places: list[Place] = []
        self.where = "nowhere"
        self._at = at
        self._interrupt = interrupt
        self._files = files
        self._calls = 0
        self._next: dict[FrameType, Place] = {}
        self._previous: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        self._calls += 1
        if self._at is not None and self._calls != self._at[0] and not TRACES_ALL:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._next[frame] = self._calls, 0
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            previous = self._previous.get(frame)
            self._previous[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if previous is None or previous in OPCODES:
                self._meet(frame)
        elif event == "return":
            call, _ = self._next.pop(frame)
            self._previous.pop(frame, None)
            if self._at is not None and self._at[0] == call:  # trio's order is random: this call was shorter before
                self._at = self._calls + 1, 0
            frame.f_trace = None  # otherwise Python 3.12 and later trace the next call of a coroutine as this one
            return None
        return self._step

    def _meet(self, frame: FrameType) -> None:
        place = call, number = self._next[frame]
        self._next[frame] = call, number + 1
        if self._at is None:
            self.places.append(place)
        elif self._at == place:
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
            if not TRACES_ALL:  # otherwise the functions on the stack would lose their opcode events
                sys.settrace(None)
            self._at = 0, 0  # no call has this number
            self._interrupt()
