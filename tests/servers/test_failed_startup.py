"""G10: a real server serves no app whose startup fails, and shielded tasks end before the process."""

from __future__ import annotations

import pytest
from tests.servers.harness import HYPERCORN, SERVERS, Server, ServerKind

APP = "tests.servers.apps.failed_startup:app"
KINDS = [*SERVERS, ServerKind("hypercorn-uvloop", f"{HYPERCORN} uvloop", 0, 0)]


OF_ALL = [(kind, "app") for kind in KINDS]
# This server checks its task, not the message.
OF_HYPERCORN = [(kind, startup) for kind in KINDS[2:3] for startup in ("router", "handler", "mounted")]


@pytest.mark.parametrize(("kind", "startup"), OF_ALL + OF_HYPERCORN, ids=lambda value: getattr(value, "name", value))
def test_g10_an_app_whose_startup_fails_is_not_served_and_its_tasks_end(kind: ServerKind, startup: str) -> None:
    with Server(kind, APP, {"TASKS_STARTUP": startup}, is_to_answer=False) as server:
        code = server.wait()
        assert [str(entry) for entry in server.journal()] == ["started shielded", "fails", "ended shielded"]
        assert "no database" in server.output()
    assert (code != 0) is ("hypercorn" not in kind.name)  # hypercorn ends with 0, whatever the exit code of its worker
