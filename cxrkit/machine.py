"""The machine around a training: precision of its device, threads, and Ctrl-C."""

import contextlib
import functools
import signal
import threading

import torch

from cxrkit.schema import known

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
