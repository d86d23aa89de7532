"""Published weights, without a download, against the models of torchvision and timm."""

import sys
import types
import urllib.error
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config import sections
from cxrkit.models import pretrained
from cxrkit.models.classifier import load_matching
from cxrkit.models.densenet import Backbone
from cxrkit.models.factory import build_classifier
from tests.fakes.small_models import variant_profile

SLIM = {"growth_rate": 4, "block_config": (1, 2, 2, 1), "num_init_features": 8, "num_findings": 3}


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


def with_head(state, head):
    """A state dict with the weights of a linear layer as the head of the transformer."""
    return state | {f"transformer.head.{name}": t for name, t in head.state_dict().items()}


# DenseNet


def test_features_are_torchvisions_own():
    from torchvision.models import densenet121

    torch.manual_seed(0)
    theirs = densenet121().eval()
    backbone = pretrained.load_features(Backbone(), theirs.state_dict()).eval()
    one_channel = pretrained.load_features(Backbone(stem=1), theirs.state_dict()).eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        features = backbone.features(image)
        wanted = F.relu(theirs.features(image.repeat(1, 3, 1, 1)))
        torch.testing.assert_close(backbone(image)["features"], wanted, rtol=0, atol=0)
        torch.testing.assert_close(one_channel.features(image), features, rtol=1e-3, atol=1e-5)
    extra = set(theirs.state_dict()) ^ set(backbone.state_dict())
    assert extra == {"classifier.weight", "classifier.bias", "head.weight", "head.bias"}


def test_torchxrayvision_weights_load():
    """A one-channel state dict on -1024..1024 does the same here on (x - 128) / 64.

    Its keys are those of 2018.
    """
    torch.manual_seed(0)
    theirs = Backbone(**SLIM, stem=1).eval()
    state = {"classifier.weight": torch.zeros(18, 11), "op_threshs": torch.zeros(18)}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("features."):
            old = name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")
            state[old] = tensor
    assert any(".norm.1." in name for name in state) and any(".conv.2." in name for name in state)
    grey = torch.randint(0, 256, (2, 1, 64, 64)).float()
    want = theirs.features((2 * grey / 255 - 1) * 1024)

    def features(stem, **options):
        backbone = pretrained.load_features(Backbone(**SLIM, stem=stem), state, **options)
        return backbone.eval().features((grey - 128) / 64)

    for stem in (1, 3):
        got = features(stem, input_scale=pretrained.TORCHXRAYVISION_SCALE)
        # what is left is the offset of half a grey level (128 against 127.5), also in the padding
        assert (got - want).abs().mean() < 0.02 * want.abs().mean()
        assert (features(stem) - want).abs().mean() > 0.5 * want.abs().mean()


def test_chest_weights_begin_a_backbone(monkeypatch):
    """The package gives a network; the stem of what we take from it fits images of the kit."""
    theirs = Backbone(**SLIM, stem=1).eval()
    asked = []

    def build(weights):
        asked.append(weights)
        return theirs

    package = types.ModuleType("torchxrayvision")
    package.models = types.SimpleNamespace(DenseNet=build)
    monkeypatch.setitem(sys.modules, "torchxrayvision", package)
    grey = torch.randint(0, 256, (2, 1, 64, 64)).float()
    want = theirs.features((2 * grey / 255 - 1) * 1024)
    ours = pretrained.load_features(Backbone(**SLIM, stem=1), pretrained.load_chest_densenet())
    got = ours.eval().features((grey - 128) / 64)
    assert (got - want).abs().mean() < 0.02 * want.abs().mean()
    assert asked == [pretrained.CHEST_WEIGHTS]

    def unreachable(weights):
        raise OSError("no route")

    package.models.DenseNet = unreachable
    with pytest.raises(RuntimeError, match="no route.*needs the internet once"):
        pretrained.load_chest_densenet()
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(RuntimeError, match=r"pip install .cxrkit\[weights\]"):
        pretrained.load_chest_densenet()


def test_stem_conversion_keeps_the_response_to_grey():
    kernel = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    image = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    repeated = image.expand(-1, 3, -1, -1)
    want = F.conv2d(repeated, kernel)
    one = pretrained.convert_stem(kernel, 1)
    torch.testing.assert_close(F.conv2d(image, one), want)
    torch.testing.assert_close(F.conv2d(repeated, pretrained.convert_stem(one, 3)), want)
    assert pretrained.convert_stem(kernel, 3) is kernel


