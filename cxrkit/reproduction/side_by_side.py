"""Side by side: what lessons need is made before them, independent stages at the same time.

A lesson makes its stages one after the other, and a training of the demo keeps one core busy. Here
each stage has a process of one thread, and begins as soon as all that it depends on is finished.
"""

from __future__ import annotations

import contextlib
import graphlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
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
    "07": ("cohort", "diagnosis_pa", "severity"),
    "08": ("cohort", "diagnosis_pa", "marker_study"),
    "09": ("cohort", "backbone", "segmenter", "diagnosis_pa", "diagnosis_ap", "severity"),
}
# of a process that makes a stage: its progress goes to a file, a line in ten seconds
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
    order = graphlib.TopologicalSorter({name: step.before for name, step in steps.items()})
    order.prepare()
    rank, waiting, made, ended = _ranks(steps), [], set(), 0
    running: dict[connection.Connection, _Running] = {}
    with watch.signals_raise_exit(), contextlib.ExitStack() as stack:
        stack.callback(lambda: watch.end([one.process for one in running.values()]))
        while True:
            waiting = sorted([*waiting, *order.get_ready()], key=rank.__getitem__)
            while waiting and len(running) < jobs:
                name = waiting.pop()
                receiver, one = _start(name, steps[name], store, logs, function)
                running[receiver] = one
            if not running:
                return sorted(steps.keys() - made)  # also those after a stage that failed
            for receiver in connection.wait(list(running)):
                one = running[receiver]
                error, _ = watch.answer_of(one.process, receiver)
                del running[receiver]
                ended += 1
                say(f"    [{ended}/{len(steps)}] {steps[one.name].stage}: {one.describe(error)}")
                if error is None:
                    made.add(one.name)
                    order.done(one.name)


@dataclass(frozen=True)
class _Running:
    """A process that makes an artifact."""

    name: str
    process: watch.Process
    log: Path
    began: float

    def describe(self, error: Exception | None) -> str:
        """How it ended, in one line."""
        if error is None:
            return f"made in {time.monotonic() - self.began:.0f} s"
        return f"FAILED {type(error).__name__}: {error} (see {self.log})"


def _start(
    name: str, step: Step, store: Store, logs: Path, function: Callable[..., Any]
) -> tuple[connection.Connection, _Running]:
    """Begin to make an artifact; the end of a pipe that its answer comes through."""
    log, began = logs / f"{name}.log", time.monotonic()
    with _environment():
        process, receiver = watch.start(function, step.profile, step.stage, store, log=log)
    return receiver, _Running(name, process, log, began)


def _ranks(steps: dict[str, Step]) -> dict[str, int]:
    """How many stages, one after the other, wait for each: the longest chain begins first."""

    @cache
    def rank(name: str) -> int:
        after = [other for other, step in steps.items() if name in step.before]
        return 1 + max(map(rank, after), default=0)

    return {name: rank(name) for name in steps}


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
