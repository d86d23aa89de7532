"""Local evidence: what the pixels around a place say of it, beside what the tokens decide.

A severity map that is learnt from six values a film puts its heat wherever that answers them. A
token knows the whole film, so every place of an ill zone, and of a film that looks ill, answers
equally well, and the map shows zones. A logit that sees only the pixels around it can answer for a
zone by the lesion alone (compare Brendel & Bethge 2019, BagNet). The map is the product of both:
tokens decide whether, local evidence says where. `CellEvidence` leaves the tokens out. Both are the
kit's own, not the paper's.

B batch, C channels, S image size; the evidence lies on a grid of S/4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# features of a backbone -> its first stage, whose cells are 4 px wide and see few pixels
FIRST_STAGES = ("denseblock1", "layer1", "stage2")
MOST = -1e-6  # of a log-probability, so that its log-odds stay finite


class CellEvidence(nn.Module):
    """Severity map in which each cell of the corpus answers for itself, and no transformer.

    Two 1x1 convolutions on the normalised corpus: for a hundred scored films on frozen features,
    which a transformer would learn by heart, this has no more to learn than what a lesion looks
    like. It stands where `CorpusViT` stands.

    Args:
        in_channels: C of the corpus.
        map_scale: s, map px per cell; the logits are interpolated to it.
        width: channels between the convolutions.
        dropout: share of channels that are left out in training.

    Example:
        >>> evidence = CellEvidence(in_channels=8, map_scale=4)
        >>> evidence(torch.zeros(2, 8, 5, 5))["severity_map"].shape
        torch.Size([2, 1, 20, 20])
    """

    def __init__(
        self, in_channels: int, map_scale: int, width: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.map_scale = map_scale
        self.norm = nn.BatchNorm2d(in_channels, affine=False)
        self.proj = nn.Conv2d(in_channels, width, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)
        self.out = nn.Conv2d(width, 1, kernel_size=1)
        nn.init.constant_(self.out.bias, -1.0)  # most cells are healthy

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """`severity_logits` (B, 1, s*h, s*w) and their sigmoid `severity_map`, of (B, C, h, w)."""
        hidden = self.proj(self.dropout(self.norm(features)))  # (B, width, h, w)
        logits = self.out(self.dropout(F.gelu(hidden)))  # (B, 1, h, w)
        logits = F.interpolate(
            logits, scale_factor=self.map_scale, mode="bilinear", align_corners=False
        )
        return {"severity_logits": logits, "severity_map": logits.sigmoid()}


class LocalEvidence(nn.Module):
    """Logits of a lesion from a small neighbourhood: residual 3x3 convolutions on early features.

    On the DenseNet of the demo a logit sees 35 px of 128, its cells 4 px.

    Args:
        in_channels: C of the early features.
        width: channels of the convolutions.
        depth: how many there are; each lets a logit see 8 px more.
    """

    def __init__(self, in_channels: int, width: int = 96, depth: int = 2) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=1)
        self.convs = nn.ModuleList(
            [nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(depth)]
        )
        self.out = nn.Conv2d(width, 1, kernel_size=1)
        for conv in (self.proj, *self.convs):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.out.weight, std=0.05)
        nn.init.zeros_(self.out.bias)

    def forward(self, early: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, S/4, S/4) from early features (B, C, S/4, S/4)."""
        hidden = self.proj(early)  # (B, width, S/4, S/4)
        for conv in self.convs:
            hidden = hidden + conv(F.relu(hidden))
        return self.out(F.relu(hidden))


def first_stage(features: nn.Module) -> int:
    """How many modules of a feature extractor make its first stage (FIRST_STAGES).

    Raises:
        ValueError: it has none, as the patches of a standard ViT.
    """
    names = [name for name, _ in features.named_children()]
    for name in FIRST_STAGES:
        if name in names:
            return names.index(name) + 1
    raise ValueError(
        f"{type(features).__name__} has no first stage ({', '.join(FIRST_STAGES)}): choose "
        "map_evidence=tokens for this model"
    )


def stages_of(
    features: nn.Module, first: int, image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Early features, after the first stage, and the features.

    Args:
        features: a chain of modules.
        first: as `first_stage` gives it.
        image: (B, 1, S, S).

    Returns:
        (B, C, S/4, S/4) and what `features(image)` gives.
    """
    modules = list(features.children())
    early = nn.Sequential(*modules[:first])(image)
    return early, nn.Sequential(*modules[first:])(early)


def interpolated(local: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Logits of the evidence (B, 1, h, w) at the size of the tokens' map (B, 1, H, W)."""
    return F.interpolate(local, gate.shape[-2:], mode="bilinear", align_corners=False)


def both(gate: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """Log-odds of the product of two probabilities.

    Args:
        gate: logits (B, 1, H, W) of the tokens' map.
        local: logits (B, 1, h, w), interpolated to its size.

    Returns:
        Logits (B, 1, H, W); their sigmoid is sigmoid(gate) * sigmoid(local).
    """
    local = interpolated(local, gate)
    # the logarithms of both probabilities; see `densenet.pcam_weights` for why as a softplus
    log_p = -F.softplus(-gate.float()) - F.softplus(-local.float())  # (B, 1, H, W)
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=MOST)))
