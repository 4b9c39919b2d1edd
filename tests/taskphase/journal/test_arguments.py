"""G22: the arguments that a journal carries, and those that it refuses."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskphase import TasksUnportableError
from taskphase.journal._arguments import pack, unpack

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)


def takes(_order: object = None, amount: object = None, *_more: object, **_others: object) -> None: ...


def typed(value: object) -> object:
    """Return something that is equal only for equal values of equal types."""
    if isinstance(value, list):
        return [typed(each) for each in value]
    if isinstance(value, dict):
        return [(key, typed(each)) for key, each in value.items()]
    return type(value), repr(value)


@given(st.lists(VALUES, max_size=3), st.dictionaries(st.text(), VALUES, max_size=3))
def test_arguments_come_back_equal_and_of_the_same_types_g22(args: list[Any], kwargs: dict[str, Any]) -> None:
    text = pack("f", takes, tuple(args), kwargs)
    text.encode()  # SQLite takes only this
    got_args, got_kwargs = unpack(text)
    assert type(got_args) is tuple
    assert typed([list(got_args), got_kwargs]) == typed([args, kwargs])


def test_lone_surrogates_come_back_g22() -> None:
    assert unpack(pack("f", takes, ("\ud800",), {})) == (("\ud800",), {})


class Level(IntEnum):
    HIGH = 1


class Text(str):
    __slots__ = ()


DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)

REFUSED: dict[str, Any] = {
    "tuple": (1, 2),
    "tuple inside": {"a": [(1, 2)]},
    "nan": math.nan,
    "infinity": [math.inf],
    "enum": Level.HIGH,
    "subclass of str": Text("secret"),
    "subclass of dict": OrderedDict(a=1),
    "int as key": {1: "secret"},
    "subclass as key": {Text("secret"): 1},
    "bytes": b"secret",
    "object": object(),
    "huge int": 10**5000,
    "deep": DEEP,
    "circle": CIRCLE,
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_other_arguments_are_refused_by_name_and_without_their_values_g22(value: Any) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((1, value), {}, "argument 'amount' of"),
        ((1, 2, value), {}, "argument 3 of"),
        ((), {"order": value}, "argument 'order' of"),
    ]
    for args, kwargs, name in calls:
        with pytest.raises(TasksUnportableError) as raised:
            pack("app.send", takes, args, kwargs)
        text = str(raised.value)
        assert "app.send" in text
        assert name in text or value == 10**5000
        assert "secret" not in text


def test_the_deepest_list_that_is_taken_comes_back_g22() -> None:
    assert unpack(pack("f", takes, (DEEP[0],), {})) == ((DEEP[0],), {})


def test_arguments_that_are_no_json_are_an_error_of_the_file_g22() -> None:
    with pytest.raises(ValueError):
        unpack("[")
    assert issubclass(json.JSONDecodeError, ValueError)
