"""Growing stacks: arrays on disk of their full length, whose rows are written when asked for.

Beside the stacks of a folder lies `drawn.npy`, one byte a row: 1 as soon as the row is on the disk
in all of them. A row that is there never changes. Where the file is missing, the stacks are whole.
Rows are written by plain writes and not through mapped pages: a full disk is then an error and no
kill, and two machines at one disk keep each other's rows. Rows that nobody asks for take no room.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cxrkit.storage import mapped
from cxrkit.storage.atomic import temporary, write_atomic
from cxrkit.storage.locks import announced_lock

SUFFIX = ".npy"  # of the stacks, and of
MARKS = "drawn.npy"
LOCK = "drawn.lock"

Shapes = Mapping[str, tuple[int, ...]]  # file of a stack -> shape of the whole array


def grows(folder: Path) -> bool:
    """Whether rows of the stacks of a folder may be missing."""
    return (folder / MARKS).exists()


def begin(folder: Path, rows: int) -> None:
    """Say that the stacks of a folder grow, and that none of so many rows is there.

    Args:
        folder: of the stacks.
        rows: of each stack.
    """
    marks = io.BytesIO()
    np.save(marks, np.zeros(rows, np.uint8))
    write_atomic(folder / MARKS, marks.getvalue())


def finish(folder: Path) -> None:
    """Say that all rows are there."""
    (folder / MARKS).unlink()


def missing(folder: Path, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Those of some rows that are not there, sorted, each once.

    Args:
        folder: of the stacks, which need not grow.
        rows: numbers of rows, (n,).

    Raises:
        ValueError: `drawn.npy` is damaged.
    """
    if not grows(folder):
        return np.zeros(0, int)
    asked = np.unique(np.asarray(rows, int))
    return asked[mapped.view(folder / MARKS)[asked] == 0]


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Alone among those that write rows of a folder; a long wait is announced."""
    return announced_lock(folder / LOCK, f"the process that draws into {folder}", stacklevel=4)


def reserve(folder: Path, shapes: Shapes, whole: bool = False) -> None:
    """Make the stacks that are not there, and check those that are.

    Args:
        folder: of the stacks; whoever calls is `locked` in it.
        shapes: of uint8.
        whole: take the room of all rows on the disk now.

    Raises:
        ValueError: a stack is cut off, or has gone although rows of it are marked as written.
        OSError: there is no room.
    """
    begun = mapped.view(folder / MARKS).any()
    for name, shape in shapes.items():
        file = folder / name
        if not file.exists() and not begun:
            part = temporary(file)
            if whole:
                mapped.begin(part, shape)
            else:
                np.lib.format.open_memmap(part, "w+", np.uint8, shape)
            os.replace(part, file)
        mapped.check(file, shape)


def write(folder: Path, rows: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
    """Write rows of all stacks of a folder, then mark them as written.

    Args:
        folder: of the stacks, after `reserve`.
        rows: their numbers (n,).
        values: file of a stack -> uint8 (n, ...).

    Raises:
        OSError: there is no room; none of the rows counts as written.
    """
    for name, stack in values.items():
        _write_rows(folder / name, rows, stack)
    _write_rows(folder / MARKS, rows, np.ones(len(rows), np.uint8))


def _write_rows(file: Path, rows: Sequence[int], values: np.ndarray) -> None:
    """Write rows into a .npy file and wait until they are on the disk."""
    array = mapped.view(file)
    width = array[0].nbytes
    try:
        with open(file, "r+b") as f:
            for row, value in zip(rows, values, strict=True):
                f.seek(array.offset + int(row) * width)
                f.write(value.tobytes())
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        raise OSError(
            f"{file}: {error.strerror}; set CXRKIT_STORE to a folder on a larger disk"
        ) from error
