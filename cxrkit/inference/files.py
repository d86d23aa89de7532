"""Files: predictions for many images, as a table and as maps; the command `cxrkit predict`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cxrkit.inference import predictor
from cxrkit.inference.predictor import COLUMNS, Prediction
from cxrkit.inference.trained import Models
from cxrkit.storage.atomic import write_atomic

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
SAVE_EVERY = 100  # images to one write of the table


def list_images(paths: Iterable[Path | str]) -> list[Path]:
    """Image files, and those in folders.

    Args:
        paths: Files are taken as they are. Folders are searched for SUFFIXES at any depth; hidden
            files are left out.

    Returns:
        Paths in order, each once.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        for inside in sorted(path.rglob("*")):
            if inside.suffix.lower() in SUFFIXES and not inside.name.startswith("."):
                found[inside] = None
    return list(found)


def unique_stems(paths: Iterable[Path]) -> list[str]:
    """A name for the maps of each image: its stem, with a number where an earlier image has it."""
    names = []
    for path in paths:
        name, number = path.stem, 2
        while name.lower() in {other.lower() for other in names}:  # some file systems know no case
            name, number = f"{path.stem}_{number}", number + 1
        names.append(name)
    return names


def write_maps(prediction: Prediction, folder: Path, stem: str) -> None:
    """Write the maps of a prediction as PNG, at the size of the image.

    Args:
        prediction: With maps.
        folder: Gets <stem>_lungs.png (0 or 255), <stem>_severity.png and
            <stem>_saliency_<class>.png (0 to 255 for 0 to 1).
        stem: First part of the file names.
    """
    for name, values in prediction.maps.items():
        grey = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
        write_atomic(folder / f"{stem}_{name}.png", cv2.imencode(".png", grey)[1].tobytes())


def write_table(folder: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write predictions.csv, whole or not at all."""
    text = pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, float_format="%.4f")
    write_atomic(folder / "predictions.csv", text)


def predict_files(
    paths: Iterable[Path | str],
    out: Path | str,
    models: Models,
    view: str | None = None,
    maps: bool = False,
    progress: bool = True,
    device: torch.device | str | None = None,
) -> list[str]:
    """Predict for files and folders. An image that fails does not stop the others.

    Args:
        paths: See `list_images`.
        out: Folder that gets predictions.csv, about.txt and, with `maps`, the maps.
        models: See `load_models`.
        view: "PA" or "AP" for all images; None = as `predict` finds it.
        maps: Also write the maps.
        progress: Show a progress bar on a terminal.
        device: Where to compute; None = `pick_device()`.

    Returns:
        What failed, in words; empty where every image was predicted.
    """
    asked, folder = list(paths), Path(out)
    listed = list_images(asked)
    rows, failures = [], []
    bar = tqdm(listed, unit="image", disable=None if progress else True)
    for path, stem in zip(bar, unique_stems(listed), strict=True):
        try:
            prediction = predictor.predict(path, models, view, maps, device)
            write_maps(prediction, folder, stem)
            rows.append(prediction.row(path))
        except Exception as error:
            # whatever is wrong with one image of ten thousand, the rest must be predicted
            failures.append(_failure(path, error))
        if len(rows) % SAVE_EVERY == SAVE_EVERY - 1:
            write_table(folder, rows)
    write_table(folder, rows)
    write_atomic(folder / "about.txt", models.about)
    if not listed:
        return [f"no film in {', '.join(map(str, asked))}: {', '.join(SUFFIXES)} are read"]
    return failures


def _failure(path: Path, error: Exception) -> str:
    """One line on an image that was skipped; messages of the kit name the file themselves."""
    if str(path) in str(error):
        return f"skipped {error}"
    return f"skipped {path}: {type(error).__name__}: {error}"
