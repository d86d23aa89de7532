"""How often `cxrkit predict` warns "lungs not found": false alarms on real images, hits on others.

    python tools/evaluate_lungs.py --mirror DIR          # two minutes on one core

The limits of `quality.lungs_missing` were chosen on the first CHOSEN images of each dataset; the
next EVALUATED are evaluated here, with images that are corrupted in known ways and pictures of
something else. Writes cxrkit/storage/recorded_results/lungs_found.json.
"""

import argparse
from pathlib import Path

import cv2
import fit_quality_model
import numpy as np
import pandas as pd
import torch

from cxrkit import Run
from cxrkit.data import preprocessing
from cxrkit.data.images import load_image
from cxrkit.inference import predictor, quality
from cxrkit.inference.trained import Part
from cxrkit.pipeline import makers
from cxrkit.reproduction import environment
from cxrkit.storage import recorded

CHOSEN = 70  # images of each dataset, on which the limits were chosen
EVALUATED = 100  # the next ones of each dataset
CORRUPTED = 20  # of these, how many are also corrupted
PICTURES = 60  # of each kind that is no frontal image
LIMITS = ("LUNG_SHARE", "LUNG_BALANCE", "LUNG_UNCERTAINTY", "LUNG_AGREEMENT", "LUNG_CONTRAST")


def paint_over(grey, lungs, rng):
    """The lungs of an image painted over with the grey of the body around them, and its grain."""
    kernel, iterations = np.ones((3, 3), np.uint8), max(2, len(grey) // 60)
    wide = cv2.dilate(lungs.astype(np.uint8), kernel, iterations=iterations) > 0
    body = grey[~wide] if (~wide).any() else grey
    bright = body[body >= np.quantile(body, 0.3)]
    grain = cv2.GaussianBlur(rng.normal(0, 1, grey.shape), (0, 0), 3) * 60
    painted = np.clip(grain + np.median(bright), 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(np.where(wide, painted, grey), (0, 0), 1)


def left_half(lungs):
    """The lung in the left half of the image."""
    return lungs & (np.arange(lungs.shape[1]) < lungs.shape[1] // 2)


def paint_one_over(grey, lungs, rng):
    """The lung in the left half of an image painted over."""
    return paint_over(grey, left_half(lungs), rng)


def blacken_left_half(grey, lungs, rng):
    """The left half of an image black."""
    return np.where(np.arange(grey.shape[1]) < grey.shape[1] // 2, np.uint8(0), grey)


def window(grey, rng, share=0.35):
    """A window of `share` of each side, anywhere."""
    top, left = (np.array(grey.shape) * (1 - share) * rng.random(2)).astype(int)
    h, w = (int(side * share) for side in grey.shape)
    return grey[top : top + h, left : left + w]


CORRUPTIONS = {  # name -> (grey, its lungs, rng) -> grey
    "top quarter": lambda grey, lungs, rng: grey[: len(grey) // 4],
    "bottom third": lambda grey, lungs, rng: grey[2 * len(grey) // 3 :],
    "bottom half": lambda grey, lungs, rng: grey[len(grey) // 2 :],
    "left half": lambda grey, lungs, rng: grey[:, : grey.shape[1] // 2],
    "window of 35 %": lambda grey, lungs, rng: window(grey, rng),
    "left half black": blacken_left_half,
    "lungs painted over": paint_over,
    "one lung painted over": paint_one_over,
    "turned by a quarter": lambda grey, lungs, rng: np.rot90(grey),
    "upside down": lambda grey, lungs, rng: grey[::-1],
    "inverted": lambda grey, lungs, rng: 255 - grey,
}


def hand(rng):
    """A drawing of a hand: bright bones on black."""
    grey = np.full((160, 160), int(rng.integers(0, 60)), np.uint8)
    bright = int(rng.integers(120, 255))
    cv2.ellipse(grey, (80, 110), (int(rng.integers(28, 45)), 40), 0, 0, 360, bright, -1)
    for finger in range(5):
        tip = (40 + 20 * finger + int(rng.integers(-4, 4)), int(rng.integers(15, 45)))
        cv2.line(grey, (80 + (tip[0] - 80) // 2, 100), tip, bright, int(rng.integers(9, 14)))
    cv2.line(grey, (80, 130), (80, 159), bright, 36)
    blurred = cv2.GaussianBlur(grey, (0, 0), 1.5)
    return np.uint8(np.clip(blurred + rng.normal(0, 6, grey.shape), 0, 255))


def gradient(rng):
    """Grey that changes evenly across the picture, or away from a point."""
    y, x = np.mgrid[:160, :160] / 159
    angle, (cy, cx) = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8, 2)
    if rng.random() < 0.5:
        slope = np.cos(angle) * x + np.sin(angle) * y
    else:
        slope = np.hypot(x - cx, y - cy)
    return np.uint8(255 * (slope - slope.min()) / np.ptp(slope))


KINDS = {
    **fit_quality_model.SHOWN,
    **fit_quality_model.NEW,
    "hand": hand,
    "gradient": gradient,
}


def warned_and_lungs(grey, part):
    """Whether the warning comes, and the mask at the size of the image."""
    grey = np.ascontiguousarray(grey)
    mask, probs = predictor.segment_lungs(grey, part)
    warned = bool(quality.lungs_missing(mask, grey, probs))
    return warned, predictor.to_image_size(mask, grey.shape)


def row_of(pictures, warned):
    """A row of the result."""
    return {"pictures": pictures, "n": len(warned), "warned": float(np.mean(warned))}


def evaluate(table, part):
    """Rows of the result: images of each dataset, corrupted ones, and other pictures."""
    rng, rows = np.random.default_rng(0), []
    corrupted = {name: [] for name in CORRUPTIONS}
    for dataset, group in table.groupby("dataset"):
        chosen = group.sample(frac=1, random_state=0)[CHOSEN : CHOSEN + EVALUATED]
        found = []
        for i, path in enumerate(chosen["path"]):
            grey = preprocessing.to_uint8(load_image(path).pixels)
            warned, lungs = warned_and_lungs(grey, part)
            found.append(warned)
            if i >= CORRUPTED:
                continue
            for name, corrupt in CORRUPTIONS.items():
                corrupted[name].append(warned_and_lungs(corrupt(grey, lungs, rng), part)[0])
        rows.append(row_of(f"films of {dataset}", found))
    rows += [row_of(name, found) for name, found in corrupted.items()]
    for name, draw in KINDS.items():
        rows.append(row_of(name, [warned_and_lungs(draw(rng), part)[0] for _ in range(PICTURES)]))
    return rows


def main():
    """Evaluate the segmenter of mini."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with prepared films")
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run("mini", options.store, options.mirror)
    part = Part(run.segmenter.model, run.profile, "")
    images = makers.segmenter_images(run.profile, makers.StageInputs(run.store, {}))
    rows = evaluate(images[images["view"].isin(predictor.FRONTAL)], part)
    made = {
        "command": "python tools/evaluate_lungs.py --mirror DIR",
        "limits": {name: getattr(quality, name) for name in LIMITS},
    }
    recorded.write_result("lungs_found", rows, {**made, **environment.provenance()})
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()
