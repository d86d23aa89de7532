"""Lessons: read from their percent source and run headless through papermill, each with a deadline,
only where out of date.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import sys
import tempfile
from pathlib import Path

import filelock
import jupytext
import nbformat
import papermill
import pydantic

from cxrkit.config import paths, profiles
from cxrkit.reproduction import environment
from cxrkit.reproduction.watch import Watch
from cxrkit.storage import artifacts, atomic

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BLANK = {"code": "# your solution", "markdown": "*Your answer.*"}


class CannotRun(Exception):
    """No lesson can start: the message names the problem and the next step."""


class LessonFailed(Exception):
    """One lesson stopped: the message says where, and which file shows it."""


class Parameters(pydantic.BaseModel, extra="forbid"):
    """All that a lesson's `parameters` cell may declare; papermill itself only warns about a
    misspelt name.
    """

    profile: str = "demo"
    out: str | None = None
    mirror: str | None = None
    data: str | None = None
    scheduler: str | None = None
    workers: int | None = None


def lessons_folder():
    """Percent sources: `notebooks/src` of the checkout, or `cxrkit/lessons` of an installed kit."""
    source = paths.PACKAGE.parent / "notebooks" / "src"
    return source if source.is_dir() else paths.PACKAGE / "lessons"


def sources(only=(), folder=None):
    """Lesson sources in order; `only` keeps those whose number or name is named. Raises ValueError
    for one that is no lesson's.
    """
    found = sorted(Path(folder or lessons_folder()).glob("[0-9][0-9]_*.py"))
    called = {path: {path.name[:2], path.stem} for path in found}
    unknown = sorted(set(only).difference(*called.values()))
    if unknown:
        raise ValueError(
            f"no lesson {', '.join(unknown)}; there are: "
            f"{', '.join(path.stem for path in found) or 'none'}"
        )
    return [path for path in found if not only or called[path] & set(only)]


def read_lesson(path, solved=False):
    """Notebook without outputs from a percent source; cells tagged `solution` are blank unless
    `solved`.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []) and not solved:
            task = (
                re.match(r"(#.*\n?)*", cell.source).group().rstrip()
                if cell.cell_type == "code"
                else ""
            )
            cell.source = f"{task}\n{BLANK[cell.cell_type]}".lstrip()
    return notebook


def package_digest():
    """Hash of all that can change what a lesson prints: code, atlas, manifests, interpreter, torch."""
    package = paths.PACKAGE
    files = [*package.rglob("*"), *(package.parent / "data_manifests").rglob("*")]
    digest = hashlib.sha256(f"{sys.version} torch {importlib.metadata.version('torch')}".encode())
    for path in sorted(p for p in files if p.is_file() and p.suffix not in (".pyc", ".j2")):
        digest.update(
            f"{path.relative_to(package.parent).as_posix()}\0".encode() + path.read_bytes()
        )
    return digest.hexdigest()


