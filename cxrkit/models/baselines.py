"""The models that the corpus ViT is compared with (Tables 7 and 8): ResNets, DenseNet, ViT, hybrid
ViT, and where they may start.

Every one is a trunk, image (B, 1, H, W) -> features (B, C, h, w), and a reader of these features:
`Pooled` for a convolutional network, `transformer.CorpusViT` for a transformer. The standard ViT
has no trunk: its patches of 16x16 px are the features. B batch, C channels, h w grid, D embed, K
classes or findings, s map scale.
"""

import re
from collections import OrderedDict

import torch.nn.functional as F
from torch import nn

from cxrkit.models.corpus_vit import MapHead
from cxrkit.models.densenet import POOLS, Backbone, Repeat
from cxrkit.models.pretrained import convert_stem, imagenet_state, published

PATCH = 16  # px of a side, of the ViT and of a cell of its hybrid
# blocks of each stage -> name of the published weights
RESNETS = {(3, 4, 6, 3): "ResNet50", (3, 8, 36, 3): "ResNet152"}


class ResNet(nn.Sequential):
    """Trunk of a ResNet with bottleneck blocks: image (B, 1, H, W) -> (B, 4 * last width, h, w).
    The defaults are ResNet-50.

    Names of the weights are torchvision's. stem: 3 repeats the grey image, 1 has a one-channel
    kernel. stride: image px a cell; the last stages that would go beyond it keep their resolution.
    Fewer `layers` than `widths` leave the last stages out (hybrid ViT).
    """

    def __init__(self, widths=(64, 128, 256, 512), layers=(3, 4, 6, 3), stem=3, stride=32):
        super().__init__(
            OrderedDict(
                repeat=Repeat(stem),
                conv1=nn.Conv2d(stem, widths[0], 7, stride=2, padding=3, bias=False),
                bn1=nn.BatchNorm2d(widths[0]),
                relu=nn.ReLU(inplace=True),
                maxpool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        self.out_channels, self.stride = widths[0], 4
        for i, (width, blocks) in enumerate(zip(widths, layers), 1):
            step = 2 if i > 1 and self.stride < stride else 1
            self.add_module(f"layer{i}", _stage(self.out_channels, width, blocks, step))
            self.out_channels, self.stride = 4 * width, self.stride * step
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(channels, width, blocks, step):
    """Bottleneck blocks in a row; the first has the stride and brings the shortcut to 4 * width
    channels.
    """
    from torchvision.models.resnet import Bottleneck  # seconds to import, and only needed here

    shortcut = nn.Sequential(
        nn.Conv2d(channels, 4 * width, 1, stride=step, bias=False), nn.BatchNorm2d(4 * width)
    )
    return nn.Sequential(
        Bottleneck(channels, width, step, shortcut),
        *(Bottleneck(4 * width, width) for _ in range(blocks - 1)),
    )


def timm_resnet():
    """Trunk of timm's hybrid ViT-B: ResNetV2-50 of three stages, weight standardisation and group
    norm, 16 px a cell, 1024 channels.

    Raises RuntimeError without the extra `weights`.
    """
    trunk = nn.Sequential(Repeat(3), _timm("vit_base_r50_s16_384").patch_embed.backbone)
    trunk.out_channels, trunk.stride = 1024, 16
    return trunk


def _timm(name, **options):
    try:
        import timm
    except ImportError as error:
        raise RuntimeError(
            'the published hybrid ViT needs timm: pip install "cxrkit[weights]"'
        ) from error
    return timm.create_model(name, **options)


# model -> widths, layers, stem, stride -> its features; a ViT has none, and the others are
# DenseNets
TRUNKS = {
    "resnet": ResNet,
    "hybrid": lambda widths, layers, stem, stride: ResNet(widths, layers, stem, PATCH),
    "timm_hybrid": lambda widths, layers, stem, stride: timm_resnet(),
}


class Pooled(nn.Module):
    """Reader of a convolutional network: features (B, C, h, w) -> dict `logits` (B, K) of their
    mean, and with `map_head` also `severity_logits` and `severity_map` (B, 1, s*h, s*w): a 1x1
    convolution to D, then the map head of the corpus ViT.
    """

    def __init__(self, in_channels, embed_dim=768, num_classes=3, map_head=False, map_scale=16):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)
        self.proj = nn.Conv2d(in_channels, embed_dim, 1) if map_head else None
        self.map_head = MapHead(embed_dim, map_scale) if map_head else None

    def forward(self, features):
        out = {"logits": self.head(features.mean((2, 3)))}  # (B, K)
        if self.map_head is not None:
            out["severity_logits"] = self.map_head(F.relu(self.proj(features)))  # (B, 1, s*h, s*w)
            out["severity_map"] = out["severity_logits"].sigmoid()
        return out


class Findings(Backbone):
    """Any trunk with the findings head of the backbone: what the rivals learn in order to start
    where ours starts.
    """

    def __init__(self, features, num_findings=10, pool="pcam"):
        nn.Module.__init__(self)
        self.pool, self.features, self.out_channels = POOLS[pool], features, features.out_channels
        self.head = nn.Conv2d(features.out_channels, num_findings, kernel_size=1)


# published weights


def imagenet(model, layers=(), stem=3):
    """State dict of a model trained on ImageNet, by our names (`features.*`, `transformer.*`),
    without the head of its 1000 classes.

    model: densenet, resnet, vit, hybrid (torchvision's ResNet-50 and ViT-B/16, joined by a random
    projection), timm_hybrid. Raises RuntimeError where the weights cannot be fetched, ValueError
    where none are published.
    """
    if model not in IMAGENET:
        raise ValueError(
            f"no ImageNet weights are published for {model!r}; there are some for: {list(IMAGENET)}"
        )
    state = IMAGENET[model](tuple(layers))
    for stem_name in ("features.conv0.weight", "features.conv1.weight"):
        if stem_name in state:
            state[stem_name] = convert_stem(state[stem_name], stem)
    return state


def _resnet_state(layers):
    from torchvision import models

    whole = next(
        (name for blocks, name in RESNETS.items() if blocks[: len(layers)] == layers), None
    )
    if not layers or whole is None:
        raise ValueError(
            f"no ImageNet weights are published for a ResNet of {layers} blocks; known: "
            f"{list(RESNETS)}"
        )
    state = published(getattr(models, f"{whole}_Weights").IMAGENET1K_V1)
    kept = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(len(layers))))
    return {f"features.{name}": tensor for name, tensor in state.items() if name.startswith(kept)}


