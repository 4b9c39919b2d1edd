"""Editors show the text that a user needs: hover texts and completion, as pyright's language server gives them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from inspect import signature
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from fastapi_tasks import TaskConfig, add_tasks, retry

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 60.0  # seconds; a start and all questions take about 4

MAIN = """\
from fastapi import FastAPI

from fastapi_tasks import Limit, Task, TaskConfig, Tasks, add_tasks, current_host, retry

app = FastAPI()
add_tasks(app, config=TaskConfig(retry=retry(attempts=3)))
few = Limit(3)


async def send(to: str) -> bool:
    return bool(to)


@app.post("/")
async def create(tasks: Tasks) -> Task[bool]:
    task = tasks.schedule(send, "ada")
    tasks.after_route.schedule(send, "ada")
    tasks.after_response.schedule(send, "ada")
    settings = tasks.task(timeout=5)
    settings.after_response.schedule(send, "ada")
    current_host().schedule(send, "ada")
    await task
    return task


def complete(tasks: Tasks) -> None:
    tasks.
    tasks.task().
    current_host().task().
"""


class LanguageServer:
    """pyright's language server, with one open file.

    The messages are those of the Language Server Protocol: JSON-RPC, each after a header with its length.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self._text = text
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyright.langserver", "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
        )
        self._timer = Timer(WITHIN, self._process.kill)  # then `_read()` raises
        self._timer.start()
        path = folder / "main.py"
        path.write_text(text)
        self._file = {"uri": path.as_uri()}
        self._request(
            "initialize",
            processId=None,
            rootUri=folder.as_uri(),
            workspaceFolders=[{"uri": folder.as_uri(), "name": "main"}],
            capabilities={"workspace": {"configuration": True}},
        )
        self._send(method="initialized", params={})
        document = {**self._file, "languageId": "python", "version": 1, "text": text}
        self._send(method="textDocument/didOpen", params={"textDocument": document})

    def close(self) -> None:
        try:
            self._request("shutdown")
            self._send(method="exit")
            self._process.wait(10)
        finally:
            self._timer.cancel()
            self._process.kill()
            self._process.communicate()

    def hover(self, code: str, word: str) -> str:
        """Return the hover text of `word` in the first place with `code`, on one line."""
        found = self._request("textDocument/hover", textDocument=self._file, position=self._place(code, word))
        return " ".join(found["contents"]["value"].split())

    def completion(self, code: str) -> set[str]:
        """Return the completion behind `code`, which ends a line, without private names."""
        place = self._place(f"{code}\n", "\n")
        found = self._request("textDocument/completion", textDocument=self._file, position=place)
        return {item["label"] for item in found["items"] if not item["label"].startswith("_")}

    def _place(self, code: str, word: str) -> dict[str, int]:
        at = self._text.index(code) + code.index(word)
        return {"line": self._text.count("\n", 0, at), "character": at - self._text.rfind("\n", 0, at) - 1}

    def _request(self, method: str, **params: Any) -> Any:
        self._count += 1
        self._send(id=self._count, method=method, params=params or None)
        while True:
            message = self._read()
            if "method" not in message:
                assert message["id"] == self._count
                return message["result"]
            if "id" in message:
                self._send(id=message["id"], result=self._answer(message))

    def _answer(self, message: dict[str, Any]) -> object:
        """Return the answer to a question of the server, which asks for settings."""
        if message["method"] != "workspace/configuration":
            return None
        analysis = {"extraPaths": [str(ROOT / "core"), str(ROOT / "fastapi_binding")]}
        settings: dict[str, object] = {"python": {"pythonPath": sys.executable}, "python.analysis": analysis}
        return [settings.get(item["section"], {}) for item in message["params"]["items"]]

    def _send(self, **message: Any) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while line := self._process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the language server has ended"
        found: dict[str, Any] = json.loads(self._process.stdout.read(length))
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LanguageServer]:
    server = LanguageServer(tmp_path_factory.mktemp("hover"), MAIN)
    try:
        yield server
    finally:
        server.close()


def parameters_of(function: Any) -> list[str]:
    return [f":param {name}: " for name in signature(function).parameters if name != "app"]


SETTINGS = parameters_of(TaskConfig)


@pytest.mark.parametrize(
    ("code", "word", "essentials"),
    [
        ("add_tasks(app", "add_tasks", ["`tasks: Tasks`", "shutdown", *parameters_of(add_tasks)]),
        ("tasks: Tasks", "Tasks", ["endpoint", "dependency", "add_tasks(app)", "at once", "the request is over"]),
        ("tasks.schedule", "schedule", ["at once", "never starts inside", ":param func: ", ":return: ", "context"]),
        ("tasks.after_route", "after_route", ["endpoint has returned", "before the response", "yield", "dropped"]),
        ("tasks.after_response", "after_response", ["request is over", "sent", "yield", "client has left", "dropped"]),
        ("settings.after_response", "after_response", ["request is over", "sent", "dropped"]),
        ("tasks.task(", "task(", ["inherited", "name: str | None = None", *SETTINGS]),
        ("TaskConfig(", "TaskConfig", ["inherited", "timeout: float | timedelta | None = None", *SETTINGS]),
        ("retry(attempts", "retry", ["attempts: int = 3", "runs again", *parameters_of(retry)]),
        ("Limit(3", "Limit", ["at a time", "outside of the endpoint", ":param most: ", ":param max_pending: "]),
        ("-> Task", "Task", ["await task", "cancel()", "status", "without a reference"]),
        ("await task", "task", ["task: Task[bool]", "For a scheduled task write `await task`"]),
        ("current_host()", "current_host", ["FastAPI app", "`tasks: Tasks`", ":raises NoCurrentError: "]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hover_text_says_what_the_reader_must_know(
    server: LanguageServer, code: str, word: str, essentials: list[str]
) -> None:
    text = server.hover(code, word)
    assert [essential for essential in essentials if essential.strip() not in text] == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("    tasks.", {"schedule", "task", "after_route", "after_response", "tg"}),
        ("    tasks.task().", {"schedule", "task", "after_route", "after_response"}),
        ("    current_host().task().", {"schedule", "task"}),
    ],
)
def test_completion_offers_exactly_the_names_for_endpoints(server: LanguageServer, code: str, names: set[str]) -> None:
    assert server.completion(code) == names
