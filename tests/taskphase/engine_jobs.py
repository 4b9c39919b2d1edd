"""Functions that the tests of queues hand over: at the top of a module, as workers need them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import BaseModel

from taskphase import NoCurrentError, current_host, current_task

request_id: ContextVar[str] = ContextVar("request_id")
seen: list[tuple[Any, ...]] = []


@dataclass
class Order:
    number: int


class Bill(BaseModel):
    due: date


async def send_mail(order: Any, *more: Any, copy: Any = None) -> None:
    _note(order)


def archive(order: Any) -> None:
    _note(order)


def fail(order: Any) -> None:
    _note(order)
    raise LookupError(order)


async def count_orders(order: Order) -> None:
    _note(order)


async def pay(bill: Bill) -> None:
    _note(bill)


def _note(order: Any) -> None:
    task = current_task()
    try:
        current_host()
    except NoCurrentError as exc:
        assert "runs in a worker of the queue 'later'" in str(exc)
    seen.append((task.function, task.message_id, task.attempt, request_id.get(""), order))
