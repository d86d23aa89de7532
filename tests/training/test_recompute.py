"""Computing again in the backward pass changes the memory of an update and nothing else."""

import copy

import pytest
import torch
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.sections import Training
from cxrkit.models.baselines import ResNet
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.models.densenet import Backbone
from cxrkit.tasks.contrastive import ContrastiveTask
from cxrkit.training import loop, memory, recompute
from tests.fakes.small_models import variant_profile


def dense():
    return Backbone(growth_rate=4, block_config=(2, 2, 1, 1), num_init_features=8, stem=1).features


def residual():
    return ResNet((4, 4, 4, 4), (1, 2, 1, 1), 1, 32)


def vit():
    transformer = CorpusViT(1, 8, 16, 2, 2, mlp_dim=16)
    return nn.Sequential(transformer, Logits())


class Logits(nn.Module):
    def forward(self, output):
        return output["logits"]


MODELS = {"dense": (dense, 64), "residual": (residual, 64), "vit": (vit, 8)}


def gradients(model, image, again):
    """Loss, gradients and buffers after one update's passes."""
    with recompute.recomputed(model, again):
        value = model(image).square().mean()
    value.backward()
    return [value, *(w.grad for w in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_batch_statistics_are_those_of_the_plain_pass(name):
    make, side = MODELS[name]
    torch.manual_seed(0)
    model = make().double().train()
    image = torch.randn(3, 1, side, side, dtype=torch.float64)
    plain = gradients(copy.deepcopy(model), image, False)
    for one, other in zip(plain, gradients(model, image, True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert all("forward" not in vars(module) for module in model.modules())


def test_less_is_kept_and_the_largest_block_is_counted():
    torch.manual_seed(0)
    model, image = dense().train(), torch.randn(2, 1, 64, 64)
    whole = memory.kept_for_backward(model, image)
    with recompute.recomputed(model):
        some = memory.kept_for_backward(model, image)
    layer = next(m for m in model.modules() if type(m).__name__ == "_DenseLayer")
    first = memory.kept_for_backward(layer, torch.randn(2, 8, 16, 16))
    assert first < some < whole
    with torch.device("meta"):
        other = dense().train()
        with recompute.recomputed(other):
            assert memory.kept_for_backward(other, torch.empty(2, 1, 64, 64)) == some


def test_two_updates_are_the_same():
    """Weights after `TrainingRun.update`, with Adam, batch norm and clipping."""
    torch.manual_seed(0)
    first, batch = dense(), {"image": torch.randn(4, 1, 64, 64)}
    ends = []
    for again in (False, True):
        model = copy.deepcopy(first)
        training = Training("adam", lr=1e-3, batch=4, steps=2, clip=1.0, recompute=again)
        run = loop.TrainingRun(
            model, lambda m, b: m(b["image"]).square().mean(), training, torch.device("cpu")
        )
        assert "recompute" not in run.setup
        loop.train_mode(model)
        source = iter([([0, 1, 2, 3], batch)] * 2)
        run.update(source)
        run.update(source)
        ends.append(model.state_dict())
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("most", [1, 3, 16])
def test_cached_gradients_of_simclr_are_those_of_the_whole_batch(most):
    """A ViT, which has no batch norm; the projection, which has, sees all views at once."""
    ends = []
    for size in (0, most):
        training = Training("sgd", batch=5, steps=1, micro_batch=size)
        profile = variant_profile(model="vit", initial_weights="random", pretraining=training)
        task = ContrastiveTask(profile)
        model = task.initialise().double().train()
        torch.manual_seed(1)
        side = profile.image_size
        value = task.loss(model, {"image": torch.randn(5, 1, side, side, dtype=torch.float64)})
        value.backward()
        grads = {n: w.grad for n, w in model.named_parameters() if w.grad is not None}
        ends.append((value.detach(), grads, dict(model.named_buffers())))
    (value, grads, buffers), (other, others, kept) = ends
    torch.testing.assert_close(value, other, rtol=0, atol=1e-6)
    assert set(grads) == set(others) and len(grads) > 10
    for name, grad in grads.items():
        torch.testing.assert_close(grad, others[name], rtol=0, atol=1e-6)
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, kept[name], rtol=0, atol=1e-6)


def test_batch_norm_sees_all_views_at_once():
    """Parts would give it other statistics."""
    seen = []
    model = dense().train()

    def function(rows):
        seen.append(len(rows))
        return rows

    recompute.in_parts(model, function, torch.zeros(7, 1), 2)
    recompute.in_parts(nn.Linear(1, 1), function, torch.zeros(7, 1), 2)
    assert seen == [7, 2, 2, 2, 1]


def test_the_paper_computes_simclr_and_1024_px_again():
    grid = profiles.paper().grid
    assert grid.recompute and grid.micro_batch == 16 and not profiles.demo().grid.recompute
