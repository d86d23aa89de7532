"""Inspection: is this file a film like those that the models learnt from? Each doubt is a small
function with a measured criterion.

A small network looks at the whole film (FAULTS); QUANTITIES compares simple measures with their
range over training films; the lung mask and the size answer for themselves. Hit rates and false
alarms: docs/predict.md (`tools/fit_inspector.py` trains and measures).

B batch, H W image, S size.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from cxrkit.data import lung_zones, preprocessing
from cxrkit.training import checkpoint

SIZE = 64  # px that the network sees
FAULTS = {  # in the order of the network's outputs -> the warning
    "not_frontal": "does not look like a frontal chest X-ray",
    "inverted": "grey values look inverted (bright should be dense)",
    "turned": "looks turned by a quarter or a half",
    "flipped": "looks flipped left to right (or the heart lies on the right)",
    "cropped": "looks cropped: part of the lungs may be missing",
}
LUNG_SHARE = 0.08  # of the film: less is no pair of lungs
LUNG_BALANCE = 0.5  # area of the smaller lung over that of the larger one
LUNG_DOUBT = 1.0  # see `doubt`; rates at these limits: tools/judge_lungs.py
LUNG_AGREEMENT = 0.92  # see `agreement`
LUNG_CONTRAST = 0.45  # see `contrast`


class Inspector(nn.Module):
    """Film (B, 1, 64, 64) in [-1, 1] -> logits (B, 5), one for each of FAULTS. It keeps places: a
    flipped heart must be seen.
    """

    def __init__(self, widths=(16, 24, 32, 32)):
        super().__init__()
        layers = [
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for before, after in zip((1, *widths), widths)
        ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * (SIZE // 2 ** len(widths)) ** 2, len(FAULTS))

    def forward(self, image):
        return self.head(self.features(image).flatten(1))  # (B, 5)


def seen(pixels):
    """uint8 or uint16 (H, W) -> float32 (64, 64) in [-1, 1], equalised: what the network looks at."""
    small = preprocessing.resize(preprocessing.to_uint8(pixels), SIZE)
    return preprocessing.normalize(cv2.equalizeHist(small), "signed")


def _spread(grey):
    low, high = np.percentile(grey, (5, 95))
    return float(high - low) / 255


def _flat(grey):
    return float(np.bincount(grey.ravel(), minlength=256).max() / grey.size)


def _grain(grey):
    small = cv2.resize(grey, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(np.abs(cv2.Laplacian(small, cv2.CV_32F)).mean() / max(small.std(), 1.0))


# name -> (what it is, function of the uint8 film); their ranges over training films lie with the
# network's weights
QUANTITIES = {
    "aspect": ("width over height", lambda grey: grey.shape[1] / grey.shape[0]),
    "contrast": ("contrast (5th to 95th percentile of grey)", _spread),
    "flat": ("share of the most frequent grey value", _flat),
    "grain": ("fine detail or noise", _grain),
}


def quantities(pixels):
    """The simple measures of a film: {name: value}."""
    grey = preprocessing.to_uint8(pixels)
    return {name: of(grey) for name, (_, of) in QUANTITIES.items()}


def out_of_range(pixels, ranges):
    """Which measures of a film lie outside their (low, high) over training films, in words."""
    return [
        f"out of the training range: {QUANTITIES[name][0]} {value:.2g}, trained on "
        f"{ranges[name][0]:.2g} to {ranges[name][1]:.2g}"
        for name, value in quantities(pixels).items()
        if not ranges[name][0] <= value <= ranges[name][1]
    ]


def too_small(shape, size):
    """A film smaller than the models' input is enlarged: detail that they look for is not there."""
    small = min(shape) < size
    return (
        [f"too small: {shape[1]}x{shape[0]} px, the models look at {size}x{size}"] if small else []
    )


