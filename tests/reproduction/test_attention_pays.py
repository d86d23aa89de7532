"""When attention pays: tokens, worlds, models, training and the file, with known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from cxrkit.config.profiles import demo
from cxrkit.data.preprocessing import preprocess
from cxrkit.evaluation import metrics, trained_seeds
from cxrkit.models import Backbone
from cxrkit.simulation import disease
from cxrkit.simulation.hospital import Hospital
from cxrkit.storage.atomic import read_json
from tests.conftest import CHECKOUT
from tests.scripts import load_script

sweep = load_script("benchmarks/attention_pays.py")

RECORDED = CHECKOUT / "docs" / "lab" / "attention_pays.json"
SHARE, DENSITY, FINE, COARSE = range(4)


# tokens


def test_tokens_of_an_even_lesion_are_its_share_and_its_depth():
    extent = np.zeros((256, 256), np.float32)
    extent[16:44, 16:30] = 0.5  # the left half of the first cell
    extent[72:100, 72:100] = disease.MIN_LESION / 2  # not seen
    lungs = np.ones((256, 256), bool)
    tokens = sweep.lesion_tokens(extent, lungs)
    assert tokens.shape == (len(sweep.CHANNELS), 8, 8)
    assert tokens[SHARE, 0, 0] == pytest.approx(0.5)
    assert tokens[DENSITY, 0, 0] == pytest.approx(0.25)
    assert not tokens[:, 1:].any() and not tokens[:, 0, 1:].any()
    assert not sweep.lesion_tokens(extent, ~lungs).any()


def test_roughness_tells_textures_of_one_depth_apart():
    """Stripes of one px and of eight have the share and the depth of an even lesion."""
    lungs = np.ones((256, 256), bool)
    rows = np.arange(256)[:, None] * np.ones(256)
    found = {}
    for period in (2, 16):
        stripes = np.where(rows % period < period / 2, 0.3, 0.7).astype(np.float32)
        found[period] = sweep.lesion_tokens(stripes, lungs)[:, 4, 4]
    even = sweep.lesion_tokens(np.full((256, 256), 0.5, np.float32), lungs)[:, 4, 4]
    np.testing.assert_allclose(even, [1, 0.5, 0, 0], atol=1e-6)
    for tokens in found.values():
        np.testing.assert_allclose(tokens[:2], [1, 0.5], atol=0.03)
    assert found[2][FINE] > 4 * found[16][FINE] and found[16][COARSE] > 4 * found[2][COARSE]


# worlds


def arrangement_of(hospital, i):
    """In place of tokens: the arrangement of the hospital that they were asked of."""
    return np.full((1, 8, 8), hospital.arrangement)


ARRANGEMENT_OF = sweep.TRUE._replace(channels=("arrangement",), tokens=arrangement_of)


@pytest.fixture(scope="module")
def train():
    return sweep.draw_internal(0, "train", 45, ARRANGEMENT_OF)


def test_patients_are_those_of_the_hospital_at_each_arrangement(train):
    """Between the ends a film is the arranged one with that probability, and stays so above it."""
    assert (train.own == 0).all() and (train.arranged == 1).all()
    shares = train.is_arranged.mean(0)
    np.testing.assert_allclose(shares, sweep.ARRANGEMENTS, atol=0.25)
    assert (np.diff(train.is_arranged.astype(int), axis=1) >= 0).all()
    for k, arrangement in enumerate(sweep.ARRANGEMENTS):
        x, y = train.at(arrangement, 40)
        np.testing.assert_array_equal(x[:, 0, 0, 0], train.is_arranged[:40, k])
        np.testing.assert_array_equal(y, train.covid[:40])
    assert 0.25 < train.covid.mean() < 0.75


def test_sites_take_turns_and_no_anatomy_is_in_two_splits(train):
    sites = [name.split("-")[0] for name in train.groups]
    assert sites[:6] == [*sweep.INTERNAL, *sweep.INTERNAL]
    val = sweep.draw_internal(0, "val", 15, ARRANGEMENT_OF)
    assert not set(train.groups) & set(val.groups)
    assert sweep.EXTERNAL not in sites


def test_chosen_patients_have_an_infection_and_a_pa_film():
    hospital = Hospital("alder", n=400)
    chosen = sweep.choose_patients(hospital, "val", 10)
    assert len(chosen) == 10
    for i in chosen:
        assert hospital.view_of(i) == "PA" and hospital.split_of(i) == "val"
        assert hospital.condition_of(i).diagnosis != "normal"
    with pytest.raises(ValueError, match="alder has"):
        sweep.choose_patients(hospital, "val", 400)


def test_tokens_of_the_corpus_are_what_the_backbone_makes_of_a_film(monkeypatch):
    """Each cell is the mean grey of the prepared film there: a backbone that can be read off."""

    class FakeRun:
        profile = demo()

        def __init__(self, *_):
            model = torch.nn.Module()
            model.features, model.out_channels = torch.nn.AvgPool2d(16), 1
            self.backbone = SimpleNamespace(model=model)

    monkeypatch.setattr(sweep, "Run", FakeRun)
    source, whole = sweep.sources_of_demo()
    assert source.channels == ("feature 0",) and source.images == (sweep.USUAL_IMAGES,)
    hospital = Hospital("alder", n=10, size=source.size)
    image = preprocess(hospital[3].image, 128, demo().choices)  # (128, 128)
    means = image.reshape(8, 16, 8, 16).mean((1, 3))
    np.testing.assert_allclose(source.tokens(hospital, 3)[0], means, atol=1e-5)
    np.testing.assert_array_equal(whole.tokens(hospital, 3), image[None])
    assert whole.images == source.images and not whole.scaled


@pytest.mark.parametrize("name", sweep.END_TO_END)
def test_models_of_films_begin_with_the_backbone_and_train_all_of_their_copy(name):
    torch.manual_seed(0)
    backbone = Backbone(4, (1, 1, 1, 1), 8, stem=1, stride=8)
    backbone.requires_grad_(False)
    make = sweep.end_to_end_models(backbone)[name]
    first, second = make(1), make(1)
    image = torch.rand(4, 1, 64, 64)
    for model in (first, second):
        model.eval()
        torch.testing.assert_close(model.features(image), backbone.eval().features(image))
        assert all(weight.requires_grad for weight in model.parameters())
    data = image, torch.tensor([0, 1, 0, 1])
    kept = [weight.clone() for weight in backbone.parameters()]
    sweep.fit(lambda _: first, data, data, image, 3e-3, 0, max_steps=sweep.EVAL_EVERY, scaled=False)
    assert first(image)["logits"].shape == (4, 2)
    changed = [
        (one != other).any() for one, other in zip(first.features.parameters(), kept, strict=False)
    ]
    assert all(changed)
    for one, other in zip(backbone.parameters(), kept, strict=True):
        torch.testing.assert_close(one, other)


def test_only_tokens_are_divided_by_their_deviation():
    """A model that hands its input on: a film comes as it is."""
    seen = {}

    def make(channels):
        model = torch.nn.Module()
        model.weight = torch.nn.Parameter(torch.zeros(2))
        model.forward = lambda x: (
            seen.setdefault(model.training, x) is None
            or {"logits": x.mean((1, 2, 3))[:, None] * model.weight}
        )
        return model

    x = 5 * torch.rand(8, 1, 4, 4)
    data = x, torch.arange(8) % 2
    for scaled in (True, False):
        seen.clear()
        sweep.fit(make, data, data, x, 1e-3, 0, max_steps=sweep.EVAL_EVERY, scaled=scaled)
        deviation = x.std() if scaled else 1
        torch.testing.assert_close(seen[False], x / deviation)


def test_tokens_come_from_a_file_the_second_time(train, tmp_path):
    path = tmp_path / "train.npz"
    sweep.keep(path, lambda: train)
    again = sweep.keep(path, lambda: pytest.fail("drawn again"))
    for one, other in zip(train, again, strict=True):
        np.testing.assert_array_equal(one, other)


# models


@pytest.mark.parametrize("name", sweep.MODELS)
def test_models_without_places_read_shuffled_tokens_alike(name):
    torch.manual_seed(0)
    model = sweep.MODELS[name](4).eval()
    x = torch.randn(3, 4, 8, 8)
    order = torch.randperm(64)
    shuffled = x.flatten(2)[..., order].unflatten(2, (8, 8))
    change = (model(x)["logits"] - model(shuffled)["logits"]).abs().max()
    has_places = name in (sweep.PROPOSED, "ViT with even attention", "MLP on tokens side by side")
    assert (change > 1e-3) == has_places


def two_corners(n, seed):
    """Patients with a mark in one of two corners: the places tell, and nothing else."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = np.zeros((n, 4, 8, 8), np.float32)
    x[y == 0, :, 0, 0] = x[y == 1, :, 7, 7] = 1
    x += 0.05 * rng.normal(size=x.shape).astype(np.float32)
    return torch.tensor(x), torch.tensor(y)


