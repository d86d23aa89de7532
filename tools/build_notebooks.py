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

import nbformat
import nbstripout
from nbformat import NotebookNode
from PIL import Image

from cxrkit.reproduction import runner
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
    """Shrink a picture, replace a widget, which needs a kernel, by text."""
    output.pop("transient", None)
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = smaller(data["image/png"])
    if WIDGET in data:
        output.data = nbformat.from_dict({"text/plain": WIDGET_TEXT})


def smaller(picture: str) -> str:
    """The same pixels in fewer bytes: no alpha, and one channel where every pixel is grey.

    Args:
        picture: PNG in base64.

    Returns:
        PNG in base64.
    """
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


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


def _output_rules(code: list[NotebookNode]) -> dict[str, bool]:
    """Rules on the outputs: what is said where one is broken -> whether it holds."""
    checks = [cell for cell in code if CHECK in cell.source]
    kinds = {output.output_type for cell in code for output in cell.outputs}
    executed = [bool(cell.execution_count) for cell in code if cell.source.strip()]
    return {
        "has no outputs": bool(kinds),
        "has a cell that was not executed": all(executed),
        f"has no cell with {CHECK}": bool(checks),
        "has a check cell without output: nbval would compare nothing": all(
            cell.outputs for cell in checks
        ),
        "has an error among its outputs": "error" not in kinds,
    }


def _text_rules(built: NotebookNode, code: list[NotebookNode]) -> dict[str, bool]:
    """Rules on the text: nothing of this machine, nothing that changes from run to run."""
    texts = [cell.source for cell in built.cells]
    for cell in code:
        texts += [shown(output) for output in cell.outputs]
    text = "\n".join(texts)
    machine_paths = MACHINE_PATH.findall(text)
    return {
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


def build(source: Path, target: Path) -> None:
    """Execute a lesson with its defaults (demo, no mirror) and write it stripped.

    Args:
        source: percent source.
        target: the notebook.

    Raises:
        ValueError: it breaks a rule; nothing is written.
        runner.LessonFailed: it did not run.
    """
    lesson = runner.read_lesson(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.name
        runner.execute_notebook(lesson, path, {}, 60 * MINUTES)
        built = strip(nbformat.read(path, as_version=4))
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
        elif options.force or state(source, target):
            build(source, target)
            print(f"{source.stem}: built")
    except (runner.LessonFailed, ValueError) as error:
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
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
