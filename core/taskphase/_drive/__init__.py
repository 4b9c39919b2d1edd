"""Who does it: here I/O begins. Only this package and what stands on it import anyio.

- `job`: the record of one task, and the only place that moves it through its life
- `attempt`: one attempt at a task: its function, its handler, its end
- `threads`: sync functions, with slots of their own
- `runner`: who is alive, who waits; admission and limits
- `report`: what is logged
- `current`: the running task and host
- `seam`: what has to be done natively; `on_asyncio`, `on_trio`, `on_group` do it
- `awaited`: where a task waits
"""
