"""Does the answer depend on how an image is stored? The same images, kept in many ways.

    python tools/invariance.py --data DIR [--images N] [--choices text]   # ten minutes on one core
    python tools/invariance.py --data DIR --images 60 --only size   # more images, fewer ways

DIR holds folders with labels.csv (columns file and class3) and images. Each image is predicted as
it is and in every way of VARIANTS, each time from a file, with the models that the kit ships. An
image changes if another class becomes the most probable; it changes in silence if the prediction
carries no new warning. Writes cxrkit/storage/recorded_results/invariance.json, with --only a file
of that kind beside it.
"""

import argparse
import dataclasses
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image as Raster
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.data.images import load_image
from cxrkit.inference import load_models, predict
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from tests.fakes import radiograph_files

SOURCES = ("nih_cxr14", "cohen", "cxnet", "hannover", "kermany", "shenzhen")
BARS = {"lossless": 0.01, "size": 0.03}  # share of images whose class may change


def write_dicom(path, pixels, bits, inverted=False):
    """Pixels (H, W) as an uncompressed DICOM file that says no view."""
    tags = {"BitsStored": bits, "ViewPosition": radiograph_files.DROPPED}
    if inverted:
        pixels = pixels.dtype.type(2**bits - 1) - pixels
        tags["PhotometricInterpretation"] = "MONOCHROME1"
    radiograph_files.write_dicom(path, pixels, **tags)


def write_array(path, pixels):
    """Pixels as OpenCV or, for floats, Pillow writes them."""
    if pixels.dtype.kind == "f":
        Raster.fromarray(pixels).save(path)
    else:
        assert cv2.imwrite(str(path), pixels)


def deep(grey):
    """12 bits of an 8-bit image, each grey value apart."""
    return grey.astype(np.uint16) * 16


