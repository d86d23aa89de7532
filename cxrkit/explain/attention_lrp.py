"""AttnLRP: layer-wise relevance propagation through attention (Achtibat et al., ICML 2024).

The map is gradient x input after three kinds of modules have changed their backward pass; hooks
from outside the model do it. The forward pass computes the same numbers as before.

- LayerNorm: the standard deviation is a constant (identity rule).
- GELU, SiLU, tanh: f(x) = x * (f(x) / x), and the quotient is a constant (identity rule).
- Product of two tensors, such as Q K^T: each factor takes half of the gradient (uniform rule).

Linear layers, convolutions, ReLU, sums, softmax and pooling keep their gradient: for them gradient
x input already is the rule of the paper (with epsilon = 0).

n outputs explained, B batch, C channels of the corpus, h w its grid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from cxrkit.explain.chunks import CHUNK, explain_in_chunks, gradients_on
from cxrkit.explain.deep_taylor import unfused
from cxrkit.explain.targets import Target, asks_for_several, explained_values
from cxrkit.models.corpus_vit import CorpusViT, MatMul

__all__ = ["BACKWARD_RULES", "attnlrp", "attnlrp_rules"]

Inputs = tuple[torch.Tensor, ...]


def norm_rule(module: nn.LayerNorm, inputs: Inputs, output: torch.Tensor) -> torch.Tensor:
    """LayerNorm whose standard deviation is a constant; the mean is a linear part of it.

    Args:
        module: the layer.
        inputs: x (..., D).
        output: of the layer, (..., D).

    Returns:
        The same values, with another gradient.
    """
    (x,) = inputs
    dims = tuple(range(-len(module.normalized_shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.detach().square().mean(dims, keepdim=True)
    normed = centred * (variance + module.eps).rsqrt()
    if module.weight is not None:
        normed = normed * module.weight
    if module.bias is not None:
        normed = normed + module.bias
    return normed


def quotient_rule(module: nn.Module, inputs: Inputs, output: torch.Tensor) -> torch.Tensor:
    """A function of single values as x times a constant; where x is 0 nothing goes back.

    Args:
        module: such as GELU; it maps 0 to 0.
        inputs: x of any shape.
        output: of the module.

    Returns:
        The same values, with another gradient.
    """
    (x,) = inputs
    constant = x.detach()
    quotient = (output.detach() / constant).masked_fill_(constant == 0, 0)
    return x * quotient


def product_rule(module: nn.Module, inputs: Inputs, output: torch.Tensor) -> None:
    """Halve the gradient that reaches a product, so that each factor takes half.

    Args:
        module: the product.
        inputs: its two factors.
        output: the product.
    """
    output.register_hook(lambda gradient: gradient / 2)


# kind of module -> what happens after its forward pass
BACKWARD_RULES: dict[type[nn.Module], Callable[..., torch.Tensor | None]] = {
    nn.LayerNorm: norm_rule,
    nn.GELU: quotient_rule,
    nn.SiLU: quotient_rule,
    nn.Tanh: quotient_rule,
    MatMul: product_rule,
}


@contextlib.contextmanager
def attnlrp_rules(model: CorpusViT) -> Iterator[None]:
    """Inside the `with`, gradient x input of the model is AttnLRP.

    Fused attention is off meanwhile. Afterwards the hooks are gone and the model is as it was.

    Args:
        model: the corpus ViT, or a converted one (`convert`).
    """
    hooks = []
    for module in model.modules():
        rule = BACKWARD_RULES.get(type(module))
        if rule is not None:
            hooks.append(module.register_forward_hook(rule))
    try:
        with unfused(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def attnlrp(
    model: CorpusViT,
    inputs: torch.Tensor,
    target: Target,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """AttnLRP of every cell of the corpus for an output of a `CorpusViT`, summed over channels.

    One forward pass, and one backward pass for each output. Exact for any batch. Weights, gradients
    and mode of the model are not touched; it stays on `device`. The parts of cells, biases and
    learned positions sum to the output, but for what each softmax keeps.

    Args:
        model: the corpus ViT; its map head is explained too.
        inputs: the corpus, (B, C, h, w).
        target: a class; (B,) the class of each image; a sequence of n targets, cheaper than n
            calls; or a function of the outputs of a chunk -> (B,), such as the severity of a zone.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.

    Returns:
        (B, h, w), or (B, n, h, w) for a sequence, on the CPU. Signed: a negative cell speaks
        against the output.

    Raises:
        ValueError: the model does not have such a target.

    Example:
        >>> sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
        >>> model = CorpusViT(in_channels=8, grid=4, **sizes).eval()
        >>> corpus = torch.randn(3, 8, 4, 4)
        >>> attnlrp(model, corpus, [0, 2], device=torch.device("cpu")).shape  # of two classes
        torch.Size([3, 2, 4, 4])
    """

    def explain(part: torch.Tensor, target: Target) -> torch.Tensor:
        with gradients_on(), attnlrp_rules(model):
            features = part.detach().clone().requires_grad_()
            values = explained_values(model(features), target)
            maps = []
            for i, value in enumerate(values):
                keep = i < len(values) - 1
                (gradient,) = torch.autograd.grad(value.sum(), features, retain_graph=keep)
                maps.append((gradient * features.detach()).sum(1))  # (B, h, w)
        return torch.stack(maps, dim=1) if asks_for_several(target) else maps[0]

    return explain_in_chunks(explain, model, inputs, target, device, chunk)
