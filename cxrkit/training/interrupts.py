"""Ctrl-C and pre-emption during a training: the step under way ends first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

# of the user, of a scheduler that ends the job, and the warning that Slurm sends before
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
REQUEUE = (
    75  # exit status of a training that a scheduler stopped: the same call goes on (EX_TEMPFAIL)
)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Let the first of SIGNALS fill a list instead of ending the process; a second ends it at once.

    Yields:
        The list: empty until a signal comes, then it holds its number. Outside the main thread it
        stays empty, because only the main thread may set a handler.
    """
    caught: list[int] = []

    def handler(number: int, frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        if caught:
            raise SystemExit(128 + number)
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)
