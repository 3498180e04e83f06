"""The OpenAPI document tells the whole truth, and its page is the only HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator

from sanic_app import __version__
from sanic_app.http.blueprints import App, docs
from sanic_app.http.problems import PROBLEMS, URN
from sanic_app.http.schemas import queue_item
from sanic_app.task import SECOND
from tests.serving import ON_UVLOOP, Service, problem, service

pytestmark = ON_UVLOOP

DOCUMENT = "/api/docs/openapi.json"
OPEN = {
    *("/health/live", "/health/ready", "/api/docs", DOCUMENT, "/api/docs/{file}"),
    *("/", "/page/{file}"),
}
BEARER: dict[str, list[str]] = {"bearer": []}
TOKENS: list[dict[str, Any]] = [{}, {"api_token": b"secret"}, {"metrics_token": b"scrape"}]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def routes(app: App) -> set[tuple[str, str]]:
    return {
        (method, "/" + re.sub(r"<(\w+)(:[^>]*)?>", r"{\1}", route.path))
        for route in app.router.routes
        for method in route.methods - {"HEAD"}
    }


def examples(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Find every example below the node, with where it stands and the schema it is one of."""
    if isinstance(node, list):
        for index, part in enumerate(node):
            yield from examples(part, f"{place}/{index}")
    elif isinstance(node, dict):
        if "schema" in node:
            if "example" in node:
                yield place, node["schema"], node["example"]
            for name, example in node.get("examples", {}).items():
                yield f"{place}/{name}", node["schema"], example["value"]
        elif isinstance(node.get("examples"), list):
            for example in node["examples"]:
                yield place, node, example
        for name, part in node.items():
            if name not in ("example", "examples"):
                yield from examples(part, f"{place}/{name}")


@pytest.mark.parametrize("tokens", TOKENS, ids=["no token", "api token", "metrics token"])
async def test_the_document_is_valid(tmp_path: Path, tokens: dict[str, Any]) -> None:
    async with service(tmp_path, **tokens) as served:
        document = await served.get(DOCUMENT)
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == __version__
    assert document["info"]["license"] == {"name": "MIT", "identifier": "MIT"}


