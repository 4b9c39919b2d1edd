"""examples/order_service.py: payments, notes and mails, also if the server stops at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from examples import order_service
from tests import wire
from tests.backends import until
from tests.examples.programs import example, served

State = Mapping[str, Any] | None


async def put(number: int, state: State, *, count: int = 1, events: list[str] | None = None) -> int | None:
    body = json.dumps({"item": "bicycle", "count": count}).encode()
    headers = [(b"content-type", b"application/json")]
    response = await wire.request(
        order_service.app, "PUT", f"/orders/{number}", headers=headers, body=body, state=state, events=events
    )
    return response.status


async def test_a_charge_with_a_lost_answer_is_booked_once_though_the_server_stops_g9_g16() -> None:
    async with wire.lifespan(order_service.app) as state:
        assert state is not None
        assert [await put(1, state), await put(2, state)] == [202, 202]
    shop: order_service.Shop = state["shop"]
    assert shop.charges == {"order-1": 1, "order-2": 2}
    assert shop.books.count("order 1 is paid") == shop.books.count("order 2 is paid") == 1


async def test_the_mail_comes_after_the_response_and_the_charge_has_begun_before_it_g1() -> None:
    events: list[str] = []
    async with wire.lifespan(order_service.app) as state:
        assert state is not None
        shop: order_service.Shop = state["shop"]
        charge, book = shop.charge, shop.book

        async def noted_charge(number: int, *, key: str) -> None:
            events.append("charge")
            await charge(number, key=key)

        async def noted_book(row: str) -> None:
            events.append(row)
            await book(row)

        shop.charge, shop.book = noted_charge, noted_book  # type: ignore[method-assign]
        assert await put(7, state, events=events) == 202
        await until(lambda: "order 7 is confirmed by mail" in events)
    assert events[:2] == ["charge", "start"]
    assert events.index("final") < events.index("order 7 is confirmed by mail")


async def test_a_refused_order_is_noted_and_neither_charged_nor_taken_from_stock_g5() -> None:
    async with wire.lifespan(order_service.app) as state:
        assert state is not None
        assert await put(3, state, count=3) == 409
    shop: order_service.Shop = state["shop"]
    assert shop.books == ["order 3 was refused"]
    assert (shop.charges, shop.stock["bicycle"]) == ({}, 2)


async def test_an_order_that_is_sent_again_is_accepted_and_nothing_is_done_twice() -> None:
    async with wire.lifespan(order_service.app) as state:
        assert state is not None
        assert [await put(1, state) for _ in range(3)] == [202, 202, 202]
    shop: order_service.Shop = state["shop"]
    assert sorted(shop.books) == ["order 1 is confirmed by mail", "order 1 is paid"]
    assert shop.stock["bicycle"] == 1


@pytest.mark.parametrize("count", [0, -5])
async def test_an_order_of_less_than_a_single_item_is_refused(count: int) -> None:
    async with wire.lifespan(order_service.app) as state:
        assert state is not None
        assert await put(1, state, count=count) == 422
    assert state["shop"].stock["bicycle"] == 2


def test_the_example_runs_by_a_single_command() -> None:
    lines = example("order_service.py")
    assert lines[-1] == "database closed"
    for row in ("order 1 is paid", "order 2 is paid", "order 3 was refused", "order 1 is confirmed by mail"):
        assert lines.count(row) == 1


def test_an_interrupted_server_books_the_charges_being_retried() -> None:
    with served("order_service") as (server, url):
        for number in (1, 2):
            httpx.put(f"{url}/orders/{number}", json={"item": "bell"}, trust_env=False).raise_for_status()
    rows = [line for line in server.lines if line.startswith(("order", "database"))]
    assert rows.index("database closed") == len(rows) - 1
    assert {"order 1 is paid", "order 2 is paid"} <= set(rows)
