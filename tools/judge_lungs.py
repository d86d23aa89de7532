"""How often `cxrkit predict` says "lungs not found": false alarms on real films, hits on films
spoiled in known ways and other pictures.

    python tools/judge_lungs.py --mirror DIR          # two minutes on one core

The limits of `inspection.lungs_missing` were chosen on the first CHOSEN films of each dataset and
are judged here on the next ones. Writes cxrkit/results/lungs_found.json.
"""

import argparse
from pathlib import Path

import cv2
import fit_inspector
import numpy as np
import pandas as pd
import torch

from cxrkit.config import profiles
from cxrkit.data import preprocessing
from cxrkit.data.images import load_image
from cxrkit.inference import predictor, quality
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, results
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import segmentation

# films of a dataset, films of it that are spoiled, pictures of a kind
CHOSEN, JUDGED, SPOILED, STRANGE = 70, 100, 20, 60


def blank(grey, lungs, rng):
    """The lungs of a film painted over with the grey of the body around them, and its grain."""
    wide = (
        cv2.dilate(
            lungs.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=max(2, len(grey) // 60)
        )
        > 0
    )
    body = grey[~wide] if (~wide).any() else grey
    grain = cv2.GaussianBlur(rng.normal(0, 1, grey.shape), (0, 0), 3) * 60
    painted = np.clip(grain + np.median(body[body >= np.quantile(body, 0.3)]), 0, 255).astype(
        np.uint8
    )
    return cv2.GaussianBlur(np.where(wide, painted, grey), (0, 0), 1)


def half(lungs):
    """The lung in the left half of the image."""
    return lungs & (np.arange(lungs.shape[1]) < lungs.shape[1] // 2)


def window(grey, rng, share=0.35):
    """A window of `share` of each side, anywhere."""
    (top, left), (h, w) = (
        (np.array(grey.shape) * (1 - share) * rng.random(2)).astype(int),
        (int(side * share) for side in grey.shape),
    )
    return grey[top : top + h, left : left + w]


SPOIL = {  # name -> (grey, its lungs, rng) -> grey
    "top quarter": lambda grey, lungs, rng: grey[: len(grey) // 4],
    "bottom third": lambda grey, lungs, rng: grey[2 * len(grey) // 3 :],
    "bottom half": lambda grey, lungs, rng: grey[len(grey) // 2 :],
    "left half": lambda grey, lungs, rng: grey[:, : grey.shape[1] // 2],
    "window of 35 %": lambda grey, lungs, rng: window(grey, rng),
    "left half black": lambda grey, lungs, rng: np.where(
        np.arange(grey.shape[1]) < grey.shape[1] // 2, np.uint8(0), grey
    ),
    "lungs painted over": blank,
    "one lung painted over": lambda grey, lungs, rng: blank(grey, half(lungs), rng),
    "turned by a quarter": lambda grey, lungs, rng: np.rot90(grey),
    "upside down": lambda grey, lungs, rng: grey[::-1],
    "inverted": lambda grey, lungs, rng: 255 - grey,
}


def hand(rng):
    """A drawing of a hand: bright bones on black."""
    grey, bright = (
        np.full((160, 160), int(rng.integers(0, 60)), np.uint8),
        int(rng.integers(120, 255)),
    )
    cv2.ellipse(grey, (80, 110), (int(rng.integers(28, 45)), 40), 0, 0, 360, bright, -1)
    for finger in range(5):
        tip = (40 + 20 * finger + int(rng.integers(-4, 4)), int(rng.integers(15, 45)))
        cv2.line(grey, (80 + (tip[0] - 80) // 2, 100), tip, bright, int(rng.integers(9, 14)))
    cv2.line(grey, (80, 130), (80, 159), bright, 36)
    return np.uint8(
        np.clip(cv2.GaussianBlur(grey, (0, 0), 1.5) + rng.normal(0, 6, grey.shape), 0, 255)
    )


def gradient(rng):
    """Grey that changes evenly across the picture, or away from a point."""
    y, x = np.mgrid[:160, :160] / 159
    angle, (cy, cx) = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8, 2)
    slope = (
        np.cos(angle) * x + np.sin(angle) * y if rng.random() < 0.5 else np.hypot(x - cx, y - cy)
    )
    return np.uint8(255 * (slope - slope.min()) / np.ptp(slope))


def said(grey, part):
    """(whether the warning comes, the mask at the size of the film)."""
    grey = np.ascontiguousarray(grey)
    mask, probs = predictor.drawn_lungs(grey, part)
    return bool(quality.lungs_missing(mask, grey, probs)), predictor.to_film(mask, grey.shape)


def judge(table, part):
    """Rows of the result: films of each dataset as they are and spoiled, then pictures of other
    things.
    """
    rng, rows, spoiled = np.random.default_rng(0), [], {name: [] for name in SPOIL}
    for dataset, films in table.groupby("dataset"):
        films, called = films.sample(frac=1, random_state=0)[CHOSEN : CHOSEN + JUDGED], []
        for i, path in enumerate(films["path"]):
            grey = preprocessing.to_uint8(load_image(path).pixels)
            warned, lungs = said(grey, part)
            called.append(warned)
            for name, change in SPOIL.items() if i < SPOILED else ():
                spoiled[name].append(said(change(grey, lungs, rng), part)[0])
        rows.append(
            {"pictures": f"films of {dataset}", "n": len(called), "warned": float(np.mean(called))}
        )
    kinds = {**fit_inspector.STRANGERS, **fit_inspector.NEW, "hand": hand, "gradient": gradient}
    spoiled |= {
        name: [said(draw(rng), part)[0] for _ in range(STRANGE)] for name, draw in kinds.items()
    }
    return [
        *rows,
        *(
            {"pictures": name, "n": len(called), "warned": float(np.mean(called))}
            for name, called in spoiled.items()
        ),
    ]


def main():
    """Judge the segmenter of mini."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with prepared films")
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    profile, store = profiles.mini(), Store(options.store, data=options.mirror)
    part = predictor.Part(segmentation.load(stages.segmenter(profile, store), profile), profile, "")
    films = stages.segmenter_films(profile, store)
    rows = judge(films[films["view"].isin(predictor.FRONTAL)], part)
    limits = {
        name: getattr(quality, name)
        for name in ("LUNG_SHARE", "LUNG_BALANCE", "LUNG_DOUBT", "LUNG_AGREEMENT", "LUNG_CONTRAST")
    }
    results.write(
        "lungs_found",
        rows,
        {
            "command": "python tools/judge_lungs.py --mirror DIR",
            "limits": limits,
            **environment.provenance(),
        },
    )
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()
