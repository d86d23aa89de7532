"""Fingerprints: what stands for the content of image files without reading all of them.

A fingerprint is the length of a file and a hash of its head and tail, never its time, which a copy
changes. The time only says whether a fingerprint that was taken earlier can be used again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cxrkit.storage.atomic import write_atomic

SAMPLED = 4096  # bytes at the head and at the tail of a file
MANY = 10_000  # files of a dataset from which on fingerprints are also kept on disk ...
PATIENCE = 60  # ... and the files are not looked at again for so many seconds
SETTLED = 2e9  # nanoseconds after which a change of a file is sure to show in its time

Status = tuple[int, int, int, int]
_taken: dict[str, tuple[Status, str]] = {}  # file -> its status then, its fingerprint
_looked: dict[tuple[str, int], tuple[float, list[str]]] = {}  # cache file -> when, fingerprints


def fingerprint(file: str | os.PathLike) -> tuple[int, str] | tuple[None, None]:
    """Length of a file in bytes and hash of its head and tail; None where there is no file."""
    try:
        with open(file, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            digest = hashlib.sha256(f.read(SAMPLED))
            f.seek(max(SAMPLED, size - SAMPLED))
            digest.update(f.read(SAMPLED))
    except OSError:  # no file; if there should be one, the decoder will say so
        return None, None
    return size, digest.hexdigest()[:16]


def text_of(file: str) -> str:
    """The fingerprint of a file as text, "" where there is no file."""
    return _known_or_taken(file)[1]


def fingerprints(files: Sequence[str], kept: Path) -> list[str]:
    """The fingerprint of each file as text, "" where there is no file.

    Args:
        files: absolute paths, those of one dataset.
        kept: file for the fingerprints of MANY files; where it cannot be written, they are taken
            anew in each process.
    """
    if len(files) < MANY:
        return [text_of(file) for file in files]
    asked = (str(kept), hash(tuple(files)))
    looked, found = _looked.get(asked, (-float("inf"), []))
    if time.monotonic() - looked < PATIENCE:
        return found
    _recall(kept)
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        pairs = list(pool.map(_known_or_taken, files, chunksize=256))
    if any(new for new, _ in pairs):
        _keep(files, kept)
    found = [text for _, text in pairs]
    _looked[asked] = (time.monotonic(), found)
    return found


def status(file: str | os.PathLike) -> Status | None:
    """What changes whenever a file changes; None where there is no file."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _known_or_taken(file: str) -> tuple[bool, str]:
    """Whether the fingerprint is new, and the fingerprint."""
    now = status(file)
    if now is None:
        return False, ""
    then, text = _taken.get(file, (None, ""))
    if then == now:
        return False, text
    size, digest = fingerprint(file)
    text = "" if size is None else f"{size}:{digest}"
    if time.time_ns() - max(now[1], now[2]) > SETTLED:
        _taken[file] = now, text
    return True, text


def _recall(kept: Path) -> None:
    """Read the fingerprints that an earlier process kept."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        for file, (then, text) in json.loads(kept.read_bytes()).items():
            _taken.setdefault(file, (tuple(then), text))


def _keep(files: Sequence[str], kept: Path) -> None:
    """Write the fingerprints for later processes; a store that is read-only does without."""
    entries = {file: _taken[file] for file in files if file in _taken}
    with contextlib.suppress(OSError):
        write_atomic(kept, json.dumps(entries, separators=(",", ":")))
