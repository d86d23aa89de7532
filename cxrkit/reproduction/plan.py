"""Plan: what a run will cost on this machine, said before it starts: films, updates, hours, memory,
disk. Nothing is guessed: one update of every training is made at full size on made-up films, and a
few of the real films are decoded.

B batch, S image size, s the segmenter's.
"""

import itertools
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import psutil
import torch
import torch.nn.functional as F

from cxrkit.config.profiles import Training
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS
from cxrkit.data import manifests
from cxrkit.data.cache import READ, cpus
from cxrkit.data.datasets import parts
from cxrkit.models import factory
from cxrkit.pipeline import task_data
from cxrkit.reproduction import grid
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import diagnosis, findings, segmentation, severity
from cxrkit.training import devices, loop, memory

GB = 2**30
ON_A_CPU = 2  # films of the update that is measured where there is no GPU, whatever the batch
SAMPLE = 8  # films that are decoded to know the rate


class MissingData(FileNotFoundError):
    """Datasets of the profile that are not there; the message says how to obtain each, and how to
    do without.
    """


@dataclass(frozen=True)
class Cost:
    """One training: `films` to learn from, how it trains, and what was measured of one update."""

    name: str
    films: int
    training: Training
    seconds: float  # of one film in an update
    kept: float  # bytes that one film holds until the backward pass
    weights: int
    # films of the update that was measured: fewer than the batch on a CPU, or where that does not
    # fit
    measured: int
    fits: bool = True  # whether the card holds the whole batch

    @property
    def seen(self):
        """Films that all updates see together."""
        return self.training.steps * self.training.batch * self.training.accumulate

    @property
    def hours(self):
        """On this machine."""
        return self.seen * self.seconds / 3600

    @property
    def memory(self):
        """Bytes at work: activations, and weights, gradients, moments and moving average in
        float32.
        """
        copies = 2 + memory.MOMENTS[self.training.optimizer] + (self.training.ema > 0)
        return self.kept * self.training.batch + 4 * copies * self.weights


def films(profile, store=None):
    """All films of every task, {task: table}, also where a dry run takes few. Raises MissingData
    where a dataset or a film is not there.
    """
    store, absent = store or Store(), []
    for name in profile.manifests:
        try:
            name == "virtual" or manifests.read(name, store.data, profile.choices)
        except FileNotFoundError as error:
            absent.append(f"{error}; or do without: --profile {profile.name}-{name}")
    if absent:
        raise MissingData("\n".join(absent))
    tables = {
        task: task_data.for_task(replace(profile, films=0), task, store) for task in task_data.TASKS
    }
    for task, table in tables.items():
        lost = [path for path in table["path"] if "#" not in path and not os.path.exists(path)]
        if lost:
            raise MissingData(
                f"{len(lost)} of {len(table)} films for the {task} are not there, the first: "
                f"{lost[0]}; unpack the rest, or "
                "take their rows out of the table"
            )
    return tables


