"""Copies of the lessons for a class: blank exercises and no solutions, stories, slides."""

from __future__ import annotations

from collections.abc import Callable
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
    return _write_each(
        folder, "_story.ipynb", lambda source: nbformat.writes(story_of(as_built(source))) + "\n"
    )


def _write_each(
    folder: Path, ending: str, text_of: Callable[[Path], str | bytes]
) -> tuple[list[Path], list[Path]]:
    """A file for every lesson -> those written, and those that were there and are left alone.

    Args:
        folder: made where it is missing.
        ending: of the files, after the name of the lesson.
        text_of: source of a lesson -> what its file holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    for source in runner.lesson_sources():
        target = folder / f"{source.stem}{ending}"
        if target.exists():
            kept.append(target)
            continue
        atomic.write_atomic(target, text_of(source))
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
    return _write_each(folder, ".slides.html", lambda source: slides_html(as_built(source)))


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

    def text_of(source: Path) -> str | bytes:
        committed = paths.PACKAGE.parent / "notebooks" / f"{source.stem}.ipynb"
        if committed.exists() and not nbgrader:
            return committed.read_bytes()
        lesson = nbformat.read(committed, 4) if committed.exists() else runner.read_lesson(source)
        return nbformat.writes(as_assignment(lesson) if nbgrader else lesson) + "\n"

    return _write_each(folder, ".ipynb", text_of)
