"""The committed lessons keep the rules of the kit, and the machinery that builds and runs lessons
fails when it should.
"""

import base64
import copy
import io
import json
import shutil
import subprocess
import sys
import time

import build_notebooks as builder
import cv2
import nbformat
import numpy as np
import pytest
from PIL import Image

from cxrkit.config import paths
from cxrkit.reproduction import execution, runner, watch
from tests.conftest import CHECKOUT
from tests.fakes.lessons import CHECKED, SOLUTION, code, lesson, markdown

SOURCES = sorted((CHECKOUT / "notebooks" / "src").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_committed_lesson_keeps_the_rules(source):
    assert builder.state(source, CHECKOUT / "notebooks" / f"{source.stem}.ipynb") == []


# sections with code of which no output is the same on every machine -> why
WITHOUT_CHECK = {
    ("00", "The same on real films"): "shows the classroom set, where a machine has it",
    ("09", "Real films, read by the models for them"): "shows it, too",
    ("09", "The room"): "its only code is the page of the reading room",
}


def sections_of(notebook):
    """Title of each section (`##`) with code -> sources of its code cells, exercises left out."""
    sections, title = {}, None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = [line[3:] for line in cell.source.splitlines() if line.startswith("## ")]
            title = titles[-1] if titles else title
        elif title and "exercise" not in cell.metadata.get("tags", []):
            sections.setdefault(title, []).append(cell.source)
    return sections


def unchecked(notebook):
    """Titles of the sections of which nbval compares no cell."""
    sections = sections_of(notebook).items()
    return {title for title, cells in sections if not any(builder.CHECK in c for c in cells)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nbval_compares_a_cell_of_every_section(source):
    number = runner.number_of(source.stem)
    exempt = {title for lesson, title in WITHOUT_CHECK if lesson == number}
    assert unchecked(runner.read_lesson(source)) == exempt


def test_a_section_of_which_nothing_is_compared_is_found(tmp_path):
    source = tmp_path / "00_made_up.py"
    titles = [markdown(f"Text.\n\n## {name}\n\nText.\n\n### Part") for name in "ABCDE"]
    plain, again = code("print(1)"), code("print(2)")
    exercise = code("x = ...", "exercise", "00.1")
    cells = [titles[0], CHECKED, plain, titles[1], plain, again, titles[2], exercise, titles[3]]
    source.write_text(lesson(*cells, titles[4], again, CHECKED))
    assert unchecked(runner.read_lesson(source)) == {"B"}


def test_every_committed_lesson_has_a_source():
    assert builder.orphans() == []


def test_the_committed_lessons_are_small_together():
    assert builder.total_size() <= builder.MAX_BYTES


def as_png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), float)


def test_lines_stay_png_and_sharp_and_films_become_jpeg():
    lines = np.full((200, 300, 3), 255, np.uint8)
    lines[40], lines[:, 60] = (213, 94, 0), (0, 114, 178)
    kind, picture = builder.smaller(as_png(lines))
    assert kind == "image/png" and (decoded(picture) == lines).all()
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.uniform(0, 255, (200, 300, 3)), (0, 0), 4)
    image = (8 * (smooth - smooth.mean()) + 128).clip(0, 255).astype(np.uint8)
    image += rng.integers(0, 4, image.shape, dtype=np.uint8)
    before = as_png(image)
    kind, picture = builder.smaller(before)
    assert kind == "image/jpeg" and len(picture) < len(before) / 4
    assert np.abs(decoded(picture) - image).mean() < 6


def figures(*cells):
    """Cells of a notebook: a picture, a picture with Markdown, a widget, or text."""
    made = []
    for cell in cells:
        if cell not in ("figure", "spoken", "widget"):
            made.append(nbformat.v4.new_markdown_cell(cell))
            continue
        data = {"text/plain": "x"} if cell == "widget" else {"image/jpeg": "x"}
        kinds = [data] + [{"text/markdown": "x"}] * (cell == "spoken")
        outputs = [nbformat.v4.new_output("display_data", kind) for kind in kinds]
        made.append(nbformat.v4.new_code_cell("x", outputs=outputs))
    return nbformat.v4.new_notebook(cells=made)


