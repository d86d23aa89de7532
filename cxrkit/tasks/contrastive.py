"""SimCLR: a model that learns to know a film again under two random views, without labels, before
it learns the diagnosis (Table 9).

Chen et al. 2020. B batch, S image size, D embed, P size of the projection.
"""

import math

import torch
import torch.nn.functional as F

from cxrkit.data import datasets
from cxrkit.data.datasets import parts
from cxrkit.data.variation import uniform
from cxrkit.models import classifier, factory
from cxrkit.models.simclr import Contrast, nt_xent, twins
from cxrkit.storage.atomic import write_json
from cxrkit.training import distributed, loop
from cxrkit.training.checkpoint import load_tensors

JUDGED = 256  # validation films at most


def view(image):
    """A random view of each film: crop of 30 to 100 % of the area, turned by 15 degrees at most,
    mirrored or not, contrast, brightness, and blurred or not; image (B, 1, S, S) -> the same shape.
    Draws from torch's CPU generator, which a checkpoint restores.
    """
    B = len(image)
    side, angle = uniform(B, 0.3, 1).sqrt(), uniform(B, -math.pi / 12, math.pi / 12)
    across, down = (1 - side) * uniform(B, -1, 1), (1 - side) * uniform(B, -1, 1)
    mirror = torch.where(torch.rand(B) < 0.5, -1.0, 1.0)
    cos, sin = side * angle.cos(), side * angle.sin()
    move = (
        torch.stack([mirror * cos, -sin, across, mirror * sin, cos, down], 1)
        .view(B, 2, 3)
        .to(image)
    )
    out = F.grid_sample(
        image,
        F.affine_grid(move, image.shape, align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    contrast, brightness, blurred = (
        t.to(image)[:, None, None, None]
        for t in (uniform(B, 0.6, 1.4), uniform(B, -0.4, 0.4), torch.rand(B) < 0.5)
    )
    soft = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return contrast * torch.lerp(out, soft, blurred) + brightness


def loss(model, batch):
    """NT-Xent of two views, passed through the model together: batch norm must not tell them apart.
    Films of all processes are compared.
    """
    both = model(torch.cat([view(batch["image"]), view(batch["image"])]))  # (2B, P)
    return nt_xent(*(distributed.gather(views) for views in both.chunk(2)))


def make(folder, profile, table, store=None, start=()):
    """Train the profile's model on the training films of `table` by variant.pretraining, into
    `folder`; no label is read.

    Leaves weights.safetensors (`weights`), history.json and metrics.json. start: state dicts to
    begin with (`networks.adopt`).
    """
    split = parts(table)
    torch.manual_seed(profile.seed)
    network = factory.network(profile)
    classifier.adopt(network, *start)
    model = Contrast(network, profile.transformer.embed_dim)
    done = loop.fit(
        model,
        loss,
        datasets.dataset(split["train"], profile, store),
        profile.variant.pretraining,
        folder=folder,
        seed=profile.seed,
    )
    write_json(
        folder / "metrics.json",
        {
            "images": {name: len(part) for name, part in split.items()},
            "loss": done["history"][-1]["loss"],
            "loss_by_chance": math.log(2 * profile.variant.pretraining.batch - 1),
            "validation": recognised(model, split["val"].head(JUDGED), profile, store),
        },
    )


@torch.no_grad()
def recognised(model, table, profile, store=None):
    """How often a film's two views are nearest to each other among all views of the table: dict
    share, chance, n.
    """
    if not len(table):
        return {}
    torch.manual_seed(profile.seed)
    both = [
        loop.evaluate(
            model,
            datasets.dataset(table, profile, store),
            ("projected",),
            forward=lambda model, batch: {
                "projected": F.normalize(model(view(batch["image"])), dim=1)
            },
        )["projected"]
        for _ in range(2)
    ]
    z = torch.cat(both)  # (2n, P)
    nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(1)
    return {
        "share": float((nearest == twins(len(table))).float().mean()),
        "chance": 1 / (len(z) - 1),
        "n": len(table),
    }


def weights(folder):
    """State dict of the network of a finished stage, without the projection."""
    state = load_tensors(folder / "weights.safetensors")[0]
    return {
        name.removeprefix("network."): tensor
        for name, tensor in state.items()
        if name.startswith("network.")
    }
