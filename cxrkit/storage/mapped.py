"""Mapped: arrays in files, larger than the memory may be; their room is taken at once, and what is
opened again is looked at first.
"""

import os
import tokenize

import numpy as np


def begin(file, shape, dtype=np.uint8, mode="w+"):
    """Array on disk whose whole room is taken at once: a mapped page that finds the disk full kills
    the process without a word.

    mode: "w+" makes it, "r+" goes on with it. Raises OSError where there is no room.
    """
    try:
        array = np.lib.format.open_memmap(file, mode, dtype, shape)
        if hasattr(os, "posix_fallocate"):
            with open(file, "r+b") as f:
                os.posix_fallocate(f.fileno(), 0, os.path.getsize(file))
    except OSError as error:
        size = np.prod(shape) * np.dtype(dtype).itemsize
        raise OSError(
            f"{file}: no room for {size / 1e9:.1f} GB ({error.strerror}); set CXRKIT_STORE to a "
            "folder on a larger "
            "disk"
        ) from error
    return array


def check(file, shape, dtype=np.uint8):
    """Header and length of a finished file are as asked for; the pixels are not read. Raises
    ValueError naming the file and the mend.
    """
    try:
        array = np.lib.format.open_memmap(file, "r")
        found = array.dtype, array.shape, os.path.getsize(file) - array.offset
    except (ValueError, tokenize.TokenError, FileNotFoundError) as error:
        # what numpy says of a header it cannot read
        found = error
    asked = np.dtype(dtype), tuple(shape), int(np.prod(shape)) * np.dtype(dtype).itemsize
    if found != asked:
        raise ValueError(
            f"{file} is damaged (type, shape and bytes of its array: {found}, expected {asked}); "
            "delete the folder "
            f"{file.parent} and run again: it will be made anew"
        )


def unpack(bits, side):
    """Packed masks, uint8 (..., side*side/8) -> 0/1 uint8 (..., side, side)."""
    return np.unpackbits(bits, axis=-1, count=side * side).reshape(*bits.shape[:-1], side, side)
