"""SimCLR: a model learns to recognise an image under two random views, without labels (Table 9).

It comes before the diagnosis (Chen et al. 2020). B batch, S image size, D embed, P projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.sections import Training
from cxrkit.data.datasets import CXRDataset, image_dataset, split_parts
from cxrkit.data.variation import uniform
from cxrkit.models.classifier import load_matching
from cxrkit.models.factory import build_classifier
from cxrkit.models.simclr import ContrastiveNetwork, nt_xent, positive_pairs
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.tasks.task import WEIGHTS, Inputs, State, Tables, Task
from cxrkit.training import distributed, loop, recompute
from cxrkit.training.checkpoint import load_tensors

MAX_VALIDATION_IMAGES = 256
PREFIX = "network."  # of the weights that stay, in the state dict


def random_view(image: torch.Tensor) -> torch.Tensor:
    """A random view of each image: (B, 1, S, S) -> (B, 1, S, S).

    Crop of 30 to 100 % of the area, turned by 15 degrees at most, mirrored or not, contrast,
    brightness, and blurred or not. Draws from torch's CPU generator, which a checkpoint restores.
    """
    B = len(image)
    side, angle = uniform(B, 0.3, 1).sqrt(), uniform(B, -math.pi / 12, math.pi / 12)
    across, down = (1 - side) * uniform(B, -1, 1), (1 - side) * uniform(B, -1, 1)
    mirror = torch.where(torch.rand(B) < 0.5, -1.0, 1.0)
    cos, sin = side * angle.cos(), side * angle.sin()
    rows = [mirror * cos, -sin, across, mirror * sin, cos, down]
    affine = torch.stack(rows, 1).view(B, 2, 3).to(image)
    grid = F.affine_grid(affine, image.shape, align_corners=False)
    out = F.grid_sample(image, grid, padding_mode="border", align_corners=False)

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values.to(image)[:, None, None, None]

    contrast = per_image(uniform(B, 0.6, 1.4))
    brightness = per_image(uniform(B, -0.4, 0.4))
    blurred = per_image(torch.rand(B) < 0.5)
    soft = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return contrast * torch.lerp(out, soft, blurred) + brightness


class ContrastiveTask(Task):
    """The profile's model learns from images of the findings, without their labels."""

    name = "contrastive"

    def network(self) -> ContrastiveNetwork:
        """The model of the diagnosis with the projection that only this training uses."""
        network = build_classifier(self.profile)
        return ContrastiveNetwork(network, self.profile.transformer.embed_dim)

    def initialise(self, initial_weights: Sequence[State] = ()) -> ContrastiveNetwork:
        """The model before its training; state dicts are those of the diagnosis' model."""
        torch.manual_seed(self.profile.seed)
        model = self.network()
        load_matching(model.network, *initial_weights)
        return model

    def dataset(self, table: pd.DataFrame, train: bool = False) -> CXRDataset:
        """Images as they are; the loss makes the views."""
        return image_dataset(table, self.profile, self.store)

    def loss(self, model: ContrastiveNetwork, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """NT-Xent of two views.

        They pass through the model together, because batch norm must not tell them apart; with
        `micro_batch` a network without batch norm takes a few of them at once, and the gradient of
        each comes from the loss of all (Gao et al. 2021). Images of all processes are compared.
        """
        views = torch.cat([random_view(batch["image"]), random_view(batch["image"])])
        pretraining = self.profile.variant.pretraining
        most = pretraining.micro_batch if pretraining else 0
        tokens = recompute.in_parts(model.network, model.class_token, views, most)  # (2B, D)
        both = model.projection(tokens)  # (2B, P)
        first, second = both.chunk(2)
        return nt_xent(distributed.gather(first), distributed.gather(second))

    def training(self, images: int) -> Training:
        """The pre-training of the variant."""
        pretraining = self.profile.variant.pretraining
        if pretraining is None:
            raise ValueError("this stage needs a profile with `variant.pretraining`")
        return pretraining

    def predict(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        """The table as it is: SimCLR predicts nothing of an image."""
        return table

    def evaluate(self, predictions: Tables, train: pd.DataFrame) -> dict[str, Any]:
        """No prediction, no metric; `recognition` says how well the training went."""
        return {}

    @torch.no_grad()
    def recognition(self, model: nn.Module, table: pd.DataFrame) -> dict[str, float]:
        """How often an image's two views are nearest to each other among all views of the table.

        Returns:
            `share`, `chance` and `n`; {} for an empty table.
        """
        if not len(table):
            return {}

        def project(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"projected": F.normalize(model(random_view(batch["image"])), dim=1)}

        torch.manual_seed(self.profile.seed)
        views = []
        for _ in range(2):
            output = loop.evaluate(
                model, self.dataset(table), ("projected",), device=self.device, forward=project
            )
            views.append(output["projected"])
        z = torch.cat(views)  # (2n, P)
        nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(1)  # (2n,)
        return {
            "share": float((nearest == positive_pairs(len(table))).float().mean()),
            "chance": 1 / (len(z) - 1),
            "n": len(table),
        }

    def make(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """Train on the training images of a table; no label is read.

        Leaves weights.safetensors (`network_weights`), history.json and metrics.json.
        """
        parts = split_parts(inputs.table)
        model = self.fit(folder, parts["train"], None, inputs.initial_weights)
        history = read_json(folder / "history.json")
        metrics = {
            "images": {name: len(part) for name, part in parts.items()},
            "loss": history[-1]["loss"],
            "loss_by_chance": math.log(2 * self.training(len(parts["train"])).batch - 1),
            "validation": self.recognition(model, parts["val"].head(MAX_VALIDATION_IMAGES)),
        }
        write_json(folder / "metrics.json", metrics)
        return metrics


def network_weights(folder: Path) -> State:
    """State dict of the network of a finished artifact, without the projection."""
    state = load_tensors(folder / WEIGHTS)[0]
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }
