"""PCAM against slow loops and closed forms; sizes and strides of the backbone."""

import math

import pytest
import torch
import torch.nn.functional as F

from cxrkit.models.densenet import (
    POOLS,
    Backbone,
    pcam_pool,
    pcam_weights,
    receptive_field,
    weighted_maps,
)

SLIM = {"growth_rate": 4, "block_config": (1, 2, 2, 1), "num_init_features": 8, "num_findings": 3}


@pytest.fixture
def maps():
    """Features (2, 5, 4, 3) and logit map (2, 3, 4, 3)."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 4, 3, generator=g, dtype=torch.float64)
    logit_map = torch.randn(2, 3, 4, 3, generator=g, dtype=torch.float64)
    return features, logit_map


def slow_pcam(features, logit_map):
    """Ye et al. 2020 by the letter, one number at a time."""
    (B, C, h, w), K = features.shape, logit_map.shape[1]
    cells = [(i, j) for i in range(h) for j in range(w)]
    out = torch.zeros(B, K, C, dtype=features.dtype)
    for b in range(B):
        for k in range(K):
            probability = {(i, j): 1 / (1 + math.exp(-logit_map[b, k, i, j])) for i, j in cells}
            total = sum(probability.values())
            for i, j in cells:
                out[b, k] += features[b, :, i, j] * probability[i, j] / total
    return out


def slow_pool(name, values):
    """One channel's cells, a list of floats, pooled by hand."""
    return {
        "average": sum(values) / len(values),
        "max": max(values),
        "lse": math.log(sum(math.exp(10 * v) for v in values) / len(values)) / 10,
        "exp": sum(v * math.exp(v) for v in values) / sum(math.exp(v) for v in values),
    }[name]


