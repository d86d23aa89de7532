"""Several processes that share one training, as torchrun starts them (`--nproc-per-node N`).

All of them form one process group. Each computes its even part of every batch, and
DistributedDataParallel averages the gradients. Only rank 0 runs the code around a training: it
reads tables, makes stages, evaluates and writes. The other ranks wait in `on_rank0` for the calls
that rank 0 broadcasts to them (`broadcast_call`), and make these calls too.

DistributedDataParallel is put around one module that holds model and loss (`loop.LossModule`), not
around the model: losses of the segmenter call parts of their model and differentiate twice.
"""

from __future__ import annotations

import atexit
import functools
import io
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import cloudpickle
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")

_broadcasting = False  # whether this process is rank 0 and the others wait for its calls


def world_size() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join_process_group() -> tuple[int, int]:
    """Join the processes that torchrun started.

    Returns:
        Number of this process and how many there are; (0, 1) without torchrun.
    """
    if world_size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # Rank 0 may work for days between two trainings. Where a process fails, torchrun ends the
        # others, whatever they wait for.
        dist.init_process_group(backend, timeout=timedelta(days=7))
        # At a return, an error or Ctrl-C: a thread of gloo that is alive when the interpreter ends
        # aborts the process.
        atexit.register(leave_process_group)
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def leave_process_group() -> None:
    """Leave the process group; nothing happens where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def on_rank0(work: Callable[[], Result]) -> Result | None:
    """Run `work` in the process of rank 0; the others make the calls that it broadcasts.

    An error ends its process, and torchrun then ends the others.

    Args:
        work: What to do; without torchrun it just runs.

    Returns:
        What `work` returns; None in the other processes.
    """
    global _broadcasting
    rank, world = join_process_group()
    if world == 1:
        return work()
    if rank > 0:
        _make_broadcast_calls()
        return None
    _broadcasting = True
    try:
        result = work()
        _send(None)
    finally:
        _broadcasting = False
    return result


def broadcast_call(function: Callable, *args: object, **kwargs: object) -> None:
    """Let the other processes make this call too, each on copies of its own.

    Nothing happens outside `on_rank0`, or without torchrun.

    Args:
        function: What the others call.
        args: Its arguments; tensors on the GPU of rank 0 come to the GPU of each process.
        kwargs: Its named arguments.
    """
    if _broadcasting:
        _send(functools.partial(function, *args, **kwargs))


def _send(call: Callable[[], object] | None) -> None:
    """Send a call to all other processes; None ends their waiting."""
    written = io.BytesIO()
    torch.save(call, written, pickle_module=cloudpickle)  # which takes closures: most losses are
    dist.broadcast_object_list([written.getvalue()])


def _make_broadcast_calls() -> None:
    """Make the calls that rank 0 sends, until it sends None."""
    own_gpu = {"cuda:0": f"cuda:{os.environ.get('LOCAL_RANK', 0)}"}
    while True:
        sent = [None]
        dist.broadcast_object_list(sent)
        call = torch.load(io.BytesIO(sent[0]), map_location=own_gpu, weights_only=False)
        if call is None:
            return
        call()


def any_rank(flag: object, device: torch.device) -> bool:
    """Whether a flag is true in any process: all of them must stop after the same step.

    Args:
        flag: The flag of this process; its truth value counts.
        device: The device of the training, over which the processes talk.

    Returns:
        The same answer in every process.
    """
    if not dist.is_initialized():
        return bool(flag)
    shared = torch.tensor(float(bool(flag)), device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return bool(shared)


def broadcast_weights(model: nn.Module) -> None:
    """Copy weights and statistics of rank 0 into the model of every process."""
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)


def data_parallel(module: nn.Module) -> DistributedDataParallel:
    """A module whose backward pass averages the gradients of all processes.

    Args:
        module: Model and loss; its forward pass returns a dict of scalars. The weights of rank 0
            are copied into it. A weight that a process did not use counts there as gradient 0; one
            that no process used keeps no gradient.

    Returns:
        The module in DistributedDataParallel. Each process keeps its own batch statistics, unless
        they are shared by SyncBatchNorm.
    """
    return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


class _Gather(torch.autograd.Function):
    """Rows of all processes forward; the sum of their gradients backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # what NCCL takes
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(x: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, for a loss that compares rows with each other.

    Where all processes compute the same loss of the result, the mean of their gradients
    (`data_parallel`) is the gradient of that loss.

    Args:
        x: Rows of this process, (B, D).

    Returns:
        The rows of all, (processes * B, D); `x` itself without torchrun.
    """
    if not dist.is_initialized():
        return x
    return _Gather.apply(x.contiguous())
