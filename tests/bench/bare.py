"""A yardstick: a handler of the same framework that reads the same body and does nothing."""

from __future__ import annotations

import asyncio
import json as plain_json
import socket
import sys

import uvloop
from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

app = Sanic("bare", configure_logging=False)
app.config.ACCESS_LOG = False
app.config.AUTO_EXTEND = False
app.config.MOTD = False


@app.post("/add_task")
async def add_task(request: Request) -> HTTPResponse:
    assert request.json["num"] == 5
    return json({"ok": True})


async def serve() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    server = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
    assert server is not None
    await server.startup()
    await server.before_start()
    await server.after_start()
    sys.stderr.write(plain_json.dumps({"port": sock.getsockname()[1]}) + "\n")
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
