"""G4, G6, G8, G9, G20: what reaches Sentry with `SentryTasks`, on each backend."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("sentry_sdk")

RUN_WITHIN = 60  # seconds for all programs, which need about 4

Item = dict[str, Any]
HERE = "__main__"


class Sent:
    """The items of one program, and its notes."""

    def __init__(self, sent: list[Item], notes: dict[str, Any]) -> None:
        self.items, self.notes = sent, notes

    def all(self, item: str, name: str | None = None) -> list[Item]:
        """Return the items of a kind, of one transaction or of all."""
        return [each for each in self.items if each["item"] == item and name in (None, each.get("transaction"))]

    def one(self, item: str, name: str) -> Item:
        [found] = self.all(item, name)
        return found

    def attempts(self, task: str) -> list[Item]:
        """Return the transactions of a task, by its name."""
        return [each for each in self.all("transaction") if own(each).get("name") == task]


@pytest.fixture(scope="module", params=["asyncio", "uvloop", "trio"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sent]:
    file = tmp_path_factory.mktemp("sentry") / "results.json"
    command = [sys.executable, "-W", "error", "-m", "tests.fastapi_tasks.sentry_programs", request.param, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_WITHIN, check=False)
    assert done.returncode == 0, done.stderr
    return {name: Sent(**result) for name, result in json.loads(file.read_text()).items()}


def own(item: Item) -> dict[str, Any]:
    """Return the context that the observer has added."""
    return item["contexts"].get("taskphase", {})  # type: ignore[no-any-return]


def trace(item: Item) -> tuple[str, str | None]:
    context = item["contexts"]["trace"]
    return context["trace_id"], context.get("parent_span_id")


def header(traceparent: str) -> tuple[str, str]:
    """Return the trace and the span of a `sentry-trace`."""
    trace_id, span_id, *_ = traceparent.split("-")
    return trace_id, span_id


def status(item: Item) -> str:
    return item["contexts"]["trace"]["status"]  # type: ignore[no-any-return]


def spans(item: Item) -> list[str]:
    return [span["description"] for span in item["spans"]]


def crumbs(item: Item) -> list[str]:
    return [crumb["message"] for crumb in item["breadcrumbs"]["values"]]


def test_each_task_of_a_request_has_a_transaction_and_a_scope_of_its_own_g20(programs: dict[str, Sent]) -> None:
    """The four rows: the name of the error event, its trace, its tags and breadcrumbs, the spans of the task."""
    sent = programs["table"]
    request = header(sent.notes["traceparent"])
    server = sent.one("transaction", "/items/{item}")
    second, thread = sent.one("event", f"{HERE}.second"), sent.one("event", f"{HERE}.in_thread")

    for event in (second, thread):
        assert event["transaction_info"] == {"source": "task"}
        assert event["request"]["url"].endswith("/items/7")
        assert event["user"] == {"id": "ada"}
        assert trace(event) == request
    assert request[0] == server["contexts"]["trace"]["trace_id"] == "0123456789abcdef0123456789abcdef"

    assert (second["tags"], crumbs(second)) == ({"own": "second"}, [])
    assert (thread["tags"], crumbs(thread)) == ({"who": "thread"}, ["crumb of thread"])
    assert server["tags"] == {"asgi.type": "http", "http.status_code": "200"}

    for name, span, end in (
        ("first", "span of first", "ok"),
        ("second", "inner", "internal_error"),
        ("in_thread", "span of thread", "internal_error"),
    ):
        transaction = sent.one("transaction", f"{HERE}.{name}")
        assert (spans(transaction), status(transaction), trace(transaction)) == ([span], end, request)
        assert transaction["contexts"]["trace"]["op"] == "queue.process"
        assert transaction["transaction_info"] == {"source": "task"}


def test_an_error_of_a_task_is_one_event_without_arguments_g4(programs: dict[str, Sent]) -> None:
    sent = programs["table"]

    assert [event["logger"] for event in sent.all("event") if "exception" in event] == ["taskphase"] * 2
    error = sent.one("event", f"{HERE}.second")
    assert [value["type"] for value in error["exception"]["values"]] == ["LookupError"]
    assert own(error) == {
        "id": own(error)["id"],
        "function": f"{HERE}.second",
        "name": f"{HERE}.second",
        "phase": "after_response",
        "attempt": 1,
    }
    # As a record of a task has them in all logs.
    assert error["extra"]["task_function"] == f"{HERE}.second"


def test_a_later_request_has_nothing_of_a_task_g20(programs: dict[str, Sent]) -> None:
    [event] = [each for each in programs["table"].all("event") if each.get("message") == "of the request"]

    assert event["transaction"] == "/later"
    assert (event.get("tags"), crumbs(event), own(event)) == (None, [], {})


def test_sentry_without_the_observer_works_as_before_g4(programs: dict[str, Sent]) -> None:
    sent = programs["without"]

    errors = [event for event in sent.all("event") if "exception" in event]
    assert [(event["transaction"], event["logger"]) for event in errors] == [("/items/{item}", "taskphase")] * 2
    assert {item["transaction"] for item in sent.all("transaction")} == {"/items/{item}", "/later"}
    assert all(own(item) == {} for item in errors)


def test_each_attempt_has_a_transaction_and_only_the_last_an_event_g16_g20(programs: dict[str, Sent]) -> None:
    sent = programs["ends"]
    attempts = sent.attempts("retried")

    assert [own(each)["attempt"] for each in attempts] == [1, 2, 3]
    assert [status(each) for each in attempts] == ["internal_error"] * 3
    assert [spans(each) for each in attempts] == [[], [], ["in the handler"]]
    [error] = sent.all("event", f"{HERE}.fails")
    assert own(error)["attempt"] == 3
    assert error["tags"] == {"handled": "retried"}
    assert crumbs(error) == []


def test_the_status_of_a_transaction_is_the_outcome_of_the_attempt_g20(programs: dict[str, Sent]) -> None:
    sent = programs["ends"]
    named = {own(each)["name"]: status(each) for each in sent.all("transaction")}

    assert named == {
        "retried": "internal_error",
        "late": "deadline_exceeded",
        "fine": "ok",
        "odd": "internal_error",
        "fine again": "ok",
        "drained": "cancelled",
    }


def test_a_task_that_the_drain_cancels_is_no_error_g9(programs: dict[str, Sent]) -> None:
    errors = [own(event)["name"] for event in programs["ends"].all("event")]

    assert sorted(errors) == ["late", "retried"]


def test_nothing_is_kept_of_a_task_that_never_starts_g20(programs: dict[str, Sent]) -> None:
    """Dropped, cancelled before the start, cancelled by the drain."""
    assert programs["ends"].notes["left"] == 0
    assert {own(each)["name"] for each in programs["ends"].all("transaction")}.isdisjoint({"early", "dropped", "never"})


def test_a_task_that_schedules_itself_again_and_again_adds_nothing_g20(programs: dict[str, Sent]) -> None:
    sent = programs["chain"]

    assert sent.notes == {"processors": 1, "left": 0}
    assert len(sent.all("transaction")) == 21
    assert len({trace(each)[0] for each in sent.all("transaction")}) == 1
    [event] = sent.all("event")
    assert own(event)["id"] == own(sent.all("transaction")[-1])["id"]


def test_without_tracing_an_error_still_has_the_trace_of_the_request_g20(programs: dict[str, Sent]) -> None:
    sent = programs["untraced"]

    assert sent.all("transaction") == []
    event = sent.one("event", f"{HERE}.second")
    assert trace(event)[0] == header(sent.notes["traceparent"])[0]
    assert event["tags"] == {"own": "second"}


def test_a_task_is_a_segment_where_the_sdk_streams_spans_g20(programs: dict[str, Sent]) -> None:
    sent = programs["streamed"]
    found = {span["name"]: span for item in sent.all("span") for span in item["items"]}
    segment = found[f"{HERE}.streamed.<locals>.traced"]

    assert (segment["trace_id"], segment["parent_span_id"]) == header(sent.notes["traceparent"])
    assert segment["status"] == "error"
    assert segment["attributes"]["sentry.op"]["value"] == "queue.process"
    assert found["inner"]["parent_span_id"] == segment["span_id"]
    sent.one("event", f"{HERE}.streamed.<locals>.traced")


def test_without_init_the_observer_does_nothing_g20(programs: dict[str, Sent]) -> None:
    assert (programs["off"].items, programs["off"].notes) == ([], {"left": 0})


def test_a_task_is_in_the_trace_of_the_thread_or_task_that_schedules_it_g8_g20(programs: dict[str, Sent]) -> None:
    sent = programs["elsewhere"]
    [of_thread], [child] = sent.attempts("of the thread"), sent.attempts("child")
    [of_child], [of_parent] = [
        [event for event in sent.all("event") if event["message"] == message]
        for message in ("of the child", "of the parent")
    ]

    assert trace(of_thread) == header(sent.notes["thread"])
    assert trace(child) == header(sent.notes["parent"])
    assert (of_child["tags"], of_parent["tags"]) == ({"who": "child"}, {"who": "parent"})
    assert own(of_child)["name"] == "child"
    assert own(of_parent)["function"] == of_parent["transaction"]


def test_a_transaction_of_the_user_in_a_task_keeps_its_name_g20(programs: dict[str, Sent]) -> None:
    own_one = programs["elsewhere"].one("transaction", "a transaction of the user")

    assert own_one["transaction_info"] == {"source": "custom"}


def test_a_task_that_sentry_has_not_seen_ends_no_transaction_of_its_parent_g20(programs: dict[str, Sent]) -> None:
    [parent] = programs["paused"].all("transaction")

    assert (spans(parent), status(parent)) == (["span of parent"], "ok")


def test_a_hand_over_is_a_transaction_with_the_data_for_the_page_of_queues_g20_g21(programs: dict[str, Sent]) -> None:
    sent = programs["handed"]
    [confirmed] = sent.attempts("confirmed")
    context = confirmed["contexts"]["trace"]

    assert (context["op"], status(confirmed), trace(confirmed)) == (
        "queue.publish", "ok", header(sent.notes["traceparent"]),
    )  # fmt: skip
    assert confirmed["transaction"] == "tests.handed.send_mail"
    assert {name: value for name, value in context["data"].items() if name.startswith("messaging.")} == {
        "messaging.destination.name": "later",
        "messaging.message.id": sent.notes["message"],
        "messaging.system": "redis",
    }
    assert own(confirmed)["message_id"] == sent.notes["message"]


def test_a_hand_over_that_fails_is_an_error_and_a_cancelled_one_is_none_g9_g20_g21(programs: dict[str, Sent]) -> None:
    sent = programs["handed"]
    [failed], [stopped] = sent.attempts("fails"), sent.attempts("stopped")

    assert [each["contexts"]["trace"]["op"] for each in (failed, stopped)] == ["queue.publish"] * 2
    assert [status(each) for each in (failed, stopped)] == ["internal_error", "cancelled"]
    [event] = [each for each in sent.all("event") if "exception" in each]
    assert event["exception"]["values"][-1]["type"] == "HandOverFailed"
    assert own(event)["message_id"] == own(failed)["message_id"]
    assert sent.notes["left"] == 0


def test_a_hand_over_has_no_number_of_an_attempt_g20_g21(programs: dict[str, Sent]) -> None:
    handed = programs["handed"]
    sent, ran = handed.attempts("here")
    [failed] = handed.attempts("fails")

    number = "taskphase.task.attempt"
    assert [own(each).get("attempt") for each in (failed, sent, ran)] == [None, None, 1]
    assert [each["contexts"]["trace"]["data"].get(number) for each in (failed, sent, ran)] == [None, None, 1]


def test_a_refused_hand_over_and_the_run_here_are_two_transactions_g20_g21(programs: dict[str, Sent]) -> None:
    sent, ran = programs["handed"].attempts("here")

    assert [each["contexts"]["trace"]["op"] for each in (sent, ran)] == ["queue.publish", "queue.process"]
    assert [status(each) for each in (sent, ran)] == ["internal_error", "ok"]
    assert not [name for name in ran["contexts"]["trace"]["data"] if name.startswith("messaging.")]


def test_a_hand_over_is_a_segment_where_the_sdk_streams_spans_g20_g21(programs: dict[str, Sent]) -> None:
    [segment] = [span for item in programs["handed_in_a_stream"].all("span") for span in item["items"]]

    assert segment["attributes"]["sentry.op"]["value"] == "queue.publish"
    assert segment["attributes"]["messaging.destination.name"]["value"] == "later"
    assert len(segment["attributes"]["messaging.message.id"]["value"]) == 32


def test_a_recovered_task_is_in_the_trace_of_its_request_and_has_a_tag_g20_g22(programs: dict[str, Sent]) -> None:
    sent = programs["recovered"]
    assert sent.notes["runs"] == [False, True, True]
    request = header(sent.notes["traceparent"])
    assert request[0] == "0123456789abcdef0123456789abcdef"
    runs = sent.attempts("mail")
    assert [(trace(each), status(each)) for each in runs] == [
        (request, "cancelled"), (request, "cancelled"), (request, "internal_error"),
    ]  # fmt: skip
    assert [own(each).get("recovered") for each in runs] == [None, True, True]
    assert [each["tags"].get("taskphase.recovered") for each in runs] == [None, "true", "true"]
    data = [each["contexts"]["trace"]["data"] for each in runs]
    assert [each.get("taskphase.task.recovered") for each in data] == [None, True, True]
    assert len({own(each)["message_id"] for each in runs}) == 1
    (event,) = sent.all("event")
    assert (trace(event)[0], event["tags"]["taskphase.recovered"]) == (request[0], "true")
    (child,) = sent.attempts("child")
    assert (trace(child)[0], child["tags"].get("taskphase.recovered")) == (request[0], None)
