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


def stage(profile, name, store):
    """A made-up stage: notes when it began and ended. `profile` says how long it takes, or "fail";
    a stage that gets SIGTERM notes that too, as a training writes a checkpoint.
    """
    print(f"progress of {name}, threads {os.environ['OMP_NUM_THREADS']}")
    (store / f"{name}.began").write_text(f"{time.time()} {os.getpid()}")
    if profile == "fail":
        raise ValueError(f"{name} cannot be made")
    if profile == "die":
        die()

    def checkpoint(*_):
        (store / f"{name}.checkpoint").write_text("")
        raise SystemExit(75)

    signal.signal(signal.SIGTERM, checkpoint)
    time.sleep(profile)
    (store / f"{name}.ended").write_text(str(time.time()))


def stages_side_by_side(store, steps):
    """Make such stages, two at a time."""
    from cxrkit.reproduction import side_by_side

    side_by_side.make(steps, store, 2, store / "logs", stage)
