"""Checkpoints and weights without pickle, written whole or not at all.

Tensors lie in a safetensors file, all else as JSON in its header. Nothing in the file names a
device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from cxrkit.storage.atomic import write_atomic, write_json
from cxrkit.storage.integrity import check_bytes
from cxrkit.training.random_state import rng_state, set_rng_state

if TYPE_CHECKING:
    from cxrkit.training.loop import TrainingRun

TensorDict = dict[str, torch.Tensor]
Model = TypeVar("Model", bound=nn.Module)

# fields of a `TrainingRun` that are kept beside its tensors
STATE = ("setup", "step", "seen", "best_step", "best_score", "history", "losses")
GROUPS = ("model", "ema", "best", "optimizer")  # of tensors in a checkpoint


def save_tensors(path: Path, tensors: TensorDict, **state: object) -> None:
    """Write tensors, and JSON values beside them, as one file.

    A reader sees the old file or the new one.

    Args:
        path: The file.
        tensors: Tensors by name, on any device.
        state: JSON values by name.
    """
    copies = {}
    for name, tensor in tensors.items():
        copies[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    write_atomic(path, to_bytes(copies, metadata={"state": json.dumps(state)}))


def load_tensors(path: Path) -> tuple[TensorDict, dict[str, object]]:
    """Read a file of `save_tensors`.

    It is opened once, so that a writer may replace it meanwhile.

    Args:
        path: The file.

    Returns:
        The tensors, on the CPU, and the JSON values.

    Raises:
        DamagedArtifact: The file belongs to an artifact and is not what was written.
        ValueError: For anything but safetensors: a pickle (.pt, .pth, .ckpt) can run code as it is
            loaded.
    """
    data = Path(path).read_bytes()
    check_bytes(path, data)
    try:
        tensors = from_bytes(data)
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_bytes])
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no sound safetensors file ({error}). Weights are taken in no other form, "
            "since a pickle can run code; turn one that you trust into safetensors: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)"
        ) from None
    return tensors, json.loads(header.get("__metadata__", {}).get("state", "{}"))


def load_weights(model: Model, path: Path) -> Model:
    """Load weights.safetensors into a model.

    Args:
        model: The model, on any device, where it stays.
        path: The file.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: Without the file.
        ValueError: For a pickle.
        RuntimeError: Naming the keys that do not fit.
    """
    model.load_state_dict(load_tensors(path)[0])
    return model.eval()


def replace_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights in place of those of a finished training; its state stays.

    Args:
        model: The model, on any device.
        path: weights.safetensors, as the training wrote it.
    """
    _, state = load_tensors(path)
    save_tensors(path, model.state_dict(), **state)


def flatten(groups: dict[str, TensorDict]) -> TensorDict:
    """{"model": {name: tensor}, ...} -> {"model.name": tensor}."""
    return {
        f"{group}.{name}": tensor
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    }


def unflatten(tensors: TensorDict, names: tuple[str, ...]) -> dict[str, TensorDict]:
    """Inverse of `flatten`, with an empty dict for a group of `names` that is absent."""
    groups: dict[str, TensorDict] = {name: {} for name in names}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    return groups


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> TensorDict:
    """Moments of the optimiser: {"<index of the weight>.<name>": tensor}."""
    return {
        f"{i}.{name}": tensor
        for i, slots in optimizer.state_dict()["state"].items()
        for name, tensor in slots.items()
        if torch.is_tensor(tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: TensorDict) -> None:
    """Inverse of `optimizer_tensors`.

    Moments get the strides of their weight, for updates that are identical to the bit.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, TensorDict] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        weight = weights[int(index)]
        if tensor.shape == weight.shape:
            tensor = torch.empty_like(weight).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def state(run: TrainingRun) -> dict[str, object]:
    """The JSON values of a training under way."""
    return {name: getattr(run, name) for name in STATE}


def save(run: TrainingRun) -> None:
    """Write checkpoint.safetensors and history.json into the folder of a training.

    Args:
        run: The training. All its processes must call this; rank 0 writes.
    """
    generators = [rng_state()]
    if run.world > 1:
        generators = [None] * run.world
        dist.all_gather_object(generators, rng_state())
    if run.folder is None or run.rank > 0:
        return
    groups = {
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict() if run.ema is not None else {},
        "best": run.best,
        "optimizer": optimizer_tensors(run.optimizer),
    }
    save_tensors(
        run.folder / "checkpoint.safetensors",
        flatten(groups),
        **state(run),
        scaler=run.scaler.state_dict(),
        rng=generators,
    )
    write_json(run.folder / "history.json", run.history)


def load(run: TrainingRun) -> None:
    """Bring a training to where its folder stands: finished, at a checkpoint, or not begun.

    Args:
        run: The training; every process calls this.

    Raises:
        ValueError: If the folder was made with other settings.
    """
    if run.folder is None:
        return
    if run.rank == 0:
        for cut_off in run.folder.glob("*.part"):  # by a kill in the middle of a write
            cut_off.unlink()
    finished = _read(run.folder / "weights.safetensors", run.setup)
    if finished is not None:
        run.best, values = finished
        _set_state(run, values)
        return
    begun = _read(run.folder / "checkpoint.safetensors", run.setup)
    if begun is None:
        return
    tensors, values = begun
    groups = unflatten(tensors, GROUPS)
    run.model.load_state_dict(groups["model"])
    if run.ema is not None:
        run.ema.load_state_dict(groups["ema"])
    restore_optimizer(run.optimizer, groups["optimizer"])
    run.best = groups["best"]
    # It is empty where the last machine needed no scale: then this one finds its own.
    if values["scaler"]:
        run.scaler.load_state_dict(values["scaler"])
    set_rng_state(values["rng"][run.rank % len(values["rng"])])
    _set_state(run, values)


def _set_state(run: TrainingRun, values: dict[str, object]) -> None:
    """Inverse of `state`."""
    for name in STATE:
        setattr(run, name, values[name])


def _read(path: Path, setup: dict[str, object]) -> tuple[TensorDict, dict] | None:
    """A file of the training's folder, whose settings must be those of the training."""
    if not path.exists():
        return None
    tensors, values = load_tensors(path)
    changed = {}
    for key, here in setup.items():
        there = values["setup"].get(key)
        if there != here:
            changed[key] = (there, here)
    if changed:
        raise ValueError(
            f"{path} has other settings (there, here): {changed}; use another folder, or delete it"
        )
    return tensors, values
