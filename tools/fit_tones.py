"""Fit the tone curves of the virtual hospitals to real films: numbers, no images.

    python tools/fit_tones.py /data/cxr      # writes cxrkit/simulation/tones.json

For each source: grey values at nine levels of the middle of the film, their mean over 150 films,
and the two largest principal components of their differences.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrkit.simulation.radiograph import MIDDLE_COLUMNS, MIDDLE_ROWS, TONE_FILE

LEVELS = (1, 5, 15, 30, 50, 70, 85, 95, 99)  # percent
SOURCES = {
    "nih": "nih_cxr14",
    "nih_large": "nih_cxr14_multi",
    "hannover": "hannover",
    "cohen": "cohen",
    "shenzhen": "shenzhen",
}
IMAGES = 150
COMPONENTS = 2


def quantiles(image: np.ndarray) -> np.ndarray:
    """Grey values at LEVELS in the middle of a film."""
    height, width = image.shape
    rows = slice(*(round(v * height) for v in MIDDLE_ROWS))
    columns = slice(*(round(v * width) for v in MIDDLE_COLUMNS))
    return np.percentile(image[rows, columns], LEVELS)


def fit(folder: Path) -> dict:
    """Mean and components of one source."""
    table = pd.read_csv(folder / "labels.csv", low_memory=False)
    chosen = np.random.default_rng(0).permutation(len(table))[: 2 * IMAGES]
    rows = []
    for i in chosen:
        image = cv2.imread(str(folder / table["file"][i]), cv2.IMREAD_GRAYSCALE)
        if image is not None and min(image.shape) >= 200 and len(rows) < IMAGES:
            rows.append(quantiles(image))
    greys = np.array(rows)
    mean = greys.mean(axis=0)
    _, size, directions = np.linalg.svd(greys - mean, full_matrices=False)
    spread = size[:COMPONENTS, None] / np.sqrt(len(greys)) * directions[:COMPONENTS]
    return {
        "films": len(greys),
        "mean": mean.round(1).tolist(),
        "components": spread.round(2).tolist(),
    }


def main(root: str) -> None:
    """Fit all sources and write the file."""
    tones = {name: fit(Path(root) / folder) for name, folder in SOURCES.items()}
    TONE_FILE.write_text(json.dumps({"levels": LEVELS, **tones}, indent=1) + "\n")
    print(TONE_FILE.read_text())


if __name__ == "__main__":
    main(sys.argv[1])
