"""Quality control: is this image like those that the models were trained on?

A small network looks at the whole image (FAULTS). QUANTITIES compares simple measures with their
range over training images. The lung mask and the size of the image are checked by rule. Hit rates
and false alarms of every warning: docs/predict.md (`tools/fit_quality_model.py` trains and
measures).

B batch, H W image, S side of the lung mask, h w side of the segmenter's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from torch import nn

from cxrkit.data import lung_zones, preprocessing
from cxrkit.training import checkpoint
from cxrkit.training.devices import device_of

SIZE = 128  # px that the network sees
FAULTS = {  # in the order of the network's outputs -> the warning
    "not_frontal": "does not look like a frontal chest X-ray",
    "inverted": "grey values look inverted (bright should be dense)",
    "turned": "looks turned by a quarter or a half",
    "flipped": "looks flipped left to right (or the heart lies on the right)",
    "cropped": "looks cropped: part of the lungs may be missing",
    "drawn": "something is drawn or written on the film (an arrow, a line, text)",
    "tilted": "looks tilted by some degrees",
    "photographed": "looks photographed (tilt, glare or stripes of a screen)",
}
# faults for which a film is unusable; all others leave it usable, with a warning
UNUSABLE_FAULTS = ("not_frontal", "inverted", "turned")
# the rates of the warnings at these limits: tools/evaluate_lungs.py
LUNG_SHARE = 0.08  # of the image: less is no pair of lungs
LUNG_BALANCE = 0.5  # area of the smaller lung over that of the larger one
LUNG_UNCERTAINTY = 1.0  # see `uncertainty`
LUNG_AGREEMENT = 0.92  # see `mirror_agreement`
LUNG_CONTRAST = 0.45  # see `lung_contrast`

Ranges = dict[str, tuple[float, float]]


class QualityModel(nn.Module):
    """A small network that detects FAULTS.

    It keeps the position of what it sees, because a flipped heart must be noticed.

    Args:
        widths: Channels of the convolutions; each halves the side.
    """

    def __init__(self, widths: Sequence[int] = (8, 16, 32, 48)) -> None:
        super().__init__()
        layers = []
        for before, after in zip((1, *widths), widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
        self.features = nn.Sequential(*layers)
        cells = (SIZE // 2 ** len(widths)) ** 2
        self.head = nn.Linear(widths[-1] * cells, len(FAULTS))
        self.to(memory_format=torch.channels_last)  # half the time on a CPU

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the faults.

        Args:
            image: (B, 1, 128, 128) in [-1, 1], see `network_input`.

        Returns:
            (B, 8), in the order of FAULTS.
        """
        return self.head(self.features(image).flatten(1))  # (B, 8)


def network_input(pixels: np.ndarray) -> np.ndarray:
    """What the network sees of an image.

    Args:
        pixels: uint8 or uint16 (H, W).

    Returns:
        float32 (128, 128) in [-1, 1], equalised.
    """
    small = preprocessing.resize(preprocessing.to_uint8(pixels), SIZE)
    return preprocessing.normalize(cv2.equalizeHist(small), "signed")


# simple measures of the whole image, uint8 (H, W)


def aspect(grey: np.ndarray) -> float:
    """Width over height."""
    return grey.shape[1] / grey.shape[0]


def spread(grey: np.ndarray) -> float:
    """Distance of the 5th and the 95th percentile of grey, in [0, 1]."""
    low, high = np.percentile(grey, (5, 95))
    return float(high - low) / 255


def flatness(grey: np.ndarray) -> float:
    """Share of the most frequent grey value."""
    counts = np.bincount(grey.ravel(), minlength=256)
    return float(counts.max() / grey.size)


def grain(grey: np.ndarray) -> float:
    """Mean of the absolute Laplacian at 256 px over the standard deviation of grey."""
    small = cv2.resize(grey, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32)
    laplacian = np.abs(cv2.Laplacian(small, cv2.CV_32F))
    return float(laplacian.mean() / max(small.std(), 1.0))


