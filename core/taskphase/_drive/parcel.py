"""Where the call of a job runs, and its forms for other processes."""

from __future__ import annotations

from typing import Any

from .keeping import Record


class Parcel:
    """Where the call of a job runs. A job for a worker process, a queue or a journal has a parcel of its own.

    :ivar is_async: True if the call is awaited in the event loop, otherwise False
    :ivar message_id: of a job for a queue or a journal: see `Job.message_id`
    :ivar hand_over: the `HandOver` of a job for a queue
    :ivar record: the `Record` of a job of a journal
    :ivar payload: the call, for a worker process; otherwise empty
    """

    __slots__ = ("hand_over", "is_async", "message_id", "payload", "record")

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async
        self.message_id: str | None = None
        self.hand_over: Any = None
        self.record: Record | None = None
        self.payload: bytes = b""


IN_LOOP, IN_THREAD = Parcel(is_async=True), Parcel(is_async=False)
"""The parcels of all other jobs. Nobody writes to them: `Job._own_parcel()` returns a new one."""