def test_training_finds_what_places_tell_and_ends_at_a_plateau(monkeypatch):
    train, val, external = (two_corners(80, seed) for seed in range(3))
    arguments = (train, val, external[0], 3e-3, 0)
    monkeypatch.setattr(sweep, "FIRST_STEPS", 100)
    side_by_side, linear = (
        sweep.MODELS[name] for name in ("MLP on tokens side by side", "linear on the mean token")
    )
    found = sweep.fit(side_by_side, *arguments)
    assert metrics.auc(external[1], found.scores) == 1
    assert found.end == "plateau" and found.steps < sweep.MAX_STEPS
    losses = {point["step"]: point["loss"] for point in found.curve}
    assert losses[found.best_step] == min(losses.values())
    again = sweep.fit(side_by_side, *arguments)
    np.testing.assert_array_equal(found.scores, again.scores)
    blind = sweep.fit(linear, *arguments, max_steps=300)
    assert abs(metrics.auc(external[1], blind.scores) - 0.5) < 0.2
    capped = sweep.fit(linear, *arguments, max_steps=100)
    assert (capped.end, capped.steps) == ("cap", 100)
    with pytest.raises(ValueError, match="hold no evaluation"):
        sweep.fit(linear, *arguments, max_steps=10)


# the file


def test_ranks_keep_the_auc_and_its_ties():
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 2, 300), np.round(rng.normal(size=300), 1)
    assert metrics.auc(y, sweep.decode(sweep.encode(scores))) == metrics.auc(y, scores)