def made_up(batch, size):
    """A batch of noise of `size` px with labels of every kind, as all the losses take it."""
    noise = torch.rand(2, batch, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(batch, size, size, dtype=torch.uint8)
    mask[:, size // 4 : -size // 4, size // 4 : -size // 4] = 255
    return {
        "image": noise[0],
        "abnormal": noise[0],
        "normal": noise[1],
        "lung_mask": mask,
        "array": torch.ones(batch, 3, 2),
        "findings": torch.ones(batch, len(FINDINGS)),
        "diagnosis": torch.arange(batch) % len(DIAGNOSES),
    }


def trainings(profile, tables):
    """All trainings of lessons 02 to 06: list of ({name: films to learn from}, training, make() ->
    model, loss, size).
    """
    learn = {task: parts(table)["train"] for task, table in tables.items()}
    views = {
        f"diagnosis {view}": len(diagnosis.of_view(learn["diagnosis"], view))
        for view in ("PA", "AP")
    }
    game = segmentation.roles(
        profile,
        pd.concat([tables["lungs"], tables["diagnosis"]]).drop_duplicates(
            "path", ignore_index=True
        ),
    )
    abnormal, unets = (
        int((game["role"] == "abnormal").sum()),
        segmentation.unet_films(profile, game),
    )
    size, small, teacher = (
        profile.image_size,
        profile.segmenter.size,
        segmentation.translator(profile).to(devices.pick_device()).eval(),
    )

    def diagnose(model, batch):
        return F.cross_entropy(model(batch["image"])["logits"], batch["diagnosis"])

    return [
        (
            {"backbone": len(learn["findings"])},
            profile.backbone_training,
            lambda: factory.backbone_network(profile),
            findings.loss,
            size,
        ),
        (
            {"lungs: teacher": abnormal},
            profile.segmenter_training,
            lambda: segmentation.translator(profile),
            partial(segmentation.adaptation_loss, profile),
            small,
        ),
        (
            {"lungs: student": abnormal},
            profile.student_training,
            lambda: segmentation.generator(profile),
            partial(segmentation.student_loss, profile, teacher),
            small,
        ),
        (
            {f"lungs: {name}": int(rows.sum()) for name, rows in unets.items()},
            profile.unet_training,
            lambda: segmentation.unet(profile),
            partial(segmentation.unet_loss, profile),
            small,
        ),
        (views, profile.transformer_training, lambda: factory.network(profile), diagnose, size),
        (
            {"severity": len(learn["severity"])},
            profile.severity_training,
            lambda: severity.network(profile),
            severity.loss(profile.choices, profile.variant.pooling),
            size,
        ),
    ]


def measure(training, model, loss, batch, device):
    """Two updates on one batch: the first warms up and counts memory, the second is timed ->
    (seconds, bytes) of one film, weights.
    """
    n = len(batch["image"])
    run = loop.Run(model, replace(training, batch=n, accumulate=1, steps=2), {}, device, None, None)
    source = itertools.repeat((list(range(n)), batch))
    with devices.cpu_threads(training.threads):
        loop.train_mode(model)
        kept = memory.kept_during(lambda: run.update(loss, source), model.parameters())
        began = time.perf_counter()
        run.update(loss, source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    return (
        seconds / n,
        kept / n,
        sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    )


def measure_what_fits(training, make, loss, size, device):
    """`measure` with the batch, and half of it again and again where the card is too small ->
    (films that fit, *what it measured).

    Raises ValueError where not even ON_A_CPU films fit.
    """
    n = training.batch if device.type == "cuda" else min(ON_A_CPU, training.batch)
    while True:
        try:
            return n, *measure(training, make(), loss, made_up(n, size), device)
        except torch.OutOfMemoryError as error:
            if n <= ON_A_CPU:
                raise ValueError(
                    f"an update of {n} films of {size} px does not fit on {device}: {error}"
                ) from None
        n = max(ON_A_CPU, n // 2)
        torch.cuda.empty_cache()  # out here, where the error no longer holds what did not fit


def costs(profile, tables):
    """The measured cost of every training, list of Cost."""
    device, out = devices.pick_device(), []
    for names, training, make, loss, size in trainings(profile, tables):
        n, seconds, kept, weights = measure_what_fits(training, make, loss, size, device)
        fits = device.type != "cuda" or n == training.batch
        out += [
            Cost(name, count, training, seconds, kept, weights, n, fits)
            for name, count in names.items()
        ]
    return out


def decoding(profile, tables):
    """(films to decode, seconds of one on one core, bytes of the caches): every task keeps its own,
    and masks beside them.
    """
    rows = pd.concat(tables.values()).drop_duplicates("path")
    rows = rows.sample(min(SAMPLE, len(rows)), random_state=profile.seed)
    began = time.perf_counter()
    for path in rows["path"]:
        READ["film"](path, profile.image_size, profile.choices)
    seconds = (time.perf_counter() - began) / len(rows)
    big, small = profile.image_size**2, profile.segmenter.size**2
    # film, mask, and the mask's cache
    kept = (len(tables["findings"]) + len(tables["diagnosis"]) + 3 * len(tables["severity"])) * big
    # grey film and mask
    drawn = 2 * (len(tables["lungs"]) + len(tables["diagnosis"]) + len(tables["severity"])) * small
    return sum(map(len, tables.values())), seconds, kept + drawn


def listed(costs):
    """Costs as a table for people."""
    return pd.DataFrame(
        [
            {
                "training": c.name,
                "films": c.films,
                "updates": c.training.steps,
                "images/update": c.seen // c.training.steps,
                "epochs": f"{c.seen / max(1, c.films):.1f}",
                "images/s": f"{1 / c.seconds:.2f}",
                "hours": f"{c.hours:.2f}",
                "memory GB": f"{c.memory / GB:.1f}",
            }
            for c in costs
        ]
    ).to_string(index=False)


def too_large(costs):
    """A line for each training whose batch the card does not hold."""
    return [
        f"{c.name}: measured with {c.measured} films: the whole batch of {c.training.batch} does "
        "not fit; halve `batch` and double "
        "`accumulate` of its training in cxrkit/profiles.py, until it does"
        for c in costs
        if not c.fits
    ]


def describe(profile, store=None):
    """The plan in words. Raises MissingData, OSError where the disk is too small, ValueError where
    the card holds no update.
    """
    store = store or Store()
    store.root.mkdir(parents=True, exist_ok=True)
    listing, device, cores = films(profile, store), devices.pick_device(), cpus()
    tables = {task: task_data.sample(table, profile, task) for task, table in listing.items()}
    known = pd.concat([table.assign(task=task) for task, table in listing.items()])
    where = known["split"].mask(known["external"].astype(bool), "external")
    whole, (decoded, each, cache) = costs(profile, tables), decoding(profile, tables)
    decode, train_hours = decoded * each / cores / 3600, sum(c.hours for c in whole)
    # checkpoint: model, best, average ...
    disk = cache + sum(4 * c.weights * (4 + memory.MOMENTS[c.training.optimizer]) for c in whole)
    free = shutil.disk_usage(store.root).free
    there = (
        torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else psutil.virtual_memory().total
    )
    extra = grid.trainings(profile)
    few = [
        f"a dry run takes {decoded:,} of these {len(known):,} films; --plan without --dry-run says "
        "what all of them cost",
        "",
    ]
    text = "\n".join(
        [
            f"profile {profile.name} on {device}, {cores} cores",
            "",
            pd.crosstab([known["task"], known["dataset"]], where).to_string(),
            "",
            *(few if profile.films else []),
            listed(whole),
            *too_large(whole),
            "",
            f"decoding, once: {decoded:,} films, {1 / each:.0f} images/s a core, {decode:.2f} "
            "hours",
            f"hours on this machine: {train_hours + decode:.1f} ({(train_hours + decode) / 24:.1f} "
            "days) for the trainings above",
            f"not counted: evaluation, figures, the court of lesson 05; in lesson 07 {len(extra)} "
            "further trainings, "
            f"{sum(training.steps for training in extra.values()):,} updates of other models",
            f"memory: {max(c.memory for c in whole) / GB:.1f} GB at most, and up to 1 GB of work "
            f"space; there are {there / GB:.0f} GB",
            f"disk: {disk / GB:.1f} GB in {store.root}; {free / GB:.1f} GB are free",
        ]
    )
    if disk > free:
        raise OSError(
            f"{text}\nthe disk is too small: choose another folder (--out, or CXRKIT_STORE)"
        )
    return text


def apart(profile, store=None):
    """`describe` in a process of its own: the gigabytes that an update holds, on a GPU too, are
    free again for the run.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(describe, profile, store).result()
