"""Workers: a process that draws ends with its work, and with the process that started it.

This module imports little, because a worker runs it before it loads anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

import psutil


def start_worker(parent: int) -> None:
    """Prepare a process of joblib that draws.

    It ends with its parent. joblib would end it too, as soon as it has grown by 300 MB after its
    first film, and would start another: it takes the atlases and the memory of the films for a
    leak.

    Args:
        parent: number of the process that started this one.
    """
    from joblib.externals.loky import process_executor

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
