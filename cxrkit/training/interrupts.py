"""Ctrl-C during a training: the step under way ends first."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def catch_ctrl_c() -> Iterator[list[int]]:
    """Let the first Ctrl-C fill a list instead of raising; a second one interrupts at once.

    Yields:
        The list: empty until Ctrl-C, then it holds the number of the signal. Outside the main
        thread it stays empty, because only the main thread may set a handler.
    """
    pressed: list[int] = []

    def handler(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