# name -> (what it is, function); their ranges over training images lie with the network's weights
QUANTITIES: dict[str, tuple[str, Callable[[np.ndarray], float]]] = {
    "aspect": ("width over height", aspect),
    "contrast": ("contrast (5th to 95th percentile of grey)", spread),
    "flat": ("share of the most frequent grey value", flatness),
    "grain": ("fine detail or noise", grain),
}


def quantities(pixels: np.ndarray) -> dict[str, float]:
    """The simple measures of an image, by name.

    Args:
        pixels: uint8 or uint16 (H, W).
    """
    # 8 bits as they are: the stretch that the networks see hides a poor contrast
    grey = pixels if pixels.dtype == np.uint8 else preprocessing.to_uint8(pixels)
    return {name: measure(grey) for name, (_, measure) in QUANTITIES.items()}


def out_of_range(pixels: np.ndarray, ranges: Ranges) -> list[str]:
    """Which measures of an image lie outside of their range over training images.

    Args:
        pixels: uint8 or uint16 (H, W).
        ranges: (low, high) by the names of QUANTITIES.

    Returns:
        A warning for each.
    """
    found = []
    for name, value in quantities(pixels).items():
        low, high = ranges[name]
        if not low <= value <= high:
            found.append(
                f"out of the training range: {QUANTITIES[name][0]} {value:.2g}, trained on "
                f"{low:.2g} to {high:.2g}"
            )
    return found


def too_small(shape: Sequence[int], size: int) -> list[str]:
    """Warns of an image smaller than the models' input: details that they look for are missing.

    Args:
        shape: (H, W) of the image.
        size: Side of the models' input, px.
    """
    if min(shape) >= size:
        return []
    return [f"too small: {shape[1]}x{shape[0]} px, the models look at {size}x{size}"]


# checks of the lung mask


def uncertainty(probs: np.ndarray, mask: np.ndarray) -> float:
    """How much of the segmenter's output is neither yes nor no, for the size of the lungs.

    Args:
        probs: Probability of lung (h, w).
        mask: Clean lung mask, bool (S, S).

    Returns:
        Mean of 4 p (1 - p) over the mask's share of the image. 0 = sure everywhere; about 0.4 on
        chest films, above 1 on pictures of something else.
    """
    return float((4 * probs * (1 - probs)).mean() / max(mask.mean(), 1e-3))


def mirror_agreement(probs: np.ndarray, mirrored: np.ndarray) -> float:
    """Soft Dice of the lungs of an image and of its mirror image.

    Args:
        probs: Probability of lung (h, w).
        mirrored: The same of the mirror image, flipped back.

    Returns:
        In [0, 1].
    """
    common = np.minimum(probs, mirrored).sum()
    return float(2 * common / max(probs.sum() + mirrored.sum(), 1e-6))


