"""Train the quality model of `cxrkit predict` and measure hit rates and false alarms.

    python tools/fit_quality_model.py --mirror DIR          # two minutes on one core

Training images: the training splits of OPEN and of the virtual hospitals, corrupted in known ways
(FAULTS), and pictures that are no frontal image (SHOWN). Evaluation: test splits, datasets and
hospitals that train nothing (EXTERNAL), and kinds of pictures that are never shown (NEW). Writes
cxrkit/inference/weights/open/quality_model.safetensors and
cxrkit/storage/recorded_results/quality_model.json.
"""

import argparse
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from sklearn.datasets import load_sample_images

from cxrkit import Run
from cxrkit.config.sections import Training
from cxrkit.data import manifests, preprocessing
from cxrkit.data.cache import cached_images
from cxrkit.data.images import load_image
from cxrkit.inference import quality
from cxrkit.inference.trained import QUALITY_MODEL
from cxrkit.reproduction import environment
from cxrkit.simulation import anatomy, radiograph
from cxrkit.storage import recorded
from cxrkit.tasks import findings
from cxrkit.training import checkpoint, loop

OPEN = ("nih_cxr14", "hannover", "kermany", "kermany_224")
EXTERNAL = ("cohen", "cxnet")
EVALUATED = ("test", "foreign")  # parts of the table; "foreign" = trains nothing
SIZE = 128  # px of the images that are corrupted, before the 64 of the model
VIRTUAL_IMAGES = 1200
OUT_OF_DISTRIBUTION = 0.2  # share of a batch that is no frontal image
INVERTED = 0.2  # share of those that is inverted
TRAINING = Training(
    "adamw",
    lr=3e-3,
    batch=64,
    steps=1500,
    schedule="cosine",
    warmup=30,
    weight_decay=0.01,
    threads=1,
    checkpoint_every=100,
)


def frontal_images(mirror, run):
    """Table of all frontal images with `part`, and their pixels, uint8 (n, SIZE, SIZE)."""
    tables = []
    for name in (*OPEN, *EXTERNAL):
        table = manifests.read_manifest(name, mirror).assign(external=False)
        tables.append(table[table["view"].isin(["PA", "AP"])])
    virtual = run.images("diagnosis").sample(VIRTUAL_IMAGES, random_state=0)
    table = pd.concat([*tables, virtual], ignore_index=True)
    foreign = table["dataset"].isin(EXTERNAL) | table["external"].astype(bool)
    table["part"] = table["split"].mask(foreign, "foreign")
    pixels = cached_images(table["path"], SIZE, kind="grey", store=run.store).gather()
    return table, pixels


# what can be wrong with an image: (grey (S, S), rng) -> grey


def invert(grey, rng):
    """Dense is dark."""
    return 255 - grey


def turn(grey, rng):
    """By one to three quarters."""
    return np.rot90(grey, rng.integers(1, 4)).copy()


def flip(grey, rng):
    """Left to right."""
    return grey[:, ::-1].copy()


def crop(grey, rng):
    """A window of 45-78 % of each side, or one side cut by 25-45 %."""
    size = len(grey)
    if rng.random() < 0.5:
        window = int(size * rng.uniform(0.45, 0.78))
        top, left = rng.integers(0, size - window + 1, 2)
        part = grey[top : top + window, left : left + window]
    else:
        cut = int(size * rng.uniform(0.25, 0.45))
        sides = (grey[cut:], grey[:-cut], grey[:, cut:], grey[:, :-cut])
        part = sides[rng.integers(4)]
    return cv2.resize(np.ascontiguousarray(part), (size, size), interpolation=cv2.INTER_LINEAR)


FAULTS = {"inverted": invert, "turned": turn, "flipped": flip, "cropped": crop}
# in the order in which they are applied
CHANCES = {"cropped": 0.3, "flipped": 0.35, "turned": 0.2, "inverted": 0.2}


