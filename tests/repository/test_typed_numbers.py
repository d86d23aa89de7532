"""Numbers of results in documents come from committed files, and nobody types them."""

import functools
import json
import re

import jupytext
import pytest

from tests.conftest import CHECKOUT

MADE = re.compile(r"<!-- [^>]*made by tools/update_readme.py -->.*?<!-- end of [^>]* -->", re.S)
NUMBER = r"([+-]?\d+\.\d+)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
RESULT = re.compile(r"(?<![\w.])[+-]?0\.\d{2,}\b")  # an AUC, a difference, a p-value
FILES = (
    "cxrkit/storage/recorded_results/*.json",
    "docs/lab/*.json",
    "cxrkit/storage/shipped_artifacts/*/metrics.json",
    "cxrkit/inference/**/*.json",
)
PAGES = sorted(
    [
        *(CHECKOUT / "docs").glob("*.md"),
        CHECKOUT / "README.md",
        CHECKOUT / "MODEL_CARD.md",
    ]
)
DOCUMENTS = [page for page in PAGES if page.name != "MODEL_CARD.md"]  # that is made whole
# numbers of pages that nobody measured here: margins, bars, thresholds, sizes, a quiz; and costs
# of one machine, which say so
RULES = {
    "cluster": {"0.01", "0.15"},
    "lungs": {"0.92", "0.95"},
    "paper": {"0.44", "0.36", "0.38", "0.96", "0.001"},
    "predict": {"0.99", "0.02", "0.92"},
    "severity": {"0.64"},
    "site": {"0.0001"},
    "teaching": {"0.70", "0.72", "0.77", "0.65", "0.01", "0.02", "0.03"},
    "virtual_hospitals": {"0.65", "0.84", "0.10", "0.05", "0.97", "0.01", "0.15"},
}
LESSONS = sorted((CHECKOUT / "notebooks" / "src").glob("*.py"))
# what is numbered: exercises, sections; and links
NUMBERED = re.compile(
    r"\bdoi \S+|\barXiv [\d.]+|\]\([^)]*\)|[Ss]ections? [\d., and]+|\d\d[a-z]?\.\d\b"
)
DECIMAL = re.compile(r"(?<![\w.])[+-]?\d+\.\d+\b")
# decimals in the prose of a lesson that nobody measured: rules, thresholds, definitions, exercises,
# quizzes; and one of another paper, which the lesson cites
GIVEN = {
    "00_start_here": {"1.8"},
    "02_backbone": {"0.5", "0.7", "0.125", "0.55", "0.50", "0.59", "0.001"},
    "03b_attention": {"0.02", "0.5"},
    "04_corpus_vit": {"0.8", "0.7"},
    "05_saliency": {"0.05"},
    "06_severity": {"1.96", "0.5", "0.9"},
    "07_ablations": {"0.05", "0.01", "-0.01", "0.95", "0.04", "0.30"},
    "08_shortcuts": {"0.75", "0.02", "0.5", "0.95", "0.60"},
    "09_reading_room": {"0.7"},
}


def triples_of(value):
    """Every (value, low, high) of a JSON value."""
    if isinstance(value, dict):
        for name in value:
            stem = name.removesuffix("low")
            if stem == name or f"{stem}high" not in value:
                continue
            for middle in (stem.rstrip("_"), "value", "difference"):
                if middle in value:
                    yield value[middle], value[name], value[f"{stem}high"]
        for part in value.values():
            yield from triples_of(part)
    elif isinstance(value, list):
        if len(value) == 3:
            yield tuple(value)
        for part in value:
            yield from triples_of(part)


@functools.cache
def recorded_intervals():
    """Every interval of the committed files, as text with one to three digits."""
    found = set()
    for pattern in FILES:
        for path in CHECKOUT.glob(pattern):
            for triple in triples_of(json.loads(path.read_text("utf-8"))):
                if all(isinstance(part, int | float) for part in triple):
                    for digits in (1, 2, 3):
                        found.add(tuple(f"{part:.{digits}f}" for part in triple))
    return found


def without_file(text):
    """The intervals of a text that stand in no committed file."""
    shown = [tuple(part.lstrip("+") for part in found) for found in INTERVAL.findall(text)]
    return [found for found in shown if found not in recorded_intervals()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_interval_of_a_page_stands_in_a_committed_file(page):
    """Those between the marks of `tools/update_readme.py` are compared by test_document_tables."""
    lost = without_file(MADE.sub("", page.read_text("utf-8")))
    assert lost == []


def test_an_interval_that_nobody_measured_is_found():
    recorded = next(triple for triple in recorded_intervals() if len(triple[0]) == 5)
    text = f"{recorded[0]} [{recorded[1]}, {recorded[2]}] and 0.123 [0.012, 0.987]"
    assert without_file(text) == [("0.123", "0.012", "0.987")]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_a_page_has_no_typed_result_outside_its_made_tables(page):
    text = MADE.sub("", page.read_text("utf-8"))
    assert set(RESULT.findall(text)) == RULES.get(page.stem, set())


def test_a_result_inside_a_made_table_is_not_typed():
    text = (CHECKOUT / "README.md").read_text("utf-8")
    assert RESULT.findall(text), "the tables hold numbers"
    assert RESULT.findall(MADE.sub("", text)) == []


def prose(lesson):
    """The Markdown of a lesson."""
    cells = jupytext.read(lesson).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def typed_decimals(text):
    """Decimal numbers of a text, without those of sections, exercises and links."""
    return set(DECIMAL.findall(NUMBERED.sub("", text)))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_has_no_typed_result(lesson):
    """Results are computed by its cells; intervals are typed nowhere, not even in code."""
    assert typed_decimals(prose(lesson)) == GIVEN.get(lesson.stem, set())
    assert INTERVAL.findall(lesson.read_text("utf-8")) == []


def test_a_typed_result_of_a_lesson_is_found():
    text = "Section 3.2, exercise 06.1 (doi 10.1148/ab.12): an MSE of 3.17 [2.24, 4.21], AUC +0.5."
    assert typed_decimals(text) == {"3.17", "2.24", "4.21", "+0.5"}


def test_lesson_07_reads_its_results():
    code = (CHECKOUT / "notebooks" / "src" / "07_ablations.py").read_text("utf-8")
    for call in ("claims_frame()", "claim_notes()", 'recorded("grid")', "recorded_rows("):
        assert f"reproduction.{call}" in code or f"run.{call}" in code
