"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench.bench import Disk
from tests.bench.figures import rate, seconds


def machine(folder: Path, disk: Disk) -> list[tuple[str, str]]:
    """Return what to know about the machine, by name."""
    packages = ("sanic", "aiosqlite", "uvloop", "prometheus-client")
    versions = [
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
        *(f"{name} {version(name)}" for name in packages),
    ]
    speed = f"4 KiB overwritten and synced in {seconds(disk.median)} (p99 {seconds(disk.p99)})"
    return [
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores, of which wrk takes about one"),
        ("memory", f"{_memory() / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()}, {_file_system(folder)}"),
        ("disk", f"{speed}: {rate(1 / disk.median)}"),
        ("versions", ", ".join(versions)),
    ]


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    done = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown file system"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
