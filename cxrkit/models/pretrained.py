"""Weights that others trained: DenseNet state dicts, their keys checked, their stem converted."""

import re

import torch


def load_features(backbone, state, input_scale=1.0):
    """Load the `features.*` of a DenseNet state dict, torchvision's or TorchXRayVision's; the head
    stays as it is.

    The stem converts without changing the function of a grey image: a 3-channel kernel is summed
    for `stem=1`, a 1-channel kernel is shared out for `stem=3`. `input_scale` multiplies the stem,
    for weights that were trained on larger numbers: TorchXRayVision takes -1024..1024 where (x -
    128) / 64 takes -2..2, so it needs `TORCHXRAYVISION_SCALE`. Raises ValueError naming missing,
    foreign or misshapen keys.
    """
    state = {
        _modern(name): tensor for name, tensor in state.items() if name.startswith("features.")
    }
    own = {
        name: tensor
        for name, tensor in backbone.state_dict().items()
        if name.startswith("features.")
    }
    stem = "features.conv0.weight"
    if stem in state:
        state[stem] = input_scale * convert_stem(state[stem], own[stem].shape[1])
    wrong = [
        name
        for name in own | state
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if wrong:
        raise ValueError(
            f"state dict does not fit this DenseNet: {len(wrong)} keys missing, foreign or "
            "misshapen, first "
            f"{wrong[:3]}; growth_rate, block_config and num_init_features must be those of the "
            "weights"
        )
    backbone.load_state_dict(state, strict=False)
    return backbone


# its input (2 x / 255 - 1) * 1024 is 514 times ours, plus 4
TORCHXRAYVISION_SCALE = 64 * 2 * 1024 / 255


def _modern(name):
    # weights published before 2019 write `norm.1` for `norm1`: dots are no longer allowed in module
    # names
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def convert_stem(weight, channels):
    """First kernel (O, c, 7, 7) -> (O, channels, 7, 7) with the same response to a grey image
    repeated over its channels.
    """
    if weight.shape[1] == channels:
        return weight
    return weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels


def imagenet_state():
    """State dict of torchvision's DenseNet-121 trained on ImageNet (31 MB), its hash checked, for
    `load_features`.

    Raises RuntimeError when it is neither cached nor within reach.
    """
    from torchvision.models import DenseNet121_Weights

    return published(DenseNet121_Weights.IMAGENET1K_V1)


def published(weights):
    """State dict of an entry of torchvision's weights, from the cache or the network, its hash
    checked. Raises as `imagenet_state`.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise RuntimeError(
            f"ImageNet weights could not be fetched ({error}); put {weights.url} into "
            f"{torch.hub.get_dir()}/checkpoints, or start from random weights"
        ) from error
