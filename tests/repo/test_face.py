"""The public face of both packages: the names, their kinds, and the modules that they name."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import pickle
import traceback
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import fastapi_tasks
import fastapi_tasks.errors
import fastapi_tasks.inspector
import fastapi_tasks.queues
import fastapi_tasks.testing
import taskphase
import taskphase.errors
import taskphase.queues
import taskphase.testing
from taskphase._batch import ScopedTaskDefinition
from taskphase._definition import TaskDefinition
from taskphase.opentelemetry import TraceTasks

CORE_ERRORS = [
    "JournalError",
    "HandOverFailed",
    "NoCurrentError",
    "StrayCancellation",
    "TaskCancelled",
    "TaskDropped",
    "TaskFailed",
    "TaskHandedOver",
    "TaskNotFinished",
    "TasksClosedError",
    "TasksError",
    "TasksSaturatedError",
    "TasksUnportableError",
]

BINDING_ERRORS = [
    "FastAPITasksAlreadyAddedError",
    "FastAPITasksError",
    "FastAPITasksUninitializedAppError",
    "FastAPITasksUnsupportedError",
]

# The names that `taskphase` exports, and so `fastapi_tasks`.
SHARED = [
    *CORE_ERRORS,
    "DrainReport",
    "HostStatistics",
    "Journal",
    "JournalEntry",
    "JournalOverview",
    "Limit",
    "LogTasks",
    "Phase",
    "Queue",
    "RetryPolicy",
    "Scope",
    "Task",
    "TaskConfig",
    "TaskErrorHandler",
    "TaskHost",
    "TaskObserver",
    "TaskRetryPolicy",
    "TaskStatus",
    "TasksBatch",
    "TasksScheduler",
    "current_host",
    "current_task",
    "retry",
]

RECORDING = ["JumpClock", "RecordedTasks", "RunMode", "UnexpectedFailures", "record_tasks"]

QUEUES = [
    "Call",
    "HandOverFailed",
    "HandedTask",
    "Queue",
    "TaskHandedOver",
    "TasksUnportableError",
    "running",
]

SIMULATION = [
    *(
        "Call",
        "Cancel",
        "Deadlock",
        "Decision",
        "Deviate",
        "Entry",
        "Fifo",
        "ForeignBlock",
        "Livelock",
        "PCT",
        "Policy",
    ),
    *("RandomWalk", "Replay", "Run", "Throw", "explore", "explore_shutdown", "mark", "pause", "simulate"),
]

FACES: dict[ModuleType, list[str]] = {
    taskphase: SHARED,
    taskphase.errors: [*CORE_ERRORS, "IllegalEvent"],
    fastapi_tasks: [*SHARED, *BINDING_ERRORS, "Tasks", "add_tasks", "get_tasks"],
    fastapi_tasks.inspector: ["History", "router"],
    fastapi_tasks.errors: [*BINDING_ERRORS, *CORE_ERRORS, "IllegalEvent"],
    taskphase.queues: QUEUES,
    fastapi_tasks.queues: QUEUES,
    taskphase.testing: [*RECORDING, *SIMULATION, "QUEUE_CONTRACT", "TaskRecorder", "queue_contract"],
    fastapi_tasks.testing: [*RECORDING, "AppTaskRecorder", "RecordedRequest"],
}

# Each has one class, and imports a package that users install as an extra.
EXTRAS = {
    "sentry": "SentryTasks",
    "prometheus": "PrometheusTasks",
    "opentelemetry": "TraceTasks",
    "taskiq": "TaskiqQueue",
    "celery": "CeleryQueue",
}

PUBLIC_MODULES = {"errors", "inspector", "journal", "queues", "testing", *EXTRAS}

# The public module of each class or function. If both packages export the name, the shorter path.
HOMES = {
    getattr(module, name): module.__name__
    for module in (
        *(fastapi_tasks.testing, fastapi_tasks.inspector, fastapi_tasks.errors, fastapi_tasks),
        *(taskphase.testing, taskphase.queues, taskphase.errors, taskphase),
    )
    for name in FACES[module]
    if isinstance(getattr(module, name), type | FunctionType)
}

SETTINGS = (
    "name=None, shield=None, on_error=None, when=None, timeout=None, retry=None, delay=None, limit=None, run_in=None, "
    "key=None, queue=None"
)
LIMITS = "config=None, max_running=None, max_pending=None, max_threads=40, drain_timeout=0, shield_timeout=None"

each_face = pytest.mark.parametrize("module", FACES, ids=lambda module: module.__name__)


def parameters_of(function: object) -> str:
    """Return a signature as the contract writes it: without types and without `self`."""
    assert callable(function)
    signature = inspect.signature(function)
    bare = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def documented_assignments(package: ModuleType) -> set[str]:
    """Return the names that a string literal below their assignment documents, as editors show it."""
    assert package.__file__ is not None
    names: set[str] = set()
    for path in Path(package.__file__).parent.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for statement, below in pairwise(body):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(target, ast.Name) and is_text:
                names.add(target.id)
    return names


@each_face
def test_a_face_is_exactly_the_names_of_the_contract(module: ModuleType) -> None:
    names: list[str] = module.__all__

    assert sorted(names) == sorted(FACES[module])
    assert module.__doc__


@each_face
def test_no_other_public_name_leaks_out_of_a_face(module: ModuleType) -> None:
    public = {name for name in dir(module) if not name.startswith("_")}

    assert set(FACES[module]) <= public
    assert public - set(FACES[module]) <= PUBLIC_MODULES


@pytest.mark.parametrize("package", [taskphase, fastapi_tasks], ids=lambda package: package.__name__)
def test_a_package_has_no_public_modules_but_these(package: ModuleType) -> None:
    assert package.__file__ is not None
    stems = {path.stem for path in Path(package.__file__).parent.iterdir() if path.name != "py.typed"}

    assert {stem for stem in stems if not stem.startswith("_")} <= PUBLIC_MODULES


@pytest.mark.parametrize("package", [taskphase, fastapi_tasks], ids=lambda package: package.__name__)
@pytest.mark.parametrize(("module", "name"), EXTRAS.items())
def test_a_module_of_an_extra_has_one_class_with_documented_methods(
    package: ModuleType, module: str, name: str
) -> None:
    face = importlib.import_module(f"{package.__name__}.{module}")
    found = getattr(face, name)
    own = {name: value for name, value in vars(found).items() if not name.startswith("_")}

    assert (face.__all__, bool(face.__doc__)) == ([name], True)
    assert found.__doc__
    assert f"{found.__module__}.{found.__qualname__}" == f"taskphase.{module}.{name}"
    assert [name for name, value in own.items() if not value.__doc__] == []


@each_face
def test_every_public_name_is_documented_where_it_is_defined(module: ModuleType) -> None:
    documented = documented_assignments(taskphase) | documented_assignments(fastapi_tasks)

    for name in FACES[module]:
        value = getattr(module, name)
        if isinstance(value, type | FunctionType):
            assert value.__doc__, name
        else:
            assert name in documented


@pytest.mark.parametrize("cls", [cls for cls in HOMES if isinstance(cls, type)], ids=lambda cls: cls.__name__)
def test_every_public_method_of_a_public_class_is_documented(cls: type) -> None:
    own = [part for part in cls.__mro__ if HOMES.get(part)]
    members = {name: value for part in own for name, value in vars(part).items() if not name.startswith("_")}
    kinds = (FunctionType, property, classmethod, staticmethod)

    assert [name for name, value in members.items() if isinstance(value, kinds) and not value.__doc__] == []


def test_the_binding_offers_every_public_name_of_the_core() -> None:
    assert set(taskphase.__all__) <= set(fastapi_tasks.__all__)
    assert [name for name in taskphase.__all__ if getattr(fastapi_tasks, name) is not getattr(taskphase, name)] == []
    assert all(getattr(taskphase, name) is getattr(taskphase.errors, name) for name in CORE_ERRORS)
    assert all(getattr(fastapi_tasks, name) is getattr(fastapi_tasks.errors, name) for name in BINDING_ERRORS)


@pytest.mark.parametrize("value", HOMES, ids=lambda value: value.__name__)
def test_a_public_class_or_function_says_that_it_comes_from_the_public_package(value: Any) -> None:
    assert f"{value.__module__}.{value.__qualname__}" == f"{HOMES[value]}.{value.__name__}"
    assert pickle.loads(pickle.dumps(value)) is value  # unpickled by name


def test_a_traceback_names_the_public_package_and_no_private_module() -> None:
    with pytest.raises(taskphase.TasksClosedError) as caught:
        taskphase.TaskHost().scope()

    last = traceback.format_exception_only(caught.value)[-1]
    assert last.startswith("taskphase.TasksClosedError: ")


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (
            fastapi_tasks.add_tasks,
            f"(app, *, {LIMITS}, hold=False, observers=(), queues=(), journal=None, telemetry=None)",
        ),
        (TraceTasks, "(*, tracer_provider=None, meter_provider=None, trace='child')"),
        (taskphase.TaskHost, f"(*, {LIMITS}, observers=(), queues=(), journal=None)"),
        (taskphase.TaskHost.__init__, f"(*, {LIMITS}, observers=(), queues=(), journal=None)"),
        (fastapi_tasks.inspector.History, "(keep=1000, failures=200, *, arguments=False)"),
        (
            fastapi_tasks.inspector.router,
            "(history, *, prefix='', dependencies=(), allow_unauthenticated=False)",
        ),
        (taskphase.TaskConfig, f"({SETTINGS})"),
        (taskphase.TasksScheduler, f"(tg, config={taskphase.TaskConfig()})"),
        (taskphase.TasksBatch, "()"),
        (taskphase.Task, f"(func, args=(), kwargs=None, config={taskphase.TaskConfig()})"),
        (taskphase.testing.record_tasks, "(host=None, *, run='normal', timeout=10)"),
        (fastapi_tasks.testing.record_tasks, "(app, *, run='normal', timeout=10)"),
        (taskphase.testing.JumpClock, "()"),
        (taskphase.LogTasks, f"(level={logging.DEBUG})"),
        (taskphase.retry, f"(*, attempts=3, on={Exception}, backoff=1.0, jitter=True, max_delay=60.0)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__qualname__,
)
def test_each_signature_is_as_in_the_contract(function: object, parameters: str) -> None:
    assert parameters_of(function) == parameters


def test_everything_that_schedules_has_the_same_two_methods() -> None:
    for each in [
        taskphase.TaskHost,
        taskphase.TasksScheduler,
        taskphase.TasksBatch,
        TaskDefinition,
        ScopedTaskDefinition,
    ]:
        assert parameters_of(each.schedule) == "(func, /, *args, **kwargs)"
        assert parameters_of(each.task) == f"(*, {SETTINGS})"
    assert {"after_route", "after_response"} <= set(dir(ScopedTaskDefinition))


def test_settings_are_frozen_and_slotted() -> None:
    config = taskphase.TaskConfig(name="a")

    with pytest.raises(FrozenInstanceError):
        config.name = "b"  # type: ignore[misc]
    assert not hasattr(config, "__dict__")
    assert config.name == "a"
