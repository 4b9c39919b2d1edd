"""A worker on trio, without FastAPI: each message is acknowledged before its after-work; Ctrl-C leaves five seconds.

docs/tutorial/standalone.md, "A worker". Each message is a task, because cancellation stops what runs in the host's
block at once, and a scope without a route: if the acknowledgement fails, there is no after-work.
"""

import signal

import pytest
import trio
import trio.testing

from taskphase import TaskHost, current_host
from taskphase.testing import record_tasks

journal: list[str] = []


class Channel:
    """Replaces the client of a broker."""

    def __init__(self) -> None:
        self.sender, self.receiver = trio.open_memory_channel[str](10)

    async def acknowledge(self, message: str) -> None:
        await trio.sleep(0.1)
        if message == "lost":
            raise ConnectionError("the broker does not answer")
        journal.append(f"acknowledged {message}")


async def archive(message: str) -> None:
    journal.append(f"archiving {message}")
    await trio.sleep(60 if message == "huge" else 3)
    journal.append(f"archived {message}")


async def handle(channel: Channel, message: str) -> None:
    async with current_host().scope() as tasks:
        tasks.after_response.schedule(archive, message)
        await trio.sleep(1)  # the work
        await channel.acknowledge(message)


async def work(channel: Channel) -> None:
    async with TaskHost(max_running=10, drain_timeout=5) as host:
        async for message in channel.receiver:
            task = host.schedule(handle, channel, message)
            await task.started.wait()  # reads at most one message more than it has slots


async def main(channel: Channel) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, channel)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


def run(*messages: str, seconds: float) -> float:
    """Send messages, press Ctrl-C after so many seconds, and return how many more the worker took. Time is virtual."""

    async def send_and_stop() -> float:
        channel = Channel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main, channel)
            for message in messages:
                await channel.sender.send(message)
            await trio.sleep(seconds)
            signal.raise_signal(signal.SIGINT)
        return trio.current_time() - seconds

    journal.clear()
    return trio.run(send_and_stop, clock=trio.testing.MockClock(autojump_threshold=0))


def test_after_work_begins_when_the_message_is_acknowledged() -> None:
    assert run("a", seconds=10) == pytest.approx(0)
    assert journal == ["acknowledged a", "archiving a", "archived a"]


def test_what_has_been_read_is_finished_after_ctrl_c() -> None:
    assert run("a", seconds=0.5) == pytest.approx(0.6 + 3)
    assert journal == ["acknowledged a", "archiving a", "archived a"]


def test_patience_ends_after_five_seconds() -> None:
    assert run("huge", "a", seconds=2) == pytest.approx(5)
    assert journal[-1] == "archived a"
    assert "archived huge" not in journal


def test_a_message_that_is_not_acknowledged_has_no_after_work() -> None:
    with record_tasks() as tasks:
        tasks.of(handle).expect_failure(ConnectionError)
        run("lost", "a", seconds=10)
        assert tasks.of(archive).dropped.one().args == ("lost",)
    assert journal == ["acknowledged a", "archiving a", "archived a"]  # and it stops nothing else
