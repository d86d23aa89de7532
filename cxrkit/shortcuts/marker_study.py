"""Marker study: what do models learn where a marker in the corner goes with the diagnosis?

It does so with probability rho, the strength of the confounder. Every image's own marker is painted
over and written anew, so that between two steps of the confounder sweep nothing changes but these
letters. Linear probes of three depths (pixels, the first layers of a frozen backbone, its corpus)
are trained at every rho; a small corpus ViT on the first layers shows where such a model looks.

n images, M markers, K classes, C channels, d features, S px of a raw image, h w grid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config import sections
from cxrkit.data import augmentation, masks, preprocessing
from cxrkit.evaluation import metrics, resampling, summaries
from cxrkit.explain import deep_taylor, measures
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.simulation import radiograph
from cxrkit.simulation.radiograph import MARKERS as MARKERS  # what lessons show
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import diagnosis
from cxrkit.training import batches, checkpoint, loop
from cxrkit.training.devices import pick_device

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.models.densenet import Backbone
    from cxrkit.simulation.cohort import Cohort

Model = TypeVar("Model", bound=nn.Module)

RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)
# where fixes are compared: at 1 no image is left from which balancing could learn the difference
FIX_RHO = 0.75
MAX_IMAGES = {"train": 600, "internal": 300, "external": 300}
PROBES = ("pixels", "first layers", "corpus")  # what a linear probe is given
PIXEL_SIZE = 64  # px of the image that the probe of pixels is given
PROBE_TRAINING = sections.Training(
    "adamw",
    lr=2e-4,
    batch=32,
    steps=250,
    schedule="cosine",
    warmup=10,
    weight_decay=0.1,
    clip=1.0,
    threads=1,
)
VIT_TRAINING = replace(PROBE_TRAINING, lr=2e-3, steps=300, weight_decay=0.05)
BOOTSTRAP_DRAWS = 200  # of patients, for an interval


# images


def erase_marker(image: np.ndarray, row: dict[str, Any] | pd.Series) -> np.ndarray:
    """Paint over the marker of a raw image with what surrounds it.

    Args:
        image: uint8 (S, S).
        row: its line of the cohort's table, with marker_top, marker_left, ... in px.

    Returns:
        A new image, uint8 (S, S).
    """
    sides = ("top", "left", "bottom", "right")
    top, left, bottom, right = (max(0, int(row[f"marker_{side}"])) for side in sides)
    return radiograph.erase_marker(image, (slice(top, bottom), slice(left, right)))


def write_marker(
    image: np.ndarray, marker: int, seed: int
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A copy of an image with a marker.

    Args:
        image: uint8 (S, S).
        marker: its number in `radiograph.MARKERS`.
        seed: alone decides where it is written.

    Returns:
        The copy, and the box of the marker: top, left, bottom, right px.
    """
    out = image.copy()
    box = radiograph.write_marker(out, radiograph.MARKERS[marker], np.random.default_rng(seed))
    return out, box


