"""The command line that speaks HTTP to a running service."""

COMMANDS = ("add", "task", "queue", "results", "cancel", "pause", "resume", "watch")
