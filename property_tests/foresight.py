"""Predicts the end of an undisturbed task, naively: by following its actions."""

from __future__ import annotations

from collections.abc import Iterator

from property_tests.programs import Cancel, Cling, Fail, Hold, Policy, Sleep, Spec, Wait
from taskphase import TaskStatus

_TOO_CLOSE = 0.01


def ends_of(spec: Spec) -> Iterator[tuple[TaskStatus, int]]:
    """Yield the status and the number of attempts of the end; nothing if the end depends on other tasks or on a tie."""
    attempt = 1
    while True:
        outcome = _attempt(spec, attempt)
        if outcome is None:
            return
        if outcome == "returns":
            yield TaskStatus.SUCCEEDED, attempt
            return
        if not _retries(spec.retry, attempt):
            yield TaskStatus.FAILED, attempt
            return
        attempt += 1


def stops_at_once(spec: Spec) -> bool:
    """Return whether the task, if it is cancelled anywhere, ends without taking time."""
    if spec.sync or (spec.handler is not None and spec.handler.sync):
        return False
    return not any(isinstance(action, Hold | Cling) for action in spec.actions)


def _retries(policy: Policy | None, attempt: int) -> bool:
    return policy is not None and attempt <= policy.retries


def _attempt(spec: Spec, attempt: int) -> str | None:
    """Return "returns" or "raises", or None if the outcome is uncertain."""
    time = 0.0
    for action in spec.actions:
        match action:
            case Fail(attempts) if attempt <= attempts:
                if spec.sync and spec.timeout is not None and abs(time - spec.timeout) < _TOO_CLOSE:
                    return None
                return "raises"  # by itself, or by its timeout
            case Cancel() | Wait() if spec.timeout is not None:
                return None
            case Cling() if spec.timeout is not None:
                return None
            case Sleep(seconds) | Hold(seconds) | Cling(seconds):
                time += seconds
                if spec.timeout is not None and abs(time - spec.timeout) < _TOO_CLOSE:
                    return None
                if spec.timeout is not None and time > spec.timeout and (spec.sync or not isinstance(action, Hold)):
                    return "raises"
            case _:
                pass
    if spec.timeout is not None and (time > spec.timeout or spec.timeout == 0):
        return None
    return "returns"
