"""The device of a training: which one, with which precision, and with how many CPU threads."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import torch
from torch import nn

from cxrkit.config.vocabulary import known

# `Training.amp` -> type of the fast operations; None = bf16 on a GPU that has it, fp16 on another
# one, and float32 on a CPU
PRECISIONS = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


def pick_device() -> torch.device:
    """The fastest device here: CUDA, else Apple's MPS, else the CPU.

    Returns:
        The device. Under torchrun each process gets the GPU of its own number.

    Raises:
        RuntimeError: With the next step, for a GPU that this build of torch has no kernels for.

    Example:
        >>> pick_device().type in ("cuda", "mps", "cpu")
        True
    """
    if not torch.cuda.is_available():
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    try:
        torch.cuda.set_device(device)
        torch.ones(1, device=device).add(1)
    except RuntimeError as error:
        raise RuntimeError(
            f"{device} does not work with torch {torch.__version__} ({error}); install a wheel of "
            "torch for an older CUDA, or set CUDA_VISIBLE_DEVICES to nothing to use the CPU"
        ) from error
    return device


def device_of(model: nn.Module) -> torch.device:
    """The device that a model lies on; the CPU for one without weights."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def precision(
    amp: str, device: torch.device
) -> tuple[Callable[[], contextlib.AbstractContextManager], torch.amp.GradScaler]:
    """Mixed precision on CUDA, and on a CPU for "bf16" alone; elsewhere float32.

    A CPU with bf16 instructions (`lscpu` names avx512_bf16 or amx_bf16) trains faster by them, as
    `python benchmarks/train.py --amp bf16` measures; others emulate them slowly. So only a profile
    that names "bf16" gets it there.

    Args:
        amp: A key of `PRECISIONS`.
        device: The device of the training.

    Returns:
        A function that makes the autocast context of one forward pass, and the scaler of the
        gradients, which is enabled for fp16 alone.

    Raises:
        ValueError: For an unknown `amp`.
    """
    dtype = PRECISIONS[known(amp, PRECISIONS, "amp")]
    mixes = {"cuda": amp != "off", "cpu": amp == "bf16"}
    if not mixes.get(device.type, False):
        return contextlib.nullcontext, torch.amp.GradScaler(enabled=False)
    if dtype is None:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if has_bf16 else torch.float16
    autocast = functools.partial(torch.autocast, device.type, dtype=dtype)
    return autocast, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the `with`; 0 = as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
