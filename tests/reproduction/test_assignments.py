"""Lessons as assignments of nbgrader."""

import nbformat
import pytest
from click.testing import CliRunner

from cxrkit import teaching
from cxrkit.cli import main
from cxrkit.reproduction import assignments, runner
from tests.conftest import CHECKOUT

LESSON = CHECKOUT / "notebooks" / "src" / "00_start_here.py"


def exercises_of(solved):
    """The exercises of lesson 00 as a notebook by themselves."""
    lesson = runner.read_lesson(LESSON, solved)
    cells = [cell for cell in lesson.cells if "exercise" in cell.metadata.get("tags", [])]
    imports = "import numpy as np\nfrom cxrkit import simulation\nfrom cxrkit.teaching import check"
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(imports), *cells], metadata=runner.METADATA
    )


def test_each_exercise_becomes_an_answer_and_a_locked_test():
    lesson = runner.read_lesson(LESSON)
    assignment = assignments.as_assignment(lesson)
    nbformat.validate(assignment)
    cells = {
        cell.metadata.nbgrader.grade_id: cell
        for cell in assignment.cells
        if "nbgrader" in cell.metadata
    }
    names = [name for name in teaching.list_exercises() if name.startswith("00.")]
    assert len(cells) == 2 * len(names) == len(assignment.cells) - len(lesson.cells) + len(names)
    for name in names:
        answer, test = (cells[f"{kind}_{name.replace('.', '_')}"] for kind in ("answer", "test"))
        assert "check(" not in answer.source and answer.metadata.nbgrader.solution
        assert f'check("{name}", ' in test.source and test.metadata.nbgrader.locked
        level = teaching.list_exercises()[name].level
        assert test.metadata.nbgrader.points == assignments.POINTS[level]


def test_an_exercise_without_its_check_is_refused():
    cell = nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["exercise", "00.1"]})
    with pytest.raises(ValueError, match=r"exercise 00\.1 does not end"):
        assignments.as_assignment(nbformat.v4.new_notebook(cells=[cell]))


def test_the_command_writes_assignments(tmp_path):
    result = CliRunner().invoke(main, ["lessons", str(tmp_path), "--nbgrader"])
    assert result.exit_code == 0, result.output
    for source in runner.lesson_sources():
        written = nbformat.read(tmp_path / f"{source.stem}.ipynb", as_version=4)
        assert any("nbgrader" in cell.metadata for cell in written.cells), source.stem


def test_nbgrader_gives_all_points_to_the_solved_and_none_to_the_blank(tmp_path):
    """nbgrader's own release and autograde, on the exercises of lesson 00."""
    pytest.importorskip("nbgrader", reason="pip install nbgrader")
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.ClearSolutions.code_stub = {"python": "..."}
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    source = tmp_path / "source" / "lesson00"
    source.mkdir(parents=True)
    nbformat.write(assignments.as_assignment(exercises_of(False)), source / "00.ipynb")
    assert api.generate_assignment("lesson00")["success"]
    for student, solved in (("right", True), ("blank", False)):
        folder = tmp_path / "submitted" / student / "lesson00"
        folder.mkdir(parents=True)
        nbformat.write(assignments.as_assignment(exercises_of(solved)), folder / "00.ipynb")
        outcome = api.autograde("lesson00", student)
        assert outcome["success"], outcome["log"]
    names = [each for each in teaching.list_exercises().values() if each.name.startswith("00.")]
    points = sum(assignments.POINTS[each.level] for each in names)
    graded = {each["student"]: each for each in api.get_submissions("lesson00")}
    assert graded["right"]["score"] == points and graded["blank"]["score"] == 0
