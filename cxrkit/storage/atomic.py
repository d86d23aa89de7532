"""Atomic files: whoever opens one sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: str | os.PathLike, data: str | bytes) -> None:
    """Write a file through a temporary neighbour and a rename.

    Args:
        path: the file; missing folders are made.
        data: its whole content; text is written as UTF-8.

    Raises:
        OSError: it cannot be written; the old file is left, and no temporary one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    content = data.encode() if isinstance(data, str) else data
    try:
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
    except OSError:  # a full disk: what was written would only fill it further
        part.unlink(missing_ok=True)  # it may not even have been opened
        raise
    os.replace(part, path)


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