def test_first_comes_the_search_then_one_seed_of_everything():
    listed = list(sweep.cells((0, 1)))
    assert len(listed) == len(set(listed))
    search, first, second = listed[:18], listed[18:72], listed[72:]
    assert all(cell.rate for cell in search) and not any(cell.rate for cell in first + second)
    assert {cell.seed for cell in first} == {0} and {cell.seed for cell in second} == {1}
    assert {(cell.arrangement, cell.images) for cell in first} == set(sweep.settings())
    assert len(sweep.ARRANGEMENTS) >= 5 and len(sweep.MODELS) >= 5
    assert [n for _, n in sweep.settings((720,))] == [720] * len(sweep.ARRANGEMENTS)


@pytest.fixture
def small(monkeypatch):
    """Two models, two settings and few patients; counts the trainings."""
    tokens = {}
    for seed, n in enumerate((60, 30, 40)):
        x, y = two_corners(n, seed)
        names = np.array([f"elm-body{k % 10}" for k in range(n)])
        arranged = np.ones((n, len(sweep.ARRANGEMENTS)), bool)
        tokens[seed] = sweep.Tokens(x.numpy(), x.numpy(), arranged, y.numpy(), names)
    monkeypatch.setattr(sweep, "RATES", (1e-3, 3e-3))
    monkeypatch.setattr(sweep, "settings", lambda *_: [(0.7, 720), (1.0, 720)])
    monkeypatch.setattr(sweep, "draw_site", lambda *_: tokens[2])
    monkeypatch.setattr(sweep, "draw_internal", lambda seed, split, *_: tokens[split == "val"])
    trainings = []

    def fit(make, train, val, external, rate, seed, scaled):
        """A model that reads the corner, or one that guesses; the lower rate is the better one."""
        trainings.append((make, rate, seed))
        corner = external[:, 0, 7, 7].numpy()
        rng = np.random.default_rng(seed)
        scores = corner if make == sweep.MODELS[sweep.PROPOSED] else rng.normal(size=len(external))
        return sweep.Trained(scores, [{"step": 50, "loss": rate, "auc": 0.5}], 50, 50, "plateau")

    monkeypatch.setattr(sweep, "fit", fit)
    return trainings


TWO = {name: sweep.MODELS[name] for name in (sweep.PROPOSED, "linear on the mean token")}
FEW = (sweep.TRUE._replace(models=TWO),)


