"""examples/token_stream.py: there is always a bill, and for the sent tokens, whoever ended the stream."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
import httpx
import pytest
from examples import token_stream
from tests import wire
from tests.examples.programs import example, served

State = Mapping[str, Any] | None


async def ask(state: State, max_tokens: int = 4, **options: Any) -> wire.Response:
    body = json.dumps({"text": "to be", "max_tokens": max_tokens}).encode()
    headers = [(b"content-type", b"application/json"), (b"customer", b"ada")]
    return await wire.request(
        token_stream.app, "POST", "/completions", headers=headers, body=body, state=state, **options
    )


def sent(messages: list[dict[str, Any]]) -> int:
    return len([message for message in messages if message.get("body")])


def billed(state: State) -> list[tuple[str, int]]:
    assert state is not None
    ledger: token_stream.Ledger = state["ledger"]
    return list(ledger.bills.values())


async def test_a_whole_answer_is_billed_once_though_billing_lost_its_first_answer_g16(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="taskphase")
    async with wire.lifespan(token_stream.app) as state:
        response = await ask(state)
    assert response.body == b'data: "to"\n\ndata: "be"\n\ndata: "to"\n\ndata: "be"\n\n'
    assert billed(state) == [("ada", 4)]
    assert [record.levelname for record in caplog.records if "'bill' raised" in record.message] == ["INFO"]


@pytest.mark.parametrize("tokens", [0, 1, 3])
async def test_a_reader_who_leaves_in_the_middle_is_billed_for_what_was_sent_g1_g11(tokens: int) -> None:
    async with wire.lifespan(token_stream.app) as state:
        response = await ask(state, 1000, disconnect_after=1 + tokens)
    assert not response.complete
    assert sent(response.messages) == tokens
    assert billed(state) == [("ada", tokens)]


async def test_tokens_made_before_the_failure_of_a_model_are_billed_g1(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail_after_two(prompt: token_stream.Prompt) -> AsyncGenerator[str]:
        yield "one"
        yield "two"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(token_stream, "generate", fail_after_two)
    async with wire.lifespan(token_stream.app) as state:
        response = await ask(state)
    assert isinstance(response.raised, RuntimeError)
    assert (sent(response.messages), billed(state)) == (2, [("ada", 2)])


async def test_a_token_that_the_server_has_not_taken_is_not_billed_g9_g11() -> None:
    """The server cuts the request off while it holds the third token back, and shuts down."""
    messages: list[dict[str, Any]] = []

    async def take_two(message: dict[str, Any]) -> None:
        if sent(messages) == 2:
            cut_off.cancel()
            await anyio.sleep_forever()
        messages.append(message)

    async with wire.lifespan(token_stream.app) as state:
        with anyio.CancelScope() as cut_off:
            await ask(state, 1000, on_send=take_two)
    assert cut_off.cancelled_caught
    assert (sent(messages), billed(state)) == (2, [("ada", 2)])


async def test_a_request_without_a_customer_is_refused() -> None:
    async with wire.lifespan(token_stream.app) as state:
        response = await wire.request(token_stream.app, "POST", "/completions", body=b'{"text": ""}', state=state)
    assert (response.status, billed(state)) == (422, [])


def tally(program_lines: list[str], word: str) -> dict[str, int]:
    """Return the numbers in lines like `ada has 30 tokens` and `billed: ada, 30 tokens`."""
    words = [line.replace(",", "").replace("billed:", "").split() for line in program_lines if word in line]
    return {line[0]: int(line[-2]) for line in words}


def test_the_example_runs_by_a_single_command() -> None:
    lines = example("token_stream.py")
    read, bills = tally(lines, " has "), tally(lines, "billed: ")
    assert (read["ada"], bills["ada"]) == (30, 30)
    # A server cannot know how much of the accepted data has arrived.
    assert read["bob"] == 10 <= bills["bob"] < 1000
    assert 0 < read["eve"] <= bills["eve"] < 1000
    assert lines[-1] == "ledger closed"


def test_an_interrupted_server_bills_the_stream_that_was_cut_off() -> None:
    with served("token_stream", "--timeout-graceful-shutdown", "1") as (server, url):
        prompt = {"text": "to be", "max_tokens": 1000}
        with httpx.stream(
            "POST", f"{url}/completions", json=prompt, headers={"customer": "eve"}, trust_env=False
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.interrupt()
            with pytest.raises(httpx.TransportError):
                list(lines)
        server.until("billed: eve")
    assert server.lines.index("ledger closed") > [line.startswith("billed") for line in server.lines].index(True)
