"""An audit entry of each request of a router, succeeded or failed, written after the response.

A dependency of the router does it, with one task for each outcome: docs/tutorial/scopes.md, "Dependencies". That page
also names the requests for which FastAPI calls no dependency: a body that is no JSON, a method that no route has. A
middleware sees to these.
"""

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_tasks import Tasks, add_tasks, current_host
from fastapi_tasks.testing import record_tasks

journal: list[str] = []


async def write(entry: str) -> None:
    journal.append(entry)


async def audit(request: Request, tasks: Tasks) -> None:  # nothing else: a request may lack any other parameter
    request.state.is_audited = True
    what = f"{request.method} {request.url.path}"
    later = tasks.task(name="audit", shield=True).after_response
    later.task(when="success").schedule(write, f"{what} succeeded")
    later.task(when="failure").schedule(write, f"{what} failed")


class Order(BaseModel):
    item: str


router = APIRouter(prefix="/orders", dependencies=[Depends(audit)])


@router.put("/{number}")
async def put(number: int, order: Order) -> None:
    if number == 404:
        raise HTTPException(404)
    if number == 500:
        raise RuntimeError("a bug")


app = FastAPI()
app.include_router(router)
add_tasks(app, shield_timeout=20)


class AuditOfOthers:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)  # an exception that becomes a 500 here has reached the dependency
        is_of_router = scope["type"] == "http" and scope["path"].startswith(router.prefix)
        if is_of_router and "is_audited" not in scope["state"]:
            entry = f"{scope['method']} {scope['path']} failed"
            current_host().task(name="audit", shield=True).schedule(write, entry)


app.add_middleware(AuditOfOthers)


async def watched_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Note when the response is out."""

    async def watch(message: Message) -> None:
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            journal.append("response")

    await app(scope, receive, watch)


ITEM = '{"item": "bell"}'


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("PUT /orders/1", ITEM, 200),
        ("PUT /orders/one", ITEM, 422),
        ("PUT /orders/1", "{}", 422),
        ("PUT /orders/404", ITEM, 404),
        ("PUT /orders/500", ITEM, 500),
        ("PUT /orders/1", "no JSON", 422),
        ("POST /orders/1", ITEM, 405),
    ],
)
def test_a_single_entry_is_written_behind_each_response(backend, request_line, body, status) -> None:
    journal.clear()
    client = TestClient(watched_app, backend=backend, raise_server_exceptions=False)
    with record_tasks(app) as tasks, client:
        method, path = request_line.split()
        answer = client.request(method, path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status
        tasks.wait_all()
    outcome = "succeeded" if status == 200 else "failed"
    assert journal == ["response", f"{request_line} {outcome}"]
