"""The seam of the running event loop."""

from __future__ import annotations

from asyncio import CancelledError

from anyio import get_cancelled_exc_class

from .job import Job
from .seam import NativeSeam


def native_seam(*, may_enclose: bool = False) -> NativeSeam[Job]:
    """Return the seam of the running event loop.

    :param may_enclose: True: `open()` checks if `enclose()` works. False: tasks enter their scopes early
    :raises RuntimeError: if no event loop runs in this thread (anyio 4.12.0 has a class of its own)
    """
    if get_cancelled_exc_class() is CancelledError:
        from .on_asyncio import AsyncioSeam

        return AsyncioSeam(may_enclose=may_enclose)
    from .on_trio import TrioSeam

    return TrioSeam(may_enclose=may_enclose)
