"""SimCLR: the projection head and the loss (Chen et al. 2020). B batch, P size of the projection."""

import torch
import torch.nn.functional as F
from torch import nn

TEMPERATURE = 0.2


def nt_xent(a, b, temperature=TEMPERATURE):
    """Normalised temperature-scaled cross-entropy of two views of the same films: a, b (B, P) ->
    scalar.

    Each of the 2B vectors must find its twin among the other 2B - 1 by cosine. A model that knows
    nothing has log(2B - 1).
    """
    z = F.normalize(torch.cat([a, b]), dim=1)  # (2B, P)
    likeness = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # (2B, 2B)
    return F.cross_entropy(likeness, twins(len(a), z.device))


def twins(n, device=None):
    """Row of the other view of each of 2n vectors, (2n,)."""
    return torch.arange(2 * n, device=device).roll(n)


class Contrast(nn.Module):
    """A transformer with the projection that only this training uses: image (B, 1, S, S) -> (B, P),
    from its class token.

    Batch norm, as in SimCLR's own code: an untrained class token is nearly the same for all films,
    and without it the loss stays at chance.
    """

    def __init__(self, network, embed_dim, size=64):
        super().__init__()
        self.network = network
        self.projection = nn.Sequential(
            nn.Linear(embed_dim, embed_dim, bias=False),
            nn.BatchNorm1d(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, size, bias=False),
            nn.BatchNorm1d(size, affine=False),
        )

    def forward(self, image):
        return self.projection(self.network(image)["tokens"][:, 0])
