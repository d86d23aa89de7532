"""Build the committed lessons from their percent sources: `make notebooks`.

A lesson is derived, executed on `demo`, stripped and checked. Cells tagged `solution` are blank in
`notebooks/NN_topic.ipynb`; `--solved` runs the lessons with their solutions in `notebooks/solved/`.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import nbstripout
import numpy as np
from nbformat import NotebookNode
from PIL import Image

from cxrkit.reproduction import execution, runner
from cxrkit.storage import atomic

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "notebooks"
MIN_CODE_CELLS, MAX_CODE_CELLS, MAX_LINES = 15, 25, 30
CHECK = "# NBVAL_CHECK_OUTPUT"
MACHINE_PATH = re.compile(
    r"(/(home|root|work|tmp|Users|private|usr|opt|mnt)/|[A-Z]:\\\\|site-packages)"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "Run this cell to use the widget; the figure above is its static twin."
MINUTES = 30  # that a lesson may take
MAX_BYTES = 3_500_000  # of all committed lessons together
COLOURS = 64  # of a figure of lines
MAX_COLOUR_ERROR = 2.0  # root mean square, in grey levels
JPEG_QUALITY = 48  # of a figure with films
JPEG_GAIN = 0.9  # a JPEG is taken where it has less than this share of the bytes of the PNG


# what is committed


def strip(notebook: NotebookNode) -> NotebookNode:
    """Leave what a reader sees and nbval compares.

    What differs from one machine or run to the next goes.
    """
    nbstripout.strip_output(notebook, keep_output=True, keep_count=True, keep_id=False)
    notebook.metadata = nbformat.from_dict(runner.METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        # stderr holds progress bars, which count differently each time
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            _strip_output(output)
    return notebook


def _strip_output(output: NotebookNode) -> None:
    """Shrink a picture; replace a widget, which needs a kernel, by text."""
    output.pop("transient", None)
    data = output.get("data", {})
    if "image/png" in data:
        kind, picture = smaller(data.pop("image/png"))
        data[kind] = picture
    if WIDGET in data:
        output.data = nbformat.from_dict({"text/plain": WIDGET_TEXT})


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return buffer.getvalue()


def _with_palette(image: Image.Image) -> bytes | None:
    """The smallest PNG of at most COLOURS colours; None where each would change it visibly."""
    files = []
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.FASTOCTREE):
        reduced = image.quantize(COLOURS, method=method, dither=Image.Dither.NONE)
        gap = np.asarray(reduced.convert("RGB"), float) - np.asarray(image, float)
        if np.sqrt((gap**2).mean()) <= MAX_COLOUR_ERROR:
            files.append(_encoded(reduced, "PNG"))
    return min(files, key=len, default=None)


def smaller(picture: str) -> tuple[str, str]:
    """A picture in fewer bytes: few colours or none where that is enough, films as JPEG.

    Lines and letters stay sharp as PNG; a JPEG must be clearly smaller to be taken. A picture that
    has become JPEG is not touched again.

    Args:
        picture: PNG in base64.

    Returns:
        MIME type and picture in base64.
    """
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    red, green, blue = image.split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    exact = _encoded(red if grey else image, "PNG")
    reduced = None if grey else _with_palette(image)
    png = min((exact, reduced or exact), key=len)
    jpeg = _encoded(red if grey else image, "JPEG", quality=JPEG_QUALITY, progressive=True)
    kind, smallest = ("image/png", png)
    if len(jpeg) < JPEG_GAIN * len(png):
        kind, smallest = "image/jpeg", jpeg
    return kind, base64.b64encode(smallest).decode()


# the rules


def shown(output: NotebookNode) -> str:
    """The text of one output, pictures left out."""
    texts = [output.get("text", "")]
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/"):
            texts.append(str(value))
    return "\n".join([*texts, *output.get("traceback", [])])


def _cells_of(notebook: NotebookNode) -> list[tuple]:
    """Kind, source and tags of each cell."""
    cells = []
    for cell in notebook.cells:
        cells.append((cell.cell_type, cell.source, cell.metadata.get("tags", [])))
    return cells


def same_cells(built: NotebookNode, lesson: NotebookNode) -> bool:
    """Whether two notebooks have the same cells, whatever their outputs."""
    return _cells_of(built) == _cells_of(lesson)


def _form_rules(built: NotebookNode, code: list[NotebookNode]) -> dict[str, bool]:
    """Rules on the form of a lesson: what is said where one is broken -> whether it holds."""
    first_tags = code[0].metadata.get("tags", []) if code else []
    lengths = [len(cell.source.splitlines()) for cell in code]
    right_count = MIN_CODE_CELLS <= len(code) <= MAX_CODE_CELLS
    return {
        "does not start with a title": bool(built.cells) and built.cells[0].source.startswith("# "),
        "the first code cell is not tagged `parameters`": "parameters" in first_tags,
        f"has {len(code)} code cells, not {MIN_CODE_CELLS} to {MAX_CODE_CELLS}": right_count,
        f"has a code cell of over {MAX_LINES} lines": max(lengths, default=0) <= MAX_LINES,
    }


def _is_text(output: NotebookNode) -> bool:
    """Whether an output is printed text, a table or Markdown; nbval skips pictures."""
    return not any(kind.startswith("image/") for kind in output.get("data", {}))


def _output_rules(code: list[NotebookNode]) -> dict[str, bool]:
    """Rules on the outputs: what is said where one is broken -> whether it holds."""
    checks = [cell for cell in code if CHECK in cell.source]
    kinds = {output.output_type for cell in code for output in cell.outputs}
    executed = [bool(cell.execution_count) for cell in code if cell.source.strip()]
    return {
        "has no outputs": bool(kinds),
        "has a cell that was not executed": all(executed),
        f"has no cell with {CHECK}": bool(checks),
        "has a check cell without text: nbval would compare nothing": all(
            any(_is_text(output) for output in cell.outputs) for cell in checks
        ),
        "has a check cell with a widget, which differs at each run": all(
            shown(output).strip() != WIDGET_TEXT for cell in checks for output in cell.outputs
        ),
        "has an error among its outputs": "error" not in kinds,
    }


def silent_figures(notebook: NotebookNode) -> list[int]:
    """Figures without a sentence after them.

    A figure needs a sentence before the next figure: Markdown among its own outputs, or a Markdown
    cell that does not begin with a heading. A cell without a picture, such as a widget, may stand
    between.

    Args:
        notebook: with outputs.

    Returns:
        Numbers of their cells, from 0.
    """
    silent, waiting = [], None
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            if waiting is not None and cell.source.lstrip().startswith("#"):
                silent.append(waiting)
            waiting = None
            continue
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if not any(kind.startswith("image/") for kind in kinds):
            continue
        if waiting is not None:
            silent.append(waiting)
        waiting = None if "text/markdown" in kinds else number
    return silent if waiting is None else [*silent, waiting]


def _text_rules(built: NotebookNode, code: list[NotebookNode]) -> dict[str, bool]:
    """Rules on the text: nothing of this machine, nothing that changes from run to run."""
    texts = [cell.source for cell in built.cells]
    for cell in code:
        texts += [shown(output) for output in cell.outputs]
    text = "\n".join(texts)
    machine_paths = MACHINE_PATH.findall(text)
    silent = silent_figures(built)
    return {
        f"has figures without a sentence after them, cells {silent}": not silent,
        "carries metadata.widgets": "widgets" not in built.metadata,
        f"shows a path of this machine: {machine_paths[:1]}": not machine_paths,
        "shows a memory address: end the line with `;` or print what matters": not ADDRESS.search(
            text
        ),
    }


def problems(built: NotebookNode, lesson: NotebookNode) -> list[str]:
    """Every rule that a committed lesson breaks, in words.

    Args:
        built: the committed notebook.
        lesson: what its source gives today.
    """
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    rules = {
        "differs from its source: run make notebooks": same_cells(built, lesson),
        **_form_rules(built, code),
        **_output_rules(code),
        **_text_rules(built, code),
    }
    return [rule for rule, holds in rules.items() if not holds]


# building


def with_outputs(lesson: NotebookNode, built: NotebookNode) -> NotebookNode | None:
    """A lesson with the outputs of a built notebook, where only its text has changed.

    Args:
        lesson: what its source gives today.
        built: the committed notebook.

    Returns:
        The lesson with outputs; None where a code cell differs.
    """
    new = [cell for cell in lesson.cells if cell.cell_type == "code"]
    old = [cell for cell in built.cells if cell.cell_type == "code"]
    same = [_cells_of(nbformat.from_dict({"cells": cells})) for cells in (new, old)]
    if same[0] != same[1]:
        return None
    for cell, executed in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return strip(lesson)


def retext(source: Path, target: Path) -> bool:
    """Write the text of a lesson anew, if its code is that of the committed notebook.

    Args:
        source: percent source.
        target: the notebook.

    Returns:
        Whether that was enough; otherwise nothing is written.
    """
    if not target.exists():
        return False
    lesson = runner.read_lesson(source)
    built = with_outputs(lesson, nbformat.read(target, as_version=4))
    if built is None or problems(built, runner.read_lesson(source)):
        return False
    atomic.write_atomic(target, nbformat.writes(built) + "\n")
    return True


def executed(source: Path) -> NotebookNode:
    """A lesson, executed with its defaults (demo, no mirror) and stripped.

    Raises:
        execution.LessonFailed: it did not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{source.stem}.ipynb"
        execution.execute_notebook(runner.read_lesson(source), path, {}, 60 * MINUTES)
        return strip(nbformat.read(path, as_version=4))


