"""Provenance: what stands beside a number so that it can be made again, and who made an artifact.

`made/<artifact>.json` in a store notes of each finished stage when, from which commit, on what
machine, and in how many seconds it was made. It lies beside the artifact, because two machines make
the same artifact, and its files must then be the same. An artifact that comes with the kit brings
the note along, in its shipped.json.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from cxrkit import __version__
from cxrkit.config import paths
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.storage.integrity import SHIPPED_NOTE

GB = 2**30
NOTES = "made"  # folder of the notes in a store
LEFT_OUT = "left out"  # said of weights or pixels in a shipped.json, where they are not shipped

_said: set[Path] = set()  # shipped artifacts whose note this process has printed


def installed_packages() -> set[str]:
    """Names of all installed distributions."""
    return {found.metadata["Name"] for found in importlib.metadata.distributions()}


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    names = ("torch", "torchvision", "numpy", "opencv-python", "scikit-learn")
    there = installed_packages()
    return {name: importlib.metadata.version(name) for name in names if name in there}


def commit() -> str:
    """Commit of the checkout, with "+" where files have changed since.

    The version of the package where there is no checkout.
    """
    try:
        head, changes = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"
    return head + ("+" if changes else "")


def _git(*words: str) -> str:
    """What git says in the checkout."""
    done = subprocess.run(
        ["git", *words], cwd=paths.PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def facts(device: str) -> dict[str, Any]:
    """What a reader of a number must know about where it came from; no host or user name.

    Args:
        device: that computed it.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "cxrkit": __version__,
        "python": platform.python_version(),
        **versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / GB:.0f} GB",
        "device": device,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


# who made an artifact


def note_of(root: Path, name: str) -> Path:
    """The file that says how an artifact of a store was made.

    Args:
        root: of the store.
        name: of the artifact's folder.
    """
    return root / NOTES / f"{name}.json"


@contextlib.contextmanager
def noted(note: Path, part: Path, device: str, **more: Any) -> Iterator[None]:
    """Note how an artifact is made inside the `with`; nothing is noted where that fails.

    The seconds of earlier processes that were interrupted count too, up to the last file that each
    of them wrote.

    Args:
        note: `note_of` the artifact.
        part: its unfinished folder.
        device: that makes it.
        more: JSON values that are noted beside `facts`.
    """
    earlier = _seconds_before(note, part)
    write_json(note, {"seconds_before": earlier, "began": time.time()})
    began = time.monotonic()
    yield
    seconds = round(earlier + time.monotonic() - began, 1)
    write_json(note, {**facts(device), **more, "seconds": seconds})


def _seconds_before(note: Path, part: Path) -> float:
    """Seconds that interrupted processes worked on an unfinished folder."""
    times = [file.stat().st_mtime for file in part.rglob("*") if file.is_file()]
    if not times or not note.exists():
        return 0.0
    found = read_json(note)
    if "began" not in found:  # of an artifact that was finished and has been deleted since
        return 0.0
    return found["seconds_before"] + max(0.0, max(times) - found["began"])


def read_note(root: Path, name: str) -> dict[str, Any] | None:
    """How a finished artifact of a store was made; None where that was not noted."""
    note = note_of(root, name)
    found = read_json(note) if note.exists() else {}
    return found if "seconds" in found else None


def say_shipped(folder: Path) -> None:
    """Print how an artifact that comes with the kit was made, once in a process.

    Args:
        folder: of the artifact in the layer.
    """
    if folder in _said:
        return
    _said.add(folder)
    print(f"{folder.name} comes with the kit ({describe(folder)}; CXRKIT_FRESH=1 makes it here)")


def lacks_weights(folder: Path) -> bool:
    """Whether an artifact came with the kit without the weights that were trained."""
    note = folder / SHIPPED_NOTE
    return note.exists() and read_json(note).get("weights") == LEFT_OUT


def lacks_pixels(folder: Path) -> bool:
    """Whether an artifact came with the kit without pixels that belong to it."""
    note = folder / SHIPPED_NOTE
    return note.exists() and read_json(note).get("pixels") == LEFT_OUT


def describe(folder: Path) -> str:
    """How a shipped artifact was made, in a few words."""
    note = folder / SHIPPED_NOTE
    made = (read_json(note) if note.exists() else {}).get("made")
    if not made:
        return "it was not noted how it was made"
    return (
        f"made {made['date']} at {made['commit']} on {made['system']}, {made['cores']} cores, "
        f"{made['device']}, in {made['seconds']:.0f} s, seed {made['seed']}"
    )
