"""G7: the arguments of a call are found by parameter, as the call finds them."""

from __future__ import annotations

from inspect import signature

from taskphase._machine.bound import bind


def test_a_keyword_named_like_a_positional_only_parameter_is_one_of_the_others_g7() -> None:
    def func(a: int = 0, /, **others: int) -> None: ...

    bound = bind(signature(func), (), {"a": 1, "b": 2})
    assert (bound.args, bound.kwargs) == ((), {"a": 1, "b": 2})
    bound = bind(signature(func), (3,), {"a": 1})
    assert (bound.args, bound.kwargs) == ((3,), {"a": 1})
