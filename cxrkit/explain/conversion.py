"""Explain a public ViT: convert one of timm or torchvision, and explain it by any of METHODS.

`convert` copies the weights of a plain ViT into the modules of the corpus ViT, which all methods
know. The pixels of a patch become the channels of a cell, so that the patch embedding is the 1x1
projection of the corpus. Nothing of the user's model is changed. Afterwards `explain` compares the
logits of both on the image, so that a ViT with a forward pass of its own is noticed.

B batch, C channels of the image, H W its size, h w grid of patches, P tokens before those of the
patches, T = P + h*w, D embed, K outputs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.explain.chunks import CHUNK
from cxrkit.explain.deep_taylor import MeanTokens
from cxrkit.explain.methods import DEFAULT_METHOD, METHODS
from cxrkit.explain.targets import Target
from cxrkit.models.classifier import Classifier
from cxrkit.models.corpus_vit import CorpusViT, Select
from cxrkit.training.devices import device_of

__all__ = ["ConvertedViT", "Unsupported", "convert", "explain"]

State = dict[str, torch.Tensor]
# functions of single values that every method has a rule for
ACTIVATIONS = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh)
SKIPPED = (nn.Identity, nn.Dropout)  # they do nothing in evaluation mode
TOLERANCE = 1e-4  # of the logits, relative to the largest; float32 rounding stays below 1e-5


class Unsupported(ValueError):
    """A module of the user's model that `convert` does not know; the message names it."""


class ConvertedViT(CorpusViT):
    """A public ViT in the modules of the corpus ViT; made by `convert`.

    Its corpus is the image cut into patches (`patches`). It has what the corpus ViT has not: P
    tokens before the patches (class token, registers), a mean over patch tokens in the place of the
    class token, and a head of several layers.

    Args:
        patch: pixels (h, w) of a patch.
        prefix: P.
        mean: whether the head reads the mean of the patch tokens.
        activation: of the MLPs.
        eps: of the LayerNorms, those of the blocks and the last one.
        last_norm: whether there is a LayerNorm after the last block.
        head: what reads the class token or the mean.
        sizes: `grid`, `embed_dim`, `depth`, ... of `CorpusViT`.
    """

    def __init__(
        self,
        patch: tuple[int, int],
        prefix: int,
        mean: bool,
        activation: nn.Module,
        eps: tuple[float, float],
        last_norm: bool,
        head: nn.Sequential,
        **sizes: Any,
    ) -> None:
        super().__init__(**sizes)
        D = self.pos_embed.shape[-1]
        h, w = self.grid
        self.patch = patch
        self.cls_token = nn.Parameter(torch.zeros(1, prefix, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + h * w, D))
        self.select = MeanTokens(prefix) if mean else Select()
        self.head = head
        for block in self.blocks:
            block.norm1.eps = block.norm2.eps = eps[0]
            block.mlp.act = copy.deepcopy(activation)
        self.norm.eps = eps[1]
        if not last_norm:
            self.norm = nn.Identity()

    def patches(self, image: torch.Tensor) -> torch.Tensor:
        """Cut an image into patches; their pixels become channels.

        Args:
            image: (B, C, H, W).

        Returns:
            The corpus, (B, C * pixels of a patch, h, w).

        Raises:
            ValueError: the image has another size than the model.
        """
        expected = tuple(cells * side for cells, side in zip(self.grid, self.patch, strict=True))
        if image.ndim != 4 or image.shape[2:] != expected:
            raise ValueError(
                f"the image has shape {tuple(image.shape)}; this model reads (B, C, "
                f"{expected[0]}, {expected[1]}): give it a batch of that size"
            )
        return F.unfold(image, self.patch, stride=self.patch).unflatten(2, self.grid)


# what is asked of the user's model


def need(module: Any, kinds: type | tuple[type, ...], name: str) -> Any:
    """Return a module of one of some kinds.

    Raises:
        Unsupported: it is of another kind; the message names it.
    """
    if not isinstance(module, kinds):
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        known = " or ".join(kind.__name__ for kind in kinds)
        raise Unsupported(
            f"{name} is a {type(module).__name__}; `explain` knows {known} there. Convert the "
            "model to a plain ViT of timm or torchvision, or explain it with a rule of your own"
        )
    return module


def need_nothing(module: nn.Module, names: tuple[str, ...], where: str) -> None:
    """Make sure that optional modules are absent or do nothing.

    Raises:
        Unsupported: one does something; the message names it.
    """
    for name in names:
        part = getattr(module, name, None)
        if part is not None:
            need(part, SKIPPED, f"{where}{name}")


