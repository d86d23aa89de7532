"""Copies of the lessons for a class: blank exercises and no solutions, stories, slides."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from cxrkit.config import paths
from cxrkit.reproduction import runner
from cxrkit.reproduction.assignments import as_assignment
from cxrkit.reproduction.story import slides_html, story_of
from cxrkit.storage import atomic


def as_built(source: Path) -> NotebookNode:
    """A lesson of today's source, with the outputs of the committed notebook where code is equal.

    Args:
        source: percent source.
    """
    lesson = runner.read_lesson(source)
    committed = paths.PACKAGE.parent / "notebooks" / f"{source.stem}.ipynb"
    if not committed.exists():
        return lesson
    known = {}
    for cell in nbformat.read(committed, 4).cells:
        if cell.cell_type == "code":
            known[cell.source] = cell
    for cell in lesson.cells:
        if cell.cell_type == "code" and cell.source in known:
            executed = known[cell.source]
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return lesson


def write_stories(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the story of every lesson (`story.story_of`) as NN_topic_story.ipynb.

    Args:
        folder: made where it is missing; a file that is there already is left alone.

    Returns:
        The files written, and those that were there before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    for source in runner.lesson_sources():
        target = folder / f"{source.stem}_story.ipynb"
        if target.exists():
            kept.append(target)
            continue
        atomic.write_atomic(target, nbformat.writes(story_of(as_built(source))) + "\n")
        written.append(target)
    return written, kept


def write_slides(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the slides of every lesson (`story.slides_html`) as NN_topic.slides.html.

    Args:
        folder: made where it is missing; a file that is there already is left alone.

    Returns:
        The files written, and those that were there before.

    Raises:
        ValueError: the lessons have no outputs, as in an installed kit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    for source in runner.lesson_sources():
        target = folder / f"{source.stem}.slides.html"
        if target.exists():
            kept.append(target)
            continue
        atomic.write_atomic(target, slides_html(as_built(source)))
        written.append(target)
    return written, kept


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
