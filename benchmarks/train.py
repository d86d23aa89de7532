"""A training against its own bare model step: images/s, their ratio, and the share of the time lost
to input.

    python benchmarks/train.py [--profile demo] [--task backbone diagnosis] [--steps 20] [--batch N]
    [--workers N] [--compile]

The bare step repeats one batch that lies on the device already; the training draws shuffled,
augmented batches from the image cache as `train.fit` does. Run it on a GPU with `--profile paper`;
on a CPU add `--batch 2`.
"""

import argparse
import itertools
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from input import films as made_up

from cxrkit.config import profiles
from cxrkit.data import datasets, manifests
from cxrkit.models import factory
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import findings
from cxrkit.training import batches, devices, loop

FILMS = 256
TASKS = {
    "backbone": (factory.build_backbone, findings.loss, "backbone_training"),
    "diagnosis": (
        factory.build_classifier,
        lambda model, batch: F.cross_entropy(model(batch["image"])["logits"], batch["target"]),
        "transformer_training",
    ),
}


class Timed:
    """An iterator that knows how long it was waited for."""

    def __init__(self, source):
        self.source, self.seconds = source, 0.0

    def __next__(self):
        began = time.perf_counter()
        item = next(self.source)
        self.seconds += time.perf_counter() - began
        item[1]["target"] = torch.arange(len(item[0])) % 3
        return item


def rate(run, loss, source, steps):
    """(images/s, share of the time spent waiting for `source`) of `steps` updates after two to warm
    up.
    """
    for _ in range(2):
        run.update(loss, source)
    source.seconds, began = 0.0, time.perf_counter()
    for _ in range(steps):
        run.update(loss, source)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    total = time.perf_counter() - began
    return steps * run.training.batch / total, source.seconds / total


def measure(task, profile, dataset, asked):
    """One line of the table."""
    network, loss, name = TASKS[task]
    training = getattr(profile, name)
    training = replace(training, batch=asked.batch or training.batch, accumulate=1, eval_every=0)
    device = devices.pick_device()
    workers = asked.workers if asked.workers is not None else 0 if device.type == "cpu" else 8

    def run():
        torch.manual_seed(0)
        made = loop.TrainingRun(network(profile), training, {}, device, None, None)
        made.model = torch.compile(made.model) if asked.compile else made.model
        loop.train_mode(made.model)
        return made

    with devices.cpu_threads(training.threads):
        order, pinned = batches.Order(len(dataset), 0), device.type == "cuda"
        source = batches.stream(
            dataset, order, training.batch, 0, workers=workers, pin_memory=pinned
        )
        indices, batch = next(source)
        bare, _ = rate(
            run(),
            loss,
            Timed(itertools.repeat((indices, batches.to_device(batch, device)))),
            asked.steps,
        )
        whole, lost = rate(run(), loss, Timed(source), asked.steps)
    print(
        f"{task:<10} {training.batch:>6} {profile.image_size:>6} {bare:>10.1f} {whole:>10.1f} "
        f"{whole / bare:>6.2f} {lost:>11.1%}",
        flush=True,
    )


def main():
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
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    profile = profiles.get(asked.profile)
    with tempfile.TemporaryDirectory() as folder:
        made_up(Path(folder) / "films", FILMS, 2 * profile.image_size)
        table = manifests.read_manifest("local", Path(folder) / "films")
        dataset = datasets.CXRDataset(
            table,
            profile.image_size,
            profile.choices,
            train=True,
            store=Store(Path(folder) / "store"),
        )
        print(
            f"images/s on {devices.pick_device()}, torch {torch.__version__}\n"
            f"{'':<10} {'batch':>6} {'px':>6} {'bare':>10} {'training':>10} {'ratio':>6} "
            f"{'input share':>11}"
        )
        for task in asked.task:
            measure(task, profile, dataset, asked)


if __name__ == "__main__":
    main()