async def test_each_route_stands_in_the_document_and_the_other_way_round(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        document = await served.get(DOCUMENT)
        described = {(method, path) for method, path, _ in operations(document)}
        assert described == routes(served.app)
        # Linters refuse a path that ends with a slash. The service answers with and without it.
        assert [path for path in document["paths"] if path.endswith("/")] == ["/"]


async def test_each_operation_has_a_name_a_summary_and_a_known_tag(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        document = await served.get(DOCUMENT)
    tags = {tag["name"] for tag in document["tags"]}
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for method, path, operation in operations(document):
        assert operation["summary"].endswith("."), (method, path)
        assert operation["description"].endswith("."), (method, path)
        assert operation["description"] != operation["summary"]
        assert set(operation["tags"]) <= tags, (method, path)


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for part in node:
            yield from schemas(part)
    elif isinstance(node, dict):
        yield node
        for name, part in node.items():
            if name not in ("example", "examples", "enum"):
                yield from schemas(part)


async def test_values_that_are_listed_have_their_type(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        document = await served.get(DOCUMENT)
    found = [schema for schema in schemas(document) if "enum" in schema or "const" in schema]
    assert len(found) > 10
    # Generators of clients need it, and don't know a const that is no text.
    assert [schema for schema in found if "type" not in schema] == []
    assert [schema for schema in found if "const" in schema and schema["type"] != "string"] == []


async def test_every_part_is_described_and_used(tmp_path: Path) -> None:
    for tokens in TOKENS:
        async with service(tmp_path, **tokens) as served:
            document = await served.get(DOCUMENT)
        text = json.dumps(document)
        for place, parts in document["components"].items():
            for name, part in parts.items():
                assert place == "schemas" or part["description"], (place, name)
                used = f'"#/components/{place}/{name}"' in text or place == "securitySchemes"
                assert used, (place, name)
        assert len([path for path in document["paths"] if path.startswith("/api/docs")]) == 3


async def test_each_problem_stands_in_the_document(tmp_path: Path) -> None:
    async with service(tmp_path, api_token=b"secret") as served:
        served.client.headers["Authorization"] = "Bearer secret"
        document = await served.get(DOCUMENT)
    components = document["components"]
    slugs = {slug for slug, _, _ in PROBLEMS.values()}
    assert set(components["schemas"]["Problem"]["properties"]["type"]["enum"]) == {
        URN + slug for slug in slugs
    }
    answered = {
        slug
        for answer in components["responses"].values()
        for slug in answer["content"]["application/problem+json"]["examples"]
    }
    assert answered == slugs


async def test_each_example_is_one(tmp_path: Path) -> None:
    async with service(tmp_path, timeout_max_us=SECOND // 2) as served:
        document = await served.get(DOCUMENT)
    found = list(examples(document))
    assert len(found) > 50
    for place, schema, example in found:
        whole = {**schema, "components": document["components"]}
        validator = OAS31Validator(whole, format_checker=oas31_format_checker)
        assert not list(validator.iter_errors(example)), place


async def test_two_applications_in_a_process_get_a_whole_document_each(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with service(tmp_path, timeout_max_us=5 * SECOND) as one:
        async with service(tmp_path / "other", timeout_max_us=9 * SECOND) as other:
            both = [await served.get(DOCUMENT) for served in (one, other)]
            for document in both:
                described = {(method, path) for method, path, _ in operations(document)}
                assert described == routes(one.app)
        assert await one.get(DOCUMENT) == both[0]
    limits = [d["components"]["schemas"]["NewTask"]["properties"]["timeout"] for d in both]
    assert [limit["maximum"] for limit in limits] == [5, 9]


async def test_with_a_token_all_but_health_and_documentation_ask_for_it(tmp_path: Path) -> None:
    async with service(tmp_path, api_token=b"secret") as served:
        document = await served.get(DOCUMENT)
        assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        for method, path, operation in operations(document):
            given = path.format(history_num=1, file="page.css")
            answer = await served.client.request(method, given)
            assert (answer.status_code == 401) == (path not in OPEN), path
            assert operation["security"] == ([] if path in OPEN else [BEARER]), path
            assert ("401" in operation["responses"]) == (path not in OPEN), path


async def test_without_a_token_the_document_asks_for_none(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        document = await served.get(DOCUMENT)
    for _, path, operation in operations(document):
        assert operation["security"] == ([] if path in OPEN else [{}, BEARER]), path
        assert "401" not in operation["responses"], path


async def test_a_metrics_token_stands_at_the_metrics_alone(tmp_path: Path) -> None:
    async with service(tmp_path, metrics_token=b"scrape") as served:
        document = await served.get(DOCUMENT)
    asked = [path for _, path, o in operations(document) if o.get("security") == [BEARER]]
    assert asked == ["/metrics"]


async def test_every_answer_to_an_undeclared_method_is_a_declared_405(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        document = await served.get(DOCUMENT)
        for path, methods in document["paths"].items():
            answer = await served.client.put(path.format(history_num=1, file="page.css"))
            problem(answer, "method-not-allowed", 405)
            head = {"head"} if "get" in methods else set()
            allowed = sorted({*methods, *head, "options"})
            assert answer.headers["allow"].lower().split(", ") == allowed, path
            assert all("405" in operation["responses"] for operation in methods.values())


@pytest.mark.parametrize("version", ["", "0.0.1", "1.0.0", "99", "abc", "1.x", "1.0.0-2", ";"])
async def test_metrics_come_in_a_declared_format(tmp_path: Path, version: str) -> None:
    async with service(tmp_path) as served:
        document = await served.get(DOCUMENT)
        declared = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
        for kind in declared:
            accept = {"Accept": f"{kind}; version={version}"}
            answer = await served.client.get("/metrics", headers=accept)
            assert answer.status_code == 200
            assert answer.headers["content-type"].partition(";")[0] in declared


async def test_the_store_writes_the_whole_queue_in_the_same_shape(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for timeout in (600, 0.5, 0.000001, 3):
            await served.add(-7, timeout)
        tasks = await served.store.queue_page(0, 10)
        text = (await served.store.queue_slice(0, 10)).text
    assert json.loads(f"[{text}]") == [queue_item(task) for task in tasks]
    assert list(json.loads(f"[{text}]")[0]) == list(queue_item(tasks[0]))


# The page.


@pytest.mark.parametrize("path", ["/api/docs", "/api/docs/", "/api/docs/?any=thing"])
async def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path, path: str) -> None:
    async with service(tmp_path, api_token=b"secret") as served:
        answer = await served.client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        loaded = re.findall(r'(?:src|href)="([^"]*)"', answer.text)
        assert len(loaded) == 4
        for file in loaded:
            assert not file.startswith("/"), file
            found = await served.client.get(urljoin(path, file))
            assert found.status_code == 200, file
            assert found.headers["content-type"].partition(";")[0] != "text/html", file
    assert "<script>" not in answer.text
    assert "://" not in answer.text + docs.INITIALIZER.decode()


@pytest.mark.parametrize("base", ["", "/queue"])
async def test_absolute_paths_are_those_of_the_proxy(tmp_path: Path, base: str) -> None:
    async with service(tmp_path, base_path=base) as served:
        for _ in range(3):
            await served.add(1, 0)
        await served.until_empty()
        added = await served.client.post("/api/v1/tasks", json={"num": 1, "timeout": 600})
        assert added.headers["location"] == f"{base}/api/v1/tasks/4"
        await served.add(1, 600)
        for path, last in (("/api/v1/tasks", 4), ("/api/v1/results", 1)):
            link = (await served.client.get(f"{path}?limit=1")).headers["link"]
            assert link == f'<{base}{path}?limit=1&after={last}>; rel="next"'
        document = await served.get(DOCUMENT)
        assert [server["url"] for server in document["servers"]] == [base or "/"]
        location = document["components"]["headers"]["Location"]
        assert re.search(location["schema"]["pattern"], added.headers["location"])


async def test_its_policy_allows_this_origin_alone(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for path in ("/api/docs/", DOCUMENT, "/api/docs/swagger-ui.css"):
            headers = (await served.client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "//" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"


async def test_a_client_that_has_a_file_gets_it_once(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for path in ("/api/docs/", DOCUMENT, "/api/docs/swagger-ui-bundle.js"):
            tag = (await served.client.get(path)).headers["etag"]
            for known in ([tag], [f'"other", W/{tag}'], ['"other"', tag], ["*"]):
                headers = [("If-None-Match", each) for each in known]
                again = await served.client.get(path, headers=headers)
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == tag
            other = await served.client.get(path, headers={"If-None-Match": '"other"'})
            assert other.status_code == 200


async def test_a_file_that_the_page_does_not_load_is_not_there(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for name in ("index.html", "swagger-editor.js", "%2e%2e", "..%2fcore.py"):
            problem(await served.client.get(f"/api/docs/{name}"), "not-found", 404)


async def test_nothing_but_the_page_answers_html(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1)
        accept = {"Accept": "text/html"}
        others = {("GET", "/"), ("GET", "/api/docs"), ("GET", "/api/v1/events")}
        for _, path in routes(served.app) - others:
            for given in (path.format(history_num=1, file="page.css"), f"{path}/nothing"):
                answer = await served.client.get(given, headers=accept)
                assert "html" not in answer.headers["content-type"], given


async def test_the_documentation_adds_nothing_to_the_way_of_a_request(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        assert not on_the_way(served)


def on_the_way(served: Service) -> list[str]:
    """Return what the framework would call for each request besides the handler."""
    app = served.app
    signals = [s.name for s in app.signal_router.routes if s.name.startswith("http.")]
    return [*signals, *map(repr, (*app.request_middleware, *app.response_middleware))]


async def test_without_its_files_the_service_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="swagger-ui-py"):
        docs._files.__wrapped__()
