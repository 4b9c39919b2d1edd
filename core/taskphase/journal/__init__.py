"""A journal: tasks in a file, which survive a crash of the process. Import `Journal` from `taskphase`.

`sqlite3` and `fcntl` are imported by `Journal(...)`. The file, the lock and the thread are opened by a host.
"""

from ._entries import JournalEntry, JournalOverview
from ._journal import Journal

__all__ = ["Journal", "JournalEntry", "JournalOverview"]
