"""Plan: what a run costs on this machine, before it starts: images, updates, hours, memory, disk.

Nothing is guessed: one update of every training is made at full size on noise, and a few of the
real images are decoded.

B batch, S image size, s that of the segmenter, K classes or findings.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import psutil
import torch
from torch import nn

from cxrkit.config.machine import cpus
from cxrkit.config.sections import Profile, Training, Variant
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS
from cxrkit.data import manifests, preprocessing, schema
from cxrkit.data.datasets import split_parts
from cxrkit.data.images import load_image
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import cards, grid
from cxrkit.reproduction.watch import call_in_subprocess
from cxrkit.storage.artifacts import Store
from cxrkit.storage.locations import data_root
from cxrkit.tasks import diagnosis, segmentation, severity
from cxrkit.tasks.contrastive import ContrastiveTask
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.tasks.findings import FindingsTask
from cxrkit.tasks.severity import SeverityTask
from cxrkit.training import devices, loop, memory

GB = 2**30
FEWEST_MEASURED = 2  # images of the measured update on a CPU, and the least that is tried on a GPU
SAMPLE = 8  # images that are decoded to know the rate

Tables = dict[str, pd.DataFrame]
Batch = dict[str, torch.Tensor]


class MissingData(FileNotFoundError):
    """Datasets of the profile are not there; the message names each and the next step."""


@dataclass(frozen=True)
class PlannedTraining:
    """A training before it is measured.

    Attributes:
        images: name -> number of training images, for every model that trains in this way.
        training: optimiser, batch and steps.
        make: builds the model.
        loss: of the model and a batch.
        size: of the images, pixels.
    """

    images: dict[str, int]
    training: Training
    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Batch], Any]
    size: int


@dataclass(frozen=True)
class Cost:
    """A training, and what was measured of one update.

    Attributes:
        name: of the training.
        images: number of training images.
        training: optimiser, batch and steps.
        seconds: of one image in an update.
        kept: bytes that one image holds until the backward pass.
        weights: number of trained weights.
        measured: images of the measured update: fewer than the batch on a CPU, or where the batch
            does not fit.
        fits: whether the device holds the whole batch.
        flops: of one image, forward and backward.
    """

    name: str
    images: int
    training: Training
    seconds: float
    kept: float
    weights: int
    measured: int
    fits: bool = True
    flops: float = 0.0

    @property
    def seen(self) -> int:
        """Images that all updates see, repetitions counted."""
        return self.training.steps * self.training.batch * self.training.accumulate

    @property
    def hours(self) -> float:
        """Hours on this machine."""
        return self.seen * self.seconds / 3600

    @property
    def numbers(self) -> int:
        """Numbers of each weight: itself, gradient, moments and average."""
        return 2 + memory.MOMENTS[self.training.optimizer] + (self.training.ema > 0)

    @property
    def memory(self) -> float:
        """Bytes at work: activations, and weights, gradients, moments and average in float32."""
        return self.kept * self.training.batch + 4 * self.numbers * self.weights

    @property
    def card_memory(self) -> float:
        """Bytes at work in mixed precision (`cards.card_memory`)."""
        return cards.card_memory(self.kept, self.training.batch, self.weights, self.numbers)


# the images


def task_tables(
    profile: Profile, store: Store | None = None, tasks: Iterable[str] = tuple(task_data.TASKS)
) -> Tables:
    """All images of tasks, also where a dry run takes few.

    Args:
        profile: its `manifests` name the datasets.
        store: knows where real images lie.
        tasks: keys of `task_data.TASKS`.

    Returns:
        Task -> table.

    Raises:
        MissingData: a dataset or an image is not there.
    """
    tables, problems = read_tables(profile, store or Store(), tasks)
    if problems:
        lines = [line for said in problems.values() for line in said.splitlines()]
        raise MissingData("\n".join(dict.fromkeys(lines)))
    return tables


def read_tables(
    profile: Profile, store: Store, tasks: Iterable[str]
) -> tuple[Tables, dict[str, str]]:
    """The images of each task that has all of its datasets and images, and what others lack.

    Args:
        profile: its `manifests` name the datasets.
        store: knows where real images lie.
        tasks: keys of `task_data.TASKS`.

    Returns:
        Task -> table, and task -> what is missing, each with the next step.
    """
    everything, cohort = replace(profile, max_images=0), None
    if "virtual" in profile.manifests:
        cohort = stages.resolve(profile, "cohort", store)
    absent, tables, problems = {}, {}, {}
    for task in tasks:
        lines = []
        for name in task_data.serving_datasets(profile, task):
            if name not in absent:
                absent[name] = _absence(profile, store, name)
            if absent[name]:
                lines.append(absent[name])
        if lines:
            problems[task] = "\n".join(lines)
            continue
        try:
            table = task_data.images_for(everything, task, store, cohort)
            _refuse_lost_images(task, table)
        except (ValueError, FileNotFoundError) as error:
            problems[task] = str(error)
        else:
            tables[task] = table
    return tables, problems


def _absence(profile: Profile, store: Store, name: str) -> str:
    """What to do about a dataset that is not there; "" where it is."""
    if name == "virtual":
        return ""
    without = f"or do without: --profile {profile.name}-{name}"
    # the kit lists the images of some datasets itself: their table is there without a folder
    if manifests.image_list(name) is not None:
        folder = manifests.folder_of(name, store.data)
        if folder.name == name and folder.is_dir():
            return ""
        return f"{name}: no folder {name} in {store.data}; run: cxrkit data fetch {name}; {without}"
    try:
        manifests.read_manifest(name, store.data, profile.choices)
    except FileNotFoundError as error:
        return f"{error}; {without}"
    return ""


def _refuse_lost_images(task: str, table: pd.DataFrame) -> None:
    """Raises MissingData where the table lists images that the disk lacks."""
    lost = [path for path in table["path"] if "#" not in path and not os.path.exists(path)]
    if lost:
        raise MissingData(
            f"{len(lost)} of {len(table)} films for the {task} are not there, the first: "
            f"{lost[0]}; unpack the rest, or take their rows out of the table"
        )


# the trainings


def noise_batch(batch: int, size: int) -> Batch:
    """A batch of noise with labels of every kind, as all the losses take it.

    Args:
        batch: number of images B.
        size: of the images, pixels S.

    Returns:
        Images (B, 1, S, S), masks (B, S, S), labels of every task.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, batch, 1, size, size, generator=generator) * 2 - 1  # (2, B, 1, S, S)
    mask = torch.zeros(batch, size, size, dtype=torch.uint8)  # (B, S, S)
    mask[:, size // 4 : -size // 4, size // 4 : -size // 4] = 255
    return {
        "image": noise[0],
        "abnormal": noise[0],
        "normal": noise[1],
        "lung_mask": mask,
        "array": torch.ones(batch, 3, 2),
        "findings": torch.ones(batch, len(FINDINGS)),
        "diagnosis": torch.arange(batch) % len(DIAGNOSES),
        "class_mask": torch.ones(batch, len(DIAGNOSES), dtype=torch.bool),
    }


def planned_trainings(
    profile: Profile, tables: Tables, parts: Iterable[str] = ()
) -> list[PlannedTraining]:
    """The trainings of lessons 02 to 06.

    Args:
        profile: sizes, budgets and choices.
        tables: of `task_tables`.
        parts: keys of PARTS; () = all.

    Returns:
        One entry for each network and budget; the models of both views share one.

    Raises:
        ValueError: a part has no images to train on; the message names the part.
    """
    planned = []
    for part in tuple(parts) or PARTS:
        try:
            planned += PARTS[part](profile, tables)
        except ValueError as error:
            raise ValueError(f"{part}: {error}") from None
    return planned


def _training_images(tables: Tables, task: str) -> pd.DataFrame:
    """Images that train a task. Raises ValueError where there is none."""
    train = split_parts(tables[task])["train"]
    if not len(train):
        raise ValueError(
            f"no image trains the {task}: add a dataset that serves it to `manifests`, or take one "
            "of its datasets out of `external`"
        )
    return train


def _backbone_trainings(profile: Profile, tables: Tables) -> list[PlannedTraining]:
    """The backbone of lesson 02."""
    task, train = FindingsTask(profile), _training_images(tables, "findings")
    training, size = profile.backbone_training, profile.image_size
    images = {"backbone": len(train)}
    return [PlannedTraining(images, training, task.network, task.loss, size)]


def _diagnosis_trainings(profile: Profile, tables: Tables) -> list[PlannedTraining]:
    """The corpus ViT of each view of lesson 04."""
    task, images = DiagnosisTask(profile), {}
    for view in ("PA", "AP"):
        seen_as = task_data.external_to_view(tables["diagnosis"], profile, view)
        rows = diagnosis.of_view(split_parts(seen_as)["train"], view)
        missing = sorted(set(DIAGNOSES) - set(rows["diagnosis"]))
        if missing and not profile.sources.joint_views:
            raise ValueError(
                f"no {view} image that trains is {', '.join(missing)}: add a dataset that has some "
                "to `manifests`"
            )
        images[f"diagnosis {view}"] = len(rows)
    training, size = profile.transformer_training, profile.image_size
    return [PlannedTraining(images, training, task.network, task.loss, size)]


def _severity_trainings(profile: Profile, tables: Tables) -> list[PlannedTraining]:
    """The severity model of lesson 06, and one for each hospital that is held out in turn."""
    task, settings = SeverityTask(profile), profile.severity
    training, size = profile.severity_training, profile.image_size
    if not settings.held_out:
        images = {"severity": len(_training_images(tables, "severity"))}
        return [PlannedTraining(images, training, task.network, task.loss, size)]
    images = {}
    for site in settings.alternation or (settings.held_out,):
        table = severity.hold_out(tables["severity"], site, settings.alternation)
        left = {"severity": table}
        images[f"severity without {site}"] = len(_training_images(left, "severity"))
    return [PlannedTraining(images, training, task.network, task.loss, size)]


def _segmenter_trainings(profile: Profile, tables: Tables) -> list[PlannedTraining]:
    """Teacher, student and plain U-Nets of lesson 03."""
    both = pd.concat([tables["lungs"], tables["diagnosis"]])
    table = segmentation.assign_roles(profile, both.drop_duplicates("path", ignore_index=True))
    abnormal = int((table["role"] == "abnormal").sum())
    unets = {}
    for name, rows in segmentation.unet_rows(table).items():
        unets[f"lungs: {name}"] = int(rows.sum())
    return segmenter_updates(profile, abnormal, unets)


def segmenter_updates(
    profile: Profile, abnormal: int, unets: dict[str, int]
) -> list[PlannedTraining]:
    """The updates of lesson 03.

    Args:
        profile: sizes and budgets.
        abnormal: images that the teacher and the student train on.
        unets: name of each plain U-Net -> its training images.

    Returns:
        Those of teacher, student and U-Nets.
    """
    teacher = segmentation.build_translator(profile).to(devices.pick_device()).eval()
    size = profile.segmenter.size
    return [
        PlannedTraining(
            {"lungs: teacher": abnormal},
            profile.segmenter_training,
            partial(segmentation.build_translator, profile),
            partial(segmentation.adaptation_loss, profile),
            size,
        ),
        PlannedTraining(
            {"lungs: student": abnormal},
            profile.student_training,
            partial(segmentation.build_generator, profile),
            partial(segmentation.student_loss, profile, teacher),
            size,
        ),
        PlannedTraining(
            unets,
            profile.unet_training,
            partial(segmentation.build_unet, profile),
            partial(segmentation.unet_loss, profile),
            size,
        ),
    ]


def grid_trainings(profile: Profile, tables: Tables) -> tuple[list[PlannedTraining], list[str]]:
    """What lesson 07 trains beside the profile's own models.

    Trainings with the same update share one entry: it is measured once.

    Args:
        profile: the settings of the proposed model.
        tables: of `task_tables`; trainings of a task that is not there are left out.

    Returns:
        The trainings, and a line for each that this machine cannot build.
    """
    found: dict[Any, PlannedTraining] = {}
    problems = []
    for stage, its_profile, cell in grid.extra_steps(profile).values():
        kind, task_name = GRID_TASKS[stage]
        training = grid.training_of(its_profile, stage)
        if training is None or task_name not in tables:
            continue
        own = replace(its_profile, variant=Variant()) if stage == "backbone" else its_profile
        task, size = kind(own), own.image_size
        if stage == grid.DIAGNOSIS:
            size *= own.variant.zoom
        # where its weights come from, and which images train it, change no update
        same = replace(own.variant, initial_weights="", contrastive=False, sites=(), max_images=0)
        update = (stage, same, own.transformer, own.backbone, replace(training, steps=0))
        images = len(split_parts(tables[task_name])["train"])
        if update in found:
            found[update].images[f"{stage}: {cell}"] = images
            continue
        try:
            with torch.device("meta"):
                task.network()
        except (RuntimeError, ImportError) as error:
            problems.append(f"{stage}: {cell}: {error}")
            continue
        named = {f"{stage}: {cell}": images}
        found[update] = PlannedTraining(named, training, task.initialise, task.loss, size)
    return list(found.values()), problems


# stage of a cell -> its task, and the images that it reads
GRID_TASKS = {
    "backbone": (FindingsTask, "findings"),
    "feature_extractor": (FindingsTask, "findings"),
    "contrastive": (ContrastiveTask, "findings"),
    grid.DIAGNOSIS: (DiagnosisTask, "diagnosis"),
    grid.SEVERITY: (SeverityTask, "severity"),
}
# part of a run -> its trainings, and the tasks whose images it reads
PARTS = {
    "backbone": _backbone_trainings,
    "segmenter": _segmenter_trainings,
    "diagnosis": _diagnosis_trainings,
    "severity": _severity_trainings,
}
TASKS_OF = {
    "backbone": ("findings",),
    "segmenter": ("lungs", "diagnosis"),
    "diagnosis": ("diagnosis",),
    "severity": ("severity",),
}
GRID_LESSON = "07"
# lesson -> the parts that it trains, those before it included; other lessons train none of these
PARTS_OF_LESSON = {
    "02": ("backbone",),
    "03": ("segmenter",),
    "04": ("backbone", "diagnosis"),
    "05": ("backbone", "diagnosis"),
    "06": tuple(PARTS),
    GRID_LESSON: tuple(PARTS),
}


def parts_of(only: Iterable[str]) -> tuple[str, ...]:
    """The parts that some lessons train, in order.

    Args:
        only: numbers or names of lessons; () = all.
    """
    asked = set()
    for lesson in only or PARTS_OF_LESSON:
        asked |= set(PARTS_OF_LESSON.get(lesson.split("_")[0], ()))
    return tuple(part for part in PARTS if part in asked)


def plan_parts(
    profile: Profile, store: Store, parts: Iterable[str]
) -> tuple[Tables, list[PlannedTraining], list[str]]:
    """What can be planned of some parts, and what keeps the others from it.

    A part that lacks its data does not keep the others from being planned, nor from being made.

    Args:
        profile: sizes, budgets and choices.
        store: knows where real images lie.
        parts: keys of PARTS.

    Returns:
        All images of the tasks that have theirs; the trainings; lines "part: what is missing and
        the next step".

    Raises:
        MissingData: no part can be made.
    """
    parts = tuple(parts)
    needed = [task for task in task_data.TASKS if any(task in TASKS_OF[part] for part in parts)]
    listing, missing = read_tables(profile, store, needed)
    taken = {task: task_data.subsample(table, profile, task) for task, table in listing.items()}
    planned, problems = [], []
    for part in parts:
        lines = [missing[task] for task in TASKS_OF[part] if task in missing]
        if not lines:
            try:
                planned += planned_trainings(profile, taken, [part])
            except ValueError as error:
                problems.append(str(error))
        for line in dict.fromkeys("\n".join(lines).splitlines()):
            problems.append(f"{part}: {line}")
    if parts and not planned:
        raise MissingData("\n".join(problems))
    return listing, planned, problems


# what they cost


def measure_update(
    training: Training,
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], Any],
    batch: Batch,
    device: torch.device,
) -> tuple[float, float, int, float]:
    """Two updates on one batch: the first warms up and counts memory, the second is timed.

    Args:
        training: optimiser and precision; its batch is not used.
        model: with its initial weights.
        loss: of the model and a batch.
        batch: of n images.
        device: where the updates run.

    Returns:
        Seconds of one image, bytes that one image holds, the number of trained weights, and FLOPs
        of one image.
    """
    n = len(batch["image"])
    short = replace(training, batch=n, accumulate=1, steps=2)
    run = loop.TrainingRun(model, loss, short, device)
    source = itertools.repeat((list(range(n)), batch))
    with devices.cpu_threads(training.threads):
        loop.train_mode(model)
        with cards.FlopCounter() as counter:
            kept = memory.kept_during(partial(run.update, source), model.parameters())
        began = time.perf_counter()
        run.update(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return seconds / n, kept / n, weights, counter.total / n


def measure_largest_batch(
    planned: PlannedTraining, device: torch.device
) -> tuple[int, float, float, int, float]:
    """`measure_update` with the whole batch, or with half of it until the device holds it.

    Args:
        planned: the training; a CPU measures FEWEST_MEASURED images.
        device: where the updates run.

    Returns:
        The number of images that fit, and what `measure_update` returns.

    Raises:
        ValueError: not even FEWEST_MEASURED images fit.
    """
    training, size = planned.training, planned.size
    n = training.batch
    if device.type != "cuda":
        n = min(FEWEST_MEASURED, n)
    while True:
        try:
            batch = noise_batch(n, size)
            return n, *measure_update(training, planned.make(), planned.loss, batch, device)
        except torch.OutOfMemoryError as error:
            if n <= FEWEST_MEASURED:
                raise ValueError(
                    f"an update of {n} films of {size} px does not fit on {device}: {error}"
                ) from None
        n = max(FEWEST_MEASURED, n // 2)
        torch.cuda.empty_cache()  # out here, where the error no longer holds what did not fit


def training_costs(trainings: Iterable[PlannedTraining]) -> list[Cost]:
    """The measured cost of every training.

    Args:
        trainings: of `planned_trainings`.

    Returns:
        One Cost for each model.

    Raises:
        ValueError: an update does not fit on this device.
    """
    device, costs = devices.pick_device(), []
    for planned in trainings:
        n, seconds, kept, weights, flops = measure_largest_batch(planned, device)
        fits = device.type != "cuda" or n == planned.training.batch
        for name, count in planned.images.items():
            cost = Cost(name, count, planned.training, seconds, kept, weights, n, fits, flops)
            costs.append(cost)
    return costs


def decoding_cost(profile: Profile, tables: Tables) -> tuple[int, float, int]:
    """What decoding costs: every task keeps its own images, and masks beside them.

    Args:
        profile: sizes and choices.
        tables: of `task_tables`.

    Returns:
        Images to decode, seconds of one on one core, bytes of the caches.
    """
    if not tables:
        return 0, 0.0, 0
    rows = pd.concat(tables.values()).drop_duplicates("path")
    rows = rows.sample(min(SAMPLE, len(rows)), random_state=profile.seed)
    began = time.perf_counter()
    for path in rows["path"]:
        preprocessing.prepare(load_image(path).pixels, profile.image_size, profile.choices)
    seconds = (time.perf_counter() - began) / len(rows)
    count = {task: len(tables.get(task, ())) for task in task_data.TASKS}
    # severity keeps the image, the mask, and the mask's cache
    of_model = count["findings"] + count["diagnosis"] + 3 * count["severity"]
    # the segmenter keeps grey image and mask
    of_segmenter = 2 * (count["lungs"] + count["diagnosis"] + count["severity"])
    cache = of_model * profile.image_size**2 + of_segmenter * profile.segmenter.size**2
    return sum(count.values()), seconds, cache


# in words


def cost_table(costs: list[Cost]) -> str:
    """Costs as a table for people."""
    rows = []
    for cost in costs:
        rows.append(
            {
                "training": cost.name,
                "films": cost.images,
                "updates": cost.training.steps,
                "images/update": cost.seen // cost.training.steps,
                "epochs": f"{cost.seen / max(1, cost.images):.1f}",
                "images/s": f"{1 / cost.seconds:.2f}",
                "hours": f"{cost.hours:.2f}",
                "memory GB": f"{cost.memory / GB:.1f}",
            }
        )
    return pd.DataFrame(rows).to_string(index=False)


def oversized(costs: list[Cost]) -> list[str]:
    """A line for each training whose batch the device does not hold."""
    lines = []
    for cost in costs:
        if cost.fits:
            continue
        lines.append(
            f"{cost.name}: measured with {cost.measured} films: the whole batch of "
            f"{cost.training.batch} does not fit; halve `batch` and double `accumulate` of its "
            "training in the settings of the profile, until it does"
        )
    return lines


def describe_plan(profile: Profile, store: Store | None = None, only: Sequence[str] = ()) -> str:
    """The plan as text.

    A part that lacks its data is named with the next step, and the others are planned.

    Args:
        profile: what would run.
        store: where its results would go; the folder is made.
        only: numbers or names of the lessons that would run; () = all.

    Raises:
        MissingData: no part can be made: datasets or images are not there.
        OSError: the disk is too small; the message holds the plan.
        ValueError: the device holds no update.
    """
    store = store or Store()
    store.root.mkdir(parents=True, exist_ok=True)
    listing, trainings, problems = plan_parts(profile, store, parts_of(only))
    if not trainings:
        return f"profile {profile.name}: lessons {', '.join(only)} train no model at full size"
    tables = {task: task_data.subsample(table, profile, task) for task, table in listing.items()}
    costs = training_costs(trainings)
    decoded, seconds, cache = decoding_cost(profile, tables)
    # a checkpoint holds the model, the best one, the average, and the moments
    checkpoints = 0
    for cost in costs:
        checkpoints += 4 * cost.weights * (4 + memory.MOMENTS[cost.training.optimizer])
    disk, free = cache + checkpoints, shutil.disk_usage(store.root).free
    device, cores = devices.pick_device(), cpus()
    lines = [f"profile {profile.name} on {device}, {cores} cores", "", _image_counts(listing), ""]
    lines += schema.say_overlaps(profile.manifests, data_root(store.data))
    if profile.max_images:
        total = sum(map(len, listing.values()))
        lines += [
            f"a dry run takes {decoded:,} of these {total:,} films; --plan without --dry-run says "
            "what all of them cost",
            "",
        ]
    lines += [cost_table(costs), *oversized(costs), ""]
    if problems:
        lines += ["cannot be made as it stands; all else runs:", *problems, ""]
    lines += _totals(costs, decoded, seconds, cores)
    lines += ["", *card_lines(costs), ""]
    everything = list(costs)
    if GRID_LESSON in _lessons(only) and not profile.max_images:
        planned, unbuilt = grid_trainings(profile, tables)
        of_grid = training_costs(planned)
        everything += of_grid
        lines += [f"the grid of lesson {GRID_LESSON}, one seed of {len(profile.grid.seeds)}:"]
        lines += [cost_table(of_grid), *oversized(of_grid), *unbuilt, ""]
        lines += [f"hours on this machine: {_hours(of_grid):.1f} for the grid", ""]
        lines += [*card_lines(of_grid), ""]
    else:
        extra = grid.extra_trainings(profile).values()
        updates = sum(training.steps for training in extra)
        lines += [
            f"not counted: in lesson {GRID_LESSON} {len(extra)} further trainings, {updates:,} "
            "updates of other models"
        ]
    costs = everything
    lines += [
        f"memory: {max(cost.memory for cost in costs) / GB:.1f} GB at most, and up to 1 GB of work "
        f"space; there are {_device_memory(device) / GB:.0f} GB",
        f"disk: {disk / GB:.1f} GB in {store.root}; {free / GB:.1f} GB are free",
    ]
    text = "\n".join(lines)
    if disk > free:
        raise OSError(
            f"{text}\nthe disk is too small: choose another folder (--out, or CXRKIT_STORE)"
        )
    return text


def _image_counts(tables: Tables) -> str:
    """Images of each task and dataset, by split."""
    known = pd.concat([table.assign(task=task) for task, table in tables.items()])
    where = known["split"].mask(known["external"].astype(bool), "external")
    return pd.crosstab([known["task"], known["dataset"]], where).to_string()


def _lessons(only: Iterable[str]) -> list[str]:
    """Numbers of lessons; () = all that train."""
    return [lesson.split("_")[0] for lesson in only or PARTS_OF_LESSON]


def _hours(costs: list[Cost]) -> float:
    return sum(cost.hours for cost in costs)


def card_lines(costs: list[Cost]) -> list[str]:
    """What trainings would take on cards, a line each."""
    if not any(cost.flops for cost in costs):
        return []
    most = max(costs, key=lambda cost: cost.card_memory)
    lines = [
        f"estimated from FLOPs and bytes, not measured, in mixed precision; {most.name} needs most "
        f"memory, {most.card_memory / GB:.1f} GB:"
    ]
    for card in cards.CARDS:
        ranges = [card.hours(cost.seen, cost.flops, cost.kept) for cost in costs]
        fast, slow = (sum(ends) for ends in zip(*ranges))
        large = [cost.name for cost in costs if cost.card_memory > card.memory]
        note = f"; too small for {', '.join(large)}" if large else ""
        lines.append(f"  {card.name}: {fast:.1f} to {slow:.1f} hours{note}")
    return lines


def _totals(costs: list[Cost], decoded: int, seconds: float, cores: int) -> list[str]:
    """Lines on hours: those of decoding, of the trainings, and what is not counted."""
    decode = decoded * seconds / cores / 3600
    hours = _hours(costs) + decode
    return [
        f"decoding, once: {decoded:,} films, {1 / seconds:.0f} images/s a core, {decode:.2f} hours",
        f"hours on this machine: {hours:.1f} ({hours / 24:.1f} days) for the trainings above",
        "not counted: evaluation, figures, the saliency benchmark of lesson 05",
    ]


def _device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def describe_in_subprocess(
    profile: Profile, store: Store | None = None, only: Sequence[str] = ()
) -> str:
    """`describe_plan` in a process of its own.

    The gigabytes that an update holds, on a GPU too, are free again for the run.

    Args:
        profile: what would run.
        store: where its results would go.
        only: numbers or names of the lessons that would run; () = all.

    Raises:
        MissingData, OSError, ValueError: as `describe_plan`.
        ChildProcessError: the process ended without an answer.
    """
    return call_in_subprocess(describe_plan, profile, store, tuple(only))
