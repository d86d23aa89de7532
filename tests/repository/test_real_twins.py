"""Lessons run with real films for the documentation: `tools/real_twins.py`."""

import nbformat
import pytest
import real_twins
from PIL import Image

from cxrkit.data import schema
from cxrkit.reproduction import execution

LESSON = """# %% [markdown]
# # 99 A lesson

# %%
from cxrkit.teaching import classroom_images
real = classroom_images()
print(len(real), "films")
"""


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    monkeypatch.setattr(real_twins, "TWINS", tmp_path / "twins")
    source = tmp_path / "99_lesson.py"
    source.write_text(LESSON)
    monkeypatch.setattr(real_twins.runner, "lesson_sources", lambda only: [source])
    monkeypatch.setenv("CXRKIT_DATA", str(tmp_path / "data"))
    return source


def executed(notebook, path, parameters, seconds):
    """In place of a kernel: the notebook as it is."""
    nbformat.write(notebook, path)


def test_without_the_films_nothing_is_run(lesson, capsys):
    assert real_twins.main([]) == 1
    assert "cxrkit data fetch classroom" in capsys.readouterr().out
    assert not real_twins.TWINS.exists()


def test_a_twin_says_whose_films_these_are(lesson, tmp_path, monkeypatch):
    film = tmp_path / "data" / "classroom" / "images"
    film.mkdir(parents=True)
    row = schema.manifest_dir() / "classroom.csv"
    name = row.read_text().splitlines()[1].split(",")[0].removeprefix("images/")
    Image.new("L", (64, 64)).save(film / name)
    monkeypatch.setattr(execution, "execute_notebook", executed)
    assert real_twins.main([]) == 0
    twin = nbformat.read(real_twins.TWINS / "99_lesson_real.ipynb", as_version=4)
    assert "CC BY 4.0" in twin.cells[0].source
    assert "Kermany" in twin.cells[0].source


def test_a_lesson_without_real_films_has_no_twin(lesson, monkeypatch):
    lesson.write_text(LESSON.replace("classroom_images()", "None"))
    assert not real_twins.twin(lesson)
