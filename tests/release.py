"""`make sbom`: what a release ships, written into dist/ as an SBOM and as a list of licences.

Both name what requirements.txt has installed here, the wheel being their subject. They are of the
platform on which they are made, and need no network.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import sanic_app

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-release" / "bin"


def shipped(folder: Path) -> Path:
    """Make an environment of what is shipped alone; return its Python.

    It has the metadata, which is all that the tools read, from the environment that runs this.
    """
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name in re.findall(r"^([\w.-]+)", pins, re.MULTILINE):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # It is for another platform.
        (metadata,) = (
            file
            for file in found.files or ()
            if file.match("*.dist-info/METADATA") and len(file.parts) == 2
        )
        info = Path(str(found.locate_file(metadata))).parent
        (packages / info.name).symlink_to(info)
    return folder / "bin" / "python"


def subject(folder: Path) -> Path:
    """Return a copy of pyproject.toml that has the version, which stands in one place elsewhere."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = f'version = "{sanic_app.__version__}"'
    text, found = re.subn(r'^dynamic = \["version"\].*$', version, text, flags=re.MULTILINE)
    assert found == 1
    copy = folder / "pyproject.toml"
    copy.write_text(text, encoding="utf-8")
    return copy


def write(target: Path) -> tuple[Path, Path]:
    """Write both into a folder, and return where they are."""
    target.mkdir(exist_ok=True)
    name = f"sanic_app-{sanic_app.__version__}"
    sbom, licences = target / f"{name}.cdx.json", target / f"{name}-licences.md"
    with tempfile.TemporaryDirectory() as temporary:
        python = str(shipped(Path(temporary, "venv")))
        described = ("--pyproject", str(subject(Path(temporary))), "--mc-type", "application")
        reproducible = ("--output-reproducible", "--output-file", str(sbom))
        command = [
            str(TOOLS / "cyclonedx-py"),
            "environment",
            "--gather-license-texts",
            *described,
            *reproducible,
            python,
        ]
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        columns = (
            "--with-system",
            "--from=mixed",
            "--with-urls",
            "--format=markdown",
            "--output-file",
        )
        command = [str(TOOLS / "pip-licenses"), f"--python={python}", *columns, str(licences)]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return sbom, licences


if __name__ == "__main__":
    for path in write(ROOT / "dist"):
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
