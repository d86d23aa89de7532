"""Choices: what the paper leaves open, a question each with its named answers.

Most are fields of `Choices`. A name with a dot is a field of that section of the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import ConfigDict

# What the paper leaves open: name -> the question, then each value with its reading. The
# first value is the default.
OPEN_CHOICES = {
    "brixia_threshold": (
        "Brixia zone score 0-3 to 0/1",
        {1: "involved if >= 1", 2: "involved if >= 2"},
    ),
    "array_columns": (
        "column 0 of the 3x2 array",
        {
            "patient_right": "column 0 = patient's right = image left (Brixia A, B, C top to "
            "bottom)",
            "patient_left": "column 0 = patient's left = image right",
        },
    ),
    "zone_height": (
        "the 5/12 and 2/3 lines are measured on",
        {
            "joint": "the height of both lungs together",
            "own": "each lung's own height",
            "image": "the image",
        },
    ),
    "zone_origin": (
        "the zone lines start at",
        {
            "lungs": "the top of the lungs",
            "row0": "row 0 of the image (author code forgets to add the top)",
        },
    ),
    "lung_sides": (
        "which lung is which",
        {
            "components": "two largest components; the one further right in the image is the "
            "patient's left",
            "midline": "cut at the middle column of the mask",
        },
    ),
    "map_scale": (
        "severity map pixels per token",
        {16: "256x256 from 16x16 tokens", 8: "128x128 from 16x16 tokens"},
    ),
    "sigmoid": (
        "sigmoid and lung mask",
        {"before_mask": "sigmoid, then mask", "after_mask": "mask, then sigmoid"},
    ),
    "severity_loss": (
        "severity loss",
        {"mse": "squared error on six values", "bce": "binary cross-entropy on six values"},
    ),
    "severity_score": (
        "severity score 0-6",
        {"soft": "sum of six soft values", "hard": "sum of six values cut at 0.5"},
    ),
    "class_head": (
        "class head and loss",
        {
            "softmax": "one linear layer, softmax cross-entropy",
            "binary": "three one-logit heads with binary cross-entropy",
        },
    ),
    "mlp_dim": (
        "width of the MLP at D = 768",
        {3072: "93.0 M parameters in all", 2048: "74.1 M parameters in all"},
    ),
    "pretraining_images": (
        "images that train the findings",
        {
            "all": "all of the datasets that train, where others test (CheXpert's own valid.csv, "
            "and NIH)",
            "split": "those of 70 % of the patients",
        },
    ),
    "backbone.initial_weights": (
        "the backbone starts from",
        {
            "random": "random weights",
            "imagenet": "DenseNet-121 of ImageNet",
            "torchxrayvision": "DenseNet-121 of seven chest X-ray datasets, NIH and CheXpert among "
            "them (TorchXRayVision)",
        },
    ),
    "class_balance": (
        "images of a diagnosis batch",
        {"equal": "every class equally often", "as_they_are": "every image equally often"},
    ),
    "map_upsampling": (
        "upsizing of the map head",
        {"nearest": "nearest neighbour", "bilinear": "bilinear"},
    ),
    "map_norm": (
        "normalisation in the map head",
        {"none": "none", "batch": "batch norm after each convolution"},
    ),
    "map_widths": (
        "channels of the four blocks of the map head",
        {
            "halved": "each has half of those before it, at least 16",
            "constant": "each has those of the tokens, at most 256",
        },
    ),
    "map_evidence": (
        "what places the severity map",
        {
            "tokens": "the tokens of the transformer, which know the whole image",
            "local": "the tokens, times evidence from the few pixels around a place",
            "cells": "each cell of the corpus by itself, without the transformer",
        },
    ),
    "zone_maximum": (
        "maximum of a zone of the map",
        {
            "pixel": "its largest value: one pixel of a zone learns from a film",
            "tenth": "the mean of its highest tenth: several pixels learn from a film",
        },
    ),
    "lr_decay": (
        "step decay of the backbone",
        {
            "epochs_10_15": "x0.5 at epochs 10 and 15 (never reached: 160,000 steps = 6.7 epochs)",
            "two_thirds": "x0.1 at 2/3",
        },
    ),
    "uncertain": (
        "uncertain CheXpert labels",
        {
            "mixed": "ones for edema and atelectasis, zeros for the rest, blank = 0",
            "ignore": "uncertain = unknown",
            "zeros": "uncertain = 0",
            "ones": "uncertain = 1",
        },
    ),
    "resize": (
        "resize",
        {"plain": "straight to a square", "pad": "keep the aspect, pad right and bottom with grey"},
    ),
    "augmentation": (
        "augmentation",
        {
            "affine": "+-15 deg, 5 % shift, 0.95-1.05 scale, flip 0.2 for classification, none for "
            "severity",
            "shift": "5 % shift in whole pixels and flip 0.2: no film is resampled",
            "scanner": "shift, and window, gamma, sharpness and noise as of another machine",
            "none": "none",
        },
    ),
    "stretch": (
        "grey values of any depth to 0-255",
        {
            "robust": "by the extremes without outliers, for every depth alike",
            "min_max": "8 bit as it is, 16 bit by its extremes",
        },
    ),
    "working_size": (
        "size at which an image is equalised",
        {
            "double": "twice the side of the networks' input, whatever the size of the file",
            "own": "the size of the file",
        },
    ),
    "order": (
        "order of preprocessing",
        {
            "equalize_first": "equalise, blur, resize, normalise",
            "resize_first": "resize, equalise, blur, normalise",
        },
    ),
    "threshold_from": (
        "operating point chosen on",
        {"validation": "validation, then carried over", "test": "the test set itself (optimistic)"},
    ),
    "views": ("images of unknown view", {"known": "left out and counted", "all": "kept"}),
    "normalize": (
        "normalisation of 0-255 grey",
        {
            "fixed": "(x - 128) / 64",
            "imagenet": "(x / 255 - 0.449) / 0.226",
            "zscore": "each image to mean 0, deviation 1",
        },
    ),
    "severity_start": (
        "severity model starts from",
        {"classifier": "the trained classification model", "backbone": "the backbone only"},
    ),
    "severity.healthy": (
        "images without disease, for the severity model",
        {
            "left_out": "left out: it learns from scored images alone",
            "zeros": "training images of the diagnosis that are normal, as arrays of zeros",
        },
    ),
}


# questions that went, with the one value that they had: older weights and settings still say it
REMOVED = {"weighted_maps": "channels"}
# fields of `grid` that stand in its `diagnosis_search` now -> their names there
OF_SEARCH = {
    "trial_rates": "rates",
    "trial_steps": "steps",
    "most_steps": "most_steps",
    "chosen_rates": "chosen_rates",
    "chosen_steps": "chosen_steps",
}


def without_removed(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a profile as they are read now: answers to questions that went are left out.

    What has another place now is moved there.

    Args:
        profile: nested settings, as a settings file or shipped weights hold them.
    """
    found, sources, grid = dict(profile), profile.get("sources"), profile.get("grid")
    if isinstance(grid, Mapping) and not OF_SEARCH.keys().isdisjoint(grid):
        kept = {name: value for name, value in grid.items() if name not in OF_SEARCH}
        search = {OF_SEARCH[name]: value for name, value in grid.items() if name in OF_SEARCH}
        found["grid"] = {**kept, "diagnosis_search": {**kept.get("diagnosis_search", {}), **search}}
    if isinstance(sources, Mapping) and "lungs_only" in sources:  # now a framing of three
        kept = {name: value for name, value in sources.items() if name != "lungs_only"}
        found["sources"] = {**kept, "framing": "lungs"} if sources["lungs_only"] else kept
    choices = profile.get("choices")
    if not isinstance(choices, Mapping):
        return found
    kept = {name: value for name, value in choices.items() if REMOVED.get(name) != value}
    return {**found, "choices": kept}


