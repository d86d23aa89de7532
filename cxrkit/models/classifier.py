"""The whole model of a diagnosis or severity: features and the transformer that reads them.

Tables 7 to 9 vary both.

B batch, C channels, S image size, h w grid, D embed, n chosen findings.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.models.densenet import pcam_weights, weighted_maps

POSITIONS = "transformer.pos_embed"


class Classifier(nn.Module):
    """Backbone features and corpus ViT in one model.

    The weights of the two keep their names under `features.` and `transformer.`. In the models that
    the proposed one is compared with, `transformer` is any head on the features (`baselines`).

    Args:
        features: maps an image (B, 1, S, S) to features (B, C, h, w).
        transformer: maps the corpus to a dict of tensors, as `CorpusViT` does.
        fold: cells to a side that become the channels of one token, as in a patch embedding with
            such a kernel and stride.
    """

    def __init__(self, features: nn.Module, transformer: nn.Module, fold: int = 1) -> None:
        super().__init__()
        self.features = features
        self.transformer = transformer
        self.fold = fold

    def forward(
        self, image: torch.Tensor | None = None, features: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Predict from an image, or from its corpus where that is known.

        Args:
            image: (B, 1, S, S).
            features: the corpus of the image (B, fold^2 * C, h, w), in its place.

        Returns:
            The dict of `CorpusViT`.
        """
        if features is None:
            features = self.corpus(image)
        return self.transformer(features)

    def corpus(self, image: torch.Tensor) -> torch.Tensor:
        """Compute what the transformer reads.

        Args:
            image: (B, 1, S, S).

        Returns:
            The corpus (B, fold^2 * C, h, w).
        """
        features = self.features(image)  # (B, C, fold*h, fold*w)
        if self.fold == 1:
            return features
        return F.pixel_unshuffle(features, self.fold)  # (B, fold^2 * C, h, w)


class WeightedClassifier(Classifier):
    """Classifier on the corpus after PCAM (Table 9).

    The backbone's findings head weights the features by where it sees each of the chosen findings.

    Args:
        features: maps an image (B, 1, S, S) to features (B, C, h, w).
        head: findings head of the backbone, features to logit map.
        transformer: maps the corpus (B, n*C, h, w) to a dict of tensors.
        chosen: names of the n findings.
    """

    def __init__(
        self, features: nn.Module, head: nn.Module, transformer: nn.Module, chosen: Sequence[str]
    ) -> None:
        super().__init__(features, transformer)
        self.head = head
        self.chosen = [FINDINGS.index(name) for name in chosen]

    def corpus(self, image: torch.Tensor) -> torch.Tensor:
        """Compute what the transformer reads: (B, 1, S, S) -> (B, n*C, h, w)."""
        features = self.features(image)  # (B, C, h, w)
        weight_map = pcam_weights(self.head(features))  # (B, K, h, w)
        output = {"features": features, "weight_map": weight_map}
        return weighted_maps(output, self.chosen)  # (B, n*C, h, w)


def load_matching(model: nn.Module, *states: dict[str, torch.Tensor]) -> list[str]:
    """Load from state dicts every weight that the model has under that name.

    Learned positions of another grid are interpolated (`resize_positions`).

    Args:
        model: changed in place; learned positions are those of its `transformer`.
        *states: state dicts; where two have a weight, the later one counts.

    Returns:
        Names of the weights that stay random.

    Raises:
        ValueError: naming a weight of another shape.
    """
    own = model.state_dict()
    taken = {}
    for state in states:
        for name, tensor in state.items():
            if name in own:
                taken[name] = tensor
    if POSITIONS in taken:
        taken[POSITIONS] = resize_positions(taken[POSITIONS], model.transformer.grid)
    for name, tensor in taken.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} in the weights and {tuple(own[name].shape)} in "
                "the model: backbone and transformer must have the sizes that the weights were "
                "trained with"
            )
    model.load_state_dict(taken, strict=False)
    return sorted(set(own) - set(taken))


def resize_positions(pos_embed: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Interpolate learned positions to another grid, bicubic; the class token keeps its own.

    Args:
        pos_embed: (1, 1 + m*m, D), of a square grid.
        grid: (h, w) of the new grid.

    Returns:
        (1, 1 + h*w, D).
    """
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return pos_embed
    cls_token, cells = pos_embed[:, :1], pos_embed[:, 1:]
    cells = cells.transpose(1, 2).unflatten(2, (side, side))  # (1, D, m, m)
    cells = F.interpolate(cells, grid, mode="bicubic", align_corners=False)  # (1, D, h, w)
    cells = cells.flatten(2).transpose(1, 2)  # (1, h*w, D)
    return torch.cat([cls_token, cells], dim=1)  # (1, 1 + h*w, D)
