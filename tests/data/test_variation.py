"""Random changes of films: that films and masks move as one, that what is painted lies in the
lungs, and that greys stay greys.
"""

import cv2
import numpy as np
import pytest
import torch

from cxrkit.data import variation

SIZE = 64


def films(n=8):
    """Bright films with two dark lungs, and their masks."""
    mask = torch.zeros(n, SIZE, SIZE, dtype=torch.uint8)
    mask[:, 12:50, 8:26], mask[:, 12:50, 38:56] = 255, 255
    return torch.where(mask[:, None] == 255, -0.6, 0.4), mask


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_film_and_mask_move_as_one():
    """Dark is lung before and after, up to the pixels that a border runs through; half of the films
    are mirrored.
    """
    image, mask = films(32)
    mask[:, :, 32:] //= 2  # the lung on the right of the image: 127
    moved, moved_mask = variation.move(image, mask)
    assert set(moved_mask.unique().tolist()) == {0, 127, 255}
    inside = (moved[:, 0] < -0.55) & (moved[:, 0] > -0.65)
    assert (moved_mask[inside] > 0).float().mean() > 0.97
    middles = [
        [float(torch.nonzero(one == v)[:, 1].float().mean()) for v in (255, 127)]
        for one in moved_mask
    ]
    mirrored = sum(a > b for a, b in middles)
    assert 8 <= mirrored <= 24
    assert len({round(float((one > 0).float().mean()), 3) for one in moved_mask}) > 20  # zoom


def test_outside_the_film_lies_one_grey_and_no_lung():
    image, mask = (
        torch.full((16, 1, SIZE, SIZE), 0.25),
        torch.full((16, SIZE, SIZE), 255, dtype=torch.uint8),
    )
    moved, moved_mask = variation.move(image, mask)
    out = (moved[:, 0] - 0.25).abs() > 1e-5
    assert (
        out.any()
        and (moved_mask[out] == 0).all()
        and (moved_mask[~out] == 255).float().mean() > 0.99
    )
    for one, film in zip(out, moved[:, 0], strict=True):
        assert len(film[one].unique()) <= 1


def test_clouds_lie_in_the_lungs_and_only_brighten():
    image, mask = films(64)
    painted = variation.opacify(image, mask, chance=0.5)
    far = (
        torch.nn.functional.max_pool2d((mask == 255)[:, None].float(), 5, stride=1, padding=2) == 0
    )
    assert torch.equal(painted[far], image[far])
    assert (painted >= image - 1e-6).all() and painted.max() <= 1
    changed = ((painted - image).flatten(1).amax(1) > 0.05).float().mean()
    assert 0.25 < changed < 0.7
    lung = (mask == 255)[:, None].expand_as(image)
    assert painted[lung].max() > 0.3  # as bright as the wall of 0.4, here and there


def test_no_chance_no_clouds():
    image, mask = films()
    assert torch.equal(variation.opacify(image, mask, chance=0.0), image)


def test_equalisation_is_opencvs():
    """OpenCV maps the darkest grey to 0, so its values are the shares stretched from there; on many
    greys the two agree.
    """
    rng = np.random.default_rng(0)
    film = rng.gamma(2.0, 20.0, (SIZE, SIZE)).clip(0, 255).astype(np.uint8)
    ours = variation.equalize(torch.tensor(film / 255.0, dtype=torch.float32)[None, None] + 1e-4)[
        0, 0
    ].numpy()
    np.testing.assert_allclose(ours, cv2.equalizeHist(film) / 255, atol=0.01)


def test_greys_stay_in_range_and_keep_their_order_roughly():
    image, mask = films(32)
    out = variation.regrade(image)
    assert out.min() >= -1 and out.max() <= 1 and out.shape == image.shape
    lung = (mask == 255)[:, None]
    gap = torch.stack([film[~m].mean() - film[m].mean() for film, m in zip(out, lung, strict=True)])
    assert (gap > 0.05).all() and gap.std() > 0.05


def test_the_same_seed_gives_the_same_films():
    image, mask = films()
    torch.manual_seed(5)
    one = variation.vary(image, mask)
    torch.manual_seed(5)
    two = variation.vary(image, mask)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert one[0].shape == image.shape and one[1].dtype == torch.uint8