def with_hot_pixel(grey):
    """12 bits and one pixel at the top of 16."""
    found = deep(grey)
    found[grey.shape[0] // 3, grey.shape[1] // 3] = 65535
    return found


def with_letter(grey):
    """12 bits and a letter at 16383."""
    letter = np.zeros_like(grey)
    scale = grey.shape[0] / 700
    place = (grey.shape[1] // 12, grey.shape[0] // 8)
    cv2.putText(letter, "R", place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, round(2 * scale)))
    return np.where(letter > 0, np.uint16(16383), deep(grey))


def low_contrast(grey):
    """An image between 70 and 159."""
    return (70 + grey.astype(np.float32) * (89 / 255)).astype(np.uint8)


def scaled(grey, factor):
    """Another size."""
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(grey, None, fx=factor, fy=factor, interpolation=how)


def png(change):
    """A variant that is a PNG of changed pixels."""
    return "a.png", lambda path, grey: write_array(path, change(grey))


# name -> (kind, what it is compared with, file name, how it is written)
VARIANTS = {
    "16-bit PNG": ("lossless", "", *png(lambda grey: grey.astype(np.uint16) * 257)),
    "12 bits in 16-bit PNG": ("lossless", "", *png(deep)),
    "48-bit PNG": (
        "lossless",
        "",
        *png(lambda grey: cv2.merge([deep(grey)] * 3)),
    ),
    "16-bit TIFF": ("lossless", "", "a.tif", lambda p, g: write_array(p, deep(g))),
    "float TIFF": (
        "lossless",
        "",
        "a.tif",
        lambda p, g: write_array(p, g.astype(np.float32) / 255),
    ),
    "8-bit DICOM": ("lossless", "", "a.dcm", lambda p, g: write_dicom(p, g, 8)),
    "12-bit DICOM": ("lossless", "", "a.dcm", lambda p, g: write_dicom(p, deep(g), 12)),
    "12-bit DICOM, MONOCHROME1": (
        "lossless",
        "",
        "a.dcm",
        lambda p, g: write_dicom(p, deep(g), 12, True),
    ),
    "low contrast, 8 bits": ("brightness", "", *png(low_contrast)),
    "low contrast, 16 bits": (
        "lossless",
        "low contrast, 8 bits",
        *png(lambda grey: low_contrast(grey).astype(np.uint16) * 257),
    ),
    "12 bits, one pixel of 65535": ("outlier", "", *png(with_hot_pixel)),
    "12 bits, a letter at 16383": ("outlier", "", *png(with_letter)),
    "half the brightness": ("brightness", "", *png(lambda grey: grey // 2)),
    "0.7 of the brightness": ("brightness", "", *png(lambda grey: np.uint8(grey * 0.7))),
    "half the size": ("size", "", *png(lambda grey: scaled(grey, 0.5))),
    "double size": ("size", "", *png(lambda grey: scaled(grey, 2.0))),
    "JPEG, quality 90": ("recompression", "", "a.jpg", None),
    "JPEG, quality 75": ("recompression", "", "a.jpg", None),
}


def write(name, path, grey):
    """One variant of an image as a file."""
    how = VARIANTS[name][3]
    if how is None:
        quality = int(name.split()[-1])
        assert cv2.imwrite(str(path), grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    else:
        how(path, grey)


def images(data, count):
    """Grey images, uint8, of each source: (source, class, pixels)."""
    for source in SOURCES:
        table = pd.read_csv(data / source / "labels.csv", low_memory=False)
        table = table[table["class3"].notna()]
        table = table.sample(min(count, len(table)), random_state=11)
        for name, diagnosis in zip(table["file"], table["class3"], strict=True):
            pixels = load_image(data / source / name).pixels
            if pixels.dtype == np.uint8:
                yield source, diagnosis, pixels


def chosen(kind=None):
    """The variants of a kind, and those that they are compared with; all without a kind."""
    names = [name for name, how in VARIANTS.items() if kind in (None, how[0])]
    return {name: VARIANTS[name] for one in names for name in (VARIANTS[one][1], one) if name}


def measure(data, count, models, keep=None, kind=None):
    """A row for each image and variant: how the prediction moved."""
    rows, variants = [], chosen(kind)
    with tempfile.TemporaryDirectory() as folder:
        for source, diagnosis, grey in tqdm(images(data, count), disable=None):
            found = {}
            for name in ("", *variants):
                path = Path(folder) / (VARIANTS[name][2] if name else "a.png")
                write(name, path, grey) if name else write_array(path, grey)
                found[name] = predict(path, models, "PA", maps=False, even_unusable=True)
            for name, (_, other, _, _) in variants.items():
                rows.append(moved(found[name], found[other]) | {"variant": name, "source": source})
            rows.append({"variant": "", "source": source, "right": top(found[""]) == diagnosis})
            if keep:
                pd.DataFrame(rows).to_csv(keep, index=False)
    return pd.DataFrame(rows)


def top(prediction):
    """The most probable class."""
    return max(prediction.probs, key=prediction.probs.get)


def moved(found, before):
    """How one prediction differs from another."""
    changed = top(found) != top(before)
    return {
        "changed": changed,
        "silent": changed and not set(found.warnings) - set(before.warnings),
        "probability": max(abs(found.probs[name] - before.probs[name]) for name in found.probs),
        "severity": abs(found.severity - before.severity),
    }


def summary(table):
    """A row for each variant."""
    rows = []
    for name, (kind, _, _, _) in VARIANTS.items():
        some = table[table["variant"] == name]
        if some.empty:  # another kind was asked for
            continue
        share, bar = float(some["changed"].mean()), BARS.get(kind)
        rows.append(
            {
                "variant": name,
                "kind": kind,
                "images": len(some),
                "changed": int(some["changed"].sum()),
                "silent": int(some["silent"].sum()),
                "share": round(share, 4),
                "bar": bar,
                "met": None if bar is None else share <= bar,
                "largest_probability": round(float(some["probability"].max()), 3),
                "mean_probability": round(float(some["probability"].mean()), 4),
                "largest_severity": round(float(some["severity"].max()), 2),
            }
        )
    return rows


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with prepared real films")
    parser.add_argument("--images", type=int, default=30, help="of each source")
    parser.add_argument("--choices", choices=("default", "text"), default="default")
    kinds = sorted({how[0] for how in VARIANTS.values()})
    parser.add_argument("--only", choices=kinds, help="variants of one kind, by source too")
    parser.add_argument("--keep", type=Path, help="CSV of all rows, written after each image")
    parser.add_argument("--dry", action="store_true", help="print the table and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    models = load_models(profiles.mini())
    if options.choices == "text":  # the paper's order, for comparison
        text = Choices.text()
        for name, part in models.parts.items():
            own = dataclasses.replace(
                part.profile.choices, stretch=text.stretch, working_size=text.working_size
            )
            models.parts[name] = dataclasses.replace(
                part, profile=dataclasses.replace(part.profile, choices=own)
            )
    table = measure(options.data, options.images, models, options.keep, options.only)
    rows = summary(table)
    if options.only:
        rows += [
            {**row, "source": source}
            for source, some in table.groupby("source", sort=False)
            for row in summary(some)
        ]
    right = table[table["variant"] == ""].groupby("source")["right"].agg(["sum", "count"])
    print(pd.DataFrame(rows).to_string(index=False))
    print(right.to_string())
    if not options.dry:
        only = f" --only {options.only}" if options.only else ""
        made = {
            "command": f"python tools/invariance.py --data DIR --images {options.images}{only}",
            "sources": SOURCES,
            "models": models.origin,
        }
        name = f"invariance_{options.only}" if options.only else "invariance"
        recorded.write_result(name, rows, {**made, **environment.provenance()})


if __name__ == "__main__":
    main()
