"""Exercises: a solution passes, a blank does not, and a plausible mistake is named."""

import ast
import csv
import re

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit import (
    data,
    evaluation,
    explain,
    models,
    shortcuts,
    simulation,
    tasks,
    teaching,
)
from cxrkit.reproduction import runner
from cxrkit.teaching import (
    behaviour,
    exercises,
    lesson_00,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_03b,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_09,
    sealed,
)
from tests.conftest import CHECKOUT

SOURCES = CHECKOUT / "notebooks" / "src"
CONVERTED = [path for path in sorted(SOURCES.glob("*.py")) if "check(" in path.read_text()]
NAMES = sorted(teaching.list_exercises())


def cells(path, solved):
    """{name of the exercise: source of its cell} of a lesson."""
    found = {}
    for cell in runner.read_lesson(path, solved).cells:
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            found[runner.exercise_of(tags)] = cell.source
    return found


BLANKS, SOLVED = {}, {}
for one in CONVERTED:
    BLANKS |= cells(one, solved=False)
    SOLVED |= cells(one, solved=True)


def run(source):
    """The value of the last line of a cell that is run by itself."""
    names = {"np": np, "pd": pd, "torch": torch, "check": teaching.check}
    for package in (data, evaluation, explain, models, shortcuts, simulation, tasks):
        names[package.__name__.split(".")[-1]] = package
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(last, "cell", "eval"), names)


# cells and exercises


def test_every_exercise_has_a_cell_and_a_solution():
    assert sorted(BLANKS) == NAMES == sorted(SOLVED)


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_passes_whatever_the_hidden_inputs_are(name):
    for _ in range(3):
        outcome = run(SOLVED[name])
        assert outcome and outcome.passed, outcome
        assert outcome.name == name and "RIGHT" in repr(outcome)


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_cell_fails_its_check_and_says_what_to_do(name):
    outcome = run(BLANKS[name])
    assert not outcome and exercises.BLANK in outcome.text and "NOT YET" in repr(outcome)


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_has_a_level_and_three_hints(name, capsys):
    exercise = teaching.list_exercises()[name]
    assert exercise.level in exercises.LEVELS and exercise.meaning
    assert len(set(exercise.hints)) == 3
    for number in (1, 2, 3, 1):
        teaching.hint(name)
        assert f"hint {number} of 3: {exercise.hints[number - 1]}" in capsys.readouterr().out


def code_lines(source):
    """Lines of code, without spaces and comments."""
    lines = [re.sub(r"\s*#.*", "", line).strip() for line in source.splitlines()]
    return {line for line in lines if len(line) > 8}


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_a_solution_is_in_what_a_student_gets(name):
    own = code_lines(SOLVED[name]) - code_lines(BLANKS[name])
    given = set()
    files = [*SOURCES.glob("*.py"), *(CHECKOUT / "cxrkit" / "teaching").glob("*.py")]
    for path in files:
        given |= code_lines(path.read_text())
    assert own and own & given == set()


def test_a_lesson_without_its_solutions_says_where_they_are(tmp_path):
    source = tmp_path / "src" / "04_x.py"
    source.parent.mkdir()
    source.write_text('# %% tags=["exercise", "04.1"]\nx = ...\n')
    assert runner.read_lesson(source).cells[0].source == "x = ..."
    with pytest.raises(FileNotFoundError, match="for teachers"):
        runner.read_lesson(source, solved=True)


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match=r"no exercise '04.99'; lesson 04 has: 04.1, "):
        teaching.check("04.99", 1)
    with pytest.raises(ValueError, match="no exercise"):
        teaching.hint("99.1")


# plausible mistakes


def sides(images):
    return images.amax(1).flatten(1)


def half_counts(labels):
    """Identical pairs alone."""
    pairs = []
    for i, a in enumerate(labels):
        for b in list(labels)[:i]:
            both = labels[[a, b]].dropna()
            if both[a].nunique() == 2 and (both[a] == both[b]).all():
                pairs.append((a, b))
    return pairs


def all_counts(labels):
    """Pairs that agree or differ everywhere, an unknown label counted as a difference."""
    pairs = []
    for i, a in enumerate(labels):
        for b in list(labels)[:i]:
            x, y = labels[a].to_numpy(), labels[b].to_numpy()
            if len(set(x)) > 1 and ((x == y).all() or (x == 1 - y).all()):
                pairs.append((a, b))
    return pairs


def kinds_of(patients):
    return [lesion.kind for patient in patients for lesion in patient]


