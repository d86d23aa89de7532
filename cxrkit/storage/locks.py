"""Locks between processes that write into one folder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

PATIENCE = 10  # seconds of waiting for another process before it is said


@contextlib.contextmanager
def announced_lock(
    file: Path, writer: str, stacklevel: int, patience: float = PATIENCE
) -> Iterator[None]:
    """Hold a lock; wait for it as long as it takes, and say so after a while.

    Args:
        file: of the lock.
        writer: who may hold it, such as "the process that draws into FOLDER".
        stacklevel: of the warning.
        patience: seconds before it.
    """
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        warnings.warn(f"waiting for {writer}", stacklevel=stacklevel)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
