"""`CeleryQueue`: hands tasks over to the workers of a Celery app."""

from taskphase.celery import CeleryQueue

__all__ = ["CeleryQueue"]
