"""The search for rates and steps: the same for every model, its rounds, and what it chose."""

from dataclasses import replace

import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS, ZONES
from cxrkit.reproduction import comparisons, grid_leaves, grid_rows
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction.grid import DIAGNOSIS, FROM_FINDINGS, PROPOSED, SEVERITY
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.severity import SeverityTask
from tests.scripts import load_script

learning_rates = load_script("tools/learning_rates.py")


BOTH = pytest.mark.parametrize("stage", [DIAGNOSIS, SEVERITY])
TABLE = {DIAGNOSIS: "Table 7", SEVERITY: "Table 8"}


def with_choices(profile, rates=(), steps=(), stage=DIAGNOSIS):
    chosen = replace(grid_module.search_of(profile, stage), chosen_rates=rates, chosen_steps=steps)
    return replace(profile, grid=replace(profile.grid, **{grid_module.SEARCHES[stage]: chosen}))


@BOTH
def test_every_model_of_a_table_has_the_same_search(stage):
    demo = profiles.demo()
    search, trials = grid_module.search_of(demo, stage), {}
    for cell in grid_module.trial_cells(demo, stage):
        training = grid_module.own_training(cell.profile, stage)
        assert cell.stage == stage and training.steps == search.steps
        trials.setdefault(cell.name, []).append(training.lr)
    table = {cell.name for cell in grid_module.grid_cells(demo) if cell.table == TABLE[stage]}
    first = {PROPOSED, FROM_FINDINGS, *grid_module.baselines(demo)}
    assert set(trials) == first <= table and len(search.rates) >= 3
    assert all(rates == list(search.rates) for rates in trials.values())
    assert grid_module.own_training(demo, stage).lr in search.rates


@BOTH
def test_the_second_round_trains_as_long_as_the_row_before_steps_are_chosen(stage):
    """So that the cell of a chosen rate is the cell of the table, and nothing trains twice."""
    rates = grid_module.search_of(profiles.demo(), stage).chosen_rates
    demo = with_choices(profiles.demo(), rates, stage=stage)
    table = [cell for cell in grid_module.grid_cells(demo) if cell.table == TABLE[stage]]
    rows = {cell.name: cell for cell in table}
    longer = with_choices(demo, rates, tuple((name, 17) for name in rows), stage)
    for name in dict.fromkeys(cell.name for cell in grid_module.trial_cells(demo, stage)):
        own = grid_module.own_training(rows[name].profile, stage).lr
        same, other = grid_module.whole_trials(longer, stage, name, (own, 0.02))
        assert same.key == rows[name].key != other.key
        assert grid_module.own_training(other.profile, stage).lr == 0.02


@pytest.mark.parametrize(("choices", "field"), [({"rates": 0.01}, "lr"), ({"steps": 77}, "steps")])
@pytest.mark.parametrize(
    ("stage", "row", "rows"),
    [
        # SimCLR is compared with the row of the same name, and a map begins with its classifier
        (DIAGNOSIS, "ViT", {("ViT", DIAGNOSIS), ("SimCLR: ViT", DIAGNOSIS), ("ViT", SEVERITY)}),
        (SEVERITY, "ViT", {("ViT", SEVERITY)}),
        # Table 10 changes one thing of the proposed model, and nothing of its training
        (
            SEVERITY,
            PROPOSED,
            {(PROPOSED, SEVERITY), ("ROI average pooling", SEVERITY), ("Brixia alone", SEVERITY)},
        ),
    ],
)
def test_a_choice_reaches_the_rows_of_that_model_and_no_other(choices, field, stage, row, rows):
    plain = with_choices(with_choices(profiles.demo()), stage=SEVERITY)
    ((kind, value),) = choices.items()
    chosen = with_choices(plain, **{kind: ((row, value),)}, stage=stage)
    before = {(cell.name, cell.stage): cell for cell in grid_module.grid_cells(plain)}
    changed = set()
    for cell in grid_module.grid_cells(chosen):
        other = before[cell.name, cell.stage]
        if cell.key != other.key:
            changed.add((cell.name, cell.stage))
            new, old = (grid_module.own_training(one.profile, stage) for one in (cell, other))
            assert getattr(new, field) == value
            assert replace(new, **{field: getattr(old, field)}) == old
    assert changed == rows


def searched(monkeypatch, tmp_path, score):
    """A whole search whose trainings have the scores of `score(cell)`: training -> its score."""
    search, ran = learning_rates.Search(DIAGNOSIS, Store(tmp_path), 0), {}

    def run(cells):
        for cell in cells:
            training = cell.profile.transformer_training
            search.rows[cell.key] = {"score": score(cell.name, training.lr, training.steps)}
            ran[cell.name, training.lr, training.steps] = search.rows[cell.key]["score"]

    monkeypatch.setattr(search, "run", run)
    demo = profiles.demo()
    search.last_round(search.second_round(demo, search.first_round(demo)))
    return ran


