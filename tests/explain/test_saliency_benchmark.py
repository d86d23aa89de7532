"""Measures against examples worked out by hand, and the saliency benchmark on models whose truth
was planted.
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from cxrkit.config import profiles, sections
from cxrkit.data import manifests
from cxrkit.evaluation import metrics, resampling
from cxrkit.explain import comparison, criteria, measures, methods, saliency_benchmark
from cxrkit.models import factory
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json


def square(side, top, left, height, width):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def one_cell(grid, row, column):
    maps = torch.zeros(1, grid, grid)
    maps[0, row, column] = 1
    return maps


def test_cells_that_a_lesion_touches():
    found = measures.near(
        np.stack([square(16, 3, 4, 2, 4), square(16, 0, 0, 0, 0)]), (4, 4), tolerance=0.5
    )
    np.testing.assert_array_equal(
        found[0], [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    assert not found[1].any()


@pytest.mark.parametrize(
    "side, grid, tolerance",
    [(128, (8, 8), 0.5), (128, (8, 8), 1.0), (128, (4, 8), 1.5), (64, (4, 4), 1.0)],
)
def test_cells_near_a_lesion_pixel_by_pixel(side, grid, tolerance):
    lesion = np.random.default_rng(0).random((3, side, side)) < 3 / side**2 * 2
    h, w = grid
    y, x = (np.arange(n) * side / n + side / n / 2 for n in grid)  # middles, on pixel edges
    for b, found in enumerate(measures.near(lesion, grid, tolerance)):
        rows, columns = np.where(lesion[b])
        for i in range(h):
            for j in range(w):
                down, across = (
                    np.maximum(at - middle, middle - at - 1)
                    for at, middle in ((rows, y[i]), (columns, x[j]))
                )
                expected = ((down < tolerance * side / h) & (across < tolerance * side / w)).any()
                assert found[i, j] == expected
    assert measures.near(lesion, grid, tolerance).any()


def test_less_than_half_a_cell_is_refused():
    with pytest.raises(ValueError, match="at least 0.5"):
        measures.near(np.ones((1, 16, 16), bool), (4, 4), 0.2)


@pytest.mark.parametrize(
    "row, column, strict, lenient",
    [(0, 1, 1, 1), (1, 1, 1, 1), (1, 2, 0, 1), (2, 1, 0, 0), (3, 3, 0, 0)],
)
def test_pointing_game(row, column, strict, lenient):
    lesion = square(16, 3, 4, 2, 4)[None]
    assert measures.pointing(one_cell(4, row, column), lesion, tolerance=0.5).tolist() == [strict]
    assert measures.pointing(one_cell(4, row, column), lesion).tolist() == [lenient]


def test_a_constant_map_points_nowhere():
    assert measures.pointing(torch.full((1, 4, 4), 0.3), np.ones((1, 16, 16), bool)).tolist() == [0]


def test_the_strongest_cell_is_where_the_enlarged_map_has_its_maximum():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        maps = torch.rand(1, 6, 6, generator=generator)
        large = methods.upsample(maps, 54)[0]  # 9 px a cell: it has a middle
        y, x = divmod(int(large.argmax()), 54)
        assert (y // 9, x // 9) == divmod(int(maps.flatten().argmax()), 6)


def test_chance_of_the_pointing_game_is_what_noise_reaches():
    lesion = np.repeat(square(32, 5, 6, 9, 14)[None], 4000, axis=0)
    noise = torch.rand(4000, 8, 8, generator=torch.Generator().manual_seed(0))
    chance = measures.near(lesion[:1], (8, 8), 0.5).mean()
    assert chance == 12 / 64  # rows 5-13 reach into cells 1-3, columns 6-19 into cells 1-4
    assert abs(measures.pointing(noise, lesion, 0.5).mean() - chance) < 4 * np.sqrt(chance / 4000)


def test_mass_in_a_mask():
    maps = torch.stack([torch.ones(4, 4), -torch.ones(4, 4), torch.ones(4, 4)])
    maps[2, :2] = -5  # negative parts do not count
    mask = np.stack([square(16, 0, 0, 4, 8)] * 2 + [square(16, 8, 0, 8, 16)])
    found = measures.mass(maps, mask)
    assert found[0] == pytest.approx(32 / 256) and np.isnan(found[1]) and 0.8 < found[2] < 1
    rim = methods.upsample(maps[2:].clamp(min=0), 16)[0].numpy()
    assert found[2] == pytest.approx(rim[8:].sum() / rim.sum())


def test_rank_correlation_is_spearmans():
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand(5, 3, 4, generator=generator).round(decimals=1),
        torch.rand(5, 3, 4, generator=generator),
    )
    expected = [
        stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(measures.rank_correlation(a, b), expected)
    np.testing.assert_allclose(measures.rank_correlation(a, a.exp()), 1)
    assert np.isnan(measures.rank_correlation(torch.ones(1, 3, 4), b[:1])).all()


def test_deletion_and_insertion_of_a_sum_by_hand():
    """Four cells of one channel, 8 4 2 2, whose mean is 4; the score is their sum, and the map is
    right.
    """
    corpus = torch.tensor([[[[8.0, 4], [2, 2]]]])
    maps = torch.tensor([[[4.0, 3], [2, 1]]])
    deletion, insertion = measures.removal(
        lambda x: x.square().sum((1, 2, 3)), corpus, maps, steps=4
    )
    # 8 4 2 2, 4 4 2 2, 4 4 2 2, 4 4 4 2, 4 4 4 4
    assert deletion.tolist() == [[88.0, 40, 40, 52, 64]]
    # 4 4 4 4, 8 4 4 4, 8 4 4 4, 8 4 2 4, 8 4 2 2
    assert insertion.tolist() == [[64.0, 112, 112, 100, 88]]
    assert measures.area(deletion).tolist() == [52.0] and measures.area(insertion).tolist() == [
        100.0
    ]


def test_ties_are_broken_once_and_for_all():
    corpus, flat = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4)
    first, again = (measures.removal(lambda x: x.amax((1, 2, 3)), corpus, flat) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[0].shape == (2, 9)
    torch.testing.assert_close(first[0][:, 0], corpus.amax((1, 2, 3)))
    torch.testing.assert_close(first[1][:, -1], corpus.amax((1, 2, 3)))


@pytest.fixture(scope="module")
def planted():
    """A model that has learnt a planted pattern, a sample of it, and the score of class 1."""
    torch.manual_seed(0)
    model = CorpusViT(
        in_channels=8, grid=6, embed_dim=32, depth=2, num_heads=4, mlp_dim=64, num_classes=2
    )
    generator, optimizer = (
        torch.Generator().manual_seed(0),
        torch.optim.AdamW(model.parameters(), lr=3e-3),
    )

    def draw(n):
        corpus = torch.rand(n, 8, 36, generator=generator)
        label, cell = torch.arange(n) % 2, torch.randint(36, (n,), generator=generator)
        corpus[torch.arange(n)[label == 1], :, cell[label == 1]] = torch.tensor([2.0, 0] * 4)
        return corpus.unflatten(2, (6, 6)), label, cell

    for _ in range(150):
        corpus, label, _ = draw(64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(corpus)["logits"], label).backward()
        optimizer.step()
    corpus, label, cell = draw(120)
    corpus, cell = corpus[label == 1], cell[label == 1]
    lesion = np.stack([square(48, 8 * (c // 6) + 2, 8 * (c % 6) + 2, 4, 4) for c in cell.tolist()])
    lungs = np.stack([square(48, 0, 0, 48, 40)] * len(lesion))
    sample = saliency_benchmark.Sample(
        corpus,
        corpus + 0.01 * torch.randn(corpus.shape, generator=generator),
        lesion,
        lungs,
        np.arange(60) // 2,
    )
    return model.eval(), sample, lambda x: model(x)["logits"].softmax(1)[:, 1]


def test_cascade_shuffles_part_after_part_and_spares_the_model(planted):
    model, _, _ = planted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    for part, shuffled in measures.cascade(model):
        state = shuffled.state_dict()
        for name, value in state.items():
            torch.testing.assert_close(
                value.flatten().sort().values, before[name].flatten().sort().values, rtol=0, atol=0
            )
        seen.append((part, {name for name in state if not torch.equal(state[name], before[name])}))
    assert [part for part, _ in seen] == ["head", "block 1", "block 0", "projection"]
    assert all(a < b for (_, a), (_, b) in zip(seen, seen[1:], strict=False))
    assert {"head.weight"} <= seen[0][1] <= {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    assert "patch_embed.proj.weight" not in seen[2][1] and "patch_embed.proj.weight" in seen[3][1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_randomised_weights_expose_what_never_looked_at_them(planted):
    model, sample, _ = planted
    rows = saliency_benchmark.randomise_in_steps(
        model, sample.corpus[:20], 1, ["relevance", "random"]
    )
    assert (
        list(rows["part"].unique()) == ["head", "block 1", "block 0", "projection"]
        and len(rows) == 4 * 2 * 20
    )
    last = rows[rows["part"] == "projection"].groupby("method")["value"].mean()
    assert last["random"] == pytest.approx(1) and last["relevance"] < 0.5
    first = saliency_benchmark.randomise_in_steps(
        model, sample.corpus[:20], 1, ["relevance", "random"], parts=1
    )
    assert first.equals(rows[rows["part"] == "head"].reset_index(drop=True))


def test_the_results_on_a_planted_truth(planted):
    model, sample, score = planted
    rows = saliency_benchmark.benchmark(
        model, sample, 1, score, ["relevance", "integrated_gradients", "random"], costly_images=10
    )
    assert set(rows["criterion"]) == set(criteria.CRITERIA)
    saturation = rows[rows["criterion"] == "saturation"].groupby("method")["value"]
    assert (saturation.count() >= 10).all() and saturation.mean()["random"] == 0.5
    assert (rows[rows["criterion"] == "stability"].groupby("method").size() == 10).all()
    table = saliency_benchmark.summarise(rows, draws=200).set_index(["method", "criterion"])
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    value = table["value"]
    assert value["chance", "touching"] == pytest.approx(1 / 36) and value[
        "chance", "lesion"
    ] == pytest.approx(16 / 48**2)
    assert value["chance", "lungs"] == pytest.approx(40 / 48)
    good = value["integrated_gradients"]
    assert (
        good["pointing"] >= good["touching"] > 0.95
        and good["lesion"] > 5 * value["chance", "lesion"]
    )
    for name, (_, sign) in criteria.CRITERIA.items():
        if name != "seconds" and name not in ("lungs", "stability"):
            assert sign * (good[name] - value["random", name]) > 0, name
    # noise that never looks at the image is stable: no criterion decides alone
    assert value["random", "stability"] == pytest.approx(1)
    assert table.loc[("relevance", "touching"), "low"] > table.loc[("chance", "touching"), "high"]


def test_intervals_draw_patients_and_leave_out_what_is_undefined():
    rows = pd.DataFrame(
        {
            "method": "m",
            "criterion": "lesion",
            "image": range(6),
            "group": [0, 0, 0, 1, 1, 2],
            "value": [1.0, 1, 1, 0, 0, np.nan],
        }
    )
    found = saliency_benchmark.summarise(rows, draws=500).iloc[0]
    assert (found["value"], found["low"], found["high"], found["n"]) == (
        pytest.approx(0.6),
        0,
        1,
        5,
    )


def test_differences_are_taken_image_by_image():
    """b is 0.1 below a on every image, however much images differ; c is a in another order."""
    a = np.linspace(0, 1, 20)
    values = {"a": a, "b": a - 0.1, "c": a[::-1]}
    rows = pd.concat(
        [
            pd.DataFrame(
                {
                    "method": m,
                    "criterion": "lesion",
                    "image": range(20),
                    "group": np.arange(20) // 2,
                    "value": v,
                }
            )
            for m, v in values.items()
        ]
    )
    rows.loc[(rows["method"] == "b") & (rows["image"] == 3), "value"] = np.nan
    found = comparison.paired_differences(rows, "a", "lesion", draws=200)
    np.testing.assert_allclose(found.loc["b", ["difference", "low", "high"]].astype(float), 0.1)
    assert found["n"].tolist() == [19, 20] and abs(found.loc["c", "difference"]) < 1e-12
    assert found.loc["c", "low"] < -0.1 and found.loc["c", "high"] > 0.1


def measured(values, criterion, images=range(40)):
    """Rows of `benchmark`: values {method: (n,)}, two images a patient."""
    return pd.concat(
        pd.DataFrame({"method": method, "criterion": criterion, "image": images, "value": each})
        for method, each in values.items()
    ).assign(group=lambda table: table["image"] // 2)


def test_draws_of_the_mean_are_those_of_the_bootstrap():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(1, 2, 60), rng.integers(0, 20, 60)
    found = comparison.mean_of_draws(values, groups, 4000)
    slow = resampling.resample(np.mean, values, groups=groups, draws=4000, seed=1)
    np.testing.assert_allclose(
        np.percentile(found, (2.5, 50, 97.5)), np.percentile(slow, (2.5, 50, 97.5)), atol=0.06
    )
    paired = resampling.paired_bootstrap(
        lambda y, p: p.mean(), values, values, np.zeros(60), groups, draws=4000
    )
    found = comparison.mean_difference(values, groups, 4000)
    assert found["p_value"] == pytest.approx(paired["p_value"], abs=0.01)
    assert np.isnan(comparison.mean_of_draws(values[:3], np.zeros(3))).all()


def test_a_difference_that_two_intervals_hide_is_found():
    """b is 0.1 below a on every image. Intervals of the two overlap; their difference is clear."""
    hard = np.linspace(0, 0.8, 40)
    noise = np.random.default_rng(0).normal(0, 0.3, 40)
    rows = measured({"a": hard + 0.1, "b": hard, "c": hard + 0.1 + noise}, "lungs")
    summary = saliency_benchmark.summarise(rows, draws=200).set_index("method")
    assert summary.loc["a", "low"] < summary.loc["b", "high"]
    found = comparison.paired_differences(rows, "a", "lungs")
    assert found["conclusion"].to_dict() == {"b": "better", "c": "undecided"}
    assert comparison.paired_differences(rows, "b", "lungs").loc["a", "conclusion"] == "worse"
    expected = metrics.holm(found["p_value"].to_numpy())
    np.testing.assert_allclose(found["holm"], expected)
    # less deletion is better
    fewer = rows.assign(criterion="deletion")
    assert comparison.paired_differences(fewer, "a", "deletion").loc["b", "conclusion"] == "worse"
    near = measured({"a": hard, "b": hard + 0.01 * np.sin(np.arange(40))}, "lungs")
    assert comparison.paired_differences(near, "a", "lungs").loc["b", "conclusion"] == "equivalent"


def test_holm_counts_the_comparisons():
    """Noise against noise 40 times: single tests find a difference, and Holm finds none."""
    rng = np.random.default_rng(0)
    values = {f"m{i:02d}": rng.normal(0, 1, 40) for i in range(41)}
    found = comparison.paired_differences(measured(values, "lungs"), "m00", "lungs")
    assert (found["p_value"] < 0.05).any() and not (found["holm"] < 0.05).any()


def test_ranking_by_paired_differences():
    hard = np.linspace(0, 0.6, 40)
    noise = np.random.default_rng(0).normal(0, 0.2, 40)
    chance = np.full(40, hard.mean())
    a, c = hard + 0.2, hard + 0.19 - noise + noise.mean()
    lungs = measured({"a": a, "b": hard, "c": c, "chance": chance}, "lungs")
    few = {"a": 1 - a, "b": 1 - hard, "random": np.zeros(40), "empty": np.full(40, np.nan)}
    found = comparison.rank_methods(pd.concat([lungs, measured(few, "deletion")]))
    assert list(found.index) == list(criteria.CRITERIA)
    best, value, close, not_above = found.loc["lungs"]
    assert (best, close, not_above) == ("a", ["c"], ["b"]) and value == pytest.approx(a.mean())
    # less is better; noise and a method without maps take no part
    assert found.loc["deletion", ["best", "not clearly worse"]].tolist() == ["a", []]
    assert found.loc["deletion", "not above chance"] is None
    assert pd.isna(found.loc["insertion", "best"])  # nothing was measured
    # on one patient only: the best value counts for nothing where others have many
    lungs.loc[(lungs["method"] == "a") & (lungs["image"] > 0), "value"] = np.nan
    assert comparison.rank_methods(lungs).loc["lungs", "best"] == "c"


def shuffled(values):
    """Rows of `randomise_in_steps`: method -> a mean for each part."""
    rng = np.random.default_rng(0)
    rows = []
    for method, means in values.items():
        for part, mean in zip(("head", "block 1", "block 0", "projection"), means, strict=True):
            value = mean + rng.normal(0, 0.05, 20)
            line = {"part": part, "method": method, "image": range(20), "value": value}
            rows.append(pd.DataFrame({**line, "group": range(20)}))
    return pd.concat(rows)


def test_the_cascade_is_read_in_words():
    rows = shuffled(
        {
            "stubborn": (0.9, 0.9, 0.8, 0.8),
            "late": (0.9, 0.8, 0.5, 0.1),
            "early": (0.2, 0.3, 0.1, 0),
            "blank": (np.nan, np.nan, np.nan, np.nan),
        }
    )
    table = comparison.summarise_cascade(rows)
    assert (table["low"] <= table["value"]).sum() == 12
    states = table.pivot(index="method", columns="part", values="map").loc["late"]
    assert states.to_dict() == {
        "head": "kept",
        "block 1": "kept",
        "block 0": "undecided",
        "projection": "lost",
    }
    found = comparison.read_cascade(table)
    assert (
        "never lost" in found["stubborn"] and "does not depend on the weights" in found["stubborn"]
    )
    assert "down to block 1 (0.8" in found["late"] and "lost from projection on" in found["late"]
    assert "lost with the first part, head" in found["early"]
    assert "no map" in found["blank"]


def test_saturation_compares_maps_of_one_image():
    """Class 1 is sure on the first three images; its map is the largest, the smallest, a tie."""

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return {"logits": x.mean((2, 3))}

    sizes = torch.tensor([[1.0, 3, 2], [3, 1, 2], [2, 2, 2], [0, 9, 0]])

    def method(model, corpus, classes, **options):
        rows = corpus[:, 0, 0, 0].long()
        return sizes[rows][:, :, None, None] / 4 * torch.ones(2, 2) - 0.0

    corpus = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)

    def score(part):
        return torch.where(part[:, 0, 0, 0] < 3, 0.95, 0.5)

    found = saliency_benchmark.larger_maps(method, Logits(), corpus, 1, score)
    np.testing.assert_allclose(found, [0, 1, 0.5, np.nan])


def test_removal_alone_gives_the_rows_of_the_benchmark(planted):
    model, sample, score = planted
    names = ["attnlrp", "random"]
    expected = saliency_benchmark.benchmark(model, sample, 1, score, names, costly_images=2)
    found = saliency_benchmark.measure_removal(model, sample.corpus, 1, score, sample.groups, names)
    expected = expected[expected["criterion"].isin(["deletion", "insertion"])]
    columns = ["method", "criterion", "image", "value", "group"]
    pd.testing.assert_frame_equal(
        found[columns], expected[columns].reset_index(drop=True), check_dtype=False
    )
    ahead = comparison.paired_differences(found, "attnlrp", "insertion")
    assert ahead.loc["random", "conclusion"] == "better"


def test_typical_images_are_the_median_of_those_called_right():
    probabilities = np.array(
        [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6], [0.3, 0.7]]
    )
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    assert comparison.typical_images(probabilities, labels) == [2, 6]
    assert comparison.typical_images(probabilities[[0, 1, 4]], labels[[0, 1, 4]]) == [1, 2]
    # an untrained model calls none of class 1 right: the median of that class stands for it
    never = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert comparison.typical_images(never, np.array([0, 1, 1, 1])) == [0, 2]
    with pytest.raises(ValueError, match="no image is of class 1"):
        comparison.typical_images(probabilities[:4], labels[:4])


# From images to results


def hospital(folder, n=6, side=64):
    """A table of made-up films: a bright square is the lesion, and films 2 and 5 have one that
    fills the lungs.
    """
    rng = np.random.default_rng(0)
    names = {
        kind: [str(folder / f"{kind}{i}.png") for i in range(n)]
        for kind in ("image", "lungs", "lesion")
    }
    for i in range(n):
        lungs, lesion = (
            square(side, 8, 8, 48, 48),
            square(side, 12 + 4 * i, 20, 8, 8) if i % 3 != 2 else square(side, 8, 8, 48, 40),
        )
        image = rng.uniform(60, 120, (side, side)) + 100 * lesion
        for kind, picture in (("image", image), ("lungs", 255 * lungs), ("lesion", 255 * lesion)):
            cv2.imwrite(names[kind][i], np.uint8(picture))
    text = ["path,patient_id,view,site,diagnosis,lung_mask,lesion_mask"]
    text += [
        ",".join(
            [
                names["image"][i],
                f"p{i // 2},PA,s,{'normal' if i == 1 else 'covid19'}",
                names["lungs"][i],
                names["lesion"][i],
            ]
        )
        for i in range(n)
    ]
    (folder / "films.csv").write_text("\n".join(text) + "\n")
    return manifests.read_manifest("local", folder).assign(external=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The benchmark of an untrained model on made-up images, and what it was given."""
    folder = tmp_path_factory.mktemp("hospital")
    profile = replace(
        profiles.demo(),
        image_size=64,
        backbone=sections.DenseNet(4, (1, 1, 1, 1), 8, stem=1, stride=16),
        transformer=sections.ViT(embed_dim=16, depth=2, num_heads=2),
    )
    torch.manual_seed(0)
    model, store, table = (
        factory.build_classifier(profile).eval(),
        Store(folder / "store"),
        hospital(folder),
    )
    saliency_benchmark.make(
        folder, replace(profile, saliency_images=6), table, {"PA": model}, store
    )
    return table, profile, store, model, folder


