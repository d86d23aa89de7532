"""The images of the lesson on attention, and what is counted on them."""

import numpy as np
import pytest
import torch

from cxrkit import teaching
from cxrkit.teaching import two_marks


@pytest.fixture(scope="module")
def drawn():
    return teaching.draw_marks(6000, np.random.default_rng(4))


def test_an_image_marks_one_cell_in_each_channel(drawn):
    images, _, cells = drawn
    marks = images.flatten(2) > 0.55
    assert images.shape == (6000, 2, 8, 8) and images.dtype == torch.float32
    assert (marks.sum(2) == 1).float().mean() > 0.999
    assert torch.equal(images.flatten(2).argmax(2), cells)
    assert (cells[:, 0] != cells[:, 1]).all()


def test_the_answer_is_that_of_a_slow_loop(drawn):
    _, answers, cells = drawn
    for (a, b), answer in zip(cells.tolist(), answers.tolist(), strict=True):
        left = [cell % 8 >= 4 for cell in (a, b)]
        assert two_marks.ANSWERS[answer] == (
            "both left" if all(left) else "one each" if any(left) else "both right"
        )


def test_half_of_the_images_have_one_mark_in_each_half_and_no_place_gives_it_away(drawn):
    _, answers, cells = drawn
    share = torch.bincount(answers) / len(answers)
    assert share[2] == pytest.approx(0.5, abs=0.03)
    assert share[0] == pytest.approx(0.25, abs=0.03)
    for channel in (0, 1):
        counts = torch.bincount(cells[:, channel], minlength=64).float()
        chi2 = ((counts - 6000 / 64) ** 2 / (6000 / 64)).sum()
        assert chi2 < 110, "63 degrees of freedom: 0.9998 quantile"


def test_the_share_on_the_pair_is_a_mean_of_two_entries():
    g = torch.Generator().manual_seed(0)
    attention = [torch.rand(3, 2, 65, 65, generator=g).softmax(-1) for _ in range(2)]
    cells = torch.tensor([[0, 5], [63, 2], [7, 8]])
    found = teaching.share_on_pair(attention, cells)
    for layer in range(2):
        for head in range(2):
            values = [attention[layer][i, head, 0, 1 + cell] for i in range(3) for cell in cells[i]]
            torch.testing.assert_close(found[layer, head], torch.stack(values).mean() * 65)
