"""DenseNet-121 with probabilistic-CAM pooling: it learns the ten findings (section 3.1).

Its last feature map is the corpus that the transformer reads.

B batch, C channels of the corpus, H W image, h w grid of the corpus, K findings.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import nn

STEMS = (1, 3)  # channels of the first convolution
KERNELS = (1, 3)  # sides of the convolutions of a dense layer
# image px per corpus cell -> how many transitions, counted from the last, keep their resolution
STRIDES = {32: 0, 16: 1, 8: 2}


def pcam_weights(logit_map: torch.Tensor) -> torch.Tensor:
    """Attention of PCAM: each probability map, scaled to sum to 1 (Ye et al. 2020, eq. 2).

    sigmoid(l) / sum(sigmoid(l)) is the softmax of log sigmoid(l). That form is finite at any finite
    logit; the quotient is 0/0 in float32 once all logits lie below about -104. The logarithm is
    written as a softplus: `logsigmoid` is exported to ONNX as log(sigmoid), which some runtimes
    take to be minus infinity below -18.

    Args:
        logit_map: logits of each cell (B, K, h, w).

    Returns:
        Weights (B, K, h, w).
    """
    return (-F.softplus(-logit_map)).flatten(2).softmax(dim=-1).view_as(logit_map)


def pcam_pool(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    """Mean of the features, weighted by each finding's probability map (Ye et al. 2020).

    Gradients flow through the weights too.

    Args:
        features: feature map (B, C, h, w).
        logit_map: logits of each cell (B, K, h, w).

    Returns:
        Pooled features (B, K, C).
    """
    weights = pcam_weights(logit_map).to(features.dtype)  # (B, K, h, w)
    return torch.einsum("bkhw,bchw->bkc", weights, features)  # (B, K, C)


def average_pool(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    """Plain mean over the cells, the same for every finding; arguments as `pcam_pool`."""
    pooled = features.flatten(2).mean(-1)  # (B, C)
    return _repeat(pooled, logit_map)  # (B, K, C)


def max_pool(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    """Largest value of each channel, the same for every finding; arguments as `pcam_pool`."""
    pooled = features.flatten(2).amax(-1)  # (B, C)
    return _repeat(pooled, logit_map)  # (B, K, C)


def lse_pool(features: torch.Tensor, logit_map: torch.Tensor, gamma: float = 10.0) -> torch.Tensor:
    """Log-mean-exp, between the mean (gamma -> 0) and the maximum (gamma -> inf)."""
    cells = features.flatten(2).float()  # (B, C, h*w)
    pooled = (torch.logsumexp(gamma * cells, dim=-1) - math.log(cells.shape[-1])) / gamma  # (B, C)
    return _repeat(pooled.to(features.dtype), logit_map)  # (B, K, C)


def exp_pool(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    """Mean weighted by the softmax of the feature itself; arguments as `pcam_pool`."""
    cells = features.flatten(2)  # (B, C, h*w)
    pooled = (cells.softmax(-1) * cells).sum(-1)  # (B, C)
    return _repeat(pooled, logit_map)  # (B, K, C)


def _repeat(pooled: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    """Repeat pooled features (B, C) for each of the K findings of the logit map."""
    return pooled[:, None].expand(-1, logit_map.shape[1], -1)  # (B, K, C)


POOLS = {
    "pcam": pcam_pool,
    "average": average_pool,
    "max": max_pool,
    "lse": lse_pool,
    "exp": exp_pool,
}


class Repeat(nn.Module):
    """Repeat a grey image over its channels, without a copy."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Expand an image (B, 1, H, W) to (B, channels, H, W)."""
        return image.expand(-1, self.channels, -1, -1)


