"""`PrometheusTasks`: metrics of tasks for prometheus_client, from any thread and without a polling loop."""

from taskphase.prometheus import PrometheusTasks

__all__ = ["PrometheusTasks"]
