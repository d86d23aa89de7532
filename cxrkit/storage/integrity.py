"""Integrity: what a finished artifact holds, with a digest of each file, and what is damaged.

`files.json` in the folder of an artifact lists its files with their sizes and sha256. A folder that
was made before the kit wrote that list, or that was handed over without it, is checked as far as
its files say themselves how long they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tokenize
from pathlib import Path
from typing import Any

from cxrkit.storage.atomic import write_json

LIST = "files.json"
SHIPPED_NOTE = "shipped.json"  # in an artifact that comes with the kit: how it was made
SMALL = 4 * 2**20  # bytes of a file that is read as a whole before its artifact is used ...
MOST = 16 * 2**20  # ... in all, of one artifact
BLOCK = 2**20
WEIGHTS = ".safetensors"

# stage, hash of its settings, and, for one made from real images, hash of these
NAME = re.compile(r"([a-z_]+)-([0-9a-f]{12})(?:-([0-9a-f]{8}))?")

Signature = tuple[tuple[int, ...], ...]
_seen: dict[str, Signature] = {}  # folder -> its files as they were when they were last found whole


class DamagedArtifact(ValueError):
    """An artifact is not as it was made; the message names the file and the next step."""


def is_artifact(folder: Path) -> bool:
    """Whether a folder has the name of a finished artifact."""
    return bool(NAME.fullmatch(folder.name)) and folder.is_dir() and not folder.is_symlink()


def data_of(folder: Path) -> str:
    """The part of an artifact's name that stands for its real images; "" where it has none."""
    named = NAME.fullmatch(folder.name)
    return (named[3] or "") if named else ""


