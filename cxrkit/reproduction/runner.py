"""Runner: lessons are read from their percent source and run headless through papermill.

Each lesson has a deadline, runs only where it is out of date, and leaves no process behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import jupytext
import nbformat
import papermill
import pydantic
from nbformat import NotebookNode

from cxrkit.config import paths
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import SUFFIXES, get_profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, side_by_side
from cxrkit.reproduction.watch import Watch, call_in_subprocess, signals_raise_exit
from cxrkit.storage import artifacts, atomic, locations

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SEVERITY_LESSON, ALTERNATION = "06_severity", "alternation"
BLANK = {"code": "# your solution", "markdown": "*Your answer.*"}


class CannotRun(Exception):
    """No lesson can start; the message names the problem and the next step."""


class LessonFailed(Exception):
    """One lesson stopped; the message says where, and which file shows it."""


class Parameters(pydantic.BaseModel, extra="forbid"):
    """All that the `parameters` cell of a lesson may declare.

    papermill itself only warns about a misspelt name.
    """

    profile: str = "demo"
    out: str | None = None
    mirror: str | None = None
    data: str | None = None
    scheduler: str | None = None
    workers: int | None = None


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


def declared_parameters(notebook: NotebookNode) -> set[str]:
    """Names in the `parameters` cell of a lesson.

    Raises:
        ValueError: a name that no lesson may have.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lesson.ipynb"
        nbformat.write(notebook, path)
        names = set(papermill.inspect_notebook(str(path)))
    known = list(Parameters.model_fields)
    unknown = sorted(names.difference(known))
    if unknown:
        raise ValueError(
            f"parameters cell declares {', '.join(unknown)}; known: {', '.join(known)}"
        )
    return names


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


def execute_notebook(
    notebook: NotebookNode, path: Path, parameters: dict[str, Any], seconds: float
) -> tuple[float, int]:
    """Run a notebook through papermill.

    The output appears under its name only if every cell ran; otherwise it is kept as
    `<stem>.failed.ipynb`. The kernel, and whatever its cells have started, ends with this call,
    also when the call is interrupted by Ctrl-C, SIGTERM or SIGHUP.

    Args:
        notebook: without outputs.
        path: of the output.
        parameters: values for names that its `parameters` cell declares.
        seconds: the deadline.

    Returns:
        Seconds that it took, and peak bytes of its processes.

    Raises:
        LessonFailed: a cell raised, the kernel died, or the deadline came.
        ValueError: a parameter that the notebook does not declare.
    """
    declared = declared_parameters(notebook)
    unknown = sorted(set(parameters) - declared)
    if unknown:
        raise ValueError(
            f"{path.stem} has no parameter {', '.join(unknown)}; it declares: {sorted(declared)}"
        )
    running = path.with_name(f".{path.stem}.running.ipynb")
    failed = path.with_suffix(".failed.ipynb")
    for stale in (path, failed, running):
        stale.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # otherwise each kernel warns about frozen modules
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        with signals_raise_exit(), Watch(seconds) as watch:
            error = _run_cells(notebook, running, parameters, path.parent)
        if error is None:
            running.replace(path)
            return watch.elapsed, watch.peak
        reason = error_summary(error)
        if watch.expired:
            reason = f"stopped at its deadline of {seconds / 60:g} minutes"
        if running.exists():
            running.replace(failed)
            reason = f"{reason} (see {failed})"
        raise LessonFailed(f"{path.stem}: {reason}") from error
    finally:
        running.unlink(missing_ok=True)  # that of a run that was interrupted


def _run_cells(
    notebook: NotebookNode, path: Path, parameters: dict[str, Any], folder: Path
) -> Exception | None:
    """Run a notebook in a kernel that works in `folder`, into `path`; what stopped it, or None."""
    try:
        papermill.execute_notebook(
            notebook,
            str(path),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            start_timeout=180,
            cwd=str(folder),
            extra_arguments=["--log-level=40"],
        )
    except Exception as error:  # an error in a cell, a dead kernel, or one that never started
        return error
    return None


