"""A yardstick: the sample's three routes on aiohttp, with everything in memory."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Any

# Optional, and not among the project's pins.
web = importlib.import_module("aiohttp.web")


class Sample:
    """A list, a queue and a coroutine that goes through it."""

    def __init__(self) -> None:
        self._queue: deque[dict[str, Any]] = deque()
        self._result: list[int] = []
        self._arrived = asyncio.Event()
        self._last = 0

    async def add_task(self, request: Any) -> Any:
        fields = await request.json()
        self._last += 1
        task = {
            "history_num": self._last,
            "date_created": datetime.now(UTC).isoformat(),
            "num": int(fields["num"]),
            "timeout": float(fields["timeout"]),
        }
        self._queue.append(task)
        self._arrived.set()
        return web.json_response(task)

    async def get_result(self, request: Any) -> Any:
        return web.json_response({"result": self._result})

    async def get_queue_work(self, request: Any) -> Any:
        return web.json_response({"tasks": list(self._queue)})

    async def work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                await asyncio.sleep(self._queue[0]["timeout"])
                self._result.append(self._queue.popleft()["num"])


async def serve() -> None:
    sample = Sample()
    app = web.Application()
    app.router.add_post("/add_task", sample.add_task)
    app.router.add_get("/get_result", sample.get_result)
    app.router.add_get("/get_queue_work", sample.get_queue_work)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    sys.stderr.write(json.dumps({"port": sock.getsockname()[1]}) + "\n")
    await sample.work()


if __name__ == "__main__":
    uvloop = importlib.import_module("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve())
