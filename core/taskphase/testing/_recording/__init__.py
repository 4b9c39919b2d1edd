"""The recorder of `taskphase.testing`: records tasks, selects them, waits for their ends, runs them by hand.

- `recorder`: all recorded tasks; an observer of every host
- `selection`: some recorded tasks: select, assert, wait, run by hand
- `entry`: one recorded task
- `book`: all entries, and the settings of the recorder
- `matching`: find tasks by function, name or call
- `changes`: wait for changes that other threads and event loops make
- `expecting`: expected and unexpected failures
- `by_hand`: run tasks that were held back
- `showing`: tasks in messages, with their arguments: in a test they are not secret
"""
