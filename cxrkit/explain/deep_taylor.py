"""Relevance: how much each cell of the corpus contributed to one output of the corpus ViT.

One rule for each kind of module, in the table RULES, sends the relevance R of a module's output
back to its inputs; hooks from outside the model record what the rules need (Chefer et al. 2020;
Park et al. 2021, section 3.3).

n outputs explained, B batch, C channels of the corpus, h w its grid, T = 1 + h*w tokens, D embed,
N heads, d = D / N, K classes, I and O inputs and outputs of a layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.explain.chunks import CHUNK, explain_in_chunks
from cxrkit.explain.targets import Outputs, Target, asks_for_several, explained_values
from cxrkit.models.corpus_vit import Add, Attention, Block, CorpusViT, MatMul, Select
from cxrkit.training.devices import device_of

# what a forward pass left: module -> (its inputs, its output)
Recording = dict[nn.Module, tuple[tuple[torch.Tensor, ...], torch.Tensor]]


# the rules


def safe_divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Quotient a / (b + 1e-9), and 0 where b is 0."""
    return (a / (b + 1e-9)).masked_fill_(b == 0, 0)


def linear_rule(
    module: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor, R: torch.Tensor
) -> torch.Tensor:
    """Deep Taylor with alpha = 1: inputs share R in proportion to their activating products.

    R_in = x+ (S W+) + x- (S W-) with S = R / Z and Z = x+ W+ + x- W-. The bias takes none. Since
    x+ W+ + x- W- = (x W + |x||W|) / 2, and x W is the output, three products do it, of which the
    one in Z serves all n outputs.

    Args:
        module: the layer.
        inputs: x (B, ..., I).
        output: of the layer, (B, ..., O).
        R: relevance of the output, (n, B, ..., O).

    Returns:
        Relevance of x, (n, B, ..., I).
    """
    (x,) = inputs
    weight = module.weight
    x_size, weight_size = x.abs(), weight.abs()
    Z = F.linear(x_size, weight_size)  # (B, ..., O) is |x||W|
    rounding = Z * (8 * torch.finfo(Z.dtype).eps)  # a Z below it is a 0 that was rounded
    product = output if module.bias is None else output - module.bias  # x W
    Z = Z.add_(product).div_(2)
    S = safe_divide(R, Z.masked_fill_(Z <= rounding, 0))  # (n, B, ..., O)
    return (S @ weight).mul_(x).add_((S @ weight_size).mul_(x_size)).div_(2)


