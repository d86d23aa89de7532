"""Runner: lessons are read from their percent source and run headless through papermill.

Each lesson has a deadline, runs only where it is out of date, and leaves no process behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import jupytext
import nbformat
import torch
from nbformat import NotebookNode

from cxrkit.config import paths
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import SUFFIXES, get_profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, execution, side_by_side
from cxrkit.reproduction.watch import call_in_subprocess
from cxrkit.simulation import cohort
from cxrkit.storage import artifacts, atomic, locations

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SEVERITY_LESSON, ALTERNATION = "06_severity", "alternation"
LESSON_BYTES = 2e9  # memory that one lesson may need
BLANK = {"code": "# your solution", "markdown": "*Your answer.*"}


class CannotRun(Exception):
    """No lesson can start; the message names the problem and the next step."""


# the sources of lessons


def lessons_folder() -> Path:
    """Percent sources: `notebooks/src` of the checkout, or `cxrkit/lessons` of an installed kit."""
    source = paths.PACKAGE.parent / "notebooks" / "src"
    return source if source.is_dir() else paths.PACKAGE / "lessons"


def number_of(lesson: str) -> str:
    """The number of a lesson by its name: "04_corpus_vit" -> "04", "03b_attention" -> "03b"."""
    return lesson.split("_")[0]


def lesson_sources(only: Iterable[str] = (), folder: Path | None = None) -> list[Path]:
    """Lesson sources in order.

    Args:
        only: numbers or names of lessons; () = all.
        folder: where the sources lie; default `lessons_folder()`.

    Raises:
        ValueError: there is no lesson of that number or name; the message lists them.
    """
    asked = set(only)
    found = sorted(Path(folder or lessons_folder()).glob("[0-9][0-9]*_*.py"))
    names = {path: {number_of(path.stem), path.stem} for path in found}
    unknown = sorted(asked.difference(*names.values()))
    if unknown:
        known = ", ".join(path.stem for path in found) or "none"
        raise ValueError(f"no lesson {', '.join(unknown)}; there are: {known}")
    if not asked:
        return found
    return [path for path in found if names[path] & asked]


def read_lesson(path: Path, solved: bool = False) -> NotebookNode:
    """Notebook without outputs from a percent source.

    Args:
        path: of the source.
        solved: keep the cells tagged `solution`, and put those of `solutions_of` in place of the
            cells tagged `exercise`; otherwise the former are blank, below the leading comment that
            states the exercise, and the latter are as the source has them.

    Raises:
        FileNotFoundError: the solutions are not here.
        KeyError: an exercise has no solution.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if solved and "exercise" in tags:
            cell.source = solutions_of(path)[exercise_of(tags)]
        if solved or "solution" not in tags:
            continue
        exercise = ""
        if cell.cell_type == "code":
            comment = re.match(r"(#.*\n?)*", cell.source)
            exercise = comment.group().rstrip() if comment else ""
        cell.source = f"{exercise}\n{BLANK[cell.cell_type]}".lstrip()
    return notebook


def exercise_of(tags: Sequence[str]) -> str:
    """The name of an exercise, such as "04.2", among the tags of its cell; "" without one."""
    return next((tag for tag in tags if re.fullmatch(r"\d\d[a-z]?\.\d+", tag)), "")


def solutions_of(path: Path) -> dict[str, str]:
    """Solutions of the exercises of a lesson.

    They lie in `notebooks/solutions`, which neither a wheel nor a student's copy holds.

    Args:
        path: of the source of the lesson.

    Returns:
        Name of the exercise -> source of its solved cell.

    Raises:
        FileNotFoundError: they are not here.
    """
    solutions = path.parent.parent / "solutions" / path.name
    if not solutions.exists():
        raise FileNotFoundError(
            f"no solutions in {solutions}: they are in the repository, for teachers "
            "(docs/teaching.md), and not in an installed kit"
        )
    cells = jupytext.read(solutions, fmt="py:percent").cells
    return {exercise_of(cell.metadata.get("tags", [])): cell.source for cell in cells}


# what a run depends on


