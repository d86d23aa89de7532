"""One notebook through papermill, with a deadline, and no process left behind.

It imports neither torch nor the pipeline: a process that runs a notebook begins at once.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pydantic
from nbformat import NotebookNode

from cxrkit.reproduction.watch import Watch, signals_raise_exit


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
            extra_arguments=["--log-level=50"],  # it is interrupted at its end, and would say so
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
