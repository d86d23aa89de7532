"""A training against its own bare model step.

    python benchmarks/train.py [--profile demo] [--task backbone diagnosis] [--steps 20] [--batch N]
    [--workers N] [--compile] [--amp bf16]

Printed are images/s of both, their ratio, and the share of the time lost to input. The bare step
repeats one batch that lies on the device already; the training draws shuffled, augmented batches
from the image cache as `fit` does. Run it on a GPU with `--profile paper`; on a CPU add
`--batch 2`.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from input import write_images
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.sections import Profile, Training
from cxrkit.data import datasets, manifests
from cxrkit.models import factory
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.findings import FindingsTask
from cxrkit.training import batches, devices, loop

IMAGES = 256
WARM_UP = 2  # updates before the clock runs
GPU_WORKERS = 8
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Measured:
    """A training to measure."""

    network: nn.Module
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    training: Training


def backbone(profile: Profile) -> Measured:
    """The training of the findings."""
    task = FindingsTask(profile)
    return Measured(task.network(), task.loss, profile.backbone_training)


def diagnosis(profile: Profile) -> Measured:
    """The training of the diagnosis, on made-up classes."""
    network = factory.build_classifier(profile)
    return Measured(network, cross_entropy, profile.transformer_training)


def cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Loss of the made-up classes that `Timed` adds."""
    return F.cross_entropy(model(batch["image"])["logits"], batch["target"])


TASKS = {"backbone": backbone, "diagnosis": diagnosis}


class Timed:
    """An iterator of batches, with a made-up `target`, that knows how long it was waited for."""

    def __init__(self, source: Iterator[tuple[list[int], Batch]]) -> None:
        self.source = source
        self.seconds = 0.0

    def __next__(self) -> tuple[list[int], Batch]:
        began = time.perf_counter()
        indices, batch = next(self.source)
        self.seconds += time.perf_counter() - began
        return indices, {**batch, "target": torch.arange(len(indices)) % 3}


def rate(run: loop.TrainingRun, source: Timed, steps: int) -> tuple[float, float]:
    """Images/s of `steps` updates, and the share of the time spent waiting for `source`."""
    for _ in range(WARM_UP):
        run.update(source)
    source.seconds = 0.0
    began = time.perf_counter()
    for _ in range(steps):
        run.update(source)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    total = time.perf_counter() - began
    return steps * run.training.batch / total, source.seconds / total


def make_run(
    name: str, profile: Profile, device: torch.device, asked: argparse.Namespace
) -> loop.TrainingRun:
    """The training of a task, before its first update."""
    torch.manual_seed(0)
    measured = TASKS[name](profile)
    training = replace(
        measured.training,
        batch=asked.batch or measured.training.batch,
        accumulate=1,
        eval_every=0,
        amp=asked.amp or measured.training.amp,
    )
    network = torch.compile(measured.network) if asked.compile else measured.network
    loop.train_mode(network)
    return loop.TrainingRun(network, measured.loss, training, device)


def measure(
    name: str, profile: Profile, dataset: datasets.CXRDataset, asked: argparse.Namespace
) -> str:
    """One line of the table."""
    device = devices.pick_device()
    workers = asked.workers
    if workers is None:
        workers = 0 if device.type == "cpu" else GPU_WORKERS
    bare, whole = (make_run(name, profile, device, asked) for _ in range(2))
    batch = whole.training.batch
    with devices.cpu_threads(whole.training.threads):
        source = batches.stream(
            dataset,
            batches.Order(len(dataset), 0),
            batch,
            0,
            workers=workers,
            pin_memory=device.type == "cuda",
        )
        indices, first = next(source)
        same = itertools.repeat((indices, batches.to_device(first, device)))
        bare_rate, _ = rate(bare, Timed(same), asked.steps)
        whole_rate, lost = rate(whole, Timed(source), asked.steps)
    return (
        f"{name:<10} {batch:>6} {profile.image_size:>6} {bare_rate:>10.1f} {whole_rate:>10.1f} "
        f"{whole_rate / bare_rate:>6.2f} {lost:>11.1%}"
    )


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=0, help="instead of the profile's")
    parser.add_argument(
        "--workers", type=int, default=None, help="[default: 0 on a CPU, 8 beside a GPU]"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--amp", choices=devices.PRECISIONS, help="instead of the profile's")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    asked = read_arguments()
    warnings.simplefilter("ignore")
    profile = profiles.get(asked.profile)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_images(root / "films", IMAGES, 2 * profile.image_size)
        table = manifests.read_manifest("local", root / "films")
        dataset = datasets.CXRDataset(
            table,
            profile.image_size,
            profile.choices,
            train=True,
            store=Store(Path(folder) / "store", root),
        )
        print(
            f"images/s on {devices.pick_device()}, torch {torch.__version__}\n"
            f"{'':<10} {'batch':>6} {'px':>6} {'bare':>10} {'training':>10} {'ratio':>6} "
            f"{'input share':>11}"
        )
        for name in asked.task:
            print(measure(name, profile, dataset, asked), flush=True)


if __name__ == "__main__":
    main()