def doubt(probs, mask):
    """How much of what the segmenter says is neither yes nor no, for the size of the lungs: mean of
    4 p (1 - p) over the mask's share.

    0 = sure everywhere; about 0.4 on films, above 1 on pictures of something else. probs (h, w),
    mask bool (H, W).
    """
    return float((4 * probs * (1 - probs)).mean() / max(mask.mean(), 1e-3))


def agreement(probs, mirrored):
    """Dice, soft, of lungs drawn on a film and on its mirror image (flipped back): (h, w) each, in
    [0, 1].
    """
    return float(2 * np.minimum(probs, mirrored).sum() / max(probs.sum() + mirrored.sum(), 1e-6))


def contrast(pixels, mask):
    """How often a pixel beside the lungs is brighter than one in them (ties count half), in [0, 1];
    NaN without either.

    Lungs hold air, and even ill ones are mostly darker than chest wall and mediastinum. pixels (H,
    W) of any size, mask bool (S, S).
    """
    grey, size = preprocessing.resize(preprocessing.to_uint8(pixels), len(mask)), len(mask)
    near, far = (
        cv2.dilate(mask.astype(np.uint8), np.ones((2 * r + 1,) * 2, np.uint8)) > 0
        for r in (max(1, size // 128), max(2, 6 * size // 128))
    )  # px
    inside, beside = (
        np.bincount(grey[at], minlength=256) / max(at.sum(), 1) for at in (mask, far & ~near)
    )
    return (
        float(beside @ (np.cumsum(inside) - inside / 2))
        if inside.any() and beside.any()
        else np.nan
    )


def lungs_missing(mask, pixels=None, probs=None):
    """Why what the segmenter drew is no pair of lungs, in words: the clean mask (S, S), and, where
    they are given, the film (H, W) and the probabilities (2, h, w) of lung on the film and on its
    mirror image.
    """
    areas = sorted(int(side.sum()) for side in lung_zones.sides(mask))
    if sum(areas) < LUNG_SHARE * mask.size:
        return [f"lungs not found: {sum(areas) / mask.size:.0%} of the film"]
    wrong = {
        "only one, or one far smaller than the other": areas[0] < LUNG_BALANCE * areas[1],
        "the segmenter is in doubt": probs is not None and doubt(probs.mean(0), mask) > LUNG_DOUBT,
        "the segmenter draws others in the mirror image": probs is not None
        and agreement(*probs) < LUNG_AGREEMENT,
        "what was drawn is brighter than what lies beside it": pixels is not None
        and contrast(pixels, mask) < LUNG_CONTRAST,
    }
    return [f"lungs not found: {why}" for why, so in wrong.items() if so][:1]


@dataclass(frozen=True)
class Inspection:
    """A trained inspector with what it was measured on: `thresholds` {fault: probability}, `ranges`
    {measure: (low, high)}.
    """

    network: nn.Module
    thresholds: dict
    ranges: dict

    def faults(self, pixels):
        """Warnings of the network for a film; what is no frontal film is asked nothing more."""
        with torch.no_grad():
            found = self.network(torch.from_numpy(seen(pixels))[None, None]).sigmoid()[0].tolist()
        raised = [name for name, p in zip(FAULTS, found, strict=True) if p > self.thresholds[name]]
        return [FAULTS[name] for name in (raised[:1] if "not_frontal" in raised else raised)]

    def warnings(self, pixels, mask, size, probs=None):
        """All that is to be said of a film (H, W) and its lung mask before a model of `size` px is
        believed; probs: `lungs_missing`.
        """
        found = [
            *self.faults(pixels),
            *out_of_range(pixels, self.ranges),
            *too_small(pixels.shape, size),
        ]
        return (
            found
            if FAULTS["not_frontal"] in found
            else [*found, *lungs_missing(mask, pixels, probs)]
        )


def load(path):
    """Inspection from inspector.safetensors; thresholds and ranges lie in its header."""
    tensors, state = checkpoint.load_tensors(path)
    network = Inspector()
    network.load_state_dict(tensors)
    return Inspection(network.eval(), state["thresholds"], state["ranges"])
