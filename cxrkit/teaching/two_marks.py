"""Two marks on a grid: the images of the lesson on attention.

An image has 2 channels of 8x8 cells. Each channel marks one cell with 1, on a background of noise.
The answer says where the marks lie: both in the right half, both in the left half, or one in each.
Sides are the patient's: right is on the left of an image, as in a radiograph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

SIDE = 8  # cells of a row
ANSWERS = ("both right", "both left", "one each")
NOISE = 0.1  # standard deviation of the background


def answers_of(cells: np.ndarray) -> np.ndarray:
    """The answer of each image.

    Args:
        cells: numbers of the two marked cells, row by row, (n, 2).

    Returns:
        Indices into ANSWERS (n,).
    """
    left = (cells % SIDE >= SIDE // 2).sum(axis=1)  # marks in the patient's left half
    return np.array([0, 2, 1])[left]


def draw_marks(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw images with two marks; in half of them each half of the grid holds one.

    Args:
        n: number of images.
        rng: random state.

    Returns:
        Images (n, 2, 8, 8), answers (n,), and the number of the marked cell of each channel (n, 2).
    """
    cells = np.argpartition(rng.random((n, SIDE * SIDE)), 2, axis=1)[:, :2]  # two different cells
    cells = rng.permuted(cells, axis=1)
    opposite = answers_of(cells) == 2
    column = cells[:, 1] % SIDE
    mirrored = cells[:, 1] - column + (SIDE - 1 - column)
    # mirrored where the coin says so, unless it would fall onto the other mark
    change = (opposite != (rng.integers(0, 2, n) == 0)) & (mirrored != cells[:, 0])
    cells[change, 1] = mirrored[change]
    channels = np.argsort(rng.random((n, 2)), axis=1)  # which of the cells each channel marks
    cells = np.take_along_axis(cells, channels, axis=1)
    images = NOISE * rng.standard_normal((n, 2, SIDE * SIDE)).astype(np.float32)
    images[np.arange(n)[:, None], (0, 1), cells] += 1
    tensor = torch.from_numpy(images).unflatten(2, (SIDE, SIDE))  # (n, 2, 8, 8)
    return tensor, torch.from_numpy(answers_of(cells)), torch.from_numpy(cells)


def share_on_pair(attention: Sequence[torch.Tensor], cells: torch.Tensor) -> torch.Tensor:
    """How much of its attention the class token gives to the two marked cells.

    Args:
        attention: of each layer (n, N, T, T), the class token first.
        cells: numbers of the marked cells (n, 2).

    Returns:
        Mean over the images (layers, N), in multiples of an even share, 1 / T a token.
    """
    shares = []
    for layer in attention:
        seen = layer[:, :, 0]  # (n, N, T): of the class token
        tokens = (1 + cells)[:, None].expand(-1, seen.shape[1], -1)  # (n, N, 2)
        shares.append(seen.gather(2, tokens).mean(dim=(0, 2)) * seen.shape[-1])  # (N,)
    return torch.stack(shares)
