"""The simulation (no G number): each private name of anyio, trio and asyncio is checked before use."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import anyio._backends._asyncio
import anyio._backends._trio
import anyio._core._eventloop
import pytest
import trio._core._run
import trio._threads

from taskphase.testing import simulate
from taskphase.testing._simulation import privates
from taskphase.testing._simulation.patches_on_asyncio import OrderedSet
from taskphase.testing._simulation.patches_on_trio import check_trio
from taskphase.testing._simulation.privates import Private, PrivateChanged, check

GROUPS = [each for each in vars(privates).values() if isinstance(each, tuple) and isinstance(each[0], Private)]
ALL = [private for group in GROUPS for private in group]
each_private = pytest.mark.parametrize("private", ALL, ids=lambda p: f"{p.owner}.{p.name}".replace(" ", "-"))


class SomethingElse:
    """Is nothing that a private name ever was."""


@each_private
def test_a_private_name_that_is_gone_is_reported_with_the_version(private: Private) -> None:
    with pytest.raises(PrivateChanged) as caught:
        check((private,), SimpleNamespace())

    assert f" has no {private.owner}.{private.name}; " in str(caught.value)
    assert f"install another version of {private.package}, or report" in str(caught.value)
    if private.package != "asyncio":
        assert version(private.package) in str(caught.value)


# The kind of the others is `object`, so only their names are checked.
TYPED = [private for private in ALL if private.kind is not object]


@pytest.mark.parametrize("private", TYPED, ids=lambda p: f"{p.owner}.{p.name}".replace(" ", "-"))
def test_a_private_name_that_has_changed_is_reported(private: Private) -> None:
    changed = SimpleNamespace(**{private.name: SomethingElse()})
    with pytest.raises(PrivateChanged, match="is a SomethingElse"):
        check((private,), changed)


async def main() -> int:
    with anyio.move_on_after(1):
        await anyio.sleep(2)
    return 1


REMOVALS: list[tuple[str, Any, str]] = [
    ("asyncio", anyio._backends._asyncio.CancelScope, "_deliver_cancellation"),
    ("asyncio", anyio._backends._asyncio, "_task_states"),
    ("asyncio", anyio._backends._asyncio.AsyncIOBackend, "run_sync_in_worker_thread"),
    ("asyncio", anyio._core._eventloop, "claim_worker_thread"),
    ("trio", anyio._backends._trio.TrioBackend, "run_sync_in_worker_thread"),
    ("trio", trio._threads, "_send_message_to_trio"),
]


@pytest.mark.parametrize(("backend", "owner", "name"), REMOVALS, ids=lambda value: str(value).rpartition(".")[2])
def test_a_run_without_a_private_name_says_so_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, backend: Any, owner: Any, name: str
) -> None:
    simulate(main, backend=backend)  # the first run tests late scopes, with all names
    monkeypatch.delattr(owner, name)
    with pytest.raises(PrivateChanged, match=name):
        simulate(main, backend=backend)
    monkeypatch.undo()
    assert simulate(main, backend=backend).result() == 1


def test_a_trio_whose_runner_has_changed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privates, "RUNNER", (*privates.RUNNER, Private("trio", "Runner", "not_there", object)))
    with pytest.raises(PrivateChanged, match="not_there"):
        check_trio.__wrapped__()


def test_tasks_that_are_called_otherwise_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    call_soon = privates._Probe.call_soon

    def call_unbound(self: Any, callback: Any, *args: Any, **options: Any) -> Any:
        return call_soon(self, lambda: callback(*args), **options)

    monkeypatch.setattr(privates._Probe, "call_soon", call_unbound)
    with pytest.raises(PrivateChanged, match="step or wakeup"):
        privates.asyncio_steps.__wrapped__()


def test_steps_are_told_from_other_methods_of_a_task() -> None:
    async def wait() -> None:
        await asyncio.sleep(0)

    async def check() -> None:
        task = asyncio.create_task(wait())
        steps = privates.asyncio_steps
        assert privates.Steps(int, "task_wakeup").task_of(task.cancel) is None
        await task
        assert steps

    asyncio.run(check())
    steps = privates.asyncio_steps()
    assert steps.task_of(print) is None
    assert steps.task_of(lambda: None) is None


def test_an_ordered_set_is_iterated_in_the_order_of_insertion() -> None:
    items = OrderedSet()
    for number in (3, 1, 2, 3):
        items.add(number)
    items.remove(1)
    items.discard(9)
    items.add(1)
    assert list(items) == [3, 2, 1]
    assert 2 in items
    with pytest.raises(KeyError):
        items.remove(9)


def test_the_private_trio_context_is_the_module_s_own() -> None:
    assert privates.check(privates.TRIO_MODULE, trio._core._run) is trio._core._run
