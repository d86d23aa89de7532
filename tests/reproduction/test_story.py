"""Stories and slides: short views of the lessons that still run."""

import nbformat
import pytest
from click.testing import CliRunner

from cxrkit.cli import main
from cxrkit.config import paths
from cxrkit.reproduction import execution, runner, story, student_copies
from tests.conftest import CHECKOUT
from tests.fakes.lessons import code, lesson, markdown

SOURCES = sorted((CHECKOUT / "notebooks" / "src").glob("*.py"))


def made_up(tmp_path, *cells):
    """A lesson in percent form, read."""
    path = tmp_path / "00_made_up.py"
    path.write_text(lesson(*cells))
    return runner.read_lesson(path)


def sources_of(notebook, kind="code"):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


@pytest.mark.parametrize(
    "source, first",
    [
        ("y = x + 1\nprint(y)", {"x"}),
        ("x = x + 1", {"x"}),
        ("for i in rows:\n    total = i\nprint(i, total)", {"rows"}),
        ("def f(a):\n    return a + scale\nscale = 2", set()),
        ("def f(a):\n    return a + scale", {"scale"}),
        ("[x for x in rows if x > low]", {"rows", "low"}),
        ("import numpy as np\nnp.ones(2)", set()),
        ("with open(path) as file:\n    text = file.read()", {"path"}),
        ("(lambda x: x + y)(1)", {"y"}),
        ("table['a'] = 1\nmodel.fused = False", {"table", "model"}),
        ("count += 1", {"count"}),
        ("if mirror:\n    real = 1\nelse:\n    print(f'{name}')", {"mirror", "name"}),
    ],
)
def test_what_a_cell_needs_from_earlier_cells(source, first):
    assert story.first_used(source) == first


def test_a_story_keeps_what_its_cells_need_and_nothing_else(tmp_path):
    found = story.story_of(
        made_up(
            tmp_path,
            code("import math"),
            code("scale = 1"),
            code("scale = 2\nvalues = [0, 0]"),
            markdown("## Left out\n\nText."),
            code("print('left out')"),
            code("values[0] = scale"),
            markdown("Also left out.\n\n## Kept\n\nText."),
            code("print(math.sqrt(values[0] ** 2))", "story"),
            markdown("**What you should have seen.** Two.\n\n## Left out, too"),
            code("print('end')"),
            markdown("Bye.\n\n> **Take away.** (1) Two."),
        )
    )
    assert sources_of(found) == [
        'profile = "demo"\nout = None',
        "import math",
        "scale = 2\nvalues = [0, 0]",
        "values[0] = scale",
        "print(math.sqrt(values[0] ** 2))",
    ]
    assert sources_of(found, "markdown") == [
        "# A made-up lesson",
        "## Kept\n\nText.",
        "**What you should have seen.** Two.\n\n> **Take away.** (1) Two.",
    ]
    assert [cell.source for cell in story.visible(found) if cell.cell_type == "code"] == [
        "print(math.sqrt(values[0] ** 2))"
    ]
    execution.execute_notebook(found, tmp_path / "out.ipynb", {"profile": "mini"}, 60)
    outputs = nbformat.read(tmp_path / "out.ipynb", 4).cells[-2].outputs
    assert outputs[0].text == "2.0\n"


@pytest.mark.parametrize(
    "cells, message",
    [
        ([code("x = 1")], "no cell is tagged 'story'"),
        (
            [code("answer = ...", "exercise", "00.1"), code("print(answer)", "story")],
            "needs an exercise",
        ),
    ],
)
def test_a_story_that_cannot_run_is_refused(tmp_path, cells, message):
    with pytest.raises(ValueError, match=message):
        story.story_of(made_up(tmp_path, *cells))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_lesson_has_a_story_that_defines_all_its_names(source):
    whole = runner.read_lesson(source)
    found = story.story_of(whole)
    assert story.undefined_names(found.cells) == []
    seen = story.visible(found)
    assert 8 <= len(seen) <= 16 and len(found.cells) < 0.6 * len(whole.cells)
    assert seen[0].source.startswith("# ") and story.TAKE_AWAY in seen[-1].source
    figures = [cell for cell in seen if cell.cell_type == "code"]
    assert 5 <= len(figures) <= 6 and all(
        "exercise" not in c.metadata.tags for c in found.cells if c.cell_type == "code"
    )
    assert all(cell.metadata.jupyter.source_hidden for cell in found.cells if cell not in seen)


def test_a_missing_cell_is_noticed():
    found = story.story_of(runner.read_lesson(SOURCES[4]))
    folded = [i for i, cell in enumerate(found.cells) if story.FOLDED in cell.metadata.tags]
    imports = folded[1]
    without = [cell for i, cell in enumerate(found.cells) if i != imports]
    assert "import" in found.cells[imports].source and story.undefined_names(without)


def test_slides_have_one_page_for_each_figure_of_the_story():
    whole = student_copies.as_built(CHECKOUT / "notebooks" / "src" / "08_shortcuts.py")
    figures = [c for c in whole.cells if story.STORY in c.metadata.get("tags", [])]
    page = story.slides_html(whole)
    assert page.index(story.WHOLE_FIGURES) < page.index("</head>")
    slides = len(figures) + 2  # and the title and the take-away
    # reveal.js: one column of one section for each slide
    assert page.count("<section") == page.count("</section") == 2 * slides
    assert page.count("data:image/") >= 1 and page.count('<aside class="notes"') >= 1
    assert "Take away" in page and "nothing here is a diagnostic device" in page
    assert "viz.plot_forest" not in page, "the code of a figure for the report is hidden"


def test_slides_need_outputs(tmp_path):
    whole = made_up(tmp_path, code("print(1)", "story"))
    with pytest.raises(ValueError, match="no outputs: slides are made from the executed"):
        story.deck_of(whole)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed kit of one lesson, and a folder for its copies."""
    package = tmp_path / "site" / "cxrkit"
    (package / "lessons").mkdir(parents=True)
    cells = [code("x = 1", "story"), code("y = 2")]
    (package / "lessons" / "00_a.py").write_text(lesson(*cells))
    monkeypatch.setattr(paths, "PACKAGE", package)
    return tmp_path / "class"


def test_the_command_writes_stories_and_leaves_a_students_work_alone(installed):
    result = CliRunner().invoke(main, ["lessons", str(installed), "--track", "story"])
    assert result.exit_code == 0 and "1 lessons written" in result.output, result.output
    written = nbformat.read(installed / "00_a_story.ipynb", 4)
    assert "x = 1" in sources_of(written) and "y = 2" not in sources_of(written)
    (installed / "00_a_story.ipynb").write_text("my work")
    assert CliRunner().invoke(main, ["lessons", str(installed), "--track", "story"]).exit_code == 0
    assert (installed / "00_a_story.ipynb").read_text() == "my work"


def test_the_command_says_what_does_not_go_together(installed):
    result = CliRunner().invoke(main, ["lessons", str(installed), "--slides"])
    assert result.exit_code == 1 and "executed notebooks of a checkout" in result.output
    result = CliRunner().invoke(main, ["lessons", str(installed), "--nbgrader", "--track", "story"])
    assert result.exit_code == 1 and "a story has no exercises" in result.output
