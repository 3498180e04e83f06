"""A durable queue that works through its tasks one at a time, in order."""

__version__ = "0.1.0"
