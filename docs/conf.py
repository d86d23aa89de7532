"""Sphinx settings of the documentation: `make docs` builds it into build/docs, without the net.

The source folder of Sphinx is the top of the repository, so that one link serves the forge and the
site: pages lie in docs/, lessons in notebooks/. Lessons are shown with their committed outputs.
"""

import os
import re
import sys
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import cxrkit  # noqa: E402
from cxrkit.teaching import GLOSSARY as LESSON_WORDS  # noqa: E402

CITATION = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))

project = "cxrkit"
author = copyright = "The cxrkit authors"
version = release = cxrkit.__version__

# sources

root_doc = "docs/index"
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "MODEL_CARD.md", "CONTRIBUTING.md"]
include_patterns += ["docs/real_films/*.ipynb"]  # where `make twins` was run
include_patterns += ["CHANGELOG.md", "SECURITY.md"]
# README.md in docs is the same start for readers of the forge. The folders hold no page.
exclude_patterns = [
    "docs/README.md",
    "docs/package.md",
    ".*",
    "artifacts",
    "build",
    "cxrkit",
    "site",
    "tests",
]
exclude_patterns += ["node_modules", "packages", "notebooks/solved", "notebooks/src"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

# Markdown and lessons

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3  # a link to a heading is checked too
suppress_warnings = ["myst.header"]  # lessons begin sections at the level that suits them

# API

default_role = "code"  # docstrings have `name` for code, as the rest of the kit
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "undoc-members": True,
    "no-value": True,
    "exclude-members": "T_destination, dump_patches, call_super_init, training",
}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "alphabetical"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# pages

html_theme = "sphinx_book_theme"
html_title = f"cxrkit {release}"
html_extra_path = ["_static/index.html"]
html_theme_options = {
    "repository_url": CITATION["repository-code"],
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_issues_button": True,
    "use_edit_page_button": True,
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        # the hub of a class: CXRKIT_JUPYTERHUB=https://hub.of.a.school make docs
        "jupyterhub_url": os.environ.get("CXRKIT_JUPYTERHUB", ""),
        "notebook_interface": "jupyterlab",
    },
    "show_toc_level": 2,
}


# docstrings


def escape_bars(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Bars of absolute values are no substitutions of reStructuredText; code is left alone."""
    for i, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[i] = "`".join(parts)


# words


def read_glossary(text: str) -> dict[str, str]:
    """The terms of docs/glossary.md in lower case, with their meanings in one line."""
    body = text.partition("```{glossary}\n")[2].partition("\n```")[0]
    found = {}
    for entry in body.split("\n\n"):
        term, *lines = entry.strip().splitlines()
        found[term.lower()] = " ".join(line.strip() for line in lines)
    return found


OF_LESSONS = {word.lower(): meaning for word, (_, meaning) in LESSON_WORDS.items()}
OF_DOCS = read_glossary((CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8"))
GLOSSARY = OF_LESSONS | OF_DOCS
LONGEST_FIRST = sorted(GLOSSARY, key=len, reverse=True)
TERM = re.compile(rf"\b({'|'.join(map(re.escape, LONGEST_FIRST))})s?\b", re.IGNORECASE)
EXPLAINED = ("docs/", "notebooks/", "MODEL_CARD")  # pages
ITSELF = ("docs/glossary", "docs/api/")


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The first use of a term on a page says what it means when the pointer is over it."""
    if not docname.startswith(EXPLAINED) or docname.startswith(ITSELF):
        return
    seen = set()
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.paragraph):
            continue  # code, links and headings stay as they are
        for match in TERM.finditer(text):
            term = match[1].lower()
            if term in seen:
                continue
            seen.add(term)
            explained = nodes.abbreviation("", match[0], explanation=GLOSSARY[term])
            before, after = text[: match.start()], text[match.end() :]
            text.parent.replace(text, [nodes.Text(before), explained, nodes.Text(after)])
            break  # one a piece of text


def setup(app: Sphinx) -> None:
    """Connect what docstrings and terms need."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("doctree-resolved", explain_terms)