def package_digest() -> str:
    """Hash of all that can change what a lesson prints.

    That is code, atlas, manifests, interpreter and torch.
    """
    package = paths.PACKAGE
    files = [*package.rglob("*"), *(package.parent / "data_manifests").rglob("*")]
    digest = hashlib.sha256(f"{sys.version} torch {importlib.metadata.version('torch')}".encode())
    for path in sorted(files):
        if path.is_file() and path.suffix not in (".pyc", ".j2"):
            name = path.relative_to(package.parent).as_posix()
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def fingerprint(notebook: NotebookNode, parameters: dict[str, Any]) -> str:
    """Hash of a lesson: equal hashes mean that running it again shows the same.

    Args:
        notebook: without outputs.
        parameters: all that it is run with.

    Returns:
        12 hex digits of its cells, its parameters and the package.
    """
    cells = []
    for cell in notebook.cells:
        cells.append([cell.cell_type, cell.source, cell.metadata.get("tags", [])])
    return artifacts.key({"cells": cells, "parameters": parameters, "package": package_digest()})


# one lesson


@dataclass(frozen=True)
class Lesson:
    """A lesson and all that it is run with.

    Attributes:
        notebook: without outputs.
        output: where the executed notebook goes; its record lies beside it.
        given: values of the parameters that it declares.
        fingerprint: equal ones show the same.
    """

    notebook: NotebookNode
    output: Path
    given: dict[str, Any]
    fingerprint: str

    @property
    def note(self) -> Path:
        """Where its record lies."""
        return self.output.with_suffix(".json")

    def record(self) -> dict[str, Any] | None:
        """Its record where nothing has changed since it ran, else None."""
        if not self.output.exists() or not self.note.exists():
            return None
        record = atomic.read_json(self.note)
        return record if record["fingerprint"] == self.fingerprint else None

    def begin(self, seconds: float) -> tuple[NotebookNode, Path, dict[str, Any], float]:
        """The arguments of `execution.execute_notebook`; an older record goes.

        Args:
            seconds: the deadline.
        """
        self.note.unlink(missing_ok=True)
        return self.notebook, self.output, self.given, seconds

    def keep(self, elapsed: float, peak: int) -> dict[str, Any]:
        """Write the record of a run that ended well.

        Args:
            elapsed: seconds that it took.
            peak: bytes of its processes.

        Returns:
            The record: fingerprint, parameters, seconds, peak_gb, provenance.
        """
        record = {
            "fingerprint": self.fingerprint,
            "parameters": self.given,
            "seconds": round(elapsed, 1),
            "peak_gb": round(peak / environment.GB, 2),
            "provenance": environment.provenance(),
        }
        atomic.write_json(self.note, record)
        return record


def prepare(source: Path, folder: Path, parameters: dict[str, Any], solved: bool = False) -> Lesson:
    """Read a lesson that is to run.

    Args:
        source: percent source.
        folder: where the executed notebook and its record go.
        parameters: of the run; the lesson gets those that it declares.
        solved: with the solutions of its exercises.
    """
    notebook = read_lesson(source, solved)
    declared = execution.declared_parameters(notebook)
    given = {
        name: value for name, value in parameters.items() if value is not None and name in declared
    }
    places = ("out", "data", "mirror")  # where things lie changes nothing that a lesson shows
    settings = {name: value for name, value in given.items() if name not in places}
    current = fingerprint(notebook, settings | _outside(parameters))
    return Lesson(notebook, folder / f"{source.stem}.ipynb", given, current)


