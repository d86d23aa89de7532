"""SimCLR: the projection head and the contrastive loss (Chen et al. 2020).

B batch, S image size, D embed, P size of the projection.
"""

import torch
import torch.nn.functional as F
from torch import nn

TEMPERATURE = 0.2


def nt_xent(a: torch.Tensor, b: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy of two views of the same images.

    Each of the 2B vectors must find its other view among the remaining 2B - 1 by cosine similarity
    (Chen et al. 2020, eq. 1). Chance is log(2B - 1).

    Args:
        a: projections of the first views (B, P).
        b: projections of the second views (B, P), in the same order.
        temperature: divisor of the similarities.

    Returns:
        Mean loss, a scalar.
    """
    z = F.normalize(torch.cat([a, b]), dim=1)  # (2B, P)
    similarity = z @ z.T / temperature  # (2B, 2B)
    similarity = similarity.fill_diagonal_(-torch.inf)  # a vector is no candidate for itself
    return F.cross_entropy(similarity, positive_pairs(len(a), z.device))


def positive_pairs(n: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Row of the other view of each of 2n vectors, int (2n,)."""
    return torch.arange(2 * n, device=device).roll(n)


class ContrastiveNetwork(nn.Module):
    """A transformer with the projection head that only this training uses.

    The head has batch norm, as in SimCLR's own code. The class token of an untrained transformer is
    nearly the same for all images; without batch norm the loss stays at chance.

    Args:
        network: maps an image to a dict with `tokens` (B, T, D).
        embed_dim: D.
        size: P.
    """

    def __init__(self, network: nn.Module, embed_dim: int, size: int = 64) -> None:
        super().__init__()
        self.network = network
        self.projection = nn.Sequential(
            nn.Linear(embed_dim, embed_dim, bias=False),
            nn.BatchNorm1d(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, size, bias=False),
            nn.BatchNorm1d(size, affine=False),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Project the class token of images (B, 1, S, S) to (B, P)."""
        return self.projection(self.class_token(image))  # (B, P)

    def class_token(self, image: torch.Tensor) -> torch.Tensor:
        """Class token of images, before the projection: (B, 1, S, S) -> (B, D)."""
        return self.network(image)["tokens"][:, 0]  # (B, D)
