"""Train the inspector of `cxrkit predict` and measure what it sees: hit rates, false alarms, by
kind of film and of fault.

    python tools/fit_inspector.py --mirror DIR          # two minutes on one core

Films: training splits of OPEN and of the virtual hospitals, spoiled in known ways, and pictures
that are no frontal film (STRANGERS). Judged on test splits, on FOREIGN films of which none was
seen, and on kinds of strangers that were never shown (NEW). Writes
cxrkit/weights/open/inspector.safetensors and cxrkit/results/inspector.json.
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

from cxrkit.config import profiles
from cxrkit.config.profiles import Training
from cxrkit.data import manifests, preprocessing
from cxrkit.data.cache import cached
from cxrkit.data.images import load_image
from cxrkit.inference import quality
from cxrkit.pipeline import task_data
from cxrkit.reproduction import environment, results
from cxrkit.simulation import anatomy, radiograph
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import findings
from cxrkit.training import checkpoint, loop

OPEN = ("nih_cxr14", "hannover", "kermany", "kermany_224")
FOREIGN = ("cohen", "cxnet")
SIZE = 128  # px of the films that are spoiled, before the inspector's 64
OUT = Path(quality.__file__).parent / "weights" / "open" / "inspector.safetensors"
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


def films(mirror, store):
    """Table of all frontal films and their grey pixels, uint8 (n, SIZE, SIZE)."""
    parts = [manifests.read(name, mirror).assign(external=False) for name in (*OPEN, *FOREIGN)]
    parts = [part[part["view"].isin(["PA", "AP"])] for part in parts]
    virtual = task_data.for_task(profiles.demo(), "diagnosis", store).sample(1200, random_state=0)
    table = pd.concat([*parts, virtual], ignore_index=True)
    table["part"] = (
        table["split"]
        .where(~table["dataset"].isin(FOREIGN), "foreign")
        .mask(table["external"].astype(bool), "foreign")
    )
    return table, np.load(cached(table["path"], SIZE, kind="grey", store=store), mmap_mode="r")


# what can be wrong with a film: (grey (S, S), rng) -> grey


def _crop(grey, rng):
    """A window of 45-78 % of each side, or one side cut by 25-45 %."""
    size = len(grey)
    if rng.random() < 0.5:
        window = int(size * rng.uniform(0.45, 0.78))
        top, left = rng.integers(0, size - window + 1, 2)
        part = grey[top : top + window, left : left + window]
    else:
        gone = int(size * rng.uniform(0.25, 0.45))
        part = (grey[gone:], grey[:-gone], grey[:, gone:], grey[:, :-gone])[rng.integers(4)]
    return cv2.resize(np.ascontiguousarray(part), (size, size), interpolation=cv2.INTER_LINEAR)


FAULTS = {
    "inverted": lambda grey, rng: 255 - grey,
    "turned": lambda grey, rng: np.rot90(grey, rng.integers(1, 4)).copy(),
    "flipped": lambda grey, rng: grey[:, ::-1].copy(),
    "cropped": _crop,
}
CHANCES = {"inverted": 0.2, "turned": 0.2, "flipped": 0.35, "cropped": 0.3}


def _jitter(grey, rng):
    """What is no fault: up to 8 degrees, 4 % shift, 0.9-1.06 scale."""
    size = len(grey)
    matrix = cv2.getRotationMatrix2D(
        ((size - 1) / 2,) * 2, rng.uniform(-8, 8), rng.uniform(0.9, 1.06)
    )
    matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * size
    return cv2.warpAffine(
        grey,
        matrix,
        (size, size),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=int(rng.choice([0, 0, 128])),
    )


# pictures that are no frontal film: rng -> grey (S, S)


def _noise(rng):
    coarse = rng.normal(0, 1, (int(rng.integers(2, SIZE)),) * 2).astype(np.float32)
    return cv2.normalize(
        cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC),
        None,
        0,
        255,
        cv2.NORM_MINMAX,
    ).astype(np.uint8)


def _photo(name):
    @lru_cache(maxsize=1)
    def picture():
        return {
            Path(path).stem: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            for path, image in zip(load_sample_images().filenames, load_sample_images().images)
        }[name]

    def part(rng):
        window = int(rng.integers(100, 400))
        top, left = (int(rng.integers(0, side - window)) for side in picture().shape)
        found = cv2.resize(
            picture()[top : top + window, left : left + window],
            (SIZE, SIZE),
            interpolation=cv2.INTER_AREA,
        )
        return FAULTS["turned"](found, rng) if rng.random() < 0.5 else found

    return part


def _page(rng):
    page = np.full((2 * SIZE, 2 * SIZE), 255, np.uint8)
    for row in range(12, 2 * SIZE, int(rng.integers(10, 30))):
        text = "".join(rng.choice(list("abcdefgh ijklm nopqrst 0123456789"), 60))
        cv2.putText(
            page,
            text,
            (int(rng.integers(0, 40)), row),
            cv2.FONT_HERSHEY_SIMPLEX,
            rng.uniform(0.3, 0.8),
            0,
            1,
            cv2.LINE_AA,
        )
    page = cv2.resize(page, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return 255 - page if rng.random() < 0.5 else page


@lru_cache(maxsize=1)
def _volume():
    """The atlas, head first, attenuation relative to water: float32 (z, y, x) at 3 mm."""
    with np.load(anatomy.ATLAS) as file:
        return file["attenuation"][::-2, ::2, ::2].astype(np.float32) / 100


@lru_cache(maxsize=64)
def _projection(angle):
    """Line integrals through the atlas turned by `angle` degrees about the long axis; 90 is a
    lateral film.
    """
    turned = ndimage.rotate(_volume(), angle, axes=(1, 2), reshape=False, order=1)
    return cv2.resize(turned.sum(axis=1) * (anatomy.WATER * 3.0), (SIZE, SIZE))


def _lateral(angles):
    def draw(rng):
        film_ = radiograph.develop(
            radiograph.detect(_projection(int(rng.choice(angles))), radiograph.Detector(), rng),
            radiograph.Detector(),
            "PA",
            rng,
        )
        grey = _jitter((film_ * 255).astype(np.uint8), rng)
        return grey[:, ::-1].copy() if rng.random() < 0.5 else grey

    return draw


def _slice(axis):
    def draw(rng):
        middle = _volume().shape[axis]
        cut = np.take(_volume(), int(rng.integers(middle // 4, 3 * middle // 4)), axis=axis)
        grey = np.uint8(255 * np.clip((cut - rng.uniform(0, 0.3)) / rng.uniform(0.8, 1.6), 0, 1))
        return _jitter(cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), rng)

    return draw


def _chart(rng):
    grey = np.full((SIZE, SIZE), 255, np.uint8)
    for left in range(10, SIZE - 10, int(rng.integers(8, 24))):
        cv2.rectangle(
            grey, (left, int(rng.integers(10, 110))), (left + 6, 118), int(rng.integers(0, 200)), -1
        )
    return grey


def _blobs(rng):
    grey = np.full((SIZE, SIZE), int(rng.integers(0, 256)), np.uint8)
    for _ in range(int(rng.integers(2, 12))):
        centre, size = rng.integers(0, SIZE, 2).tolist(), int(rng.integers(4, 50))
        cv2.circle(grey, centre, size, int(rng.integers(0, 256)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.5, 6))


STRANGERS = {
    "noise": _noise,
    "photo": _photo("china"),
    "page of text": _page,
    "lateral film": _lateral(range(60, 121, 6)),
    "axial CT slice": _slice(0),
    "blobs": _blobs,
}
NEW = {
    "another photo": _photo("flower"),
    "chart": _chart,
    "sagittal CT slice": _slice(2),
    "lateral film, other side": _lateral(range(243, 300, 6)),
}


# training and measuring


class Spoiled:
    """Films of a table, spoiled at random, and one stranger to four films: `image` (B, 1, 64, 64),
    `label` (B, 5), NaN where unknown.
    """

    def __init__(self, grey):
        self.grey = grey

    def __len__(self):
        return len(self.grey)

    def batch(self, indices):
        rng = np.random.default_rng(torch.randint(2**31, (1,)).item())
        pairs = [
            self.stranger(rng) if rng.random() < 0.2 else self.spoil(self.grey[i], rng)
            for i in indices
        ]
        images, labels = zip(*pairs)
        return {
            "image": torch.from_numpy(np.stack([quality.seen(grey) for grey in images]))[:, None],
            "label": torch.tensor(labels, dtype=torch.float32),
        }

    def stranger(self, rng):
        grey = STRANGERS[list(STRANGERS)[rng.integers(len(STRANGERS))]](rng)
        return (255 - grey if rng.random() < 0.2 else grey), [1.0] + [float("nan")] * 4

    def spoil(self, grey, rng):
        grey, label = _jitter(grey, rng), dict.fromkeys(quality.FAULTS, 0.0)
        for name in ("cropped", "flipped", "turned", "inverted"):
            if rng.random() < CHANCES[name]:
                grey, label[name] = FAULTS[name](grey, rng), 1.0
        if label["turned"]:
            label["flipped"] = float("nan")  # nobody can tell
        return grey, list(label.values())


def loss(network, batch):
    """Binary cross-entropy over the labels that are known."""
    return findings.cross_entropy(network(batch["image"]), batch["label"])


def probabilities(network, images):
    """List of grey films -> (n, 5)."""
    with torch.no_grad():
        return (
            network(torch.from_numpy(np.stack([quality.seen(grey) for grey in images]))[:, None])
            .sigmoid()
            .numpy()
        )


def rates(network, thresholds, table, grey):
    """Rows of a result: for each kind of film and of fault, how often the warning comes."""
    limits, rng, rows = np.array(list(thresholds.values())), np.random.default_rng(1), []
    for (part, dataset), films in table[table["part"].isin(["test", "foreign"])].groupby(
        ["part", "dataset"]
    ):
        whole = [np.asarray(grey[i]) for i in films.index]
        raised = (probabilities(network, whole) > limits).mean(0)
        for k, name in enumerate(quality.FAULTS):
            row = {
                "films": dataset,
                "seen": part,
                "fault": name,
                "n": len(films),
                "false_alarms": float(raised[k]),
            }
            if name in FAULTS:
                spoiled = (
                    probabilities(network, [FAULTS[name](film, rng) for film in whole]) > limits
                )
                row |= {
                    "hits": float(spoiled[:, k].mean()),
                    "hits_any": float(spoiled.any(1).mean()),
                }
            rows.append(row)
    for seen, kinds in (("train", STRANGERS), ("new", NEW)):
        for kind, draw in kinds.items():
            found = probabilities(network, [draw(rng) for _ in range(200)])[:, 0] > limits[0]
            rows.append(
                {
                    "films": kind,
                    "seen": seen,
                    "fault": "not_frontal",
                    "n": 200,
                    "hits": float(found.mean()),
                }
            )
    return rows


def ranges_of(table):
    """Range of each measure over training films: from 0.9 of the 0.5th percentile to 1.1 of the
    99.5th.
    """
    rows = pd.DataFrame([quality.quantities(load_image(path).pixels) for path in table["path"]])
    low, high = rows.quantile(0.005), rows.quantile(0.995)
    return {name: (0.9 * low[name], 1.1 * high[name]) for name in rows}


CHANGES = {  # what no film of training shows
    "as it is": lambda grey: grey,
    "contrast / 5": lambda grey: np.uint8(100 + (grey - 128.0) / 5),
    "gamma 6": lambda grey: np.uint8(255 * (grey / 255.0) ** 6),
    "strip of a third": lambda grey: grey[: len(grey) // 3],
    "blur of 3 % of the side": lambda grey: cv2.GaussianBlur(grey, (0, 0), 0.03 * len(grey)),
    "strong noise": lambda grey: np.uint8(
        np.clip(grey + np.random.default_rng(0).normal(0, 40, grey.shape), 0, 255)
    ),
}


def range_rates(ranges, table):
    """How often a film is called out of range: as it is, and changed in ways that training never
    showed.
    """
    rows = []
    for dataset, films in table[table["part"].isin(["test", "foreign"])].groupby("dataset"):
        some = films.sample(min(60, len(films)), random_state=0)
        pixels = [preprocessing.to_uint8(load_image(path).pixels) for path in some["path"]]
        for name, change in CHANGES.items():
            called = [bool(quality.out_of_range(change(grey), ranges)) for grey in pixels]
            rows.append(
                {
                    "films": dataset,
                    "fault": "out of range",
                    "change": name,
                    "n": len(some),
                    "rate": float(np.mean(called)),
                }
            )
    return rows


def main():
    """Train, choose thresholds on validation films (one false alarm in a hundred), judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with prepared films")
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    store = Store(options.store, data=options.mirror)
    table, grey = films(options.mirror, store)
    torch.manual_seed(0)
    network = quality.Inspector()
    loop.fit(
        network,
        loss,
        Spoiled(grey[np.where(table["part"] == "train")[0]]),
        TRAINING,
        folder=store.root / "inspector",
        seed=0,
    )
    network.eval()
    quiet = probabilities(
        network, [np.asarray(grey[i]) for i in table.index[table["part"] == "val"]]
    )
    thresholds = {
        name: max(0.2, float(np.quantile(quiet[:, k], 0.99)))
        for k, name in enumerate(quality.FAULTS)
    }
    ranges = ranges_of(table[table["part"] == "train"].sample(600, random_state=0))
    rows = [*rates(network, thresholds, table, grey), *range_rates(ranges, table)]
    checkpoint.save_tensors(OUT, network.state_dict(), thresholds=thresholds, ranges=ranges)
    results.write(
        "inspector",
        rows,
        {
            "command": "make inspector MIRROR=DIR",
            "thresholds": thresholds,
            **environment.provenance(),
        },
    )
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()
