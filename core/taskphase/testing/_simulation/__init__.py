"""Deterministic simulation of anyio programs: a run is a pure function of the program, its choices and its faults.

A *step* runs one task from one suspension point to the next. A *choice* is the index of the next task to step among the
runnable ones; 0 is the oldest. Time is virtual, and moves only when nothing is runnable.

- `policy`: makes the choices; `faults`: errors at given steps; `record`: the result of a run; `errors`
- `schedule`: the choices, notes and faults of one run, for both event loops
- `on_asyncio`, `on_trio`: the event loops; `privates`: every private name that they use
- `threads`: worker threads, one at a time; `threads_on_asyncio`, `threads_on_trio`: connect anyio's calls to them;
  `writers`: makes the thread of a journal a worker
- `running`: one run; `exploring`: many runs, and shrinking a failing one; `shutdown`: one run for each step
"""