class Backbone(nn.Module):
    """DenseNet features and one 1x1 convolution that gives logit map and pooled logits.

    The defaults are the paper's: 16x16x1024 from 512 px, and 6,953,856 weights in the features.
    `backbone.features(image)` is the corpus alone: DenseNet's last feature map after ReLU.

    Args:
        growth_rate: channels that each dense layer adds.
        block_config: dense layers of each of the four blocks.
        num_init_features: channels of the first convolution.
        num_findings: K.
        pool: a name in `POOLS`.
        stem: 3 repeats the grey image to three channels; 1 has a one-channel kernel. Both can hold
            the same function (`pretrained.load_features`).
        bn_size: bottleneck channels of a dense layer, in multiples of the growth rate.
        stride: image px per corpus cell. 16 and 8 leave out the pooling of the last one or two
            transitions and change no weight.
        drop_rate: dropout in the dense layers.
        memory_efficient: recompute dense layers in the backward pass, for large images on small
            GPUs.
        kernels: side of the second convolution in the dense layers of each block, 3 or 1. With 1 in
            the late blocks a cell of the corpus sees no more than the early ones have shown it, as
            in a BagNet (Brendel & Bethge 2019); `receptive_field` measures it.

    Raises:
        ValueError: with the known values, for an unknown pool, stem, stride or kernel.
    """

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        num_init_features: int = 64,
        num_findings: int = 10,
        pool: str = "pcam",
        stem: int = 3,
        bn_size: int = 4,
        stride: int = 32,
        drop_rate: float = 0.0,
        memory_efficient: bool = False,
        kernels: Sequence[int] = (3, 3, 3, 3),
    ) -> None:
        super().__init__()
        from torchvision.models import DenseNet  # takes seconds to import, and only needed here

        _check_known(pool, POOLS, "pool")
        _check_known(stem, STEMS, "stem")
        _check_known(stride, STRIDES, "stride")
        for side in kernels:
            _check_known(side, KERNELS, "kernel")
        self.pool = POOLS[pool]
        dense = DenseNet(
            growth_rate=growth_rate,
            block_config=tuple(block_config),
            num_init_features=num_init_features,
            bn_size=bn_size,
            drop_rate=drop_rate,
            num_classes=1,
            memory_efficient=memory_efficient,
        )
        layers = OrderedDict(repeat=Repeat(stem))
        layers.update(dense.features.named_children())
        layers["relu5"] = nn.ReLU()
        if stem == 1:
            conv = nn.Conv2d(1, num_init_features, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            layers["conv0"] = conv
        transitions = [name for name in layers if name.startswith("transition")]
        for name in transitions[len(transitions) - STRIDES[stride] :]:
            layers[name].pool = nn.Identity()
        for number, side in enumerate(kernels, start=1):
            if side == 1:
                for layer in layers[f"denseblock{number}"].values():
                    layer.conv2 = _pointwise(layer.conv2)
        self.features = nn.Sequential(layers)
        self.out_channels = dense.classifier.in_features
        self.head = nn.Conv2d(self.out_channels, num_findings, kernel_size=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict the findings of images.

        Args:
            image: (B, 1, H, W).

        Returns:
            `logits` (B, K); `features` (B, C, h, w) >= 0, the corpus; `logit_map` (B, K, h, w);
            `weight_map` (B, K, h, w), PCAM's attention, which is reported under any pooling.
        """
        return self.read(self.features(image))

    def read(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `forward`, from the features of the images, (B, C, h, w)."""
        logit_map = self.head(features)  # (B, K, h, w)
        pooled = self.pool(features, logit_map)  # (B, K, C)
        weight = self.head.weight.flatten(1).to(pooled.dtype)  # (K, C)
        logits = torch.einsum("bkc,kc->bk", pooled, weight) + self.head.bias  # (B, K)
        return {
            "logits": logits,
            "features": features,
            "logit_map": logit_map,
            "weight_map": pcam_weights(logit_map),
        }


def _pointwise(conv: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution between the channels of another one, which sees no neighbour."""
    pointwise = nn.Conv2d(conv.in_channels, conv.out_channels, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(pointwise.weight)
    return pointwise


@torch.enable_grad()
def receptive_field(features: nn.Module, size: int, channels: int = 1) -> torch.Tensor:
    """Which pixels of an image one cell of the corpus can see, and how much they weigh on average.

    The middle cell's features are differentiated with respect to images of noise. No cell behind
    a pixel of weight 0 depends on it, whatever the image (Luo et al. 2016 call the weights the
    effective receptive field).

    Args:
        features: maps images (B, channels, S, S) to features (B, C, h, w); set to evaluation.
        size: S in px.
        channels: of an image.

    Returns:
        Mean absolute gradient (S, S), with a largest value of 1.

    Raises:
        ValueError: no feature of the middle cell depends on the image.
    """
    features.eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(8, channels, size, size, generator=generator).requires_grad_()
    corpus = features(image)  # (8, C, h, w)
    h, w = corpus.shape[-2:]
    (gradient,) = torch.autograd.grad(corpus[..., h // 2, w // 2].sum(), image)
    weight = gradient.abs().mean((0, 1))  # (S, S)
    if not weight.any():
        raise ValueError(
            "no feature of the middle cell depends on images of noise: all its units are off; "
            "load trained weights, or take more channels or another seed"
        )
    return weight / weight.max()


def _check_known(value: str | int, known: Collection, kind: str) -> None:
    """Raise ValueError with the known values if the value is none of them."""
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}; known: {list(known)}")


def weighted_maps(output: dict[str, torch.Tensor], findings: Sequence[int]) -> torch.Tensor:
    """Corpus after PCAM: the features times the weight map of each chosen finding (Table 9).

    The product is multiplied by h*w, so that a uniform weight map leaves the features as they are.
    Without that it would be 256 times smaller than the corpus at 16x16.

    Args:
        output: `features` (B, C, h, w) and `weight_map` (B, K, h, w) of a `Backbone`.
        findings: indices of the n chosen findings.

    Returns:
        Features (B, n*C, h, w), finding by finding.
    """
    features = output["features"]
    weights = output["weight_map"][:, list(findings)]  # (B, n, h, w)
    h, w = features.shape[-2:]
    maps = h * w * weights[:, :, None] * features[:, None]  # (B, n, C, h, w)
    return maps.flatten(1, 2)  # (B, n*C, h, w)
