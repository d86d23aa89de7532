"""PCAM against slow loops and closed forms; the features against torchvision's own DenseNet-121."""

import math

import pytest
import torch
import torch.nn.functional as F

from cxrkit.models import pretrained
from cxrkit.models.densenet import POOLS, Backbone, pcam_pool, pcam_weights, weighted_maps
from cxrkit.models.pretrained import convert_stem, load_features

SLIM = {"growth_rate": 4, "block_config": (1, 2, 2, 1), "num_init_features": 8, "num_findings": 3}


@pytest.fixture
def maps():
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 4, 3, generator=g, dtype=torch.float64), torch.randn(
        2, 3, 4, 3, generator=g, dtype=torch.float64
    )


def slow_pcam(features, logit_map):
    """Ye et al. 2020 read literally, one number at a time."""
    (B, C, h, w), K = features.shape, logit_map.shape[1]
    out = torch.zeros(B, K, C, dtype=features.dtype)
    for b in range(B):
        for k in range(K):
            total = sum(
                1 / (1 + math.exp(-logit_map[b, k, i, j])) for i in range(h) for j in range(w)
            )
            for i in range(h):
                for j in range(w):
                    out[b, k] += (
                        features[b, :, i, j] / (1 + math.exp(-logit_map[b, k, i, j])) / total
                    )
    return out


def slow_rival(name, values):
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
def test_rivals_are_their_formulas_and_the_same_for_every_finding(maps, name):
    features, logit_map = maps
    pooled = POOLS[name](features, logit_map)
    assert pooled.shape == (2, 3, 5)
    slow = torch.tensor(
        [[slow_rival(name, features[b, c].flatten().tolist()) for c in range(5)] for b in range(2)]
    )
    for k in range(3):
        torch.testing.assert_close(pooled[:, k].float(), slow.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [-200.0, -3.0, 0.0, 40.0])
def test_equal_logits_make_pcam_the_average(maps, value):
    logit_map = torch.full_like(maps[1], value)
    torch.testing.assert_close(
        pcam_pool(maps[0], logit_map), POOLS["average"](*maps), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("low, high", [(-1e4, -1e4), (1e4, 1e4), (-1e4, 1e4), (-6e4, -5e4)])
def test_pcam_and_its_gradients_are_finite_at_any_logit(maps, dtype, low, high):
    features = maps[0].to(dtype).requires_grad_()
    logit_map = (
        torch.linspace(low, high, 2 * 3 * 4 * 3).reshape(2, 3, 4, 3).to(dtype).requires_grad_()
    )
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
    """The convolution is linear and the weights sum to 1, so pooling the features or the logits is
    the same.
    """
    torch.manual_seed(0)
    output = (
        Backbone(**SLIM, pool=pool).double().eval()(torch.randn(2, 1, 96, 64, dtype=torch.float64))
    )
    weight = (
        output["weight_map"] if pool == "pcam" else torch.full_like(output["weight_map"], 1 / 6)
    )
    torch.testing.assert_close(
        output["logits"], (weight * output["logit_map"]).sum((2, 3)), rtol=1e-10, atol=1e-10
    )
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
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0
        for p in model.parameters()
    )


def test_paper_size():
    with torch.device("meta"):
        model, image = Backbone(), torch.zeros(1, 1, 512, 512)
    assert sum(p.numel() for p in model.features.parameters()) == 6_953_856
    assert sum(p.numel() for p in model.parameters()) == 6_953_856 + 10 * 1024 + 10
    assert model(image)["features"].shape == (1, 1024, 16, 16)
    assert model.out_channels == 1024


def test_features_are_torchvisions_own():
    from torchvision.models import densenet121

    torch.manual_seed(0)
    theirs = densenet121().eval()
    ours = load_features(Backbone(), theirs.state_dict()).eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(image)["features"],
            F.relu(theirs.features(image.repeat(1, 3, 1, 1))),
            rtol=0,
            atol=0,
        )
        one = load_features(Backbone(stem=1), theirs.state_dict()).eval()
        torch.testing.assert_close(one.features(image), ours.features(image), rtol=1e-3, atol=1e-5)
    extra = set(theirs.state_dict()) ^ set(ours.state_dict())
    assert extra == {"classifier.weight", "classifier.bias", "head.weight", "head.bias"}


def test_torchxrayvision_weights_load():
    """A one-channel state dict on -1024..1024, with keys as of 2018, does the same here on (x -
    128) / 64.
    """
    torch.manual_seed(0)
    theirs = Backbone(**SLIM, stem=1).eval()
    state = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): t
        for name, t in theirs.state_dict().items()
        if name.startswith("features.")
    }
    state |= {"classifier.weight": torch.zeros(18, 11), "op_threshs": torch.zeros(18)}
    assert any(".norm.1." in name for name in state) and any(".conv.2." in name for name in state)
    grey = torch.randint(0, 256, (2, 1, 64, 64)).float()
    want = theirs.features((2 * grey / 255 - 1) * 1024)
    for stem in (1, 3):
        ours = load_features(
            Backbone(**SLIM, stem=stem), state, input_scale=pretrained.TORCHXRAYVISION_SCALE
        ).eval()
        got = ours.features((grey - 128) / 64)
        # what is left is the offset of half a grey level (128 against 127.5), at the padded border
        # too
        assert (got - want).abs().mean() < 0.02 * want.abs().mean()
        unscaled = (
            load_features(Backbone(**SLIM, stem=stem), state).eval().features((grey - 128) / 64)
        )
        assert (unscaled - want).abs().mean() > 0.5 * want.abs().mean()


def test_stem_conversion_keeps_the_response_to_grey():
    kernel, image = (
        torch.randn(4, 3, 7, 7, dtype=torch.float64),
        torch.randn(1, 1, 9, 9, dtype=torch.float64),
    )
    want = F.conv2d(image.expand(-1, 3, -1, -1), kernel)
    one = convert_stem(kernel, 1)
    torch.testing.assert_close(F.conv2d(image, one), want)
    torch.testing.assert_close(F.conv2d(image.expand(-1, 3, -1, -1), convert_stem(one, 3)), want)
    assert convert_stem(kernel, 3) is kernel


def test_foreign_weights_are_refused_with_their_names():
    with pytest.raises(ValueError, match="missing, foreign or misshapen.*growth_rate"):
        load_features(Backbone(**SLIM), Backbone(**SLIM | {"growth_rate": 6}).state_dict())
    with pytest.raises(ValueError, match="missing"):
        load_features(Backbone(**SLIM), {"features.conv0.weight": torch.zeros(8, 3, 7, 7)})


@pytest.mark.parametrize("stride, side", [(32, 4), (16, 8), (8, 16)])
def test_stride_changes_the_grid_and_no_weight(stride, side):
    model = Backbone(**SLIM, stride=stride)
    assert model(torch.zeros(1, 1, 128, 128))["features"].shape[-2:] == (side, side)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in Backbone(**SLIM).state_dict().items()
    }


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


def test_imagenet_weights_out_of_reach_say_what_to_do(monkeypatch):
    import urllib.error

    def fail(self, progress, check_hash, weights_only):
        assert check_hash and weights_only
        raise urllib.error.URLError("no network")

    from torchvision.models import DenseNet121_Weights

    monkeypatch.setattr(DenseNet121_Weights, "get_state_dict", fail)
    with pytest.raises(RuntimeError, match="checkpoints"):
        pretrained.imagenet_state()


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
    assert all(torch.isfinite(p).all() for p in model.parameters()) and not torch.equal(
        before, model.head.weight
    )
