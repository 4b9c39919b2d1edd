"""Tools for tests: a recorder of tasks, a clock to move by hand, and a simulation that controls every interleaving.

with record_tasks(host) as tasks:
    ...
    await tasks.await_all()
    tasks.assert_scheduled(send_mail, "ada@example.org")

`record_tasks()` shows a test the scheduled tasks, waits for them without sleeping, and fails the test if a task fails.
`JumpClock` moves the time of event loops past timeouts and retry pauses. Loops, threads and sockets stay real.

@explore(schedules=300)
async def test_two_buyers_never_get_the_same_item() -> None:
    ...

The other tools simulate anyio programs deterministically, on asyncio and on trio. `simulate()` makes one run: a pure
function of the program, the choices of a policy and the faults. `explore()` makes many runs, and shrinks a failing one
to a few choices that replay the failure. `explore_shutdown()` starts a shutdown at every step. Time is virtual, and
moves only when nothing can run. Worker threads of `anyio.to_thread` take part, one at a time, and so do the threads of
journals. Sockets, files, subprocesses and other threads do not.

`queue_contract()` checks a queue of your own, with its engine.

The tools work with and without pytest. The simulation uses private names of asyncio, anyio and trio. If a name has
changed, it raises an error with that name.
"""

from ._clock.jumping import JumpClock
from ._contract.checking import queue_contract
from ._contract.functions import QUEUE_CONTRACT
from ._recording.expecting import UnexpectedFailures
from ._recording.recorder import RunMode, TaskRecorder, record_tasks
from ._recording.selection import RecordedTasks
from ._simulation.errors import Deadlock, ForeignBlock, Livelock
from ._simulation.exploring import explore, explore_shutdown
from ._simulation.faults import Call, Cancel, Throw
from ._simulation.policy import PCT, Deviate, Fifo, Policy, RandomWalk, Replay
from ._simulation.record import Decision, Entry, Run
from ._simulation.running import simulate
from ._simulation.schedule import mark
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
    "QUEUE_CONTRACT",
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
    "queue_contract",
    "record_tasks",
    "simulate",
]

# Tracebacks must show names that a user can import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("taskphase."):
        globals()[_name].__module__ = __name__