def sha256_of(path: Path) -> str:
    """Digest of a whole file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_list(folder: Path) -> None:
    """Write files.json: size and sha256 of every file of an artifact, at any depth.

    Stacks that grow after the artifact is finished are not listed (`growing`).
    """
    from cxrkit.storage import growing  # brings numpy, which a store alone does not need

    grows = growing.grows(folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != LIST and not (grows and path.suffix == growing.SUFFIX):
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(folder / LIST, files)


def read_list(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What files.json says; None for a folder without one.

    Raises:
        DamagedArtifact: it cannot be read.
    """
    path = folder / LIST
    if not path.exists():
        return None
    try:
        files = json.loads(path.read_bytes())
        return {
            name: {"bytes": one["bytes"], "sha256": one["sha256"]} for name, one in files.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedArtifact(message(folder, [f"{LIST} is no list of files"])) from None


def message(folder: Path, found: list[str]) -> str:
    """What is wrong with an artifact, and what to do."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    if (folder / SHIPPED_NOTE).exists():
        return (
            f"{folder} is damaged: {'; '.join(found[:3])}{more}. It comes with the kit: install "
            "cxrkit again, or set CXRKIT_FRESH=1, so that it is made here"
        )
    return (
        f"{folder} is damaged: {'; '.join(found[:3])}{more}. Delete the folder and run the stage "
        "again, it will be made anew; this finds and deletes every damaged one: "
        f"cxrkit store verify --out {folder.parent} --delete-damaged"
    )


def faults(folder: Path) -> list[str]:
    """What is wrong with an artifact; every byte is read.

    Args:
        folder: of a finished artifact.

    Returns:
        One line for each damaged file, which names it.
    """
    try:
        files = read_list(folder)
    except DamagedArtifact:
        return [f"{LIST} is no list of files"]
    if files is None:
        return _implausible(folder)
    return _sizes(folder, files)[0] or _contents(folder, files, list(files))


def check(folder: Path) -> None:
    """Refuse a damaged artifact at little cost.

    Sizes are compared each time. Files of at most SMALL bytes, the smallest first and up to MOST in
    all, are read when the process first meets the artifact, and again when their time or size has
    changed. `check_bytes` is for the weights.

    Args:
        folder: of a finished artifact.

    Raises:
        DamagedArtifact: a file is missing, or is not as it was made.
    """
    files = read_list(folder)
    if files is None:
        found = _implausible(folder)
    else:
        found, signature = _sizes(folder, files)
        if not found and _seen.get(str(folder)) != signature:
            found = _contents(folder, files, _small(files))
            if not found:
                _seen[str(folder)] = signature
    if found:
        raise DamagedArtifact(message(folder, found))


def check_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Refuse the content of a file that its artifact lists otherwise.

    Args:
        path: of a file, of an artifact or not.
        data: its content, as it was read.

    Raises:
        DamagedArtifact: the file differs from what was made.
    """
    path = Path(path)
    for folder in list(path.parents)[:2]:  # a training of several networks has a folder for each
        files = read_list(folder) if NAME.fullmatch(folder.name) else None
        if files is None:
            continue
        name = path.relative_to(folder).as_posix()
        if name in files and hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
            raise DamagedArtifact(message(folder, [_changed(name, len(data), files[name])]))
        return


def _small(files: dict[str, dict[str, Any]]) -> list[str]:
    """The files that `check` reads as a whole."""
    chosen, total = [], 0
    for name in sorted(files, key=lambda name: files[name]["bytes"]):
        total += files[name]["bytes"]
        if files[name]["bytes"] > SMALL or total > MOST:
            break
        chosen.append(name)
    return chosen


def _sizes(folder: Path, files: dict[str, dict[str, Any]]) -> tuple[list[str], Signature]:
    """Faults that show without opening a file, and what says later that no file has changed."""
    found, signature = [], []
    for name, listed in files.items():
        try:
            status = os.stat(folder / name)
        except FileNotFoundError:
            found.append(f"{name} is missing")
            continue
        if status.st_size != listed["bytes"]:
            found.append(f"{name} has {status.st_size} bytes instead of {listed['bytes']}")
        signature.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return found, tuple(signature)


def _contents(folder: Path, files: dict[str, dict[str, Any]], names: list[str]) -> list[str]:
    """Faults that show when files of the right size are read."""
    found = []
    for name in names:
        if sha256_of(folder / name) != files[name]["sha256"]:
            found.append(_changed(name, files[name]["bytes"], files[name]))
    return found


def _changed(name: str, size: int, listed: dict[str, Any]) -> str:
    """The fault of a file whose bytes are others than those that were written."""
    if size != listed["bytes"]:
        return f"{name} has {size} bytes instead of {listed['bytes']}"
    return f"{name} is not what was written (sha256 {listed['sha256'][:12]})"


# folders without a list


def _implausible(folder: Path) -> list[str]:
    """Faults of an artifact without files.json: empty, or files shorter than they say."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not paths:
        return ["it is empty"]
    found = []
    for path in paths:
        fault = _implausible_file(path)
        if fault:
            found.append(f"{path.relative_to(folder).as_posix()} {fault}")
    return found


def _implausible_file(path: Path) -> str:
    """The fault of a file that is empty or shorter than its own header says; "" = none is seen."""
    size = path.stat().st_size
    if not size:
        return "is empty"
    try:
        if path.suffix == ".npy":
            from cxrkit.storage import mapped  # numpy is heavy, and only needed here

            array = mapped.open_array(path)
            expected = array.offset + array.nbytes
        elif path.suffix == WEIGHTS:
            expected = _safetensors_size(path)
        else:
            return ""
    except (ValueError, KeyError, TypeError, AttributeError, tokenize.TokenError):
        return f"is cut off at {size} bytes, or its header is damaged"
    return "" if size == expected else f"has {size} bytes instead of {expected}"


def _safetensors_size(path: Path) -> int:
    """Length of a safetensors file by its header."""
    with open(path, "rb") as f:
        header_bytes = int.from_bytes(f.read(8), "little")
        if header_bytes > path.stat().st_size:
            raise ValueError("the header is cut off")
        header = json.loads(f.read(header_bytes))
    ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    return 8 + header_bytes + max(ends, default=0)
