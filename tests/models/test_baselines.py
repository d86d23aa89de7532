"""Rivals of the corpus ViT against torchvision's and timm's own models, and variants of the corpus
against loops.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.vocabulary import FINDINGS
from cxrkit.models import baselines, classifier, factory, simclr
from cxrkit.models.densenet import Backbone
from cxrkit.tasks import contrastive

SLIM = {"widths": (4, 6, 8, 10), "layers": (1, 2, 1, 1)}


def profile(**variant):
    tiny = replace(
        profiles.demo(),
        image_size=64,
        backbone=profiles.DenseNet(
            growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
        ),
        transformer=profiles.ViT(embed_dim=16, depth=1, num_heads=2),
    )
    return replace(tiny, variant=profiles.Variant(**variant))


@pytest.fixture
def grey():
    return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def small_vit():
    """torchvision's ViT with random weights, none of them zero."""
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    theirs = VisionTransformer(
        image_size=64,
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=64,
        num_classes=3,
    ).eval()
    for weight in theirs.parameters():
        nn.init.normal_(weight, std=0.2)
    return theirs


# the models


@torch.no_grad()
def test_the_trunk_of_a_resnet_is_torchvisions(grey):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    ours = baselines.ResNet().eval()
    left = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert left.missing_keys == [] and left.unexpected_keys == ["fc.weight", "fc.bias"]
    theirs.avgpool = theirs.fc = nn.Identity()
    torch.testing.assert_close(ours(grey).flatten(1), theirs(grey.expand(-1, 3, -1, -1)))
    assert ours.out_channels == 2048 and ours.stride == 32


