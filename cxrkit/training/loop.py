"""One plain training loop for every model of the kit, on one device or several, that goes on where
it was killed.

`fit` and `evaluate` borrow the fastest device: the model is there while they work, and ends where
it was (`borrowed`). So what is neither is done where models are made and loaded, on the CPU,
whatever the machine has.
"""

import copy
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cxrkit.config.vocabulary import known
from cxrkit.storage.atomic import write_json
from cxrkit.training import batches, checkpoint, devices, distributed
from cxrkit.training.devices import borrowed, seed_everything

# fused: one pass over the weights; of a step of the demo's model 6 ms instead of 12, on one core
OPTIMIZERS = {
    "adamw": lambda p, t: torch.optim.AdamW(
        p, lr=t.lr, betas=tuple(t.betas), weight_decay=t.weight_decay, fused=True
    ),
    "adam": lambda p, t: torch.optim.Adam(
        p, lr=t.lr, betas=tuple(t.betas), weight_decay=t.weight_decay, fused=True
    ),
    "sgd": lambda p, t: torch.optim.SGD(
        p, lr=t.lr, momentum=t.momentum, weight_decay=t.weight_decay, fused=True
    ),
}
LOWEST_SCALE = 2.0**-10  # of the gradients in fp16; what is not finite even there is no overflow
SCHEDULES = {
    "constant": lambda step, t: 1.0,
    "cosine": lambda step, t: (
        0.5 * (1 + math.cos(math.pi * (step - t.warmup) / max(1, t.steps - t.warmup)))
    ),
    "step": lambda step, t: t.decay ** sum(step >= milestone for milestone in t.milestones),
}


def lr_factor(step, training):
    """Factor on the learning rate in update `step` (from 0): linear up to 1 in update number
    `warmup`, then the schedule.
    """
    if step < training.warmup:
        return (step + 1) / training.warmup
    return SCHEDULES[known(training.schedule, SCHEDULES, "schedule")](step, training)


def train_mode(model):
    """`model.train()`, save for parts with no trainable weight: a frozen backbone keeps its batch
    statistics.
    """
    model.train()
    for module in model.modules():
        frozen = [not weight.requires_grad for weight in module.parameters()]
        if frozen and all(frozen):
            module.eval()


def average_into(ema, model, decay):
    """ema <- decay * ema + (1 - decay) * model, batch statistics included; counters are copied."""
    for old, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


