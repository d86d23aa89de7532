"""SimCLR: random views, and that a small model learns to tell images apart."""

import numpy as np
import torch

from cxrkit.models.factory import build_classifier
from cxrkit.models.simclr import ContrastiveNetwork
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.contrastive import ContrastiveTask, random_view
from tests.fakes.small_models import variant_profile


def test_a_view_is_random_repeats_with_the_seed_and_leaves_an_even_image_even():
    image = torch.randn(4, 1, 32, 32)
    torch.manual_seed(1)
    first, second = random_view(image), random_view(image)
    torch.manual_seed(1)
    assert torch.equal(first, random_view(image)) and not torch.allclose(first, second)
    even = random_view(torch.full((6, 1, 32, 32), 0.5))
    torch.testing.assert_close(even, even[:, :, :1, :1].expand_as(even))


def test_simclr_learns_to_tell_images_apart(tmp_path):
    """Images with a bright bar in different positions: after a few steps their views match."""
    images = torch.zeros(24, 1, 64, 64)
    for i in range(24):
        row, column = 8 * (i % 8), 20 * (i // 8)
        images[i, :, row : row + 6, column : column + 12] = 2.0
    profile = variant_profile(model="vit", initial_weights="random")
    task = ContrastiveTask(profile, Store(tmp_path))
    torch.manual_seed(0)
    model = ContrastiveNetwork(build_classifier(profile), 16, size=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        value = task.loss(model, {"image": images})
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[0] > 0.8 * np.log(47) and np.mean(losses[-5:]) < losses[0] - 1
