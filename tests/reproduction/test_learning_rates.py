"""The search for rates and steps: the same for every model, its rounds, and what it chose."""

from dataclasses import replace

import pytest

from cxrkit.config import profiles
from cxrkit.reproduction import comparisons, grid_leaves, grid_rows
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction.grid import DIAGNOSIS, FROM_FINDINGS, PROPOSED, SEVERITY
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store
from tests.scripts import load_script

learning_rates = load_script("tools/learning_rates.py")


def with_choices(profile, rates=(), steps=()):
    return replace(profile, grid=replace(profile.grid, chosen_rates=rates, chosen_steps=steps))


def test_every_model_of_table_7_has_the_same_search():
    demo = profiles.demo()
    trials = {}
    for cell in grid_module.trial_cells(demo):
        training = cell.profile.transformer_training
        assert training.steps == demo.grid.trial_steps
        trials.setdefault(cell.name, []).append(training.lr)
    first = {PROPOSED, FROM_FINDINGS, *grid_module.baselines(demo)}
    assert set(trials) == first and len(demo.grid.trial_rates) == 4
    assert all(rates == list(demo.grid.trial_rates) for rates in trials.values())
    assert demo.transformer_training.lr in demo.grid.trial_rates


def test_the_second_round_trains_as_long_as_the_row_before_steps_are_chosen():
    """So that the cell of a chosen rate is the cell of Table 7, and nothing trains twice."""
    demo = with_choices(profiles.demo(), profiles.demo().grid.chosen_rates)
    rows = {cell.name: cell for cell in grid_module.grid_cells(demo) if cell.table == "Table 7"}
    longer = with_choices(demo, demo.grid.chosen_rates, tuple((name, 17) for name in rows))
    for name in dict.fromkeys(cell.name for cell in grid_module.trial_cells(demo)):
        own = rows[name].profile.transformer_training.lr
        same, other = grid_module.whole_trials(longer, name, (own, 0.02))
        assert same.key == rows[name].key != other.key
        assert other.profile.transformer_training.lr == 0.02


@pytest.mark.parametrize(
    ("choices", "field"),
    [({"rates": (("ViT", 0.01),)}, "lr"), ({"steps": (("ViT", 77),)}, "steps")],
)
def test_a_choice_reaches_the_rows_of_that_model_and_no_other(choices, field):
    """The row of SimCLR is compared with the row of the same name: it has its choice too."""
    plain = with_choices(profiles.demo())
    chosen = with_choices(plain, **choices)
    ((_, value),) = next(iter(choices.values()))
    before = {(cell.name, cell.stage): cell for cell in grid_module.grid_cells(plain)}
    changed = set()
    for cell in grid_module.grid_cells(chosen):
        other = before[cell.name, cell.stage]
        if cell.key != other.key:
            changed.add((cell.name, cell.stage))
            new, old = cell.profile.transformer_training, other.profile.transformer_training
            assert (
                getattr(new, field) == value and replace(new, **{field: getattr(old, field)}) == old
            )
    # a map of severity begins with that classifier
    assert changed == {("ViT", DIAGNOSIS), ("SimCLR: ViT", DIAGNOSIS), ("ViT", SEVERITY)}


def searched(monkeypatch, tmp_path, score):
    """A whole search whose trainings have the scores of `score(cell)`: training -> its score."""
    search, ran = learning_rates.Search(Store(tmp_path), 0), {}

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


def test_what_was_chosen_is_what_the_recorded_search_found():
    """Rates: of the trainings as long as the row. Steps: the first that twice do not better."""
    demo = profiles.demo()
    rows = recorded.read_result("learning_rates")["rows"]
    own = demo.transformer_training.lr
    rates, lengths = dict(demo.grid.chosen_rates), dict(demo.grid.chosen_steps)
    for name in {row["cell"] for row in rows}:
        (whole,) = grid_module.whole_trials(demo, name, [rates.get(name, own)])
        steps = whole.profile.transformer_training.steps
        found = {(row["rate"], row["steps"]): row["score"] for row in rows if row["cell"] == name}
        short = {rate: score for (rate, n), score in found.items() if n == demo.grid.trial_steps}
        finals = {rate: score for (rate, n), score in found.items() if n == steps}
        assert {own, max(short, key=short.get)} <= set(finals), f"{name}: the search has not ended"
        rate = max(finals, key=finals.get)
        assert rates.get(name, own) == rate, name
        while 2 * steps <= demo.grid.most_steps:
            assert (rate, 2 * steps) in found, f"{name}: the search has not ended"
            if found[rate, 2 * steps] - found[rate, steps] <= grid_rows.FLAT:
                break
            steps *= 2
        kept = whole.profile.transformer_training.steps
        assert lengths.get(name, kept) == steps, name


def test_a_row_to_which_twice_the_steps_bring_nothing_has_converged():
    """Whatever its own curve says; of another profile or other steps the search knows nothing."""
    demo = with_choices(profiles.demo())
    own = {"profile": "demo", "cell": PROPOSED, "rate": 5e-4, "steps": 1500, "score": 0.90}
    twice = own | {"steps": 3000, "score": 0.905}
    assert grid_leaves.flat_when_doubled(demo, [own, twice]) == {PROPOSED}
    better = twice | {"score": 0.92}
    for other in (better, twice | {"rate": 1e-3}, twice | {"profile": "mini"}):
        assert grid_leaves.flat_when_doubled(demo, [own, other]) == set()
    longer = with_choices(demo, steps=((PROPOSED, 3000),))
    assert grid_leaves.flat_when_doubled(longer, [own, twice]) == set()


def test_the_search_decides_whether_a_recorded_row_has_converged(monkeypatch):
    demo = with_choices(profiles.demo())
    row = {"table": "Table 7", "cell": PROPOSED, "stage": DIAGNOSIS, "against": PROPOSED}
    row |= {"profile": "demo", "seed": 0, "key": grid_module.grid_cells(demo)[0].key}
    row |= {"metric": "auc", "value": 0.9, "low": 0.88, "high": 0.92, "converged": False}
    row |= dict.fromkeys(grid_rows.COSTS, 1)
    for flat, word in ((set(), comparisons.NOT_CONVERGED), ({PROPOSED}, comparisons.CONVERGED)):
        monkeypatch.setattr(grid_leaves, "flat_when_doubled", lambda profile, flat=flat: flat)
        table = grid_leaves.recorded_rows(demo, [row])[DIAGNOSIS]
        assert table["training"].tolist() == [word]
