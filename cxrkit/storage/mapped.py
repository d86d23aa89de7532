"""Arrays in files, which may be larger than the memory: made with all their room, then checked."""

from __future__ import annotations

import itertools
import os
import threading
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

ZEROS = bytes(2**20)

# Numpy reads a header with Python's own parser, which fails before Python 3.12 where two threads
# are in it ("AST constructor recursion depth mismatch", CPython issue 106905).
PARSING = threading.Lock()


def open_array(file: str | os.PathLike, mode: str = "r") -> np.memmap:
    """A .npy file, mapped; unlike numpy's own function it may be called by several threads.

    Args:
        file: there already.
        mode: "r" to read it, "r+" to write to it as well.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, tokenize.TokenError: it is cut off, or its header cannot be read.
    """
    with PARSING:
        return np.lib.format.open_memmap(file, mode)


def begin(
    file: str | os.PathLike,
    shape: tuple[int, ...],
    dtype: DTypeLike = np.uint8,
    mode: str = "w+",
) -> np.memmap:
    """Array on disk whose whole room is taken at once.

    A mapped page that finds the disk full kills the process without a message.

    Args:
        file: a .npy file.
        shape: of the whole array.
        dtype: of its values.
        mode: "w+" makes the file, "r+" goes on with it.

    Raises:
        OSError: there is no room; a file that was being made is deleted.
    """
    try:
        with PARSING:
            array = np.lib.format.open_memmap(file, mode, dtype, shape)
        _take_room(file, array.offset if mode == "w+" else None)
    except OSError as error:
        if mode == "w+":
            Path(file).unlink(missing_ok=True)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raise OSError(
            f"{file}: no room for {size / 1e9:.1f} GB ({error.strerror}); "
            "set CXRKIT_STORE to a folder on a larger disk"
        ) from error
    return array


def _take_room(file: str | os.PathLike, start: int | None) -> None:
    """Let the disk give every byte of a file now, not when it is first written to.

    Args:
        file: has its full length.
        start: where its data begin, in bytes; None = there are values in it that must stay.
    """
    size = os.path.getsize(file)
    with open(file, "r+b") as f:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(f.fileno(), 0, size)
        elif start is not None:  # macOS and Windows: only written zeros are sure to have room
            f.seek(start)
            for first in range(start, size, len(ZEROS)):
                f.write(ZEROS[: size - first])
            f.flush()
            os.fsync(f.fileno())


def write_parts(file: str | os.PathLike, parts: Iterator[np.ndarray], total: int) -> None:
    """Write an array part by part, so that it need not fit into memory.

    Args:
        file: a .npy file.
        parts: the rows in order, (n, ...) each; at least one part.
        total: rows of all parts together.

    Raises:
        OSError: there is no room.
    """
    first = next(parts)
    array = begin(file, (total, *first.shape[1:]), first.dtype)
    done = 0
    for part in itertools.chain([first], parts):
        array[done : done + len(part)] = part
        done += len(part)
    array.flush()


def check(file: str | os.PathLike, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
    """Compare header and length of a finished file with what is expected; values are not read.

    Args:
        file: a .npy file.
        shape: expected of the whole array.
        dtype: expected of its values.

    Raises:
        ValueError: they differ; the message names the file and the folder to delete.
    """
    expected = np.dtype(dtype), tuple(shape), int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        array = open_array(file)
        found = array.dtype, array.shape, os.path.getsize(file) - array.offset
    except (ValueError, tokenize.TokenError, FileNotFoundError) as error:
        found = error  # numpy cannot read the header
    if found != expected:
        raise ValueError(
            f"{file} is damaged (type, shape and bytes of its array: {found}, "
            f"expected {expected}); delete the folder {Path(file).parent} and run again: "
            "it will be made anew"
        )


def view(file: str | os.PathLike) -> np.memmap:
    """A finished file, mapped to be read.

    Args:
        file: a .npy file.

    Raises:
        ValueError: it is cut off; the message names the file and the folder to delete.
    """
    try:
        return open_array(file)
    except (ValueError, tokenize.TokenError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); delete the folder {Path(file).parent} and run again: "
            "it will be made anew"
        ) from error


def unpack(bits: np.ndarray, side: int) -> np.ndarray:
    """Packed masks, uint8 (..., side*side/8) -> 0/1 uint8 (..., side, side)."""
    flat = np.unpackbits(bits, axis=-1, count=side * side)
    return flat.reshape(*bits.shape[:-1], side, side)  # (..., side, side)
