"""G21 with real engines: an app under uvicorn, a Redis and a worker, each in processes of its own.

Each task has an id of its own, and the journal has one line for each run and for each call of `on_error`.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterable

import httpx
import pytest
from tests.queues.brokers import poll
from tests.queues.conftest import Setting
from tests.servers.harness import SERVERS, Server, ServerKind
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

TWO_WORKERS = ServerKind("uvicorn-2", "uvicorn {app} --port {port} --workers 2", 0, 0)
HYPERCORN_TRIO = next(kind for kind in SERVERS if kind.name == "hypercorn-trio")


def runs(server: Server) -> Counter[str]:
    """Return how often each id ran."""
    return Counter(entry.subject for entry in server.journal() if entry.event == "ran")


def failures(server: Server) -> dict[str, list[str]]:
    """Return the outcomes in `on_error`, by id."""
    found: dict[str, list[str]] = {}
    for entry in server.journal():
        if entry.event.startswith("on_error_"):
            found.setdefault(entry.subject, []).append(entry.event.removeprefix("on_error_"))
    return found


def unanswered(server: Server) -> set[str]:
    """Return the ids whose last attempt had no answer before the deadline: a task that is truly `unknown`."""
    return {entry.subject for entry in server.journal() if entry.event == "reason_TimeoutError"}


def wait_for_runs(server: Server, ids: Iterable[str]) -> None:
    wanted = set(ids)
    poll(lambda: wanted <= runs(server).keys(), f"runs of {len(wanted)} ids")


def place_orders(server: Server, names: Iterable[str]) -> set[str]:
    """Order two tasks with each request; return their ids."""
    ids: set[str] = set()
    for name in names:
        assert server.post(f"/orders/{name}").status_code == 200
        ids |= {name, f"{name}b"}
    return ids


def test_each_task_of_500_requests_runs_once_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server()
    setting.start_worker(server)

    ids = place_orders(server, map(str, range(500)))
    wait_for_runs(server, ids)

    assert runs(server) == dict.fromkeys(ids, 1)
    assert failures(server) == {}


def test_tasks_of_each_scheduler_are_handed_over_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server()
    setting.start_worker(server)

    for name in ("host", "task", "thread"):
        assert server.post(f"/{name}/{name}").status_code == 200
    url = server.base_url.replace("http", "ws")
    with pytest.raises(ConnectionClosedOK), connect(f"{url}/socket/socket", proxy=None) as socket:
        socket.recv()
    ids = {"endpoint", "endpointb", "host", "task", "thread", "socket"}
    assert server.post("/orders/endpoint").status_code == 200
    wait_for_runs(server, ids)

    assert runs(server) == dict.fromkeys(ids, 1)


def test_a_task_in_a_worker_has_a_view_and_no_host_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server()
    setting.start_worker(server)

    ids = {"7-async", "7-sync", "7-decorated"}
    message_ids = set(server.post("/look/7").json())
    wait_for_runs(server, ids)
    poll(lambda: sum(entry.event == "no_host" for entry in server.journal()) == 3, "the last lines of the tasks")

    def seen(event: str) -> Counter[str]:
        return Counter(entry.subject for entry in server.journal() if entry.event == event)

    assert seen("message_id") == dict.fromkeys(message_ids, 1)
    assert seen("request_id") == {"of-7": 3}
    programs = "tests.queues.programs"
    names = (f"{programs}.jobs.look_around", f"{programs}.jobs.look_around_sync", f"{programs}.handed.decorated")
    assert seen("function") == dict.fromkeys(names, 1)
    assert all("runs_in_a_worker_of_the_queue_'later'" in text for text in seen("no_host"))


def test_an_argument_that_cannot_be_carried_fails_the_request_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server()

    assert server.post("/wrong").status_code == 500

    server.wait_for_output("TasksUnportableError")
    assert "cannot get argument 'order', an object of the class object" in server.output()


def test_a_redis_that_hangs_delays_tasks_and_loses_none_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server(ATTEMPT="1")
    setting.start_worker(server)
    ids = place_orders(server, ["before"])
    wait_for_runs(server, ids)

    setting.redis.stop()
    ids |= place_orders(server, map(str, range(5)))
    time.sleep(3.5)  # longer than several attempts
    setting.redis.go_on()
    wait_for_runs(server, ids)

    assert failures(server) == {}


def test_a_redis_that_comes_back_empty_gets_all_tasks_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server(ATTEMPT="1")
    setting.start_worker(server)
    wait_for_runs(server, place_orders(server, ["before"]))

    setting.redis.kill()
    ids = place_orders(server, map(str, range(5)))
    time.sleep(1)  # several attempts
    setting.redis.start()
    wait_for_runs(server, ids)

    assert failures(server) == {}


def test_a_redis_that_is_down_for_longer_than_the_deadline_refuses_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server(DEADLINE="1", ATTEMPT="1")
    worker = setting.start_worker(server)
    wait_for_runs(server, place_orders(server, ["before"]))
    worker.kill()

    setting.redis.kill()
    ids = place_orders(server, map(str, range(5)))
    poll(lambda: failures(server).keys() >= ids, "the errors")
    told = failures(server)
    setting.redis.start()
    worker.start()
    order_until_one_runs(server)

    assert told.keys() == ids
    assert {len(outcomes) for outcomes in told.values()} == {1}
    assert not {each for each in ids if told[each] == ["refused"]} & runs(server).keys()
    # A connection that Redis has closed may be noticed only after the call was written: two were open. Else `unknown`
    # says that the deadline has cut an attempt off.
    assert len({each for each in ids if told[each] == ["unknown"]} - unanswered(server)) <= 2


def order_until_one_runs(server: Server) -> None:
    """Order tasks until a worker has run one. With a short deadline others may fail before the queue knows that the
    Redis is there again.
    """
    ids: set[str] = set()

    def order() -> bool:
        ids.update(place_orders(server, [f"later-{len(ids)}"]))
        time.sleep(0.2)
        return bool(ids & runs(server).keys())

    poll(order, "a run")


def test_a_full_redis_refuses_g21(setting: Setting) -> None:
    setting.start_redis("--maxmemory-policy", "noeviction")
    server = setting.start_server(DEADLINE="2")
    worker = setting.start_worker(server)
    wait_for_runs(server, place_orders(server, ["before"]))
    worker.kill()

    setting.redis.command("CONFIG", "SET", "maxmemory", "1")
    ids = place_orders(server, map(str, range(3)))
    poll(lambda: failures(server).keys() >= ids, "the errors")
    told = failures(server)
    setting.redis.command("CONFIG", "SET", "maxmemory", "0")
    worker.start()
    order_until_one_runs(server)

    # The deadline may cut an attempt off: then Redis has perhaps not said no. Each other task surely was refused.
    refused = ids - unanswered(server)
    assert told == {each: ["refused" if each in refused else "unknown"] for each in ids}
    assert refused
    assert not refused & runs(server).keys()


def test_a_redis_with_another_password_refuses_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server(DEADLINE="2")
    setting.redis.command("CONFIG", "SET", "requirepass", "new")

    ids = place_orders(server, map(str, range(3)))
    poll(lambda: failures(server).keys() >= ids, "the errors")

    refused = ids - unanswered(server)  # the deadline may cut an attempt off
    assert failures(server) == {each: ["refused" if each in refused else "unknown"] for each in ids}
    assert refused


def test_a_task_whose_worker_is_killed_runs_again_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server()
    setting.start_worker(server, IDLE="1")

    def beginnings() -> list[int]:
        events = [entry.event for entry in server.journal() if entry.event.startswith("began_in_")]
        return [int(event.removeprefix("began_in_")) for event in events]

    server.post("/long/1")
    poll(lambda: bool(beginnings()), "the first run")
    os.kill(beginnings()[0], signal.SIGKILL)  # of the two processes of a worker the one that runs tasks
    setting.stop_file.touch()
    if setting.engine == "taskiq":
        time.sleep(1.2)  # the idle_timeout of the broker, which then needs another message
        poll(lambda: bool(place_orders(server, [str(time.monotonic_ns())])) and "1" in runs(server), "the second run")
    wait_for_runs(server, ["1"])

    # More runs on a busy machine: Taskiq gives the message to another one after each second without acknowledgement.
    assert len(set(beginnings())) >= 2
    assert failures(server) == {}


@pytest.mark.parametrize(("deadline", "shield"), [("1", "8"), ("8", "1")])
def test_a_stop_with_a_redis_that_hangs_tells_each_task_once_g21(setting: Setting, deadline: str, shield: str) -> None:
    setting.start_redis()
    server = setting.start_server(DEADLINE=deadline, SHIELD=shield, ATTEMPT="1")
    worker = setting.start_worker(server)
    wait_for_runs(server, place_orders(server, ["before"]))
    worker.kill()

    setting.redis.stop()
    ids = place_orders(server, map(str, range(3)))
    server.term()
    code = server.wait()

    assert code == server.kind.exit_after_term, server.report()
    told = failures(server)
    assert told.keys() == ids
    assert {len(outcomes) for outcomes in told.values()} == {1}
    assert "unknown" in {outcomes[0] for outcomes in told.values()}


def test_two_processes_of_a_server_hand_over_each_task_once_g21(setting: Setting) -> None:
    setting.start_redis()
    server = setting.start_server(TWO_WORKERS)
    setting.start_worker(server)

    processes: set[int] = set()
    ids: set[str] = set()

    def order() -> bool:
        # A new connection each time: the kernel gives it to one of the processes.
        with httpx.Client(base_url=server.base_url, trust_env=False) as client:
            processes.add(client.get("/ready").json())
            name = str(len(ids))
            client.post(f"/orders/{name}").raise_for_status()
            ids.update({name, f"{name}b"})
        return len(processes) == 2 and len(ids) >= 40

    poll(order, "requests to both processes")
    wait_for_runs(server, ids)

    assert runs(server) == dict.fromkeys(ids, 1)


def test_celery_works_on_trio_and_taskiq_says_what_does_g21(setting: Setting) -> None:
    setting.start_redis()
    if setting.engine == "taskiq":
        server = setting.start_server(HYPERCORN_TRIO, is_to_answer=False)
        server.wait_for_output("On trio use taskphase.celery.CeleryQueue")
        return
    server = setting.start_server(HYPERCORN_TRIO)
    setting.start_worker(server)

    ids = place_orders(server, map(str, range(5)))
    wait_for_runs(server, ids)

    assert runs(server) == dict.fromkeys(ids, 1)
