"""The driver: it acts as the tables of `_machine` decide. Here I/O begins.

- `job`: the record of one task, and the only code that changes its state
- `unit`: the record of one scope
- `admission`, `inbox`, `places`: the way into the event loop, from any thread; limits
- `runner`: the jobs that are alive or wait, and the next job that gets a slot
- `attempt`, `calls`, `raised`: one attempt: its function, its handler, its exception, its end
- `threads`: sync functions, with slots of their own
- `watching`, `hooks`: observers
- `report`: all log records
- `current`: the running task and host
- `seam`: the operations that need the event loop itself. `on_asyncio`, `on_trio` and `on_group` implement it; `loops`
  chooses one
- `enclosing`, `enclosing_asyncio`, `enclosing_trio`: cancel scopes around running tasks, and private names of anyio,
  asyncio and trio
- `awaited`: where a task waits
- `inline`: a task that runs where it is called, for tests
"""