def error_summary(error: Exception) -> str:
    """One line for an exception of papermill or nbclient."""
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell In [{error.exec_count}] raised {error.ename}: {error.evalue}"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


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
        The record (fingerprint, parameters, seconds, peak_gb, provenance), and whether it ran.

    Raises:
        LessonFailed: as `execute_notebook`.
    """
    lesson = read_lesson(source, solved)
    output, note = folder / f"{source.stem}.ipynb", folder / f"{source.stem}.json"
    declared = declared_parameters(lesson)
    given = {
        name: value for name, value in parameters.items() if value is not None and name in declared
    }
    places = ("out", "data", "mirror")  # where things lie changes nothing that a lesson shows
    settings = {name: value for name, value in given.items() if name not in places}
    current = fingerprint(lesson, settings | _outside(parameters))
    if not force and output.exists() and note.exists():
        record = atomic.read_json(note)
        if record["fingerprint"] == current:
            return record, False
    note.unlink(missing_ok=True)
    elapsed, peak = execute_notebook(lesson, output, given, seconds)
    record = {
        "fingerprint": current,
        "parameters": given,
        "seconds": round(elapsed, 1),
        "peak_gb": round(peak / environment.GB, 2),
        "provenance": environment.provenance(),
    }
    atomic.write_json(note, record)
    return record, True


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
        parameters: values of `Parameters`. `profile` is a name or the path of a settings file;
            `data`, the folder of the full datasets, reaches the lessons as CXRKIT_DATA.
        root: the store; default `locations.default_root()`.
        only: numbers or names of lessons; () = all.
        force: run lessons again that are up to date.
        say: called with each line of progress.
        jobs: so many stages are made at a time, before the lessons; 0 = each by the lesson that
            opens it first.

    Returns:
        The names of the lessons that failed, and of the stage that lesson 06 is followed by
        (`severity.alternation`) if it failed.

    Raises:
        CannotRun: no lesson could start, or another run is at work in that folder.
        ValueError: an unknown profile, lesson or parameter.
    """
    root = Path(root).resolve() if root else locations.default_root()
    given = Parameters(**{**parameters, "out": str(root)}).model_dump()
    locations.fix_environment()
    if given["data"]:
        given["data"] = str(Path(given["data"]).resolve())
        os.environ["CXRKIT_DATA"] = given["data"]  # a kernel inherits it
    profile, lessons, failed = get_profile(given["profile"]), lesson_sources(only), []
    if given["profile"].endswith(SUFFIXES):
        given["profile"] = str(Path(given["profile"]).resolve())  # kernels work in another folder
    _refuse_blocked(root)
    if not lessons:
        raise CannotRun(f"no lesson in {lessons_folder()}")
    refuse_unused(given, lessons)
    with exclusive_folder(root / "runs" / profile.name) as folder:
        atomic.remove_leftovers(folder)
        if jobs:
            store = artifacts.Store(root, given["data"] or given["mirror"])
            _make_stages(profile, store, lessons, jobs, folder, say)
        for number, source in enumerate(lessons, 1):
            left = ", ".join(path.stem for path in lessons[number:]) or "nothing"
            say(f"[{number}/{len(lessons)}] {source.stem} ... (then: {left})")
            try:
                record, ran = run_lesson(source, folder, given, 60 * profile.lesson_minutes, force)
            except LessonFailed as error:
                failed.append(source.stem)
                say(f"    FAILED {error}")
            else:
                _say_cost(record, ran, say)
            if source.stem == SEVERITY_LESSON and profile.severity.alternation:
                store = artifacts.Store(root, given["data"] or given["mirror"])
                failed += _held_out_in_turn(profile, store, say)
    return failed


def _make_stages(
    profile: Profile,
    store: artifacts.Store,
    lessons: Sequence[Path],
    jobs: int,
    folder: Path,
    say: Callable[[str], object],
) -> None:
    """Make what the lessons open, side by side. A stage that fails is tried again by its lesson."""
    store.wait = -1  # two stages may need the same masks
    steps = side_by_side.steps_of(profile, store, [path.stem for path in lessons])
    if steps:
        say(f"{len(steps)} stages, {jobs} at a time; their progress: {folder / 'stages'}")
        side_by_side.make(steps, store, jobs, folder / "stages", stages.resolve, say)


def _say_cost(record: dict[str, Any], ran: bool, say: Callable[[str], object]) -> None:
    cost = f"{record['seconds']:.0f} s, {record['peak_gb']:.2f} GB"
    if ran:
        say(f"    ran in {cost}")
    else:
        say(f"    up to date (ran in {cost}; --force runs it again)")


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
        taken |= declared_parameters(read_lesson(source))
    unused = []
    for name, value in parameters.items():
        if value is not None and name not in taken and name != "data":
            unused.append(name)
    if unused:
        raise ValueError(
            f"no chosen lesson takes {', '.join(unused)}; their parameters: "
            f"{', '.join(sorted(taken))}"
        )
