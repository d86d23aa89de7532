"""Every word of the glossary is explained where the lessons first need it."""

import re

import pytest

from cxrkit import teaching
from cxrkit.reproduction import runner
from tests.conftest import CHECKOUT

SOURCES = sorted((CHECKOUT / "notebooks" / "src").glob("*.py"))
EXPLAINED = r"\*{{1,2}}{}s?\*{{1,2}}"  # a word in italics or bold
# the overview of lesson 00 and the objectives name what is to come
OVERVIEW = 0


def texts_of(path):
    """Texts of a lesson without headings, its first cell and what follows the exercises."""
    texts = []
    for number, cell in enumerate(runner.read_lesson(path).cells):
        if cell.cell_type == "markdown" and number > OVERVIEW:
            lines = [line for line in cell.source.splitlines() if not line.startswith("#")]
            texts.append("\n".join(lines))
    return texts


TEXTS = {runner.number_of(path.stem): texts_of(path) for path in SOURCES}


def unexplained(word, texts):
    """The first text that uses a word without explaining it, or None."""
    explained = re.compile(EXPLAINED.format(re.escape(word)), re.IGNORECASE)
    used = re.compile(rf"\b{re.escape(word)}s?\b")
    for text in texts:
        if explained.search(text):
            return None
        if used.search(text):
            return text
    return None


@pytest.mark.parametrize("word", teaching.GLOSSARY)
def test_a_word_is_explained_where_its_lesson_first_uses_it(word):
    lesson, meaning = teaching.GLOSSARY[word]
    explained = re.compile(EXPLAINED.format(re.escape(word)), re.IGNORECASE)
    assert any(explained.search(text) for text in TEXTS[lesson]), f"{word}: not in lesson {lesson}"
    assert unexplained(word, TEXTS[lesson]) is None
    assert meaning and meaning[-1] != "."


@pytest.mark.parametrize("word", teaching.GLOSSARY)
def test_no_earlier_lesson_uses_a_word_without_explaining_it(word):
    lesson, _ = teaching.GLOSSARY[word]
    for number, texts in TEXTS.items():
        if number == lesson:
            break
        # lesson 00 is a map of what is to come
        assert number == "00" or unexplained(word, texts) is None, number


def test_an_unexplained_word_is_found():
    assert unexplained("AUC", ["An *AUC* is a chance.", "AUC again"]) is None
    assert unexplained("AUC", ["The AUC rises.", "An **AUC** is a chance."]) == "The AUC rises."


def test_the_glossary_is_a_table_of_every_word():
    table = teaching.glossary()
    assert list(table.index) == list(teaching.GLOSSARY) and list(table) == ["lesson", "meaning"]
