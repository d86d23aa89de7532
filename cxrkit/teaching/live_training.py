"""Train it yourself: the loop of this kit behind a button, for a minute, with live curves.

Nothing runs before the click, so a lesson that is run without a reader trains nothing. The model
starts as its reference model did, learns from some of the training images and is validated on some
of the validation images. The reference model is evaluated on the same ones.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cxrkit.data.datasets import split_parts
from cxrkit.teaching.schematics import Schematic
from cxrkit.training import batches, loop
from cxrkit.training.devices import device_of
from cxrkit.viz.sliders import Box, run_on_click
from cxrkit.viz.style import BLUE, ORANGE

if TYPE_CHECKING:
    import pandas as pd

    from cxrkit.tasks.task import State, Task

SECONDS = 60
IMAGES = 64  # that train; half as many validate
CHUNK = 8  # images that are read between two looks at the stop button
BATCH = 32  # of the validation
ENDLESS = 10**9  # steps: the clock ends the training
EVERY = 1.0  # seconds from one point of the curves to the next
SIDE = (620, 260)  # px of the curves, width and height
EDGE = (60, 40)  # px left of and below the axes

Point = tuple[int, float]  # step, loss
Show = Callable[[str, str], None]
Stopped = Callable[[], bool]


class _OutOfTime(Exception):
    """Ends `loop.fit` from inside its loss."""


@torch.no_grad()
def mean_loss(task: Task, model: nn.Module, data: Any) -> float:
    """The task's loss of a model in evaluation mode, the mean over a dataset."""
    model.eval()
    total = 0.0
    for start in range(0, len(data), BATCH):
        rows = list(range(start, min(start + BATCH, len(data))))
        batch = batches.to_device(batches.fetch(data, rows), device_of(model))
        total += _scalar(task.loss(model, batch)) * len(rows)
    return total / len(data)


def _scalar(loss: torch.Tensor | dict[str, torch.Tensor]) -> float:
    value = loss["loss"] if isinstance(loss, dict) else loss
    return float(value.detach())


def draw_curves(train: Sequence[Point], val: Sequence[Point], reference: float) -> Schematic:
    """Losses against the step: training, validation, and the reference model as a dashed line."""
    width, height = SIDE
    left, below = EDGE
    page = Schematic(width, height, "Loss while you train")
    last = max([step for step, _ in [*train, *val]] + [1])
    peak = max([loss for _, loss in [*train, *val]] + [reference])
    top = 1.2 * peak

    def place(step: float, loss: float) -> tuple[float, float]:
        return left + (width - left - 160) * step / last, (height - below) * (1 - loss / top)

    page.line([place(0, top), place(0, 0), place(last, 0)], "#333333")
    page.line([place(0, reference), place(last, reference)], "#666666", dashed=True)
    for points, colour in ((train, BLUE), (val, ORANGE)):
        page.line([place(*point) for point in points], colour)
    page.text(left + 8, 10, "loss", 12, "start")
    for value in (0, peak / 2, peak):
        page.text(left - 6, place(0, value)[1], f"{value:.2g}", 12, "end")
    page.text(place(last / 2, 0)[0], height - 12, f"step, 0 to {last}", 12)
    names = (("training", BLUE), ("validation", ORANGE), ("reference model,", "#666666"))
    for i, (name, colour) in enumerate(names):
        page.line([(width - 150, 30 + 22 * i), (width - 128, 30 + 22 * i)], colour, dashed=i == 2)
        page.text(width - 122, 30 + 22 * i, name, 12, "start")
    page.text(width - 122, 90, "validation", 12, "start")
    return page


