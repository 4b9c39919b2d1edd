"""`SentryTasks`: each attempt of a task has a transaction, tags and breadcrumbs of its own in Sentry."""

from taskphase.sentry import SentryTasks

__all__ = ["SentryTasks"]
