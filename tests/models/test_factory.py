"""The models of a profile serve both tasks; variants of the corpus against loops."""

import pytest
import torch
from torch import nn

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.models.factory import build_classifier
from tests.fakes.small_models import variant_profile

SLIM = {"widths": (4, 6, 8, 10), "layers": (1, 2, 1, 1)}


@pytest.fixture
def grey():
    return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", ["corpus_vit", "densenet", "resnet", "vit", "hybrid"])
def test_every_model_serves_both_tasks_at_one_size(grey, model):
    sizes = SLIM if model in ("resnet", "hybrid") else {}
    net = build_classifier(variant_profile(model=model, **sizes), map_head=True)
    out = net(grey)
    assert out["logits"].shape == (2, 3) and out["severity_logits"].shape == (2, 1, 32, 32)
    (out["logits"].sum() + out["severity_logits"].sum()).backward()
    for name, weight in net.named_parameters():
        if not {"patch_embed", "head"} & set(name.split(".")):
            assert weight.grad is not None, name


def test_an_unknown_model_is_refused_with_the_known():
    with pytest.raises(ValueError, match="unknown model 'mamba'; known: .*'resnet'"):
        build_classifier(variant_profile(model="mamba"))


@torch.no_grad()
@pytest.mark.parametrize(
    "corpus, chosen", [("ten_maps", FINDINGS), ("pneumonia_map", ("pneumonia",))]
)
def test_weighted_maps_by_a_loop(grey, corpus, chosen):
    torch.manual_seed(0)
    net = build_classifier(variant_profile(corpus=corpus)).eval()
    nn.init.normal_(net.head.weight)
    maps, features = net.corpus(grey), net.features(grey)
    (B, C, h, w), n = features.shape, len(chosen)
    assert maps.shape == (B, n * C, h, w) and net.transformer.in_channels == n * C
    for i, name in enumerate(chosen):
        probability = net.head(features)[:, FINDINGS.index(name)].sigmoid()
        weight = h * w * probability / probability.sum((1, 2), keepdim=True)
        wanted = features * weight[:, None]
        found = maps[:, i * C : (i + 1) * C]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_twice_the_input_with_twice_the_stride_keeps_the_number_of_tokens():
    torch.manual_seed(0)
    net = build_classifier(variant_profile(zoom=2)).eval()
    image = torch.randn(1, 1, 128, 128)
    features, embed = net.features(image), net.transformer.patch_embed.proj  # (1, C, 8, 8)
    kernel = embed.weight.view(16, features.shape[1], 2, 2)
    patches = nn.functional.conv2d(features, kernel, embed.bias, stride=2)  # (1, 16, 4, 4)
    tokens = patches.flatten(2).transpose(1, 2)  # (1, 16, 16)
    torch.testing.assert_close(net.transformer.patch_embed(net.corpus(image)), tokens)
    assert tokens.shape == (1, 16, 16)
