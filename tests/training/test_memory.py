"""The count of a training step's memory against sums worked by hand, and against the same count on
real tensors.
"""

import pytest
import torch
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.sections import Training
from cxrkit.models.densenet import Backbone
from cxrkit.reproduction import environment
from cxrkit.training import memory

SLIM = {"growth_rate": 4, "block_config": (1, 2, 2, 1), "num_init_features": 8, "stem": 1}


def perceptron():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))


def test_a_perceptron_keeps_its_input_and_what_the_relu_gave():
    """The first layer needs the (5, 3) input, the ReLU and the second layer one and the same (5, 4)
    output; weights do not count.
    """
    assert memory.kept_for_backward(perceptron(), torch.zeros(5, 3)) == 4 * (5 * 3 + 5 * 4)


@pytest.mark.parametrize("optimizer, numbers", [("sgd", 3), ("adam", 4)])
def test_a_step_is_what_is_kept_and_the_numbers_of_each_weight(optimizer, numbers):
    training = Training(optimizer, batch=5)
    kept, weights = 5 * 3 + 5 * 4, 3 * 4 + 4 * 2
    assert memory.training_bytes(perceptron, (3,), training) == 4 * (kept + numbers * weights)
    assert (
        memory.training_bytes(perceptron, (3,), training, "bf16")
        == 2 * kept + (4 * numbers + 2) * weights
    )


def test_meta_counts_what_real_tensors_count():
    torch.manual_seed(0)
    real = memory.kept_for_backward(Backbone(**SLIM), torch.randn(2, 1, 64, 64))
    with torch.device("meta"):
        assert memory.kept_for_backward(Backbone(**SLIM), torch.empty(2, 1, 64, 64)) == real > 2**18


def test_what_the_backward_pass_frees_is_not_held_by_the_count():
    """Two steps in turn: the activations of the first are gone before the second begins."""
    from torch.multiprocessing.reductions import StorageWeakRef

    layer, freed = nn.Linear(8, 8, bias=False), []

    def step():
        hidden = layer(torch.ones(4, 8)).sigmoid()  # the backward pass needs it
        first = StorageWeakRef(hidden.untyped_storage())
        hidden.sum().backward()
        del hidden
        freed.append(first.expired())

    def twice():
        step()
        step()

    once = memory.kept_during(step, layer.parameters())
    assert memory.kept_during(twice, layer.parameters()) == 2 * once
    assert freed == [True] * 3


def test_nothing_is_kept_without_gradients():
    with torch.no_grad():
        assert memory.kept_for_backward(perceptron(), torch.zeros(5, 3)) == 0


def test_the_papers_backbone_fits_a_card_of_8_gb():
    """Measured on a CPU with 4 films: resident memory grew by 2.72 GB, counted 2.63."""
    paper = profiles.paper()
    for name, low, high in (("float32", 5.0, 5.4), ("bf16", 2.6, 2.8)):
        assert (
            low
            < memory.training_bytes(Backbone, (1, 512, 512), paper.backbone_training, name) / 2**30
            < high
        )
    check = environment.check_paper(None)
    assert (
        check.name == "paper"
        and "5.2 GB in float32" in check.value
        and "2.7 GB in bf16" in check.value
    )


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="fp8.*float32.*bf16"):
        memory.training_bytes(perceptron, (3,), Training("sgd"), "fp8")
