"""The machine around a training: precision of its device, threads, and Ctrl-C."""

import contextlib
import functools
import os
import random
import signal
import threading

import numpy as np
import torch

from cxrkit.config.vocabulary import known

PRECISIONS = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


def precision(amp, device):
    """(autocast context factory, gradient scaler): bf16 or fp16 on CUDA, float32 anywhere else."""
    dtype = PRECISIONS[known(amp, PRECISIONS, "amp")]
    if device.type != "cuda" or amp == "off":
        return contextlib.nullcontext, torch.amp.GradScaler(enabled=False)
    dtype = dtype or (
        torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )
    return functools.partial(torch.autocast, "cuda", dtype=dtype), torch.amp.GradScaler(
        "cuda", enabled=dtype == torch.float16
    )


@contextlib.contextmanager
def catch_ctrl_c():
    """Yields a list that the first Ctrl-C fills, so that the step under way can end; a second one
    interrupts at once.
    """
    pressed = []

    def handler(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    # only the main thread may set a handler
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def cpu_threads(count):
    """Let torch use `count` threads, 0 = as many as before, inside the `with`."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device():
    """The fastest device here: CUDA (under torchrun this process's own card), Apple's MPS, else the
    CPU.

    Raises RuntimeError, with the next step, for a card that this build of torch has no kernels for.
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
            "torch for an "
            "older CUDA, or set CUDA_VISIBLE_DEVICES to nothing to use the CPU"
        ) from error
    return device


def device_of(model):
    """The device that a model lies on; the CPU for one without weights."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def borrowed(model, device=None):
    """Yields a device, by default the fastest here, on which the model lies inside the `with`;
    after it the model is back where it was.
    """
    device, home = device or pick_device(), device_of(model)
    model.to(device)
    try:
        yield device
    finally:
        model.to(home)


def seed_everything(seed):
    """Seed the global generators of python, numpy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
