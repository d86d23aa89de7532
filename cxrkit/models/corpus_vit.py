"""The corpus ViT: a transformer whose tokens are the cells of the backbone's feature map.

Park et al. 2021, sections 3.2 and 3.3.

B batch, C channels of the corpus, h w its grid, T = 1 + h*w tokens, D embed, N heads, d = D / N, K
classes, s map scale.

Products, sums, softmax and the choice of the class token are modules of their own without weights,
so that a recorder can reach them with hooks (`cxrkit.explain`). State-dict keys are those of timm's
VisionTransformer; the map head's begin with `map_head.`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.vocabulary import known

# how weights of linear layers begin, and the standard deviation of positions
INITIALISATIONS = {
    "vit": (partial(nn.init.trunc_normal_, std=0.02), 0.02),
    "narrow": (nn.init.xavier_uniform_, 0.5),
}


class MatMul(nn.Module):
    """Matrix product."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Multiply a (..., n, k) by b (..., k, m) to (..., n, m)."""
        return a @ b


class Add(nn.Module):
    """Sum of two tensors of one shape."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Add a and b."""
        return a + b


class Select(nn.Module):
    """The class token."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pick the first of the tokens (B, T, D) as (B, D)."""
        return tokens[:, 0]


class PatchEmbed(nn.Module):
    """1x1 projection of every cell of the corpus to D channels."""

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Project features (B, C, h, w) to tokens (B, h*w, D), row by row."""
        x = self.proj(features)  # (B, D, h, w)
        return x.flatten(2).transpose(1, 2)  # (B, h*w, D)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(d)) V.

    `fused` computes the same in one call, which is faster and which hooks cannot look into. With
    `even` every token looks at all tokens alike, whatever Q and K are: an ablation of attention.
    """

    def __init__(self, embed_dim: int, num_heads: int, fused: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused = fused
        self.even = False
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.qk = MatMul()
        self.softmax = nn.Softmax(dim=-1)
        self.av = MatMul()
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mix tokens (B, T, D) by their attention to one another."""
        B, T, D = tokens.shape
        qkv = self.qkv(tokens).view(B, T, 3, self.num_heads, -1)  # (B, T, 3, N, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, N, T, d) each
        if self.even:
            out = v.mean(dim=-2, keepdim=True).expand_as(v)  # (B, N, T, d)
        elif self.fused:
            out = F.scaled_dot_product_attention(q, k, v)  # (B, N, T, d)
        else:
            scale = q.shape[-1] ** -0.5
            attention = self.softmax(self.qk(q, k.transpose(-2, -1)) * scale)  # (B, N, T, T)
            out = self.av(attention, v)  # (B, N, T, d)
        out = out.transpose(1, 2).reshape(B, T, D)  # (B, T, D)
        return self.proj(out)


class Mlp(nn.Module):
    """Two linear layers on each token by itself, with an exact GELU between them."""

    def __init__(self, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(mlp_dim, embed_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, T, D) to (B, T, D)."""
        return self.fc2(self.act(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm encoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, fused: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, num_heads, fused)
        self.add1 = Add()
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = Mlp(embed_dim, mlp_dim)
        self.add2 = Add()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, T, D) to (B, T, D)."""
        tokens = self.add1(tokens, self.attn(self.norm1(tokens)))
        return self.add2(tokens, self.mlp(self.norm2(tokens)))


class MapHead(nn.Sequential):
    """Upsizing convolution blocks, then a 1x1 convolution: (B, D, h, w) -> (B, 1, s*h, s*w).

    A block is upsampling by 2, a 3x3 convolution and ReLU. The paper says no more; by default it is
    nearest-neighbour upsampling, a block halves the channels, down to 16, and nothing normalises:
    over the image that would make the extent of a lesion disappear, and over a batch of 4 it is
    noise.

    Args:
        embed_dim: channels D of the input.
        map_scale: s, a power of 2; log2(s) is the number of blocks.
        upsampling: "nearest" or "bilinear".
        norm: "none", or "batch": batch norm between convolution and ReLU.
        widths: "halved", or "constant": every block has min(D, 256) channels (as the decoder of
            Zheng et al. 2021, SETR).

    Raises:
        ValueError: an option is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        map_scale: int,
        upsampling: str = "nearest",
        norm: str = "none",
        widths: str = "halved",
    ) -> None:
        known(upsampling, ("nearest", "bilinear"), "upsampling")
        known(norm, ("none", "batch"), "norm of the map head")
        known(widths, ("halved", "constant"), "widths of the map head")
        blocks = map_scale.bit_length() - 1  # log2(s)
        sizes = [embed_dim]
        for i in range(blocks):
            halved = max(embed_dim >> (i + 1), 16)
            sizes.append(halved if widths == "halved" else min(embed_dim, 256))
        layers: list[nn.Module] = []
        for channels, out in zip(sizes, sizes[1:]):
            steps: list[nn.Module] = [
                nn.Upsample(scale_factor=2, mode=upsampling),
                nn.Conv2d(channels, out, kernel_size=3, padding=1),
            ]
            if norm == "batch":
                steps.append(nn.BatchNorm2d(out))
            layers.append(nn.Sequential(*steps, nn.ReLU()))
        layers.append(nn.Conv2d(sizes[-1], 1, kernel_size=1))
        super().__init__(*layers)