class LiveTraining:
    """One training by a reader.

    Args:
        task: its loss, first weights and images.
        table: images with `split` and `external`; those of train and val are used.
        reference: the finished model.
        initial_weights: called at the click, gives state dicts that the model begins with.
        seconds: that it may train; reading the images comes before.
        images: that train, drawn at random; half as many validate.

    Attributes:
        model: None before it begins.
        train: points of the training loss, the mean since the last one.
        val: points of the validation loss.
    """

    def __init__(
        self,
        task: Task,
        table: pd.DataFrame,
        reference: nn.Module,
        initial_weights: Callable[[], Sequence[State]],
        seconds: float,
        images: int,
    ) -> None:
        parts = split_parts(table)
        self.tables = {
            name: parts[name].sample(min(most, len(parts[name])), random_state=0)
            for name, most in (("train", images), ("val", images // 2))
        }
        self.task, self.reference = task, reference
        self.initial_weights, self.seconds = initial_weights, seconds
        self.model: nn.Module | None = None
        self.train: list[Point] = []
        self.val: list[Point] = []

    def run(self, show: Show, stopped: Stopped) -> None:
        """Read the images, train until the time is up or `stopped()`, show curves meanwhile."""
        self.train, self.val = [], []
        model = self.task.initialise(self.initial_weights()).to(device_of(self.reference))
        self.model = model
        with contextlib.suppress(_OutOfTime):
            data = self._read(model, show, stopped)
            self.at_reference = mean_loss(self.task, self.reference, data["val"])
            self.val.append((0, mean_loss(self.task, model, data["val"])))
            self._fit(model, data, show, stopped)
        model.eval()
        if self.train:
            show(self._curves(), self._conclusion())
        else:
            show("", "ended before the first point of a curve")

    def _read(self, model: nn.Module, show: Show, stopped: Stopped) -> dict[str, Any]:
        """Both datasets. Virtual images are drawn the first time, so the stop is heard between."""
        total, seen = sum(map(len, self.tables.values())), 0
        for table in self.tables.values():
            for start in range(0, len(table), CHUNK):
                if stopped():
                    raise _OutOfTime
                show("", f"reading films: {seen} of {total}; virtual ones are drawn the first time")
                chunk = table[start : start + CHUNK].reset_index(drop=True)
                self.task.training_data(model, Path(), chunk, train=False)
                seen += len(chunk)
        return {
            name: self.task.training_data(
                model, Path(), table.reset_index(drop=True), train=name == "train"
            )
            for name, table in self.tables.items()
        }

    def _fit(self, model: nn.Module, data: dict[str, Any], show: Show, stopped: Stopped) -> None:
        began = drawn = 0.0
        losses: list[float] = []  # since the last point
        step = 0

        def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
            nonlocal began, drawn
            if not began:  # now, because the first use of an optimiser takes seconds by itself
                began = drawn = time.monotonic()
            if stopped() or time.monotonic() - began > self.seconds:
                raise _OutOfTime
            value = self.task.loss(model, batch)
            losses.append(_scalar(value))
            return value

        def validate(model: nn.Module) -> dict[str, float]:
            nonlocal step, drawn
            step += 1
            if time.monotonic() - drawn > min(EVERY, self.seconds / 10):
                self.train.append((step, sum(losses) / len(losses)))
                self.val.append((step, mean_loss(self.task, model, data["val"])))
                losses.clear()
                drawn = time.monotonic()
                show(self._curves(), f"{drawn - began:.0f} of {self.seconds:.0f} s")
            return {"score": 0.0}

        training = self.task.training(len(data["train"]))
        loop.fit(
            model,
            loss,
            data["train"],
            replace(
                training,
                schedule="constant",
                warmup=min(training.warmup, 20),
                steps=ENDLESS,
                ema=0.0,
                eval_every=1,
                log_every=0,
                checkpoint_every=0,
            ),
            validate=validate,
            device=device_of(self.reference),
            sample_weights=self.task.sample_weights(self.tables["train"]),
            workers=0,
            progress=False,
        )

    def _curves(self) -> str:
        return draw_curves(self.train, self.val, self.at_reference)._repr_svg_()

    def _conclusion(self) -> str:
        lowest, best = min((loss, step) for step, loss in self.val)
        return (
            f"{self.train[-1][0]} steps on {len(self.tables['train'])} films: the training loss "
            f"ends at {self.train[-1][1]:.3f}, that of validation at {self.val[-1][1]:.3f}; its "
            f"lowest was {lowest:.3f} at step {best}. The reference model, trained on all "
            f"films, has {self.at_reference:.3f} on the same validation films."
        )


def train_yourself(
    task: Task,
    table: pd.DataFrame,
    reference: nn.Module,
    initial_weights: Callable[[], Sequence[State]] = tuple,
    seconds: float = SECONDS,
    images: int = IMAGES,
) -> Box:
    """A button that trains the network of a task in a thread; the arguments of `LiveTraining`.

    Returns:
        The widget of `viz.run_on_click`, with `.training`, the `LiveTraining`.
    """
    training = LiveTraining(task, table, reference, initial_weights, seconds, images)
    box = run_on_click(f"Train it yourself, {seconds:g} seconds", training.run)
    box.training = training
    return box