def test_a_run_goes_on_where_it_was_and_ends_in_words(small, tmp_path, monkeypatch):
    out = tmp_path / "sweep.json"
    whole = sweep.measure

    def fails(cell, *others):
        if len(small) == 5:
            raise KeyboardInterrupt
        return whole(cell, *others)

    monkeypatch.setattr(sweep, "measure", fails)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(out, tmp_path, (0, 1), FEW)
    kept = read_json(out)["rows"]
    # four of the search, its two winners once more without a training, one of arrangement 1
    assert len(kept) == 7 and len(small) == 5
    monkeypatch.setattr(sweep, "measure", whole)
    found = sweep.run(out, tmp_path, (0, 1), FEW)
    assert read_json(out)["rows"][:7] == kept
    assert len(small) == 10  # four of the search, two of seed 0 at arrangement 1, four of seed 1
    assert {row["rate"] for row in found["rows"] if not row["search"]} == {1e-3}
    words = {(line["arrangement"], line["conclusion"]) for line in found["differences"]}
    assert words == {(0.7, "better"), (1.0, "better")}
    assert all(line["seeds"] == 2 for line in found["aucs"] + found["differences"])
    sweep.run(out, tmp_path, (0, 1), FEW)
    assert len(small) == 10


def test_models_of_films_are_set_against_each_other_alone(small, tmp_path):
    """They train their backbone too. Their tokens lie in a folder of their own."""
    models = dict(zip(sweep.END_TO_END, TWO.values(), strict=True))
    whole = sweep.TRUE._replace(name="films", models=models, scaled=False)
    found = sweep.run(tmp_path / "sweep.json", tmp_path, (0, 1), (*FEW, whole))
    pairs = {(line["model"], line["minus"]) for line in found["differences"]}
    assert pairs == {(sweep.PROPOSED, "linear on the mean token"), sweep.END_TO_END}
    assert {line["model"] for line in found["aucs"]} == {*TWO, *models}
    assert set(found["recipe"]["weights"]) == {*TWO, *models}
    assert (tmp_path / "films" / "external.npz").exists()


def test_what_has_no_time_left_is_not_run(small, tmp_path, capsys):
    found = sweep.run(tmp_path / "sweep.json", tmp_path, (0,), FEW, minutes=-1)
    assert found["rows"] == found["aucs"] == found["differences"] == small == []
    assert "8 trainings were not run" in capsys.readouterr().out


@pytest.fixture(scope="module")
def recorded():
    return read_json(RECORDED)


def test_recorded_aucs_are_those_of_the_recorded_ranks(recorded):
    covid = np.array([int(one) for one in recorded["external"]["covid"]])
    for row in recorded["rows"]:
        assert metrics.auc(covid, sweep.decode(row["ranks"])) == pytest.approx(row["auc"], abs=1e-5)
        assert row["steps"] == sweep.MAX_STEPS if row["end"] == "cap" else row["end"] == "plateau"
    for line in recorded["aucs"]:
        assert 0 <= line["low"] <= line["value"] <= line["high"] <= 1
    searched = [row for row in recorded["rows"] if row["search"]]
    assert len(searched) == len(sweep.MODELS) * len(sweep.RATES)


def test_recorded_words_follow_from_the_rows(recorded, monkeypatch):
    monkeypatch.setattr(sweep, "settings", lambda *_: [(sweep.ARRANGEMENT, sweep.USUAL_IMAGES)])
    aucs, differences = sweep.results(recorded)
    assert len(aucs) == len(sweep.MODELS) and len(differences) == len(sweep.MODELS) - 1
    for line in aucs:
        assert line in recorded["aucs"]
    for line in differences:
        assert line in recorded["differences"]
        assert line["conclusion"] in trained_seeds.CONCLUSIONS


def test_the_figure_holds_the_recorded_values_and_says_synthetic(recorded):
    figure = sweep.figure_of(recorded["aucs"])
    shown = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "synthetic" in shown and all(name in shown for name in sweep.MODELS)
    left, right = figure.axes
    for axis, part in ((left, "images"), (right, "arrangement")):
        usual = {"images": sweep.USUAL_IMAGES, "arrangement": sweep.ARRANGEMENT}[part]
        drawn = np.concatenate([line.get_ydata() for line in axis.lines[:-1]])
        values = [line["value"] for line in recorded["aucs"] if line[part] == usual]
        np.testing.assert_allclose(sorted(drawn), sorted(values))
