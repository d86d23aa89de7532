"""Watch: a deadline and a memory gauge for whatever processes start while it is open."""

import threading
import time

import psutil


class Watch(threading.Thread):
    """Measures the memory of the processes that start inside the `with`, and ends them at the
    deadline.

    papermill knows a time-out for a cell only, and a cell that hangs in C code ignores an
    interrupt.
    """

    def __init__(self, seconds):
        super().__init__(daemon=True)
        self.seconds, self.peak, self.expired = seconds, 0, False
        self.before, self.stop = set(psutil.Process().children(recursive=True)), threading.Event()

    def __enter__(self):
        self.begin = time.monotonic()
        self.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join()
        self.elapsed = time.monotonic() - self.begin

    def run(self):
        while not self.stop.wait(0.25):
            started = set(psutil.Process().children(recursive=True)) - self.before
            self.peak = max(self.peak, sum(_resident(process) for process in started))
            if time.monotonic() - self.begin > self.seconds:
                self.expired = True
                for process in started:
                    _end(process)


def _resident(process):
    """Bytes in memory, 0 for a process that has just ended. Linux tells the share of pages that
    several processes use (PSS).
    """
    try:
        memory = process.memory_full_info() if psutil.LINUX else process.memory_info()
        return getattr(memory, "pss", memory.rss)
    except psutil.Error:
        return 0


def _end(process):
    """Kill, if it still lives."""
    try:
        process.kill()
    except psutil.Error:
        pass
