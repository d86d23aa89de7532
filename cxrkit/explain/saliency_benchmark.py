"""Saliency benchmark: every method, image by image, against the true lesion and against the model.

`benchmark` measures one model on a `Sample`; `make` writes the artifact of the stage. What is
measured on a map stands in `measures`.

B images, C channels of the corpus, h w its grid, S px of the masks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data.cache import cached_images
from cxrkit.data.datasets import split_parts
from cxrkit.data.images import load_image
from cxrkit.evaluation import resampling, summaries
from cxrkit.explain.chunks import CHUNK, device_for, map_in_chunks, move
from cxrkit.explain.criteria import SURE
from cxrkit.explain.measures import (
    area,
    cascade,
    map_size,
    mass,
    near,
    pointing,
    rank_correlation,
    removal,
)
from cxrkit.explain.methods import METHODS, Explanation
from cxrkit.explain.targets import Target
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import diagnosis
from cxrkit.training.devices import device_of

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile

COVID = DIAGNOSES.index("covid19")
MAX_LESION_SHARE = 0.15  # of the lungs: where more is ill, any point in the lungs is right
NOISE = 0.05  # standard deviation on the prepared image, about 3 grey levels


class EvaluationSet(NamedTuple):
    """Images whose lesion is known."""

    images: pd.DataFrame  # n rows of a manifest
    lesion: np.ndarray  # bool (n, S, S)
    lungs: np.ndarray  # bool (n, S, S)


class Sample(NamedTuple):
    """Images of one class with their truth, as one model sees them."""

    corpus: torch.Tensor  # (B, C, h, w)
    noisy: torch.Tensor  # (B, C, h, w), of the same images with a little noise
    lesion: np.ndarray  # bool (B, S, S)
    lungs: np.ndarray  # bool (B, S, S)
    groups: np.ndarray  # (B,) patients


# the images


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """COVID-19 of the test split and of external hospitals, with lesion and lung masks."""
    split = split_parts(table)
    images = pd.concat([split["test"], split["external"]], ignore_index=True)
    with_masks = images["lesion_mask"].notna() & images["lung_mask"].notna()
    return images[(images["diagnosis"] == DIAGNOSES[COVID]) & with_masks]


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` rows, evenly from the first to the last: their numbers."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(int)


def evaluation_set(
    table: pd.DataFrame,
    profile: Profile,
    store: Store | None = None,
    max_images: int | None = None,
) -> EvaluationSet:
    """COVID-19 of test and external hospitals, lesions of at most MAX_LESION_SHARE of the lungs.

    Args:
        table: images with a diagnosis; those with lesion and lung masks can be taken.
        profile: its image size and choices prepare the masks.
        store: where the image cache lies.
        max_images: of more than these some are taken, spread over all; default:
            `profile.saliency_images`.

    Raises:
        ValueError: no image has both masks.
    """
    images = candidates(table)
    if images.empty:
        raise ValueError(
            "the saliency benchmark needs COVID-19 films with lesion and lung masks; among public "
            "data only virtual hospitals have them"
        )
    size, choices = profile.image_size, profile.choices
    lesion = cached_images(images["lesion_mask"], size, choices, "lesion", store).gather() == 255
    lungs = cached_images(images["lung_mask"], size, choices, "lungs", store).gather() == 255
    share = (lesion & lungs).sum((1, 2)) / np.maximum(lungs.sum((1, 2)), 1)
    rows = np.flatnonzero((share > 0) & (share <= MAX_LESION_SHARE))
    rows = rows[spread(len(rows), max_images or profile.saliency_images)]
    return EvaluationSet(images.iloc[rows].reset_index(drop=True), lesion[rows], lungs[rows])


@torch.no_grad()
def make_sample(
    model: nn.Module,
    images: pd.DataFrame,
    lesion: np.ndarray,
    lungs: np.ndarray,
    profile: Profile,
    store: Store | None = None,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> Sample:
    """The corpus of images, once as they are and once with NOISE.

    Args:
        model: whose `features` make the corpus, such as a `Classifier`; they are moved to `device`
            and stay there.
        images: B rows of an `evaluation_set`.
        lesion: bool (B, S, S).
        lungs: bool (B, S, S).
        profile: prepares the images; its seed is that of the noise.
        store: where the image cache lies.
        device: where to compute; default: `pick_device()`.
        chunk: images of one pass.
    """
    dataset = diagnosis.DiagnosisTask(profile, store).dataset(images)
    pixels = dataset.batch(range(len(images)))["image"]  # (B, 1, S, S)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(profile.seed))
    move(model.features, device_for(pixels, device))
    return Sample(
        map_in_chunks(model.features, pixels, device, chunk),
        map_in_chunks(model.features, pixels + NOISE * noise, device, chunk),
        lesion,
        lungs,
        images["group_id"].to_numpy(),
    )


# the measurements


def benchmark(
    model: CorpusViT,
    sample: Sample,
    target: int,
    score: Callable[[torch.Tensor], torch.Tensor],
    methods: Iterable[str] = tuple(METHODS),
    costly_images: int = 24,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """Measure every method on every criterion and image.

    Args:
        model: the corpus ViT; it is moved to `device` and stays there.
        sample: images with their truth.
        target: the class whose maps are measured.
        score: corpus of a chunk on the device -> (B,), the probability of that class.
        methods: keys of METHODS.
        costly_images: the costly criteria, stability, randomised weights (all of them) and
            saturation, are measured on so many first images.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.

    Returns:
        A row a measurement: method, criterion, image, value, group; method `chance` where it is
        known.
    """
    corpus, grid = sample.corpus, sample.corpus.shape[-2:]
    device = device_for(corpus, device)
    move(model, device)
    few = slice(costly_images)
    *_, (_, shuffled) = cascade(model)

    def explain(name: str, model: CorpusViT, inputs: torch.Tensor) -> torch.Tensor:
        return METHODS[name](model, inputs, target, device=device, chunk=chunk)

    parts = []
    for criterion, value in chance_level(sample, grid).items():
        parts.append(_rows(value, method="chance", criterion=criterion))
    for name in methods:
        start = time.perf_counter()
        maps = explain(name, model, corpus)
        seconds = (time.perf_counter() - start) / len(maps)
        deletion, insertion = removal(score, corpus, maps, device=device, chunk=chunk)
        of_noisy = explain(name, model, sample.noisy[few])
        of_shuffled = explain(name, shuffled, corpus[few])
        values = {
            "pointing": pointing(maps, sample.lesion),
            "touching": pointing(maps, sample.lesion, 0.5),
            "lesion": mass(maps, sample.lesion),
            "lungs": mass(maps, sample.lungs),
            "deletion": area(deletion),
            "insertion": area(insertion),
            "stability": rank_correlation(maps[few], of_noisy),
            "randomised": np.abs(rank_correlation(maps[few], of_shuffled)),
            "saturation": larger_maps(
                METHODS[name], model, corpus[few], target, score, device, chunk
            ),
            "seconds": np.full(len(maps), seconds),
        }
        for criterion, value in values.items():
            parts.append(_rows(value, method=name, criterion=criterion))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(group=np.asarray(sample.groups)[rows["image"]])


def larger_maps(
    method: Explanation,
    model: CorpusViT,
    corpus: torch.Tensor,
    target: int,
    score: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Saturation: how many other classes have a larger map, where the model is sure of one.

    Args:
        method: entry of METHODS.
        model: the corpus ViT.
        corpus: (B, C, h, w).
        target: the class.
        score: corpus of a chunk on the device -> (B,), the probability of the class.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.

    Returns:
        Share of the other classes whose map is larger (`map_size`), a tie counts half, (B,); NaN
        where the probability is below SURE.
    """
    with torch.no_grad():
        sure = np.flatnonzero(map_in_chunks(score, corpus, device, chunk).numpy() >= SURE)
        outputs = model(corpus[:1].to(device_of(model)))
    classes = range(outputs["logits"].shape[1])
    shares = np.full(len(corpus), np.nan)
    if len(sure) and len(classes) > 1:
        maps = method(model, corpus[sure], list(classes), device=device, chunk=chunk)
        size = map_size(maps)  # (n, K)
        own = size[:, target, None]
        larger = (size > own) + 0.5 * (size == own)
        shares[sure] = (larger.sum(1) - 0.5) / (len(classes) - 1)  # without itself, a tie
    return shares