def lung_contrast(pixels: np.ndarray, mask: np.ndarray) -> float:
    """How often a pixel beside the lungs is brighter than one in them.

    Lungs hold air, and even diseased ones are mostly darker than chest wall and mediastinum.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: Clean lung mask, bool (S, S).

    Returns:
        In [0, 1], ties count half; NaN where there is no pixel inside or beside.
    """
    size = len(mask)
    grey = preprocessing.resize(preprocessing.to_uint8(pixels), size)  # (S, S)
    near = _dilated(mask, max(1, size // 128))
    far = _dilated(mask, max(2, 6 * size // 128))
    inside, beside = _grey_shares(grey, mask), _grey_shares(grey, far & ~near)  # (256,) each
    if not inside.any() or not beside.any():
        return np.nan
    darker = np.cumsum(inside) - inside / 2  # share of lung pixels below each grey value
    return float(beside @ darker)


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask grown by `radius` px to all sides."""
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def _grey_shares(grey: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Share of each grey value among some pixels, (256,); zeros where there are none."""
    return np.bincount(grey[where], minlength=256) / max(where.sum(), 1)


def lungs_missing(
    mask: np.ndarray, pixels: np.ndarray | None = None, probs: np.ndarray | None = None
) -> list[str]:
    """Why what the segmenter found is no pair of lungs.

    Args:
        mask: Clean lung mask, bool (S, S).
        pixels: The image, uint8 or uint16 (H, W).
        probs: Probability of lung on the image and on its mirror image, (2, h, w).

    Returns:
        The first reason as a warning; empty for a pair of lungs. What is not given is not checked.
    """
    smaller, larger = sorted(int(side.sum()) for side in lung_zones.sides(mask))
    total = smaller + larger
    if total < LUNG_SHARE * mask.size:
        return [f"lungs not found: {total / mask.size:.0%} of the film"]
    reason = ""
    if smaller < LUNG_BALANCE * larger:
        reason = "only one, or one far smaller than the other"
    elif probs is not None and uncertainty(probs.mean(0), mask) > LUNG_UNCERTAINTY:
        reason = "the segmenter is uncertain"
    elif probs is not None and mirror_agreement(*probs) < LUNG_AGREEMENT:
        reason = "the segmenter finds others in the mirror image"
    elif pixels is not None and lung_contrast(pixels, mask) < LUNG_CONTRAST:
        reason = "what was segmented is brighter than what lies beside it"
    return [f"lungs not found: {reason}"] if reason else []


@dataclass(frozen=True)
class Checked:
    """What a quality control says of an image.

    Attributes:
        warnings: Why a prediction may be wrong.
        unusable: Those of the warnings for which the image is unusable; empty for a usable one.
    """

    warnings: list[str]
    unusable: list[str]


@dataclass(frozen=True)
class QualityControl:
    """The trained quality model with its limits.

    Attributes:
        network: A `QualityModel` in evaluation mode.
        thresholds: Probability of each fault above which it is a warning.
        ranges: (low, high) of each of QUANTITIES over training images.
    """

    network: nn.Module
    thresholds: dict[str, float]
    ranges: Ranges

    def faults(self, pixels: np.ndarray) -> list[str]:
        """Warnings of the network.

        Args:
            pixels: uint8 or uint16 (H, W).

        Returns:
            A warning for each fault; only the first for an image that is not frontal.
        """
        image = torch.from_numpy(network_input(pixels))[None, None]  # (1, 1, 128, 128)
        with torch.no_grad():
            logits = self.network(image.to(device_of(self.network)))[0]  # (8,)
        found = []
        for name, probability in zip(FAULTS, logits.sigmoid().tolist(), strict=True):
            if probability > self.thresholds[name]:
                found.append(FAULTS[name])
        if FAULTS["not_frontal"] in found:
            return [FAULTS["not_frontal"]]
        return found

    def warnings(
        self,
        pixels: np.ndarray,
        mask: np.ndarray,
        size: int,
        probs: np.ndarray | None = None,
    ) -> list[str]:
        """All warnings about an image, before a prediction for it is believed.

        Args:
            pixels: uint8 or uint16 (H, W).
            mask: Clean lung mask, bool (S, S).
            size: Side of the models' input, px.
            probs: See `lungs_missing`.
        """
        return self.check(pixels, mask, size, probs).warnings

    def check(
        self,
        pixels: np.ndarray,
        mask: np.ndarray,
        size: int,
        probs: np.ndarray | None = None,
    ) -> Checked:
        """All warnings about an image, and those for which it is unusable.

        It is unusable for UNUSABLE_FAULTS, and where its lungs were not found.

        Args:
            pixels: uint8 or uint16 (H, W).
            mask: Clean lung mask, bool (S, S).
            size: Side of the models' input, px.
            probs: See `lungs_missing`.
        """
        faults = self.faults(pixels)
        unusable = [FAULTS[name] for name in UNUSABLE_FAULTS if FAULTS[name] in faults]
        found = [*faults, *out_of_range(pixels, self.ranges), *too_small(pixels.shape, size)]
        if FAULTS["not_frontal"] not in found:
            lungs = lungs_missing(mask, pixels, probs)
            found += lungs
            unusable += lungs
        return Checked(found, unusable)


def load_quality_control(path: Path) -> QualityControl:
    """The quality control from its file.

    Args:
        path: quality_model.safetensors; thresholds and ranges lie in its header.
    """
    tensors, state = checkpoint.load_tensors(path)
    network = QualityModel()
    network.load_state_dict(tensors)
    thresholds = cast(dict[str, float], state["thresholds"])
    return QualityControl(network.eval(), thresholds, cast(Ranges, state["ranges"]))