def test_steps_double_while_that_brings_something_and_no_longer_than_the_cap(monkeypatch, tmp_path):
    """Worked by hand: of 1,500 steps, the profile's rate is best for all."""
    gains = {PROPOSED: 0.9 * grid_rows.FLAT, FROM_FINDINGS: 2 * grid_rows.FLAT}

    def score(name, rate, steps):
        doublings = {1500: 0, 3000: 1, 6000: 2}[steps]
        return 0.5 + (rate == 5e-4) * 0.2 + doublings * gains.get(name, 0)

    ran = searched(monkeypatch, tmp_path, score)
    lengths = {}
    for name, rate, steps in ran:
        if rate == 5e-4:
            lengths.setdefault(name, []).append(steps)
    assert lengths.pop(PROPOSED) == [1500, 3000]  # flat: the end
    assert lengths.pop(FROM_FINDINGS) == [1500, 3000, 6000]  # the cap
    assert all(steps == [1500, 6000] for steps in lengths.values())  # scratch: the cap already
    whole = {rate for name, rate, steps in ran if (name, steps) == ("ViT", 6000)}
    assert len(whole) == 2, "a short training may prefer the rate that all had before"


def test_the_search_tries_wider_rates_and_keeps_the_better_whole_training(monkeypatch, tmp_path):
    """A short training likes a high rate, a long one the profile's; that one is trained longer."""

    def score(name, rate, steps):
        if name != FROM_FINDINGS:
            return 0.5
        return min(rate, 0.0405) if rate != 5e-4 else steps / 3000

    ran = [one for one in searched(monkeypatch, tmp_path, score) if one[0] == FROM_FINDINGS]
    wide = sorted(rate for _, rate, steps in ran if rate > 4.5e-3)
    assert wide == []  # 5e-4 has 0.5 after 1,500 steps, more than any other
    assert [(rate, steps) for _, rate, steps in ran if steps > 1500] == [
        (5e-4, 3000),
        (5e-4, 6000),
    ]

    def rising(name, rate, steps):
        return min(rate, 0.0135) if name == FROM_FINDINGS else 0.5

    ran = [one for one in searched(monkeypatch, tmp_path, rising) if one[0] == FROM_FINDINGS]
    assert {rate for _, rate, _ in ran if rate > 4.5e-3} == {0.0135, 0.0405}
    assert [(rate, steps) for _, rate, steps in ran if steps > 1500] == [(0.0135, 3000)]


@pytest.fixture
def recorded_rows(monkeypatch):
    """What a search reads and records in the place of the committed file."""
    kept = []

    def write(name, rows, made):
        kept[:] = rows

    monkeypatch.setattr(grid_leaves, "recorded_trials", lambda: list(kept))
    monkeypatch.setattr(learning_rates.recorded, "write_result", write)
    return kept


def trial(cell, rate, steps, score, stage=DIAGNOSIS):
    return {"stage": stage, "cell": cell, "rate": rate, "steps": steps, "score": score}


def test_a_search_replaces_its_models_and_other_rows_replace_the_same_training(
    tmp_path, recorded_rows
):
    kept = [trial("ViT", 0.1, 10, 1), trial("bag", 0.1, 10, 2), trial("ViT", 0.1, 10, 3, SEVERITY)]
    recorded_rows += kept
    search = learning_rates.Search(DIAGNOSIS, Store(tmp_path), 0, {"ViT"})
    search.rows["a"] = trial("ViT", 0.3, 10, 4)
    search.write()
    assert recorded_rows == [*kept[1:], search.rows["a"]]
    doubled = learning_rates.Search(DIAGNOSIS, Store(tmp_path), 0)
    doubled.rows |= {"b": trial("bag", 0.1, 10, 5), "c": trial("bag", 0.1, 20, 6)}
    doubled.write()
    assert recorded_rows == [kept[2], search.rows["a"], *doubled.rows.values()]


@pytest.mark.parametrize(
    ("stage", "name"), [(DIAGNOSIS, "2 layers, 4 heads"), (SEVERITY, "Brixia alone")]
)
def test_a_varied_row_trains_as_in_its_table_and_twice_as_long(
    tmp_path, monkeypatch, recorded_rows, stage, name
):
    """What is recorded of it is what says whether it has converged."""
    demo, ran = profiles.demo(), []

    def run_cells(cells, store, workers):
        ran.extend(cells)
        return ((cell, "") for cell in cells)

    monkeypatch.setattr(grid_module, "run_cells", run_cells)
    monkeypatch.setattr(grid_rows, "validation_score", lambda cell, store: 0.9)
    monkeypatch.setattr(grid_rows, "training_seconds", lambda folder, training: 1.0)
    search = learning_rates.Search(stage, Store(tmp_path), 0)
    search.double([learning_rates.varied_rows(demo, stage)[name]])
    (row,) = [cell for cell in grid_module.grid_cells(demo) if cell.name == name]
    lengths = [grid_module.own_training(cell.profile, stage).steps for cell in ran]
    assert ran[0].key == row.key and lengths[1] == 2 * lengths[0]
    assert [one["steps"] for one in recorded_rows] == lengths
    assert grid_leaves.flat_when_doubled(demo, stage, recorded_rows) == {name}


