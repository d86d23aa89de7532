"""Relevance: what each cell of the corpus contributed to one output of the corpus ViT (Chefer et
al. 2020; Park et al. 2021, 3.3).

One rule for each kind of module, in the table RULES, sends the relevance R of a module's output
back to its inputs; hooks from outside the model record what the rules need. n outputs explained, B
batch, h w grid, T = 1 + h*w tokens, D embed, N heads, K classes.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.models.corpus_vit import Add, MatMul, Select


def safe_divide(a, b):
    """a / (b + 1e-9), and 0 where b is 0."""
    return (a / (b + 1e-9)).masked_fill_(b == 0, 0)


def linear_rule(module, inputs, output, R):
    """Deep Taylor with alpha = 1: R goes to the inputs in proportion to their activating products;
    the bias takes none.

    R_in = x+ (S W+) + x- (S W-) with S = R / Z and Z = x+ W+ + x- W-. Since x+ W+ + x- W- = (x W +
    |x||W|) / 2, and x W is the output, three products do it, of which the one in Z serves all n
    outputs: x (B, ..., I), R (n, B, ..., O) -> (n, B, ..., I).
    """
    (x,), weight = inputs, module.weight
    reach, magnitude = x.abs(), weight.abs()
    Z = F.linear(reach, magnitude)  # (B, ..., O) is |x||W|
    floor = Z * (8 * torch.finfo(Z.dtype).eps)  # a Z below it is a 0, rounded
    Z = Z.add_(output if module.bias is None else output - module.bias).div_(2)
    S = safe_divide(R, Z.masked_fill_(Z <= floor, 0))  # (n, B, ..., O)
    return ((S @ weight).mul_(x)).add_((S @ magnitude).mul_(reach)).div_(2)


def matmul_rule(module, inputs, output, R):
    """Both factors share equally: a (..., i, k), b (..., k, j), R (n, ..., i, j) -> R of a, R of b."""
    (a, b), S = inputs, safe_divide(R, output)
    return (S @ b.transpose(-2, -1)).mul_(a).div_(2), (a.transpose(-2, -1) @ S).mul_(b).div_(2)


def add_rule(module, inputs, output, R):
    """Each summand gets its share of R, then a factor: without it the shares could be huge and of
    opposite sign.

    The factors give the two summands, over the whole sample, parts of the total in proportion to
    the size of their raw sums. The public code takes that sum over the batch, so there the map of a
    film depends on the films beside it; here it does not. a, b (B, T, D), R (n, B, T, D) -> R of a,
    R of b.
    """
    S = safe_divide(R, output)
    parts = [term * S for term in inputs]  # (n, B, T, D) each
    A, B = sums = [part.sum((-2, -1), keepdim=True) for part in parts]  # (n, B, 1, 1) each
    share = [safe_divide(s.abs(), A.abs() + B.abs()) * R.sum((-2, -1), keepdim=True) for s in sums]
    return tuple(
        part.mul_(safe_divide(f, s)) for part, f, s in zip(parts, share, sums, strict=True)
    )


def select_rule(module, inputs, output, R):
    """The class token alone was read: tokens (B, T, D), R (n, B, D) -> (n, B, T, D)."""
    whole = torch.zeros(len(R), *inputs[0].shape, dtype=R.dtype, device=R.device)
    whole[:, :, 0] = output * safe_divide(R, output)
    return whole


def unchanged(module, inputs, output, R):
    """LayerNorm, GELU and softmax act on each value by itself, or nearly: R passes."""
    return R


def clone(x, *relevances):
    """A tensor that was read twice gets both relevances: x (B, T, D), two of (n, B, T, D) -> (n, B,
    T, D).
    """
    return x * sum(safe_divide(R, x) for R in relevances)


RULES = {
    nn.Linear: linear_rule,
    MatMul: matmul_rule,
    Add: add_rule,
    Select: select_rule,
    nn.LayerNorm: unchanged,
    nn.GELU: unchanged,
    nn.Softmax: unchanged,
}


@contextlib.contextmanager
def recorded(model):
    """A dict that the forward passes inside fill: module -> (inputs, output), for the kinds in
    RULES and the map head.

    Fused attention, which hooks cannot look into, is off meanwhile; afterwards the model is as it
    was.
    """
    seen, fused = {}, [block.attn.fused for block in model.blocks]
    watched = [
        module for module in model.modules() if type(module) in RULES or module is model.map_head
    ]
    hooks = [
        m.register_forward_hook(lambda m, inputs, output: seen.update({m: (inputs, output)}))
        for m in watched
    ]
    model.fused = False
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for block, value in zip(model.blocks, fused, strict=True):
            block.attn.fused = value


def attention_rule(attention, back, R):
    """Through one `Attention`: R (n, B, T, D) -> R of its input (n, B, T, D), R of its attention
    matrix (n, B, N, T, T).
    """
    n, B, T, D = R.shape
    # (n, B, N, T, d)
    R = back(attention.proj, R).view(n, B, T, attention.num_heads, -1).transpose(2, 3)
    R_matrix, R_v = back(attention.av, R)
    R_q, R_k = back(attention.qk, back(attention.softmax, R_matrix))
    R = torch.stack([R_q, R_k.transpose(-2, -1), R_v], dim=2)  # (n, B, 3, N, T, d)
    return back(attention.qkv, R.permute(0, 1, 4, 2, 3, 5).reshape(n, B, T, 3 * D)), R_matrix


def block_rule(block, seen, R):
    """Through one `Block`: R (n, B, T, D) -> R of its input (n, B, T, D), R of its attention matrix
    (n, B, N, T, T).
    """

    def back(module, R):
        return RULES[type(module)](module, *seen[module], R)

    R, R_mlp = back(block.add2, R)
    for module in (block.mlp.fc2, block.mlp.act, block.mlp.fc1, block.norm2):
        R_mlp = back(module, R_mlp)
    R, R_attn = back(block.add1, clone(seen[block.norm2][0][0], R, R_mlp))
    R_attn, R_matrix = attention_rule(block.attn, back, R_attn)
    return clone(seen[block.norm1][0][0], R, back(block.norm1, R_attn)), R_matrix


def several(target):
    """Does the target ask for several maps of each image? A list does; a tensor or array (B,) names
    one class an image.
    """
    return (
        not callable(target)
        and not isinstance(target, (torch.Tensor, np.ndarray))
        and np.ndim(target) == 1
    )


def classes_of(target, B, K):
    """Target -> class numbers (n, B) as a tensor: an int for all images, (B,) one an image, or a
    sequence of n for each image.

    Raises ValueError for classes that the model does not have, for none at all, and for a (B,) of
    another length.
    """
    classes = torch.as_tensor(target).long()
    if classes.ndim == 1 and not several(target):
        if len(classes) != B:
            raise ValueError(
                f"{len(classes)} classes for a batch of {B} images: a tensor names one class an "
                "image; "
                "for the maps of several classes give a list"
            )
        classes = classes[None]
    else:
        classes = classes.reshape(-1, 1).expand(-1, B)
    if not classes.numel() or classes.min() < 0 or classes.max() >= K:
        raise ValueError(
            f"classes {sorted(set(classes.flatten().tolist()))}, but the model has 0 to {K - 1}"
        )
    return classes


def values_of(outputs, target):
    """The explained numbers, n tensors (B,) that carry gradients: logits of classes, or what a
    function of the outputs returns.

    Raises ValueError as `classes_of` does, and for a function that does not return (B,).
    """
    logits = outputs["logits"]
    if not callable(target):
        return [
            logits.gather(1, one.to(logits.device)[:, None])[:, 0]
            for one in classes_of(target, *logits.shape)
        ]
    value = target(outputs)
    if value.shape != logits.shape[:1]:
        raise ValueError(
            f"the target function returned {tuple(value.shape)}, not one number for each of "
            f"{len(logits)} images"
        )
    return [value]


class Start(NamedTuple):
    """Where relevance begins, for n outputs: gradients of the logits, relevance of the patch
    tokens, and who begins the rollout.
    """

    logits: torch.Tensor  # (n, B, K)
    cells: torch.Tensor  # (n, B, h*w, D): gradient x input at the map head, 0 for a class
    # (n, B, T): 1 at the class token if the logits are read, relevance of each patch token
    row: torch.Tensor


def start_of(values, outputs, seen, model):
    """Begin with the gradient on the logits (one-hot for a class), and with gradient x input where
    the map head reads tokens.

    Raises ValueError for an output that depends on neither.
    """
    tokens, head = outputs["tokens"].detach()[:, 1:], model.map_head
    read = [outputs["logits"]] + ([seen[head][0][0]] if head in seen else [])
    starts = []
    for value in values:
        found = torch.autograd.grad(value.sum(), read, retain_graph=True, allow_unused=True)
        logits, cells = (*found, None)[:2]
        if logits is None and cells is None:
            raise ValueError(
                "the target function must read `logits`, `severity_logits` or `severity_map` of "
                "the outputs"
            )
        # (B, h*w, D)
        cells = (
            torch.zeros_like(tokens) if cells is None else tokens * cells.flatten(2).transpose(1, 2)
        )
        row = F.pad(cells.sum(-1), (1, 0), value=0.0 if logits is None else 1.0)  # (B, T)
        starts.append((torch.zeros_like(read[0]) if logits is None else logits, cells, row))
    return Start(*(torch.stack(part) for part in zip(*starts, strict=True)))


class Step(NamedTuple):
    """What `trace` found at one block."""

    layer: int
    tokens: torch.Tensor  # (n, B, T, D) relevance of the block's input
    # (n, B, T, T) positive part of gradient x relevance of the attention, mean over heads
    attention: torch.Tensor


def trace(model, inputs, target, start_layer=0):
    """Relevance block by block -> (row (n, B, T) with which the rollout begins, iterator of `Step`
    from the last block down).

    The first step's relevance comes from the head; the sum of `tokens` is conserved from step to
    step. Arguments: `relevance`.
    """
    layers = range(len(model.blocks))[start_layer:]
    if start_layer < 0 or not layers:
        raise ValueError(
            f"start_layer {start_layer}: this model has blocks 0 to {len(model.blocks) - 1}"
        )
    with torch.inference_mode(False), torch.enable_grad(), recorded(model) as seen:
        outputs = model(inputs.detach().clone().requires_grad_())
        values = values_of(outputs, target)
        start = start_of(values, outputs, seen, model)
        softmaxes = [seen[model.blocks[layer].attn.softmax][1] for layer in layers]
        gradients = [
            torch.autograd.grad(value.sum(), softmaxes, retain_graph=i < len(values) - 1)
            for i, value in enumerate(values)
        ]
    seen = {
        module: (tuple(x.detach() for x in given), output.detach())
        for module, (given, output) in seen.items()
    }
    return start.row, _steps(
        model, seen, start, dict(zip(layers, zip(*gradients, strict=True), strict=True))
    )


@torch.no_grad()
def _steps(model, seen, start, gradients):
    R = linear_rule(model.head, *seen[model.head], start.logits)  # (n, B, D)
    R = select_rule(model.select, *seen[model.select], R)  # (n, B, T, D)
    R[:, :, 1:] += start.cells
    for layer in reversed(gradients):
        R, R_matrix = block_rule(model.blocks[layer], seen, R)
        yield Step(layer, R, (torch.stack(gradients[layer]) * R_matrix).clamp_(min=0).mean(2))


def relevance(model, inputs, target, start_layer=0):
    """Relevance of every cell of the corpus for an output of a `CorpusViT`, exact and in one call
    for any batch.

    inputs: the corpus (B, C, h, w). target: a class, or (B,) the class of each image -> (B, h, w)
    >= 0; a sequence of n classes -> (B, n, h, w), cheaper than n calls; a function of the outputs
    -> (B,), such as the severity of a zone -> (B, h, w), signed. At each block, attention becomes I
    + mean over heads of max(gradient x relevance, 0), and these are multiplied from the last block
    down to `start_layer`; the map is the row of the class token without itself, for severity the
    rows of the patch tokens, each times its relevance at the map head (gradient x input). Neither
    the model nor gradients are touched. Raises ValueError for a target or start layer that the
    model does not have.
    """
    row, steps = trace(model, inputs, target, start_layer)
    for step in steps:
        row = row + (row[:, :, None] @ step.attention)[:, :, 0]  # (n, B, T)
    maps = row[:, :, 1:].unflatten(2, model.grid).transpose(0, 1)  # (B, n, h, w)
    return maps if several(target) else maps[:, 0]
