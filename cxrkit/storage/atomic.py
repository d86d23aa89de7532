"""Atomic files: a reader sees the old file or the new one, never half of one."""

import json
import os
from pathlib import Path


def write_atomic(path, data):
    """Write bytes or text to `path` through a temporary neighbour and a rename: a reader sees the
    old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
    except OSError:  # a full disk: what was written would only fill it further
        part.unlink(missing_ok=True)  # it may not even have been opened
        raise
    os.replace(part, path)


def write_json(path, value):
    """`write_atomic` of indented JSON; NaN is refused, since JSON has none (write null)."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path):
    """JSON file -> value. Raises ValueError naming the file when it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no valid JSON ({error}); delete its folder and run the stage again"
        ) from error
