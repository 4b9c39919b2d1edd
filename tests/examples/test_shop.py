"""examples/shop.py: each job of the shop, in the app and on a real server that gets a SIGTERM."""

import fcntl
import logging
import os
import signal

import anyio
import httpx
import pytest
from examples import shop
from fastapi.testclient import TestClient
from tests import wire
from tests.backends import MOVABLE, until
from tests.examples.programs import served

from fastapi_tasks.testing import JumpClock, record_tasks

CLOCK = JumpClock()
R1 = {"x-request-id": "r-1"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, caplog):
    for name, value in {"FOLDER": tmp_path, "ADMIN_TOKEN": "?", "ask_bank": lambda _: anyio.sleep(5)}.items():
        monkeypatch.setattr(shop, name, value)
    with caplog.at_level(logging.INFO), caplog.filtering(shop.add_request_id):
        yield tmp_path


@pytest.fixture(params=MOVABLE)
def client(request):
    options = {"backend": request.param, "backend_options": CLOCK.backend_options(request.param)}
    with TestClient(shop.app, headers=R1, **options) as client, record_tasks(shop.app) as client.tasks:
        yield client
        [task.cancel() for task in client.tasks]


def order(client, customer="ada"):
    assert client.post("/orders", params={"customer": customer}).status_code == 202
    client.portal.call(anyio.wait_all_tasks_blocked)
    return client.tasks


def test_a_payment_finds_the_committed_order_and_notifies_the_customer(client, caplog):
    with client.websocket_connect("/notifications/ada") as socket:
        order(client)
        CLOCK.jump(5)
        assert socket.receive_text() == "order 1 is paid"
    expected = {("r-1", "order 1 is paid: 1 row"), ("r-1", "mail to ada: thanks for order 1")}
    assert {(record.request_id, record.getMessage()) for record in caplog.records} >= expected


def test_a_payment_fails_after_ten_seconds_and_a_reminder_follows_g18(client, caplog, monkeypatch):
    monkeypatch.setattr(shop, "ask_bank", lambda _: anyio.sleep_forever())
    tasks = order(client)
    CLOCK.jump(10)
    tasks.of(shop.charge).wait_all()
    tasks.of(shop.charge).expect_failure(TimeoutError)
    assert "to the tracker: examples.shop.charge failed in attempt 1: TimeoutError" in caplog.text
    assert "tasks_delayed 1\n" in client.get("/metrics").text
    CLOCK.jump(590)
    tasks.of(shop.remind).wait_all()
    assert "please pay for order 1" in caplog.text


def test_a_mail_is_tried_three_times_and_then_reported(client, caplog, monkeypatch):
    async def send_mail(customer, _):
        if customer == "bob" or client.tasks.of(send_mail)[0].attempt < 3:
            raise ConnectionError

    monkeypatch.setattr(shop, "send_mail", send_mail)
    mails = [order(client, customer) for customer in ("ada", "bob")][1].of(send_mail)
    mails.wait_all()
    assert [(mail.status, mail.attempt) for mail in mails] == [("succeeded", 3), ("failed", 3)]
    assert caplog.text.count("to the tracker") == 1
    mails.expect_failure(ConnectionError)


def test_two_pictures_are_shrunk_at_a_time_g19(client, folder, monkeypatch):
    [os.mkfifo(folder / f"{name}.small") for name in "abc"]  # the thread that writes waits until the test reads
    monkeypatch.setattr(shop.secrets, "token_hex", iter("abc").__next__)
    assert [client.post("/pictures", files={"picture": b"jpg"}).json() for _ in "abc"] == ["a", "b", "c"]
    client.portal.call(anyio.wait_all_tasks_blocked)
    assert [task.status for task in client.tasks] == ["running", "running", "limited"]
    assert [len((folder / f"{name}.small").read_bytes()) for name in "abc"] == [32] * 3


def test_a_customer_has_one_payment_at_a_time_g19(client):
    for customer in ("ada", "ada", "bob"):
        payments = order(client, customer).of(shop.charge)
    assert [task.status for task in payments] == ["running", "limited", "running"]
    CLOCK.jump(5)
    payments.wait_until("running")
    assert payments[1].status == "running"


def test_offers_are_computed_once_at_a_time_g24(client, caplog):
    assert [client.post("/offers").status_code for _ in range(3)] == [202] * 3
    CLOCK.jump(1)
    client.tasks.wait_all()
    assert [task.status for task in client.tasks] == ["succeeded", "dropped", "dropped"]
    assert caplog.messages.count("the offers are computed") == 1


def test_an_admin_lists_the_tasks_and_cancels_one_g17(client):
    reminder = order(client).of(shop.remind).one()
    assert client.get("/admin/tasks", headers={"x-token": "!"}).status_code == 403
    client.headers["x-token"] = "?"
    found = {task["id"]: list(task.values())[1:4] for task in client.get("/admin/tasks").json()}
    assert found[reminder.id] == ["examples.shop.remind", "after_response", "delayed"]
    assert [client.delete(f"/admin/tasks/{reminder.id}").status_code for _ in range(2)] == [200, 404]
    assert reminder.status == "cancelled"


async def test_a_stream_is_billed_for_its_rows_and_one_process_cleans_up(caplog, folder, monkeypatch):
    monkeypatch.setattr(shop, "CLEAN_UP_EVERY", 0.01)
    with record_tasks(shop.app) as tasks, (folder / "clean-up.lock").open("w") as lock_of_another_process:
        fcntl.flock(lock_of_another_process, fcntl.LOCK_EX)
        async with wire.lifespan(shop.app) as state:
            await wire.request(shop.app, "POST", "/orders", query=b"customer=test", state=state)
            assert (await wire.request(shop.app, path="/orders/test", state=state)).body == b"data: 1\n\n"
            await tasks.of(shop.log.info).await_all()
            assert ("billed test for [1]" in caplog.text, "cleaned up" in caplog.text) == (True, False)
            lock_of_another_process.close()
            await until(lambda: "cleaned up: 1" in caplog.text)
            tasks.of(shop.charge).one().cancel()


def test_a_real_server_ends_the_payment_after_a_sigterm_g9_g18(folder):
    with served("shop", folder=folder, stop=signal.SIGTERM) as (server, url):
        httpx.post(f"{url}/orders?customer=ada", headers=R1, trust_env=False).raise_for_status()
        server.until("charging order 1")
    text = "\n".join(server.lines).partition("Shutting down")[2]
    steps = ["[r-1] order 1 is paid: 1 row", "1 cancelled: shop.remind", "the shop is closed", "shutdown complete"]
    assert sorted(steps, key=text.index) == steps