def test_evaluated_are_covid_images_with_small_lesions(made):
    table, profile, store, _, _ = made
    images, lesion, lungs = saliency_benchmark.evaluation_set(table, profile, store)
    assert images["path"].tolist() == table["path"][[0, 3, 4]].tolist()
    assert lesion.sum((1, 2)).tolist() == [64] * 3 and (lungs.sum((1, 2)) == 48 * 48).all()
    assert (
        saliency_benchmark.evaluation_set(table, profile, store, max_images=2)[0]["path"].tolist()
        == table["path"][[0, 4]].tolist()
    )
    with pytest.raises(ValueError, match="lesion and lung masks"):
        saliency_benchmark.evaluation_set(table.assign(lesion_mask=None), profile, store)


def test_the_evaluated_images_are_left_so_that_nobody_looks_for_them_again(made):
    table, profile, store, _, folder = made
    evaluated = store.read_table(folder / "images.csv")
    assert evaluated["path"].tolist() == table["path"][[0, 3, 4]].tolist()
    again = saliency_benchmark.evaluation_set(evaluated, profile, store)
    assert again.images["path"].tolist() == evaluated["path"].tolist()


def test_the_noisier_image_is_the_image_with_a_little_noise(made):
    table, profile, store, model, _ = made
    given = saliency_benchmark.evaluation_set(table, profile, store)
    one, two = (saliency_benchmark.make_sample(model, *given, profile, store) for _ in range(2))
    assert torch.equal(one.noisy, two.noisy) and one.corpus.shape == (
        3,
        model.transformer.in_channels,
        4,
        4,
    )
    assert 0 < (one.noisy - one.corpus).abs().mean() < one.corpus.abs().mean()
    assert list(one.groups) == list(given[0]["group_id"])


