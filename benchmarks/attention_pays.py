"""When attention pays: models of the same tokens, over arrangement and over training images.

    python benchmarks/attention_pays.py --out docs/lab/attention_pays.json \
        --figure docs/img/attention_pays.png
    python benchmarks/attention_pays.py --tokens corpus --out docs/lab/attention_pays_corpus.json \
        --figure docs/img/attention_pays_corpus.png
    python benchmarks/attention_pays.py --out first.json --seeds 0 --minutes 20

The patients are those of the virtual hospitals, PA, with an infection; the question is COVID-19
against other infections. By default the tokens are cells of the *true* lesion's shadow, as a
perfect detector of local appearance would give them: nothing of them names a disease or a kind of
lesion. So texture can tell at arrangement 0, and places alone at arrangement 1. With `--tokens
corpus` they are the corpus of the demo's backbone, which has to find the lesions in films of the
same patients; these are swept over the arrangement alone, and so are the corpus ViT and a DenseNet
that read the films themselves and train from that backbone on, end to end. Every model has the same
recipe and the same cap of steps; the learning rate of each is chosen on internal hospitals at the
default arrangement. A seed draws training hospitals and trains anew; the backbone that tokens come
from stays. All are tested on the same patients of a hospital whose CT no training saw.

A row is written when its training ends, and a run that is started again goes on where it was. With
`--minutes` no training begins after that much CPU time; what is missing then stays "not run".
With `--figure` it also draws the lines.
"""

from __future__ import annotations

import argparse
import base64
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn
from torch.nn import functional as F

from cxrkit import Run, viz
from cxrkit.config.profiles import demo
from cxrkit.data.preprocessing import preprocess
from cxrkit.evaluation import metrics, trained_seeds
from cxrkit.models import Backbone, Classifier, CorpusViT
from cxrkit.models.baselines import PooledHead
from cxrkit.reproduction import environment
from cxrkit.simulation import disease
from cxrkit.simulation.hospital import ARRANGEMENT, SITES, Hospital
from cxrkit.storage.atomic import read_json, write_atomic, write_json
from cxrkit.training import seed_everything

ARRANGEMENTS = (0.0, 0.25, 0.5, ARRANGEMENT, 1.0)
IMAGES = (90, 180, 360, 720, 1440)  # that train
USUAL_IMAGES = 720
VAL_IMAGES = 240
EXTERNAL_IMAGES = 480
INTERNAL = tuple(site.name for site in SITES.values() if site.role == "internal")
EXTERNAL = "elm"  # the hospital all of whose anatomies come from the CT that no training sees
EXTERNAL_SEED = 0
SEEDS = (0, 1, 2)

SIZE = 128  # px of a film; the shadow is projected at twice as many
CELLS = 8  # of the tokens to a side, as of the demo's corpus
BORDER = 16  # px of the shadow that are cut off all around
FINE, COARSE = 1.0, 3.0  # px of the blurs between which roughness is measured
CHANNELS = ("share", "density", "fine roughness", "coarse roughness")

WIDTH = 64  # of a token, of every model
BATCH = 16  # as of the demo's transformer
WARMUP = 50  # steps
EVAL_EVERY = 50  # steps
FIRST_STEPS = 300  # before the plateau rule: at first some losses stay where they are
MAX_STEPS = 2400
PATIENCE = 2  # evaluations without a lower validation loss before the rate falls
FACTOR = 0.3  # by which it falls
LEAST_RATE = 0.1  # of the first rate: below it the training ends
WEIGHT_DECAY = 0.05
RATES = (3e-4, 1e-3, 3e-3)  # the search, alike for every model
MARGIN = 0.01  # AUC


# tokens


