"""Weights that no package holds, since images under non-commercial or unclear terms trained them.

`cxrkit models fetch` gets them from a checkout of the repository or from its address. The kit knows
their names, sizes and hashes (research_weights.json), so that no other file is taken for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cxrkit.data import downloads
from cxrkit.storage import locations
from cxrkit.storage.atomic import read_json

LIST = Path(__file__).resolve().parent / "research_weights.json"
TERMS = "LICENSE-NOTE.md"


def listing(folder: Path) -> dict[str, dict[str, str | int]]:
    """Bytes and sha256 of each file of a folder: {name: {"bytes": n, "sha256": digest}}."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        found[path.name] = {"bytes": path.stat().st_size, "sha256": downloads.sha256(path)}
    return found


def fetch(
    source: str,
    folder: Path | None = None,
    accepts: Callable[[str], bool] = lambda terms: False,
    say: Callable[[str], object] = print,
) -> Path:
    """Get the research weights; what is there already and whole is not fetched again.

    Args:
        source: folder or https address of cxrkit/inference/weights/research of the repository.
        folder: where they go; None = `locations.fetched_weights()`.
        accepts: is asked with the text of the terms, before any weights are fetched.
        say: for each file.

    Returns:
        The folder.

    Raises:
        FetchError: a file is not there or not as it should be, or the terms were refused.
    """
    folder = folder or locations.fetched_weights() / "research"
    folder.mkdir(parents=True, exist_ok=True)
    expected = read_json(LIST)
    get(source, folder, TERMS, expected[TERMS], say)
    if not accepts((folder / TERMS).read_text(encoding="utf-8")):
        raise downloads.FetchError("the terms were not accepted, so no weights were fetched")
    for name, wanted in expected.items():
        get(source, folder, name, wanted, say)
    return folder


def get(
    source: str,
    folder: Path,
    name: str,
    wanted: dict[str, str | int],
    say: Callable[[str], object],
) -> None:
    """Get one file, verified before it gets its name.

    Raises:
        FetchError: it is not there or not as it should be; the message names it.
    """
    path = folder / name
    if path.is_file() and downloads.sha256(path) == wanted["sha256"]:
        return
    if "://" in source:
        url = f"{source.rstrip('/')}/{name}"
        downloads.download(url, path, wanted["sha256"], wanted["bytes"])
    else:
        original = Path(source).expanduser() / name
        if not original.is_file():
            raise downloads.FetchError(f"{original} is missing: give the folder with {TERMS}")
        part = path.with_name(path.name + ".part")
        shutil.copyfile(original, part)
        downloads.accept(part, path, wanted["sha256"], wanted["bytes"])
    say(f"{name}: {wanted['bytes']} bytes")
