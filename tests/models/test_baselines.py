"""Feature extractors of the baselines against torchvision's own ResNet, and their findings head."""

import sys

import pytest
import torch
from torch import nn

from cxrkit.models import baselines
from cxrkit.models.densenet import Backbone
from cxrkit.models.factory import build_backbone
from tests.fakes.small_models import variant_profile

WIDTHS = (4, 6, 8, 10)


@pytest.fixture
def grey():
    return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_features_of_a_resnet_are_torchvisions(grey):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    resnet = baselines.ResNet().eval()
    left = resnet.load_state_dict(theirs.state_dict(), strict=False)
    assert left.missing_keys == [] and left.unexpected_keys == ["fc.weight", "fc.bias"]
    theirs.avgpool = theirs.fc = nn.Identity()
    torch.testing.assert_close(resnet(grey).flatten(1), theirs(grey.expand(-1, 3, -1, -1)))
    assert resnet.out_channels == 2048 and resnet.stride == 32


@pytest.mark.parametrize(
    "stride, layers, cell, channels",
    [(32, (1, 1, 1, 1), 32, 40), (16, (1, 1, 1, 1), 16, 40), (16, (1, 1, 1), 16, 32)],
)
def test_a_resnet_says_its_cell_and_channels(grey, stride, layers, cell, channels):
    resnet = baselines.ResNet(WIDTHS, layers, stem=1, stride=stride)
    assert (resnet.stride, resnet.out_channels) == (cell, channels)
    assert resnet(grey).shape == (2, channels, 64 // cell, 64 // cell)


def test_without_timm_the_next_step_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeError, match=r'pip install "cxrkit\[weights\]"'):
        baselines.timm_resnet()


@torch.no_grad()
def test_any_feature_extractor_learns_findings_with_the_backbones_own_head(grey):
    torch.manual_seed(0)
    profile = variant_profile(model="resnet", widths=WIDTHS, layers=(1, 2, 1, 1))
    net = build_backbone(profile).eval()
    out = net(grey)
    features = net.features(grey)
    for k in (0, 9):  # PCAM by a loop over findings
        probability = net.head(features)[:, k].sigmoid()  # (B, h, w)
        weight = probability / probability.sum((1, 2), keepdim=True)
        pooled = (features * weight[:, None]).sum((2, 3))  # (B, C)
        wanted = pooled @ net.head.weight[k, :, 0, 0] + net.head.bias[k]
        torch.testing.assert_close(out["logits"][:, k], wanted)
    assert isinstance(net, Backbone) and out["logits"].shape == (2, 10)
