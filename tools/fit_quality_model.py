"""Train the quality model of `cxrkit predict` and measure hit rates and false alarms.

    python tools/fit_quality_model.py --mirror DIR          # ten minutes on one core

Training images: the training splits of OPEN, and anatomies of all virtual hospitals, corrupted in
known ways (FAULTS), and pictures that are no frontal image (SHOWN). Evaluation: test splits, other
anatomies, datasets that train nothing (EXTERNAL), and kinds of pictures that are never shown (NEW).
Writes
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
from cxrkit.simulation import atlases, radiograph
from cxrkit.storage import recorded
from cxrkit.tasks import findings
from cxrkit.training import checkpoint, loop

OPEN = ("nih_cxr14", "hannover", "kermany", "kermany_224")
EXTERNAL = ("cohen", "cxnet")
UNLISTED = ("nih_cxr14_multi", "shenzhen")  # evaluated where they lie in the mirror
EVALUATED = ("test", "foreign")  # parts of the table; "foreign" = trains nothing
LARGEST = 200  # films of a dataset that are evaluated
SIZE = 256  # px of the images that are corrupted, before the 128 of the model
VIRTUAL_IMAGES = 2400
OUT_OF_DISTRIBUTION = 0.2  # share of a batch that is no frontal image
INVERTED = 0.2  # share of those that is inverted
POOL = 100  # pictures of each kind that are drawn for the training
TRAINING = Training(
    "adamw",
    lr=3e-3,
    batch=64,
    steps=2000,
    schedule="cosine",
    warmup=100,
    weight_decay=0.01,
    threads=1,
    checkpoint_every=500,
)


def frontal_images(mirror, run):
    """Table of all frontal images with `part`, and their pixels, uint8 (n, SIZE, SIZE)."""
    tables = []
    for name in (*OPEN, *EXTERNAL):
        table = manifests.read_manifest(name, mirror).assign(external=False)
        tables.append(table[table["view"].isin(["PA", "AP"])])
    virtual = run.images("diagnosis").sample(VIRTUAL_IMAGES, random_state=0)
    # The model guards others and is no study of them: it learns anatomies of all CTs, and is tested
    # on others. Of two CTs alone it calls the third one's heart flipped.
    outside = virtual["external"].astype(bool)
    by_anatomy = virtual["group_id"].map(manifests.split_of)
    virtual = virtual.assign(split=virtual["split"].mask(outside, by_anatomy), external=False)
    patients = set(pd.concat(tables)["group_id"])
    unlisted = [unlisted_images(name, mirror, patients) for name in UNLISTED]
    table = pd.concat([*tables, virtual, *unlisted], ignore_index=True)
    foreign = table["dataset"].isin([*EXTERNAL, *UNLISTED]) | table["external"].astype(bool)
    table["part"] = table["split"].mask(foreign, "foreign")
    pixels = cached_images(table["path"], SIZE, kind="grey", store=run.store).gather()
    return table, pixels


def unlisted_images(name, mirror, patients):
    """Some images of a dataset without a manifest in the kit, without those of `patients`."""
    path = mirror / name / "labels.csv"
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path, low_memory=False)
    table = table[table["view"].isin(["PA", "AP"]) & ~table["group_id"].isin(patients)]
    table = table.sample(min(LARGEST, len(table)), random_state=0)
    paths = [str(mirror / name / file) for file in table["file"]]
    return pd.DataFrame({"path": paths, "dataset": name, "split": "test", "external": True})


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


def rotated(grey, angle, rng):
    """Rotated by `angle` degrees in the proportions of a film, which may not have been square.

    The corners become black or grey, repeat the edge, or are cut off.
    """
    size, width = len(grey), rng.uniform(0.8, 1.25)
    centre = (size - 1) / 2
    corners = rng.choice(["black", "black", "grey", "edge", "cut off"])
    scale = 1 + abs(np.sin(np.radians(angle))) if corners == "cut off" else 1
    matrix = cv2.getRotationMatrix2D((0, 0), angle, scale)
    matrix[0, 1], matrix[1, 0] = matrix[0, 1] / width, matrix[1, 0] * width
    matrix[:, 2] = centre - matrix[:, :2] @ (centre, centre)
    mode = cv2.BORDER_REPLICATE if corners == "edge" else cv2.BORDER_CONSTANT
    value = int(rng.integers(60, 200)) if corners == "grey" else 0
    return cv2.warpAffine(grey, matrix, (size, size), borderMode=mode, borderValue=value)


def tilt(grey, rng):
    """By 8 to 30 degrees to either side."""
    return rotated(grey, rng.choice([-1, 1]) * rng.uniform(8, 30), rng)


def tilted_plane(grey, rng):
    """A perspective: the corners move inwards, one of them by at least 6 % of the side."""
    size = len(grey)
    inwards = rng.uniform(-0.02, 0.15, (4, 2))
    inwards[rng.integers(4), rng.integers(2)] = rng.uniform(0.06, 0.15)
    square = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    moved = square + (1 - 2 * square) * inwards
    matrix = cv2.getPerspectiveTransform(square * size, np.float32(moved * size))
    around = int(rng.choice([0, 0, 30, 90, 220]))
    return cv2.warpPerspective(
        grey, matrix, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=around
    )


def glare(size, rng):
    """Light that a lamp or a window adds, float (size, size)."""
    light = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        x, y = (int(value) for value in rng.uniform(0.05, 0.95, 2) * size)
        radii = [int(value) for value in rng.uniform(0.05, 0.25, 2) * size]
        strength = rng.uniform(60, 200)
        if rng.random() < 0.6:
            cv2.ellipse(light, (x, y), radii, rng.uniform(0, 180), 0, 360, strength, -1)
        else:
            cv2.rectangle(light, (x, y), (x + radii[0], y + radii[1]), strength, -1)
    return cv2.GaussianBlur(light, (0, 0), rng.uniform(0.02, 0.12) * size)


def photograph(grey, rng):
    """As a telephone sees a screen or a light box: perspective, glare, uneven light, stripes."""
    size = len(grey)
    perspective, lamp = rng.random(2) < (0.8, 0.7)
    if perspective or not lamp:
        grey = tilted_plane(grey, rng)
    seen = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.3, 1.5)).astype(np.float32)
    y, x = np.mgrid[:size, :size] / size
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * np.pi)
        seen *= 1 - rng.uniform(0.1, 0.5) * (
            0.5 + (np.cos(angle) * (x - 0.5) + np.sin(angle) * y) / 2
        )
    if rng.random() < 0.4:
        angle, waves = rng.uniform(0, np.pi), size / rng.uniform(2.5, 12)
        phase = 2 * np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y)
        seen += rng.uniform(4, 20) * np.sin(phase)
    if lamp:
        seen += glare(size, rng)
    return np.uint8(np.clip(seen * rng.uniform(0.7, 1) + rng.uniform(0, 30), 0, 255))


def _arrow(grey, grey_value, thickness, rng):
    start, tip = (rng.uniform(0.05, 0.95, 2) * len(grey) for _ in range(2))
    shortest, length = 0.1 * len(grey), np.linalg.norm(tip - start)
    if length < shortest:
        tip = start + (tip - start) * (shortest / max(length, 1e-6))
    head = rng.uniform(0.08, 0.35)
    ends = [tuple(int(value) for value in end) for end in (start, tip)]
    cv2.arrowedLine(grey, *ends, grey_value, thickness, cv2.LINE_AA, tipLength=head)


def _line(grey, grey_value, thickness, rng):
    ends = [tuple(int(value) for value in rng.uniform(0.05, 0.95, 2) * len(grey)) for _ in range(2)]
    cv2.line(grey, *ends, grey_value, thickness, cv2.LINE_AA)


def _outline(grey, grey_value, thickness, rng):
    x, y = (int(value) for value in rng.uniform(0.15, 0.8, 2) * len(grey))
    w, h = (int(value) for value in rng.uniform(0.05, 0.2, 2) * len(grey))
    if rng.random() < 0.5:
        cv2.ellipse(grey, (x, y), (w, h), rng.uniform(0, 180), 0, 360, grey_value, thickness, 16)
    else:
        cv2.rectangle(grey, (x, y), (x + w, y + h), grey_value, thickness)


def _text(grey, grey_value, thickness, rng):
    letters = rng.choice(list("ABCDEFGHKLMNOPRSTUVX0123456789 :/-"), int(rng.integers(4, 22)))
    where = tuple(int(value) for value in rng.uniform((0, 0.06), (0.5, 0.98)) * len(grey))
    scale = rng.uniform(0.35, 1.1)
    thickness = min(thickness, 2)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(grey, "".join(letters), where, font, scale, grey_value, thickness, cv2.LINE_AA)


def draw(grey, rng):
    """One or two arrows, lines, outlines or texts, mostly white."""
    grey = grey.copy()
    for _ in range(int(rng.integers(1, 3))):
        grey_value = int(rng.choice([255, 255, 255, rng.integers(180, 256), 0]))
        mark = (_arrow, _arrow, _line, _outline, _text, _text)[rng.integers(6)]
        mark(grey, grey_value, int(rng.integers(1, 6)), rng)
    return grey


FAULTS = {
    "inverted": invert,
    "turned": turn,
    "flipped": flip,
    "cropped": crop,
    "drawn": draw,
    "tilted": tilt,
    "photographed": photograph,
}
# in the order in which they are applied
CHANCES = {
    "cropped": 0.25,
    "flipped": 0.3,
    "turned": 0.15,
    "inverted": 0.2,
    "drawn": 0.25,
    "tilted": 0.2,
    "photographed": 0.2,
}


# what is no fault


def jitter(grey, rng):
    """Up to 5 degrees, 4 % shift, 0.9-1.06 scale."""
    size = len(grey)
    centre = ((size - 1) / 2,) * 2
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-5, 5), rng.uniform(0.9, 1.06))
    matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * size
    border = int(rng.choice([0, 0, 128]))
    return cv2.warpAffine(
        grey, matrix, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def shutters(grey, rng):
    """A collimator's surround on one to four sides, white or black, up to 12 % of the side."""
    size, angle = len(grey), rng.uniform(-3, 3)
    chosen = rng.random(4) < 0.7
    low, top, high, bottom = np.where(chosen, rng.uniform(0.02, 0.12, 4), -0.1) * size
    corners = np.array(
        [[low, top], [size - high, top], [size - high, size - bottom], [low, size - bottom]]
    )
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), angle, 1)
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    inside = np.zeros_like(grey)
    cv2.fillConvexPoly(inside, np.int32(corners), 1)
    surround = int(rng.choice([255, 255, rng.integers(200, 256), 0]))
    return np.where(inside > 0, grey, np.uint8(surround))