def plain_layers(head: nn.Module, name: str) -> list[nn.Module]:
    """The layers of a head in a row, without those that do nothing.

    Raises:
        Unsupported: a layer has no rule; the message names it.
    """
    if isinstance(head, nn.Sequential):
        layers = []
        for key, child in head.named_children():
            layers += plain_layers(child, f"{name}.{key}")
        return layers
    if isinstance(head, SKIPPED):
        return []
    return [copy.deepcopy(need(head, (nn.Linear, nn.LayerNorm, *ACTIVATIONS), name))]


def as_layer_norm(layer: nn.Module) -> nn.LayerNorm:
    """A copy in the class of torch: libraries have their own, and rules know that of torch."""
    copied = nn.LayerNorm(layer.normalized_shape, eps=layer.eps)
    state = {name: tensor.detach().clone() for name, tensor in norm_state(layer, "").items()}
    copied.load_state_dict(state, assign=True)
    return copied


def norm_state(layer: Any, name: str) -> State:
    """Weight and bias of a LayerNorm, 1 and 0 where it has none."""
    weight = torch.ones(layer.normalized_shape) if layer.weight is None else layer.weight
    bias = torch.zeros_like(weight) if layer.bias is None else layer.bias
    return {f"{name}weight": weight, f"{name}bias": bias}


def linear_state(
    layer: Any, name: str, scale: nn.Module | None = None, flat: bool = False
) -> State:
    """Weight and bias of a linear layer, times a LayerScale behind it.

    Args:
        layer: has `weight` (O, I, ...) and `bias` (O,) or None.
        name: of the layer in the converted model, with a dot at its end.
        scale: LayerScale, whose `gamma` (O,) multiplies the output; None = no such.
        flat: make it the 1x1 convolution of the pixels of a patch.
    """
    weight = layer.weight
    bias = torch.zeros(len(weight)).to(weight) if layer.bias is None else layer.bias
    gamma = getattr(scale, "gamma", None)
    if gamma is not None:
        weight, bias = weight * gamma[:, None], bias * gamma
    if flat:
        weight = weight.flatten(1)[:, :, None, None]
    return {f"{name}weight": weight, f"{name}bias": bias}


def patch_projection(proj: Any, name: str) -> nn.Conv2d:
    """The patch embedding, if it is one convolution of patches side by side.

    Raises:
        Unsupported: it is something else.
    """
    proj = need(proj, nn.Conv2d, name)
    sides_match = tuple(proj.kernel_size) == tuple(proj.stride)
    if not sides_match or proj.groups != 1 or any(proj.padding):
        raise Unsupported(
            f"{name} is a convolution whose patches overlap or are padded; `explain` knows patches "
            "side by side"
        )
    return proj


# timm


def _timm_block(block: nn.Module, where: str) -> State:
    """Weights of a block of timm by their names in the corpus ViT."""
    attn, mlp = block.attn, block.mlp
    need_nothing(attn, ("q_norm", "k_norm", "norm", "gate"), f"{where}attn.")
    need_nothing(mlp, ("norm",), f"{where}mlp.")
    for part, names in ((attn, ("qkv", "proj")), (mlp, ("fc1", "fc2"))):
        for name in names:
            inside = "attn" if part is attn else "mlp"
            need(getattr(part, name, part), nn.Linear, f"{where}{inside}.{name}")
    state = {}
    for name in ("norm1", "norm2"):
        norm = need(getattr(block, name), nn.LayerNorm, f"{where}{name}")
        state |= norm_state(norm, f"{where}{name}.")
    state |= linear_state(attn.qkv, f"{where}attn.qkv.")
    state |= linear_state(attn.proj, f"{where}attn.proj.", block.ls1)
    state |= linear_state(mlp.fc1, f"{where}mlp.fc1.")
    return state | linear_state(mlp.fc2, f"{where}mlp.fc2.", block.ls2)


