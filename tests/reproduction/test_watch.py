"""No process outlives what started it: a lesson that ends, fails or is interrupted; a plan."""

import os
import signal
import time

import psutil
import pytest

from cxrkit.reproduction import execution, runner, watch
from tests.fakes import calls, processes
from tests.fakes.lessons import code, lesson

# a cell that starts a process in a session of its own and writes down who runs
START = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(sleep, start_new_session=True)
with open({path!r} + ".part", "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")
os.rename({path!r} + ".part", {path!r})
"""


def write_lesson(folder, ending):
    """A lesson whose last cell starts a process and ends so."""
    source = START.format(path=str(folder / "pids.txt")) + ending
    (folder / "00_made_up.py").write_text(lesson(code(source)))


def execute(folder, seconds=120):
    """Run that lesson."""
    notebook = runner.read_lesson(folder / "00_made_up.py")
    return execution.execute_notebook(notebook, folder / "runs" / "00_made_up.ipynb", {}, seconds)


def wait_for(path, seconds=60):
    """The processes that a file names, as soon as it is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


def running(pids):
    """Those that still run."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def gone(pids, seconds=20):
    """Whether all of them end in that time."""
    end = time.monotonic() + seconds
    while running(pids) and time.monotonic() < end:
        time.sleep(0.1)
    return not running(pids)


# lessons


@pytest.mark.integration
@pytest.mark.parametrize(
    "ending, message",
    [
        ("", None),
        ("raise RuntimeError('no film')", "no film"),
        ("import signal; os.kill(os.getpid(), signal.SIGKILL)", "DeadKernel"),
    ],
    ids=["done", "failed", "kernel killed"],
)
def test_what_a_lesson_started_ends_with_it(tmp_path, ending, message):
    """Also a process in a session of its own, whose kernel died before anyone had looked."""
    write_lesson(tmp_path, ending)
    if message is None:
        execute(tmp_path)
    else:
        with pytest.raises(execution.LessonFailed, match=message):
            execute(tmp_path)
    pids = wait_for(tmp_path / "pids.txt", seconds=0.1)
    assert len(pids) == 2 and not running(pids)
    assert watch.MARK not in os.environ


@pytest.mark.integration
def test_the_deadline_ends_what_a_lesson_started_too(tmp_path):
    write_lesson(tmp_path, "time.sleep(300)")
    with pytest.raises(execution.LessonFailed, match="deadline"):
        execute(tmp_path, seconds=8)
    assert not running(wait_for(tmp_path / "pids.txt", seconds=0.1))


@pytest.mark.integration
@pytest.mark.parametrize("name, status", [("SIGINT", 1), ("SIGTERM", 143)])
def test_an_interrupted_run_leaves_no_process_and_no_file_behind(tmp_path, name, status):
    """Ctrl-C, or the end of a batch job; the cell ignores interrupts."""
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(300)"
    write_lesson(tmp_path, deaf)
    errors = tmp_path / "errors.txt"
    process = processes.start(errors, execute, tmp_path)
    pids = wait_for(tmp_path / "pids.txt")
    assert running(pids) == pids
    os.kill(process.pid, getattr(signal, name))
    code, said = processes.end(process, errors)
    assert code == status, said
    assert not running(pids)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == []


# signals


@pytest.fixture
def by_default():
    """Both signals as a terminal leaves them: under nohup SIGHUP is ignored, also by tests."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_signal_raises_once_and_is_put_back(by_default):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(SystemExit) as caught, watch.signals_raise_exit():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while it cleans up: nothing happens
            time.sleep(0.01)
    assert caught.value.code == 129
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watch.signals_raise_exit():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


# a call in a process of its own


def test_a_call_in_a_subprocess_returns_or_raises_as_here():
    assert watch.call_in_subprocess(calls.double, 21) == 42
    with pytest.raises(ValueError, match="no such film"):
        watch.call_in_subprocess(calls.refuse, "no such film")
    with pytest.raises(ChildProcessError, match="die ended with exit code -9 .*memory"):
        watch.call_in_subprocess(calls.die)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_call_in_a_subprocess_ends_with_whoever_waits_for_it(tmp_path, name):
    """A process that measures a plan holds gigabytes of a GPU."""
    errors = tmp_path / "errors.txt"
    process = processes.start(errors, calls.call_and_wait, tmp_path)
    pids = wait_for(tmp_path / "pids.txt")
    os.kill(process.pid, getattr(signal, name))
    processes.end(process, errors)
    assert gone(pids)
