"""Networks: the whole model of a profile, features and the transformer that reads them, and the
weights it may begin with (Tables 7 to 9).

Classification and severity share them. B batch, C channels, S image size, h w grid, D embed.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.models.densenet import pcam_weights, weighted_maps

POSITIONS = "transformer.pos_embed"


class Network(nn.Module):
    """Backbone and corpus ViT in one: image (B, 1, S, S), or its corpus as `features` where it is
    known, -> dict of `CorpusViT`.

    The weights of the two keep their names. fold: cells of a side that become the channels of one
    word (a patch embedding with such a kernel and stride). In the models that ours is compared
    with, `transformer` is whatever reads the features (`baselines`).
    """

    def __init__(self, features, transformer, fold=1):
        super().__init__()
        self.features, self.transformer, self.fold = features, transformer, fold

    def forward(self, image=None, features=None):
        return self.transformer(self.corpus(image) if features is None else features)

    def corpus(self, image):
        """What the transformer reads: image (B, 1, S, S) -> (B, fold^2 * C, h, w)."""
        features = self.features(image)
        return features if self.fold == 1 else F.pixel_unshuffle(features, self.fold)


class WeightedNetwork(Network):
    """The corpus after PCAM (Table 9): the backbone's own head weighs the features by where it sees
    each of the chosen findings.
    """

    def __init__(self, features, head, transformer, chosen):
        super().__init__(features, transformer)
        self.head, self.chosen = head, [FINDINGS.index(name) for name in chosen]

    def corpus(self, image):
        features = self.features(image)  # (B, C, h, w)
        # (B, n*C, h, w)
        return weighted_maps(
            {"features": features, "weight_map": pcam_weights(self.head(features))}, self.chosen
        )


def adopt(model, *states):
    """Take from state dicts every weight that the model has by that name; later ones win. Returns
    the names still random.

    Learned positions of another grid are interpolated. Raises ValueError naming a weight of another
    shape.
    """
    own, taken = model.state_dict(), {}
    for state in states:
        taken |= {name: tensor for name, tensor in state.items() if name in own}
    if POSITIONS in taken:
        taken[POSITIONS] = stretch(taken[POSITIONS], model.transformer.grid)
    wrong = [name for name, tensor in taken.items() if tensor.shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"{wrong[0]} is {tuple(taken[wrong[0]].shape)} in the weights and "
            f"{tuple(own[wrong[0]].shape)} in the model: "
            "backbone and transformer must have the sizes that the weights were trained with"
        )
    model.load_state_dict(taken, strict=False)
    return sorted(set(own) - set(taken))


def stretch(pos_embed, grid):
    """Learned positions (1, 1 + h*h, D) of a square grid -> (1, 1 + h'*w', D), bicubic; the class
    token keeps its own.
    """
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return pos_embed
    cells = pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # (1, D, h, h)
    cells = (
        F.interpolate(cells, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    )
    return torch.cat([pos_embed[:, :1], cells], dim=1)
