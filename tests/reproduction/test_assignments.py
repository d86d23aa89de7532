"""Lessons as assignments of nbgrader."""

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from cxrkit import teaching
from cxrkit.cli import main
from cxrkit.reproduction import assignments, runner
from tests.conftest import CHECKOUT

LESSON = CHECKOUT / "notebooks" / "src" / "00_start_here.py"


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


def answered(release):
    """A released assignment with the solutions of the lesson in its answer cells."""
    solutions = runner.solutions_of(LESSON)
    for cell in release.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if name.startswith("answer_"):
            solved = solutions[name.removeprefix("answer_").replace("_", ".")]
            cell.source = assignments.CHECK.sub("", solved).rstrip()
    return release


@pytest.fixture
def nbgrader_course(tmp_path, monkeypatch):
    """A course of nbgrader in a folder of its own: its API."""
    pytest.importorskip("nbgrader", reason="pip install nbgrader")
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

    # nbgrader calls alembic by name
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.ClearSolutions.code_stub = {"python": "answer = ..."}
    config.Execute.timeout = config.ExecutePreprocessor.timeout = 300
    return NbGraderAPI(CourseDirectory(config=config), config=config)


@pytest.mark.slow
def test_nbgrader_gives_all_points_to_the_solved_and_none_to_the_blank(
    nbgrader_course, tmp_path, monkeypatch
):
    """nbgrader's own release and autograde, on the whole lesson 00 as the command writes it."""
    monkeypatch.delenv("CXRKIT_FRESH")  # lessons take what comes with the kit
    result = CliRunner().invoke(main, ["lessons", str(tmp_path / "class"), "--nbgrader"])
    assert result.exit_code == 0, result.output
    source = tmp_path / "source" / "lesson00"
    source.mkdir(parents=True)
    shutil.copy(tmp_path / "class" / f"{LESSON.stem}.ipynb", source / "00.ipynb")
    made = nbgrader_course.generate_assignment("lesson00")
    assert made["success"], made["log"]
    release = tmp_path / "release" / "lesson00" / "00.ipynb"
    for student in ("right", "blank"):
        handed_in = nbformat.read(release, 4)
        if student == "right":
            handed_in = answered(handed_in)
        folder = tmp_path / "submitted" / student / "lesson00"
        folder.mkdir(parents=True)
        nbformat.write(handed_in, folder / "00.ipynb")
        outcome = nbgrader_course.autograde("lesson00", student)
        assert outcome["success"], outcome["log"]
    exercises = [e for e in teaching.list_exercises().values() if e.name.startswith("00.")]
    points = sum(assignments.POINTS[exercise.level] for exercise in exercises)
    graded = {each["student"]: each for each in nbgrader_course.get_submissions("lesson00")}
    assert graded["right"]["score"] == points == graded["right"]["max_score"]
    assert graded["blank"]["score"] == 0
