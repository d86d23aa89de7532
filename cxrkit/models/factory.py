"""The networks of a profile, with random weights: the paper's, and those it is compared with.

B batch, C channels, S image size, h w grid.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cxrkit.config.vocabulary import FINDINGS, known
from cxrkit.models import baselines
from cxrkit.models.classifier import Classifier, WeightedClassifier
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.models.densenet import Backbone
from cxrkit.models.efficientnet_lite import EfficientNetLite
from cxrkit.models.local_evidence import CellEvidence, LocalEvidence, first_stage
from cxrkit.models.zone_calibration import ZoneCalibration

if TYPE_CHECKING:
    from cxrkit.config.sections import DenseNet, Profile

# variant.corpus -> findings whose weighted maps are the tokens; the paper's own corpus is taken
# before PCAM
CORPORA = {
    "before_pcam": (),
    "ten_maps": FINDINGS,
    "infection_maps": ("opacity", "consolidation", "pneumonia"),
    "pneumonia_map": ("pneumonia",),
}
CONVOLUTIONAL = ("densenet", "resnet")
# of the six zone values of a severity model (`Severity.calibration`)
CALIBRATIONS = {"none": lambda: None, "zones": ZoneCalibration}
MODELS = ("corpus_vit", "vit", *CONVOLUTIONAL, "hybrid", "timm_hybrid")  # and a user's own


def build_backbone(profile: Profile) -> Backbone:
    """Build the backbone of a profile.

    Args:
        profile: where `variant.model` names another feature extractor, that one gets the findings
            head.

    Returns:
        The model with random weights.
    """
    settings = profile.backbone
    if profile.variant.model in baselines.FEATURE_EXTRACTORS:
        features = build_feature_extractor(profile)
        return baselines.FindingsNetwork(features, pool=settings.pool)
    return BACKBONES[known(settings.network, BACKBONES, "backbone")](settings)


def _build_densenet(settings: DenseNet) -> Backbone:
    sizes = asdict(settings)
    for name in ("initial_weights", "augment", "network", "frozen"):  # of the training
        del sizes[name]
    return Backbone(**sizes)


def _build_lite(settings: DenseNet) -> Backbone:
    features = EfficientNetLite(settings.stride, settings.stem)
    return baselines.FindingsNetwork(features, pool=settings.pool)


# backbone.network -> function of `profile.backbone` that builds it
BACKBONES = {"densenet": _build_densenet, "efficientnet_lite0": _build_lite}


def build_feature_extractor(profile: Profile) -> nn.Module:
    """Build the feature extractor of a baseline.

    Args:
        profile: `variant.model` names an entry of `baselines.FEATURE_EXTRACTORS`.

    Returns:
        Module (B, 1, S, S) -> (B, C, h, w) with random weights, `out_channels` and `stride`.
    """
    variant = profile.variant
    build = baselines.FEATURE_EXTRACTORS[variant.model]
    return build(variant.widths, variant.layers, profile.backbone.stem, profile.backbone.stride)


def build_classifier(profile: Profile, map_head: bool = False) -> Classifier:
    """Build the whole model of a profile: the paper's, or the one of its variant (Tables 7 to 9).

    Args:
        profile: `variant.model` and `variant.corpus` name the model.
        map_head: whether it also predicts the severity map.

    Returns:
        The model with random weights.

    Raises:
        ValueError: for an unknown model or corpus.
    """
    variant = profile.variant
    known(variant.model, {*MODELS, *baselines.FEATURE_EXTRACTORS}, "model")
    head = None  # of the findings, which only the backbone has
    if variant.model == "vit":
        features, channels, cell = nn.Identity(), 1, baselines.PATCH_SIZE
        fold = baselines.PATCH_SIZE
    elif variant.model in baselines.FEATURE_EXTRACTORS:
        features = build_feature_extractor(profile)
        channels, cell = features.out_channels, features.stride
        fold = variant.zoom
    else:
        backbone = build_backbone(profile)
        features, head = backbone.features, backbone.head
        channels, cell = backbone.out_channels, profile.backbone.stride
        fold = variant.zoom
    # the severity map has one size in all models
    choices = profile.choices
    map_scale = choices.map_scale * cell // profile.backbone.stride
    options = {
        "upsampling": choices.map_upsampling,
        "norm": choices.map_norm,
        "widths": choices.map_widths,
    }
    map_settings = {"map_head": map_head, "map_scale": map_scale, "map_options": options}
    evidence = _local_evidence(profile, features) if map_head else None
    how = known(profile.severity.calibration, CALIBRATIONS, "calibration")
    calibration = CALIBRATIONS[how]() if map_head else None
    if variant.model in CONVOLUTIONAL:
        embed_dim = profile.transformer.embed_dim
        pooled = baselines.PooledHead(channels, embed_dim, **map_settings)
        return Classifier(features, pooled, evidence=evidence, calibration=calibration)
    if map_head and choices.map_evidence == "cells":
        cells = CellEvidence(channels * fold**2, map_scale)
        return Classifier(features, cells, fold, calibration=calibration)
    chosen = CORPORA[known(variant.corpus, CORPORA, "corpus")]
    in_channels = channels * fold**2 * max(1, len(chosen))
    grid = profile.image_size // cell
    transformer = _build_transformer(profile, in_channels, grid, map_settings)
    if chosen:
        return WeightedClassifier(features, head, transformer, chosen, calibration)
    return Classifier(features, transformer, fold, evidence, calibration)


def _local_evidence(profile: Profile, features: nn.Module) -> LocalEvidence | None:
    """Local evidence on the features of a model, where the profile asks for it and they allow it.

    Corpora after PCAM and the models without a first stage keep the map of the tokens.
    """
    if profile.choices.map_evidence != "local" or profile.variant.corpus != "before_pcam":
        return None
    if profile.variant.model in ("vit", "timm_hybrid"):
        return None
    first = nn.Sequential(*list(features.children())[: first_stage(features)])
    first.eval()  # batch norm keeps its statistics
    with torch.no_grad():
        early = first(torch.zeros(1, 1, 64, 64))  # (1, C, 16, 16)
    first.train()
    return LocalEvidence(early.shape[1])


def _build_transformer(
    profile: Profile, in_channels: int, grid: int, map_settings: dict[str, Any]
) -> CorpusViT:
    """Build the corpus ViT with the sizes of a profile."""
    sizes = profile.transformer
    return CorpusViT(
        in_channels,
        grid,
        sizes.embed_dim,
        sizes.depth,
        sizes.num_heads,
        mlp_dim=round(profile.choices.mlp_dim * sizes.embed_dim / 768),
        fused=True,
        initialisation=sizes.initialisation,
        positions=sizes.positions,
        even=sizes.even,
        **map_settings,
    )
