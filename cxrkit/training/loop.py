"""One plain training loop for every model of the kit, on one device or several.

`fit` goes on where it was killed. `fit`, `evaluate` and `outputs` move the model to their device,
by default the fastest here (`devices.pick_device`), and leave it there; what they return lies on
the CPU. A direct call of the model afterwards needs its inputs on `devices.device_of(model)`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cxrkit.storage.atomic import write_json
from cxrkit.training import batches, checkpoint, devices, distributed, recompute
from cxrkit.training.interrupts import REQUEUE, catch_signals
from cxrkit.training.optimizers import average_into, lr_factor, make_optimizer
from cxrkit.training.random_state import seed_everything

if TYPE_CHECKING:
    from cxrkit.config.sections import Training

    Batch = dict[str, torch.Tensor]
    Loss = Callable[[nn.Module, Batch], torch.Tensor | dict[str, torch.Tensor]]
    Validate = Callable[[nn.Module], dict[str, float]]
    Forward = Callable[[nn.Module, Batch], dict[str, torch.Tensor]]

LOWEST_SCALE = 2.0**-10  # of the gradients in fp16; what is not finite even there is no overflow
MOST_WORKERS = 8  # processes that prepare batches beside one GPU


def train_mode(model: nn.Module) -> None:
    """`model.train()`, except for parts whose weights are all frozen.

    A frozen backbone thus keeps its batch statistics.
    """
    model.train()
    for module in model.modules():
        frozen = [not weight.requires_grad for weight in module.parameters()]
        if frozen and all(frozen):
            module.eval()


class LossModule(nn.Module):
    """A model and its loss as one module, whose gradients several processes can average.

    Args:
        model: The model.
        loss: loss(model, batch) -> scalar, or dict with `loss`, the scalar, and other scalars.
        recompute_blocks: keep the inputs of the model's blocks alone (`training.recompute`).
    """

    def __init__(self, model: nn.Module, loss: Loss, recompute_blocks: bool = False) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.recompute_blocks = recompute_blocks

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Scalars of one batch: `loss`, which alone carries gradients, and the others."""
        with recompute.recomputed(self.model, self.recompute_blocks):
            value = self.loss(self.model, batch)
        if not isinstance(value, dict):
            return {"loss": value}
        return {name: v if name == "loss" else v.detach() for name, v in value.items()}