def test_pcam_is_the_literal_formula(maps):
    torch.testing.assert_close(pcam_pool(*maps), slow_pcam(*maps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["average", "max", "lse", "exp"])
def test_other_pools_are_their_formulas_and_the_same_for_every_finding(maps, name):
    features, logit_map = maps
    pooled = POOLS[name](features, logit_map)
    assert pooled.shape == (2, 3, 5)
    slow = torch.zeros(2, 5)
    for b in range(2):
        for c in range(5):
            slow[b, c] = slow_pool(name, features[b, c].flatten().tolist())
    for k in range(3):
        torch.testing.assert_close(pooled[:, k].float(), slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [-200.0, -3.0, 0.0, 40.0])
def test_equal_logits_make_pcam_the_average(maps, value):
    features, logit_map = maps
    pooled = pcam_pool(features, torch.full_like(logit_map, value))
    torch.testing.assert_close(pooled, POOLS["average"](*maps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("low, high", [(-1e4, -1e4), (1e4, 1e4), (-1e4, 1e4), (-6e4, -5e4)])
def test_pcam_and_its_gradients_are_finite_at_any_logit(maps, dtype, low, high):
    features = maps[0].to(dtype).requires_grad_()
    logit_map = torch.linspace(low, high, 2 * 3 * 4 * 3).reshape(2, 3, 4, 3)
    logit_map = logit_map.to(dtype).requires_grad_()
    weights = pcam_weights(logit_map)
    pooled = pcam_pool(features, logit_map)
    pooled.sum().backward()
    for tensor in (weights, pooled, features.grad, logit_map.grad):
        assert torch.isfinite(tensor).all()
    torch.testing.assert_close(weights.float().sum((2, 3)), torch.ones(2, 3), rtol=2e-2, atol=0)


def test_the_quotient_it_replaces_is_not_finite():
    logit_map = torch.full((1, 1, 2, 2), -110.0)
    assert torch.isnan(logit_map.sigmoid() / logit_map.sigmoid().sum()).all()


def test_gradients_flow_through_the_attention(maps):
    features, logit_map = (t[:1, :2].clone().requires_grad_() for t in maps)
    assert torch.autograd.gradcheck(pcam_pool, (features, logit_map))
    pcam_pool(features, logit_map)[..., 0].sum().backward()
    assert (logit_map.grad.abs() > 1e-6).all()


@pytest.mark.parametrize("pool", ["pcam", "average"])
def test_logits_are_the_pooled_logit_map(pool):
    """Pooling the features or the logits is the same.

    The convolution is linear and the weights sum to 1.
    """
    torch.manual_seed(0)
    model = Backbone(**SLIM, pool=pool).double().eval()
    output = model(torch.randn(2, 1, 96, 64, dtype=torch.float64))
    weight = output["weight_map"]
    if pool == "average":
        weight = torch.full_like(weight, 1 / 6)
    wanted = (weight * output["logit_map"]).sum((2, 3))
    torch.testing.assert_close(output["logits"], wanted, rtol=1e-10, atol=1e-10)
    assert {name: tuple(t.shape) for name, t in output.items()} == {
        "logits": (2, 3),
        "features": (2, 11, 3, 2),
        "logit_map": (2, 3, 3, 2),
        "weight_map": (2, 3, 3, 2),
    }


@pytest.mark.parametrize("pool", list(POOLS))
def test_every_pool_reaches_every_weight(pool):
    torch.manual_seed(0)
    model = Backbone(**SLIM, pool=pool, stride=8)
    model(torch.randn(4, 1, 64, 64))["logits"].square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0, name


def test_paper_size():
    with torch.device("meta"):
        model, image = Backbone(), torch.zeros(1, 1, 512, 512)
    assert sum(p.numel() for p in model.features.parameters()) == 6_953_856
    assert sum(p.numel() for p in model.parameters()) == 6_953_856 + 10 * 1024 + 10
    assert model(image)["features"].shape == (1, 1024, 16, 16)
    assert model.out_channels == 1024


@pytest.mark.parametrize("stride, side", [(32, 4), (16, 8), (8, 16)])
def test_stride_changes_the_grid_and_no_weight(stride, side):
    def shapes(model):
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    model = Backbone(**SLIM, stride=stride)
    assert model(torch.zeros(1, 1, 128, 128))["features"].shape[-2:] == (side, side)
    assert shapes(model) == shapes(Backbone(**SLIM))


def test_weighted_maps_are_feature_times_weight():
    torch.manual_seed(0)
    output = Backbone(**SLIM).eval()(torch.randn(2, 1, 64, 96))
    maps = weighted_maps(output, (2, 0))  # (B, n*C, h, w)
    assert maps.shape == (2, 2 * 11, 2, 3)
    for b, (n, k), c, i, j in [(0, (0, 2), 4, 1, 2), (1, (1, 0), 9, 0, 0)]:
        want = 6 * output["features"][b, c, i, j] * output["weight_map"][b, k, i, j]
        torch.testing.assert_close(maps[b, n * 11 + c, i, j], want)
    uniform = output | {"weight_map": torch.full_like(output["weight_map"], 1 / 6)}
    torch.testing.assert_close(weighted_maps(uniform, [1]), output["features"])


@pytest.mark.parametrize(
    "bad, names",
    [
        ({"pool": "gap"}, "pcam.*average.*max.*lse.*exp"),
        ({"stem": 2}, "1, 3"),
        ({"stride": 4}, "32, 16, 8"),
    ],
)
def test_unknown_values_are_refused_with_the_known_ones(bad, names):
    with pytest.raises(ValueError, match=f"unknown {list(bad)[0]}.*{names}"):
        Backbone(**SLIM | bad)


@pytest.mark.slow
def test_two_true_size_steps():
    torch.manual_seed(0)
    model = Backbone().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    image, target = torch.randn(8, 1, 512, 512), torch.randint(0, 2, (8, 10)).float()
    before = model.head.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(image)["logits"], target).backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not torch.equal(before, model.head.weight)


def test_a_kernel_of_1_ends_the_growth_of_the_receptive_field():
    sizes = {"growth_rate": 4, "block_config": (1, 2, 4, 3), "num_init_features": 8, "stem": 1}
    widths = []
    for kernels in ((3, 3, 3, 3), (3, 3, 1, 1)):
        backbone = Backbone(**sizes, stride=16, kernels=kernels)
        seen = receptive_field(backbone.features, 320) > 0
        widths.append(int(seen.any(0).sum()))
        assert int(seen.any(1).sum()) == widths[-1]
    # layer by layer: stem and pooling 11, a layer at stride 4 +8, pooling +4, two at stride 8 +32,
    # pooling +8; then four and three at stride 16, 32 each
    assert widths == [11 + 8 + 4 + 32 + 8 + 7 * 32, 11 + 8 + 4 + 32 + 8]


def test_a_network_whose_units_are_off_has_no_receptive_field():
    features = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    torch.nn.init.constant_(features[0].bias, -1e3)
    with pytest.raises(ValueError, match="all its units are off"):
        receptive_field(features, 16)