def _timm_tokens(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens before the patches (1, P, D) and positions of all (1, T, D) of a ViT of timm.

    Raises:
        Unsupported: it has no learned positions.
    """
    positions: Any = model.pos_embed
    if positions is None:
        raise Unsupported("pos_embed is None; `explain` knows learned positions that are added")
    present = [token for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = torch.cat([positions[:, :0], *present], dim=1)
    if model.no_embed_class:
        positions = F.pad(positions, (0, 0, prefix.shape[1], 0))
    return prefix, positions


def _from_timm(model: nn.Module) -> tuple[dict[str, Any], State]:
    """Arguments of `ConvertedViT` and its weights, for a VisionTransformer of timm."""
    need_nothing(model, ("norm_pre", "attn_pool"), "")
    need_nothing(model.patch_embed, ("norm",), "patch_embed.")
    proj = patch_projection(model.patch_embed.proj, "patch_embed.proj")
    pooling = {"token": False, "avg": True}
    if model.global_pool not in pooling or model.pool_include_prefix:
        raise Unsupported(
            f"global_pool {model.global_pool!r} with pool_include_prefix "
            f"{model.pool_include_prefix}; `explain` knows 'token', and 'avg' of the patch tokens"
        )
    prefix, positions = _timm_tokens(model)
    state = {"cls_token": prefix, "pos_embed": positions}
    state |= linear_state(proj, "patch_embed.proj.", flat=True)
    for i, block in enumerate(model.blocks):
        state |= _timm_block(block, f"blocks.{i}.")
    head = nn.Sequential(model.fc_norm, model.head_drop, model.head)
    first = model.blocks[0]
    arguments = {
        "patch": tuple(proj.kernel_size),
        "grid": tuple(model.patch_embed.grid_size),
        "mean": pooling[model.global_pool],
        "activation": need(first.mlp.act, ACTIVATIONS, "blocks.0.mlp.act"),
        "head": plain_layers(head, "head"),
        "num_heads": first.attn.num_heads,
        "norms": (first.norm1, model.norm),
    }
    return arguments, state


# torchvision


def _torchvision_block(block: nn.Module, where: str, name: str) -> State:
    """Weights of a block of torchvision by their names in the corpus ViT."""
    attn = need(block.self_attention, nn.MultiheadAttention, f"{name}.self_attention")
    if attn.in_proj_weight is None or attn.bias_k is not None or attn.add_zero_attn:
        raise Unsupported(
            f"{name}.self_attention has other sizes or more tokens for keys; `explain` knows "
            "nn.MultiheadAttention with its defaults"
        )
    fc1, _, fc2 = plain_layers(block.mlp, f"{name}.mlp")
    state = {f"{where}attn.qkv.weight": attn.in_proj_weight}
    bias = attn.in_proj_bias
    none = torch.zeros(len(attn.in_proj_weight)).to(attn.in_proj_weight)
    state[f"{where}attn.qkv.bias"] = none if bias is None else bias
    for ours, theirs in (("norm1", "ln_1"), ("norm2", "ln_2")):
        norm = need(getattr(block, theirs), nn.LayerNorm, f"{name}.{theirs}")
        state |= norm_state(norm, f"{where}{ours}.")
    state |= linear_state(attn.out_proj, f"{where}attn.proj.")
    state |= linear_state(fc1, f"{where}mlp.fc1.")
    return state | linear_state(fc2, f"{where}mlp.fc2.")


def _from_torchvision(model: nn.Module) -> tuple[dict[str, Any], State]:
    """Arguments of `ConvertedViT` and its weights, for a VisionTransformer of torchvision."""
    proj = patch_projection(model.conv_proj, "conv_proj")
    state = {"cls_token": model.class_token, "pos_embed": model.encoder.pos_embedding}
    state |= linear_state(proj, "patch_embed.proj.", flat=True)
    blocks = list(model.encoder.layers.named_children())
    for i, (name, block) in enumerate(blocks):
        state |= _torchvision_block(block, f"blocks.{i}.", f"encoder.layers.{name}")
    first = blocks[0][1]
    side = model.image_size // model.patch_size
    arguments = {
        "patch": tuple(proj.kernel_size),
        "grid": (side, side),
        "mean": False,
        "activation": plain_layers(first.mlp, "encoder.layers.0.mlp")[1],
        "head": plain_layers(model.heads, "heads"),
        "num_heads": first.self_attention.num_heads,
        "norms": (first.ln_1, model.encoder.ln),
    }
    return arguments, state


LIBRARIES = {
    "timm.models.vision_transformer": _from_timm,
    "torchvision.models.vision_transformer": _from_torchvision,
}


def convert(model: nn.Module) -> ConvertedViT:
    """A plain ViT of timm or torchvision in the modules that all of METHODS know.

    Known are: class token, registers or none; the class token or the mean of the patch tokens
    before the head; LayerScale, as in DINOv2 and RAD-DINO, which becomes part of the linear layer
    before it; heads of linear layers, LayerNorm and GELU, ReLU, SiLU or tanh.

    Args:
        model: a `VisionTransformer` of timm or torchvision, or of a class made from one. It is not
            touched: the weights are copied.

    Returns:
        The converted model, in evaluation mode, on the device of the model.

    Raises:
        Unsupported: a module has no rule; the message names it.
    """
    for kind in type(model).__mro__:
        read = LIBRARIES.get(kind.__module__) if kind.__name__ == "VisionTransformer" else None
        if read is not None:
            break
    else:
        raise Unsupported(
            f"the model is a {type(model).__module__}.{type(model).__name__}; `explain` knows "
            f"VisionTransformer of {' and '.join(LIBRARIES)}, CorpusViT and Classifier"
        )
    arguments, state = read(model)
    layers = [
        as_layer_norm(layer) if isinstance(layer, nn.LayerNorm) else layer
        for layer in arguments.pop("head")
    ]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if not linear:
        raise Unsupported("the model has no head: there is no output to explain")
    of_blocks, last = arguments.pop("norms")
    last_norm = isinstance(last, nn.LayerNorm)
    need(last, (nn.LayerNorm, *SKIPPED), "the last norm")
    if last_norm:
        state |= norm_state(last, "norm.")
    hidden, D = state["blocks.0.mlp.fc1.weight"].shape
    with torch.device("meta"):
        converted = ConvertedViT(
            **arguments | {"head": nn.Sequential()},
            prefix=state["cls_token"].shape[1],
            eps=(of_blocks.eps, last.eps if last_norm else 0.0),
            last_norm=last_norm,
            in_channels=state["patch_embed.proj.weight"].shape[1],
            embed_dim=D,
            depth=len(model.blocks if hasattr(model, "blocks") else model.encoder.layers),
            mlp_dim=hidden,
        )
    copied = {name: tensor.detach().clone() for name, tensor in state.items()}
    converted.load_state_dict(copied, assign=True)
    converted.head = nn.Sequential(*layers)
    return converted.to(device_of(model)).requires_grad_(False).eval()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the `with`; afterwards each module has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def check_logits(model: nn.Module, converted: ConvertedViT, image: torch.Tensor) -> None:
    """Make sure that a converted model gives the logits of the user's.

    Args:
        model: the user's.
        converted: what `convert` made of it.
        image: (B, C, H, W), on their device.

    Raises:
        Unsupported: they differ, so the model does something that its modules do not show.
    """
    with _evaluating(model):
        expected = model(image)
    found = converted(converted.patches(image))["logits"]
    scale = max(1.0, float(expected.abs().max()))
    if expected.shape != found.shape or (expected - found).abs().max() > TOLERANCE * scale:
        raise Unsupported(
            f"the converted {type(model).__name__} gives other logits than the model: its forward "
            "pass does something that its modules do not show, so it cannot be explained"
        )


def explain(
    model: nn.Module,
    image: torch.Tensor,
    target: Target,
    method: str = DEFAULT_METHOD,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
    **options: Any,
) -> torch.Tensor:
    """Say which parts of an image an output of a ViT comes from.

    Args:
        model: a plain ViT of timm or torchvision (see `convert`), a `Classifier` of the kit, or a
            `CorpusViT`, whose image is the corpus. A public ViT is not touched; the kit's models
            are moved to `device` and stay there.
        image: (B, C, H, W), prepared as the model needs it.
        target: a class, or 0 for the only output of a regression; more in `targets`.
        method: key of METHODS.
        device: where to compute; default: `pick_device()`.
        chunk: images that are explained at once.
        options: of the method.

    Returns:
        (B, h, w), a value for each patch, or (B, n, h, w) for a sequence of n targets, on the CPU.

    Raises:
        Unsupported: a module of the model has no rule; the message names it.
        ValueError: no such method or target, or an image of another size.

    Example:
        >>> from cxrkit.models import CorpusViT
        >>> sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
        >>> model = CorpusViT(in_channels=8, grid=4, **sizes).eval()
        >>> explain(model, torch.randn(1, 8, 4, 4), 2, device=torch.device("cpu")).shape
        torch.Size([1, 4, 4])
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if isinstance(model, CorpusViT):
        vit, corpus = model, image
    elif isinstance(model, Classifier):
        vit = model.transformer
        with torch.no_grad():
            parts = image.split(chunk)
            corpus = torch.cat([model.corpus(part.to(device_of(model))).cpu() for part in parts])
    else:
        vit = convert(model)
        corpus = vit.patches(image)
        check_logits(model, vit, image[:1].to(device_of(model)))
    return METHODS[method](vit, corpus, target, device=device, chunk=chunk, **options)