class TrainingRun:
    """A training under way: the state that checkpoints hold, and one update of it.

    Args:
        model: The model; it is moved to the device and trained in place.
        loss: As in `fit`.
        training: Optimiser, schedule and sizes.
        device: Where to train.
        setup: JSON values that decide the weights beside `training`; a folder of others is refused.
        folder: Where checkpoints and results go; None = nowhere.
        parameters: As in `fit`.

    Raises:
        ValueError: For an unknown optimiser, schedule or precision.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        training: Training,
        device: torch.device,
        setup: dict[str, object] | None = None,
        folder: Path | None = None,
        parameters: list[dict] | None = None,
    ) -> None:
        self.rank, self.world = distributed.join_process_group()
        self.training = training
        self.device = device
        self.folder = Path(folder) if folder else None
        decisive = asdict(training)
        for name in ("recompute", "micro_batch"):  # no weight depends on them
            del decisive[name]
        self.setup = json.loads(json.dumps({**decisive, **(setup or {})}))
        self.model = model.to(device, memory_format=torch.channels_last)
        self.losses_of: nn.Module = LossModule(model, loss, training.recompute)
        if self.world > 1:
            # Batch norm over the whole batch, with the same names of weights; torch has it for CUDA
            # alone.
            if device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(model)
            self.losses_of = distributed.data_parallel(self.losses_of)
        self.ema = copy.deepcopy(model).eval() if training.ema else None
        self.averaged = model if self.ema is None else self.ema
        self.optimizer = make_optimizer(model, training, parameters)
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.autocast, self.scaler = devices.precision(training.amp, device)
        self.step = 0
        self.seen = 0
        self.best_step = 0
        self.best_score: float | None = None
        self.best: dict[str, torch.Tensor] = {}
        self.history: list[dict] = []
        self.losses: list[dict[str, float]] = []
        lr_factor(training.warmup, training)  # an unknown schedule fails now, not after the warm-up

    def update(self, source: Iterator[tuple[list[int], Batch]]) -> None:
        """One update from `training.accumulate` batches.

        Args:
            source: Iterator of (indices, batch), as `batches.stream`.

        Raises:
            FloatingPointError: If the loss or its gradient is not finite.
        """
        means: dict[str, float] = {}
        taken: list[int] = []
        passes = self.training.accumulate
        for number in range(passes):
            indices, batch = next(source)
            values = self._backward(batch, last=number == passes - 1)
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + float(value.detach()) / passes
            self._check_finite(means["loss"], "loss", indices)
            taken += indices
        self.scaler.unscale_(self.optimizer)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.training.clip or math.inf)
        # With a scale, fp16 skips an update that is not finite and scales less the next time.
        if not self.scaler.is_enabled() or self.scaler.get_scale() < LOWEST_SCALE:
            # Any of the passes may have spoilt the sum.
            self._check_finite(float(norm), "norm of the gradient", taken)
        self._apply()
        self.losses.append(means)

    def _backward(self, batch: Batch, last: bool) -> dict[str, torch.Tensor]:
        """Forward and backward pass of one batch; the last one averages over the processes."""
        waits = contextlib.nullcontext()
        if self.world > 1 and not last:
            waits = self.losses_of.no_sync()
        with waits:
            with self.autocast():
                values = self.losses_of(batches.to_device(batch, self.device))
            self.scaler.scale(values["loss"] / self.training.accumulate).backward()
        return values

    def _apply(self) -> None:
        """Let the optimiser move the weights, and the average follow them."""
        factor = lr_factor(self.step, self.training)
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        self.seen += self.training.batch * self.training.accumulate
        if self.ema is not None:
            # A young average follows faster, to forget the random start.
            decay = min(self.training.ema, (1 + self.step) / (10 + self.step))
            average_into(self.ema, self.model, decay)

    def _check_finite(self, value: float, what: str, indices: list[int]) -> None:
        if math.isfinite(value):
            return
        if self.folder:
            kept = f"the last good checkpoint stays in {self.folder}"
        else:
            kept = "nothing is saved without `folder`"
        raise FloatingPointError(
            f"{what} is {value} in step {self.step + 1} of {self.training.steps}, images {indices} "
            f"(rows of the training films' table, from 0); {kept}. Look at these images; then "
            "lower `lr`, set `clip`, or set `amp` to off"
        )

    def due(self, every: int) -> bool:
        """Whether this step is a multiple of `every`, or the last; never for 0."""
        return bool(every) and (self.step % every == 0 or self.step == self.training.steps)

    def validate(self, validate: Validate) -> dict[str, float]:
        """Validate in the process of rank 0, and keep the weights if their score is the best.

        Args:
            validate: As in `fit`.

        Returns:
            The scores; in the other processes a `score` of NaN.

        Raises:
            RuntimeError: If `validate` moved the model to another device.
        """
        scores = {"score": math.nan}
        if self.rank == 0:
            before = devices.device_of(self.averaged)
            with torch.no_grad():
                scores = validate(self.averaged.eval())
            after = devices.device_of(self.averaged)
            if after != before:
                raise RuntimeError(
                    f"`validate` moved the model from {before} to {after}, where the training "
                    "cannot go on: let it evaluate with device=device_of(model)"
                )
        best = -math.inf if self.best_score is None else self.best_score
        if scores["score"] > best:
            self.best_score = float(scores["score"])
            self.best_step = self.step
            state = self.averaged.state_dict()
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        train_mode(self.model)
        return scores

    def log(self, speed: float, scores: dict[str, float]) -> None:
        """Append a row to the history.

        Args:
            speed: Images per second since the last row.
            scores: Those of `validate`, or {}.

        The row has step, lr, the means of the losses since the last row, `images_per_s` and the
        scores. A value that is not finite is None.
        """
        means = {}
        for name in self.losses[-1]:
            means[name] = float(np.mean([values[name] for values in self.losses]))
        row = {
            "lr": self.optimizer.param_groups[0]["lr"],
            **means,
            "images_per_s": round(speed, 1),
            **scores,
        }
        finite = {k: float(v) if math.isfinite(v) else None for k, v in row.items()}
        self.history.append({"step": self.step} | finite)
        self.losses = []

    def finish(self) -> dict[str, object]:
        """Put the best weights, without validation the last, into the model.

        They are written into weights.safetensors, and the checkpoint is deleted.

        Returns:
            What `fit` returns.
        """
        if self.rank == 0:
            self.model.load_state_dict(self.best or self.averaged.state_dict())
        if self.world > 1:
            distributed.broadcast_weights(self.model)
        self.model.eval()
        if self.folder and self.rank == 0:
            write_json(self.folder / "history.json", self.history)
            checkpoint.save_tensors(
                self.folder / "weights.safetensors",
                self.model.state_dict(),
                **checkpoint.state(self),
            )
            (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return {
            "history": self.history,
            "steps": self.step,
            "best_step": self.best_step,
            "best_score": self.best_score,
        }


def fit(
    model: nn.Module,
    loss: Loss,
    dataset: object,
    training: Training,
    *,
    validate: Validate | None = None,
    folder: Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    parameters: list[dict] | None = None,
    sample_weights: Sequence[float] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Train a model in place.

    It ends in evaluation mode, on `device`, with the weights of the best score; without `validate`,
    with the last ones. With `training.ema` these are averaged weights.

    Under torchrun all processes make this call, or rank 0 makes it for all
    (`distributed.on_rank0`). `training.batch` is that of all processes: each takes an even part,
    gradients are averaged, and rank 0 validates, writes, and logs the loss of its own part.

    Args:
        model: The model. It is moved to `device` and left there.
        loss: loss(model, batch) -> scalar, or dict with `loss`, the scalar, and other scalars for
            the history.
        dataset: See `batches`.
        training: Optimiser, schedule and sizes.
        validate: validate(model) -> dict of floats with `score`, higher is better. The model lies
            on the device of the training, and must stay there.
        folder: Where checkpoints, history.json and weights.safetensors go. The same call goes on
            where the last one stopped, on a CPU with identical bits. None = nothing is written.
        seed: Of the order, the augmentation and the global generators.
        device: Where to train; None = `pick_device()`.
        parameters: Optimiser groups (dicts of `params` and `lr`); None = every trainable weight.
        sample_weights: Chances of a draw, (n,); None = every image once an epoch.
        workers: Processes that prepare batches; None = some beside a GPU, and none beside a CPU,
            which has no core to spare.
        progress: Whether to show a progress bar.

    Returns:
        `history` (list of rows, see `TrainingRun.log`), `steps`, and `best_step` and `best_score`
        (0 and None without validation).

    Raises:
        FloatingPointError: If the loss or its gradient is not finite.
        KeyboardInterrupt: At Ctrl-C, after a checkpoint.
        SystemExit: At SIGTERM or SIGUSR1, after a checkpoint, with status `interrupts.REQUEUE`.
        RuntimeError: If `validate` moved the model to another device.
        ValueError: For an unknown name, an empty dataset, a folder of other settings, or a batch
            that cannot be split evenly over the processes.
    """
    distributed.broadcast_call(
        fit,
        model,
        loss,
        dataset,
        training,
        folder=folder,
        seed=seed,
        device=device,
        parameters=parameters,
        sample_weights=sample_weights,
        workers=workers,
        progress=False,
    )
    order = batches.Order(len(dataset), seed, sample_weights)
    device = _device(device)
    setup = {"seed": seed, "images": len(dataset)}
    run = TrainingRun(model, loss, training, device, setup, folder, parameters)
    seed_everything(seed + run.rank)
    checkpoint.load(run)
    distributed.any_rank(False, device)  # nobody goes on, to write, before all have read
    source = batches.stream(
        dataset,
        order,
        training.batch,
        seed,
        start=run.seen,
        rank=run.rank,
        world=run.world,
        workers=_default_workers(run) if workers is None else workers,
        pin_memory=device.type == "cuda",
    )
    hidden = not progress or run.rank > 0
    with (
        devices.cpu_threads(training.threads),
        catch_signals() as pressed,
        tqdm(total=training.steps, initial=run.step, unit="step", disable=hidden) as bar,
    ):
        _train(run, source, validate, pressed, bar)
    return run.finish()


