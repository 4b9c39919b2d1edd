"""Queues: hand tasks over to an engine whose workers run them in other processes. See `taskphase.queues`."""

from taskphase.queues import Call, HandedTask, HandOverFailed, Queue, TaskHandedOver, TasksUnportableError, running

__all__ = ["Call", "HandOverFailed", "HandedTask", "Queue", "TaskHandedOver", "TasksUnportableError", "running"]
