"""Where a number comes from: versions, machine, date, commit, command."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("surco", "numpy", "scipy", "torch", "networkx", "ortools", "pyscipopt")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result; a missing one is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, str | int]:
    """The machine in words: system, processor, number of cores that this process may use."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return {"system": f"{platform.system()} {platform.machine()}", "processor": _processor(), "cores": cores}


@functools.cache
def commit() -> str | None:
    """Git commit of the source tree that surco was imported from, with ``+changes`` where files differ from it.

    None for an installed wheel, or where git is missing.
    """
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


def command(arguments: Sequence[str] | None = None, program: str | None = None) -> str:
    """The command line, quoted so that a shell takes it as it is; of this process where no arguments are given.

    Args:
        arguments: the arguments, one text each.
        program: one or more words, such as ``python -m benchmarks.routes``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    words = [Path(sys.argv[0]).name] if program is None else program.split()
    return shlex.join([*words, *arguments])


def without_paths(words: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Words of a command line with placeholders for the values that are paths of one machine.

    >>> without_paths(["--python", "/home/me/bin/python", "--out=here.json"], {"--python": "PYTHON", "--out": "FILE"})
    ['--python', 'PYTHON', '--out=FILE']

    Args:
        words: the arguments.
        places: option -> what to show instead of its value; ``""`` stands before the first word.
    """
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        name, is_joined, _ = word.partition("=")
        found.append(places.get(before, f"{name}={places[name]}" if is_joined and name in places else word))
    return found


def origin(arguments: Sequence[str] | None = None, program: str | None = None) -> dict[str, Any]:
    """Where the numbers of a run come from, as JSON data: ``command`` (see there), date, commit, machine, versions."""
    return {
        "command": command(arguments, program),
        "date": now(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def now() -> str:
    """Date and time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10.0
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"
