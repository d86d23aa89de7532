"""Losses of the segmenter against hand-worked cases."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cxrkit.training import losses
from tests.fakes.small_models import noise_images, small_translator


def test_nonsaturating_is_minus_log_of_the_probability():
    logits = torch.tensor([0.0, 2.0])
    assert float(losses.nonsaturating(logits, True)) == pytest.approx(
        np.mean([np.log(2), np.log(1 + np.exp(-2))]), rel=1e-6
    )
    assert float(losses.nonsaturating(logits, False)) == pytest.approx(
        np.mean([np.log(2), np.log(1 + np.exp(2))]), rel=1e-6
    )


def test_r1_of_a_linear_discriminator_is_half_its_squared_weights():
    image, weight = noise_images(4).requires_grad_(), noise_images(1, seed=2)
    assert float(losses.r1((image * weight).sum((1, 2, 3)), image)) == pytest.approx(
        0.5 * float(weight.square().sum())
    )


def test_one_backward_pass_gives_both_sides_their_own_gradients():
    """The joint loss has the gradients of two separate passes, of discriminator and generator."""
    nets, image = small_translator(), noise_images(4)
    domain, target = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])
    style = nets.mapping(torch.randn(4, 2).double(), target).detach()
    found = losses.translation_losses(nets, image, domain, target, style)
    sum(found.values()).backward()

    alone = copy.deepcopy(nets)
    alone.zero_grad()
    fake = alone.generator(image, style)["image"]
    source = image.clone().requires_grad_()
    real = alone.discriminator(source, domain)
    discriminator_loss = (
        F.softplus(-real).mean()
        + F.softplus(alone.discriminator(fake.detach(), target)).mean()
        + losses.r1(real, source)
    )
    wanted = torch.autograd.grad(discriminator_loss, list(alone.discriminator.parameters()))
    for weight, gradient in zip(nets.discriminator.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    back = alone.generator(fake, alone.encoder(image, domain))["image"]
    generator_loss = (
        F.softplus(-alone.discriminator(fake, target)).mean()
        + (alone.encoder(fake, target) - style).abs().mean()
        + (back - image).abs().mean()
    )
    moved = [w for part in (alone.generator, alone.encoder) for w in part.parameters()]
    for weight, gradient in zip(
        [w for part in (nets.generator, nets.encoder) for w in part.parameters()],
        torch.autograd.grad(generator_loss, moved, allow_unused=True),
        strict=True,
    ):
        assert (weight.grad is None) == (gradient is None)  # mask head and self code take no part
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient)


def test_diversity_is_the_distance_of_two_noise_images():
    nets, image, target = small_translator(), noise_images(2), torch.tensor([1, 1])
    one, two = (torch.randn(2, 3).double() for _ in range(2))
    found = losses.translation_losses(nets, image, 1 - target, target, one, two, penalty=False)
    wanted = (
        (nets.generator(image, one)["image"] - nets.generator(image, two)["image"]).abs().mean()
    )
    torch.testing.assert_close(found["diversity"], wanted)
    assert "r1" not in found


def test_cross_entropy_by_hand_with_ignored_pixels():
    logits = torch.tensor([[[[2.0, -1.0], [0.5, 9.0]]]])
    mask = torch.tensor([[[255, 0], [255, 127]]], dtype=torch.uint8)
    each = [1.0 * np.log1p(np.exp(-2)), 0.7 * np.log1p(np.exp(-1)), 1.0 * np.log1p(np.exp(-0.5))]
    assert float(losses.weighted_cross_entropy(logits, mask)) == pytest.approx(
        sum(each) / 2.7, rel=1e-6
    )
    logits[0, 0, 1, 1] = -50
    assert float(losses.weighted_cross_entropy(logits, mask)) == pytest.approx(
        sum(each) / 2.7, rel=1e-6
    )
    assert float(losses.weighted_cross_entropy(logits, torch.full((1, 2, 2), 127))) == 0


def test_cross_entropy_is_torchs_weighted_one_of_two_classes():
    logits, mask = noise_images(2), (noise_images(2, seed=3)[:, 0] > 0).to(torch.uint8) * 255
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    wanted = F.cross_entropy(two, (mask > 0).long(), weight=torch.tensor([0.7, 1.0]).double())
    torch.testing.assert_close(losses.weighted_cross_entropy(logits, mask), wanted)


def test_consistency_trains_the_student_only():
    student, teacher = noise_images(1).requires_grad_(), noise_images(1, seed=5).requires_grad_()
    losses.consistency(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