def run_lesson(
    source: Path,
    folder: Path,
    parameters: dict[str, Any],
    seconds: float,
    force: bool = False,
    solved: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Run one lesson, unless its record says that nothing has changed.

    Args:
        source: percent source.
        folder: where the executed notebook and its record go.
        parameters: of the run; the lesson gets those that it declares.
        seconds: the deadline.
        force: run it again although nothing has changed.
        solved: with the solutions of its exercises.

    Returns:
        Its record (`Lesson.keep`), and whether it ran.

    Raises:
        LessonFailed: as `execution.execute_notebook`.
    """
    lesson = prepare(source, folder, parameters, solved)
    record = None if force else lesson.record()
    if record is not None:
        return record, False
    return lesson.keep(*execution.execute_notebook(*lesson.begin(seconds))), True


def _outside(parameters: dict[str, Any]) -> dict[str, Any]:
    """What a lesson depends on beside its own parameters: the images, and a settings file's text.

    Of a folder of prepared images it counts that there is one: what is taken from it is verified.
    """
    outside: dict[str, Any] = {"mirror": bool(parameters.get("mirror"))}
    profile = parameters.get("profile") or "demo"
    if profile.endswith(SUFFIXES):
        outside["settings"] = Path(profile).read_text("utf-8")
    store = artifacts.Store(
        parameters.get("out"), parameters.get("data") or parameters.get("mirror")
    )
    outside["data"] = stages.all_data(get_profile(profile), store)
    if not locations.shipped_root():  # other artifacts may be shown than those of the kit
        outside["fresh"] = True
    return outside


# all lessons of a profile


def reproduce(
    parameters: dict[str, Any],
    root: Path | None = None,
    only: Sequence[str] = (),
    force: bool = False,
    say: Callable[[str], object] = print,
    jobs: int = 0,
) -> list[str]:
    """Run the lessons for a profile into `<root>/runs/<name of the profile>`.

    Args:
        parameters: values of `execution.Parameters`. `profile` is a name or the path of a settings
            file; `data`, the folder of the full datasets, reaches the lessons as CXRKIT_DATA.
        root: the store; default `locations.default_root()`.
        only: numbers or names of lessons; () = all.
        force: run lessons again that are up to date.
        say: called with each line of progress.
        jobs: so many stages are made at a time, then so many lessons are run at a time; 0 = each
            stage is made by the lesson that opens it first, and lessons run one after the other,
            or `lessons_at_a_time` where nothing is to be trained.

    Returns:
        The names of the lessons that failed, and of the stage that lesson 06 is followed by
        (`severity.alternation`) if it failed.

    Raises:
        CannotRun: no lesson could start, or another run is at work in that folder.
        ValueError: an unknown profile, lesson or parameter.
    """
    root = Path(root).resolve() if root else locations.default_root()
    given = execution.Parameters(**{**parameters, "out": str(root)}).model_dump()
    locations.fix_environment()
    if given["data"]:
        given["data"] = str(Path(given["data"]).resolve())
        os.environ["CXRKIT_DATA"] = given["data"]  # a kernel inherits it
    profile, lessons = get_profile(given["profile"]), lesson_sources(only)
    if given["profile"].endswith(SUFFIXES):
        given["profile"] = str(Path(given["profile"]).resolve())  # kernels work in another folder
    _refuse_blocked(root)
    if not lessons:
        raise CannotRun(f"no lesson in {lessons_folder()}")
    refuse_unused(given, lessons)
    with exclusive_folder(root / "runs" / profile.name) as folder:
        atomic.remove_leftovers(folder)
        store = artifacts.Store(root, given["data"] or given["mirror"])
        names = [path.stem for path in lessons]
        steps = side_by_side.steps_of(profile, store, names)
        if steps and jobs:  # a stage that fails is tried again by its lesson
            say(f"{len(steps)} stages, {jobs} at a time; their progress: {folder / 'stages'}")
            side_by_side.make(steps, store, jobs, folder / "stages", stages.resolve, say)
        to_train = any(step.stage != "cohort" for step in steps.values())  # films are drawn quickly
        at_once = jobs or (1 if to_train else lessons_at_a_time())
        seconds = 60 * profile.lesson_minutes
        if min(at_once, len(lessons)) == 1:

            def run(source: Path) -> tuple[dict[str, Any], bool]:
                return run_lesson(source, folder, given, seconds, force)

            failed = _run_in_turn(lessons, run, say)
        else:
            ready = {path.stem: prepare(path, folder, given) for path in lessons}
            failed = _run_side_by_side(ready, at_once, seconds, force, say)
        if SEVERITY_LESSON in names and profile.severity.alternation:
            failed += _held_out_in_turn(profile, store, say)
    return failed


def lessons_at_a_time() -> int:
    """How many lessons this machine runs side by side: two, if cores and memory suffice.

    One beside a card, which all would share.
    """
    if torch.cuda.is_available():
        return 1
    return cohort.fitting_workers(2, LESSON_BYTES)


def _run_in_turn(
    lessons: Sequence[Path],
    run: Callable[[Path], tuple[dict[str, Any], bool]],
    say: Callable[[str], object],
) -> list[str]:
    """Run one lesson after the other; the names of those that failed."""
    failed, names = [], [path.stem for path in lessons]
    for number, source in enumerate(lessons, 1):
        left = ", ".join(names[number:]) or "nothing"
        say(f"[{number}/{len(names)}] {source.stem} ... (then: {left})")
        try:
            record, ran = run(source)
        except execution.LessonFailed as error:
            failed.append(source.stem)
            say(f"    FAILED {error}")
        else:
            say(f"    {_cost(record) if ran else _up_to_date(record)}")
    return failed


def _run_side_by_side(
    lessons: dict[str, Lesson],
    at_once: int,
    seconds: float,
    force: bool,
    say: Callable[[str], object],
) -> list[str]:
    """Run lessons in processes of their own, each on one core; the names of those that failed."""
    failed, tasks, ended = [], {}, itertools.count(1)

    def tell(name: str, text: str) -> None:
        say(f"[{next(ended)}/{len(lessons)}] {name}: {text}")

    def keep(one: side_by_side.Ended, running: list[str]) -> None:
        under_way = f" (running: {', '.join(running)})" if running else ""
        if one.error is None:
            text = _cost(lessons[one.name].keep(*one.result))
        elif isinstance(one.error, execution.LessonFailed | ChildProcessError):
            failed.append(one.name)
            text = f"FAILED {one.error}"
        else:
            raise one.error
        tell(one.name, text + under_way)

    for name, lesson in lessons.items():
        record = None if force else lesson.record()
        if record is not None:
            tell(name, _up_to_date(record))
        else:
            call = lesson.begin(seconds)
            tasks[name] = side_by_side.Task(execution.execute_notebook, call)
    if tasks:
        say(f"{at_once} lessons at a time, each on one core: {', '.join(tasks)}")
    side_by_side.run(tasks, {}, at_once, keep)
    return sorted(failed)


def _cost(record: dict[str, Any]) -> str:
    return f"ran in {record['seconds']:.0f} s, {record['peak_gb']:.2f} GB"


def _up_to_date(record: dict[str, Any]) -> str:
    return f"up to date ({_cost(record)}; --force runs it again)"


def _held_out_in_turn(
    profile: Profile, store: artifacts.Store, say: Callable[[str], object]
) -> list[str]:
    """Table 6: make the severity model of every hospital that is held out in turn.

    The lesson shows the one that holds out `severity.held_out`; the ledger reads all of them.

    Args:
        profile: its `severity.alternation` names them.
        store: where the models lie, or will.
        say: called with each line of progress.

    Returns:
        The name of the stage if it failed.
    """
    turns = ", ".join(profile.severity.alternation)
    say(f"    Table 6: a severity model without each of {turns}, in turn")
    began = time.monotonic()
    try:
        call_in_subprocess(stages.resolve, profile, ALTERNATION, store)
    except Exception as error:  # whatever it is: the other lessons go on
        say(f"    FAILED {ALTERNATION}: {type(error).__name__}: {error}")
        return [ALTERNATION]
    say(f"    made or loaded in {time.monotonic() - began:.0f} s")
    return []


def _refuse_blocked(root: Path) -> None:
    """Raises CannotRun where this machine cannot run any lesson."""
    stops = environment.blocking(environment.examine(root, environment.BEFORE_A_RUN))
    if stops:
        raise CannotRun("\n".join(f"{check.value}\n  next step: {check.todo}" for check in stops))


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[Path]:
    """The folder of a run, for one process at a time: two would overwrite their lessons.

    Args:
        folder: is made where it is missing.

    Raises:
        CannotRun: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            yield folder
    except filelock.Timeout:
        raise CannotRun(
            f"another run is at work in {folder}: wait for it, or choose another folder (--out, or "
            "CXRKIT_STORE)"
        ) from None


def refuse_unused(parameters: dict[str, Any], lessons: Iterable[Path]) -> None:
    """Refuse an option that would be dropped in silence.

    Args:
        parameters: of a run.
        lessons: sources of the chosen lessons.

    Raises:
        ValueError: no chosen lesson takes one of them.
    """
    taken = set()
    for source in lessons:
        taken |= execution.declared_parameters(read_lesson(source))
    unused = []
    for name, value in parameters.items():
        if value is not None and name not in taken and name != "data":
            unused.append(name)
    if unused:
        raise ValueError(
            f"no chosen lesson takes {', '.join(unused)}; their parameters: "
            f"{', '.join(sorted(taken))}"
        )
