"""The forms of a job for other processes."""

from __future__ import annotations

from typing import Any

from .keeping import Record


class Parcel:
    """What a job has if a worker process, a queue or a journal takes it. Few jobs have one.

    :ivar message_id: of a job for a queue or a journal: see `Job.message_id`
    :ivar hand_over: the `HandOver` of a job for a queue
    :ivar record: the `Record` of a job of a journal
    :ivar payload: the call, for a worker process; otherwise empty
    """

    __slots__ = ("hand_over", "message_id", "payload", "record")

    def __init__(self) -> None:
        self.message_id: str | None = None
        self.hand_over: Any = None
        self.record: Record | None = None
        self.payload: bytes = b""


NO_PARCEL = Parcel()
"""The parcel of all other jobs. Nobody writes to it: `Job._own_parcel()` returns a new one."""