def jitter(grey, rng):
    """What is no fault: up to 8 degrees, 4 % shift, 0.9-1.06 scale."""
    size = len(grey)
    centre = ((size - 1) / 2,) * 2
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-8, 8), rng.uniform(0.9, 1.06))
    matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * size
    border = int(rng.choice([0, 0, 128]))
    return cv2.warpAffine(
        grey, matrix, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


# pictures that are no frontal image: rng -> grey (SIZE, SIZE)


def noise(rng):
    """Random grey in blocks of any size."""
    coarse = rng.normal(0, 1, (int(rng.integers(2, SIZE)),) * 2).astype(np.float32)
    smooth = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@lru_cache(maxsize=1)
def photographs():
    """The sample photographs of scikit-learn in grey, by name."""
    loaded = load_sample_images()
    pairs = zip(loaded.filenames, loaded.images, strict=True)
    return {Path(path).stem: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for path, image in pairs}


def photo(name):
    """Parts of a photograph."""

    def draw(rng):
        picture = photographs()[name]
        window = int(rng.integers(100, 400))
        top, left = (int(rng.integers(0, side - window)) for side in picture.shape)
        part = picture[top : top + window, left : left + window]
        part = cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return turn(part, rng) if rng.random() < 0.5 else part

    return draw


def page(rng):
    """Lines of text, black on white or white on black."""
    paper = np.full((2 * SIZE, 2 * SIZE), 255, np.uint8)
    for row in range(12, 2 * SIZE, int(rng.integers(10, 30))):
        text = "".join(rng.choice(list("abcdefgh ijklm nopqrst 0123456789"), 60))
        start = (int(rng.integers(0, 40)), row)
        scale = rng.uniform(0.3, 0.8)
        cv2.putText(paper, text, start, cv2.FONT_HERSHEY_SIMPLEX, scale, 0, 1, cv2.LINE_AA)
    paper = cv2.resize(paper, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return 255 - paper if rng.random() < 0.5 else paper


@lru_cache(maxsize=1)
def volume():
    """The atlas, head first, attenuation relative to water: float32 (z, y, x) at 3 mm."""
    with np.load(anatomy.ATLAS_FILE) as file:
        return file["attenuation"][::-2, ::2, ::2].astype(np.float32) / 100


@lru_cache(maxsize=64)
def projection(angle):
    """Line integrals through the atlas, turned by `angle` degrees about its long axis.

    90 is a lateral image.
    """
    turned = ndimage.rotate(volume(), angle, axes=(1, 2), reshape=False, order=1)
    return cv2.resize(turned.sum(axis=1) * (anatomy.WATER * 3.0), (SIZE, SIZE))


def lateral(angles):
    """Virtual lateral images."""

    def draw(rng):
        detector = radiograph.Detector()
        signal = radiograph.detect(projection(int(rng.choice(angles))), detector, rng)
        image = radiograph.develop(signal, detector, "PA", rng)
        grey = jitter((image * 255).astype(np.uint8), rng)
        return grey[:, ::-1].copy() if rng.random() < 0.5 else grey

    return draw


def ct_slice(axis):
    """Slices of the atlas across an axis."""

    def draw(rng):
        middle = volume().shape[axis]
        index = int(rng.integers(middle // 4, 3 * middle // 4))
        cut = np.take(volume(), index, axis=axis)
        window = (cut - rng.uniform(0, 0.3)) / rng.uniform(0.8, 1.6)
        grey = np.uint8(255 * np.clip(window, 0, 1))
        return jitter(cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), rng)

    return draw


def chart(rng):
    """A bar chart."""
    grey = np.full((SIZE, SIZE), 255, np.uint8)
    for left in range(10, SIZE - 10, int(rng.integers(8, 24))):
        top = int(rng.integers(10, 110))
        cv2.rectangle(grey, (left, top), (left + 6, 118), int(rng.integers(0, 200)), -1)
    return grey


def blobs(rng):
    """Blurred discs."""
    grey = np.full((SIZE, SIZE), int(rng.integers(0, 256)), np.uint8)
    for _ in range(int(rng.integers(2, 12))):
        centre, radius = rng.integers(0, SIZE, 2).tolist(), int(rng.integers(4, 50))
        cv2.circle(grey, centre, radius, int(rng.integers(0, 256)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.5, 6))


SHOWN = {
    "noise": noise,
    "photo": photo("china"),
    "page of text": page,
    "lateral film": lateral(range(60, 121, 6)),
    "axial CT slice": ct_slice(0),
    "blobs": blobs,
}
NEW = {
    "another photo": photo("flower"),
    "chart": chart,
    "sagittal CT slice": ct_slice(2),
    "lateral film, other side": lateral(range(243, 300, 6)),
}


# training and measuring


class CorruptedImages:
    """Images corrupted at random, and one out-of-distribution picture to four images.

    A batch is `image` (B, 1, 64, 64) and `label` (B, 5), NaN where unknown.
    """

    def __init__(self, grey):
        self.grey = grey

    def __len__(self):
        return len(self.grey)

    def batch(self, indices):
        """Images by index, each corrupted anew; the global generator of torch gives the seed."""
        rng = np.random.default_rng(torch.randint(2**31, (1,)).item())
        images, labels = [], []
        for index in indices:
            if rng.random() < OUT_OF_DISTRIBUTION:
                grey, label = self.other_picture(rng)
            else:
                grey, label = self.corrupt(self.grey[index], rng)
            images.append(quality.network_input(grey))
            labels.append(label)
        return {
            "image": torch.from_numpy(np.stack(images))[:, None],
            "label": torch.tensor(labels, dtype=torch.float32),
        }

    def other_picture(self, rng):
        """A picture that is no frontal image, and its labels."""
        kinds = list(SHOWN.values())
        grey = kinds[rng.integers(len(kinds))](rng)
        if rng.random() < INVERTED:
            grey = 255 - grey
        return grey, [1.0] + [float("nan")] * 4

    def corrupt(self, grey, rng):
        """An image with faults by CHANCES, and its labels."""
        grey, label = jitter(grey, rng), dict.fromkeys(quality.FAULTS, 0.0)
        for name, chance in CHANCES.items():
            if rng.random() < chance:
                grey, label[name] = FAULTS[name](grey, rng), 1.0
        if label["turned"]:
            label["flipped"] = float("nan")  # nobody can say
        return grey, list(label.values())


def loss(network, batch):
    """Binary cross-entropy over the labels that are known."""
    return findings.cross_entropy(network(batch["image"]), batch["label"])


def probabilities(network, images):
    """List of grey images -> (n, 5)."""
    inputs = np.stack([quality.network_input(grey) for grey in images])[:, None]
    with torch.no_grad():
        return network(torch.from_numpy(inputs)).sigmoid().numpy()


def rates(network, thresholds, table, grey):
    """Rows of the result: how often each warning comes, by kind of image and of fault."""
    limits, rng, rows = np.array(list(thresholds.values())), np.random.default_rng(1), []
    evaluated = table[table["part"].isin(EVALUATED)]
    for (part, dataset), group in evaluated.groupby(["part", "dataset"]):
        images = [np.asarray(grey[i]) for i in group.index]
        raised = (probabilities(network, images) > limits).mean(0)
        for k, name in enumerate(quality.FAULTS):
            row = {
                "films": dataset,
                "seen": part,
                "fault": name,
                "n": len(group),
                "false_alarms": float(raised[k]),
            }
            if name in FAULTS:
                corrupted = [FAULTS[name](image, rng) for image in images]
                hits = probabilities(network, corrupted) > limits
                row["hits"] = float(hits[:, k].mean())
                row["hits_any"] = float(hits.any(1).mean())
            rows.append(row)
    for seen, kinds in (("train", SHOWN), ("new", NEW)):
        for kind, draw in kinds.items():
            hits = probabilities(network, [draw(rng) for _ in range(200)])[:, 0] > limits[0]
            row = {"films": kind, "seen": seen, "fault": "not_frontal", "n": 200}
            rows.append({**row, "hits": float(hits.mean())})
    return rows


def ranges_of(table):
    """Range of each measure: from 0.9 of the 0.5th percentile to 1.1 of the 99.5th."""
    rows = pd.DataFrame([quality.quantities(load_image(path).pixels) for path in table["path"]])
    low, high = rows.quantile(0.005), rows.quantile(0.995)
    return {name: (0.9 * low[name], 1.1 * high[name]) for name in rows}


def add_noise(grey):
    """Strong noise, the same on every image."""
    return np.uint8(np.clip(grey + np.random.default_rng(0).normal(0, 40, grey.shape), 0, 255))


CHANGES = {  # what no training image shows
    "as it is": lambda grey: grey,
    "contrast / 5": lambda grey: np.uint8(100 + (grey - 128.0) / 5),
    "gamma 6": lambda grey: np.uint8(255 * (grey / 255.0) ** 6),
    "strip of a third": lambda grey: grey[: len(grey) // 3],
    "blur of 3 % of the side": lambda grey: cv2.GaussianBlur(grey, (0, 0), 0.03 * len(grey)),
    "strong noise": add_noise,
}


def range_rates(ranges, table):
    """Rows of the result: how often an image is out of range, as it is and by CHANGES."""
    rows = []
    for dataset, group in table[table["part"].isin(EVALUATED)].groupby("dataset"):
        some = group.sample(min(60, len(group)), random_state=0)
        pixels = [preprocessing.to_uint8(load_image(path).pixels) for path in some["path"]]
        for name, change in CHANGES.items():
            warned = [bool(quality.out_of_range(change(grey), ranges)) for grey in pixels]
            row = {"films": dataset, "fault": "out of range", "change": name, "n": len(some)}
            rows.append({**row, "rate": float(np.mean(warned))})
    return rows


def choose_thresholds(network, images):
    """By fault: one false alarm in a hundred images, at least 0.2."""
    quiet = probabilities(network, images)
    thresholds = {}
    for k, name in enumerate(quality.FAULTS):
        thresholds[name] = max(0.2, float(np.quantile(quiet[:, k], 0.99)))
    return thresholds


def main():
    """Train, choose thresholds on validation images, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with prepared films")
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    run = Run("demo", options.store, options.mirror)
    table, grey = frontal_images(options.mirror, run)
    torch.manual_seed(0)
    network = quality.QualityModel()
    loop.fit(
        network,
        loss,
        CorruptedImages(grey[np.where(table["part"] == "train")[0]]),
        TRAINING,
        folder=run.store.root / "quality_model",
        seed=0,
        device="cpu",
    )
    network.eval()
    validation = [np.asarray(grey[i]) for i in table.index[table["part"] == "val"]]
    thresholds = choose_thresholds(network, validation)
    ranges = ranges_of(table[table["part"] == "train"].sample(600, random_state=0))
    rows = [*rates(network, thresholds, table, grey), *range_rates(ranges, table)]
    checkpoint.save_tensors(
        QUALITY_MODEL, network.state_dict(), thresholds=thresholds, ranges=ranges
    )
    made = {"command": "make quality-model MIRROR=DIR", "thresholds": thresholds}
    recorded.write_result("quality_model", rows, {**made, **environment.provenance()})
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()
