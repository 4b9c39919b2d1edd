"""Tasks, as a test sees them: which were scheduled, what has become of them, and waiting for that. For `testing`.

- `changes`: waiting for what other threads and other event loops do to tasks
- `entry`: one recorded task
- `selection`: some of them: narrowing down, asserting, waiting, running by hand
- `recorder`: all of them: what a recorder does with each as it is scheduled, and what it says at its end
- `expecting`: failures, expected and not
- `by_hand`: running what was only recorded
- `showing`: tasks in messages, with their arguments: a test's are not secret
"""
