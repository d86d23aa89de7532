"""The crew: processes that torchrun started to share a training, of which the first leads and alone
reads, judges and writes.
"""

import atexit
import functools
import io
import os
from datetime import timedelta

import cloudpickle
import torch
import torch.distributed as dist

_leading = False  # whether this process is the first of a crew at work


def size():
    """How many processes torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join():
    """Join the processes that torchrun started -> (rank, how many); (0, 1) without torchrun."""
    if size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # of waiting: where one fails, torchrun ends the others
        dist.init_process_group(backend, timeout=timedelta(days=7))
        # at a return, an error or Ctrl-C: a thread of gloo alive when the interpreter ends aborts
        # the process
        atexit.register(leave)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def leave():
    """Leave the process group; nothing where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lead(work):
    """work() in the first process; the others join in the calls that it hands out (`hand_out`), and
    do nothing else.

    -> what work returns, None in the others; without torchrun just work(). An error ends its
    process, and torchrun then the others.
    """
    global _leading
    rank, world = join()
    if world == 1:
        return work()
    if rank:
        return _follow()
    _leading = True
    try:
        result = work()
        _send(None)
    finally:
        _leading = False
    return result


def hand_out(function, *args, **kwargs):
    """The first of a crew lets the others make this call too, each on copies of its own; anywhere
    else nothing happens.
    """
    if _leading:
        _send(functools.partial(function, *args, **kwargs))


def _send(call):
    written = io.BytesIO()
    torch.save(call, written, pickle_module=cloudpickle)  # which takes closures: most losses are
    dist.broadcast_object_list([written.getvalue()])


def _follow():
    # what lies on the card of the first comes to the own one
    here = {"cuda:0": f"cuda:{os.environ.get('LOCAL_RANK', 0)}"}
    while True:
        sent = [None]
        dist.broadcast_object_list(sent)
        call = torch.load(io.BytesIO(sent[0]), map_location=here, weights_only=False)
        if call is None:
            return
        call()


def anywhere(flag, device):
    """True on every process if the flag is true on one: all of them must stop after the same step."""
    if not dist.is_initialized():
        return bool(flag)
    shared = torch.tensor(float(bool(flag)), device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return bool(shared)


def share_weights(model):
    """Weights and statistics of the first process into the model of all."""
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)


def average_gradients(weights):
    """Mean of the gradients over all processes, in place; a weight that none of them used keeps no
    gradient.

    torch's DistributedDataParallel would do this around one `model(...)`; losses of the segmenter
    call parts of their model.
    """
    used = torch.tensor(
        [float(weight.grad is not None) for weight in weights], device=weights[0].device
    )
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    weights = [weight for weight, by_one in zip(weights, used.tolist(), strict=True) if by_one]
    for weight in weights:
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    flat = torch.cat([weight.grad.flatten() for weight in weights]) / dist.get_world_size()
    dist.all_reduce(flat)
    for weight, part in zip(
        weights, flat.split([weight.numel() for weight in weights]), strict=True
    ):
        weight.grad.copy_(part.view(weight.shape))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # what NCCL takes
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(x):
    """Rows of all processes, for a loss that compares them: x (B, D) -> (processes * B, D), as it
    is without torchrun.

    Where all compute the same loss of it, the mean of their gradients (`average_gradients`) is the
    gradient of that loss.
    """
    return _Gather.apply(x.contiguous()) if dist.is_initialized() else x
