"""The documentation site: its settings, and every link inside it; `make docs` builds it with -W."""

import re
from fnmatch import fnmatch

import nbformat
import pytest
import yaml

from tests.conftest import CHECKOUT
from tests.scripts import load_script

PAGES = sorted([*(CHECKOUT / "docs").rglob("*.md"), *CHECKOUT.glob("*.md")])
NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def without_code(text):
    """Markdown without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(path):
    """Anchors of the headings of a page, as forges and the site make them."""
    headings = re.findall(r"^#{1,6} (.+)$", path.read_text(encoding="utf-8"), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def dead_links(text, folder):
    """Links of a text that lead to no file or heading of the repository."""
    found = []
    for link in LINK.findall(without_code(text)):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (folder / file).resolve()
        if file and not target.exists():
            found.append(link)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_no_link_of_a_page_is_dead(page):
    assert dead_links(page.read_text(encoding="utf-8"), page.parent) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_link_of_a_lesson_is_dead(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert dead_links(prose, notebook.parent) == []


def test_a_dead_link_is_seen(tmp_path):
    (tmp_path / "page.md").write_text("# One heading\n")
    text = "[a](page.md#one-heading) [b](page.md#two) [c](gone.md) `[d](code.md)` [e](https://x.y)"
    assert dead_links(text, tmp_path) == ["page.md#two", "gone.md"]


def test_every_page_is_in_the_contents():
    """A page that no table of contents names is a warning of Sphinx, and nobody finds it."""
    index = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.M | re.S)
    named = {line for block in blocks for line in block.splitlines() if line[:1] not in (":", "")}
    patterns = [name for name in named if "*" in name]
    pages = {path.stem for path in (CHECKOUT / "docs").glob("*.md")}
    pages -= {page for page in pages if any(fnmatch(page, pattern) for pattern in patterns)}
    assert pages - named == {"index", "README", "package"}  # both are for other readers


# settings of Sphinx


@pytest.fixture(scope="module")
def conf():
    pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
    return load_script("docs/conf.py")


def test_launch_buttons_lead_to_the_repository_of_the_citation(conf):
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert conf.html_theme_options["repository_url"] == citation["repository-code"]
    launch = conf.html_theme_options["launch_buttons"]
    assert launch["binderhub_url"] and launch["colab_url"] and "jupyterhub_url" in launch
    assert conf.nb_execution_mode == "off"  # lessons show their committed outputs


def test_the_first_use_of_a_term_is_explained(conf):
    from docutils import nodes
    from docutils.utils import new_document

    document = new_document("page")
    document += nodes.paragraph("", "", nodes.Text("A token, and tokens again."))
    document += nodes.paragraph("", "", nodes.literal("", "corpus"), nodes.Text(" is code"))
    conf.explain_terms(None, document, "docs/page")
    (term,) = document.findall(nodes.abbreviation)
    assert term.astext() == "token" and term["explanation"] == conf.GLOSSARY["token"]
    assert document.astext() == "A token, and tokens again.\n\ncorpus is code"


def test_bars_are_no_substitutions_but_for_code(conf):
    lines = ["|A| of `|B|`"]
    conf.escape_bars(None, "function", "name", None, None, lines)
    assert lines == [r"\|A\| of `|B|`"]
