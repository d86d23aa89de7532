"""Run the lessons that show real films, for the documentation: `make twins`.

The twin of a lesson is the same notebook, run where the classroom set is: 60 films whose licences
let them be shown (`docs/data.md`). Twins lie in `docs/real_films/`, which `make docs` takes into
the site and git ignores: no film of a patient enters the repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from build_notebooks import executed, silent_figures

from cxrkit.data import schema
from cxrkit.reproduction import runner
from cxrkit.storage import atomic
from cxrkit.teaching import classroom_images

TWINS = Path(__file__).resolve().parent.parent / "docs" / "real_films"
SHOWS = "classroom_images()"  # stands in a lesson that shows real films


def head(lesson: str) -> str:
    """What stands above a twin: whose films these are, and under which terms.

    Args:
        lesson: name of the lesson.
    """
    films = schema.load("classroom")
    return (
        f"# {lesson}, with real films\n\n"
        f"This is lesson [{lesson}](../../notebooks/{lesson}.ipynb) as it runs where the classroom "
        f"set is. Research and teaching only. The real films: {films.licence}.\n\n"
        + "\n".join(f"- {work}" for work in films.citation)
    )


def twin(source: Path) -> bool:
    """Run one lesson with the classroom set.

    Args:
        source: percent source of the lesson.

    Returns:
        Whether it shows real films; if not, nothing is run or written.

    Raises:
        execution.LessonFailed: it did not run.
        ValueError: a figure has no sentence after it.
    """
    if SHOWS not in source.read_text(encoding="utf-8"):
        return False
    built = executed(source)
    silent = silent_figures(built)
    if silent:
        raise ValueError(f"{source.stem}: no sentence after the figures of cells {silent}")
    built.cells.insert(0, nbformat.v4.new_markdown_cell(head(source.stem), id="twin"))
    atomic.write_atomic(TWINS / f"{source.stem}_real.ipynb", nbformat.writes(built) + "\n")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all twins; 1 where the films are not here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lesson", nargs="*", help="numbers or names of lessons [all]")
    options = parser.parse_args(arguments)
    if classroom_images() is None:
        return 1
    TWINS.mkdir(exist_ok=True)
    for source in runner.lesson_sources(options.lesson):
        if twin(source):
            print(f"{source.stem}: {TWINS / source.stem}_real.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
