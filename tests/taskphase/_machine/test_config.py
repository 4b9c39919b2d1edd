"""G3: settings of tasks are checked, merged and immutable."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any
from unittest.mock import Mock

import pytest

from taskphase import Limit, TaskConfig


def handler(task: object, exception: Exception) -> None: ...


FULL = TaskConfig(name="a", shield=True, on_error=handler, when="always", timeout=1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": 1}, TypeError, "name must be a str"),
        ({"name": Mock(spec=str)}, TypeError, "name must be a str"),
        ({"shield": "yes"}, TypeError, "shield must be a bool, a number"),
        ({"shield": -1}, ValueError, "shield must be 0 seconds or more"),
        ({"shield": math.nan}, ValueError, "shield must be 0 seconds or more"),
        ({"on_error": "log"}, TypeError, "on_error must be callable"),
        ({"when": "sometimes"}, ValueError, "when must be one of 'success', 'failure', 'always', not 'sometimes'"),
        ({"when": ["always"]}, ValueError, "when must be one of"),
        ({"timeout": -1}, ValueError, "timeout must be 0 seconds or more"),
        ({"timeout": math.nan}, ValueError, "timeout must be 0 seconds or more"),
        ({"delay": math.inf}, ValueError, "delay must be finite and 0 seconds or more"),
        ({"delay": 10**400}, ValueError, "delay must be finite and 0 seconds or more"),
        ({"timeout": 10**400}, ValueError, "timeout must be 0 seconds or more"),
        ({"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds"),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TaskConfig(**settings)


class Jobs(StrEnum):
    MAIL = "send the mail"


class Loud(str):
    """A string whose `repr()` and search methods raise."""

    __slots__ = ()

    def _refuse(self, *args: object) -> Any:
        raise OSError

    __str__ = __repr__ = __format__ = __hash__ = __eq__ = __len__ = _refuse  # type: ignore[assignment]


@pytest.mark.parametrize("name", [Jobs.MAIL, Loud("send the mail")], ids=["StrEnum", "Loud"])
def test_a_name_of_another_class_becomes_a_plain_string_g3(name: str) -> None:
    config = TaskConfig(name=name)
    assert type(config.name) is str
    assert config.name == "send the mail"
    assert config == TaskConfig(name="send the mail") == TaskConfig().merge(config)


def test_tasks_with_the_same_settings_of_their_own_share_the_names_of_the_settings() -> None:
    """A set of names takes more memory than the settings of a task."""
    one, other = TaskConfig(key="a", delay=1), TaskConfig(key="b", delay=2)
    assert one.own is other.own
    assert FULL.shared().merge(one).own is FULL.shared().merge(other).own is one.own


def test_a_handler_that_cannot_take_task_and_exception_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="on_error"):
        TaskConfig(on_error=lambda task: None)  # type: ignore[misc, arg-type]


def test_the_settings_that_the_other_has_win_and_neither_changes() -> None:
    other = TaskConfig(name="b", shield=False)
    merged = FULL.merge(other)
    assert merged == TaskConfig(name="b", shield=False, on_error=handler, when="always", timeout=1)
    assert FULL.name == "a"
    assert other == TaskConfig(name="b", shield=False)


@pytest.mark.parametrize("field", ["name", "shield", "on_error", "when", "timeout"])
def test_a_setting_of_none_inherits(field: str) -> None:
    assert FULL.merge(TaskConfig()) == FULL
    assert TaskConfig().merge(FULL) == FULL
    alone = TaskConfig(**{field: getattr(FULL, field)})
    assert getattr(TaskConfig().merge(alone), field) == getattr(FULL, field)
    assert getattr(alone.merge(TaskConfig(name="x")), field) == ("x" if field == "name" else getattr(FULL, field))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FULL.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(("shield", "shielded"), [(None, False), (False, False), (True, True)])
def test_only_an_explicit_shield_shields(shield: bool | None, shielded: bool) -> None:
    assert TaskConfig(shield=shield).shielded is shielded


@pytest.mark.parametrize(
    "gate",
    [{"delay": 1}, {"limit": Limit(1)}, {"key": "a"}, {"retry": lambda task, error: None}],
    ids=lambda gate: next(iter(gate)),
)
def test_a_task_passes_its_gates_wherever_it_has_them_from_g18_g19_g24(gate: dict[str, Any]) -> None:
    gated, plain = TaskConfig(**gate), TaskConfig(timeout=1)
    assert not plain.is_gated
    assert gated.is_gated
    assert plain.merge(gated).is_gated
    assert gated.merge(plain).is_gated
    assert not TaskConfig(delay=1).merge(TaskConfig(delay=0)).is_gated