def _default(name: str) -> Any:
    return next(iter(OPEN_CHOICES[name][1]))


def _added(name: str) -> Any:
    """The default of a question that was added later: it enters a key only where it departs."""
    return field(default=_default(name), metadata={"optional": True})


@dataclass(frozen=True)
class Choices:
    """One value for each question the paper leaves open; `Choices()` is the kit's default reading.

    Raises:
        ValueError: a value is unknown; the message lists the known ones.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    brixia_threshold: int = _default("brixia_threshold")
    array_columns: str = _default("array_columns")
    zone_height: str = _default("zone_height")
    zone_origin: str = _default("zone_origin")
    lung_sides: str = _default("lung_sides")
    map_scale: int = _default("map_scale")
    sigmoid: str = _default("sigmoid")
    severity_loss: str = _default("severity_loss")
    severity_score: str = _default("severity_score")
    class_head: str = _default("class_head")
    mlp_dim: int = _default("mlp_dim")
    pretraining_images: str = _added("pretraining_images")
    class_balance: str = _added("class_balance")
    map_upsampling: str = _added("map_upsampling")
    map_norm: str = _added("map_norm")
    map_widths: str = _added("map_widths")
    map_evidence: str = _added("map_evidence")
    zone_maximum: str = _added("zone_maximum")
    lr_decay: str = _default("lr_decay")
    uncertain: str = _default("uncertain")
    resize: str = _default("resize")
    augmentation: str = _default("augmentation")
    stretch: str = _added("stretch")
    working_size: str = _added("working_size")
    order: str = _default("order")
    threshold_from: str = _default("threshold_from")
    views: str = _default("views")
    normalize: str = _default("normalize")
    severity_start: str = _default("severity_start")

    def __post_init__(self) -> None:
        for f in fields(self):
            question, known = OPEN_CHOICES[f.name]
            if getattr(self, f.name) not in known:
                raise ValueError(
                    f"Choices.{f.name} ({question}) = {getattr(self, f.name)!r}; known values: "
                    f"{list(known)}"
                )

    @classmethod
    def text(cls) -> Choices:
        """The plain reading of the paper's text: where it differs from our default, it wins."""
        return cls(
            stretch="min_max",
            working_size="own",
            threshold_from="test",
            lr_decay="two_thirds",
        )

    @classmethod
    def author(cls) -> Choices:
        """What the authors' later public code does."""
        return cls(
            stretch="min_max",
            working_size="own",
            zone_origin="row0",
            class_head="binary",
            mlp_dim=2048,
            resize="pad",
        )