def _device(device: torch.device | str | None) -> torch.device:
    return devices.pick_device() if device is None else torch.device(device)


def _default_workers(run: TrainingRun) -> int:
    if run.device.type == "cpu":
        return 0
    return min(MOST_WORKERS, (os.cpu_count() or 1) // run.world)


def _train(
    run: TrainingRun,
    source: Iterator[tuple[list[int], Batch]],
    validate: Validate | None,
    pressed: list[int],
    bar: tqdm,
) -> None:
    """Update until the last step, or until Ctrl-C in one of the processes."""
    training = run.training
    began, seen = time.perf_counter(), run.seen  # of the history's row under way
    train_mode(run.model)
    while run.step < training.steps:
        run.update(source)
        speed = (run.seen - seen) / (time.perf_counter() - began)
        text = f"loss {run.losses[-1]['loss']:.4f}, {speed:.0f} images/s"
        bar.set_postfix_str(text, refresh=False)
        bar.update()
        validates = validate is not None and run.due(training.eval_every)
        if validates or run.due(training.log_every):
            scores = run.validate(validate) if validates else {}
            run.log(speed, scores)
            began, seen = time.perf_counter(), run.seen
        stop = distributed.any_rank(pressed, run.device)
        if stop or run.due(training.checkpoint_every):
            checkpoint.save(run)
        if stop:
            _interrupt(run, pressed)


def _interrupt(run: TrainingRun, caught: list[int]) -> None:
    """Raise KeyboardInterrupt with the next step; SystemExit(REQUEUE) where a scheduler asked."""
    if run.folder:
        how = f"make the same call again to go on from {run.folder}"
    else:
        how = "pass folder= to be able to go on"
    if caught and caught[0] != signal.SIGINT:
        tqdm.write(f"stopped after step {run.step} of {run.training.steps}; {how}")
        raise SystemExit(REQUEUE)
    raise KeyboardInterrupt(f"stopped after step {run.step} of {run.training.steps}; {how}")


def forward_image(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """The model's outputs for the images of a batch."""
    return model(batch["image"])


@torch.no_grad()
def outputs(
    model: nn.Module,
    dataset: object,
    keep: Sequence[str] = ("logits",),
    batch: int = 64,
    device: torch.device | str | None = None,
    forward: Forward = forward_image,
) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of the model for a whole dataset, a batch at a time.

    Args:
        model: The model. It is put into evaluation mode, moved to `device` and left there.
        dataset: See `batches`.
        keep: Names of the outputs to return.
        batch: Images of one forward pass.
        device: Where to compute; None = `pick_device()`.
        forward: forward(model, batch) -> dict of tensors (B, ...).

    Yields:
        Dicts of float32 tensors (B, ...) on the CPU, in the order of the dataset.

    Raises:
        ValueError: For an empty dataset.
    """
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: check the split and the filters of its manifest")
    device = _device(device)
    model.to(device).eval()
    for start in range(0, len(dataset), batch):
        indices = list(range(start, min(start + batch, len(dataset))))
        part = batches.to_device(batches.fetch(dataset, indices), device)
        output = forward(model, part)
        yield {name: output[name].float().cpu() for name in keep}


def evaluate(
    model: nn.Module,
    dataset: object,
    keep: Sequence[str] = ("logits",),
    *,
    batch: int = 64,
    device: torch.device | str | None = None,
    forward: Forward = forward_image,
) -> dict[str, torch.Tensor]:
    """Outputs of the model in evaluation mode for a whole dataset, in its order.

    Args:
        model: The model. It is put into evaluation mode, moved to `device` and left there.
        dataset: See `batches`.
        keep: Names of the outputs to return.
        batch: Images of one forward pass.
        device: Where to compute; None = `pick_device()`.
        forward: forward(model, batch) -> dict of tensors (B, ...).

    Returns:
        Float32 tensors (n, ...) on the CPU, by name.

    Raises:
        ValueError: For an empty dataset.
    """
    parts = list(outputs(model, dataset, keep, batch, device, forward))
    return {name: torch.cat([part[name] for part in parts]) for name in keep}
