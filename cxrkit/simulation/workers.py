"""Workers: a process that draws ends with its work, and with the process that started it.

This module imports little, because a worker runs it before it loads anything else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import psutil


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