def measure_removal(
    model: CorpusViT,
    corpus: torch.Tensor,
    target: Target,
    score: Callable[[torch.Tensor], torch.Tensor],
    groups: np.ndarray,
    methods: Iterable[str] = tuple(METHODS),
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """Deletion and insertion alone, for images whose lesions nobody has annotated.

    Args:
        model: the corpus ViT; it is moved to `device` and stays there.
        corpus: (B, C, h, w).
        target: see `targets`.
        score: corpus of a chunk on the device -> (B,), the probability of the target.
        groups: patient of each image, (B,).
        methods: keys of METHODS.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.

    Returns:
        Rows as those of `benchmark`: method, criterion, image, value, group.
    """
    device = device_for(corpus, device)
    move(model, device)
    parts = []
    for name in methods:
        maps = METHODS[name](model, corpus, target, device=device, chunk=chunk)
        curves = removal(score, corpus, maps, device=device, chunk=chunk)
        for criterion, curve in zip(("deletion", "insertion"), curves, strict=True):
            parts.append(_rows(area(curve), method=name, criterion=criterion))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(group=np.asarray(groups)[rows["image"]])


def chance_level(sample: Sample, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """What noise reaches, where it is known: criterion -> (B,)."""
    return {
        "pointing": near(sample.lesion, grid).mean((1, 2)),
        "touching": near(sample.lesion, grid, 0.5).mean((1, 2)),
        "lesion": sample.lesion.mean((1, 2)),
        "lungs": sample.lungs.mean((1, 2)),
        "saturation": np.full(len(sample.lesion), 0.5),
    }


def randomise_in_steps(
    model: CorpusViT,
    corpus: torch.Tensor,
    target: int,
    methods: Iterable[str] = tuple(METHODS),
    seed: int = 0,
    parts: int = 0,
    *,
    groups: np.ndarray | None = None,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """How alike maps stay while the weights are shuffled part after part (`cascade`).

    Args:
        model: the corpus ViT; it is moved to `device` and stays there.
        corpus: (B, C, h, w).
        target: the class whose maps are compared.
        methods: keys of METHODS.
        seed: of the order of the weights.
        parts: how many parts are shuffled; 0 = all.
        groups: patient of each image, (B,); default: each image is a patient.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.

    Returns:
        A row a map: part, method, image, group, and value, the rank correlation with the map of the
        trained model.
    """
    methods = tuple(methods)
    device = device_for(corpus, device)
    move(model, device)
    before = {}
    for name in methods:
        before[name] = METHODS[name](model, corpus, target, device=device, chunk=chunk)
    rows = []
    for part, shuffled in itertools.islice(cascade(model, seed), parts or None):
        for name in methods:
            after = METHODS[name](shuffled, corpus, target, device=device, chunk=chunk)
            rows.append(_rows(rank_correlation(before[name], after), part=part, method=name))
    table = pd.concat(rows, ignore_index=True)
    patients = np.arange(len(corpus)) if groups is None else np.asarray(groups)
    return table.assign(group=patients[table["image"]])


def _rows(values: np.ndarray, **names: str) -> pd.DataFrame:
    """A row an image, with the names of what was measured."""
    return pd.DataFrame({**names, "image": range(len(values)), "value": values})


# the results


def summarise(rows: pd.DataFrame, draws: int = 1000) -> pd.DataFrame:
    """Means with 95 % intervals over patients.

    Args:
        rows: of `benchmark`; an image whose value is NaN is left out.
        draws: of the bootstrap.

    Returns:
        A row for each method and criterion: method, criterion, value, low, high, and n, the number
        of images that remain.
    """
    lines = []
    measured = rows.dropna(subset="value").groupby(["criterion", "method"], sort=False)
    for (criterion, method), part in measured:
        values, groups = part["value"].to_numpy(), part["group"].to_numpy()
        value, low, high = resampling.bootstrap(np.mean, values, groups=groups, draws=draws)
        line = {"method": method, "criterion": criterion, "value": value, "low": low, "high": high}
        lines.append({**line, "n": len(part)})
    return pd.DataFrame(lines)


# the artifact


def make(
    folder: Path,
    profile: Profile,
    table: pd.DataFrame,
    models: dict[str, nn.Module],
    store: Store | None = None,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> None:
    """Evaluate the saliency methods on the models of the views.

    A third of the images serve the costly criteria. Leaves rows.csv (`benchmark`), cascade.csv
    (`randomise_in_steps`, first view), images.csv with the evaluated images of all views, and
    metrics.json: method -> criterion -> value with interval.

    Args:
        folder: where the files go.
        profile: `saliency_images` of a view are evaluated at most.
        table: images with a diagnosis (`evaluation_set`).
        models: {"PA": `models.Classifier`, ...}; they are moved to `device` and stay there.
        store: where the image cache lies.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.
    """
    parts, evaluated = [], []
    costly_images = max(1, profile.saliency_images // 3)
    for view, model in models.items():
        images, lesion, lungs = evaluation_set(diagnosis.of_view(table, view), profile, store)
        evaluated.append(images)
        sample = make_sample(
            model, images, lesion, lungs, profile, store, device=device, chunk=chunk
        )
        score = covid_probability(model.transformer, profile)
        rows = benchmark(
            model.transformer,
            sample,
            COVID,
            score,
            costly_images=costly_images,
            device=device,
            chunk=chunk,
        )
        parts.append(rows.assign(view=view, site=images["site"].to_numpy()[rows["image"]]))
        if len(parts) == 1:
            shuffled = randomise_in_steps(
                model.transformer,
                sample.corpus[:costly_images],
                COVID,
                seed=profile.seed,
                parts=profile.saliency_blocks,
                groups=sample.groups[:costly_images],
                device=device,
                chunk=chunk,
            )
            shuffled.to_csv(folder / "cascade.csv", index=False)
    rows = pd.concat(parts, ignore_index=True)
    rows.to_csv(folder / "rows.csv", index=False)
    images = pd.concat(evaluated, ignore_index=True)
    (store or Store()).write_table(folder / "images.csv", images)
    write_json(folder / "metrics.json", as_metrics(rows))


def covid_probability(model: CorpusViT, profile: Profile) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function corpus (B, C, h, w) -> probability of COVID-19 (B,)."""
    _, probabilities = diagnosis.HEADS[profile.choices.class_head]

    def score(corpus: torch.Tensor) -> torch.Tensor:
        return probabilities(model(corpus)["logits"])[:, COVID]

    return score


def as_metrics(rows: pd.DataFrame) -> dict[str, Any]:
    """What metrics.json holds: method -> criterion -> interval, and number of images by view."""
    counts = rows.groupby("view")["image"].nunique()
    metrics: dict[str, Any] = {"images": {view: int(n) for view, n in counts.items()}}
    for method, part in summarise(rows).groupby("method", sort=False):
        metrics[method] = {
            line.criterion: summaries.interval_dict((line.value, line.low, line.high), line.n)
            for line in part.itertuples()
        }
    return metrics


# real images


def read_boxes(folder: str | Path, size: int) -> tuple[list[str], np.ndarray]:
    """Radiologists' boxes of real images; those of one image make one mask.

    Args:
        folder: holds bbox.csv with file, finding, x, y, w, h in px.
        size: px of the masks.

    Returns:
        Paths of the images, and their masks, bool (n, size, size).

    Raises:
        FileNotFoundError: there is no bbox.csv.
    """
    return masks_of_boxes(pd.read_csv(Path(folder) / "bbox.csv"), Path(folder), size)


def masks_of_boxes(boxes: pd.DataFrame, folder: Path, size: int) -> tuple[list[str], np.ndarray]:
    """Masks of images from the boxes on them.

    Args:
        boxes: file, x, y, w, h in px; a row a box.
        folder: to which the files are relative.
        size: px of the masks.

    Returns:
        Paths of the images, and their masks, bool (n, size, size).
    """
    masks: dict[str, np.ndarray] = {}
    for box in boxes.itertuples():
        path = str(folder / box.file)
        if path not in masks:
            masks[path] = np.zeros(load_image(path).pixels.shape, np.uint8)
        rows = slice(round(box.y), round(box.y + box.h))
        columns = slice(round(box.x), round(box.x + box.w))
        masks[path][rows, columns] = 1
    resized = [
        cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST) for mask in masks.values()
    ]
    return list(masks), np.stack(resized) > 0


def read_all_boxes(mirror: str | Path, size: int) -> tuple[list[str], np.ndarray]:
    """Boxes of all NIH films at hand, whoever drew them; those of one image make one mask.

    Args:
        mirror: folder of prepared films. Each dataset may hold bbox.csv, and `nih_reader` may hold
            DATASET_boxes.csv, what other radiologists marked on its films.
        size: px of the masks.

    Returns:
        Paths of the images, and their masks, bool (n, size, size).

    Raises:
        FileNotFoundError: there are no boxes.
    """
    paths, masks = [], []
    for folder in sorted(Path(mirror).glob("nih_*")):
        files = [folder / "bbox.csv", Path(mirror) / "nih_reader" / f"{folder.name}_boxes.csv"]
        tables = [pd.read_csv(file) for file in files if file.exists()]
        if tables:
            found, of_folder = masks_of_boxes(pd.concat(tables), folder, size)
            paths += found
            masks.append(of_folder)
    if not paths:
        raise FileNotFoundError(
            f"no boxes of NIH films in {mirror}: it needs a folder such as nih_cxr14 with bbox.csv"
        )
    return paths, np.concatenate(masks)
