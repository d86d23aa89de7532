"""Copies of the lessons for students: exercises blank, no solutions."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat

from cxrkit.config import paths
from cxrkit.reproduction import runner
from cxrkit.reproduction.assignments import as_assignment
from cxrkit.storage import atomic


def copy_lessons(folder: Path, nbgrader: bool = False) -> tuple[list[Path], list[Path]]:
    """Write every lesson into a folder, as a notebook with blank exercises.

    A checkout gives its committed notebooks, which show their outputs; an installed kit makes them
    from its sources, without outputs. A file that is there already may hold a student's work and is
    left alone.

    Args:
        folder: made where it is missing.
        nbgrader: as assignments (`assignments.as_assignment`).

    Returns:
        The files written, and those that were there before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    for source in runner.lesson_sources():
        target = folder / f"{source.stem}.ipynb"
        if target.exists():
            kept.append(target)
            continue
        committed = paths.PACKAGE.parent / "notebooks" / target.name
        if nbgrader:
            lesson = (
                nbformat.read(committed, 4) if committed.exists() else runner.read_lesson(source)
            )
            atomic.write_atomic(target, nbformat.writes(as_assignment(lesson)) + "\n")
        elif committed.exists():
            shutil.copyfile(committed, target)
        else:
            atomic.write_atomic(target, nbformat.writes(runner.read_lesson(source)) + "\n")
        written.append(target)
    return written, kept
