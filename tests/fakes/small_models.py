"""Small networks with random weights: a profile whose models are quick to make."""

from dataclasses import replace
from pathlib import Path

import ship_weights
import torch

from cxrkit.config import profiles, sections
from cxrkit.inference import trained
from cxrkit.models.adain_networks import Translator
from cxrkit.training import checkpoint

SIZE = 64


def small_profile(**changes):
    """Models that are quick to make."""
    return replace(
        profiles.demo(),
        image_size=SIZE,
        backbone=sections.DenseNet(
            growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=8, stem=1, stride=16
        ),
        segmenter=sections.Segmenter(size=32, widths=(8, 8), residual=True),
        transformer=sections.ViT(embed_dim=32, depth=2, num_heads=2),
        **changes,
    )


def variant_profile(**variant):
    """The smallest profile, with the model of a variant."""
    return replace(
        profiles.demo(),
        image_size=SIZE,
        backbone=sections.DenseNet(
            growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
        ),
        transformer=sections.ViT(embed_dim=16, depth=1, num_heads=2),
        variant=sections.Variant(**variant),
    )


def small_translator(seed=0):
    """The networks of the segmenter for images of 16 px, in double precision."""
    torch.manual_seed(seed)
    translator = Translator(
        size=16,
        widths=(4, 6, 8),
        discriminator_widths=(4, 6),
        style_dim=3,
        latent_dim=2,
        hidden=5,
    )
    return translator.double()


def noise_images(n=3, size=16, seed=1):
    """Images of noise (n, 1, size, size), in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, size, size, generator=generator, dtype=torch.float64)


def random_state(network):
    """State dict of a network with its weights moved, so that no output is constant."""
    state = {}
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and "var" not in name:
            tensor = tensor + 0.1 * torch.randn_like(tensor)
        state[name] = tensor
    return state


def write_weights(folder: Path) -> Path:
    """Random networks as `tools/ship_weights.py` writes them.

    In 16 bit, with profile and licence in the header.
    """
    for i, (stage, build) in enumerate(trained.NETWORKS.items()):
        torch.manual_seed(i)
        checkpoint.save_tensors(
            folder / f"{stage}.safetensors",
            ship_weights.rounded(random_state(build(small_profile()))),
            profile=small_profile().to_dict(),
            licence="made-up",
        )
    return folder
