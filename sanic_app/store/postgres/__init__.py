"""The engine PostgreSQL: one queue in one schema, shared by any number of nodes."""
