"""The models that the corpus ViT is compared with (Tables 7 and 8): ResNets, DenseNet and ViTs.

Each has a feature extractor, image (B, 1, H, W) -> features (B, C, h, w), and a head on these
features: `PooledHead` for a convolutional network, `corpus_vit.CorpusViT` for a transformer. The
standard ViT has no feature extractor: its patches of 16x16 px are the features.

B batch, C channels, H W image, h w grid, D embed, K classes or findings, s map scale.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.models.corpus_vit import MapHead
from cxrkit.models.densenet import POOLS, Backbone, Repeat

PATCH_SIZE = 16  # px of a side, of the ViT and of a cell of its hybrid


class ResNet(nn.Sequential):
    """Feature extractor of a ResNet with bottleneck blocks; the defaults are ResNet-50.

    The weights have torchvision's names. `out_channels` and `stride` say what the features are:
    (B, 1, H, W) -> (B, out_channels, H / stride, W / stride).

    Args:
        widths: of the four stages; a block gives four times as many channels.
        layers: blocks of each stage. Fewer of them than `widths` leave the last stages out (hybrid
            ViT).
        stem: 3 repeats the grey image to three channels; 1 has a one-channel kernel.
        stride: image px per cell; the last stages that would go beyond it keep their resolution.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        layers: Sequence[int] = (3, 4, 6, 3),
        stem: int = 3,
        stride: int = 32,
    ) -> None:
        super().__init__(
            OrderedDict(
                repeat=Repeat(stem),
                conv1=nn.Conv2d(stem, widths[0], 7, stride=2, padding=3, bias=False),
                bn1=nn.BatchNorm2d(widths[0]),
                relu=nn.ReLU(inplace=True),
                maxpool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        self.out_channels = widths[0]
        self.stride = 4
        for i, (width, blocks) in enumerate(zip(widths, layers), start=1):
            step = 2 if i > 1 and self.stride < stride else 1
            self.add_module(f"layer{i}", _resnet_stage(self.out_channels, width, blocks, step))
            self.out_channels = 4 * width
            self.stride *= step
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _resnet_stage(channels: int, width: int, blocks: int, step: int) -> nn.Sequential:
    """Chain bottleneck blocks; the first has the stride and widens the shortcut to 4 * width."""
    from torchvision.models.resnet import Bottleneck  # takes seconds to import, only needed here

    shortcut = nn.Sequential(
        nn.Conv2d(channels, 4 * width, 1, stride=step, bias=False), nn.BatchNorm2d(4 * width)
    )
    stage = [Bottleneck(channels, width, step, shortcut)]
    for _ in range(blocks - 1):
        stage.append(Bottleneck(4 * width, width))
    return nn.Sequential(*stage)


def create_timm_model(name: str, **options: Any) -> nn.Module:
    """Create a model of timm by its name.

    Args:
        name: as in `timm.list_models()`.
        **options: further arguments of `timm.create_model`.

    Returns:
        The model.

    Raises:
        RuntimeError: without the extra `weights`.
    """
    try:
        import timm
    except ImportError as error:
        raise RuntimeError(
            'the published hybrid ViT needs timm: pip install "cxrkit[weights]"'
        ) from error
    return timm.create_model(name, **options)


def timm_resnet() -> nn.Sequential:
    """Feature extractor of timm's hybrid ViT-B, 16 px per cell and 1024 channels.

    It is a ResNetV2-50 of three stages with weight standardisation and group norm.

    Returns:
        Module (B, 1, H, W) -> (B, 1024, H/16, W/16), with `out_channels` and `stride`.

    Raises:
        RuntimeError: without the extra `weights`.
    """
    vit = create_timm_model("vit_base_r50_s16_384")
    features = nn.Sequential(Repeat(3), vit.patch_embed.backbone)
    features.out_channels = 1024
    features.stride = 16
    return features


def _build_hybrid(
    widths: Sequence[int], layers: Sequence[int], stem: int, stride: int
) -> nn.Sequential:
    """Features of a hybrid ViT, whose cells are as large as the patches of the ViT."""
    return ResNet(widths, layers, stem, PATCH_SIZE)


def _build_timm_hybrid(
    widths: Sequence[int], layers: Sequence[int], stem: int, stride: int
) -> nn.Sequential:
    """Features of timm's hybrid ViT, which has one size."""
    return timm_resnet()


# model -> function of widths, layers, stem and stride that builds its features. A ViT has none, and
# the other models have the features of the DenseNet.
FEATURE_EXTRACTORS = {
    "resnet": ResNet,
    "hybrid": _build_hybrid,
    "timm_hybrid": _build_timm_hybrid,
}


class PooledHead(nn.Module):
    """Head of a convolutional network: a linear layer on the mean of the features.

    The severity map comes from a 1x1 convolution to D channels and the map head of the corpus ViT.

    Args:
        in_channels: C of the features.
        embed_dim: D of the map head.
        num_classes: K.
        map_head: whether the head also predicts the severity map.
        map_scale: s, map px per cell, a power of 2.
        map_options: of `MapHead`.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int = 768,
        num_classes: int = 3,
        map_head: bool = False,
        map_scale: int = 16,
        map_options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        options = map_options or {}
        self.head = nn.Linear(in_channels, num_classes)
        self.proj = nn.Conv2d(in_channels, embed_dim, 1) if map_head else None
        self.map_head = MapHead(embed_dim, map_scale, **options) if map_head else None

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Classify features (B, C, h, w).

        Args:
            features: (B, C, h, w).

        Returns:
            `logits` (B, K); with a map head also `severity_logits` (B, 1, s*h, s*w) and their
            sigmoid `severity_map`.
        """
        pooled = features.mean((2, 3))  # (B, C)
        out = {"logits": self.head(pooled)}  # (B, K)
        if self.map_head is not None and self.proj is not None:
            cells = F.relu(self.proj(features))  # (B, D, h, w)
            out["severity_logits"] = self.map_head(cells)  # (B, 1, s*h, s*w)
            out["severity_map"] = out["severity_logits"].sigmoid()
        return out


class FindingsNetwork(Backbone):
    """Any feature extractor with the findings head of `Backbone`.

    The baselines learn the findings with it, so that they start where the proposed model starts.

    Args:
        features: feature extractor with an attribute `out_channels`.
        num_findings: K.
        pool: a name in `densenet.POOLS`.
    """

    def __init__(self, features: nn.Module, num_findings: int = 10, pool: str = "pcam") -> None:
        nn.Module.__init__(self)  # not Backbone's own, which would build a DenseNet
        self.pool = POOLS[pool]
        self.features = features
        self.out_channels = features.out_channels
        self.head = nn.Conv2d(features.out_channels, num_findings, kernel_size=1)
