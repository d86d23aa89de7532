"""Workers: threads and processes that draw; a process ends with its work, and with its parent.

This module imports little, because a worker runs it before it loads anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Let OpenCV compute in the thread that calls it, because several threads draw."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def return_memory() -> None:
    """Give the system back what ended threads have freed; glibc keeps it for later ones.

    Two threads that have projected bodies leave about 200 MB. Elsewhere than on Linux with glibc
    nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def start_worker(parent: int) -> None:
    """Prepare a process of joblib that draws.

    It ends with its parent. joblib would end it too, as soon as it has grown by 300 MB after its
    first film, and would start another: it takes the atlases and the memory of the films for a
    leak.

    Args:
        parent: number of the process that started this one.
    """
    import cv2
    from joblib.externals.loky import process_executor

    cv2.setNumThreads(1)
    end_with(parent)
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize


def end_with(parent: int) -> None:
    """Let this process end when its parent has ended, however that was.

    A worker whose parent was killed would otherwise keep its memory for minutes.

    Args:
        parent: number of the process that started this one.
    """
    if os.getpid() == parent:  # nested in another worker, joblib starts no process
        return
    first = os.getppid()

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(parent)
            while os.getppid() == first and process.is_running():
                if process.status() == psutil.STATUS_ZOMBIE:
                    break
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_workers() -> None:
    """End the workers of joblib.

    Idle ones would keep their memory for minutes, and so long they would hold back the end of a
    process that multiprocessing has started.
    """
    from joblib.externals import loky

    loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)
