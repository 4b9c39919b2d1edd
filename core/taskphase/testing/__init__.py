"""What users' tests import.

with record_tasks(host) as tasks:
    ...
    await tasks.await_all()
    tasks.assert_scheduled(send_mail, "ada@example.org")

`record_tasks()` has a test see which tasks were scheduled, wait for them without sleeping, and fail if one of them
does; `JumpClock` moves the time of event loops on, over timeouts and the pauses between attempts. They change nothing
else: loops, threads and sockets are real.

@explore(schedules=300)
async def test_two_buyers_never_get_the_same_item() -> None:
    ...

The rest is deterministic simulation of anyio programs: every interleaving on purpose, on asyncio and on trio.
`simulate()` makes one run, a pure function of the program, the choices of a policy and the faults; `explore()` makes
many, and shrinks the one that fails to a few choices, from which it can be replayed; `explore_shutdown()` has a
shutdown begin at every step. No time passes for real: it is
virtual, and moves only when nothing can run. Worker threads of `anyio.to_thread` take part, one at a time. Sockets,
files, subprocesses and threads of other origin do not.

Works with pytest and without. The simulation rests on private names of asyncio, anyio and trio, and says so, by an
error that names it, when one of them has changed.
"""

from ._clock.jumping import JumpClock
from ._recording.expecting import UnexpectedFailures
from ._recording.recorder import RunMode, TaskRecorder, record_tasks
from ._recording.selection import RecordedTasks
from ._simulation.errors import Deadlock, ForeignBlock, Livelock
from ._simulation.exploring import explore
from ._simulation.faults import Call, Cancel, Throw
from ._simulation.policy import PCT, Deviate, Fifo, Policy, RandomWalk, Replay
from ._simulation.record import Decision, Entry, Run
from ._simulation.running import simulate
from ._simulation.schedule import mark
from ._simulation.shutdown import explore_shutdown
from ._simulation.threads import pause

__all__ = [
    "Call",
    "Cancel",
    "Deadlock",
    "Decision",
    "Deviate",
    "Entry",
    "Fifo",
    "ForeignBlock",
    "JumpClock",
    "Livelock",
    "PCT",
    "Policy",
    "RandomWalk",
    "RecordedTasks",
    "Replay",
    "Run",
    "RunMode",
    "TaskRecorder",
    "Throw",
    "UnexpectedFailures",
    "explore",
    "explore_shutdown",
    "mark",
    "pause",
    "record_tasks",
    "simulate",
]

# A traceback names what a user can import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("taskphase."):
        globals()[_name].__module__ = __name__
