"""What a simulation refuses, because it takes real time: processes and sockets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, NoReturn
from unittest.mock import patch

NO_PROCESSES = "a simulation runs no processes: use run_in='thread' in the simulated program"
NO_NETWORK = "a simulation has no network: replace the client by one that waits with anyio.sleep()"

# Functions of anyio's backends.
_REFUSED = {
    "open_process": NO_PROCESSES,
    "setup_process_pool_exit_at_shutdown": NO_PROCESSES,
    "getaddrinfo": NO_NETWORK,  # anyio calls it before it listens, with sockets that trio does not make
    "connect_unix": NO_NETWORK,  # on asyncio anyio connects the socket itself
}


def refuse_network(*_: Any, **__: Any) -> NoReturn:
    """Stand in for a function that would use a socket."""
    raise RuntimeError(NO_NETWORK)


class Offline:
    """A base class of an asyncio event loop that refuses sockets, before asyncio's own `NotImplementedError`, which has
    no message.
    """

    create_connection: Any = refuse_network
    create_server: Any = refuse_network
    create_datagram_endpoint: Any = refuse_network
    create_unix_connection: Any = refuse_network
    create_unix_server: Any = refuse_network
    getaddrinfo: Any = refuse_network
    add_reader: Any = refuse_network
    add_writer: Any = refuse_network
    sock_connect: Any = refuse_network


@contextmanager
def without_real_time(backend: Any) -> Generator[None]:
    """Make anyio's `backend` refuse processes, names and Unix sockets in this thread while the context is open. The
    event loops refuse other sockets.
    """
    thread = get_ident()

    def refusing(original: Callable[..., Any], reason: str) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if get_ident() == thread:
                raise RuntimeError(reason)
            return original(*args, **kwargs)

        return staticmethod(refuse)

    with ExitStack() as stack:
        for name, reason in _REFUSED.items():
            stack.enter_context(patch.object(backend, name, refusing(getattr(backend, name), reason)))
        yield