def matmul_rule(
    module: MatMul, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both factors of a product share equally.

    Args:
        module: the product.
        inputs: a (..., i, k) and b (..., k, j).
        output: a @ b.
        R: relevance of the output, (n, ..., i, j).

    Returns:
        Relevance of a and of b.
    """
    a, b = inputs
    S = safe_divide(R, output)
    R_a = (S @ b.transpose(-2, -1)).mul_(a).div_(2)
    R_b = (a.transpose(-2, -1) @ S).mul_(b).div_(2)
    return R_a, R_b


def add_rule(
    module: Add, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each summand gets its share of R, then a factor.

    Without the factor the shares could be huge and of opposite sign. The factors give the two
    summands, over the whole image, parts of the total in proportion to the size of their raw sums.
    The public code takes that sum over the batch, so that the map of an image depends on the images
    beside it; here it does not.

    Args:
        module: the sum.
        inputs: a and b, (B, T, D) each.
        output: a + b.
        R: relevance of the output, (n, B, T, D).

    Returns:
        Relevance of a and of b.
    """
    S = safe_divide(R, output)
    raw_a, raw_b = (term * S for term in inputs)  # (n, B, T, D) each
    A = raw_a.sum((-2, -1), keepdim=True)  # (n, B, 1, 1)
    B = raw_b.sum((-2, -1), keepdim=True)
    size = A.abs() + B.abs()
    total = R.sum((-2, -1), keepdim=True)
    part_a = safe_divide(A.abs(), size) * total
    part_b = safe_divide(B.abs(), size) * total
    return raw_a.mul_(safe_divide(part_a, A)), raw_b.mul_(safe_divide(part_b, B))


def select_rule(
    module: Select, inputs: tuple[torch.Tensor], output: torch.Tensor, R: torch.Tensor
) -> torch.Tensor:
    """The head reads the class token alone, which therefore takes all.

    Args:
        module: the choice of the class token.
        inputs: tokens (B, T, D).
        output: the class token (B, D).
        R: its relevance, (n, B, D).

    Returns:
        Relevance of the tokens, (n, B, T, D).
    """
    R_tokens = torch.zeros(len(R), *inputs[0].shape, dtype=R.dtype, device=R.device)
    R_tokens[:, :, 0] = output * safe_divide(R, output)
    return R_tokens


def unchanged(
    module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, R: torch.Tensor
) -> torch.Tensor:
    """LayerNorm, softmax and functions of single values pass R on as it is.

    A function of single values, such as GELU, has one input for each output. LayerNorm and softmax
    mix the values of a row; the rule of the paper ignores that.
    """
    return R


def clone_rule(x: torch.Tensor, *relevances: torch.Tensor) -> torch.Tensor:
    """A tensor that two modules read takes the relevance from both.

    Args:
        x: the tensor, (B, T, D).
        relevances: (n, B, T, D) each.

    Returns:
        Relevance of x, (n, B, T, D).
    """
    return x * sum(safe_divide(R, x) for R in relevances)


class MeanTokens(nn.Module):
    """The mean of the patch tokens, which the head of some public ViTs reads.

    Args:
        prefix: number of tokens before those of the patches, which are left out.
    """

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Average the tokens (B, T, D) to (B, D)."""
        return tokens[:, self.prefix :].mean(1)


def mean_rule(
    module: MeanTokens, inputs: tuple[torch.Tensor], output: torch.Tensor, R: torch.Tensor
) -> torch.Tensor:
    """Patch tokens share R in proportion to their part of the mean.

    Args:
        module: the mean.
        inputs: tokens (B, T, D).
        output: the mean (B, D).
        R: its relevance, (n, B, D).

    Returns:
        Relevance of the tokens, (n, B, T, D).
    """
    patches = inputs[0][:, module.prefix :]  # (B, h*w, D)
    S = safe_divide(R, output)[:, :, None] / patches.shape[1]  # (n, B, 1, D)
    return F.pad(patches * S, (0, 0, module.prefix, 0))


RULES: dict[type[nn.Module], Callable] = {
    nn.Linear: linear_rule,
    MatMul: matmul_rule,
    Add: add_rule,
    Select: select_rule,
    MeanTokens: mean_rule,
    nn.LayerNorm: unchanged,
    nn.GELU: unchanged,
    nn.ReLU: unchanged,
    nn.SiLU: unchanged,
    nn.Tanh: unchanged,
    nn.Softmax: unchanged,
}


# from module to module


def prefix_of(model: CorpusViT) -> int:
    """Number of tokens before those of the patches: the class token, and registers if any."""
    return model.cls_token.shape[1]


@contextlib.contextmanager
def unfused(model: CorpusViT) -> Iterator[None]:
    """Attention in steps that hooks can look into, inside the `with`.

    Args:
        model: the corpus ViT.
    """
    fused = [block.attn.fused for block in model.blocks]
    model.fused = False
    try:
        yield
    finally:
        for block, value in zip(model.blocks, fused, strict=True):
            block.attn.fused = value


@contextlib.contextmanager
def recorded(model: CorpusViT) -> Iterator[Recording]:
    """Record what the modules of a model read and return inside the `with`.

    Fused attention, which hooks cannot look into, is off meanwhile. Afterwards the hooks are gone
    and the model is as it was.

    Args:
        model: the corpus ViT.

    Yields:
        A dict that every forward pass fills: module -> (inputs, output), for the kinds in RULES and
        the map head.
    """
    seen: Recording = {}

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[module] = (inputs, output)

    hooks = []
    for module in model.modules():
        if type(module) in RULES or module is model.map_head:
            hooks.append(module.register_forward_hook(record))
    try:
        with unfused(model):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


# modules that read one tensor; MatMul and Add read two
OneInput = nn.Linear | Select | MeanTokens | nn.LayerNorm | nn.GELU | nn.Softmax


@overload
def apply_rule(seen: Recording, module: OneInput, R: torch.Tensor) -> torch.Tensor: ...
@overload
def apply_rule(
    seen: Recording, module: MatMul | Add, R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
def apply_rule(
    seen: Recording, module: nn.Module, R: torch.Tensor
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Send the relevance of a module's output back to its input, or to each of its two inputs."""
    inputs, output = seen[module]
    return RULES[type(module)](module, inputs, output, R)


def attention_rule(
    attention: Attention, seen: Recording, R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Send relevance back through self-attention.

    Args:
        attention: the module.
        seen: see `recorded`.
        R: relevance of its output, (n, B, T, D).

    Returns:
        Relevance of its input (n, B, T, D), and of its attention matrix (n, B, N, T, T).
    """
    n, B, T, D = R.shape
    R = apply_rule(seen, attention.proj, R)
    R = R.view(n, B, T, attention.num_heads, -1).transpose(2, 3)  # (n, B, N, T, d)
    R_matrix, R_v = apply_rule(seen, attention.av, R)
    R_q, R_k = apply_rule(seen, attention.qk, apply_rule(seen, attention.softmax, R_matrix))
    R = torch.stack([R_q, R_k.transpose(-2, -1), R_v], dim=2)  # (n, B, 3, N, T, d)
    R = R.permute(0, 1, 4, 2, 3, 5).reshape(n, B, T, 3 * D)
    return apply_rule(seen, attention.qkv, R), R_matrix


def block_rule(block: Block, seen: Recording, R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Send relevance back through a block of the transformer.

    Args:
        block: the block.
        seen: see `recorded`.
        R: relevance of its output, (n, B, T, D).

    Returns:
        Relevance of its input (n, B, T, D), and of its attention matrix (n, B, N, T, T).
    """
    R, R_mlp = apply_rule(seen, block.add2, R)
    for module in (block.mlp.fc2, block.mlp.act, block.mlp.fc1, block.norm2):
        R_mlp = apply_rule(seen, module, R_mlp)
    (between,), _ = seen[block.norm2]  # attention and MLP meet here, (B, T, D)
    R, R_attn = apply_rule(seen, block.add1, clone_rule(between, R, R_mlp))
    R_attn, R_matrix = attention_rule(block.attn, seen, R_attn)
    R_attn = apply_rule(seen, block.norm1, R_attn)
    (tokens,), _ = seen[block.norm1]
    return clone_rule(tokens, R, R_attn), R_matrix


# where relevance begins


class Start(NamedTuple):
    """Where relevance begins, for n outputs."""

    logits: torch.Tensor  # (n, B, K): gradients of the logits
    cells: torch.Tensor  # (n, B, h*w, D): gradient x input at the map head, 0 for a class
    # (n, B, T), with which the rollout begins: 1 at the class token if its logits are read, and the
    # relevance of each patch token at the map head
    row: torch.Tensor


def start_of_one(
    value: torch.Tensor, outputs: Outputs, seen: Recording, model: CorpusViT
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the logits (B, K), relevance of cells (B, h*w, D) and row (B, T) of one output.

    The gradient on the logits is one-hot for a class. Where the map head reads tokens, relevance
    begins as gradient x input.

    Raises:
        ValueError: the output depends on neither.
    """
    prefix = prefix_of(model)
    tokens = outputs["tokens"].detach()[:, prefix:]  # (B, h*w, D)
    logits = outputs["logits"]
    read = [logits]
    if model.map_head in seen:
        (features,), _ = seen[model.map_head]
        read.append(features)  # (B, D, h, w)
    gradients = torch.autograd.grad(value.sum(), read, retain_graph=True, allow_unused=True)
    at_logits = gradients[0]
    at_map_head = gradients[1] if len(gradients) > 1 else None
    if at_logits is None and at_map_head is None:
        raise ValueError(
            "the target function must read `logits`, `severity_logits` or `severity_map` of the "
            "outputs"
        )
    if at_map_head is None:
        cells = torch.zeros_like(tokens)
    else:
        cells = tokens * at_map_head.flatten(2).transpose(1, 2)  # (B, h*w, D)
    row = F.pad(cells.sum(-1), (prefix, 0))  # (B, T)
    if at_logits is None:
        return torch.zeros_like(logits), cells, row
    if isinstance(model.select, Select):
        row[:, 0] = 1
    return at_logits, cells, row


def start_of(
    values: list[torch.Tensor], outputs: Outputs, seen: Recording, model: CorpusViT
) -> Start:
    """Where relevance begins for each of the explained values (`start_of_one`)."""
    logits, cells, rows = [], [], []
    for value in values:
        of_logits, of_cells, row = start_of_one(value, outputs, seen, model)
        logits.append(of_logits)
        cells.append(of_cells)
        rows.append(row)
    return Start(torch.stack(logits), torch.stack(cells), torch.stack(rows))


# from the output to the map


class Step(NamedTuple):
    """What `trace` found at one block."""

    layer: int
    tokens: torch.Tensor  # (n, B, T, D) relevance of the block's input
    # (n, B, T, T) positive part of gradient x relevance of the attention, mean over heads
    attention: torch.Tensor


def trace(
    model: CorpusViT, inputs: torch.Tensor, target: Target, start_layer: int = 0
) -> tuple[torch.Tensor, Iterator[Step]]:
    """Relevance block by block, on the device of the model.

    The first step's relevance comes from the head; the sum of `tokens` is conserved from step to
    step.

    Args:
        model: the corpus ViT.
        inputs: the corpus, (B, C, h, w).
        target: see `relevance`.
        start_layer: the first block that takes part.

    Returns:
        The row (n, B, T) with which the rollout begins, and the steps from the last block down.

    Raises:
        ValueError: the model does not have such a block or such a target.
    """
    layers = range(len(model.blocks))[start_layer:]
    if start_layer < 0 or not layers:
        raise ValueError(
            f"start_layer {start_layer}: this model has blocks 0 to {len(model.blocks) - 1}"
        )
    inputs = inputs.to(device_of(model))
    with torch.inference_mode(False), torch.enable_grad(), recorded(model) as seen:
        outputs = model(inputs.detach().clone().requires_grad_())
        values = explained_values(outputs, target)
        start = start_of(values, outputs, seen, model)
        matrices = [seen[model.blocks[layer].attn.softmax][1] for layer in layers]
        # a row an output: gradients of the attention matrices, (B, N, T, T) each
        gradients = []
        for i, value in enumerate(values):
            keep = i < len(values) - 1
            gradients.append(torch.autograd.grad(value.sum(), matrices, retain_graph=keep))
    without_graph = {}
    for module, (given, output) in seen.items():
        without_graph[module] = (tuple(x.detach() for x in given), output.detach())
    by_layer = dict(zip(layers, zip(*gradients, strict=True), strict=True))
    row, R = start.row, through_head(model, without_graph, start)
    if isinstance(model.select, MeanTokens):
        row = R.sum(-1)
    return row, _steps(model, without_graph, R, by_layer)


@torch.no_grad()
def through_head(model: CorpusViT, seen: Recording, start: Start) -> torch.Tensor:
    """Relevance of the tokens after the last block, (n, B, T, D).

    The head is a layer, or layers in a row.
    """
    layers = model.head if isinstance(model.head, nn.Sequential) else [model.head]
    R = start.logits
    for layer in reversed(list(layers)):
        R = apply_rule(seen, layer, R)  # (n, B, ...)
    R = apply_rule(seen, model.select, R)  # (n, B, T, D)
    R[:, :, prefix_of(model) :] += start.cells
    return R


@torch.no_grad()
def _steps(
    model: CorpusViT,
    seen: Recording,
    R: torch.Tensor,
    gradients: dict[int, tuple[torch.Tensor, ...]],
) -> Iterator[Step]:
    """The steps of `trace`; R: after the last block; gradients: layer -> n tensors (B, N, T, T)."""
    for layer in reversed(gradients):
        R, R_matrix = block_rule(model.blocks[layer], seen, R)
        products = torch.stack(gradients[layer]) * R_matrix  # (n, B, N, T, T)
        yield Step(layer, R, products.clamp_(min=0).mean(2))


def relevance(
    model: CorpusViT,
    inputs: torch.Tensor,
    target: Target,
    start_layer: int = 0,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Relevance of every cell of the corpus for an output of a `CorpusViT`.

    At each block, attention becomes I + mean over heads of max(gradient x relevance, 0), and these
    are multiplied from the last block down to `start_layer`. The map is the row of the class token
    without itself; where the head reads the patch tokens (severity, or a public ViT with mean
    pooling), their rows, each times its relevance at the head. Exact for any batch. Weights,
    gradients and mode of the model are not touched; it stays on `device`.

    Args:
        model: the corpus ViT.
        inputs: the corpus, (B, C, h, w).
        target: a class; (B,) the class of each image; a sequence of n classes, cheaper than n
            calls; or a function of the outputs of a chunk -> (B,), such as the severity of a zone.
        start_layer: the first block that takes part.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.

    Returns:
        (B, h, w), or (B, n, h, w) for a sequence, on the CPU; >= 0 for classes, signed for a
        severity.

    Raises:
        ValueError: the model does not have such a target or start layer.
    """

    def explain(part: torch.Tensor, target: Target) -> torch.Tensor:
        row, steps = trace(model, part, target, start_layer)
        for step in steps:
            row = row + (row[:, :, None] @ step.attention)[:, :, 0]  # (n, B, T)
        cells = row[:, :, prefix_of(model) :]  # (n, B, h*w)
        maps = cells.unflatten(2, model.grid).transpose(0, 1)  # (B, n, h, w)
        return maps if asks_for_several(target) else maps[:, 0]

    return explain_in_chunks(explain, model, inputs, target, device, chunk)
