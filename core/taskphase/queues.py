"""Queues: hand tasks over to an engine whose workers run them in other processes.

`taskphase.taskiq` and `taskphase.celery` have a queue each. For another engine make a subclass of `Queue`.
"""

from ._handed import HandedTask, running
from ._queue import Call, Queue
from .errors import HandOverFailed, TaskHandedOver, TasksUnportableError

__all__ = ["Call", "HandOverFailed", "HandedTask", "Queue", "TaskHandedOver", "TasksUnportableError", "running"]

for _each in (Call, HandedTask, running):  # `Queue` is a name of `taskphase`, too
    _each.__module__ = __name__
