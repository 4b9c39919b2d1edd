"""`TaskiqQueue`: hands tasks over to the workers of a Taskiq broker."""

from taskphase.taskiq import TaskiqQueue

__all__ = ["TaskiqQueue"]
