"""Imports run downwards only, without circles (ARCHITECTURE.md, "The house")."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sanic_app"

ROOMS = [
    "__main__",
    "command_line",
    "client",
    "process",
    "app",
    "lifecycle",
    "http.blueprints",
    "http.openapi",
    "http.openapi_operations",
    "http.openapi_parameters",
    "http.connection",
    "http.cycle",
    "http.receiver",
    "http.request",
    "http.framing",
    "http.guard",
    "http.problems",
    "http.feed",
    "http.news",
    "http.listeners",
    "http.journal",
    "http.untold",
    "http.bodies",
    "http.parameters",
    "http.schemas",
    "http.shape",
    "http.routes",
    "http",
    "queue.worker",
    "queue",
    "queue.follower",
    "queue.observer",
    "queue.retry",
    "queue.view",
    "queue.waiters",
    "queue.head",
    "queue.condition",
    "queue.writer",
    "queue.tries",
    "queue.waiting",
    "queue.outlook",
    "store.sqlite.target",
    "store.sqlite.snapshot",
    "store.sqlite.store",
    "store.sqlite.committer",
    "store.sqlite.reads",
    "store.sqlite.checkpointer",
    "store.sqlite.file",
    "store.sqlite.connections",
    "store.sqlite.schema",
    "store.sqlite.watch",
    "store.sqlite.wal",
    "store.sqlite.lease",
    "store.sqlite.disk",
    "store.sqlite.failures",
    "store.sqlite.rows",
    "store.sqlite.origin",
    "store.postgres.target",
    "store.postgres.snapshot",
    "store.postgres.catalogue",
    "store.postgres.bulk",
    "store.postgres.store",
    "store.postgres.changes",
    "store.postgres.committer",
    "store.postgres.outcome",
    "store.postgres.reads",
    "store.postgres.schema",
    "store.postgres.rows",
    "store.postgres.opening",
    "store.postgres.foreseen",
    "store.postgres.messages",
    "store.postgres.link",
    "store.postgres.servers",
    "store.postgres.hosts",
    "store.postgres.failures",
    "store.postgres",
    "store.sqlite",
    "store.migrations",
    "store.reads",
    "store.rows",
    "store.stamps",
    "store.isolation",
    "store.audit",
    "store.audit.figures",
    "store.audit.rows",
    "store.audit.order",
    "store.audit.sums",
    "store.audit.queries",
    "store.consistency",
    "store.snapshot",
    "store.transition",
    "store.retention",
    "store.skipped",
    "store.keys",
    "store",
    "metrics",
    "settings",
    "settings.values",
    "supervisor",
    "log",
    "clock",
    "task",
    "errors",
    "files",
    "signals",
]
"""From top to bottom: a room may use those that stand below it. A new room gets its place here."""

SANIC = {"sanic", "sanic_ext", "sanic_routing"}


def modules() -> dict[str, Path]:
    """Return the package's modules by name, without the package's own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Return the names that a module imports, its own package's with ``sanic_app.`` before them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            found |= {
                full
                if (full := f"{module}.{alias.name}").removeprefix("sanic_app.") in MODULES
                else module
                for alias in node.names
            }
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def inside(name: str) -> set[str]:
    """Return the modules of this package that one of them imports."""
    prefix = "sanic_app."
    return {each.removeprefix(prefix) for each in IMPORTS[name] if each.startswith(prefix)}


def outside(name: str) -> set[str]:
    """Return the other packages that a module imports."""
    return {each.partition(".")[0] for each in IMPORTS[name]} - {"sanic_app"}


def room(module: str) -> str:
    """Return the module's own place, or that of the package that it stands in."""
    while module not in ROOMS and "." in module:
        module = module.rpartition(".")[0]
    return module


def reached(module: str) -> set[str]:
    """Return all modules that come along when one is imported."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for each in inside(waiting.pop()) - found:
            found.add(each)
            waiting.append(each)
    return found


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards_only(module: str) -> None:
    mine = ROOMS.index(room(module))
    upwards = {
        each
        for each in inside(module)
        if room(each) != room(module) and ROOMS.index(room(each)) <= mine
    }
    assert not upwards


@pytest.mark.parametrize("module", MODULES)
def test_no_module_comes_along_with_itself(module: str) -> None:
    assert module not in reached(module)


def members(*rooms: str) -> Iterator[str]:
    return (name for name in MODULES if any(f"{name}.".startswith(f"{each}.") for each in rooms))


def test_the_store_knows_neither_the_framework_nor_metrics_nor_the_queue() -> None:
    for module in members("store"):
        rooms = {each.partition(".")[0] for each in reached(module)}
        assert rooms <= {"store", "clock", "errors", "files", "task"}, module
        for each in (module, *reached(module)):
            assert not outside(each) & (SANIC | {"prometheus_client"}), each


def test_queue_and_worker_know_nothing_of_the_framework() -> None:
    for module in members("queue", "task", "clock", "errors", "settings"):
        assert not outside(module) & SANIC, module


BUILDERS = ("app", "process", "command_line", "client.stores")
"""They choose the engine."""


def test_only_those_who_start_it_know_which_engine_is_below() -> None:
    engines = {name for name in MODULES if name.startswith(("store.sqlite", "store.postgres"))}
    assert engines
    for module in MODULES:
        if module.startswith("store.") or module in BUILDERS:
            continue
        assert not inside(module) & engines, module
        assert not outside(module) & {"aiosqlite", "sqlite3", "psycopg"}, module


def test_blueprints_know_the_store_by_its_protocol_alone() -> None:
    for module in members("http.blueprints"):
        assert {each for each in inside(module) if each.startswith("store")} <= {"store"}, module


def test_nobody_knows_everyone_but_the_composition_root() -> None:
    """The parts are put together in one place; the command line and the process only call it."""
    composed = {
        *("store.sqlite.store", "queue", "queue.worker", "metrics"),
        *("http.guard", "http.feed", "lifecycle"),
    }
    for module in MODULES:
        if module != "app":
            assert not composed <= inside(module), module
    assert composed <= inside("app")


LINES_MAX = 200
"""A longer class is usually two nouns."""


def test_no_class_is_long() -> None:
    long = [
        f"{path}: {node.name}"
        for folder in (PACKAGE, Path(__file__).parent)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno > LINES_MAX
    ]
    assert not long


def test_what_the_pure_rules_need_is_the_standard_library() -> None:
    for module in members("task", "clock", "errors", "store"):
        assert outside(module) - {"aiosqlite", "psycopg"} <= sys.stdlib_module_names, module


def test_the_checks_would_see_a_circle_and_a_step_upwards(tmp_path: Path) -> None:
    """The control: what these tests rely on finds every kind of import."""
    file = tmp_path / "x.py"
    file.write_text(
        "import sanic_app.queue\n"
        "from sanic_app.queue import worker\nfrom sanic_app import __version__\n"
        "from sanic_app.store.sqlite.store import SqliteStore\n"
        "def late():\n    from sanic_app.app import create_app\n",
        encoding="utf-8",
    )
    assert imports(file) == {
        "sanic_app.queue",
        "sanic_app.queue.worker",
        "sanic_app",
        "sanic_app.store.sqlite.store",
        "sanic_app.app",
    }
