"""The court's measures against cases worked out by hand, and verdicts on models whose truth was planted."""

import numpy as np
import pytest
import torch
from scipy import stats

from cxrkit import court, saliency
from cxrkit.transformer import CorpusViT


def square(side, top, left, height, width):
    mask = np.zeros((side, side), bool)
    mask[top:top + height, left:left + width] = True
    return mask


def one_cell(grid, row, column):
    maps = torch.zeros(1, grid, grid)
    maps[0, row, column] = 1
    return maps


def test_cells_that_a_lesion_touches():
    found = court.touched(np.stack([square(16, 3, 4, 2, 4), square(16, 0, 0, 0, 0)]), (4, 4))
    np.testing.assert_array_equal(found[0], [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert not found[1].any()


@pytest.mark.parametrize("row, column, hit", [(0, 1, 1), (1, 1, 1), (1, 2, 0), (3, 3, 0)])
def test_pointing_game(row, column, hit):
    lesion = square(16, 3, 4, 2, 4)[None]
    assert court.pointing(one_cell(4, row, column), lesion).tolist() == [hit]


def test_a_constant_map_points_nowhere():
    assert court.pointing(torch.full((1, 4, 4), 0.3), np.ones((1, 16, 16), bool)).tolist() == [0]


def test_the_strongest_cell_is_where_the_enlarged_map_has_its_maximum():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        maps = torch.rand(1, 6, 6, generator=generator)
        large = saliency.upsample(maps, 54)[0]  # 9 px a cell: it has a middle
        y, x = divmod(int(large.argmax()), 54)
        assert (y // 9, x // 9) == divmod(int(maps.flatten().argmax()), 6)


def test_chance_of_the_pointing_game_is_what_noise_reaches():
    lesion = np.repeat(square(32, 5, 6, 9, 14)[None], 4000, axis=0)
    noise = torch.rand(4000, 8, 8, generator=torch.Generator().manual_seed(0))
    chance = court.touched(lesion[:1], (8, 8)).mean()
    assert chance == 12 / 64  # rows 5-13 reach into cells 1-3, columns 6-19 into cells 1-4
    assert abs(court.pointing(noise, lesion).mean() - chance) < 4 * np.sqrt(chance / 4000)


def test_mass_in_a_mask():
    maps = torch.stack([torch.ones(4, 4), -torch.ones(4, 4), torch.ones(4, 4)])
    maps[2, :2] = -5  # negative parts do not count
    mask = np.stack([square(16, 0, 0, 4, 8)] * 2 + [square(16, 8, 0, 8, 16)])
    found = court.mass(maps, mask)
    assert found[0] == pytest.approx(32 / 256) and np.isnan(found[1]) and 0.8 < found[2] < 1
    rim = saliency.upsample(maps[2:].clamp(min=0), 16)[0].numpy()
    assert found[2] == pytest.approx(rim[8:].sum() / rim.sum())


def test_rank_correlation_is_spearmans():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(5, 3, 4, generator=generator).round(decimals=1), torch.rand(5, 3, 4, generator=generator)
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(court.rank_correlation(a, b), expected)
    np.testing.assert_allclose(court.rank_correlation(a, a.exp()), 1)
    assert np.isnan(court.rank_correlation(torch.ones(1, 3, 4), b[:1])).all()


def test_deletion_and_insertion_of_a_sum_by_hand():
    """Four cells of one channel, 8 4 2 2, whose mean is 4; the score is their sum, and the map is right."""
    corpus = torch.tensor([[[[8.0, 4], [2, 2]]]])
    maps = torch.tensor([[[4.0, 3], [2, 1]]])
    deletion, insertion = court.removal(lambda x: x.square().sum((1, 2, 3)), corpus, maps, steps=4)
    assert deletion.tolist() == [[88.0, 40, 40, 52, 64]]   # 8 4 2 2, 4 4 2 2, 4 4 2 2, 4 4 4 2, 4 4 4 4
    assert insertion.tolist() == [[64.0, 112, 112, 100, 88]]  # 4 4 4 4, 8 4 4 4, 8 4 4 4, 8 4 2 4, 8 4 2 2
    assert court.area(deletion).tolist() == [52.0] and court.area(insertion).tolist() == [100.0]


def test_ties_are_broken_once_and_for_all():
    corpus, flat = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4)
    first, again = (court.removal(lambda x: x.amax((1, 2, 3)), corpus, flat) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[0].shape == (2, 9)
    torch.testing.assert_close(first[0][:, 0], corpus.amax((1, 2, 3)))
    torch.testing.assert_close(first[1][:, -1], corpus.amax((1, 2, 3)))


@pytest.fixture(scope="module")
def ward():
    """A model that has learnt a planted pattern, films of it, and the score of class 1."""
    torch.manual_seed(0)
    model = CorpusViT(in_channels=8, grid=6, embed_dim=32, depth=2, num_heads=4, mlp_dim=64, num_classes=2)
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(model.parameters(), lr=3e-3)

    def films(n):
        corpus = torch.rand(n, 8, 36, generator=generator)
        label, cell = torch.arange(n) % 2, torch.randint(36, (n,), generator=generator)
        corpus[torch.arange(n)[label == 1], :, cell[label == 1]] = torch.tensor([2.0, 0] * 4)
        return corpus.unflatten(2, (6, 6)), label, cell

    for _ in range(150):
        corpus, label, _ = films(64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(corpus)["logits"], label).backward()
        optimizer.step()
    corpus, label, cell = films(120)
    corpus, cell = corpus[label == 1], cell[label == 1]
    lesion = np.stack([square(48, 8 * (c // 6) + 2, 8 * (c % 6) + 2, 4, 4) for c in cell.tolist()])
    lungs = np.stack([square(48, 0, 0, 48, 40)] * len(lesion))
    case = court.Case(corpus, corpus + 0.01 * torch.randn(corpus.shape, generator=generator), lesion, lungs, np.arange(60) // 2)
    return model.eval(), case, lambda x: model(x)["logits"].softmax(1)[:, 1]


def test_cascade_shuffles_part_after_part_and_spares_the_model(ward):
    model, _, _ = ward
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    for part, shuffled in court.cascade(model):
        state = shuffled.state_dict()
        for name, value in state.items():
            torch.testing.assert_close(value.flatten().sort().values, before[name].flatten().sort().values, rtol=0, atol=0)
        seen.append((part, {name for name in state if not torch.equal(state[name], before[name])}))
    assert [part for part, _ in seen] == ["head", "block 1", "block 0", "projection"]
    assert all(a < b for (_, a), (_, b) in zip(seen, seen[1:], strict=False))
    assert {"head.weight"} <= seen[0][1] <= {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    assert "patch_embed.proj.weight" not in seen[2][1] and "patch_embed.proj.weight" in seen[3][1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_randomised_weights_expose_what_never_looked_at_them(ward):
    model, case, _ = ward
    rows = court.randomised(model, case.corpus[:20], 1, ["relevance", "random"])
    assert list(rows["part"].unique()) == ["head", "block 1", "block 0", "projection"] and len(rows) == 4 * 2 * 20
    last = rows[rows["part"] == "projection"].groupby("method")["value"].mean()
    assert last["random"] == pytest.approx(1) and last["relevance"] < 0.5


def test_the_verdict_on_a_planted_truth(ward):
    model, case, score = ward
    rows = court.judge(model, case, 1, score, ["relevance", "integrated_gradients", "random"], few=10)
    assert set(rows["criterion"]) == set(court.CRITERIA)
    assert (rows[rows["criterion"] == "stability"].groupby("method").size() == 10).all()
    table = court.verdict(rows, draws=200).set_index(["method", "criterion"])
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    value = table["value"]
    assert value["chance", "pointing"] == pytest.approx(1 / 36) and value["chance", "lesion"] == pytest.approx(16 / 48**2)
    assert value["chance", "lungs"] == pytest.approx(40 / 48)
    good = value["integrated_gradients"]
    assert good["pointing"] > 0.95 and good["lesion"] > 5 * value["chance", "lesion"]
    for name, (_, sign) in court.CRITERIA.items():
        if name != "seconds" and name not in ("lungs", "stability"):
            assert sign * (good[name] - value["random", name]) > 0, name
    assert value["random", "stability"] == pytest.approx(1)  # noise that never looks at the film is stable: no criterion alone convicts
    assert table.loc[("relevance", "pointing"), "low"] > table.loc[("chance", "pointing"), "high"]


def test_intervals_draw_patients_and_leave_out_what_is_undefined():
    rows = court.pd.DataFrame({"method": "m", "criterion": "lesion", "film": range(6), "group": [0, 0, 0, 1, 1, 2],
                               "value": [1.0, 1, 1, 0, 0, np.nan]})
    found = court.verdict(rows, draws=500).iloc[0]
    assert (found["value"], found["low"], found["high"], found["n"]) == (pytest.approx(0.6), 0, 1, 5)
