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
from cxrkit.models.local_evidence import LocalEvidence, both, first_stage, stages_of

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
        evidence: of the severity map, from the first stage of `features`; None = the map comes from
            the tokens alone.
        calibration: a `ZoneCalibration` of the six zone values, which `tasks.severity` pools from
            the severity map; None = they stay as they are.

    Raises:
        ValueError: `features` has no first stage for the evidence.

    Example:
        >>> from cxrkit.models import CorpusViT
        >>> sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
        >>> features = nn.Conv2d(1, 8, 16, stride=16)
        >>> model = Classifier(features, CorpusViT(in_channels=8, grid=4, **sizes))
        >>> model(torch.zeros(2, 1, 64, 64))["logits"].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        features: nn.Module,
        transformer: nn.Module,
        fold: int = 1,
        evidence: LocalEvidence | None = None,
        calibration: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.transformer = transformer
        self.fold = fold
        self.evidence = evidence
        self.calibration = calibration
        self.first = first_stage(features) if evidence is not None else 0

    def forward(
        self, image: torch.Tensor | None = None, features: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Predict from an image, or from its corpus where that is known.

        Args:
            image: (B, 1, S, S).
            features: the corpus of the image (B, fold^2 * C, h, w), in its place. The severity map
                is then what the tokens decide, without local evidence.

        Returns:
            The dict of `CorpusViT`. With local evidence also `gate_logits`, the map of the tokens,
            and `local_logits`, that of the evidence; `severity_logits` joins both.
        """
        if features is not None:
            return self.transformer(features)
        if self.evidence is None:
            return self.transformer(self.corpus(image))
        # (B, C, S/4, S/4) and (B, C, fold*h, fold*w)
        early, late = stages_of(self.features, self.first, image)
        out = self.transformer(self.corpus_of(late))
        gate, local = out["severity_logits"], self.evidence(early)
        logits = both(gate, local)  # (B, 1, s*h, s*w)
        joined = {"severity_logits": logits, "severity_map": logits.sigmoid()}
        return {**out, **joined, "gate_logits": gate, "local_logits": local}

    def corpus(self, image: torch.Tensor) -> torch.Tensor:
        """Compute what the transformer reads.

        Args:
            image: (B, 1, S, S).

        Returns:
            The corpus (B, fold^2 * C, h, w).
        """
        return self.corpus_of(self.features(image))

    def corpus_of(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C, fold*h, fold*w) as the corpus (B, fold^2 * C, h, w)."""
        if self.fold == 1:
            return features
        return F.pixel_unshuffle(features, self.fold)


class WeightedClassifier(Classifier):
    """Classifier on the corpus after PCAM (Table 9).

    The backbone's findings head weights the features by where it sees each of the chosen findings.

    Args:
        features: maps an image (B, 1, S, S) to features (B, C, h, w).
        head: findings head of the backbone, features to logit map.
        transformer: maps the corpus (B, n*C, h, w) to a dict of tensors.
        chosen: names of the n findings.
        calibration: as in `Classifier`.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        transformer: nn.Module,
        chosen: Sequence[str],
        calibration: nn.Module | None = None,
    ) -> None:
        super().__init__(features, transformer, calibration=calibration)
        self.head = head
        self.chosen = [FINDINGS.index(name) for name in chosen]

    def corpus_of(self, features: torch.Tensor) -> torch.Tensor:
        """Weigh features (B, C, h, w) by where the findings are seen: (B, n*C, h, w)."""
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
