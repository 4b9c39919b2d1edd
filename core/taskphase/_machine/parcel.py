"""Where the call of a job runs, and its forms for other processes."""

from __future__ import annotations

from typing import Any


class Parcel:
    """Where the call of a job runs. A job for a worker process, a queue or a journal has a parcel of its own. All other
    jobs share parcels, to which nobody writes.

    :ivar is_async: True if the call is awaited in the event loop, otherwise False
    :ivar names: of a function that `PLAIN` knows: with the module and without; otherwise None
    :ivar is_shared: True if several jobs may have the parcel
    :ivar message_id: of a job for a queue or a journal: see `Job.message_id`
    :ivar hand_over: the `HandOver` of a job for a queue
    :ivar record: the `Record` of a job of a journal
    :ivar payload: the call, for a worker process; otherwise empty
    """

    __slots__ = ("hand_over", "is_async", "is_shared", "message_id", "names", "payload", "record")

    def __init__(self, *, is_async: bool, names: tuple[str, str] | None = None, is_shared: bool = True) -> None:
        self.is_async = is_async
        self.names = names
        self.is_shared = is_shared
        self.message_id: str | None = None
        self.hand_over: Any = None
        self.record: Any = None
        self.payload: bytes = b""


IN_LOOP, IN_THREAD = Parcel(is_async=True), Parcel(is_async=False)
"""The shared parcels of jobs whose functions `PLAIN` does not know."""