def unchanged(image: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """The image as it is."""
    return image


def keep_lungs(image: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """The image with all but the lungs in their mean grey."""
    lungs = masks.load_mask(row["lung_mask"]) > 0
    out = np.full_like(image, np.rint(image[lungs].mean()))
    out[lungs] = image[lungs]
    return out


def augment(image: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """The image turned, shifted, scaled and perhaps flipped (`data.augment`), by its number."""
    generator = torch.Generator().manual_seed(int(row["number"]))
    return augmentation.augment(image, generator=generator)[0]


# name -> function of a raw image and its row
IMAGE_CHANGES: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "as it is": unchanged,
    "marker erased": unchanged,  # `mark_images` writes none
    "lungs only": keep_lungs,
    "turned": augment,
}
WITHOUT_MARKER = ("marker erased", "lungs only")  # no marker is left to be seen


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list to which every forward pass of a module adds its output, on the CPU."""
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda module, given, out: outputs.append(out.cpu()))
    try:
        yield outputs
    finally:
        hook.remove()


@torch.no_grad()
def embed(
    backbone: Backbone,
    images: list[np.ndarray],
    profile: Profile,
    device: torch.device | None = None,
) -> dict[str, torch.Tensor]:
    """What each probe is given of raw images.

    Args:
        backbone: frozen; it is moved to `device` and stays there.
        images: n of uint8 (S, S).
        profile: its image size and choices prepare them.
        device: where to compute; default: `pick_device()`.

    Returns:
        For each of PROBES (n, C, h, w) on the CPU; "first layers" are folded to the grid of the
        corpus.
    """
    device = pick_device() if device is None else device
    backbone.to(device)
    size, choices = profile.image_size, profile.choices
    prepared = [preprocessing.prepare(np.asarray(image), size, choices) for image in images]
    small = (PIXEL_SIZE, PIXEL_SIZE)
    pixels = [cv2.resize(image, small, interpolation=cv2.INTER_AREA) for image in prepared]
    normal = [preprocessing.normalize(image, choices.normalize) for image in prepared]
    inputs = torch.from_numpy(np.stack(normal))[:, None]  # (n, 1, s, s)
    with outputs_of(backbone.features.transition1) as first_layers:
        parts = [backbone.features(part.to(device)).cpu() for part in inputs.split(64)]
    corpus, first = torch.cat(parts), torch.cat(first_layers)  # (n, C, h, w), (n, C', fh, fw)
    fold = first.shape[-1] // corpus.shape[-1]
    return {
        "pixels": torch.from_numpy(np.stack(pixels) / np.float32(255))[:, None],
        "first layers": F.pixel_unshuffle(first, fold),  # (n, f*f*C', h, w)
        "corpus": corpus,
    }


class MarkedImages(NamedTuple):
    """Images of one split, each with every marker."""

    table: pd.DataFrame  # n rows
    codes: np.ndarray  # (n,) class numbers
    inputs: dict[str, torch.Tensor]  # probe -> float16 (M, n, C, h, w)
    boxes: np.ndarray  # (M, n, 4) of the marker: top, left, bottom, right in raw px

    def with_marker(self, probe: str, markers: np.ndarray) -> torch.Tensor:
        """Inputs of a probe, image i with marker `markers[i]`: float32 (n, C, h, w)."""
        images = torch.arange(len(self.codes))
        return self.inputs[probe][torch.as_tensor(markers), images].float()


def mark_images(
    table: pd.DataFrame,
    images: np.ndarray,
    backbone: Backbone,
    profile: Profile,
    change: str = "as it is",
    device: torch.device | None = None,
) -> MarkedImages:
    """Images of a table with each marker in turn, then changed, as the probes see them.

    Args:
        table: n rows; column `row` says which raw image, `number` decides where markers stand.
        images: raw images, uint8 (N, S, S).
        backbone: frozen.
        profile: prepares the images.
        change: key of IMAGE_CHANGES; one in WITHOUT_MARKER leaves no marker: all M are one image.
        device: where the backbone computes; default: `pick_device()`.
    """
    rows = table.to_dict("records")
    change_image = IMAGE_CHANGES[change]
    bare = [erase_marker(np.array(images[row["row"]]), row) for row in rows]
    embedded: list[dict[str, torch.Tensor]] = []
    boxes = []
    for marker in range(len(radiograph.MARKERS)):
        written, boxes_of_marker = [], []
        for image, row in zip(bare, rows, strict=True):
            with_marker, box = write_marker(image, marker, row["number"])
            written.append(with_marker)
            boxes_of_marker.append(box)
        boxes.append(boxes_of_marker)
        if change in WITHOUT_MARKER:
            if embedded:
                continue
            written = bare
        changed = [change_image(image, row) for image, row in zip(written, rows, strict=True)]
        embedded.append(embed(backbone, changed, profile, device))
    inputs = {}
    for probe in PROBES:
        stack = torch.stack([of_marker[probe] for of_marker in embedded]).half()
        inputs[probe] = stack.expand(len(radiograph.MARKERS), *stack.shape[1:])  # (M, n, C, h, w)
    return MarkedImages(table, diagnosis.codes(table), inputs, np.array(boxes))


def draw_markers(codes: np.ndarray, rho: float, seed: int = 0) -> np.ndarray:
    """A marker for each image.

    Args:
        codes: class numbers, (n,).
        rho: with this probability the marker goes with the diagnosis, else any of them is written
            (as in `simulation.Hospital`).
        seed: of the draw.

    Returns:
        Numbers of markers, (n,).

    Raises:
        ValueError: rho lies outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho = {rho}; it must lie in [0, 1]")
    rng = np.random.default_rng(seed)
    tied = rng.random(len(codes)) < rho
    return np.where(tied, codes, rng.integers(len(radiograph.MARKERS), size=len(codes)))


# models


class LinearProbe(nn.Module):
    """Multinomial regression on standardised features.

    Args:
        features: (n, C, h, w), whose mean and spread standardise later ones.
        classes: K.
    """

    def __init__(self, features: torch.Tensor, classes: int = 3) -> None:
        super().__init__()
        flat = features.flatten(1)  # (n, d)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("spread", flat.std(0) + 1e-3)
        self.head = nn.Linear(flat.shape[1], classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features (n, C, h, w) -> `logits` (n, K)."""
        return {"logits": self.head((features.flatten(1) - self.mean) / self.spread)}


def small_vit(features: torch.Tensor, profile: Profile) -> CorpusViT:
    """A corpus ViT of one block for features (n, C, h, w)."""
    sizes = profile.transformer
    return CorpusViT(
        in_channels=features.shape[1],
        grid=features.shape[-1],
        embed_dim=sizes.embed_dim,
        depth=1,
        num_heads=sizes.num_heads,
        mlp_dim=4 * sizes.embed_dim,
        fused=True,
    )


def cross_entropy(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss of a batch of features and class numbers."""
    return F.cross_entropy(model(batch["features"])["logits"], batch["diagnosis"])


def fit_model(
    make_model: Callable[[torch.Tensor], Model],
    features: torch.Tensor,
    codes: np.ndarray,
    training: sections.Training,
    weights: np.ndarray | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> Model:
    """Make a model for features and train it on them.

    Args:
        make_model: features -> model, such as `LinearProbe`.
        features: of the training images, (n, C, h, w).
        codes: their class numbers, (n,).
        training: schedule.
        weights: chances of each image to be drawn, (n,); default: equal.
        seed: of the first weights and the draws.
        device: where to train; default: `pick_device()`.

    Returns:
        The model in evaluation mode, on the device.
    """
    torch.manual_seed(seed)
    model = make_model(features)
    images = batches.Tensors(features=features, diagnosis=torch.tensor(codes))
    loop.fit(
        model,
        cross_entropy,
        images,
        training,
        seed=seed,
        sample_weights=weights,
        device=device,
        progress=False,
    )
    return model.eval()


@torch.no_grad()
def probabilities(
    model: nn.Module, features: torch.Tensor, device: torch.device | None = None
) -> np.ndarray:
    """Probabilities of the classes.

    Args:
        model: features -> `logits`; it is moved to `device` and stays there.
        features: (n, C, h, w).
        device: where to compute; default: `pick_device()`.

    Returns:
        (n, K).
    """
    device = pick_device() if device is None else device
    model.to(device)
    parts = []
    for part in features.split(128):
        parts.append(model(part.to(device))["logits"].softmax(1).cpu())
    return torch.cat(parts).numpy()


def balanced_weights(codes: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Chances of a draw that make all pairs of diagnosis and marker equally frequent.

    A pair that no image has stays without a draw.

    Args:
        codes: class numbers, (n,).
        markers: numbers of markers, (n,).

    Returns:
        (n,).
    """
    pair = pd.Series(list(zip(codes, markers, strict=True)))
    return (1 / pair.map(pair.value_counts())).to_numpy()


# measurements


def auc_with_interval(
    model: nn.Module,
    images: MarkedImages,
    probe: str,
    markers: np.ndarray,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Macro AUC on images with the given markers, with its interval by patient."""
    p = probabilities(model, images.with_marker(probe, markers), device)
    groups = images.table["group_id"].to_numpy()
    area = resampling.bootstrap(
        metrics.macro_auc, images.codes, p, groups=groups, draws=BOOTSTRAP_DRAWS
    )
    return summaries.interval_dict(area, len(p))


def exchange_markers(
    model: nn.Module, images: MarkedImages, probe: str, device: torch.device | None = None
) -> np.ndarray:
    """Probabilities of every image under each marker, (M, n, K).

    What changes between the markers is the marker's effect alone.
    """
    of_marker = [probabilities(model, inputs.float(), device) for inputs in images.inputs[probe]]
    return np.stack(of_marker)


def flip_rate(p: np.ndarray) -> float:
    """Share of images whose answer changes with the marker: p (M, n, K) of `exchange_markers`."""
    answers = p.argmax(2)  # (M, n)
    return float((answers != answers[0]).any(0).mean())


def relevance_on_marker(
    model: CorpusViT,
    images: MarkedImages,
    probe: str,
    markers: np.ndarray,
    size: int,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Share of each image's relevance for its answer that lies in cells with its marker.

    Args:
        model: a corpus ViT that reads what the probe is given.
        images: with every marker.
        probe: one of PROBES.
        markers: of the images, (n,).
        size: px of a raw image.
        device: where to compute; default: `pick_device()`.

    Returns:
        value, low, high, n, and `chance`, the share of such cells.
    """
    features = images.with_marker(probe, markers)
    mask = np.zeros((len(markers), size, size), bool)
    boxes = images.boxes[markers, np.arange(len(markers))]  # (n, 4)
    for image_mask, (top, left, bottom, right) in zip(mask, boxes, strict=True):
        image_mask[max(0, top) : bottom, max(0, left) : right] = True
    cells = measures.near(mask, features.shape[-2:], 0.5)  # (n, h, w)
    answers = torch.from_numpy(probabilities(model, features, device).argmax(1))
    maps = deep_taylor.relevance(model, features, answers, device=device)
    maps = maps.clamp(min=0).numpy()
    share = (maps * cells).sum((1, 2)) / np.maximum(maps.sum((1, 2)), 1e-12)
    groups = images.table["group_id"].to_numpy()
    triple = resampling.bootstrap(np.mean, share, groups=groups, draws=BOOTSTRAP_DRAWS)
    return {**summaries.interval_dict(triple, len(share)), "chance": float(cells.mean())}


# the study


class Fix(NamedTuple):
    """What is done against the marker."""

    train_change: str = "as it is"  # key of IMAGE_CHANGES, for the training images
    test_change: str = "as it is"  # for the images of the evaluation
    balanced: bool = False  # draw all pairs of diagnosis and marker equally often
    any_marker: bool = False  # markers of the training say nothing, whatever rho


FIXES = {
    "none": Fix(),
    "balanced draws": Fix(balanced=True),
    "turned and shifted": Fix(train_change="turned"),
    "any marker painted": Fix(any_marker=True),
    "marker erased": Fix(train_change="marker erased", test_change="marker erased"),
    "lungs only": Fix(train_change="lungs only", test_change="lungs only"),
}


def select_images(table: pd.DataFrame, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Images of the study by split.

    Args:
        table: of a cohort.
        seed: of the draw, where there are more than MAX_IMAGES.

    Returns:
        {"train": , "internal": , "external": }, each image with its `number`.
    """
    table = table[table["ward"] == "diagnosis"]
    table = table.assign(number=np.arange(len(table)))
    internal = table[table["external"] == 0]
    splits = {
        "train": internal[internal["split"] == "train"],
        "internal": internal[internal["split"] != "train"],
        "external": table[table["external"] == 1],
    }
    selected = {}
    for name, part in splits.items():
        count = min(len(part), MAX_IMAGES[name])
        selected[name] = part.sample(count, random_state=seed).sort_index()
    return selected


def confounder_sweep(
    splits: dict[str, MarkedImages], seed: int = 0, device: torch.device | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Every probe at every rho.

    Internal images carry markers as biased as those of the training; on external ones they say
    nothing.

    Args:
        splits: marked images "train", "internal" and "external".
        seed: of markers and trainings.
        device: where to train; default: `pick_device()`.

    Returns:
        Rows probe, rho, split, flip_rate, and the AUC (value, low, high, n); and for each probe the
        probabilities of `exchange_markers`, (RHOS, M, n, K).
    """
    train, internal, external = splits["train"], splits["internal"], splits["external"]
    unbiased = draw_markers(external.codes, 0, seed + 2)
    rows, exchanged = [], {}
    for probe in PROBES:
        of_rho = []
        for rho in RHOS:
            features = train.with_marker(probe, draw_markers(train.codes, rho, seed))
            model = fit_model(
                LinearProbe, features, train.codes, PROBE_TRAINING, seed=seed, device=device
            )
            biased = draw_markers(internal.codes, rho, seed + 1)
            areas = {
                "internal": auc_with_interval(model, internal, probe, biased, device),
                "external": auc_with_interval(model, external, probe, unbiased, device),
            }
            of_rho.append(exchange_markers(model, external, probe, device))
            flips = flip_rate(of_rho[-1])
            for split, area in areas.items():
                row = {"probe": probe, "rho": rho, "split": split, "flip_rate": flips}
                rows.append({**row, **area})
        exchanged[probe] = np.stack(of_rho)
    return rows, exchanged


def compare_fixes(
    marked: Callable[[str], dict[str, MarkedImages]],
    seed: int = 0,
    probe: str = "first layers",
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """Every fix at rho = FIX_RHO and, for what it costs, at 0.

    Args:
        marked: key of IMAGE_CHANGES -> marked images by split.
        seed: of markers and trainings.
        probe: one of PROBES.
        device: where to train; default: `pick_device()`.

    Returns:
        Rows fix, rho, flip_rate, and the external AUC (value, low, high, n).
    """
    rows = []
    for name, fix in FIXES.items():
        for rho in (0.0, FIX_RHO):
            train, external = marked(fix.train_change)["train"], marked(fix.test_change)["external"]
            markers = draw_markers(train.codes, 0.0 if fix.any_marker else rho, seed)
            weights = balanced_weights(train.codes, markers) if fix.balanced else None
            features = train.with_marker(probe, markers)
            model = fit_model(
                LinearProbe, features, train.codes, PROBE_TRAINING, weights, seed, device
            )
            flips = flip_rate(exchange_markers(model, external, probe, device))
            unbiased = draw_markers(external.codes, 0, seed + 2)
            area = auc_with_interval(model, external, probe, unbiased, device)
            rows.append({"fix": name, "rho": rho, "flip_rate": flips, **area})
    return rows


def explain_small_vit(
    splits: dict[str, MarkedImages],
    profile: Profile,
    size: int,
    seed: int = 0,
    probe: str = "first layers",
    device: torch.device | None = None,
) -> tuple[dict[str, dict[str, Any]], CorpusViT]:
    """The small ViT at rho 0 and 1, and where it looks.

    Args:
        splits: marked images "train", "internal" and "external".
        profile: sizes of the transformer.
        size: px of a raw image.
        seed: of markers and trainings.
        probe: what the ViT reads, one of PROBES.
        device: where to train; default: `pick_device()`.

    Returns:
        {"rho0": , "rho1": } with `internal` and `external` AUC, `flip_rate`, and `relevance`, the
        share on the marker of external images; and the model of rho = 1.
    """
    train, internal, external = splits["train"], splits["internal"], splits["external"]
    unbiased = draw_markers(external.codes, 0, seed + 2)
    make_model = functools.partial(small_vit, profile=profile)
    found = {}
    for rho in (0.0, 1.0):
        features = train.with_marker(probe, draw_markers(train.codes, rho, seed))
        model = fit_model(make_model, features, train.codes, VIT_TRAINING, seed=seed, device=device)
        biased = draw_markers(internal.codes, rho, seed + 1)
        found[f"rho{rho:g}"] = {
            "internal": auc_with_interval(model, internal, probe, biased, device),
            "external": auc_with_interval(model, external, probe, unbiased, device),
            "flip_rate": flip_rate(exchange_markers(model, external, probe, device)),
            "relevance": relevance_on_marker(model, external, probe, unbiased, size, device),
        }
    return found, model


def make(
    folder: Path,
    profile: Profile,
    cohort: Cohort,
    backbone: Backbone,
    seed: int = 0,
    device: torch.device | None = None,
) -> None:
    """The whole study of a cohort.

    Leaves sweep.csv, fixes.csv, exchanged.npz, metrics.json and weights.safetensors; the weights
    are those of the ViT at rho = 1.

    Args:
        folder: where the files go.
        profile: prepares the images; sizes of the transformer.
        cohort: of the virtual hospitals.
        backbone: trained on findings, used frozen; it is moved to `device` and stays there.
        seed: of images, markers and trainings.
        device: where to train; default: `pick_device()`.
    """
    lung_masks = [str(cohort.folder / path) for path in cohort.table["lung_mask"]]
    table = cohort.table.assign(row=np.arange(len(cohort)), lung_mask=lung_masks)
    selected = select_images(table, seed)

    @functools.cache
    def marked(change: str) -> dict[str, MarkedImages]:
        needed = {"as it is": ("train", "internal", "external"), "turned": ("train",)}
        return {
            name: mark_images(selected[name], cohort.images, backbone, profile, change, device)
            for name in needed.get(change, ("train", "external"))
        }

    splits = marked("as it is")
    rows, exchanged = confounder_sweep(splits, seed, device)
    network, model = explain_small_vit(
        splits, profile, cohort.images.shape[-1], seed, device=device
    )
    fixes = compare_fixes(marked, seed, device=device)
    pd.DataFrame(rows).to_csv(folder / "sweep.csv", index=False)
    pd.DataFrame(fixes).to_csv(folder / "fixes.csv", index=False)
    by_file_name = {probe.replace(" ", "_"): p for probe, p in exchanged.items()}
    external_rows = selected["external"]["row"].to_numpy()
    np.savez(folder / "exchanged.npz", rows=external_rows, **by_file_name)
    checkpoint.save_tensors(folder / "weights.safetensors", model.state_dict())
    flip_rates = {}
    for probe, of_rho in exchanged.items():
        flip_rates[probe] = {
            f"rho{rho:g}": flip_rate(p) for rho, p in zip(RHOS, of_rho, strict=True)
        }
    images = {name: len(part) for name, part in selected.items()}
    write_json(
        folder / "metrics.json", {"images": images, "network": network, "flip_rate": flip_rates}
    )