def totals(patients):
    return {kind: kinds_of(patients).count(kind) for kind in kinds_of(patients)}


def shares_of_all(patients):
    kinds = kinds_of(patients)
    return {kind: kinds.count(kind) / len(kinds) for kind in kinds}


def shares_with(patients):
    found = {}
    for kind in kinds_of(patients):
        having = [any(lesion.kind == kind for lesion in patient) for patient in patients]
        found[kind] = np.mean(having)
    return found


def never_by_luck(codes, rho, rng):
    other = (codes + rng.integers(1, 3, len(codes))) % 3
    return np.where(rng.random(len(codes)) < rho, codes, other)


MISTAKES = [
    ("03b.1", 64 * 64, "class token"),
    ("03b.1", 65, "one row"),
    ("03b.1", 17, "17 is not it"),
    ("03b.1", 4225.0, "whole number"),
    ("03b.2", lesson_03b._without_root, "root of d"),
    ("03b.2", lesson_03b._by_columns, "along a row"),
    ("03b.2", lesson_03b._of_tokens, "instead of their values"),
    ("03b.2", lambda *a: lesson_03b.package_head(*a)[0], "returns 1 values; wanted are 2"),
    ("03b.2", 3, "a function, not a int"),
    ("03b.2", lambda X: X, "TypeError"),
    ("03b.3", "without positions", "never met"),
    ("03b.3", "even attention", "mean of all tokens"),
    ("03b.4", lambda images: images.mean((2, 3)), "no better than a guess"),
    ("03b.4", lambda images: images[:3], "gave features of shape"),
    ("04.1", lesson_04._one_head, "one head over all D"),
    ("04.1", lesson_04._root_of_embedding, "root of D"),
    ("04.1", lesson_04._interleaved, "in a row"),
    ("04.2", "a, b, c", "change places"),
    ("04.2", "a", "farther apart"),
    ("04.3", lambda p, share: p * share, "do not sum to 1"),
    ("04.3", lambda p, share: p / share / (p / share).sum(1, keepdims=True), "wrong way"),
    ("04.3", lambda p, share: p, "as before"),
    ("04.4", lesson_04._single, "not adjusted"),
    ("04.4", lesson_04._bonferroni, "Bonferroni"),
    ("04.4", lesson_04._without_groups, "pass the groups"),
    ("02.1", models.POOLS["average"], "plain mean"),
    ("02.1", lesson_02._unscaled, "do not sum to 1"),
    ("02.1", lesson_02._softmax_of_logits, "softmax of the logits"),
    ("02.1", lesson_02._weights_over_findings, "over the findings"),
    ("02.1", lambda f, m: models.pcam_pool(f, m).mT, "has shape"),
    ("02.2", 0.125, "plain mean"),
    ("02.2", 1.0, "maximum"),
    ("02.2", 0.5135, "softmax of the logits"),
    ("02.2", "big", "a number, not a str"),
    ("02.3", half_counts, "opposite ones are not"),
    ("02.3", all_counts, "a pair is missing"),
    ("02.3", lambda labels: [("a", "never")], "no film has"),
    ("02.4", lesson_02._chosen_far, "by construction"),
    ("02.4", lesson_02._on_validation, "on the validation films"),
    ("02.5", lesson_02._uphill, "against the gradient"),
    ("02.5", lesson_02._sum_of_images, "a mean too"),
    ("02.5", lesson_02._step_alone, "the new weight"),
    ("02.5", lesson_02._without_sigmoid, "needs a sigmoid"),
    ("00.1", lesson_00._inverse, "smaller by"),
    ("00.1", lesson_00._of_height, "similar triangles"),
    ("00.1", lesson_00._near_source, "from the source"),
    ("00.2", lesson_00._left_alone, "only the left edge"),
    ("00.2", lesson_00._rows, "columns are the last"),
    ("00.2", lesson_00._pixels, "share of dark pixels"),
    ("00.3", totals, "those are the totals"),
    ("00.3", shares_with, "several of them"),
    ("00.3", shares_of_all, "shares of all lesions"),
    ("00.3", lambda patients: {"mass": 1}, "the kinds of these patients"),
    ("00.3", lambda patients: 3, "not a int"),
    ("01.1", lesson_01._stretched, "stretches the range"),
    ("01.1", lesson_01._ranks, "must become 0"),
    ("01.1", lesson_01._ranks_below, "equally bright ones too"),
    ("01.1", lambda image: image / 255, "spread them over"),
    ("01.1", lambda image: image[:3], "became (3, 80)"),
    ("01.1", lambda image: 255 - image, "by up to"),
    ("01.2", "A", "flat already"),
    ("01.2", "c", "no way back"),
    ("01.3", lesson_01._wraps_around, "no negative numbers"),
    ("01.3", lesson_01._whole_image, "over the inside alone"),
    ("01.3", lesson_01._against_raw, "with the equalised film"),
    ("01.4", "fixed", "stays brighter"),
    ("03.1", lesson_03._gamma_alone, "1 + gamma"),
    ("03.1", lesson_03._exchanged, "changed places"),
    ("03.1", lesson_03._over_batch, "batch normalisation"),
    ("03.1", lesson_03._over_channels, "share one mean"),
    ("03.1", lesson_03._variance, "not by the variance"),
    ("03.2", 4, "not above half"),
    ("03.3", lesson_03._kept, "that the mask keeps"),
    ("03.3", lesson_03._with_outside, "inside the true lungs"),
    ("03.3", lesson_03._of_lungs, "divide by the lesion"),
    ("03.4", lesson_03._all_pieces, "specks are still there"),
    ("03.4", lesson_03._holes_left, "holes are not filled"),
    ("03.4", lesson_03._largest_alone, "two lungs"),
    ("05.1", lesson_05._signed, "gets nothing"),
    ("05.1", lesson_05._sizes, "counts as 0"),
    ("05.1", lesson_05._positive_inputs, "negative weight adds"),
    ("05.1", lesson_05._not_divided, "divide by the sum"),
    ("05.2", lesson_05._reversed, "turned round"),
    ("05.2", lesson_05._first_class, "the last class"),
    ("05.2", lesson_05._same_for_all, "pass `start_layer`"),
    ("05.3", lesson_05._difference_of_maps, "difference of two maps"),
    ("05.3", lesson_05._alone, "class a alone"),
    ("05.3", lesson_05._odds, "all others together"),
    ("05.4", lesson_05._one_cell, "within one cell"),
    ("05.4", lesson_05._images_hit, "not of films"),
    ("06.1", lesson_06._mean_of_zone, "one bright spot"),
    ("06.1", lesson_06._sides_exchanged, "left and right"),
    ("06.1", lesson_06._upside_down, "upper and lower"),
    ("06.1", lesson_06._whole_image, "whole film"),
    ("06.2", lesson_06._mean_score, "not their mean"),
    ("06.2", lesson_06._exchanged, "first the soft score"),
    ("06.2", lesson_06._rounded, "before the sum"),
    ("06.3", lesson_06._of_scores, "cancel in the score"),
    ("06.3", lesson_06._shares_moved, "not the shares"),
    ("06.4", "always", "never above the largest"),
    ("07.1", lesson_07._no_cosine, "length 1"),
    ("07.1", lesson_07._no_temperature, "temperature"),
    ("07.1", lesson_07._with_itself, "leave it out"),
    ("07.1", lesson_07._one_way, "among all others"),
    ("07.1", lesson_07._summed, "is their mean"),
    ("07.2", lesson_07._bonferroni, "Bonferroni"),
    ("07.2", lesson_07._not_cut, "above 1"),
    ("07.2", lesson_07._not_monotone, "may not be below"),
    ("07.2", lesson_07._sorted, "another order"),
    ("07.3", lambda *a: lesson_07.WORDS[lesson_07._ignores_seeds(*a)], "single seed"),
    ("07.3", lambda *a: lesson_07.WORDS[lesson_07._zero_inside(*a)], "may be wide"),
    ("07.3", lambda *a: "yes", "not 'yes'"),
    ("07.3", lambda *a: "publish", "against the rule"),
    ("07.4", lesson_07._normal, "heavier tails"),
    ("07.4", lesson_07._one_model, "two models"),
    ("07.4", lesson_07._not_of_mean, "root of n"),
    ("07.4", lesson_07._one_sided, "on each side"),
    ("08.1", 1, "group_id"),
    ("08.2", lesson_08._from_best, "not with the best"),
    ("08.2", lesson_08._at_the_end, "not the largest"),
    ("08.2", lesson_08._first_in_order, "need not be in order"),
    ("08.3", lesson_08._plain, "among the films"),
    ("08.3", lesson_08._regular, "goes with the label"),
    ("08.3", lesson_08._sum_of_weights, "sum of all weights"),
    ("08.4", never_by_luck, "*any* of the three"),
    ("08.4", lambda codes, rho, rng: codes, "goes with the diagnosis"),
    ("08.4", lambda codes, rho, rng: codes[:5], "of shape"),
    ("09.1", lesson_09._rises, "the sign"),
    ("09.1", lesson_09._after, "wanted is the fall"),
    ("09.1", lesson_09._transposed, "changed places"),
    ("09.1", lesson_09._all_stay_erased, "one cell at a time"),
    ("09.1", lesson_09._to_zero, "not with 0"),
    ("09.2", lesson_09._signed, "may also fall"),
    ("09.2", lesson_09._last_class, "last class alone"),
    ("09.2", lesson_09._flat, "number of the film"),
    ("09.3", lesson_09._largest, "largest score"),
    ("09.3", lesson_09._crossed, "above the lower"),
]


