"""Checkpoints without pickle: tensors in a safetensors file, all else as JSON in its header,
written whole or not at all.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from cxrkit.storage.atomic import write_atomic, write_json

# of a `train.Run`, beside its tensors
STATE = ("setup", "step", "seen", "best_step", "best_score", "history", "losses")


def save_tensors(path, tensors, **state):
    """Write a dict of tensors, and JSON values beside them, as one file: a reader sees the old file
    or the new one.
    """
    tensors = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }
    write_atomic(path, to_bytes(tensors, metadata={"state": json.dumps(state)}))


def load_tensors(path):
    """File of `save_tensors` -> (dict of tensors, dict of JSON values). It is opened once, so that
    a writer may replace it meanwhile.

    Raises ValueError for anything but safetensors: a pickle (.pt, .pth, .ckpt) can run code as it
    is loaded.
    """
    data = Path(path).read_bytes()
    try:
        tensors = from_bytes(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no sound safetensors file ({error}). Weights are taken in no other form, "
            "since a pickle can run code; "
            "turn one that you trust into safetensors: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "NEW_FILE)"
        ) from None
    return tensors, json.loads(header.get("__metadata__", {}).get("state", "{}"))


def load_weights(model, path):
    """Load weights.safetensors into the model, which is put into evaluation mode and returned.

    Raises FileNotFoundError, ValueError for a pickle, or RuntimeError naming the keys that do not
    fit.
    """
    model.load_state_dict(load_tensors(path)[0])
    return model.eval()


def flatten(groups):
    """{"model": {name: tensor}, ...} -> {"model.name": tensor}."""
    return {
        f"{group}.{name}": tensor
        for group, tensors in groups.items()
        for name, tensor in tensors.items()
    }


def unflatten(tensors, names):
    """Inverse of `flatten`, with an empty dict for a group of `names` that is absent."""
    groups = {name: {} for name in names}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    return groups


def optimizer_tensors(optimizer):
    """Moments of the optimiser: {"<index of the weight>.<name>": tensor}."""
    return {
        f"{i}.{name}": tensor
        for i, slots in optimizer.state_dict()["state"].items()
        for name, tensor in slots.items()
        if torch.is_tensor(tensor)
    }


def restore_optimizer(optimizer, tensors):
    """Inverse of `optimizer_tensors`. Moments get the strides of their weight, for updates that are
    identical to the bit.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        like = weights[int(index)]
        tensor = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def rng_state():
    """State of the global generators of python, numpy and torch (CPU and the current CUDA device),
    as JSON values.
    """
    kind, words, *rest = np.random.get_state()
    cuda = [_hex(torch.cuda.get_rng_state())] if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [kind, words.tolist(), *rest],
        "torch": _hex(torch.get_rng_state()),
        "cuda": cuda,
    }


def set_rng_state(state):
    """Inverse of `rng_state`, also after a passage through JSON."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"][0]))


def _hex(tensor):
    return tensor.numpy().tobytes().hex()


def _bytes(text):
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def state(run):
    """The JSON values of a `train.Run`."""
    return {name: getattr(run, name) for name in STATE}


def save(run):
    """Write checkpoint.safetensors and history.json into the folder of a run; all its processes
    must call this.
    """
    rng = [rng_state()]
    if run.world > 1:
        rng = [None] * run.world
        dist.all_gather_object(rng, rng_state())
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
        rng=rng,
    )
    write_json(run.folder / "history.json", run.history)


def load(run):
    """Bring a run to where its folder stands: finished weights, a checkpoint, or nothing yet.

    Raises ValueError if the folder was made with other settings.
    """
    # by a kill in the middle of a write
    for cut_off in run.folder.glob("*.part") if run.folder and run.rank == 0 else ():
        cut_off.unlink()
    done, part = _read(run, "weights.safetensors"), _read(run, "checkpoint.safetensors")
    if done:
        run.best = done[0]
    elif part:
        groups = unflatten(part[0], ("model", "ema", "best", "optimizer"))
        run.model.load_state_dict(groups["model"])
        if run.ema is not None:
            run.ema.load_state_dict(groups["ema"])
        restore_optimizer(run.optimizer, groups["optimizer"])
        run.best = groups["best"]
        # none, where the last machine needed no scale: then this one finds its own
        if part[1]["scaler"]:
            run.scaler.load_state_dict(part[1]["scaler"])
        set_rng_state(part[1]["rng"][run.rank % len(part[1]["rng"])])
    for name in STATE if done or part else ():
        setattr(run, name, (done or part)[1][name])


def _read(run, name):
    path = run.folder and run.folder / name
    if not path or not path.exists():
        return None
    tensors, values = load_tensors(path)
    changed = {
        k: (values["setup"].get(k), v) for k, v in run.setup.items() if values["setup"].get(k) != v
    }
    if changed:
        raise ValueError(
            f"{path} has other settings (there, here): {changed}; use another folder, or delete it"
        )
    return tensors, values
