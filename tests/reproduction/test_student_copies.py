"""Copies of the lessons for students."""

import nbformat
import pytest
from click.testing import CliRunner

from cxrkit.cli import main
from cxrkit.config import paths
from cxrkit.reproduction import runner, student_copies
from tests.conftest import CHECKOUT
from tests.fakes.lessons import SOLUTION, code, lesson


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed kit with two lessons: sources, and no built notebooks."""
    package = tmp_path / "site" / "cxrkit"
    (package / "lessons").mkdir(parents=True)
    for name in ("00_a", "03b_b"):
        (package / "lessons" / f"{name}.py").write_text(lesson(SOLUTION, code("x = 1")))
    monkeypatch.setattr(paths, "PACKAGE", package)
    return tmp_path / "class"


def test_a_students_copy_is_blank_and_a_second_one_leaves_it_alone(installed):
    result = CliRunner().invoke(main, ["lessons", str(installed)])
    assert result.exit_code == 0 and "2 lessons written" in result.output, result.output
    text = (installed / "03b_b.ipynb").read_text()
    assert "answer = 42" not in text and "your solution" in text
    (installed / "00_a.ipynb").write_text("my work")
    (installed / "03b_b.ipynb").unlink()
    written, kept = student_copies.copy_lessons(installed)
    assert [path.stem for path in written] == ["03b_b"] and [path.stem for path in kept] == ["00_a"]
    assert (installed / "00_a.ipynb").read_text() == "my work"


def test_a_checkout_gives_its_committed_notebooks(tmp_path):
    written, _ = student_copies.copy_lessons(tmp_path)
    assert [path.stem for path in written] == [path.stem for path in runner.lesson_sources()]
    for path in written:
        assert path.read_bytes() == (CHECKOUT / "notebooks" / path.name).read_bytes()
        for cell in nbformat.read(path, as_version=4).cells:
            assert "solution" not in cell.metadata.get("tags", []) or "your" in cell.source.lower()


def lines_of(source):
    """Lines of code that are long enough to give something away."""
    return {line.strip() for line in source.splitlines() if len(line.strip()) > 24}


@pytest.mark.parametrize("options", [(), ("--nbgrader",), ("--track", "story")])
def test_nothing_that_students_get_holds_a_line_of_a_solution(tmp_path, options):
    result = CliRunner().invoke(main, ["lessons", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    for source in runner.lesson_sources():
        blank = lines_of("\n".join(c.source for c in runner.read_lesson(source).cells))
        solutions = runner.solutions_of(source).values()
        secret = set().union(*map(lines_of, solutions)) - blank
        (copy,) = tmp_path.glob(f"{source.stem}*.ipynb")
        given = lines_of("\n".join(c.source for c in nbformat.read(copy, as_version=4).cells))
        assert len(secret) > 3 and secret.isdisjoint(given), source.stem
