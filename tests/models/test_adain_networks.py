"""The segmenter's networks and losses against hand-worked cases, PyTorch's own instance norm, and
the sizes of the paper.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from cxrkit.data.masks import clean_mask
from cxrkit.models.adain_networks import (
    AdaIN,
    Block,
    Discriminator,
    Generator,
    Mapping,
    StyleEncoder,
    Translator,
    adain,
)
from cxrkit.models.unet import UNet
from cxrkit.training import losses as losses_module

SMALL = {
    "size": 16,
    "widths": (4, 6, 8),
    "judge_widths": (4, 6),
    "style_dim": 3,
    "latent_dim": 2,
    "hidden": 5,
}


def small(seed=0):
    torch.manual_seed(seed)
    return Translator(**SMALL).double()


def films(n=3, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, size, size, generator=generator, dtype=torch.float64)


def test_adain_is_its_equation_channel_by_channel():
    x, gamma, beta = (
        films(2)[:, 0].unfold(1, 8, 8).permute(0, 3, 1, 2),
        torch.randn(2, 8).double(),
        torch.randn(2, 8).double(),
    )
    out = adain(x, gamma, beta)
    for b in range(2):
        for c in range(8):
            plane = x[b, c].numpy()
            normal = (plane - plane.mean()) / np.sqrt(plane.var() + 1e-5)
            np.testing.assert_allclose(
                out[b, c].numpy(), (1 + float(gamma[b, c])) * normal + float(beta[b, c]), rtol=1e-10
            )


def test_adain_of_zeros_is_torchs_instance_norm():
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(
        adain(x, torch.zeros(2, 5), torch.zeros(2, 5)), F.instance_norm(x), rtol=1e-4, atol=1e-5
    )
    layer = AdaIN(3, 5)
    torch.testing.assert_close(layer(x), F.instance_norm(x), rtol=1e-4, atol=1e-5)


def test_adain_sets_mean_and_spread():
    out = adain(torch.randn(1, 2, 40, 40), torch.tensor([[1.0, -0.5]]), torch.tensor([[3.0, -2.0]]))
    torch.testing.assert_close(out.mean((2, 3)), torch.tensor([[3.0, -2.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        out.std((2, 3), correction=0), torch.tensor([[2.0, 0.5]]), atol=1e-3, rtol=0
    )


def test_the_papers_generator_has_33_6_million_weights():
    with torch.device("meta"):
        generator = Generator()
        out = (
            generator(torch.zeros(1, 1, 256, 256)),
            generator(torch.zeros(1, 1, 256, 256), torch.zeros(1, 16)),
        )
    assert sum(p.numel() for p in generator.parameters()) == 33_594_706
    assert [(*one, *next(iter(one.values())).shape) for one in out] == [
        ("logits", 1, 1, 256, 256),
        ("image", 1, 1, 256, 256),
    ]


@pytest.mark.parametrize("resize, size", [("half", 4), ("double", 16), (None, 8)])
def test_a_block_keeps_the_scale_of_the_skip(resize, size):
    """With its convolutions silent a block is the resized, projected input over sqrt 2."""
    block = Block(2, 3, style_dim=None, resize=resize)
    for conv in (block.conv1, block.conv2):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    x = torch.randn(1, 2, 8, 8)
    sized = {
        "half": lambda t: F.avg_pool2d(t, 2),
        "double": lambda t: t.repeat_interleave(2, 2).repeat_interleave(2, 3),
        None: lambda t: t,
    }[resize]
    torch.testing.assert_close(block(x), block.skip(sized(x)) / 2**0.5)
    assert block(x).shape == (1, 3, size, size)


def test_style_and_self_code_change_what_comes_out():
    nets, image = small(), films()
    generator, style = nets.generator, torch.randn(3, 3).double()
    assert not torch.allclose(generator(image, style)["image"], generator(image, -style)["image"])
    torch.nn.init.normal_(generator.self_code)
    assert not torch.allclose(
        generator(image)["logits"], generator(image, self_code=True)["logits"]
    )
    # no image sees its neighbours
    torch.testing.assert_close(generator(image)["logits"][1:2], generator(image[1:2])["logits"])


def test_residual_gives_the_change_of_the_film():
    nets, image, style = small(), films(), torch.randn(3, 3).double()
    whole = nets.generator(image, style)["image"]
    nets.generator.residual = True
    torch.testing.assert_close(nets.generator(image, style)["image"] - image, whole)


@pytest.mark.parametrize(
    "net, shape",
    [
        (Mapping(2, 3, 5), (2,)),
        (StyleEncoder(16, (4, 6), 3), (1, 16, 16)),
        (Discriminator(16, (4, 6)), (1, 16, 16)),
        (StyleEncoder(24, (4, 6), 3), (1, 24, 24)),
    ],
)
def test_each_image_is_read_by_the_head_of_its_domain(net, shape):
    x, domain = torch.randn(4, *shape), torch.tensor([0, 1, 1, 0])
    mixed = net(x, domain)
    for d in (0, 1):
        torch.testing.assert_close(mixed[domain == d], net(x, torch.full((4,), d))[domain == d])
    assert not torch.allclose(
        net(x, torch.zeros(4, dtype=torch.long)), net(x, torch.ones(4, dtype=torch.long))
    )


def test_the_fixed_style_is_one_that_training_sees():
    """A latent of zeros would give a style of almost nothing, the same for both domains: outside of
    all that was learnt.
    """
    torch.manual_seed(0)
    nets = Translator(16, (4, 8), (4, 8), hidden=32)
    drawn = nets.mapping(torch.randn(400, 4), torch.arange(2).repeat(200)).norm(dim=1)  # (400,)
    fixed = nets.style(torch.arange(2))
    assert (
        (fixed.norm(dim=1) > drawn.quantile(0.05)) & (fixed.norm(dim=1) < drawn.quantile(0.95))
    ).all()
    assert (fixed[0] - fixed[1]).norm() > 0.5 * drawn.mean()
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(nets.to_normal(image), nets.generator(image, fixed[[1, 1]])["image"])


def test_unet_shapes_and_that_its_skips_carry():
    torch.manual_seed(0)
    model, image = UNet((4, 6, 8)).eval(), torch.randn(2, 1, 16, 16)
    assert model(image)["logits"].shape == (2, 1, 16, 16)
    before = model(image)["logits"]
    torch.nn.init.zeros_(model.down[-1][-3].weight)  # the deepest level falls silent
    after = model(image)["logits"]
    assert after.std() > 0 and not torch.allclose(before, after)


# losses


def test_nonsaturating_is_minus_log_of_the_probability():
    logits = torch.tensor([0.0, 2.0])
    assert float(losses_module.nonsaturating(logits, True)) == pytest.approx(
        np.mean([np.log(2), np.log(1 + np.exp(-2))]), rel=1e-6
    )
    assert float(losses_module.nonsaturating(logits, False)) == pytest.approx(
        np.mean([np.log(2), np.log(1 + np.exp(2))]), rel=1e-6
    )


def test_r1_of_a_linear_judge_is_half_its_squared_weights():
    image, weight = films(4).requires_grad_(), films(1, seed=2)
    assert float(losses_module.r1((image * weight).sum((1, 2, 3)), image)) == pytest.approx(
        0.5 * float(weight.square().sum())
    )


def test_one_backward_pass_gives_both_sides_their_own_gradients():
    """The joint loss has the discriminator's gradient of its own game and the generator's of its
    own, as two separate passes have.
    """
    nets, image = small(), films(4)
    domain, target = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])
    style = nets.mapping(torch.randn(4, 2).double(), target).detach()
    losses = losses_module.translation_losses(nets, image, domain, target, style)
    sum(losses.values()).backward()

    alone = copy.deepcopy(nets)
    alone.zero_grad()
    fake = alone.generator(image, style)["image"]
    source = image.clone().requires_grad_()
    real = alone.discriminator(source, domain)
    judge = (
        F.softplus(-real).mean()
        + F.softplus(alone.discriminator(fake.detach(), target)).mean()
        + losses_module.r1(real, source)
    )
    wanted = torch.autograd.grad(judge, list(alone.discriminator.parameters()))
    for weight, gradient in zip(nets.discriminator.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    back = alone.generator(fake, alone.encoder(image, domain))["image"]
    game = (
        F.softplus(-alone.discriminator(fake, target)).mean()
        + (alone.encoder(fake, target) - style).abs().mean()
        + (back - image).abs().mean()
    )
    moved = [w for part in (alone.generator, alone.encoder) for w in part.parameters()]
    for weight, gradient in zip(
        [w for part in (nets.generator, nets.encoder) for w in part.parameters()],
        torch.autograd.grad(game, moved, allow_unused=True),
        strict=True,
    ):
        assert (weight.grad is None) == (gradient is None)  # mask head and self code take no part
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient)


def test_diversity_is_the_distance_of_two_films():
    nets, image, target = small(), films(2), torch.tensor([1, 1])
    one, two = (torch.randn(2, 3).double() for _ in range(2))
    losses = losses_module.translation_losses(
        nets, image, 1 - target, target, one, two, penalty=False
    )
    wanted = (
        (nets.generator(image, one)["image"] - nets.generator(image, two)["image"]).abs().mean()
    )
    torch.testing.assert_close(losses["diversity"], wanted)
    assert "r1" not in losses


def test_cross_entropy_by_hand_with_ignored_pixels():
    logits = torch.tensor([[[[2.0, -1.0], [0.5, 9.0]]]])
    mask = torch.tensor([[[255, 0], [255, 127]]], dtype=torch.uint8)
    each = [1.0 * np.log1p(np.exp(-2)), 0.7 * np.log1p(np.exp(-1)), 1.0 * np.log1p(np.exp(-0.5))]
    assert float(losses_module.weighted_cross_entropy(logits, mask)) == pytest.approx(
        sum(each) / 2.7, rel=1e-6
    )
    logits[0, 0, 1, 1] = -50
    assert float(losses_module.weighted_cross_entropy(logits, mask)) == pytest.approx(
        sum(each) / 2.7, rel=1e-6
    )
    assert float(losses_module.weighted_cross_entropy(logits, torch.full((1, 2, 2), 127))) == 0


def test_cross_entropy_is_torchs_weighted_one_of_two_classes():
    logits, mask = films(2), (films(2, seed=3)[:, 0] > 0).to(torch.uint8) * 255
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    wanted = F.cross_entropy(two, (mask > 0).long(), weight=torch.tensor([0.7, 1.0]).double())
    torch.testing.assert_close(losses_module.weighted_cross_entropy(logits, mask), wanted)


def test_consistency_teaches_the_student_only():
    student, teacher = films(1).requires_grad_(), films(1, seed=5).requires_grad_()
    losses_module.consistency(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


# masks


def test_clean_mask_keeps_the_two_largest_and_fills_their_holes():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:16, 2:12], mask[3:18, 16:28] = 255, 255
    wanted = mask > 0
    mask[6:9, 4:7] = 0  # a hole
    mask[18:20, 0:3] = 255  # debris
    for form in (mask, mask > 0, (mask > 0).astype(np.uint8)):
        out = clean_mask(form)
        assert out.dtype == bool  # a filled hole can be no other value than lung
        np.testing.assert_array_equal(out, wanted)


def test_a_bay_at_the_border_is_no_hole():
    mask = np.ones((9, 9), bool)
    mask[3:6, 0:4] = False
    np.testing.assert_array_equal(clean_mask(mask), mask)


@pytest.mark.parametrize("seed", range(4))
def test_clean_mask_agrees_with_scipy(seed):
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 60)), 2.5) > 0.02
    labels, n = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, labels, range(1, n + 1))
    kept = np.isin(labels, 1 + np.argsort(-sizes, kind="stable")[:2])
    np.testing.assert_array_equal(clean_mask(mask), ndimage.binary_fill_holes(kept))


@pytest.mark.parametrize("mask", [np.zeros((5, 5), bool), np.ones((5, 5), bool)])
def test_empty_and_full_masks_stay(mask):
    np.testing.assert_array_equal(clean_mask(mask), mask)


@pytest.mark.parametrize("mask", [np.full((4, 4), 127, np.uint8), np.zeros((2, 4, 4), bool)])
def test_clean_mask_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="clean_mask takes one mask"):
        clean_mask(mask)
