"""Side by side: stages, or lessons, as many at a time as there are cores.

A lesson makes its stages one after the other, and a training of the demo keeps one core busy. Here
each has a process of one thread, and begins as soon as all that it depends on is finished.
"""

from __future__ import annotations

import contextlib
import graphlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrkit.reproduction import watch

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store

# lesson -> the stages that it opens; those before them follow
STAGES_OF_LESSON = {
    "00": ("cohort",),
    "01": ("cohort",),
    "02": ("cohort", "backbone"),
    "03": ("cohort", "segmenter"),
    "03b": (),
    "04": ("cohort", "diagnosis_pa", "diagnosis_ap", "marker_study"),
    "05": ("cohort", "diagnosis_pa", "diagnosis_ap", "saliency_benchmark"),
    "06": ("cohort", "segmenter", "severity"),
    "07": ("cohort", "diagnosis_pa", "severity", "severity_choices"),
    "08": ("cohort", "diagnosis_pa", "marker_study"),
    "09": ("cohort", "backbone", "segmenter", "diagnosis_pa", "diagnosis_ap", "severity"),
}
# of a process of its own: its progress goes to a file, a line in ten seconds
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TQDM_MININTERVAL": "10"}


@dataclass(frozen=True)
class Step:
    """A stage that is to be made, and the names of the artifacts that are to be made before it."""

    stage: str
    profile: Profile
    before: tuple[str, ...]


def steps_of(profile: Profile, store: Store, lessons: Iterable[str] = ()) -> dict[str, Step]:
    """What is missing of the stages that lessons open, and of those that these depend on.

    Args:
        profile: of the lessons.
        store: where artifacts lie.
        lessons: names or numbers of lessons; () = all.

    Returns:
        Name of the artifact -> its step. What is finished is left out, with all before it.
    """
    found: dict[str, Step] = {}
    for lesson in lessons or STAGES_OF_LESSON:
        for stage in STAGES_OF_LESSON.get(lesson.split("_")[0], ()):
            if stage != "cohort" or "virtual" in profile.manifests:
                _add(stage, profile, store, found)
    return found


def _add(stage: str, profile: Profile, store: Store, found: dict[str, Step]) -> str | None:
    """Add a stage and what it depends on to `found`; its name, None where it is finished."""
    from cxrkit.pipeline import stages  # heavy, and only needed here

    name = stages.folder_of(profile, stage, store).name
    if name in found:
        return name
    if stages.is_done(profile, stage, store):
        return None
    before = [_add(*step, store, found) for step in stages.upstream(profile, stage)]
    found[name] = Step(stage, profile, tuple(one for one in before if one))
    return name


def make(
    steps: dict[str, Step],
    store: Store,
    jobs: int,
    logs: Path,
    function: Callable[..., Any],
    say: Callable[[str], object] = print,
) -> list[str]:
    """Make stages, as many at a time as there are jobs, each in a process of one thread.

    Where this call is interrupted (Ctrl-C, SIGTERM, SIGHUP), a training under way writes a
    checkpoint, all processes end, and the next call goes on from there.

    Args:
        steps: of `steps_of`.
        store: where artifacts go; two stages that need the same masks wait for each other.
        jobs: processes at a time.
        logs: folder of what the processes print, a file for each stage.
        function: makes a stage, such as `stages.resolve`: called with profile, stage and store.
        say: called with a line for each stage as it is finished.

    Returns:
        The names of the artifacts that could not be made, or that depend on one of these.
    """
    logs.mkdir(parents=True, exist_ok=True)
    tasks, before, made, ended = {}, {}, set(), itertools.count(1)
    for name, step in steps.items():
        arguments = (step.profile, step.stage, store)
        tasks[name] = Task(function, arguments, logs / f"{name}.log")
        before[name] = step.before

    def tell(one: Ended, running: list[str]) -> None:
        text = f"made in {one.seconds:.0f} s"
        if one.error is None:
            made.add(one.name)
        else:
            text = f"FAILED {type(one.error).__name__}: {one.error} (see {tasks[one.name].log})"
        say(f"    [{next(ended)}/{len(steps)}] {steps[one.name].stage}: {text}")

    run(tasks, before, jobs, tell)
    return sorted(steps.keys() - made)  # also those after a stage that failed


@dataclass(frozen=True)
class Task:
    """A call for a process of its own.

    Attributes:
        function: one that can be pickled.
        arguments: that can be pickled.
        log: file for what it prints; None = where this process prints.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    log: Path | None = None


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        name: of the task.
        error: what it raised, or None.
        result: what it returned, or None.
        seconds: that it took.
    """

    name: str
    error: Exception | None
    result: Any
    seconds: float


@dataclass(frozen=True)
class _Running:
    """A task under way."""

    name: str
    process: watch.Process
    began: float


def run(
    tasks: Mapping[str, Task],
    before: Mapping[str, Iterable[str]],
    jobs: int,
    tell: Callable[[Ended, list[str]], object],
) -> None:
    """Run tasks, as many at a time as there are jobs, each in a process of one thread.

    Where this call is interrupted (Ctrl-C, SIGTERM, SIGHUP), all processes get SIGTERM and end.

    Args:
        tasks: by name. Those that most others wait for begin first, then in their order.
        before: name of a task -> those that it waits for. One of them failed: it does not run.
        jobs: processes at a time.
        tell: called with each task as it ends, and with the names of those under way; those that
            it makes room for have begun by then.
    """
    order = graphlib.TopologicalSorter({name: before.get(name, ()) for name in tasks})
    order.prepare()
    rank, position, waiting = _ranks(tasks, before), list(tasks).index, []
    running: dict[connection.Connection, _Running] = {}
    ended: list[Ended] = []
    with watch.signals_raise_exit(), contextlib.ExitStack() as stack:
        stack.callback(lambda: watch.end([one.process for one in running.values()]))
        while True:
            waiting += order.get_ready()
            waiting.sort(key=lambda name: (-rank[name], position(name)))
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                receiver, running_one = _start(name, tasks[name])
                running[receiver] = running_one
            names = [one.name for one in running.values()]
            for one in ended:
                tell(one, names)
            ended.clear()
            if not running:
                return
            for receiver in connection.wait(list(running)):
                one = running.pop(receiver)
                error, result = watch.answer_of(one.process, receiver)
                seconds = time.monotonic() - one.began
                ended.append(Ended(one.name, error, result, seconds))
                if error is None:
                    order.done(one.name)


def _start(name: str, task: Task) -> tuple[connection.Connection, _Running]:
    """Begin a task; the end of a pipe that its answer comes through."""
    began = time.monotonic()
    with _environment():
        process, receiver = watch.start(task.function, *task.arguments, log=task.log)
    return receiver, _Running(name, process, began)


def _ranks(names: Iterable[str], before: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many tasks, one after the other, wait for each."""

    @cache
    def rank(name: str) -> int:
        after = [other for other, needed in before.items() if name in needed]
        return 1 + max(map(rank, after), default=0)

    return {name: rank(name) for name in names}


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """ENVIRONMENT, for the processes that start inside the `with`."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
