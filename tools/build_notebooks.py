"""Build the committed lessons from their percent sources: derive, execute on `demo`, strip, check.
`make notebooks` runs it.

Cells tagged `solution` stand blank in `notebooks/NN_topic.ipynb`; `--solved` runs their solved
twins in `notebooks/solved/`.
"""

import argparse
import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import nbstripout
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
MINUTES = 30


def strip(notebook):
    """Leave what a reader sees and nbval compares; drop what differs from one machine or run to the
    next.
    """
    nbstripout.strip_output(notebook, keep_output=True, keep_count=True, keep_id=False)
    notebook.metadata = nbformat.from_dict(runner.METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        )
        if cell.cell_type != "code":
            continue
        # stderr holds progress bars, which count differently each time
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            output.pop("transient", None)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
            if WIDGET in output.get("data", {}):
                output.data = nbformat.from_dict({"text/plain": WIDGET_TEXT})
    return notebook


def smaller(picture):
    """Base64 PNG -> the same pixels in fewer bytes: no alpha, and one channel where every pixel is
    grey.
    """
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def shown(output):
    """The text of one output, pictures left out."""
    data = [
        value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")
    ]
    return "\n".join([output.get("text", ""), *map(str, data), *output.get("traceback", [])])


def same_cells(built, lesson):
    """Whether two notebooks have the same cells, outputs aside."""
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in built.cells] == [
        (c.cell_type, c.source, c.metadata.get("tags", [])) for c in lesson.cells
    ]


def problems(built, lesson):
    """Every rule that a committed lesson breaks, in words; `lesson` is what its source gives today."""
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    checks = [cell for cell in code if CHECK in cell.source]
    text = "\n".join(
        [cell.source for cell in built.cells]
        + [shown(output) for cell in code for output in cell.outputs]
    )
    rules = {
        "differs from its source: run make notebooks": same_cells(built, lesson),
        "does not start with a title": built.cells and built.cells[0].source.startswith("# "),
        "the first code cell is not tagged `parameters`": code
        and "parameters" in code[0].metadata.get("tags", []),
        f"has {len(code)} code cells, not {MIN_CODE_CELLS} to {MAX_CODE_CELLS}": MIN_CODE_CELLS
        <= len(code)
        <= MAX_CODE_CELLS,
        f"has a code cell of over {MAX_LINES} lines": all(
            len(cell.source.splitlines()) <= MAX_LINES for cell in code
        ),
        "has no outputs": any(cell.outputs for cell in code),
        "has a cell that was not executed": all(
            cell.execution_count for cell in code if cell.source.strip()
        ),
        f"has no cell with {CHECK}": checks,
        "has a check cell without output: nbval would compare nothing": all(
            cell.outputs for cell in checks
        ),
        "has an error among its outputs": all(
            output.output_type != "error" for cell in code for output in cell.outputs
        ),
        "carries metadata.widgets": "widgets" not in built.metadata,
        f"shows a path of this machine: {MACHINE_PATH.findall(text)[:1]}": not MACHINE_PATH.search(
            text
        ),
        "shows a memory address: end the line with `;` or print what matters": not ADDRESS.search(
            text
        ),
    }
    return [rule for rule, holds in rules.items() if not holds]


def build(source, target):
    """Execute a lesson with its defaults (demo, no mirror) and write it stripped. Raises ValueError
    if it breaks a rule.
    """
    lesson = runner.read_lesson(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.name
        runner.execute(lesson, path, {}, 60 * MINUTES)
        built = strip(nbformat.read(path, as_version=4))
    wrong = problems(built, lesson)
    if wrong:
        raise ValueError(f"{target.name}:\n  " + "\n  ".join(wrong))
    atomic.write_atomic(target, nbformat.writes(built) + "\n")


def state(source, target):
    """The problems of the committed notebook of a source."""
    if not target.exists():
        return [f"{target.name} is missing: run make notebooks"]
    return problems(nbformat.read(target, as_version=4), runner.read_lesson(source))


def orphans():
    """Committed notebooks without a source."""
    return [
        path
        for path in sorted(BUILT.glob("*.ipynb"))
        if not (BUILT / "src" / f"{path.stem}.py").exists()
    ]


def main(arguments=None):
    """Exit status 0 if every chosen lesson is built, or with --check, is as its source says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons [all]")
    parser.add_argument("--check", action="store_true", help="build nothing, say what is wrong")
    parser.add_argument(
        "--solved", action="store_true", help="build and run the twins with solutions"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="again, though up to date: after a change of the package",
    )
    options = parser.parse_args(arguments)
    wrong = [f"{path.name} has no source in notebooks/src" for path in orphans()]
    for source in runner.sources(options.lessons, BUILT / "src"):
        target = BUILT / f"{source.stem}.ipynb"
        try:
            if options.solved:
                _, ran = runner.run(
                    source, BUILT / "solved", {}, 60 * MINUTES, options.force, solved=True
                )
                print(f"{source.stem}, solved: {'ran' if ran else 'up to date'}")
            elif options.check:
                wrong += [f"{target.name} {problem}" for problem in state(source, target)]
            elif options.force or state(source, target):
                build(source, target)
                print(f"{source.stem}: built")
        except (runner.LessonFailed, ValueError) as error:
            wrong.append(str(error))
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