def _name_of(value) -> str:
    """Name of a function instead of its address, which differs between two processes of pytest."""
    return getattr(value, "__name__", str(value)[:24])


@pytest.mark.parametrize("name, answer, text", MISTAKES, ids=_name_of)
def test_a_plausible_mistake_is_named(name, answer, text):
    outcome = teaching.check(name, answer)
    assert not outcome and text in outcome.text, outcome
    assert f"hint('{name}')" in outcome.text


# the parts


def test_a_sealed_number_is_right_within_its_tolerance_and_a_seal_tells_nothing_short():
    right = sealed.seal("x", 56)
    assert len(right) == 24 and sealed.seal("y", 56) != right
    assert sealed.number_fault("x", 0.2797, right, 0.005, {}) == ""
    assert sealed.number_fault("x", 0.2845, right, 0.005, {}) == ""
    assert "is not it" in sealed.number_fault("x", 0.29, right, 0.005, {})
    assert sealed.word_fault("x", " 56 ", right, {}) == ""


def test_close_outputs_need_the_same_parts_and_shapes():
    ones = torch.ones(2, 3)
    assert behaviour.is_close((ones, 1), (ones + 1e-6, 1.0))
    assert not behaviour.is_close(ones, (ones, ones))
    assert not behaviour.is_close(ones, ones.T)
    assert not behaviour.is_close(ones * torch.nan, ones)


