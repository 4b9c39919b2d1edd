"""Deterministic simulation of anyio programs: a run is a pure function of the program, its choices and its faults.

A *step* runs one task from one suspension point to the next. A *choice* says which of several runnable tasks steps
next, 0 being the oldest. Time is virtual, and moves only when nothing is runnable.

- `policy`: who chooses; `faults`: what goes wrong, and when; `record`: what a run leaves behind; `errors`
- `schedule`: one run, as both event loops see it: what is chosen, noted and injected
- `on_asyncio`, `on_trio`: the event loops; `privates`: every private name that they rest on
- `threads`: worker threads, one at a time; `threads_on_asyncio`, `threads_on_trio`: how anyio's calls get there
- `running`: one run; `exploring`: many, and the shrinking of one that fails; `shutdown`: one a step
"""