def test_severity_is_scored_by_the_error_on_validation_images(monkeypatch, tmp_path):
    """By hand: scores 6 and 0 of which 4 and 1 are read, so that the MSE is (4 + 1) / 2."""
    table = pd.DataFrame(dict.fromkeys(ZONES, [1, 0])).reindex(columns=COLUMNS)
    cell = next(one for one in grid_module.grid_cells(profiles.demo()) if one.stage == SEVERITY)
    monkeypatch.setattr(grid_rows.stages, "inputs_of", lambda *asked: None)
    monkeypatch.setattr(grid_rows.makers, "scored_validation_images", lambda *asked: table)
    monkeypatch.setattr(SeverityTask, "load", lambda self, folder: folder)
    monkeypatch.setattr(
        SeverityTask, "predict", lambda self, model, rows: rows.assign(score=[4.0, 1.0])
    )
    assert grid_rows.validation_score(cell, Store(tmp_path)) == -2.5


@BOTH
def test_what_was_chosen_is_what_the_recorded_search_found(stage):
    """Rates: by trainings as long as the row. Steps: the first that twice do not better."""
    demo = profiles.demo()
    search, own = grid_module.search_of(demo, stage), grid_module.own_training(demo, stage).lr
    rows = [row for row in grid_leaves.recorded_trials() if row["stage"] == stage]
    rates, lengths = dict(search.chosen_rates), dict(search.chosen_steps)
    searched_rows = {cell.name for cell in grid_module.trial_cells(demo, stage)}
    varied = set(learning_rates.varied_rows(demo, stage))
    assert searched_rows <= {row["cell"] for row in rows} <= searched_rows | varied
    for name in searched_rows:
        (whole,) = grid_module.whole_trials(demo, stage, name, [rates.get(name, own)])
        kept = steps = grid_module.own_training(whole.profile, stage).steps
        found = {(row["rate"], row["steps"]): row["score"] for row in rows if row["cell"] == name}
        short = {rate: s for (rate, n), s in found.items() if n == search.steps and rate != own}
        finals = {rate: score for (rate, n), score in found.items() if n == steps}
        assert {own, max(short, key=short.get)} <= set(finals), f"{name}: the search has not ended"
        best = max(finals, key=finals.get)
        rate = best if grid_leaves.brings_more(stage, finals[own], finals[best]) else own
        assert rates.get(name, own) == rate, name
        while 2 * steps <= search.most_steps:
            assert (rate, 2 * steps) in found, f"{name}: the search has not ended"
            if not grid_leaves.brings_more(stage, found[rate, steps], found[rate, 2 * steps]):
                break
            steps *= 2
        assert lengths.get(name, kept) == steps, name


@pytest.mark.parametrize(("stage", "gains"), [(DIAGNOSIS, (0.005, 0.02)), (SEVERITY, (0.1, 0.2))])
def test_a_row_to_which_twice_the_steps_bring_nothing_has_converged(stage, gains):
    """Whatever its own curve says; of another profile or other steps the search knows nothing."""
    demo = with_choices(with_choices(profiles.demo()), stage=SEVERITY)
    (cell,) = grid_module.whole_trials(
        demo, stage, PROPOSED, [grid_module.own_training(demo, stage).lr]
    )
    steps = 2 * grid_module.own_training(demo, stage).steps
    own = {"key": cell.key, "score": -0.9}
    twice, better = (
        {"key": grid_module.with_training(cell, steps=steps).key, "score": own["score"] + gain}
        for gain in gains
    )
    assert grid_leaves.flat_when_doubled(demo, stage, [own, twice]) == {PROPOSED}
    elsewhere = {DIAGNOSIS: SEVERITY, SEVERITY: DIAGNOSIS}[stage]
    assert grid_leaves.flat_when_doubled(demo, elsewhere, [own, twice]) == set()
    other_rate = {"key": grid_module.with_training(cell, steps=steps, lr=0.1).key, "score": -0.9}
    for other in (better, other_rate):
        assert grid_leaves.flat_when_doubled(demo, stage, [own, other]) == set()
    longer = with_choices(demo, steps=((PROPOSED, steps),), stage=stage)
    assert grid_leaves.flat_when_doubled(longer, stage, [own, twice]) == set()


def test_the_search_decides_whether_a_recorded_row_has_converged(monkeypatch):
    demo = with_choices(profiles.demo())
    row = {"table": "Table 7", "cell": PROPOSED, "stage": DIAGNOSIS, "against": PROPOSED}
    row |= {"profile": "demo", "seed": 0, "key": grid_module.grid_cells(demo)[0].key}
    row |= {"metric": "auc", "value": 0.9, "low": 0.88, "high": 0.92, "converged": False}
    row |= dict.fromkeys(grid_rows.COSTS, 1)
    for flat, word in ((set(), comparisons.NOT_CONVERGED), ({PROPOSED}, comparisons.CONVERGED)):
        monkeypatch.setattr(
            grid_leaves, "flat_when_doubled", lambda profile, stage, flat=flat: flat
        )
        table = grid_leaves.recorded_rows(demo, [row])[DIAGNOSIS]
        assert table["training"].tolist() == [word]