class Run:
    """A training under way: the state that checkpoints hold, and one update of it."""

    def __init__(self, model, training, setup, device, folder, parameters):
        self.rank, self.world = distributed.join()
        self.training, self.device, self.folder = training, device, Path(folder) if folder else None
        self.setup = json.loads(json.dumps({**asdict(training), **setup}))
        self.model = model.to(device, memory_format=torch.channels_last)
        if self.world > 1:
            distributed.share_weights(model)
            # batch norm over the whole batch, with the same names of weights; torch has it for CUDA
            # alone
            if device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.ema = copy.deepcopy(model).eval() if training.ema else None
        self.averaged = model if self.ema is None else self.ema
        self.optimizer = OPTIMIZERS[known(training.optimizer, OPTIMIZERS, "optimizer")](
            parameters or [weight for weight in model.parameters() if weight.requires_grad],
            training,
        )
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.autocast, self.scaler = devices.precision(training.amp, device)
        self.step = self.seen = self.best_step = 0
        self.best_score, self.best, self.history, self.losses = None, {}, [], []
        lr_factor(training.warmup, training)  # an unknown schedule fails now, not after the warm-up

    def update(self, loss, source):
        """One update from `accumulate` batches. Raises FloatingPointError when the loss or its
        gradient is not finite.
        """
        parts, taken, micro = {}, [], self.training.accumulate
        for _ in range(micro):
            indices, batch = next(source)
            with self.autocast():
                value = loss(self.model, batches.to_device(batch, self.device))
            value = value if isinstance(value, dict) else {"loss": value}
            self.scaler.scale(value["loss"] / micro).backward()
            parts = {
                name: parts.get(name, 0.0) + float(v.detach()) / micro for name, v in value.items()
            }
            self._check(parts["loss"], "loss", indices)
            taken += indices
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        if self.world > 1:
            distributed.average_gradients(weights)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(weights, self.training.clip or math.inf)
        # else fp16 skips such an update and scales less
        if not self.scaler.is_enabled() or self.scaler.get_scale() < LOWEST_SCALE:
            # any of the passes may have spoilt the sum
            self._check(float(norm), "norm of the gradient", taken)
        self._apply()
        self.losses.append(parts)

    def _apply(self):
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * lr_factor(self.step, self.training)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        self.seen += self.training.batch * self.training.accumulate
        if self.ema is not None:  # a young average follows faster, to forget the random start
            average_into(
                self.ema, self.model, min(self.training.ema, (1 + self.step) / (10 + self.step))
            )

    def _check(self, value, what, indices):
        if not math.isfinite(value):
            kept = (
                f"the last good checkpoint stays in {self.folder}"
                if self.folder
                else "nothing is saved without `folder`"
            )
            raise FloatingPointError(
                f"{what} is {value} in step {self.step + 1} of {self.training.steps}, images "
                f"{indices} (rows of the "
                f"training films' table, from 0); {kept}. Look at these images; then lower `lr`, "
                "set `clip`, or set "
                "`amp` to off"
            )

    def due(self, every):
        """True at each multiple of `every` and at the last step; never for 0."""
        return bool(every) and (self.step % every == 0 or self.step == self.training.steps)

    def judge(self, validate):
        """Validate on the first process, and keep the weights if their score is the best so far ->
        the scores.
        """
        with torch.no_grad():
            scores = validate(self.averaged.eval()) if self.rank == 0 else {"score": math.nan}
        if scores["score"] > (-math.inf if self.best_score is None else self.best_score):
            self.best_score, self.best_step = float(scores["score"]), self.step
            self.best = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.averaged.state_dict().items()
            }
        train_mode(self.model)
        return scores

    def log(self, speed, scores):
        """Append a row: step, lr, means of the losses since the last row, images/s, scores. What is
        not finite is None.
        """
        means = {
            name: float(np.mean([parts[name] for parts in self.losses])) for name in self.losses[-1]
        }
        row = {
            "lr": self.optimizer.param_groups[0]["lr"],
            **means,
            "images_per_s": round(speed, 1),
            **scores,
        }
        self.history.append(
            {"step": self.step}
            | {k: float(v) if math.isfinite(v) else None for k, v in row.items()}
        )
        self.losses = []

    def finish(self):
        """Best weights (without validation the last) into the model and weights.safetensors; the
        checkpoint goes -> summary.
        """
        if self.rank == 0:
            self.model.load_state_dict(self.best or self.averaged.state_dict())
        if self.world > 1:
            distributed.share_weights(self.model)
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
    model,
    loss,
    dataset,
    training,
    *,
    validate=None,
    folder=None,
    seed=0,
    device=None,
    parameters=None,
    sample_weights=None,
    workers=None,
    progress=True,
):
    """Train `model` in place -> dict history (list of rows), steps, best_step, best_score (None
    without validation).

    loss(model, batch) -> scalar, or dict with `loss`, the scalar, and other scalars for the
    history. dataset: see `batches`. training: `profiles.Training`. validate(model) -> dict of
    floats with `score`, higher is better; the model ends with the weights of the best score, else
    with the last; with `training.ema` these are averaged weights. folder: where checkpoints,
    history.json and weights.safetensors go; the same call goes on where the last one stopped, to
    the bit on a CPU. parameters: optimiser groups (dicts of `params`, `lr`), else every trainable
    weight. sample_weights (n,): chances of a draw. workers: processes that prepare batches; None =
    some beside a GPU, none beside a CPU, which has no core to spare. Under torchrun all processes
    make this call, or one of them does for all (`crew.lead`). `training.batch` is that of all
    together: each takes an even part, gradients are averaged, the first validates, writes, and logs
    the loss of its own part. Raises FloatingPointError where the loss is not finite,
    KeyboardInterrupt (after saving) at Ctrl-C, ValueError for an unknown name, an empty dataset, a
    folder of other settings, or a batch that the processes cannot split evenly.
    """
    distributed.hand_out(
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
    with borrowed(model, device) as device:
        run = Run(
            model, training, {"seed": seed, "images": len(dataset)}, device, folder, parameters
        )
        seed_everything(seed + run.rank)
        checkpoint.load(run)
        distributed.anywhere(False, run.device)  # nobody goes on, to write, before all have read
        if workers is None:
            workers = 0 if run.device.type == "cpu" else min(8, (os.cpu_count() or 1) // run.world)
        source = batches.stream(
            dataset,
            order,
            training.batch,
            seed,
            run.seen,
            run.rank,
            run.world,
            workers,
            pin_memory=run.device.type == "cuda",
        )
        hidden = not progress or run.rank > 0
        with (
            devices.cpu_threads(training.threads),
            devices.catch_ctrl_c() as pressed,
            tqdm(total=training.steps, initial=run.step, unit="step", disable=hidden) as bar,
        ):
            _loop(run, loss, source, validate, pressed, bar)
        return run.finish()


def _loop(run, loss, source, validate, pressed, bar):
    training, clock, seen = run.training, time.perf_counter(), run.seen
    train_mode(run.model)
    while run.step < training.steps:
        run.update(loss, source)
        speed = (run.seen - seen) / (time.perf_counter() - clock)
        bar.set_postfix_str(
            f"loss {run.losses[-1]['loss']:.4f}, {speed:.0f} images/s", refresh=False
        )
        bar.update()
        judged = validate and run.due(training.eval_every)
        if judged or run.due(training.log_every):
            run.log(speed, run.judge(validate) if judged else {})
            clock, seen = time.perf_counter(), run.seen
        stop = distributed.anywhere(pressed, run.device)
        if stop or run.due(training.checkpoint_every):
            checkpoint.save(run)
        if stop:
            how = (
                f"make the same call again to go on from {run.folder}"
                if run.folder
                else "pass folder= to be able to go on"
            )
            raise KeyboardInterrupt(f"stopped after step {run.step} of {training.steps}; {how}")


@torch.no_grad()
def outputs(
    model,
    dataset,
    keep=("logits",),
    batch=64,
    device=None,
    forward=lambda model, batch: model(batch["image"]),
):
    """`evaluate`, a batch at a time: yields dicts of float32 CPU tensors (B, ...)."""
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: check the split and the filters of its manifest")
    with borrowed(model, device) as device:
        model.eval()
        for start in range(0, len(dataset), batch):
            part = batches.fetch(dataset, list(range(start, min(start + batch, len(dataset)))))
            output = forward(model, batches.to_device(part, device))
            yield {name: output[name].float().cpu() for name in keep}


def evaluate(model, dataset, keep=("logits",), **options):
    """Outputs of the model in evaluation mode for the whole dataset, in its order: dict of float32
    CPU tensors (n, ...).

    options: `batch`, `device`, and forward(model, batch) -> dict of tensors, of which `keep` are
    returned (`outputs`). Raises ValueError for an empty dataset.
    """
    rows = list(outputs(model, dataset, keep, **options))
    return {name: torch.cat([row[name] for row in rows]) for name in keep}
