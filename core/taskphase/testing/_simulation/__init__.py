"""Deterministic simulation of anyio programs: a run is a pure function of the program, its choices and its faults.

A *step* runs one task from one suspension point to the next. A *choice* is the index of the next task to step among the
runnable ones; 0 is the oldest. Time is virtual, and moves only when nothing is runnable.

- `policy`: makes the choices; `faults`: errors at given steps; `record`: the result of a run; `errors`
- `schedule`: the choices, notes and faults of one run, for both event loops
- `loop`: what both event loops share; `on_asyncio`, with `tasks_on_asyncio`, and `on_trio`: the event loops;
  `privates`: every private name that they use
- `threads`: worker threads, one at a time; `patches_on_asyncio`, `patches_on_trio`: make the threads of anyio workers;
  `writers`: makes the thread of a journal a worker; `offline`: refuses processes and sockets
- `running`: one run; `exploring`: many runs: under many schedules, or with a shutdown at each step
"""
