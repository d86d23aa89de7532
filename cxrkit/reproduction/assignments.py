"""Lessons as assignments of nbgrader: its cell metadata, and nothing else of it.

The `check` of an exercise moves to a cell of its own, which nbgrader locks and grades. nbgrader's
schema of version 3 is written here; the package itself is not needed.
"""

from __future__ import annotations

import re
from typing import Any

import nbformat
from nbformat import NotebookNode

from cxrkit.reproduction.runner import exercise_of
from cxrkit.teaching import list_exercises

POINTS = {"warm-up": 1, "core": 2, "project": 4}
CHECK = re.compile(r"^check\((.*)\)\s*\Z", re.MULTILINE)
SCHEMA = 3


def _metadata(name: str, **fields: Any) -> dict[str, Any]:
    """Metadata of a cell in the form of nbgrader."""
    same = {"grade_id": name, "schema_version": SCHEMA, "task": False}
    return {"nbgrader": same | {"grade": False, "solution": False, "locked": False} | fields}


def as_assignment(notebook: NotebookNode) -> NotebookNode:
    """A lesson in the form that nbgrader hands out and grades.

    The cell of an exercise becomes two: what the student writes, and a locked cell that asserts its
    check. A passed check gives the points of its level (POINTS).

    Args:
        notebook: a lesson with blank or solved exercises; it stays as it is.

    Returns:
        Another notebook.

    Raises:
        ValueError: an exercise does not end in its check.
    """
    levels = {name: exercise.level for name, exercise in list_exercises().items()}
    cells = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        name = exercise_of(tags) if "exercise" in tags else ""
        if not name:
            cells.append(nbformat.from_dict(cell))
            continue
        found = CHECK.search(cell.source)
        if not found:
            raise ValueError(f"exercise {name} does not end in check({name!r}, ...)")
        code = cell.source[: found.start()].rstrip()
        answer = nbformat.v4.new_code_cell(code, metadata={"tags": tags})
        identity = name.replace(".", "_")
        answer.metadata.update(_metadata(f"answer_{identity}", solution=True))
        test = nbformat.v4.new_code_cell(
            f"outcome = check({found.group(1)})\nassert outcome, outcome"
        )
        graded = _metadata(f"test_{identity}", grade=True, locked=True, points=POINTS[levels[name]])
        test.metadata.update(graded)
        cells += [answer, test]
    metadata = nbformat.from_dict(notebook.metadata)
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)