def lesion_tokens(extent: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Cells of a lesion's true shadow.

    Args:
        extent: line integral that the lesions add, (S, S).
        lungs: bool (S, S).

    Returns:
        (len(CHANNELS), CELLS, CELLS): the share of the cell that is lesion; the mean line
        integral; and how much it varies between neighbouring pixels and over a few of them, inside
        the lesion.
    """
    lesion = ((extent >= disease.MIN_LESION) & lungs).astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(extent, (0, 0), sigma) for sigma in (FINE, COARSE))
    channels = (lesion, extent * lesion, abs(extent - fine) * lesion, abs(fine - coarse) * lesion)
    inner = slice(BORDER, -BORDER)
    return np.stack(
        [
            cv2.resize(one[inner, inner], (CELLS, CELLS), interpolation=cv2.INTER_AREA)
            for one in channels
        ]
    )


class Tokens(NamedTuple):
    """Tokens of the same patients at both ends of the arrangement."""

    own: np.ndarray  # float32 (n, C, h, w), each infection with textures of its own
    arranged: np.ndarray  # the same, drawn by the common law
    is_arranged: np.ndarray  # bool (n, len(ARRANGEMENTS)), which of both the hospital draws
    covid: np.ndarray  # int64 (n,)
    groups: np.ndarray  # str (n,), the anatomies

    def at(self, arrangement: float, n: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of the first n patients at one of ARRANGEMENTS."""
        chosen = self.is_arranged[:n, ARRANGEMENTS.index(arrangement), None, None, None]
        tokens = np.where(chosen, self.arranged[:n], self.own[:n])
        return torch.tensor(tokens), torch.tensor(self.covid[:n])


def choose_patients(hospital: Hospital, split: str, n: int) -> list[int]:
    """The first n PA images of patients with an infection in a split."""
    chosen = []
    for i in range(len(hospital)):
        patient, _ = hospital.patient_of(i)
        if hospital.split_of(patient) != split or hospital.view_of(i) != "PA":
            continue
        if hospital.condition_of(i).diagnosis != "normal":
            chosen.append(i)
        if len(chosen) == n:
            return chosen
    raise ValueError(f"{hospital.site.name} has {len(chosen)} such patients, not {n}")


def true_tokens(hospital: Hospital, i: int) -> np.ndarray:
    """Tokens of the lesions of film i of a hospital."""
    patient, _ = hospital.patient_of(i)
    chest = hospital.chest(hospital.body_of(patient), hospital.view_of(i))
    lesions = hospital.condition_of(i).lesions
    # those that count come first, so the others take nothing from them
    counted = [lesion for lesion in lesions if disease.KINDS[lesion.kind].in_extent]
    _, extent = disease.add_lesions(chest, counted)
    return lesion_tokens(extent, chest.right | chest.left)


def draw_site(site: str, seed: int, split: str, n: int, source: Source) -> Tokens:
    """Tokens of the first n patients of a site and split, in the order of their numbers."""
    worlds = {}
    for arrangement in {0.0, 1.0, *ARRANGEMENTS}:
        worlds[arrangement] = Hospital(
            site, seed, n=100 * n + 2000, size=source.size, arrangement=arrangement
        )
    chosen = choose_patients(worlds[0.0], split, n)
    by_body = sorted(chosen, key=lambda i: worlds[0.0].body_of(worlds[0.0].patient_of(i)[0]))
    rows = {}
    for i in by_body:  # so that an anatomy is projected once
        conditions = {at: world.condition_of(i) for at, world in worlds.items()}
        is_arranged = [conditions[at] == conditions[1.0] for at in ARRANGEMENTS]
        body = worlds[0.0].body_of(worlds[0.0].patient_of(i)[0])
        is_covid = conditions[0.0].diagnosis == "covid19"
        own, arranged = (source.tokens(worlds[at], i) for at in (0.0, 1.0))
        rows[i] = (own, arranged, is_arranged, int(is_covid), f"{site}-body{body:02d}")
    columns = zip(*(rows[i] for i in chosen), strict=True)
    own, arranged, is_arranged, covid, groups = (np.array(column) for column in columns)
    return Tokens(own.astype(np.float32), arranged.astype(np.float32), is_arranged, covid, groups)


def draw_internal(seed: int, split: str, n: int, source: Source) -> Tokens:
    """Tokens of n patients of the internal sites, taken in turn."""
    parts = [draw_site(site, seed, split, n // len(INTERNAL), source) for site in INTERNAL]
    merged = []
    for columns in zip(*parts, strict=True):
        merged.append(np.stack(columns, axis=1).reshape(n, *columns[0].shape[1:]))
    return Tokens(*merged)


def keep(path: Path, draw: Callable[[], Tokens]) -> Tokens:
    """Tokens from a file, which is made where it is missing."""
    if not path.exists():
        start = time.process_time()
        tokens = draw()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **tokens._asdict())
        part.replace(path)
        print(f"{path.stem}: {len(tokens.covid)} patients", end=", ")
        print(f"{time.process_time() - start:.0f} CPU s", flush=True)
    with np.load(path) as found:
        return Tokens(**found)


# models


class Bag(nn.Module):
    """Each token by itself through two layers, their mean, and two layers on it: no places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 1), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.GELU()
        )
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 2))

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """`logits` (B, 2) of tokens (B, C, h, w)."""
        return {"logits": self.head(self.token(tokens).mean((2, 3)))}


class SideBySide(nn.Module):
    """All tokens as one vector through two hidden layers: places without attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * CELLS**2, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, 2),
        )

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """`logits` (B, 2) of tokens (B, C, h, w)."""
        return {"logits": self.layers(tokens)}