def test_foreign_weights_are_refused_with_their_names():
    other = Backbone(**SLIM | {"growth_rate": 6}).state_dict()
    with pytest.raises(ValueError, match="missing, foreign or misshapen.*growth_rate"):
        pretrained.load_features(Backbone(**SLIM), other)
    with pytest.raises(ValueError, match="missing"):
        stem = {"features.conv0.weight": torch.zeros(8, 3, 7, 7)}
        pretrained.load_features(Backbone(**SLIM), stem)


def test_imagenet_weights_out_of_reach_say_what_to_do(monkeypatch):
    from torchvision.models import DenseNet121_Weights

    def fail(self, progress, check_hash, weights_only):
        assert check_hash and weights_only
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(DenseNet121_Weights, "get_state_dict", fail)
    with pytest.raises(RuntimeError, match="checkpoints"):
        pretrained.load_imagenet_densenet()


# transformers


@torch.no_grad()
def test_the_vit_is_torchvisions(grey):
    """Its patches are cells of the image, unshuffled into channels; the rest is the corpus ViT."""
    theirs = small_vit()
    profile = variant_profile(model="vit", initial_weights="random")
    vit = build_classifier(replace(profile, transformer=sections.ViT(16, 2, 2))).eval()
    state = pretrained.from_torchvision(theirs.state_dict())
    assert load_matching(vit, with_head(state, theirs.heads.head)) == []
    wanted = theirs(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(vit(grey)["logits"], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_published_hybrid_is_timms():
    timm = pytest.importorskip(
        "timm", reason='needs the extra weights: pip install "cxrkit[weights]"'
    )
    torch.manual_seed(0)
    theirs = timm.create_model("vit_base_r50_s16_384", img_size=64, num_classes=3).eval()
    profile = variant_profile(model="timm_hybrid", initial_weights="random")
    hybrid = build_classifier(replace(profile, transformer=sections.ViT())).eval()
    state = pretrained.from_timm(theirs.state_dict())
    assert load_matching(hybrid, with_head(state, theirs.head)) == []
    image = torch.randn(1, 1, 64, 64)
    wanted = theirs(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(hybrid(image)["logits"], wanted, atol=1e-4, rtol=1e-4)


# ImageNet weights by the name of a model


def test_imagenet_weights_fill_a_resnet_and_bring_its_stem_to_grey(monkeypatch, grey):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    monkeypatch.setattr(pretrained, "load_torchvision_weights", lambda weights: theirs.state_dict())
    profile = variant_profile(
        model="resnet", initial_weights="imagenet", widths=(64, 128, 256, 512), layers=(3, 4, 6, 3)
    )
    profile = replace(profile, backbone=replace(profile.backbone, stride=32))
    net = build_classifier(profile).eval()
    left = load_matching(net, pretrained.load_imagenet_weights("resnet", (3, 4, 6, 3), stem=1))
    assert left == ["transformer.head.bias", "transformer.head.weight"]
    theirs.avgpool = theirs.fc = nn.Identity()
    with torch.no_grad():
        wanted = theirs(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(net.features(grey).flatten(1), wanted, atol=1e-4, rtol=1e-4)


def test_the_hybrid_takes_three_stages_and_all_of_the_vit_but_its_patches(monkeypatch):
    from torchvision.models import resnet50

    def published(weights):
        network = resnet50() if "ResNet50" in str(weights) else small_vit()
        return network.state_dict()

    monkeypatch.setattr(pretrained, "load_torchvision_weights", published)
    state = pretrained.load_imagenet_weights("hybrid", (3, 4, 6), stem=1)
    parts = {name.split(".")[1] for name in state if name.startswith("features.")}
    assert parts == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    assert "transformer.blocks.1.mlp.fc2.weight" in state
    assert [name for name in state if "patch_embed" in name] == []


@pytest.mark.parametrize("model, layers", [("resnet", (1, 2, 1, 1)), ("unet", ())])
def test_where_nothing_is_published_nothing_is_pretended(model, layers):
    with pytest.raises(ValueError, match="no ImageNet weights are published for"):
        pretrained.load_imagenet_weights(model, layers)


def test_a_machine_without_network_names_the_next_step(monkeypatch):
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
        pretrained.load_imagenet_weights("resnet", (3, 4, 6, 3))
