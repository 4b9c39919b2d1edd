"""The contract of a queue: what a host expects of a subclass of `Queue`, as a test."""
