"""Words that the kit avoids: in prose, where a field term is clearer, and in names."""

import ast
import functools
import io
import re
import tokenize

import pytest

from tests.conftest import CHECKOUT

# whole words, in docstrings, comments, strings and Markdown
PROSE = ("court", "crew", "dial", "doubt", "strangers", "mend", "told", "borrowed", "lent")
# parts of a name, after it was split at underscores and capitals -> what to write
PARTS = {
    "film": "image",
    "films": "images",
    "court": "saliency_benchmark",
    "verdict": "results",
    "exhibit": "evaluation_set",
    "exhibits": "evaluation_set",
    "dial": "marker_study",
    "worn": "with_marker",
    "obeys": "flip_rate",
    "crew": "process_group",
    "lent": "auxiliary",
    "taught": "trained_on",
    "teaches": "train_datasets",
    "aside": "held_out",
    "judge": "evaluate",
    "judged": "evaluated, predictions",
    "rival": "baseline",
    "rivals": "baselines",
    "trunk": "feature_extractor",
    "strangers": "out_of_distribution",
    "spoiled": "corrupted",
    "doubt": "uncertainty",
    "inspector": "quality_model",
    "mend": "repair",
    "told": "messages",
    "borrowed": "on_device",
    "adopt": "load_matching",
}
# names that may keep such a part -> why
ALLOWED: dict[str, str] = {
    "trunk": "in the state-dict keys of the style encoder and the discriminator",
}

THIS = "tests/repository/test_words.py"  # it lists the words
FOLDERS = ("cxrkit", "tools", "benchmarks", "tests", "notebooks/src")
PACKAGES = sorted(path.name for path in (CHECKOUT / "cxrkit").iterdir() if path.is_dir())
PAGES = ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md")
BANNED = re.compile(rf"\b({'|'.join(PROSE)})\b", re.IGNORECASE)


def python_files(folder):
    return sorted((CHECKOUT / folder).rglob("*.py"))


def relative(path):
    return path.relative_to(CHECKOUT).as_posix()


# prose


def prose_of(source):
    """Comments and strings of Python source: (line, text). A string without a space is a key."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_key = token.type == tokenize.STRING and not re.search(r"\s", token.string)
        if token.type in kinds and not is_key:
            for i, text in enumerate(token.string.splitlines()):
                yield token.start[0] + i, text


def banned_in_python(path):
    """Each banned word of a Python file, as "file:line word"."""
    found = []
    for line, text in prose_of(path.read_text()):
        found += [f"{relative(path)}:{line} {word}" for word in BANNED.findall(text)]
    return found


def banned_in_text(path):
    """Each banned word of a page, as "file:line word"."""
    found = []
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        found += [f"{relative(path)}:{line} {word}" for word in BANNED.findall(text)]
    return found


GROUPS = {f"cxrkit/{name}": python_files(f"cxrkit/{name}") for name in PACKAGES}
GROUPS["cxrkit"] = sorted((CHECKOUT / "cxrkit").glob("*.py"))
GROUPS |= {folder: python_files(folder) for folder in FOLDERS[1:]}


@pytest.mark.parametrize("group", GROUPS)
def test_prose_of_the_code_has_none_of_the_words(group):
    found = []
    for path in GROUPS[group]:
        if relative(path) != THIS:
            found += banned_in_python(path)
    assert not found, f"{len(found)}: " + "\n".join(found)


@pytest.mark.parametrize(
    "path",
    [*map(CHECKOUT.joinpath, PAGES), *sorted((CHECKOUT / "docs").glob("*.md"))],
    ids=relative,
)
def test_pages_have_none_of_the_words(path):
    assert banned_in_text(path) == []


# names


def parts_of(name):
    """A name split at underscores and capitals, in lower case: "FilmsOf_row" -> films, of, row."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def defined_names(tree):
    """Names that a file defines: modules' own, arguments, variables, attributes -> first line."""
    found = {}
    for node in ast.walk(tree):
        name = None
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.alias):
            name = node.asname
        if name:
            found.setdefault(name, getattr(node, "lineno", 0))
    return found


@functools.cache
def names_of_file(path):
    """The same for a file, which is parsed once."""
    return defined_names(ast.parse(path.read_text()))


def banned_names(path):
    """Each name of a file with a part that went, as "file:line name (write ...)"."""
    found = []
    names = {path.stem: 0, **names_of_file(path)}
    for name, line in names.items():
        for part in parts_of(name):
            if part in PARTS and name not in ALLOWED:
                found.append(f"{relative(path)}:{line} {name} (write {PARTS[part]})")
    return found


@pytest.mark.parametrize("group", [name for name in GROUPS if name.startswith("cxrkit")])
def test_names_have_none_of_the_parts(group):
    found = []
    for path in GROUPS[group]:
        found += banned_names(path)
    assert not found, f"{len(found)}: " + "\n".join(found)


def test_every_exception_is_still_needed():
    used = set()
    for paths in GROUPS.values():
        for path in paths:
            used |= set(names_of_file(path))
    assert set(ALLOWED) <= used


# the test itself


@pytest.mark.parametrize(
    "source, words",
    [
        ("x = 1  # no doubt", ["doubt"]),
        ('"""He\nmay Dial."""', ["Dial"]),
        ('f"{x} was told {y}"', ["told"]),
        ('x = "court"  # amended, talents', []),
    ],
)
def test_words_are_found_in_comments_docstrings_and_strings(source, words):
    assert [w for _, text in prose_of(source) for w in BANNED.findall(text)] == words


def test_names_are_split_and_found_wherever_they_are_defined():
    assert parts_of("FilmsOf_HTTPRow2") == ["films", "of", "http", "row", "2"]
    source = """
import x as court
class Verdict:
    film: int = 0
    def go(self, films, *, told=1):
        self.doubt = [crew for crew in films]
        films.exhibit, y = call(aside=1), 2
"""
    names = set(defined_names(ast.parse(source)))
    assert {"court", "Verdict", "film", "films", "told", "doubt", "crew", "exhibit"} <= names
    assert "aside" not in names, "a call defines nothing"
