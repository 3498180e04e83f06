"""A client that openapi-python-client makes from the document, and that works."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.serving import ON_UVLOOP, service

pytestmark = ON_UVLOOP

NAME = "client_from_the_document"


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the client and returns what imports its modules."""

    def generate(document: dict[str, Any]) -> Any:
        (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
        # Nothing but the client itself: no formatter runs over it.
        (tmp_path / "generator.yaml").write_text("post_hooks: []\n", encoding="utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
                *("--path", "openapi.json", "--config", "generator.yaml"),
                *("--meta", "none", "--output-path", NAME),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in (done.stdout + done.stderr).upper()
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            monkeypatch.delitem(sys.modules, name)

        def module(name: str = "") -> ModuleType:
            return importlib.import_module(f"{NAME}.{name}" if name else NAME)

        return module

    return generate


@pytest.mark.parametrize("token", [None, "of-this-test"], ids=["without a token", "with a token"])
async def test_it_adds_cancels_and_tells_problems_apart(
    tmp_path: Path, generated: Any, token: str | None
) -> None:
    async with service(tmp_path, api_token=token.encode() if token else None) as served:
        module = generated(await served.get("/api/docs/openapi.json"))
        models, url = module("models"), f"http://127.0.0.1:{served.port}"
        strict = {"base_url": url, "raise_on_unexpected_status": True}
        if token:
            client = module().AuthenticatedClient(token=token, **strict)
        else:
            client = module().Client(**strict)

        async def ask(operation: str, *path: object, **arguments: object) -> Any:
            answer = module(f"api.{operation}").asyncio_detailed
            return await answer(*path, client=client, **arguments)

        async with client:
            first = await ask("tasks.add_task", body=models.NewTask(num=2**63 - 1, timeout=600))
            assert (first.status_code, first.headers["location"]) == (201, "/api/v1/tasks/1")
            assert isinstance(first.parsed, models.Task)
            assert (first.parsed.num, first.parsed.state) == (2**63 - 1, models.State.WAITING)

            tasks = [models.NewTask(num=num, timeout=0.5) for num in range(3)]
            batch = await ask("tasks.add_tasks", body=models.NewBatch(tasks=tasks))
            assert (batch.parsed.first, batch.parsed.last, batch.parsed.count) == (2, 4, 3)

            cancelled = await ask("tasks.cancel_task", 1)
            assert cancelled.parsed.state is models.State.CANCELLED
            assert (await ask("tasks.cancel_tasks", from_=2, to=9)).parsed.count == 3
            queue = (await ask("queue.get_queue")).parsed
            assert (queue.depth, queue.head) == (0, None)

            wrong = await ask("tasks.add_task", body=models.NewTask(num=1, timeout=-1))
            assert wrong.status_code == 400
            assert isinstance(wrong.parsed, models.InvalidProblem)
            assert wrong.parsed.status.value == 400
            assert wrong.parsed.applied is False
            assert [fault.pointer for fault in wrong.parsed.errors] == ["/timeout"]

            missing = await ask("tasks.get_task", 77)
            assert missing.status_code == 404
            assert isinstance(missing.parsed, models.NotFoundProblem)
            assert missing.parsed.type_.value == "urn:sanic-app:problem:not-found"
            assert isinstance((await ask("tasks.cancel_task", 1)).parsed, models.FinishedProblem)