@pytest.mark.parametrize(
    "stride, layers, cell, channels",
    [(32, (1, 1, 1, 1), 32, 40), (16, (1, 1, 1, 1), 16, 40), (16, (1, 1, 1), 16, 32)],
)
def test_a_trunk_says_its_cell_and_channels(grey, stride, layers, cell, channels):
    trunk = baselines.ResNet(SLIM["widths"], layers, stem=1, stride=stride)
    assert (trunk.stride, trunk.out_channels) == (cell, channels)
    assert trunk(grey).shape == (2, channels, 64 // cell, 64 // cell)


@torch.no_grad()
def test_the_vit_is_torchvisions(grey):
    """Patches are cells of the image unshuffled into channels, the rest is the corpus ViT: one code
    for both transformers.
    """
    theirs = small_vit()
    settings = replace(profile(model="vit", start="random"), transformer=profiles.ViT(16, 2, 2))
    ours = factory.network(settings).eval()
    state = baselines.from_torchvision(theirs.state_dict())
    state |= {
        f"transformer.head.{name}": tensor
        for name, tensor in theirs.heads.head.state_dict().items()
    }
    assert classifier.adopt(ours, state) == []
    torch.testing.assert_close(
        ours(grey)["logits"], theirs(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_the_published_hybrid_is_timms():
    timm = pytest.importorskip(
        "timm", reason='needs the extra weights: pip install "cxrkit[weights]"'
    )
    torch.manual_seed(0)
    theirs = timm.create_model("vit_base_r50_s16_384", img_size=64, num_classes=3).eval()
    settings = replace(profile(model="timm_hybrid", start="random"), transformer=profiles.ViT())
    ours = factory.network(settings).eval()
    state = baselines.from_timm(theirs.state_dict())
    state |= {
        f"transformer.head.{name}": tensor for name, tensor in theirs.head.state_dict().items()
    }
    assert classifier.adopt(ours, state) == []
    image = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(
        ours(image)["logits"], theirs(image.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
    )


def test_without_timm_the_next_step_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(RuntimeError, match=r'pip install "cxrkit\[weights\]"'):
        baselines.timm_resnet()


@pytest.mark.parametrize("model", ["corpus_vit", "densenet", "resnet", "vit", "hybrid"])
def test_every_model_serves_both_tasks_at_one_size(grey, model):
    net = factory.network(
        profile(model=model, **(SLIM if model in ("resnet", "hybrid") else {})), map_head=True
    )
    out = net(grey)
    assert out["logits"].shape == (2, 3) and out["severity_logits"].shape == (2, 1, 64, 64)
    (out["logits"].sum() + out["severity_logits"].sum()).backward()
    unused = {"patch_embed", "head"}  # none: every weight has a gradient
    assert [
        name
        for name, weight in net.named_parameters()
        if weight.grad is None and not unused & set(name.split("."))
    ] == []


def test_an_unknown_model_is_refused_with_the_known():
    with pytest.raises(ValueError, match="unknown model 'mamba'; known: .*'resnet'"):
        factory.network(profile(model="mamba"))


@torch.no_grad()
def test_any_trunk_learns_findings_with_the_backbones_own_head(grey):
    torch.manual_seed(0)
    net = factory.backbone_network(profile(model="resnet", **SLIM)).eval()
    out = net(grey)
    features = net.features(grey)
    for k in (0, 9):  # PCAM by a loop over cells
        logit = net.head(features)[:, k]  # (B, h, w)
        weight = logit.sigmoid() / logit.sigmoid().sum((1, 2), keepdim=True)
        pooled = (features * weight[:, None]).sum((2, 3))
        torch.testing.assert_close(
            out["logits"][:, k], pooled @ net.head.weight[k, :, 0, 0] + net.head.bias[k]
        )
    assert isinstance(net, Backbone) and out["logits"].shape == (2, 10)


# published weights, without a download


def test_imagenet_weights_fill_a_resnet_and_bring_its_stem_to_grey(monkeypatch, grey):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    monkeypatch.setattr(baselines, "published", lambda weights: theirs.state_dict())
    settings = profile(
        model="resnet", start="imagenet", widths=(64, 128, 256, 512), layers=(3, 4, 6, 3)
    )
    net = factory.network(replace(settings, backbone=replace(settings.backbone, stride=32))).eval()
    left = classifier.adopt(net, baselines.imagenet("resnet", (3, 4, 6, 3), stem=1))
    assert left == ["transformer.head.bias", "transformer.head.weight"]
    theirs.avgpool = theirs.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(
            net.features(grey).flatten(1), theirs(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )


def test_the_hybrid_takes_three_stages_and_all_of_the_vit_but_its_patches(monkeypatch):
    from torchvision.models import resnet50

    monkeypatch.setattr(
        baselines,
        "published",
        lambda weights: (
            resnet50().state_dict() if "ResNet50" in str(weights) else small_vit().state_dict()
        ),
    )
    state = baselines.imagenet("hybrid", (3, 4, 6), stem=1)
    assert {name.split(".")[1] for name in state if name.startswith("features.")} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
        "layer3",
    }
    assert "transformer.blocks.1.mlp.fc2.weight" in state and not [
        name for name in state if "patch_embed" in name
    ]


@pytest.mark.parametrize("model, layers", [("resnet", (1, 2, 1, 1)), ("unet", ())])
def test_where_nothing_is_published_nothing_is_pretended(model, layers):
    with pytest.raises(ValueError, match="no ImageNet weights are published for"):
        baselines.imagenet(model, layers)


def test_a_machine_without_network_is_told_what_to_do(monkeypatch):
    from torchvision.models import ResNet50_Weights

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    assert ResNet50_Weights.IMAGENET1K_V1.url.startswith("https")
    with pytest.raises(
        RuntimeError,
        match="could not be fetched .no route to host.*put https.*resnet50.* into .*checkpoints",
    ):
        baselines.imagenet("resnet", (3, 4, 6, 3))


# other words for the transformer


@torch.no_grad()
@pytest.mark.parametrize(
    "corpus, chosen", [("ten_maps", FINDINGS), ("pneumonia_map", ("pneumonia",))]
)
def test_weighted_maps_by_a_loop(grey, corpus, chosen):
    torch.manual_seed(0)
    net = factory.network(profile(corpus=corpus)).eval()
    nn.init.normal_(net.head.weight)
    words, features = net.corpus(grey), net.features(grey)
    (B, C, h, w), k = features.shape, len(chosen)
    assert words.shape == (B, k * C, h, w) and net.transformer.in_channels == k * C
    for i, name in enumerate(chosen):
        probability = net.head(features)[:, FINDINGS.index(name)].sigmoid()
        weight = h * w * probability / probability.sum((1, 2), keepdim=True)
        torch.testing.assert_close(
            words[:, i * C : (i + 1) * C], features * weight[:, None], atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_twice_the_input_with_twice_the_stride_keeps_the_number_of_words():
    torch.manual_seed(0)
    net = factory.network(profile(zoom=2)).eval()
    image = torch.randn(1, 1, 128, 128)
    features, embed = net.features(image), net.transformer.patch_embed.proj  # (1, C, 8, 8)
    kernel = embed.weight.view(16, features.shape[1], 2, 2)
    words = nn.functional.conv2d(features, kernel, embed.bias, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(net.transformer.patch_embed(net.corpus(image)), words)
    assert words.shape == (1, 16, 16)


# SimCLR


def test_nt_xent_against_a_slow_loop():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, total = torch.cat([a, b]).numpy(), 0.0
    for i in range(10):
        twin = i + 5 if i < 5 else i - 5
        fits = {
            j: np.exp(z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) / 0.2)
            for j in range(10)
            if j != i
        }
        total -= np.log(fits[twin] / sum(fits.values()))
    assert float(simclr.nt_xent(a, b)) == pytest.approx(total / 10, abs=1e-12)


def test_nt_xent_of_equal_vectors_is_chance_and_of_perfect_pairs_nearly_nothing():
    assert float(simclr.nt_xent(torch.ones(8, 4), torch.ones(8, 4))) == pytest.approx(np.log(15))
    assert float(simclr.nt_xent(torch.eye(8), torch.eye(8), temperature=0.02)) < 1e-6


def test_a_view_is_random_repeats_with_the_seed_and_leaves_an_even_film_even():
    image = torch.randn(4, 1, 32, 32)
    torch.manual_seed(1)
    first, second = contrastive.view(image), contrastive.view(image)
    torch.manual_seed(1)
    assert torch.equal(first, contrastive.view(image)) and not torch.allclose(first, second)
    even = contrastive.view(torch.full((6, 1, 32, 32), 0.5))
    torch.testing.assert_close(even, even[:, :, :1, :1].expand_as(even))


def test_simclr_learns_to_tell_films_apart():
    """Films that differ in the place of a bright bar: after a few steps their views find each
    other.
    """
    images = torch.zeros(24, 1, 64, 64)
    for i in range(24):
        images[i, :, 8 * (i % 8) : 8 * (i % 8) + 6, 20 * (i // 8) : 20 * (i // 8) + 12] = 2.0
    torch.manual_seed(0)
    model = simclr.Contrast(factory.network(profile(model="vit", start="random")), 16, size=16)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        value = contrastive.loss(model, {"image": images})
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[0] > 0.8 * np.log(47) and np.mean(losses[-5:]) < losses[0] - 1