def test_the_package_head_is_torchs_own_attention():
    g = torch.Generator().manual_seed(1)
    X, *W = (torch.randn(*size, generator=g) for size in ((5, 4), (4, 4), (4, 4), (4, 4)))
    attention, answer = lesson_03b.package_head(X, *W)
    expected = torch.nn.functional.scaled_dot_product_attention(X @ W[0], X @ W[1], X @ W[2])
    torch.testing.assert_close(answer, expected)
    torch.testing.assert_close(attention.sum(1), torch.ones(5))


def test_progress_is_a_table_of_all_checks(tmp_path, monkeypatch):
    file = tmp_path / "progress.csv"
    monkeypatch.setenv(exercises.PROGRESS, str(file))
    teaching.check("03b.1", 65)
    teaching.check("03b.1", "65 * 65")
    run(SOLVED["03b.1"])
    rows = list(csv.DictReader(file.open()))
    assert [(row["exercise"], row["level"], row["passed"]) for row in rows] == [
        ("03b.1", "warm-up", "0"),
        ("03b.1", "warm-up", "0"),
        ("03b.1", "warm-up", "1"),
    ]


def test_every_mistake_that_a_check_names_is_tried():
    """A wrong answer in a check that no test gives to it would be dead text."""
    tried = {answer for _, answer, _ in MISTAKES if callable(answer)}
    for module in (
        lesson_00,
        lesson_01,
        lesson_03,
        lesson_05,
        lesson_06,
        lesson_07,
        lesson_08,
        lesson_09,
    ):
        named = {
            value
            for key, value in vars(module).items()
            if key.startswith("_") and not key.startswith(("_draw", "__")) and callable(value)
        }
        helpers = {
            "_array_of",
            "_shared",
            "_share_with",
            "_darkened",
            "_within",
            "_falls",
            "_pairs_fault",
        }
        tested = {lesson_07._ignores_seeds, lesson_07._zero_inside}
        untried = {f.__name__ for f in named - tried - tested} - helpers
        assert untried == set(), module.__name__


def test_a_rather_than_b_has_the_map_of_b_rather_than_a():
    """What the meaning of exercise 05.3 says."""
    model, corpus, a, b = lesson_05._draw_pair()
    one = lesson_05.package_rather(model, corpus, a, b)
    torch.testing.assert_close(one, lesson_05.package_rather(model, corpus, b, a))