@pytest.mark.parametrize(
    "cells, silent",
    [
        (["figure", "Text."], []),
        (["figure", "## Next"], [0]),
        (["figure", "figure", "Text."], [0]),
        (["spoken", "figure", "widget", "Text.", "## Next"], []),
        (["Text.", "figure"], [1]),
        (["spoken"], []),
    ],
)
def test_a_figure_without_a_sentence_is_found(cells, silent):
    assert builder.silent_figures(figures(*cells)) == silent


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """(notebook as `make notebooks` would commit it, the lesson it came from), made up."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "00_made_up.py"
    noise = code(
        "import sys\nprint('progress', file=sys.stderr)\nimport ipywidgets\nipywidgets.IntSlider()"
    )
    source.write_text(lesson(CHECKED, noise, SOLUTION, fill=11))
    builder.build(source, folder / "00_made_up.ipynb")
    return nbformat.read(folder / "00_made_up.ipynb", as_version=4), runner.read_lesson(source)


@pytest.fixture
def pair(built):
    return copy.deepcopy(built)


def test_a_built_lesson_breaks_no_rule(pair):
    assert builder.problems(*pair) == []


def test_a_built_lesson_holds_nothing_that_changes_from_run_to_run(pair):
    notebook, _ = pair
    assert notebook.metadata == runner.METADATA
    assert [cell.id for cell in notebook.cells] == [str(i) for i in range(len(notebook.cells))]
    text = json.dumps(notebook)
    assert (
        "progress" not in text.replace("print('progress'", "")
        and builder.WIDGET not in text
        and builder.WIDGET_TEXT in text
    )
    assert notebook.cells[2].outputs[0].text == "42\n" and notebook.cells[2].execution_count == 2


def without_outputs(notebook, lesson):
    for cell in notebook.cells[1:]:
        cell.outputs = []


def stale(notebook, lesson):
    lesson.cells[2].source += "\nprint('new')"


def untitled(notebook, lesson):
    for book in (notebook, lesson):
        book.cells[0].source = "no title"


def no_parameters(notebook, lesson):
    for book in (notebook, lesson):
        book.cells[1].metadata.tags = []


def too_short(notebook, lesson):
    for book in (notebook, lesson):
        book.cells = book.cells[:-1]


def long_cell(notebook, lesson):
    for book in (notebook, lesson):
        book.cells[1].source += "\n" * 30 + "x = 1"


def no_check(notebook, lesson):
    for book in (notebook, lesson):
        book.cells[2].source = "print(6 * 7)"


def silent_check(notebook, lesson):
    notebook.cells[2].outputs = []


def check_of_a_picture(notebook, lesson):
    data = {"image/png": "x", "text/plain": "<Figure size 1x1 with 1 Axes>"}
    notebook.cells[2].outputs = [nbformat.v4.new_output("display_data", data)]


def check_of_a_widget(notebook, lesson):
    widget = nbformat.v4.new_output("display_data", {"text/plain": builder.WIDGET_TEXT})
    notebook.cells[2].outputs.append(widget)


def not_executed(notebook, lesson):
    notebook.cells[3].execution_count = None


def failed(notebook, lesson):
    notebook.cells[3].outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="e", traceback=["tb"])
    ]


def widget_state(notebook, lesson):
    notebook.metadata["widgets"] = {}


def machine_path(notebook, lesson):
    notebook.cells[3].outputs = [
        nbformat.v4.new_output("stream", text="saved in /home/someone/artifacts")
    ]


def address(notebook, lesson):
    notebook.cells[3].outputs = [
        nbformat.v4.new_output("execute_result", {"text/plain": "<Axes at 0x7f12ab34cd56>"})
    ]


@pytest.mark.parametrize(
    "damage, rule",
    [
        (without_outputs, "no outputs"),
        (stale, "differs from its source"),
        (untitled, "title"),
        (no_parameters, "`parameters`"),
        (too_short, "14 code cells"),
        (long_cell, "30 lines"),
        (no_check, "no cell with # NBVAL"),
        (silent_check, "check cell without"),
        (check_of_a_picture, "check cell without"),
        (check_of_a_widget, "check cell with a widget"),
        (not_executed, "not executed"),
        (failed, "error"),
        (widget_state, "metadata.widgets"),
        (machine_path, "path of this machine"),
        (address, "memory address"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_broken_rule_is_seen(pair, damage, rule):
    damage(*pair)
    assert any(rule in problem for problem in builder.problems(*pair))


def test_solutions_are_blank_in_the_lesson_and_whole_in_its_twin(tmp_path):
    source = tmp_path / "00_made_up.py"
    source.write_text(
        lesson(
            SOLUTION,
            '# %% [markdown] tags=["solution"]\n# Because it is six times seven.\n',
            fill=1,
        )
    )
    blank, solved = runner.read_lesson(source), runner.read_lesson(source, solved=True)
    assert blank.cells[2].source == "# Exercise 1: the answer to everything.\n# your solution"
    assert blank.cells[3].source == "*Your answer.*"
    assert "answer = 42" in solved.cells[2].source and "six times" in solved.cells[3].source
    assert blank.cells[4].source == solved.cells[4].source == "print(0)"


def test_build_refuses_a_lesson_that_breaks_a_rule_and_writes_nothing(tmp_path):
    source = tmp_path / "00_short.py"
    source.write_text(lesson(CHECKED))
    with pytest.raises(ValueError, match="2 code cells"):
        builder.build(source, tmp_path / "00_short.ipynb")
    assert not (tmp_path / "00_short.ipynb").exists()


def test_a_change_of_text_alone_runs_nothing(built, tmp_path, monkeypatch):
    notebook, _ = copy.deepcopy(built)
    source, target = tmp_path / "00_made_up.py", tmp_path / "00_made_up.ipynb"
    noise = notebook.cells[3].source
    nbformat.write(notebook, target)
    text = lesson(CHECKED, markdown("New words."), code(noise), SOLUTION, fill=11)
    source.write_text(text)
    assert builder.retext(source, target)
    written = nbformat.read(target, as_version=4)
    assert builder.state(source, target) == [] and written.cells[3].source == "New words."
    assert written.cells[2].outputs[0].text == "42\n"
    before = target.read_bytes()
    source.write_text(text.replace("6 * 7", "6 * 8"))
    assert not builder.retext(source, target), "code that has changed must run"
    assert target.read_bytes() == before and not builder.retext(source, tmp_path / "none.ipynb")


@pytest.mark.integration
def test_nbval_compares_the_checks_of_a_built_lesson(pair, tmp_path):
    """End to end: the stripped notebook passes nbval as `make test-all` calls it, and a wrong
    stored output fails it.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=60",
    ]
    notebook, _ = pair
    nbformat.write(notebook, tmp_path / "right.ipynb")
    notebook.cells[2].outputs[0].text = "43\n"
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    result = subprocess.run(
        [*command, tmp_path / "right.ipynb", tmp_path / "wrong.ipynb"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "1 failed" in result.stdout, result.stdout
    assert "wrong.ipynb::Cell 1" in result.stdout and "right.ipynb::Cell" not in result.stdout


def run(source, tmp_path, parameters=None, seconds=60, force=False):
    """`notebooks.run` of percent text -> (record, ran, folder)."""
    path = tmp_path / "00_made_up.py"
    path.write_text(source)
    return *runner.run_lesson(
        path, tmp_path / "runs", parameters or {"profile": "demo"}, seconds, force
    ), tmp_path / "runs"


def test_the_peak_is_what_the_processes_hold_together():
    held = 64_000_000  # bytes that a process started inside fills
    fill = f"import sys; full = bytearray({held}); full[::4096] = b'1' * len(full[::4096]); "
    with watch.Watch(60) as watched:
        child = subprocess.Popen(
            [sys.executable, "-c", fill + "sys.stdin.read()"], stdin=subprocess.PIPE
        )
        while watched.peak < held and watched.is_alive() and child.poll() is None:
            time.sleep(0.05)
        child.communicate()
    assert not watched.expired and held <= watched.peak < 5 * held


def test_a_second_run_is_skipped_until_something_changes(tmp_path, monkeypatch):
    first, ran, folder = run(lesson(), tmp_path)
    assert ran and first["seconds"] > 0 and first["peak_gb"] > 0 and first["provenance"]["commit"]
    again, ran, _ = run(lesson(), tmp_path)
    assert not ran and again == first
    # what decides is tested, not papermill once more
    monkeypatch.setattr(
        execution,
        "execute_notebook",
        lambda notebook, path, given, seconds: (path.write_text("ran"), (1.0, 1))[1],
    )
    assert run(lesson(), tmp_path, force=True)[1], "--force"
    assert run(lesson(code("1")), tmp_path)[1], "another source"
    assert run(lesson(code("1")), tmp_path, {"profile": "mini"})[1], "another parameter"
    (folder / "00_made_up.ipynb").unlink()
    assert run(lesson(code("1")), tmp_path, {"profile": "mini"})[1], "output gone"


def test_a_lesson_runs_again_where_its_images_have_changed_and_not_where_they_lie_elsewhere(
    tmp_path, monkeypatch
):
    """The record holds the data, not their place."""
    monkeypatch.setattr(
        execution,
        "execute_notebook",
        lambda notebook, path, given, seconds: (path.write_text("ran"), (1.0, 1))[1],
    )
    settings = tmp_path / "ours.yaml"
    settings.write_text("base: demo\nmanifests: [local]\n")
    folder = tmp_path / "A" / "local"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"pixels")
    table = "path,patient_id,view,diagnosis\n0.png,p,PA,{}\n"
    (folder / "films.csv").write_text(table.format("normal"))
    first = {"profile": str(settings), "out": str(tmp_path / "s"), "data": str(tmp_path / "A")}
    (tmp_path / "runs").mkdir()
    assert run(lesson(), tmp_path, first)[1]
    assert not run(lesson(), tmp_path, first)[1]
    shutil.copytree(tmp_path / "A", tmp_path / "B")
    moved = first | {"out": str(tmp_path / "t"), "data": str(tmp_path / "B")}
    assert not run(lesson(), tmp_path, moved)[1], "the same data and another store"
    (tmp_path / "B" / "local" / "films.csv").write_text(table.format("covid19"))
    assert run(lesson(), tmp_path, moved)[1], "a corrected label"
    assert not run(lesson(), tmp_path, moved)[1]
    (tmp_path / "B" / "local" / "0.png").write_bytes(b"others")
    assert run(lesson(), tmp_path, moved)[1], "other pixels"


def test_changed_package_code_runs_a_lesson_again(tmp_path, monkeypatch):
    notebook = runner.read_lesson(SOURCES[0]) if SOURCES else nbformat.v4.new_notebook()
    before = runner.fingerprint(notebook, {})
    assert runner.fingerprint(notebook, {}) == before
    monkeypatch.setattr(runner, "package_digest", lambda: "other code")
    assert runner.fingerprint(notebook, {}) != before


def test_package_digest_sees_every_module(tmp_path, monkeypatch):
    package = tmp_path / "cxrkit"
    package.mkdir()
    (package / "a.py").write_text("x = 1")
    monkeypatch.setattr(paths, "PACKAGE", package)
    before = runner.package_digest()
    (package / "a.py").write_text("x = 2")
    changed = runner.package_digest()
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "data_manifests" / "films.csv").write_text("path")
    assert len({before, changed, runner.package_digest()}) == 3


