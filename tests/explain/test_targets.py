"""Targets: what a margin and log-odds are, and that they do not saturate."""

import numpy as np
import pytest
import torch

from cxrkit.explain import attention_lrp, methods, targets
from tests.explain.test_relevance import tiny

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]])
AGAINST = (targets.Margin, targets.LogOdds)


def test_margin_and_log_odds_by_hand():
    outputs = {"logits": LOGITS}
    assert targets.Margin(1)(outputs).tolist() == [1.0, -6.0]
    assert targets.Margin(torch.tensor([1, 2]))(outputs).tolist() == [1.0, 5.0]
    p = LOGITS.softmax(1)
    expected = (p / (1 - p)).log()
    for k in range(3):
        torch.testing.assert_close(targets.LogOdds(k)(outputs), expected[:, k])
    torch.testing.assert_close(targets.LogOdds(np.array([2, 0]))(outputs), expected[[0, 1], [2, 0]])


@pytest.mark.parametrize("kind", AGAINST)
def test_what_does_not_exist_is_refused(kind):
    with pytest.raises(ValueError, match="the model has 0 to 2"):
        kind(3)({"logits": LOGITS})
    with pytest.raises(ValueError, match="1 classes for a batch of 2"):
        kind(torch.tensor([1]))({"logits": LOGITS})
    with pytest.raises(ValueError, match="no other class to compare with"):
        kind(0)({"logits": LOGITS[:, :1]})


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_takes_them_in_chunks_and_several_at_once(name):
    model, inputs = tiny(1, batch=5)
    own = torch.tensor([2, 0, 1, 1, 2])
    asked = [targets.Margin(own), 1, targets.LogOdds(2)]
    maps = methods.METHODS[name](model, inputs, asked, chunk=2)
    assert maps.shape == (5, 3, 2, 3)
    for i, target in enumerate(asked):
        alone = methods.METHODS[name](model, inputs, target)
        torch.testing.assert_close(maps[:, i], alone, rtol=1e-9, atol=1e-13)
    if name != "random":
        with pytest.raises(ValueError, match="5 classes for a batch of 3"):
            methods.METHODS[name](model, inputs[:3], asked)


def test_a_probability_saturates_and_log_odds_do_not():
    """Surer and surer: the map of the probability fades away, that of the log-odds stays."""
    model, inputs = tiny(2)
    model.head.bias.data = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64)

    def size(target):
        return attention_lrp.attnlrp(model, inputs, target).abs().sum((1, 2))

    def probability(outputs):
        return outputs["logits"].softmax(1)[:, 2]

    unsure = size(probability), size(targets.LogOdds(2))
    model.head.bias.data[2] = 20.0
    sure = size(probability), size(targets.LogOdds(2))
    assert (sure[0] < 1e-3 * unsure[0]).all()
    assert (sure[1] > 0.3 * unsure[1]).all()
    p = model(inputs)["logits"].softmax(1)[:, 2].detach()
    torch.testing.assert_close(sure[0], sure[1] * p * (1 - p))
