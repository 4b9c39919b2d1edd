"""G2, G3, G9: `KeyboardInterrupt` and Ctrl-C in tasks and handlers, each in its own process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

# A process that hangs fails its test after so many seconds. No process needs a tenth of this time.
PATIENCE = 15

# argv: the runner of the loop, and the action. Prints one line of JSON: the exception of the host, the ends of its
# tasks, and other observations. Then ends like any program with this uncaught exception.
PROGRAM = r"""
import asyncio, json, signal, sys, threading
import anyio, trio
from taskphase import TaskHost, TasksClosedError

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by may ignore it
runner, case = sys.argv[1:]
tasks, seen, came_out = {}, [], None


async def until_cancelled():
    try:
        await anyio.sleep_forever()
    finally:
        unwound.set()
        release.set()


async def outlast():
    await unwound.wait()  # so the others have been cancelled by then
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    seen.append("the shielded task went on")


async def interrupt(*_):
    raise KeyboardInterrupt


async def interrupt_in_child():
    async with anyio.create_task_group() as group:
        group.start_soon(interrupt)


async def interrupt_among_others():
    raise BaseExceptionGroup("", [KeyboardInterrupt(), SystemExit(), ValueError()])


async def fail():
    raise ValueError


def interrupt_in_thread(*_):
    raise KeyboardInterrupt


def begin(host):
    match case:
        case "function":
            return host.schedule(interrupt)
        case "sync function":
            return host.schedule(interrupt_in_thread)
        case "child task":
            return host.schedule(interrupt_in_child)
        case "among others":
            return host.schedule(interrupt_among_others)
        case "async handler":
            return host.task(on_error=interrupt).schedule(fail)
        case "sync handler":
            return host.task(on_error=interrupt_in_thread).schedule(fail)
        case "plain group":
            host.tg.start_soon(interrupt)


def describe(error):
    if isinstance(error, BaseExceptionGroup):
        return [describe(inner) for inner in error.exceptions]
    return type(error).__name__


async def main():
    global unwound, release, came_out
    unwound, release = anyio.Event(), threading.Event()
    try:
        async with TaskHost() as host:
            tasks["plain"] = host.schedule(until_cancelled)
            tasks["shielded"] = host.task(shield=True).schedule(outlast)
            tasks["thread"] = host.schedule(release.wait)
            tasks["held"] = host.scope().after_response.schedule(fail)
            while host._runner.threads.in_use == 0:
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(5):
                if case == "Ctrl-C":
                    print("ready", flush=True)  # from here on it may come at any moment
                elif task := begin(host):
                    tasks["interrupting"] = task
                await anyio.sleep_forever()
    except BaseException as error:
        came_out = describe(error)
        raise
    finally:
        seen.append(f"host {host.running} {host.waiting} {host.deferred}")
        try:
            host.schedule(fail)
        except TasksClosedError:
            seen.append("the host is closed")


try:
    match runner:
        case "asyncio.run":
            asyncio.run(main())
        case "trio.run":
            trio.run(main)
        case "uvloop":
            anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})
        case _:
            anyio.run(main, backend=runner)
finally:
    release.set()
    print(json.dumps({
        "came_out": came_out, "seen": seen, "tasks": {name: task.status.value for name, task in tasks.items()}
    }))
"""


def start(runner: str, case: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, runner, case]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end; return the output, the exit code, and the standard error."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"it hangs: {out}{err}")
    printed: dict[str, Any] = json.loads(out.splitlines()[-1])
    return printed | {"exit": process.returncode, "err": err}


def check_interrupted(result: dict[str, Any]) -> None:
    """Check that `KeyboardInterrupt` has ended the process, and that the host was closed."""
    assert result["exit"] == -signal.SIGINT, result["err"]
    assert result["seen"][-2:] == ["host 0 0 0", "the host is closed"]


def flat(error: Any) -> list[str]:
    return [error] if isinstance(error, str) else [leaf for inner in error for leaf in flat(inner)]


@pytest.mark.parametrize("runner", ["asyncio.run", "trio.run", "asyncio", "uvloop", "trio"])
def test_ctrl_c_cancels_the_unshielded_and_waits_for_the_shielded_and_the_threads_g9(runner: str) -> None:
    process = start(runner, "Ctrl-C")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    result = end(process)
    assert result["tasks"] == {
        "plain": "cancelled",
        "shielded": "succeeded",
        "thread": "succeeded",
        "held": "cancelled",
    }
    assert result["seen"][0] == "the shielded task went on"
    assert result["came_out"] == ("KeyboardInterrupt" if "trio" in runner else "CancelledError")
    check_interrupted(result)


@pytest.mark.parametrize("case", ["function", "sync function", "async handler", "sync handler", "child task"])
def test_on_trio_an_interrupt_leaves_the_host_bare_after_shielded_tasks_end_g9(
    case: str,
) -> None:
    result = end(start("trio", case))
    assert result["tasks"] == {
        "plain": "cancelled",
        "shielded": "succeeded",
        "thread": "succeeded",
        "held": "cancelled",
        "interrupting": "failed",
    }
    assert result["seen"][0] == "the shielded task went on"
    assert result["came_out"] == "KeyboardInterrupt"
    check_interrupted(result)


def test_on_trio_an_interrupt_in_the_plain_group_comes_out_of_the_host_bare_g9() -> None:
    result = end(start("trio", "plain group"))
    assert result["tasks"]["shielded"] == "succeeded"
    assert result["seen"][0] == "the shielded task went on"
    assert result["came_out"] == "KeyboardInterrupt"
    check_interrupted(result)


def test_on_trio_what_else_a_task_raises_with_an_interrupt_stays_in_the_task_g3() -> None:
    result = end(start("trio", "among others"))
    assert result["tasks"]["interrupting"] == "failed"
    assert flat(result["came_out"]) == ["KeyboardInterrupt"]


@pytest.mark.parametrize("runner", ["asyncio.run", "uvloop"])
@pytest.mark.parametrize("case", ["function", "sync function", "async handler", "sync handler"])
def test_on_asyncio_an_interrupt_in_a_task_stops_the_loop_and_every_task_ends_g2(runner: str, case: str) -> None:
    """Then the runner natively cancels everything, the host and shielded tasks included."""
    result = end(start(runner, case))
    assert result["tasks"] == {
        "plain": "cancelled",
        "shielded": "cancelled",
        "thread": "cancelled",
        "held": "cancelled",
        "interrupting": "failed",
    }
    assert result["came_out"] == "CancelledError"
    check_interrupted(result)