class CorpusViT(nn.Module):
    """Transformer on the corpus (Park et al. 2021, sections 3.2 and 3.3).

    The defaults are the paper's: ViT-B on a 16x16x1024 corpus. With the DenseNet features it has
    93.0 M weights, or 74.1 M at `mlp_dim=2048`, without the map head. `logits` serve softmax
    cross-entropy as well as one-logit heads with BCE, because K such heads are one linear layer
    with K outputs.

    Args:
        in_channels: channels C of the corpus.
        grid: cells of the corpus, h = w or (h, w); learned positions belong to one grid.
        embed_dim: channels D of a token.
        depth: number of encoder layers.
        num_heads: attention heads N, a divisor of `embed_dim`.
        mlp_dim: hidden units of the MLP.
        num_classes: K.
        map_head: whether the model also predicts the severity map.
        map_scale: s, map px per cell, a power of 2.
        map_options: of `MapHead`.
        fused: faster attention, equal to 1e-5, that hooks cannot reach; an attribute too.
        initialisation: a name in INITIALISATIONS. "vit" is that of ViT at D = 768. In a narrow
            model it leaves queries, keys and positions near 0, where a short training does not
            move them; "narrow" is Glorot & Bengio 2010, with positions on the scale of the tokens.
        positions: False = ablation: tokens do not know where they stand, and positions stay 0.
        even: ablation of attention, an attribute too: every token looks at all tokens alike.

    Raises:
        ValueError: if the heads do not divide D, the map scale is no power of 2 or the
            initialisation is unknown.
    """

    def __init__(
        self,
        in_channels: int = 1024,
        grid: int | tuple[int, int] = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        num_classes: int = 3,
        map_head: bool = False,
        map_scale: int = 16,
        map_options: Mapping[str, str] | None = None,
        fused: bool = False,
        initialisation: str = "vit",
        positions: bool = True,
        even: bool = False,
    ) -> None:
        super().__init__()
        known(initialisation, INITIALISATIONS, "initialisation")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        if map_scale < 1 or map_scale & (map_scale - 1):
            raise ValueError(
                f"map_scale {map_scale} is no power of 2: every block of the map head doubles the "
                "size"
            )
        h, w = (grid, grid) if isinstance(grid, int) else grid
        self.in_channels = in_channels
        self.grid = (h, w)
        self.patch_embed = PatchEmbed(in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + h * w, embed_dim))
        blocks = [Block(embed_dim, num_heads, mlp_dim, fused) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.select = Select()
        self.head = nn.Linear(embed_dim, num_classes)
        options = map_options or {}
        self.map_head = MapHead(embed_dim, map_scale, **options) if map_head else None
        linear, position_std = INITIALISATIONS[initialisation]
        self.apply(lambda module: _init_weights(module, linear))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if positions:
            nn.init.trunc_normal_(self.pos_embed, std=position_std)
        else:
            self.pos_embed.requires_grad_(False)
        self.even = even

    @property
    def fused(self) -> bool:
        """Whether every layer computes its attention in one fused call."""
        return all(block.attn.fused for block in self.blocks)

    @fused.setter
    def fused(self, value: bool) -> None:
        for block in self.blocks:
            block.attn.fused = value

    @property
    def even(self) -> bool:
        """Whether every layer's attention is even."""
        return all(block.attn.even for block in self.blocks)

    @even.setter
    def even(self, value: bool) -> None:
        for block in self.blocks:
            block.attn.even = value

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read the corpus.

        Args:
            features: the corpus (B, C, h, w).

        Returns:
            `logits` (B, K); `tokens` (B, T, D) after the last norm, class token first; with a map
            head also `severity_logits` (B, 1, s*h, s*w) and their sigmoid `severity_map`.

        Raises:
            ValueError: if the features have another C, h or w.
        """
        h, w = self.grid
        if features.shape[1:] != (self.in_channels, h, w):
            raise ValueError(
                f"features have shape {tuple(features.shape)}; this model reads (B, "
                f"{self.in_channels}, {h}, {w}): "
                "in_channels and grid must be those of the corpus (image px / backbone stride)"
            )
        B = features.shape[0]
        patches = self.patch_embed(features)  # (B, h*w, D)
        cls_token = self.cls_token.expand(B, -1, -1)  # (B, 1, D)
        tokens = torch.cat([cls_token, patches], dim=1) + self.pos_embed  # (B, T, D)
        tokens = self.norm(self.blocks(tokens))  # (B, T, D)
        logits = self.head(self.select(tokens))  # (B, K)
        out = {"logits": logits, "tokens": tokens}
        if self.map_head is not None:
            cells = tokens[:, 1:].transpose(1, 2).unflatten(2, (h, w))  # (B, D, h, w)
            out["severity_logits"] = self.map_head(cells)  # (B, 1, s*h, s*w)
            out["severity_map"] = out["severity_logits"].sigmoid()
        return out


def _init_weights(module: nn.Module, linear: Callable[[torch.Tensor], Any]) -> None:
    """Initialise linear layers by `linear` and convolutions as He et al. 2015 do."""
    if isinstance(module, nn.Linear):
        linear(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        # no ReLU follows a 1x1 convolution: it projects or predicts
        nonlinearity = "linear" if module.kernel_size == (1, 1) else "relu"
        nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)
        nn.init.zeros_(module.bias)
