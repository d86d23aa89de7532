"""The corpus ViT: a transformer that reads the backbone's feature map as its words (Park et al.
2021, sections 3.2 and 3.3).

B batch, C channels of the corpus, h w its grid, T = 1 + h*w tokens, D embed, N heads, d = D / N, K
classes, s map scale.

Products, sums, softmax and the choice of the class token are modules of their own without weights,
so that a recorder reaches them with hooks (`saliency`). State-dict keys are those of timm's
VisionTransformer; the map head's begin with `map_head.`.
"""

import torch
import torch.nn.functional as F
from torch import nn


class MatMul(nn.Module):
    """a (..., n, k), b (..., k, m) -> (..., n, m)."""

    def forward(self, a, b):
        return a @ b


class Add(nn.Module):
    """Sum of two tensors of one shape."""

    def forward(self, a, b):
        return a + b


class Select(nn.Module):
    """The class token: tokens (B, T, D) -> (B, D)."""

    def forward(self, tokens):
        return tokens[:, 0]


class PatchEmbed(nn.Module):
    """1x1 projection of every cell of the corpus to D: features (B, C, h, w) -> (B, h*w, D), row by
    row.
    """

    def __init__(self, in_channels, embed_dim):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=1)

    def forward(self, features):
        return self.proj(features).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(d)) V. `fused` computes the same in one call
    that no hook can look into.
    """

    def __init__(self, embed_dim, num_heads, fused=False):
        super().__init__()
        self.num_heads, self.fused = num_heads, fused
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.qk, self.softmax, self.av = MatMul(), nn.Softmax(dim=-1), MatMul()
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens):
        B, T, D = tokens.shape
        # (B, N, T, d) each
        q, k, v = self.qkv(tokens).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)  # (B, N, T, d)
        else:
            # (B, N, T, T)
            attention = self.softmax(self.qk(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5)
            out = self.av(attention, v)  # (B, N, T, d)
        return self.proj(out.transpose(1, 2).reshape(B, T, D))  # (B, T, D)


class Mlp(nn.Module):
    """Two linear layers on each token by itself, GELU (exact) between them."""

    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.fc1, self.act, self.fc2 = (
            nn.Linear(embed_dim, mlp_dim),
            nn.GELU(),
            nn.Linear(mlp_dim, embed_dim),
        )

    def forward(self, tokens):
        return self.fc2(self.act(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm encoder layer: x + attention(norm(x)), then x + mlp(norm(x)); tokens (B, T, D) ->
    (B, T, D).
    """

    def __init__(self, embed_dim, num_heads, mlp_dim, fused=False):
        super().__init__()
        self.norm1, self.attn, self.add1 = (
            nn.LayerNorm(embed_dim, eps=1e-6),
            Attention(embed_dim, num_heads, fused),
            Add(),
        )
        self.norm2, self.mlp, self.add2 = (
            nn.LayerNorm(embed_dim, eps=1e-6),
            Mlp(embed_dim, mlp_dim),
            Add(),
        )

    def forward(self, tokens):
        tokens = self.add1(tokens, self.attn(self.norm1(tokens)))
        return self.add2(tokens, self.mlp(self.norm2(tokens)))


class MapHead(nn.Sequential):
    """Upsizing convolution blocks (nearest x2, 3x3, ReLU; channels halve, down to 16), then 1x1:
    (B, D, h, w) -> (B, 1, s*h, s*w).

    No normalisation: over the image it would make the extent of a lesion disappear, and over a
    batch of 4 it is noise.
    """

    def __init__(self, embed_dim, map_scale):
        widths = [max(embed_dim >> i, 16) for i in range(map_scale.bit_length())]
        widths[0] = embed_dim
        super().__init__(
            *(
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(a, b, kernel_size=3, padding=1),
                    nn.ReLU(),
                )
                for a, b in zip(widths, widths[1:])
            ),
            nn.Conv2d(widths[-1], 1, kernel_size=1),
        )


class CorpusViT(nn.Module):
    """Transformer on the corpus: features (B, C, h, w) -> dict of

    `logits` (B, K), `tokens` (B, T, D) after the last norm, class token first, and with `map_head`
    also `severity_map` (B, 1, s*h, s*w) in [0, 1] and `severity_logits`, the same before the
    sigmoid. The defaults are the paper's: ViT-B on a 16x16x1024 corpus; with the DenseNet features
    93.0 M weights, or 74.1 M at `mlp_dim=2048`, map head apart.

    grid: cells of the corpus, h = w or (h, w); learned positions belong to one grid. map_scale s:
    map px per cell, a power of 2. `logits` serve softmax cross-entropy as well as one-logit heads
    with BCE: K such heads are one linear layer with K outputs. `fused`, an attribute too: faster
    attention, equal to 1e-5, unreachable for hooks. Raises ValueError for heads that do not divide
    D, a map scale that is no power of 2, and features of another C, h or w.
    """

    def __init__(
        self,
        in_channels=1024,
        grid=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_dim=3072,
        num_classes=3,
        map_head=False,
        map_scale=16,
        fused=False,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        if map_scale < 1 or map_scale & (map_scale - 1):
            raise ValueError(
                f"map_scale {map_scale} is no power of 2: every block of the map head doubles the "
                "size"
            )
        self.in_channels, self.grid = (
            in_channels,
            (grid, grid) if isinstance(grid, int) else tuple(grid),
        )
        self.patch_embed = PatchEmbed(in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], embed_dim))
        self.blocks = nn.Sequential(
            *(Block(embed_dim, num_heads, mlp_dim, fused) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.select = Select()
        self.head = nn.Linear(embed_dim, num_classes)
        self.map_head = MapHead(embed_dim, map_scale) if map_head else None
        self.apply(_init)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @property
    def fused(self):
        return all(block.attn.fused for block in self.blocks)

    @fused.setter
    def fused(self, value):
        for block in self.blocks:
            block.attn.fused = value

    def forward(self, features):
        B, (h, w) = len(features), self.grid
        if features.shape[1:] != (self.in_channels, h, w):
            raise ValueError(
                f"features have shape {tuple(features.shape)}; this model reads (B, "
                f"{self.in_channels}, {h}, {w}): "
                f"in_channels and grid must be those of the corpus (image px / backbone stride)"
            )
        patches = self.patch_embed(features)  # (B, h*w, D)
        # (B, T, D)
        tokens = torch.cat([self.cls_token.expand(B, -1, -1), patches], dim=1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))  # (B, T, D)
        out = {"logits": self.head(self.select(tokens)), "tokens": tokens}  # (B, K)
        if self.map_head is not None:
            corpus = tokens[:, 1:].transpose(1, 2).unflatten(2, (h, w))  # (B, D, h, w)
            out["severity_logits"] = self.map_head(corpus)  # (B, 1, s*h, s*w)
            out["severity_map"] = out["severity_logits"].sigmoid()
        return out


def _init(module):
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(
            module.weight, nonlinearity="linear" if module.kernel_size == (1, 1) else "relu"
        )
        nn.init.zeros_(module.bias)
