"""Nothing that a simulated run leaves behind is overlooked: no thread, no warning, nothing patched."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import anyio._backends._asyncio as anyio_on_asyncio
import anyio._backends._trio as anyio_on_trio
import pytest

from taskphase.testing._simulation.running import Backend


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[set[threading.Thread]]:
    """Check that no thread and no patch is left. Yields a set to which a test adds its own threads."""
    patched = [anyio_on_asyncio.AsyncIOBackend, anyio_on_asyncio.CancelScope, anyio_on_trio.TrioBackend]
    before = [dict(vars(cls)) for cls in patched]
    known = {threading.main_thread(), *threading.enumerate()}
    yield known
    gc.collect()  # collects garbage that may warn, which is an error here
    assert set(threading.enumerate()) <= known
    assert [dict(vars(cls)) for cls in patched] == before
    assert gc.isenabled()