def corpus_vit(channels: int, **options: Any) -> CorpusViT:
    """The demo's corpus ViT on these tokens."""
    sizes = demo().transformer
    return CorpusViT(
        channels,
        CELLS,
        sizes.embed_dim,
        sizes.depth,
        sizes.num_heads,
        4 * sizes.embed_dim,
        num_classes=2,
        fused=True,
        initialisation=sizes.initialisation,
        **options,
    )


PROPOSED = "corpus ViT"
# name -> what makes it for C channels of a token
Maker = Callable[[int], nn.Module]
MODELS: dict[str, Maker] = {
    PROPOSED: corpus_vit,
    "ViT without positions": lambda channels: corpus_vit(channels, positions=False),
    "ViT with even attention": lambda channels: corpus_vit(channels, even=True),
    "MLP on tokens side by side": SideBySide,
    "MLP on a bag of tokens": Bag,
    "linear on the mean token": lambda channels: PooledHead(channels, num_classes=2),
}
END_TO_END = VIT_END_TO_END, DENSENET_END_TO_END = (
    "corpus ViT, end to end",
    "DenseNet-121, end to end",
)


def end_to_end_models(backbone: Backbone) -> dict[str, Maker]:
    """Models of films that begin with the backbone's weights, all of which train."""

    def pooled(channels: int) -> PooledHead:
        return PooledHead(channels, demo().transformer.embed_dim, num_classes=2)

    def with_features(head: Maker, _: int) -> Classifier:
        features = copy.deepcopy(backbone.features).requires_grad_(True)
        return Classifier(features, head(backbone.out_channels))

    heads = {VIT_END_TO_END: corpus_vit, DENSENET_END_TO_END: pooled}
    return {name: partial(with_features, head) for name, head in heads.items()}


# what models read


class Source(NamedTuple):
    """Models, and what they read of a film."""

    name: str
    size: int  # px of the films that the hospital draws
    channels: tuple[str, ...]
    images: tuple[int, ...]  # that train, of the second sweep
    tokens: Callable[[Hospital, int], np.ndarray]  # film i of a hospital -> (C, h, w)
    models: Mapping[str, Maker] = MODELS
    scaled: bool = True  # whether each channel is divided by its deviation


TRUE = Source("true lesions", SIZE, CHANNELS, IMAGES, true_tokens)


