"""README's tables of routes, problems, settings, metrics and exit statuses: complete both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sanic import Sanic

from sanic_app import errors
from sanic_app.app import create_app
from sanic_app.command_line import _parser
from sanic_app.http.blueprints import App
from sanic_app.http.problems import PROBLEMS
from sanic_app.http.routes import template
from sanic_app.http.schemas import seconds
from sanic_app.metrics import OUTCOMES, STORE_ERRORS, Metrics
from sanic_app.settings import KEYS, Settings
from sanic_app.task import SECOND

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def tables(heading: str) -> dict[str, list[list[str]]]:
    """Return the tables of a section by the first cell of their heads: rows of cells."""
    _, _, rest = README.partition(f"\n## {heading}\n")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for line in section.splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if rows is None:
            rows = found[cells[0]] = []
        elif not set(line) <= set("|-"):
            rows.append(cells)
    return found


def name(cell: str) -> str:
    """Return what stands in backticks."""
    match = re.fullmatch(r"`([^`]+)`", cell)
    assert match is not None, cell
    return match[1]


def names(heading: str, first: str) -> list[str]:
    return [name(row[0]) for row in tables(heading)[first]]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    made = create_app(Settings(database=tmp_path_factory.mktemp("docs") / "queue.db"))
    made.finalize()
    yield made
    Sanic.unregister_app(made)


# Routes.


def test_every_route_is_in_the_table_and_every_row_is_a_route(app: App) -> None:
    served = {
        f"{method} {template(f'/{route.path}')}"
        for route in app.router.routes
        for method in route.methods - {"HEAD", "OPTIONS"}
    }
    listed = names("HTTP", "route")
    assert len(listed) == len(set(listed))

    def same(route: str) -> str:
        # A slash at the end makes no difference to the service.
        return route.rstrip("/")

    # A page's own files are part of the page.
    files = {route for route in served if re.fullmatch(r"GET /(api/docs|page)/\{\w+\}", route)}
    assert {same(route) for route in served - files} == {same(route) for route in listed}


def test_every_problem_is_in_the_table_with_its_status() -> None:
    listed = {name(row[0]): row[1] for row in tables("HTTP")["problem"]}
    assert listed == {slug: str(status) for slug, status, _ in PROBLEMS.values()}


# Settings.


def test_every_setting_is_in_the_table_and_every_row_is_a_setting() -> None:
    assert names("Settings", "key") == list(KEYS)


def test_every_flag_stands_beside_its_setting() -> None:
    flags: dict[str, list[str]] = {}
    for action in _parser()._actions:
        flags.setdefault(action.dest, []).extend(action.option_strings)
    for key, flag, *_ in tables("Settings")["key"]:
        assert re.findall(r"`([^`]+)`", flag) == flags.get(name(key), []), key


def test_every_default_is_the_real_one() -> None:
    defaults = Settings()
    shown: dict[str, Callable[[object], str]] = {
        "timeout_max_us": lambda value: str(seconds(int(str(value)))),
        "idempotency_keep_us": lambda value: str(int(str(value)) // SECOND),
        "stop_delay": lambda value: f"{value:g}",
        "store_patience": lambda value: f"{value:g}",
        "allow_anonymous": lambda value: str(value).lower(),
    }
    for key, _, default, *_ in tables("Settings")["key"]:
        field = KEYS[name(key)].field
        # What a file would contain has its default beside the key that it stands for.
        value = None if name(key).endswith("_FILE") else getattr(defaults, field)
        expected = "none" if not value and field not in shown else shown.get(field, str)(value)
        assert default.strip("`") == expected, key


def test_every_alias_is_told() -> None:
    for key, spec in KEYS.items():
        if spec.alias:
            (row,) = [row for row in tables("Settings")["key"] if name(row[0]) == key]
            assert f"`{spec.alias}`" in row[3]


def test_the_sample_file_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    sample = (Path(__file__).parents[1] / "deploy" / "config_app.yaml").read_text(encoding="utf-8")
    shown = re.findall(r"^(?:# )?([A-Z_]+): ", sample, flags=re.MULTILINE)
    assert sorted(shown) == sorted(KEYS)


def test_every_exit_status_is_told() -> None:
    listed = {int(row[0]) for row in tables("Settings")["exit status"]}
    known = {value for key, value in vars(errors).items() if key.startswith("EXIT_")}
    assert listed == known | {0}


# Metrics.


def series() -> dict[str, str]:
    """Return each family's name, as a query has it, with its type."""
    metrics = Metrics("x")
    metrics.http_seconds("GET", "/x", 200).observe(1)
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in metrics.registry.collect()
        if family.name.startswith("sanic_app_")
    }


def test_every_series_is_in_the_table_with_its_type_and_every_row_is_a_series() -> None:
    listed = {name(row[0]): row[1] for row in tables("Metrics")["series"]}
    assert listed == series()


def test_every_label_is_told() -> None:
    rows = {name(row[0]): row[2] for row in tables("Metrics")["series"]}
    for family in Metrics("x").registry.collect():
        for sample in family.samples:
            row = rows.get(family.name) or rows.get(f"{family.name}_total")
            for label in sample.labels if row else ():
                assert label == "le" or f"`{label}`" in (row or ""), (family.name, label)
    for outcome in OUTCOMES:
        assert f"`{outcome}`" in rows["sanic_app_tasks_finished_total"]
    for kind in STORE_ERRORS:
        assert f"`{kind}`" in rows["sanic_app_store_errors_total"]


# The control.


def test_the_tables_are_really_read() -> None:
    assert len(names("HTTP", "route")) > 10
    assert len(names("Metrics", "series")) >= 20
    assert tables("Nothing") == {}
