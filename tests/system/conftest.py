"""The Docker that all tests of containers share, and the image that they run."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.engine import Engine

IMAGE = "sanic-app"
LEFT_OUT = re.compile(r"/usr/share/(doc|info|lintian|locale|man)/.")
SETTINGS = (
    *("/etc/passwd", "/etc/group", "/etc/ld.so.cache"),
    # It trusts what this machine trusts.
    *("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"),
)


def lines(*command: str) -> list[str]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def installed(*packages: str) -> set[str]:
    """Return Debian packages with everything that they depend on, and what is essential."""
    status = lines("dpkg-query", "--show", "--showformat=${Package}\t${Essential}\t${Status}\n")
    here = [line.split("\t")[:2] for line in status if line.endswith("ok installed")]
    essential = [name for name, needed in here if needed == "yes"]
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    without = [f"--no-{kind}" for kind in kinds]
    found = lines("apt-cache", "depends", "--recurse", *without, *packages, *essential)
    return {name for name, _ in here} & set(found)


def debian_with_python(file: Path) -> None:
    """Write a base for the image from this machine's own packages, as no registry is asked.

    It has another release of Python than the base that deploy/Dockerfile names.
    """
    paths = {
        str(Path(path).parent.resolve() / Path(path).name)
        for path in lines(
            "dpkg-query", "--listfiles", *installed("python3", "python3-venv", "passwd")
        )
        if path.startswith("/") and not LEFT_OUT.match(path)
    }
    with tarfile.open(file, "w") as archive:
        for path in sorted(paths | {"/bin", "/sbin", "/lib", "/lib64", "/tmp", *SETTINGS}):
            if Path(path).exists() and path != "/":
                archive.add(path, recursive=False)
        link = tarfile.TarInfo("usr/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "python3"
        archive.addfile(link)


@pytest.fixture(scope="module", autouse=True)
def _no_browser_left() -> Iterator[None]:
    """Close the browser behind each file: in its thread no test could run an event loop."""
    yield
    browser.stop()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Build the image on this machine's network, then give an engine that has one of its own."""
    made = Engine()
    try:
        made.start(alone=False)
        base = made.folder / "base.tar"
        debian_with_python(base)
        made.docker("import", str(base), "base")
        build = ("build", "--network", "host", "--build-arg", "PYTHON=base")
        made.docker(*build, "--file", "deploy/Dockerfile", "--tag", IMAGE, ".", seconds=400)
        made.stop()
        made.start(alone=True)
        yield made
    finally:
        made.remove()


@pytest.fixture
def image(engine: Engine) -> str:
    return IMAGE