def sources_of_demo(store: str | None = None) -> tuple[Source, Source]:
    """The corpus of the demo's backbone, and the films that it is made of, prepared as in the demo.

    Args:
        store: folder of artifacts; default as everywhere.
    """
    run = Run("demo", store)
    profile, backbone = run.profile, run.backbone.model.eval()

    def image(hospital: Hospital, i: int) -> np.ndarray:
        return preprocess(hospital[i].image, profile.image_size, profile.choices)[None]

    @torch.no_grad()
    def tokens(hospital: Hospital, i: int) -> np.ndarray:
        return backbone.features(torch.from_numpy(image(hospital, i))[None])[0].numpy()

    size, images = profile.cohort.size, (USUAL_IMAGES,)
    channels = tuple(f"feature {k}" for k in range(backbone.out_channels))
    corpus = Source("demo's corpus", size, channels, images, tokens)
    models = end_to_end_models(backbone)
    return corpus, Source("films", size, ("grey",), images, image, models, scaled=False)


# training


class Trained(NamedTuple):
    """A finished training."""

    scores: np.ndarray  # (n,) of the external patients
    curve: list[dict[str, float]]  # of validation: step, loss, auc
    steps: int
    best_step: int
    end: str  # "plateau" or "cap"


@torch.no_grad()
def logit(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Log-odds of COVID-19, (n,)."""
    model.eval()
    parts = [model(part)["logits"] for part in x.split(240)]
    logits = torch.cat(parts)
    return logits[:, 1] - logits[:, 0]


def scale_of(x: torch.Tensor) -> torch.Tensor:
    """Deviation of each channel over patients and cells, (1, C, 1, 1)."""
    return x.std((0, 2, 3), keepdim=True).clamp_min(1e-6)


def fit(
    make: Maker,
    train: tuple[torch.Tensor, torch.Tensor],
    val: tuple[torch.Tensor, torch.Tensor],
    external: torch.Tensor,
    rate: float,
    seed: int,
    max_steps: int = MAX_STEPS,
    scaled: bool = True,
) -> Trained:
    """Train a model until the validation loss stays where it is, and take its best weights.

    Args:
        make: of `Source.models`.
        train: tokens (n, C, h, w) and labels (n,).
        val: the same, of internal hospitals.
        external: tokens of the patients that it is tested on.
        rate: first learning rate.
        seed: of the weights and of the batches.
        max_steps: the cap.
        scaled: whether each channel is divided by its deviation.
    """
    seed_everything(seed)
    x, y = train
    scale = scale_of(x) if scaled else 1
    x, x_val, x_external = (one / scale for one in (x, val[0], external))
    model = make(x.shape[1])
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=WEIGHT_DECAY)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=FACTOR, patience=PATIENCE, threshold=1e-3, threshold_mode="abs"
    )
    draw = torch.Generator().manual_seed(seed)
    curve: list[dict[str, float]] = []
    best, best_weights = float("inf"), None
    end = "cap"
    for step in range(1, max_steps + 1):
        if step <= WARMUP:
            optimizer.param_groups[0]["lr"] = rate * step / WARMUP
        model.train()
        rows = torch.randint(len(x), (BATCH,), generator=draw)
        loss = F.cross_entropy(model(x[rows])["logits"], y[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % EVAL_EVERY:
            continue
        odds = logit(model, x_val)
        val_loss = F.binary_cross_entropy_with_logits(odds, val[1].float()).item()
        curve.append({"step": step, "loss": val_loss, "auc": metrics.auc(val[1], odds)})
        if val_loss < best:
            best = val_loss
            best_weights = {key: value.clone() for key, value in model.state_dict().items()}
        if step >= FIRST_STEPS:
            plateau.step(val_loss)
        if optimizer.param_groups[0]["lr"] < LEAST_RATE * rate:
            end = "plateau"
            break
    if best_weights is None:
        raise ValueError(f"{max_steps} steps hold no evaluation: take {EVAL_EVERY} or more")
    model.load_state_dict(best_weights)
    best_step = min(curve, key=lambda row: row["loss"])["step"]
    return Trained(logit(model, x_external).numpy(), curve, step, int(best_step), end)


# rows


class Cell(NamedTuple):
    """One training."""

    arrangement: float
    images: int
    seed: int
    model: str
    rate: float | None = None  # None = the one that the search chose


def settings(images: tuple[int, ...] = IMAGES) -> list[tuple[float, int]]:
    """Arrangement and training images of each setting: both sweeps, the usual one once."""
    found = [(arrangement, USUAL_IMAGES) for arrangement in ARRANGEMENTS]
    return found + [(ARRANGEMENT, n) for n in images if n != USUAL_IMAGES]


def cells(
    seeds: tuple[int, ...], images: tuple[int, ...] = IMAGES, models: Iterable[str] = tuple(MODELS)
) -> Iterator[Cell]:
    """The search, then everything with the first seed, then with the next."""
    for model in models:
        for rate in RATES:
            yield Cell(ARRANGEMENT, USUAL_IMAGES, SEEDS[0], model, rate)
    for seed in seeds:
        for arrangement, n in settings(images):
            for model in models:
                yield Cell(arrangement, n, seed, model)


def chosen_rate(rows: list[dict[str, Any]], model: str) -> float:
    """The rate of the search with the lowest validation loss."""
    searched = [row for row in rows if row["search"] and row["model"] == model]
    return min(searched, key=lambda row: row["best loss"])["rate"]


def cell_of(row: dict[str, Any]) -> Cell:
    """The cell that a row belongs to."""
    cell = Cell(*(row[field] for field in Cell._fields))
    return cell if row["search"] else cell._replace(rate=None)


def searched(cell: Cell, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the search that is this very training, if there is one."""
    if cell.rate is not None:
        return None
    wanted = cell._replace(rate=chosen_rate(rows, cell.model))
    for row in rows:
        if row["search"] and cell_of(row) == wanted:
            return {**row, "search": False, "CPU seconds": 0.0}
    return None


def encode(scores: np.ndarray) -> str:
    """Ranks of scores as text: an AUC needs no more. Ties keep their rank."""
    ranks = stats.rankdata(scores, method="dense").astype("<u2")
    return base64.b64encode(ranks.tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """The ranks that `encode` wrote, (n,)."""
    return np.frombuffer(base64.b64decode(text), "<u2")


def row_of(cell: Cell, trained: Trained, rate: float, covid: np.ndarray) -> dict[str, Any]:
    """A row of the file."""
    best = next(point for point in trained.curve if point["step"] == trained.best_step)
    return {
        **cell._asdict(),
        "rate": rate,
        "search": cell.rate is not None,
        "auc": round(metrics.auc(covid, trained.scores), 5),
        "validation auc": round(best["auc"], 5),
        "best loss": round(best["loss"], 5),
        "best step": trained.best_step,
        "steps": trained.steps,
        "end": trained.end,
        "curve": " ".join(f"{point['loss']:.3f}" for point in trained.curve),
        "ranks": encode(trained.scores),
    }


# conclusions


def results(found: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """AUC of each model at each setting, and differences with their words.

    Of models that read tokens: the proposed one minus each other. Of those that read films: the
    first minus the other. A model of films trains its backbone, too, and is set against no other.
    """
    covid = np.array([int(one) for one in found["external"]["covid"]])
    groups = np.array(found["external"]["anatomies"].split())
    aucs, differences = [], []
    for arrangement, images in settings():
        scores: dict[str, dict[int, np.ndarray]] = {}
        for row in found["rows"]:
            if not row["search"] and (row["arrangement"], row["images"]) == (arrangement, images):
                scores.setdefault(row["model"], {})[row["seed"]] = decode(row["ranks"])
        at = {"arrangement": arrangement, "images": images}
        for model, by_seed in scores.items():
            interval = trained_seeds.auc_of_seeds(covid, list(by_seed.values()), groups)
            aucs.append({**at, "model": model, "seeds": len(by_seed), **rounded(interval)})
        end_to_end = {model: scores.pop(model) for model in END_TO_END if model in scores}
        differences += compare(at, PROPOSED, scores, covid, groups)
        differences += compare(at, VIT_END_TO_END, end_to_end, covid, groups)
    return aucs, differences


def compare(
    at: dict[str, Any],
    first: str,
    scores: dict[str, dict[int, np.ndarray]],
    covid: np.ndarray,
    groups: np.ndarray,
) -> list[dict[str, Any]]:
    """The first model minus each other at one setting, with Holm over the others."""
    lines = []
    for model, by_seed in scores.items():
        both = sorted(set(by_seed) & set(scores.get(first, {})))
        if model == first or not both:
            continue
        own, others = ([one[seed] for seed in both] for one in (scores[first], by_seed))
        less = trained_seeds.auc_difference_of_seeds(covid, own, others, groups)
        lines.append({**at, "model": first, "minus": model, "seeds": len(both), **less})
    if not lines:
        return []
    for line, adjusted in zip(lines, metrics.holm([one["p_value"] for one in lines]), strict=True):
        parts = (line["difference"], line["low"], line["high"])
        line["holm"] = float(adjusted)
        line["conclusion"] = trained_seeds.conclude(*parts, line["holm"], MARGIN)
    return [{**line, **rounded(line)} for line in lines]


def rounded(values: dict[str, Any]) -> dict[str, float]:
    """The floating-point numbers of a dict to four places."""
    return {k: round(v, 4) for k, v in values.items() if isinstance(v, float)}


def figure_of(aucs: list[dict[str, Any]], source: str = TRUE.name) -> Figure:
    """The AUC of each model over the sweeps that were run, on tokens of a source (its name)."""
    rows = pd.DataFrame(aucs)
    by_arrangement = rows[rows["images"] == USUAL_IMAGES]
    by_images = rows[rows["arrangement"] == ARRANGEMENT]
    panels = {
        f"arrangement (0: texture tells, 1: places alone), {USUAL_IMAGES} training films": (
            by_arrangement.assign(x=by_arrangement["arrangement"])
        ),
        f"training films, arrangement {ARRANGEMENT}": by_images.assign(x=by_images["images"]),
    }
    panels = {name: part for name, part in panels.items() if part["x"].nunique() > 1}
    title = f"COVID-19 against other infections,\ntokens of the {source}"
    return viz.plot_model_lines(panels, title, "AUC at a hospital of another CT", chance=0.5)


# command


def recipe(sources: tuple[Source, ...]) -> dict[str, Any]:
    """What all trainings share."""
    weights, first = {}, sources[0]
    for source in sources:
        for name, make in source.models.items():
            model = make(len(source.channels))
            weights[name] = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return {
        "tokens": {"of": first.name, "cells": CELLS, "channels": list(first.channels)},
        "weights": weights,
        "batch": BATCH,
        "cap, steps": MAX_STEPS,
        "evaluated every, steps": EVAL_EVERY,
        "plateau rule after, steps": FIRST_STEPS,
        "rates of the search": list(RATES),
        "weight decay": WEIGHT_DECAY,
        "validation images": VAL_IMAGES,
        "margin": MARGIN,
    }


class Drawn:
    """The same patients for all models, as each source shows them; drawn when first asked for.

    Args:
        source: what models read.
        work: folder of the files.
    """

    def __init__(self, source: Source, work: Path) -> None:
        self.source, self.work = source, work
        self.kept: dict[str, Tokens] = {}

    def external(self) -> Tokens:
        """Of the hospital that all are tested on."""
        source = self.source
        draw = partial(draw_site, EXTERNAL, EXTERNAL_SEED, "test", EXTERNAL_IMAGES, source)
        return self._of("external", draw)

    def internal(self, seed: int) -> tuple[Tokens, Tokens]:
        """Of training and validation of a seed; those of another seed are forgotten."""
        source, train, val = self.source, f"train{seed}", f"val{seed}"
        self.kept = {name: self.kept[name] for name in self.kept.keys() & {train, val, "external"}}
        return (
            self._of(train, partial(draw_internal, seed, "train", max(source.images), source)),
            self._of(val, partial(draw_internal, seed, "val", VAL_IMAGES, source)),
        )

    def _of(self, name: str, draw: Callable[[], Tokens]) -> Tokens:
        if name not in self.kept:
            self.kept[name] = keep(self.work / f"{name}.npz", draw)
        return self.kept[name]


def run(
    out: Path,
    work: Path,
    seeds: tuple[int, ...],
    sources: tuple[Source, ...],
    minutes: float = np.inf,
) -> dict[str, Any]:
    """Train what is missing in a file, write each row as it ends, and conclude.

    Args:
        out: the file.
        work: folder of tokens; those of a second source lie in a folder of its name in it.
        seeds: of hospitals and trainings.
        sources: what models read, of the same patients.
        minutes: of CPU time.
    """
    begun, first = time.process_time(), sources[0]
    drawn = {}
    for source in sources:
        folder = work if source is first else work / source.name
        drawn |= dict.fromkeys(source.models, Drawn(source, folder))
    external = drawn[PROPOSED].external()
    found = read_json(out) if out.exists() else {"rows": [], "aucs": [], "differences": []}
    option = "" if first is TRUE else " --tokens corpus"
    found = {
        **found,  # rows, and the conclusions of the last run that ended
        "command": f"python benchmarks/attention_pays.py{option}",
        **environment.provenance(),
        "recipe": recipe(sources),
        "external": {
            "site": EXTERNAL,
            "covid": "".join(str(one) for one in external.covid),
            "anatomies": " ".join(name.removeprefix(f"{EXTERNAL}-") for name in external.groups),
        },
    }
    done = {cell_of(row) for row in found["rows"]}
    missing = [cell for cell in cells(seeds, first.images, drawn) if cell not in done]
    for number, cell in enumerate(missing, start=1):
        if time.process_time() - begun > 60 * minutes:
            print(f"{len(missing) + 1 - number} trainings were not run", flush=True)
            break
        row = searched(cell, found["rows"])
        if row is None:
            row = measure(cell, found["rows"], drawn[cell.model])
        found["rows"].append(row)
        write_json(out, found)
        print(f"{number}/{len(missing)} {progress(row)}", flush=True)
    found["aucs"], found["differences"] = results(found)
    found["CPU seconds"] = round(sum(row["CPU seconds"] for row in found["rows"]))
    write_json(out, found)
    return found


def measure(cell: Cell, rows: list[dict[str, Any]], drawn: Drawn) -> dict[str, Any]:
    """Train and test one cell."""
    external, (train, val) = drawn.external(), drawn.internal(cell.seed)
    start = time.process_time()
    rate = cell.rate or chosen_rate(rows, cell.model)
    trained = fit(
        drawn.source.models[cell.model],
        train.at(cell.arrangement, cell.images),
        val.at(cell.arrangement),
        external.at(cell.arrangement)[0],
        rate,
        cell.seed,
        scaled=drawn.source.scaled,
    )
    row = row_of(cell, trained, rate, external.covid)
    return {**row, "CPU seconds": round(time.process_time() - start, 1)}


def progress(row: dict[str, Any]) -> str:
    """A line a training."""
    return (
        f"arrangement {row['arrangement']}, {row['images']} images, seed {row['seed']}, "
        f"{row['model']}, rate {row['rate']}: AUC {row['auc']:.3f} (validation "
        f"{row['validation auc']:.3f}), {row['steps']} steps to the {row['end']}, "
        f"{row['CPU seconds']} s"
    )


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", choices=("true", "corpus"), default="true")
    parser.add_argument("--store", help="folder of artifacts, for the backbone of the demo")
    parser.add_argument("--work", type=Path, help="[artifacts/attention_pays_<tokens>]")
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    parser.add_argument("--minutes", type=float, default=np.inf, help="of CPU time")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sources = (TRUE,) if options.tokens == "true" else sources_of_demo(options.store)
    work = options.work or Path(f"artifacts/attention_pays_{options.tokens}")
    found = run(options.out, work, tuple(options.seeds), sources, options.minutes)
    if options.figure and found["aucs"]:
        write_atomic(options.figure, viz.to_png(figure_of(found["aucs"], sources[0].name)))
    for line in found["differences"]:
        print(line)


if __name__ == "__main__":
    main()