def fingerprint(notebook, parameters):
    """Hash of a lesson's cells, its parameters and the package: equal means that running it again
    shows the same.
    """
    cells = [
        [cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in notebook.cells
    ]
    return artifacts.key({"cells": cells, "parameters": parameters, "package": package_digest()})


def declared(notebook):
    """Names in the lesson's `parameters` cell. Raises ValueError for one that no lesson may have."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lesson.ipynb"
        nbformat.write(notebook, path)
        names = set(papermill.inspect_notebook(str(path)))
    unknown = sorted(names - set(Parameters.model_fields))
    if unknown:
        raise ValueError(
            f"parameters cell declares {', '.join(unknown)}; known: "
            f"{', '.join(Parameters.model_fields)}"
        )
    return names


def execute(notebook, path, parameters, seconds):
    """Run a notebook through papermill into `path`; returns (seconds, peak bytes).

    The output appears under its name only if every cell ran; else it is kept as
    `<stem>.failed.ipynb` and LessonFailed is raised. Raises ValueError for a parameter that the
    notebook does not declare.
    """
    unknown = sorted(set(parameters) - declared(notebook))
    if unknown:
        raise ValueError(
            f"{path.stem} has no parameter {', '.join(unknown)}; it declares: "
            f"{sorted(declared(notebook))}"
        )
    running, failed = (
        path.with_name(f".{path.stem}.running.ipynb"),
        path.with_suffix(".failed.ipynb"),
    )
    for stale in (path, failed, running):
        stale.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # else each kernel warns about frozen modules
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    error = None
    with Watch(seconds) as watch:
        try:
            papermill.execute_notebook(
                notebook,
                str(running),
                parameters,
                kernel_name="python3",
                progress_bar=False,
                start_timeout=180,
                cwd=str(path.parent),
                extra_arguments=["--log-level=40"],
            )
        except Exception as caught:
            # whatever stops a lesson: an error in a cell, a dead kernel, one that never started
            error = caught
    if error:
        shown = running.exists() and running.replace(failed)
        reason = (
            f"stopped at its deadline of {seconds / 60:g} minutes"
            if watch.expired
            else summary(error)
        )
        raise LessonFailed(
            f"{path.stem}: {reason}" + (f" (see {failed})" if shown else "")
        ) from error
    running.replace(path)
    return watch.elapsed, watch.peak


def summary(error):
    """One line for an exception of papermill or nbclient."""
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell In [{error.exec_count}] raised {error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def run(source, folder, parameters, seconds, force=False, solved=False):
    """Run one lesson into `folder` unless its record says that nothing has changed; returns
    (record, whether it ran).
    """
    lesson, output, note = (
        read_lesson(source, solved),
        folder / f"{source.stem}.ipynb",
        folder / f"{source.stem}.json",
    )
    given = {
        name: value
        for name, value in parameters.items()
        if value is not None and name in declared(lesson)
    }
    print_of = fingerprint(
        lesson, given | ({"data": parameters["data"]} if parameters.get("data") else {})
    )
    if not force and output.exists() and note.exists():
        record = atomic.read_json(note)
        if record["fingerprint"] == print_of:
            return record, False
    note.unlink(missing_ok=True)
    elapsed, peak = execute(lesson, output, given, seconds)
    record = {
        "fingerprint": print_of,
        "parameters": given,
        "seconds": round(elapsed, 1),
        "peak_gb": round(peak / environment.GB, 2),
        "provenance": environment.provenance(),
    }
    atomic.write_json(note, record)
    return record, True


def reproduce(parameters, root=None, only=(), force=False, say=print):
    """Run the lessons for a profile into `<root>/runs/<profile>`; returns the names of those that
    failed.

    `data`, the folder of the full datasets, reaches the lessons as CXRKIT_DATA. Raises CannotRun if
    none could start or another run is at work in that folder, ValueError for an unknown profile,
    lesson or parameter.
    """
    root = Path(root).resolve() if root else artifacts.default_root()
    parameters = Parameters(**{**parameters, "out": str(root)}).model_dump()
    if parameters["data"]:
        os.environ["CXRKIT_DATA"] = parameters["data"]  # a kernel inherits it
    profile, lessons, failed = profiles.get(parameters["profile"]), sources(only), []
    stops = environment.blocking(environment.examine(root, environment.BEFORE_A_RUN))
    if stops:
        raise CannotRun("\n".join(f"{check.value}\n  next step: {check.todo}" for check in stops))
    if not lessons:
        raise CannotRun(f"no lesson in {lessons_folder()}")
    refuse_unused(parameters, lessons)
    with alone(root / "runs" / profile.name) as folder:
        for number, source in enumerate(lessons, 1):
            left = ", ".join(path.stem for path in lessons[number:]) or "nothing"
            say(f"[{number}/{len(lessons)}] {source.stem} ... (then: {left})")
            try:
                record, ran = run(source, folder, parameters, 60 * profile.lesson_minutes, force)
                cost = f"{record['seconds']:.0f} s, {record['peak_gb']:.2f} GB"
                say(
                    f"    ran in {cost}"
                    if ran
                    else f"    up to date (ran in {cost}; --force runs it again)"
                )
            except LessonFailed as error:
                failed.append(source.stem)
                say(f"    FAILED {error}")
    return failed


@contextlib.contextmanager
def alone(folder):
    """The folder of a run, for one process at a time. Raises CannotRun while another runs there:
    two would overwrite their lessons.
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


def refuse_unused(parameters, lessons):
    """Raises ValueError for an option that no chosen lesson takes: it would be dropped in silence."""
    taken = set().union(*(declared(read_lesson(source)) for source in lessons))
    unused = [
        name
        for name, value in parameters.items()
        if value is not None and name not in (*taken, "data")
    ]
    if unused:
        raise ValueError(
            f"no chosen lesson takes {', '.join(unused)}; their parameters: "
            f"{', '.join(sorted(taken))}"
        )