def _vit_state(layers=()):
    from torchvision.models import ViT_B_16_Weights

    return from_torchvision(published(ViT_B_16_Weights.IMAGENET1K_V1))


def _hybrid_state(layers):
    vit = {name: tensor for name, tensor in _vit_state().items() if "patch_embed" not in name}
    return _resnet_state(layers) | vit


def _timm_state(layers=()):
    try:
        return from_timm(_timm("vit_base_r50_s16_384", pretrained=True).state_dict())
    except OSError as error:  # huggingface_hub without a network
        raise RuntimeError(
            f"timm's hybrid ViT could not be fetched ({error}); fetch it once where there is a "
            "network, or start from "
            "random weights"
        ) from error


IMAGENET = {
    "densenet": lambda layers: imagenet_state(),
    "corpus_vit": lambda layers: imagenet_state(),
    "resnet": _resnet_state,
    "vit": _vit_state,
    "hybrid": _hybrid_state,
    "timm_hybrid": _timm_state,
}

RENAMED = (
    ("class_token", "cls_token"),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_", "blocks."),
    ("encoder.ln.", "norm."),
    ("conv_proj", "patch_embed.proj"),
    (".ln_", ".norm"),
    (".self_attention.in_proj_", ".attn.qkv."),
    (".self_attention.out_proj", ".attn.proj"),
    (".mlp.linear_1", ".mlp.fc1"),
    (".mlp.linear_2", ".mlp.fc2"),
    (".mlp.0", ".mlp.fc1"),
    (".mlp.3", ".mlp.fc2"),
)


def from_torchvision(state):
    """State dict of torchvision's ViT -> `transformer.*` of a corpus ViT that reads
    `F.pixel_unshuffle` of the grey image.

    The patch kernel (D, 3, p, p), summed over its colours, is the 1x1 kernel of p*p channels.
    """
    out = {}
    for name, tensor in state.items():
        if name.startswith("heads."):
            continue
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        out[f"transformer.{name}"] = (
            tensor.sum(1).flatten(1)[:, :, None, None]
            if name == "patch_embed.proj.weight"
            else tensor
        )
    return out


def from_timm(state):
    """State dict of timm's hybrid ViT -> `features.*` of `timm_resnet` and `transformer.*`."""
    named = {
        re.sub(r"^patch_embed\.backbone", "features.1", name): tensor
        for name, tensor in state.items()
        if not name.startswith("head.")
    }
    return {
        name if name.startswith("features.") else f"transformer.{name}": tensor
        for name, tensor in named.items()
    }
