"""The commands: those that speak HTTP to a running service, and those that work on a store."""

COMMANDS = {
    "add": "Add a task, or with --file a batch; with --wait return when it is finished.",
    "task": "Show one task; with --wait return when it is finished.",
    "queue": "Show the figures of the queue, and its first tasks.",
    "results": "Show the result list, from --after on.",
    "cancel": "Cancel a task, or those from one history number to another.",
    "pause": "Start no further task; the wait that runs goes on.",
    "resume": "Start tasks again.",
    "health": "Say whether the service of the same settings and flags is ready.",
    "watch": "Show the queue as it moves, until Ctrl+C; with --json a line for each event.",
    "follow": "Print each finished number in order as it is done, or run a command for it.",
}
"""What each command does, as its help says it."""

STORE_COMMANDS = {
    "check": "Say whether a store is whole, without changing it; a service may be using it.",
    "copy": "Copy a whole queue, as of one moment, to a place where there is none.",
}
"""Those that work on a store itself, in service or not."""
