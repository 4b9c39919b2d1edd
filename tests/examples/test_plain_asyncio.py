"""examples/plain_asyncio.py: the order of its output, and that Ctrl-C waits for shielded tasks."""

from __future__ import annotations

import pytest
from examples import plain_asyncio
from tests.backends import ASYNCIO
from tests.examples.programs import EXAMPLES, example, started

from taskphase import TaskHost


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The output of the example, without the times."""
    said: list[str] = []
    monkeypatch.setattr(plain_asyncio, "say", said.append)
    return said


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_a_message_is_counted_before_its_answer_and_archived_after_it_g1(said: list[str]) -> None:
    async with TaskHost() as host:
        await plain_asyncio.handle(host, "12")
    assert said == ["after_route: counted '12'", "answer: 24", "after_response: archived '12'"]


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_a_message_that_fails_is_complained_of_and_neither_counted_nor_archived_g5(said: list[str]) -> None:
    async with TaskHost(drain_timeout=1) as host:
        with pytest.raises(ValueError, match="invalid literal"):
            await plain_asyncio.handle(host, "twelve")
    assert said == ["after_response, on failure only: 'twelve' was no good"]


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_the_whole_program_answers_everything_and_leaves_nothing_behind_g2(said: list[str]) -> None:
    await plain_asyncio.main()
    answers = [line for line in said if line.startswith("answer")]
    assert [answer[:13] for answer in answers] == ["answer: 24", "answer: sorry", "answer: 60"]
    assert {"after_response: archived '12'", "after_response: archived '30'", "report, on paper"} <= set(said)


def test_the_example_runs_by_a_single_command() -> None:
    assert example("plain_asyncio.py")[-1].endswith("closed: nothing of it is alive")


def test_an_interrupted_server_archives_the_answered_messages_g9() -> None:
    with started(str(EXAMPLES / "plain_asyncio.py")) as program:
        program.until("answer: 24")
        program.interrupt()
        lines = [line.split("  ")[-1] for line in program.end()]
    assert "after_response: archived '12'" in lines
    assert lines[-1] == "closed: nothing of it is alive"