def test_parameters_arrive(tmp_path):
    _, _, folder = run(
        lesson(code("print(profile, out is None)")),
        tmp_path,
        {"profile": "mini", "mirror": "/unknown/here"},
    )
    text = nbformat.read(folder / "00_made_up.ipynb", as_version=4).cells[-1].outputs[0].text
    assert text == "mini True\n", (
        "the value is injected; what a lesson does not declare is left out"
    )


@pytest.mark.parametrize(
    "cell, message",
    [
        ("raise RuntimeError('no film')", "RuntimeError: no film"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "DeadKernel"),
    ],
)
def test_a_failed_lesson_is_kept_and_named_and_stale_results_go(tmp_path, cell, message):
    _, _, folder = run(lesson(), tmp_path)
    with pytest.raises(execution.LessonFailed, match=message) as caught:
        run(lesson(code(cell)), tmp_path)
    assert "00_made_up.failed.ipynb" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["00_made_up.failed.ipynb"]
    assert run(lesson(), tmp_path)[1] and not (folder / "00_made_up.failed.ipynb").exists()


def test_a_lesson_ends_at_its_deadline_even_if_it_ignores_interrupts(tmp_path):
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(300)"
    with pytest.raises(execution.LessonFailed, match="deadline of 0.05 minutes"):
        run(lesson(code(deaf)), tmp_path, seconds=3)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with runner.exclusive_folder(tmp_path / "runs" / "demo") as folder:
        with pytest.raises(runner.CannotRun, match=f"another run is at work in {folder}"):
            runner.reproduce({"profile": "demo"}, root=tmp_path, only=("01",))
        assert not list(folder.glob("*.ipynb"))
    with runner.exclusive_folder(folder):
        pass  # free again


def test_an_unknown_parameter_is_refused(tmp_path):
    notebook = tmp_path / "00_made_up.py"
    notebook.write_text(lesson())
    with pytest.raises(ValueError, match="no parameter profil; it declares"):
        execution.execute_notebook(
            runner.read_lesson(notebook), tmp_path / "out.ipynb", {"profil": "demo"}, 60
        )
    with pytest.raises(ValueError, match="profil"):
        runner.reproduce({"profil": "demo"}, root=tmp_path)
    notebook.write_text(lesson(parameters='profile = "demo"\nout = None\nsteps = 5'))
    with pytest.raises(ValueError, match="declares steps; known"):
        execution.declared_parameters(runner.read_lesson(notebook))
    assert not (tmp_path / "out.ipynb").exists()