def test_a_finished_benchmark(made):
    *_, folder = made
    rows, found = pd.read_csv(folder / "rows.csv"), read_json(folder / "metrics.json")
    assert found["images"] == {"PA": 3} and set(found) == {"images", "chance", *methods.METHODS}
    # an untrained model is sure of nothing
    assert set(found["relevance"]) == set(criteria.CRITERIA) - {"saturation"}
    mine = rows[(rows["method"] == "gradcam") & (rows["criterion"] == "deletion")]["value"]
    assert (
        found["gradcam"]["deletion"]["value"] == pytest.approx(mine.mean())
        and found["gradcam"]["deletion"]["n"] == 3
    )
    assert set(rows["site"]) == {"s"} and set(rows["view"]) == {"PA"}
    assert set(pd.read_csv(folder / "cascade.csv")["method"]) == set(methods.METHODS)


def test_all_boxes_at_hand_are_read(tmp_path):
    header = "file,finding,x,y,w,h\n"
    for name, pixels in (("nih_a", 80), ("nih_b", 40), ("nih_no_boxes", 40), ("nih_reader", 0)):
        (tmp_path / name).mkdir()
        if pixels:
            cv2.imwrite(str(tmp_path / name / "1.png"), np.eye(pixels, dtype=np.uint8) * 255)
    (tmp_path / "nih_a" / "bbox.csv").write_text(header + "1.png,Mass,0,0,40,40\n")
    readers = "file,reader,finding,x,y,w,h\n1.png,R,Opacity,40,40,40,40\n"
    (tmp_path / "nih_reader" / "nih_a_boxes.csv").write_text(readers)
    (tmp_path / "nih_b" / "bbox.csv").write_text(header + "1.png,Mass,0,0,20,40\n")
    paths, masks = saliency_benchmark.read_all_boxes(tmp_path, 20)
    assert [path[-11:] for path in paths] == ["nih_a/1.png", "nih_b/1.png"]
    both = square(20, 0, 0, 10, 10) | square(20, 10, 10, 10, 10)
    np.testing.assert_array_equal(masks, [both, square(20, 0, 0, 20, 10)])
    with pytest.raises(FileNotFoundError, match=r"needs a folder such as nih_cxr14 with bbox\.csv"):
        saliency_benchmark.read_all_boxes(tmp_path / "nih_b", 20)


def test_boxes_of_one_image_make_one_mask(tmp_path):
    for name in "ab":
        cv2.imwrite(
            str(tmp_path / f"{name}.png"),
            np.random.default_rng(0).integers(0, 255, (40, 80), np.uint8),
        )
    (tmp_path / "bbox.csv").write_text(
        "file,finding,x,y,w,h\na.png,Mass,0,0,20,10\nb.png,Mass,8,4,8,8\na.png,Effusion,60.2,19.9,20,20\n"
    )
    paths, masks = saliency_benchmark.read_boxes(tmp_path, 40)
    assert [path[-5:] for path in paths] == ["a.png", "b.png"] and masks.shape == (2, 40, 40)
    np.testing.assert_array_equal(masks[0], square(40, 0, 0, 10, 10) | square(40, 20, 30, 20, 10))
    assert masks[1].sum() == 8 * 4
