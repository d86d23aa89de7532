"""Factory: the networks of a profile, with random weights: the paper's, and those it is compared with."""

from dataclasses import asdict

from torch import nn

from cxrkit.config.vocabulary import FINDINGS, known
from cxrkit.models import baselines
from cxrkit.models.classifier import Network, WeightedNetwork
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.models.densenet import Backbone

# variant.corpus -> findings whose weighted maps are the words; the paper's own corpus is taken
# before PCAM
CORPORA = {
    "before_pcam": (),
    "ten_maps": FINDINGS,
    "infection_maps": ("opacity", "consolidation", "pneumonia"),
    "pneumonia_map": ("pneumonia",),
}
CONVOLUTIONAL = ("densenet", "resnet")
MODELS = ("corpus_vit", "vit", *CONVOLUTIONAL, "hybrid", "timm_hybrid")


def backbone_network(profile):
    """The profile's backbone with random weights, or, where `profile.variant` names another trunk,
    that one with the same head.
    """
    if profile.variant.model in baselines.TRUNKS:
        return baselines.Findings(feature_extractor(profile), pool=profile.backbone.pool)
    sizes = asdict(profile.backbone)
    del sizes["start"], sizes["augment"]
    return Backbone(**sizes)


def feature_extractor(profile):
    """The features of a rival of the paper's model (`profile.variant`), with random weights."""
    variant = profile.variant
    return baselines.TRUNKS[variant.model](
        variant.widths, variant.layers, profile.backbone.stem, profile.backbone.stride
    )


def network(profile, map_head=False):
    """The profile's whole model with random weights: the paper's, or the one that `profile.variant`
    names (Tables 7 to 9).

    Raises ValueError for an unknown model or corpus.
    """
    variant, backbone = profile.variant, profile.backbone
    fold, head = variant.zoom, None
    if known(variant.model, MODELS, "model") == "vit":
        features, channels, cell, fold = nn.Identity(), 1, baselines.PATCH, baselines.PATCH
    elif variant.model in baselines.TRUNKS:
        features = feature_extractor(profile)
        channels, cell = features.out_channels, features.stride
    else:
        whole = backbone_network(profile)
        features, head, channels, cell = (
            whole.features,
            whole.head,
            whole.out_channels,
            backbone.stride,
        )
    # one size of the severity map for all
    scale = profile.choices.map_scale * cell // backbone.stride
    if variant.model in CONVOLUTIONAL:
        return Network(
            features,
            baselines.Pooled(
                channels, profile.transformer.embed_dim, map_head=map_head, map_scale=scale
            ),
        )
    chosen = CORPORA[known(variant.corpus, CORPORA, "corpus")]
    reader = _vit(
        profile,
        channels * fold**2 * max(1, len(chosen)),
        profile.image_size // cell,
        map_head,
        scale,
    )
    return (
        WeightedNetwork(features, head, reader, chosen)
        if chosen
        else Network(features, reader, fold)
    )


def _vit(profile, channels, grid, map_head, map_scale):
    sizes = profile.transformer
    return CorpusViT(
        channels,
        grid,
        sizes.embed_dim,
        sizes.depth,
        sizes.num_heads,
        round(profile.choices.mlp_dim * sizes.embed_dim / 768),
        map_head=map_head,
        map_scale=map_scale,
        fused=True,
    )
