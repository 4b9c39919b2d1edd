"""G22, G24: any order of writes, ends, deaths, closings and take-overs of several hosts, compared with a model."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.taskphase.journal.stores import row

from taskphase.journal import _statements
from taskphase.journal._file import File, transact
from taskphase.journal._statements import Doubts

RECOVERIES = 2
FUNCTIONS = {"old": frozenset({"app.send", "app.old"}), "new": frozenset({"app.send", "app.new"})}
NUMBERS = st.integers(0, 100)


@dataclass
class Known:
    """What the model knows of a task."""

    function: str
    key: str | None
    state: str = "due"
    owner: str | None = None
    deaths: int = 0
    is_counted: bool = False


@dataclass
class Host:
    functions: frozenset[str]
    runs: list[str] = field(default_factory=list)


class Journals(RuleBasedStateMachine):
    """Hosts of two versions of an app. A host that dies forgets all; its rows stay."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.connection = File(Path(self.folder.name) / "tasks.db", "normal", 5).connect()
        self.tasks: dict[str, Known] = {}
        self.hosts: dict[str, Host] = {}
        self.count = 0

    def teardown(self) -> None:
        self.connection.close()
        self.folder.cleanup()

    def transact(self, work: Any, *args: Any, **options: Any) -> Any:
        found: list[Any] = []
        transact(self.connection, lambda: found.append(work(self.connection, *args, **options)))
        return found[0]

    def host(self, number: int) -> tuple[str, Host]:
        return list(self.hosts.items())[number % len(self.hosts)]

    @rule(version=st.sampled_from(sorted(FUNCTIONS)))
    def opens(self, version: str) -> None:
        self.count += 1
        self.hosts[f"host {self.count}"] = Host(FUNCTIONS[version])

    @precondition(lambda self: self.hosts)
    @rule(number=NUMBERS, which=NUMBERS, keys=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=3))
    def writes(self, number: int, which: int, keys: list[str | None]) -> None:
        name, host = self.host(number)
        function = sorted(host.functions)[which % 2]
        rows = []
        for key in keys:
            self.count += 1
            rows.append(row(function, key=key, message_id=f"task {self.count}"))
        refused = self.transact(_statements.write, name, rows)
        for each in rows:
            is_taken = each.key is not None and any(
                (task.function, task.key, task.state) == (function, each.key, "due") for task in self.tasks.values()
            )
            assert is_taken == (each.message_id in refused)
            if not is_taken:
                self.tasks[each.message_id] = Known(function, each.key, owner=name)
                host.runs.append(each.message_id)

    @precondition(lambda self: any(host.runs for host in self.hosts.values()))
    @rule(number=NUMBERS, succeeds=st.booleans())
    def ends(self, number: int, succeeds: bool) -> None:
        running = [(host, each) for host in self.hosts.values() for each in host.runs]
        host, message_id = running[number % len(running)]
        host.runs.remove(message_id)
        if message_id not in self.tasks:  # discarded
            return
        if succeeds:
            self.transact(_statements.strike_out, [message_id])
            del self.tasks[message_id]
        else:
            self.transact(_statements.keep_failed, message_id, "error")
            self.tasks[message_id].state, self.tasks[message_id].owner = "failed", None

    @precondition(lambda self: self.hosts)
    @rule(number=NUMBERS, most=st.integers(1, 5), suspects=st.integers(0, 2), step=st.booleans())
    def takes(self, number: int, most: int, suspects: int, step: bool) -> None:
        name, host = self.host(number)
        others = {other: each.functions for other, each in self.hosts.items() if other != name}
        limits = {"recoveries": RECOVERIES, "most": most, "suspects": suspects}
        doubts = Doubts(count(step=1000).__next__)  # the grace is over at once
        taken = self.transact(_statements.take, name, host.functions, others, doubts=doubts, **limits)
        assert sum(each.recoveries > 0 for each in taken.tasks) <= suspects
        running = {each for other in self.hosts.values() for each in other.runs}
        for each in taken.tasks:
            task = self.tasks[each.message_id]
            assert each.message_id not in running, "a task runs in two living hosts"
            assert task.state == "due"
            assert task.owner not in self.hosts
            assert each.recoveries == task.deaths < RECOVERIES
            assert task.function in host.functions
            task.owner, task.is_counted = name, False
            host.runs.append(each.message_id)
            if step:
                assert self.transact(_statements.count_run, name, each.message_id)
                task.is_counted, task.deaths = True, task.deaths + 1
        known = host.functions.union(*others.values())
        for (message_id, function, *_), _ in taken.given_up:
            task = self.tasks[message_id]
            assert task.deaths >= RECOVERIES or function not in known
            assert message_id not in running
            task.state, task.owner = "failed", None
        if len(taken.tasks) < most:
            left = [t for t in self.tasks.values() if t.state == "due" and t.owner not in self.hosts]
            is_over = sum(each.recoveries > 0 for each in taken.tasks) == suspects
            assert all(task.function not in host.functions or (task.deaths and is_over) for task in left), (
                "a task of a dead host is forgotten"
            )

    @precondition(lambda self: self.hosts)
    @rule(number=NUMBERS)
    def dies(self, number: int) -> None:
        name, _ = self.host(number)
        del self.hosts[name]

    @precondition(lambda self: self.hosts)
    @rule(number=NUMBERS)
    def closes(self, number: int) -> None:
        name, _ = self.host(number)
        self.transact(_statements.release, name)
        del self.hosts[name]
        for task in self.tasks.values():
            if task.owner == name and task.state == "due":
                task.owner, task.deaths, task.is_counted = None, task.deaths - task.is_counted, False

    @precondition(lambda self: self.tasks)
    @rule(number=NUMBERS)
    def retries(self, number: int) -> None:
        message_id, task = list(self.tasks.items())[number % len(self.tasks)]
        is_taken = task.key is not None and any(
            (each.function, each.key, each.state) == (task.function, task.key, "due") for each in self.tasks.values()
        )
        try:
            assert self.transact(_statements.retry, message_id) == (task.state == "failed")
        except sqlite3.IntegrityError:
            assert is_taken
        else:
            if task.state == "failed":
                assert not is_taken
                task.state, task.deaths, task.is_counted = "due", 0, False

    @precondition(lambda self: self.tasks)
    @rule(number=NUMBERS)
    def is_discarded(self, number: int) -> None:
        message_id = list(self.tasks)[number % len(self.tasks)]
        assert self.transact(_statements.discard, message_id)
        del self.tasks[message_id]

    @invariant()
    def the_file_equals_the_model(self) -> None:
        found = self.connection.execute("SELECT message_id, state, owner, recoveries FROM tasks ORDER BY number")
        known = {name: (name, task.state, task.owner, task.deaths) for name, task in self.tasks.items()}
        assert sorted(found) == sorted(known.values())


TestJournals = Journals.TestCase
TestJournals.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
