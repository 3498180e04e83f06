"""The engine PostgreSQL: one queue in one schema, shared by any number of nodes."""

DRIVER_MISSING = "the driver of PostgreSQL is missing: pip install 'sanic-app[postgres]'"
"""What an import of the modules in here means when it fails."""
