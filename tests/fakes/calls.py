"""Functions that tests run in a process of its own; nothing heavy is imported with them."""

import os
import signal
import time

from cxrkit.reproduction import watch


def double(number):
    return 2 * number


def refuse(text):
    raise ValueError(text)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def tell_and_wait(folder):
    """Write down this process, then wait."""
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").rename(folder / "pids.txt")
    time.sleep(300)


def call_and_wait(folder):
    """`tell_and_wait` in a process of its own."""
    watch.call_in_subprocess(tell_and_wait, folder)