def build(source: Path, target: Path) -> None:
    """Execute a lesson with its defaults (demo, no mirror) and write it stripped.

    Args:
        source: percent source.
        target: the notebook.

    Raises:
        ValueError: it breaks a rule; nothing is written.
        execution.LessonFailed: it did not run.
    """
    lesson = runner.read_lesson(source)
    built = executed(source)
    wrong = problems(built, lesson)
    if wrong:
        raise ValueError(f"{target.name}:\n  " + "\n  ".join(wrong))
    atomic.write_atomic(target, nbformat.writes(built) + "\n")


def state(source: Path, target: Path) -> list[str]:
    """The problems of the committed notebook of a source."""
    if not target.exists():
        return [f"{target.name} is missing: run make notebooks"]
    return problems(nbformat.read(target, as_version=4), runner.read_lesson(source))


def orphans() -> list[Path]:
    """Committed notebooks without a source."""
    found = []
    for path in sorted(BUILT.glob("*.ipynb")):
        if not (BUILT / "src" / f"{path.stem}.py").exists():
            found.append(path)
    return found


def total_size() -> int:
    """Bytes of all committed lessons."""
    return sum(path.stat().st_size for path in BUILT.glob("*.ipynb"))


def handle(source: Path, options: argparse.Namespace) -> list[str]:
    """Do for one lesson what the command line asks; what is wrong with it, in words."""
    target = BUILT / f"{source.stem}.ipynb"
    try:
        if options.solved:
            _, ran = runner.run_lesson(
                source, BUILT / "solved", {}, 60 * MINUTES, options.force, solved=True
            )
            print(f"{source.stem}, solved: {'ran' if ran else 'up to date'}")
        elif options.check:
            return [f"{target.name} {problem}" for problem in state(source, target)]
        elif not options.force and state(source, target) and retext(source, target):
            print(f"{source.stem}: text written anew, its code is as before")
        elif options.force or state(source, target):
            build(source, target)
            print(f"{source.stem}: built")
    except (execution.LessonFailed, ValueError) as error:
        return [str(error)]
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every chosen lesson is built, or with --check, is as its source says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons [all]")
    parser.add_argument("--check", action="store_true", help="build nothing, say what is wrong")
    parser.add_argument(
        "--solved", action="store_true", help="build and run the lessons with their solutions"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="again, though up to date: after a change of the package",
    )
    options = parser.parse_args(arguments)
    wrong = [f"{path.name} has no source in notebooks/src" for path in orphans()]
    for source in runner.lesson_sources(options.lessons, BUILT / "src"):
        wrong += handle(source, options)
    if total_size() > MAX_BYTES:
        wrong.append(f"the lessons have {total_size():,} bytes, more than {MAX_BYTES:,}")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