def side_marker(grey, rng):
    """One letter in an upper corner."""
    grey, size = grey.copy(), len(grey)
    x = rng.uniform(0.03, 0.12) if rng.random() < 0.5 else rng.uniform(0.8, 0.9)
    where = (int(x * size), int(rng.uniform(0.08, 0.25) * size))
    letter, scale = str(rng.choice(["R", "L"])), rng.uniform(0.4, 0.9)
    thickness = int(rng.integers(1, 3))
    cv2.putText(grey, letter, where, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    return grey


HARMLESS = {"shutters": (shutters, 0.15), "side marker": (side_marker, 0.15)}  # and its chance


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
    """The first CT, head first, attenuation relative to water: float32 (z, y, x) at 3 mm."""
    atlas = atlases.load_atlas()
    zoom = (1, *(step / atlases.SLICE_SPACING for step in atlas.pitch))
    total = ndimage.zoom(atlas.attenuation(), zoom, order=1)  # (y, z, x)
    return np.ascontiguousarray(total.transpose(1, 0, 2)[::-1]) / 100


@lru_cache(maxsize=64)
def projection(angle):
    """Line integrals through the atlas, turned by `angle` degrees about its long axis.

    90 is a lateral image.
    """
    turned = ndimage.rotate(volume(), angle, axes=(1, 2), reshape=False, order=1)
    return cv2.resize(turned.sum(axis=1) * (atlases.WATER * atlases.SLICE_SPACING), (SIZE, SIZE))


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
    for left in range(20, SIZE - 20, int(rng.integers(16, 48))):
        top = int(rng.integers(20, 220))
        cv2.rectangle(grey, (left, top), (left + 12, 236), int(rng.integers(0, 200)), -1)
    return grey


def blobs(rng):
    """Blurred discs."""
    grey = np.full((SIZE, SIZE), int(rng.integers(0, 256)), np.uint8)
    for _ in range(int(rng.integers(2, 12))):
        centre, radius = rng.integers(0, SIZE, 2).tolist(), int(rng.integers(8, 100))
        cv2.circle(grey, centre, radius, int(rng.integers(0, 256)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(grey, (0, 0), rng.uniform(1, 12))


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

    A batch is `image` (B, 1, 128, 128) and `label` (B, 8), NaN where unknown.

    Each dataset is seen equally often; an epoch is the images of the largest, for each.
    """

    def __init__(self, grey, datasets):
        groups = [np.flatnonzero(datasets == name) for name in np.unique(datasets)]
        largest = max(map(len, groups))
        self.grey, self.rows = grey, np.concatenate([np.resize(rows, largest) for rows in groups])
        rng = np.random.default_rng(0)  # drawing takes longer than training on what is drawn
        self.pictures = [[draw(rng) for _ in range(POOL)] for draw in SHOWN.values()]

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        """Images by index, each corrupted anew; the global generator of torch gives the seed."""
        rng = np.random.default_rng(torch.randint(2**31, (1,)).item())
        images, labels = [], []
        for index in indices:
            if rng.random() < OUT_OF_DISTRIBUTION:
                grey, label = self.other_picture(rng)
            else:
                grey, label = self.corrupt(self.grey[self.rows[index]], rng)
            images.append(quality.network_input(grey))
            labels.append(label)
        return {
            "image": torch.from_numpy(np.stack(images))[:, None],
            "label": torch.tensor(labels, dtype=torch.float32),
        }

    def harmless(self, grey, rng):
        """An image as it is, or with what sound films have too."""
        for change, chance in HARMLESS.values():
            if rng.random() < chance:
                grey = change(grey, rng)
        return grey

    def other_picture(self, rng):
        """A picture that is no frontal image, and its labels."""
        grey = jitter(self.pictures[rng.integers(len(SHOWN))][rng.integers(POOL)], rng)
        if rng.random() < INVERTED:
            grey = 255 - grey
        return grey, [1.0] + [float("nan")] * len(FAULTS)

    def corrupt(self, grey, rng):
        """An image with faults by CHANCES, and its labels."""
        grey, label = jitter(grey, rng), dict.fromkeys(quality.FAULTS, 0.0)
        for name, chance in CHANCES.items():
            if rng.random() < chance:
                grey, label[name] = FAULTS[name](grey, rng), 1.0
            if name == "inverted":  # what follows lies on the finished film
                grey = self.harmless(grey, rng)
        unknown = float("nan")  # nobody can say
        if label["turned"]:
            label["flipped"] = unknown
        if label["photographed"] and not label["tilted"]:
            label["tilted"] = unknown
        return grey, list(label.values())


def loss(network, batch):
    """Binary cross-entropy over the labels that are known."""
    return findings.cross_entropy(network(batch["image"]), batch["label"])


def probabilities(network, images):
    """List of grey images -> (n, 8)."""
    inputs = np.stack([quality.network_input(grey) for grey in images])[:, None]
    with torch.no_grad():
        parts = [network(part).sigmoid() for part in torch.from_numpy(inputs).split(256)]
    return torch.cat(parts).numpy()


# the same for every image, and made in another way than the training's: grey (S, S) -> grey


def rotate_all(degrees):
    """About the centre, black corners."""

    def rotate(grey):
        size = len(grey)
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, 1)
        return cv2.warpAffine(grey, matrix, (size, size))

    return rotate


def screen(grey):
    """A perspective and a lamp."""
    size = len(grey)
    square = np.float32([[0, 0], [1, 0], [0, 1], [1, 1]])
    moved = np.float32([[0.12, 0.05], [0.95, 0], [0, 1], [1, 0.9]])
    matrix = cv2.getPerspectiveTransform(square * size, moved * size)
    lamp = cv2.circle(np.zeros_like(grey), (size // 3, size // 3), size // 6, 120, -1)
    lamp = cv2.GaussianBlur(lamp, (0, 0), size / 12)
    return cv2.add(cv2.warpPerspective(grey, matrix, (size, size)), lamp)


def one_arrow(grey):
    """From the upper left into the lung."""
    size = len(grey)
    ends = (size // 10, size // 10), (size // 3, size // 2)
    return cv2.arrowedLine(grey.copy(), *ends, 255, max(2, size // 80))


def banner(grey):
    """A line of text across the top."""
    size = len(grey)
    font, where = cv2.FONT_HERSHEY_PLAIN, (size // 50, size // 14)
    return cv2.putText(grey.copy(), "HOSPITAL 2020-03-14 10:21", where, font, size / 256, 255, 1)


def white_surround(grey):
    """White shutters of 6 % of the side."""
    return cv2.copyMakeBorder(
        grey[len(grey) // 16 : -len(grey) // 16, len(grey) // 16 : -len(grey) // 16],
        *[len(grey) // 16] * 4,
        cv2.BORDER_CONSTANT,
        value=255,
    )


FIXED = {  # name -> (fault that must be seen; None = no fault, change)
    "turned by 10 degrees": ("tilted", rotate_all(10)),
    "turned by 15 degrees": ("tilted", rotate_all(-15)),
    "photographed from a screen": ("photographed", screen),
    "an arrow": ("drawn", one_arrow),
    "a banner of text": ("drawn", banner),
    "white surround": (None, white_surround),
}


def rates(network, thresholds, table, grey):
    """Rows of the result: how often each warning comes, by kind of image and of fault."""
    limits, rng, rows = np.array(list(thresholds.values())), np.random.default_rng(1), []
    evaluated = table[table["part"].isin(EVALUATED)]
    for (part, dataset), group in evaluated.groupby(["part", "dataset"]):
        group = group.sample(min(LARGEST, len(group)), random_state=0)
        images = [np.asarray(grey[i]) for i in group.index]
        base = {"films": dataset, "seen": part, "n": len(group)}
        raised = probabilities(network, images) > limits  # (n, 8)
        any_alarm = float(raised.any(1).mean())
        rows.append({**base, "fault": "any", "false_alarms": any_alarm})
        for k, name in enumerate(quality.FAULTS):
            row = {**base, "fault": name, "false_alarms": float(raised[:, k].mean())}
            if name in FAULTS:
                corrupted = [FAULTS[name](image, rng) for image in images]
                hits = probabilities(network, corrupted) > limits
                row["hits"] = float(hits[:, k].mean())
                row["hits_any"] = float(hits.any(1).mean())
            rows.append(row)
        for name, (fault, change) in FIXED.items():
            hits = probabilities(network, [change(image) for image in images]) > limits
            new = (hits & ~raised).mean(0)  # warnings that the untouched image does not have
            row = {
                **base,
                "fault": fault,
                "change": name,
                "new_any": float((hits & ~raised).any(1).mean()),
            }
            if fault:
                row["hits"] = float(hits[:, list(quality.FAULTS).index(fault)].mean())
            rows.append({**row, "new": dict(zip(quality.FAULTS, new.tolist(), strict=True))})
    for seen, kinds in (("train", SHOWN), ("new", NEW)):
        for kind, draw in kinds.items():
            hits = probabilities(network, [draw(rng) for _ in range(200)]) > limits
            row = {"films": kind, "seen": seen, "fault": "not_frontal", "n": 200}
            row["hits_any"] = float(hits.any(1).mean())
            rows.append({**row, "hits": float(hits[:, 0].mean())})
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


LOWEST = 0.2  # threshold
LOWEST_NOT_FRONTAL = 0.02  # films lie far below it


def choose_thresholds(network, images):
    """By fault: one false alarm in a hundred images, and a lowest value."""
    quiet = probabilities(network, images)
    thresholds = {}
    for k, name in enumerate(quality.FAULTS):
        lowest = LOWEST_NOT_FRONTAL if name == "not_frontal" else LOWEST
        thresholds[name] = max(lowest, float(np.quantile(quiet[:, k], 0.99)))
    return thresholds


def main():
    """Train, choose thresholds on validation images, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with prepared films")
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    run = Run("demo", options.store, options.mirror)
    table, grey = frontal_images(options.mirror, run)
    torch.manual_seed(0)
    network = quality.QualityModel()
    train = np.flatnonzero(table["part"] == "train")
    loop.fit(
        network,
        loss,
        CorruptedImages(grey[train], table["dataset"].to_numpy()[train]),
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
