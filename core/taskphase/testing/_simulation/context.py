"""The name of the running async library, for anyio."""

from __future__ import annotations

try:
    import sniffio
except ImportError:  # anyio needs sniffio only before 4.12, trio always does
    sniffio = None  # type: ignore[assignment]


def enter_library(name: str | None) -> None:
    """Let anyio find this library, or none, in the current context."""
    if sniffio is not None:
        sniffio.current_async_library_cvar.set(name)


def running_library() -> str | None:
    """Return the name of the async library that runs in this thread, or None."""
    if sniffio is None:
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return None
        return "asyncio"
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None
