"""Atomic files: whoever opens one sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import time
from pathlib import Path
from typing import Any

import psutil

LEFTOVER = re.compile(r"\.([\w-]+)\.(\d+)\.[0-9a-f]{12}\.part$")  # host and process of its writer
STALE = 24 * 3600  # seconds after which no writer on another machine can be at work any more


def _host() -> str:
    """Name of this machine or container, as it may stand in a file name."""
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:24] or "host"


def temporary(path: Path) -> Path:
    """A new name beside a file, to write to before the rename.

    Two containers on one disk may share a host name and a process number, so chance makes it
    unique.
    """
    stem = os.fsencode(path.name)[:120].decode("utf-8", "ignore")  # a name has at most 255 bytes
    return path.with_name(f"{stem}.{_host()}.{os.getpid()}.{secrets.token_hex(6)}.part")


def remove_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Remove the temporary files of writers that were killed.

    Args:
        folder: where they are looked for, at any depth.

    Returns:
        The files that were removed.
    """
    removed = []
    for path in sorted(Path(folder).rglob("*.part")):
        named = LEFTOVER.search(path.name)
        if not named:
            continue
        with contextlib.suppress(OSError):  # another process may have removed it
            here = named[1] == _host()
            gone = not psutil.pid_exists(int(named[2])) if here else False
            if gone or time.time() - path.stat().st_mtime > STALE:
                path.unlink()
                removed.append(path)
    return removed


def write_atomic(path: str | os.PathLike, data: str | bytes) -> None:
    """Write a file through a temporary neighbour and a rename.

    Args:
        path: the file; missing folders are made.
        data: its whole content; text is written as UTF-8.

    Raises:
        OSError: it cannot be written; the old file is left, and no temporary one.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    part = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException as error:  # a full disk: what was written would only fill it further
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # it may not even have been opened
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Args:
        path: the file.
        value: anything that JSON can hold.

    Raises:
        ValueError: the value holds NaN or an infinite number, which JSON has none of: use None.
    """
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file.

    Args:
        path: the file.

    Raises:
        ValueError: the file is damaged; the message names it and the next step.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no valid JSON ({error}); delete its folder and run the stage again"
        ) from error
