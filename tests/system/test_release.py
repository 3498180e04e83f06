"""The SBOM and the list of licences of a release, written by the tools of `make sbom`."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sanic_app
from tests import release

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return release.write(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def sbom(written: tuple[Path, Path]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(written[0].read_text(encoding="utf-8"))
    return content


def pins() -> dict[str, str]:
    """Return the versions of requirements.txt that are for this platform."""
    text = (release.ROOT / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^[a-z].*?(?= +--hash)", text, re.MULTILINE)
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in found
        if pin.marker is None or pin.marker.evaluate()
    }


def test_the_sbom_names_each_distribution_that_is_shipped_and_no_other(
    sbom: dict[str, Any],
) -> None:
    named = {canonicalize_name(one["name"]): one["version"] for one in sbom["components"]}
    assert len(pins()) > 20
    assert named == pins()
    for one in sbom["components"]:
        assert one["purl"].startswith("pkg:pypi/")
        assert one["licenses"]


def test_its_subject_is_the_wheel_of_the_version_that_stands_in_one_place(
    sbom: dict[str, Any], written: tuple[Path, Path]
) -> None:
    subject = sbom["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("sanic-app", sanic_app.__version__)
    assert subject["version"] == version("sanic-app")
    assert {path.name.split("-")[1].removesuffix(".cdx.json") for path in written} == {
        sanic_app.__version__
    }
    # It depends on what pyproject.toml asks for.
    edges = {one["ref"]: one.get("dependsOn", []) for one in sbom["dependencies"]}
    direct = {ref.partition("==")[0].lower() for ref in edges[subject["bom-ref"]]}
    assert {"sanic", "pydantic", "psycopg"} <= direct


def test_nothing_in_it_tells_where_it_was_made(written: tuple[Path, Path]) -> None:
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert "file://" not in text
        assert str(release.ROOT) not in text


def test_the_licence_of_each_distribution_is_known(written: tuple[Path, Path]) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in written[1].read_text(encoding="utf-8").splitlines()[2:]
    ]
    assert {canonicalize_name(name): number for name, number, *_ in rows} == pins()
    assert "UNKNOWN" not in [licence for _, _, licence, *_ in rows]
