"""Watch over the processes of a run: their memory, their deadline, and that none is left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from typing import Any

import psutil

MARK = "CXRKIT_WATCH"  # environment variable: every process that starts under a watch inherits it
GRACE = 3.0  # seconds that a process has to end by itself when its run is over
LEAVE = 30.0  # seconds that a training has for the update under way and its checkpoint
LEISURE = 50  # between two looks at the memory, as a multiple of what one look takes


class Watch(threading.Thread):
    """Measures the memory of the processes that start inside the `with`, and ends them all.

    They end at the deadline, and those that are still there when the `with` is left end then,
    however it is left. papermill knows a time-out for a cell only, a cell that hangs in C code
    ignores an interrupt, and the worker processes of a kernel that was killed live on.

    Args:
        seconds: the deadline, counted from the beginning of the `with`.

    Attributes:
        elapsed: seconds that the `with` took.
        peak: most bytes in memory at once, summed over the processes.
        expired: whether the deadline ended them.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.seconds, self.elapsed = seconds, 0.0
        self.peak, self.expired = 0, False
        self.stop = threading.Event()
        self.mark, self.outer_mark = uuid.uuid4().hex, os.environ.get(MARK)
        self.before = _descendants()
        self.seen: set[psutil.Process] = set()

    def __enter__(self) -> Watch:
        self.begin = time.monotonic()
        os.environ[MARK] = self.mark
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed = time.monotonic() - self.begin
        self.stop.set()
        try:
            self.join()
            psutil.wait_procs(self.left_behind(), timeout=GRACE)
        finally:  # also when the user presses Ctrl-C a second time
            self.join()
            left = self.left_behind()
            kill(left)
            psutil.wait_procs(left, timeout=GRACE)
            if self.outer_mark is None:
                del os.environ[MARK]
            else:
                os.environ[MARK] = self.outer_mark

    def run(self) -> None:
        """Look four times a second, until the `with` is left.

        The memory is looked at less often where that takes long: the kernel walks through all
        pages of a process, which a large one would feel.
        """
        due = self.begin
        while not self.stop.wait(0.25):
            started = _descendants() - self.before
            self.seen |= started
            now = time.monotonic()
            if now >= due:
                self.peak = max(self.peak, sum(_resident_bytes(process) for process in started))
                due = now + LEISURE * (time.monotonic() - now)
            if time.monotonic() - self.begin > self.seconds:
                self.expired = True
                kill(started)

    def left_behind(self) -> list[psutil.Process]:
        """Processes that started inside the `with` and still run.

        A process whose parent has died is no descendant any more: it is known because it was seen
        earlier, or by the mark in its environment.
        """
        started = self.seen | (_descendants() - self.before)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark:
                    started.add(process)
        return [process for process in started if _runs(process)]


def _descendants() -> set[psutil.Process]:
    """Children of this process, and theirs."""
    return set(psutil.Process().children(recursive=True))


def _runs(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie has ended and waits for its parent to notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _resident_bytes(process: psutil.Process) -> int:
    """Bytes in memory, 0 for a process that has just ended.

    On Linux a page that several processes share counts in parts (PSS).
    """
    try:
        memory = process.memory_full_info() if psutil.LINUX else process.memory_info()
        return getattr(memory, "pss", memory.rss)
    except psutil.Error:
        return 0


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, of which some may have ended already."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def signals_raise_exit() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that a stopped run cleans up behind itself.

    By default Python ends at once, without any `finally`. The first signal raises; those that
    follow are ignored, so that they do not interrupt the cleaning. A signal that is handled or
    ignored already (`nohup`) stays as it is. Outside of the main thread nothing changes.
    """
    replaced = []

    def leave(number: int, frame: object) -> None:
        for other in replaced:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                replaced.append(number)
                signal.signal(number, leave)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def call_in_subprocess(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) in a new process, which ends with the call, or with this process.

    Args:
        function: one that can be pickled.
        *args: its arguments, which can be pickled.

    Returns:
        What the function returned.

    Raises:
        ChildProcessError: the process ended without an answer.
        Exception: whatever the function raised.
    """
    with signals_raise_exit():
        process, receiver = start(function, *args)
        try:
            error, result = answer_of(process, receiver)
        finally:
            if process.is_alive():
                _kill_with_children(process.pid)
                process.join()
    if error is not None:
        raise error
    return result


def start(function: Callable[..., Any], *args: Any, log: Path | None = None) -> tuple[Process, Any]:
    """Begin function(*args) in a new process, which ends when this process ends.

    Args:
        function: one that can be pickled.
        *args: its arguments, which can be pickled.
        log: file for what it prints; None = where this process prints.

    Returns:
        The process, and the end of a pipe, a Connection, that `answer_of` reads.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    given = (sender, function, args, log)
    process = context.Process(target=_answer, args=given, name=function.__name__)
    process.start()
    sender.close()
    return process, receiver


def answer_of(process: Process, receiver: Connection) -> tuple[Exception | None, Any]:
    """Wait for a process of `start`: what its function raised, or None, and what it returned."""
    try:
        answer = receiver.recv()
        process.join(GRACE)
        return answer
    except EOFError:
        process.join()
        code = process.exitcode
        was_killed = code is not None and code < 0
        killed = ": it was killed, perhaps for lack of memory" if was_killed else ""
        text = f"the process of {process.name} ended with exit code {code} and no answer{killed}"
        return ChildProcessError(text), None


def end(processes: Iterable[Process], seconds: float = LEAVE) -> None:
    """End processes of `start`, and what they have started.

    A training that gets SIGTERM ends the update under way and writes a checkpoint.

    Args:
        processes: that may have ended already.
        seconds: after which they are killed.
    """
    processes = [process for process in processes if process.is_alive()]
    family = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family += psutil.Process(process.pid).children(recursive=True)
        process.terminate()
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        _kill_with_children(process.pid)
        process.join()
    kill(family)


def _answer(
    sender: Connection, function: Callable[..., Any], args: tuple, log: Path | None
) -> None:
    """What a process of `start` does: send (error, result)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    threading.Thread(target=_end_after_parent, daemon=True).start()
    if log:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
    try:
        answer = (None, function(*args))
    except Exception as error:
        if log:
            traceback.print_exc()
        answer = (error, None)
    sender.send(answer)


def _end_after_parent() -> None:
    """Wait for the end of the parent, which a SIGKILL ends without a word; then end too."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process was not started by another one")
    parent.join()
    _kill_with_children(os.getpid())


def _kill_with_children(pid: int) -> None:
    """Kill the children of a process, and theirs, and then itself."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        kill([*process.children(recursive=True), process])
