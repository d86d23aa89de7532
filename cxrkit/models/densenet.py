"""DenseNet-121 with probabilistic-CAM pooling: it learns the ten findings, and its last feature map
is the corpus (3.1).

B batch, C channels of the corpus, H W image, h w grid of the corpus, K findings.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

# image px per corpus cell -> how many transitions, counted from the last, keep their resolution
STRIDES = {32: 0, 16: 1, 8: 2}


def pcam_weights(logit_map):
    """Attention of PCAM: the probability map of each finding, made to sum to 1 (Ye et al. 2020,
    equation 2).

    logit_map (B, K, h, w) -> (B, K, h, w). sigmoid(l) / sum(sigmoid(l)) is the softmax of log
    sigmoid(l), and that form is finite at any finite logit, while the quotient is 0/0 in float32
    once all logits lie below about -104.
    """
    return F.logsigmoid(logit_map).flatten(2).softmax(dim=-1).view_as(logit_map)


def pcam_pool(features, logit_map):
    """Mean of the features weighted by each finding's own probability map; gradients flow through
    the weights too.

    features (B, C, h, w), logit_map (B, K, h, w) -> (B, K, C).
    """
    return torch.einsum("bkhw,bchw->bkc", pcam_weights(logit_map).to(features.dtype), features)


def average_pool(features, logit_map):
    """Plain mean, the same for every finding: features (B, C, h, w), logit_map (B, K, h, w) -> (B,
    K, C).
    """
    return _repeat(features.flatten(2).mean(-1), logit_map)


def max_pool(features, logit_map):
    """Largest value of each channel: features (B, C, h, w), logit_map (B, K, h, w) -> (B, K, C)."""
    return _repeat(features.flatten(2).amax(-1), logit_map)


def lse_pool(features, logit_map, gamma=10.0):
    """Log-mean-exp, between mean (gamma -> 0) and max (gamma -> inf): features (B, C, h, w) -> (B,
    K, C).
    """
    cells = features.flatten(2).float()  # (B, C, h*w)
    pooled = (torch.logsumexp(gamma * cells, dim=-1) - math.log(cells.shape[-1])) / gamma  # (B, C)
    return _repeat(pooled.to(features.dtype), logit_map)


def exp_pool(features, logit_map):
    """Mean weighted by the softmax of the feature itself: features (B, C, h, w) -> (B, K, C)."""
    cells = features.flatten(2)  # (B, C, h*w)
    return _repeat((cells.softmax(-1) * cells).sum(-1), logit_map)


def _repeat(pooled, logit_map):
    return pooled[:, None].expand(-1, logit_map.shape[1], -1)  # (B, C) -> (B, K, C)


POOLS = {
    "pcam": pcam_pool,
    "average": average_pool,
    "max": max_pool,
    "lse": lse_pool,
    "exp": exp_pool,
}


class Repeat(nn.Module):
    """Grey image (B, 1, H, W) -> (B, channels, H, W), without a copy."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, image):
        return image.expand(-1, self.channels, -1, -1)


class Backbone(nn.Module):
    """DenseNet features + ReLU, and one 1x1 convolution that gives both the logit map and the logit
    of the pooled features.

    image (B, 1, H, W) -> dict: `logits` (B, K), `features` (B, C, h, w) >= 0, the corpus;
    `logit_map` (B, K, h, w); `weight_map` (B, K, h, w), each finding's probability map summing to 1
    (PCAM's attention, reported under any pooling). `backbone.features(image)` is the corpus alone.
    The defaults are the paper's: 16x16x1024 from 512 px, and 6,953,856 weights in the features.

    stem: 3 repeats the grey image to three channels, 1 has a one-channel kernel (same function, see
    `load_features`). stride: image px per corpus cell; 16 and 8 drop the pooling of the last one or
    two transitions and change no weight. memory_efficient: recompute dense layers in the backward
    pass, for large images on small GPUs. Raises ValueError, with the known values, for an unknown
    pool, stem or stride.
    """

    def __init__(
        self,
        growth_rate=32,
        block_config=(6, 12, 24, 16),
        num_init_features=64,
        num_findings=10,
        pool="pcam",
        stem=3,
        bn_size=4,
        stride=32,
        drop_rate=0.0,
        memory_efficient=False,
    ):
        super().__init__()
        from torchvision.models import DenseNet  # seconds to import, and only needed here

        self.pool = _known(pool, POOLS, "pool")
        dense = DenseNet(
            growth_rate=growth_rate,
            block_config=tuple(block_config),
            num_init_features=num_init_features,
            bn_size=bn_size,
            drop_rate=drop_rate,
            num_classes=1,
            memory_efficient=memory_efficient,
        )
        layers = OrderedDict(
            repeat=Repeat(_known(stem, {1: 1, 3: 3}, "stem")),
            **dict(dense.features.named_children()),
            relu5=nn.ReLU(),
        )
        if stem == 1:
            layers["conv0"] = nn.Conv2d(
                1, num_init_features, kernel_size=7, stride=2, padding=3, bias=False
            )
            nn.init.kaiming_normal_(layers["conv0"].weight)
        transitions = [name for name in layers if name.startswith("transition")]
        for name in transitions[len(transitions) - _known(stride, STRIDES, "stride") :]:
            layers[name].pool = nn.Identity()
        self.features = nn.Sequential(layers)
        self.out_channels = dense.classifier.in_features
        self.head = nn.Conv2d(self.out_channels, num_findings, kernel_size=1)

    def forward(self, image):
        features = self.features(image)  # (B, C, h, w)
        logit_map = self.head(features)  # (B, K, h, w)
        pooled = self.pool(features, logit_map)  # (B, K, C)
        weight = self.head.weight.flatten(1)  # (K, C)
        # (B, K)
        logits = torch.einsum("bkc,kc->bk", pooled, weight.to(pooled.dtype)) + self.head.bias
        return {
            "logits": logits,
            "features": features,
            "logit_map": logit_map,
            "weight_map": pcam_weights(logit_map),
        }


def _known(name, table, what):
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {list(table)}")
    return table[name]


def weighted_maps(output, findings):
    """Corpus after PCAM, for the ablation: the features times the weight map of each chosen
    finding, as channels (Table 9).

    output = dict of `Backbone`, findings = n indices -> (B, n*C, h, w), finding by finding. Times
    h*w, so that a uniform weight map leaves the features as they are: the plain product would be
    256 times smaller than the corpus at 16x16.
    """
    # (B, C, h, w), (B, n, h, w)
    features, weights = output["features"], output["weight_map"][:, list(findings)]
    h, w = features.shape[-2:]
    return (h * w * weights[:, :, None] * features[:, None]).flatten(1, 2)  # (B, n*C, h, w)
