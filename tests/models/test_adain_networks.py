"""The segmenter's networks against equations, torch's instance norm, and the paper's size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

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
from tests.fakes.small_models import noise_images, small_translator


def test_adain_is_its_equation_channel_by_channel():
    x = noise_images(2)[:, 0].unfold(1, 8, 8).permute(0, 3, 1, 2)  # (2, 8, 2, 16)
    gamma = torch.randn(2, 8).double()
    beta = torch.randn(2, 8).double()
    out = adain(x, gamma, beta)
    for b in range(2):
        for c in range(8):
            plane = x[b, c].numpy()
            normal = (plane - plane.mean()) / np.sqrt(plane.var() + 1e-5)
            wanted = (1 + float(gamma[b, c])) * normal + float(beta[b, c])
            np.testing.assert_allclose(out[b, c].numpy(), wanted, rtol=1e-10)


def test_adain_of_zeros_is_torchs_instance_norm():
    x = torch.randn(2, 5, 7, 6)
    zeros = torch.zeros(2, 5)
    torch.testing.assert_close(adain(x, zeros, zeros), F.instance_norm(x), rtol=1e-4, atol=1e-5)
    layer = AdaIN(3, 5)
    torch.testing.assert_close(layer(x), F.instance_norm(x), rtol=1e-4, atol=1e-5)


def test_adain_sets_mean_and_spread():
    out = adain(torch.randn(1, 2, 40, 40), torch.tensor([[1.0, -0.5]]), torch.tensor([[3.0, -2.0]]))
    torch.testing.assert_close(out.mean((2, 3)), torch.tensor([[3.0, -2.0]]), atol=1e-4, rtol=0)
    spread = out.std((2, 3), correction=0)
    torch.testing.assert_close(spread, torch.tensor([[2.0, 0.5]]), atol=1e-3, rtol=0)


def test_the_papers_generator_has_33_6_million_weights():
    with torch.device("meta"):
        generator = Generator()
        image = torch.zeros(1, 1, 256, 256)
        mask = generator(image)
        translated = generator(image, torch.zeros(1, 16))
    assert sum(p.numel() for p in generator.parameters()) == 33_594_706
    assert list(mask) == ["logits"] and mask["logits"].shape == (1, 1, 256, 256)
    assert list(translated) == ["image"] and translated["image"].shape == (1, 1, 256, 256)


@pytest.mark.parametrize("resize, size", [("half", 4), ("double", 16), (None, 8)])
def test_a_block_keeps_the_scale_of_the_skip(resize, size):
    """With zeros in its convolutions a block is the resized, projected input over sqrt(2)."""
    block = Block(2, 3, style_dim=None, resize=resize)
    for conv in (block.conv1, block.conv2):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    x = torch.randn(1, 2, 8, 8)
    resized = {
        "half": F.avg_pool2d(x, 2),
        "double": x.repeat_interleave(2, 2).repeat_interleave(2, 3),
        None: x,
    }[resize]
    torch.testing.assert_close(block(x), block.skip(resized) / 2**0.5)
    assert block(x).shape == (1, 3, size, size)


def test_style_and_self_code_change_what_comes_out():
    generator, image = small_translator().generator, noise_images()
    style = torch.randn(3, 3).double()
    assert not torch.allclose(generator(image, style)["image"], generator(image, -style)["image"])
    torch.nn.init.normal_(generator.self_code)
    plain = generator(image)["logits"]
    assert not torch.allclose(plain, generator(image, self_code=True)["logits"])
    # no image sees its neighbours
    torch.testing.assert_close(plain[1:2], generator(image[1:2])["logits"])


def test_segment_is_the_generator_with_its_self_code():
    generator, image = small_translator().generator, noise_images()
    torch.nn.init.normal_(generator.self_code)
    assert torch.equal(generator.segment(image), generator(image, self_code=True)["logits"])


def test_residual_gives_the_change_of_the_image():
    generator, image = small_translator().generator, noise_images()
    style = torch.randn(3, 3).double()
    whole = generator(image, style)["image"]
    generator.residual = True
    torch.testing.assert_close(generator(image, style)["image"] - image, whole)


@pytest.mark.parametrize(
    "net, shape",
    [
        (Mapping(2, 3, 5), (2,)),
        (StyleEncoder(16, (4, 6), 3), (1, 16, 16)),
        (Discriminator(16, (4, 6)), (1, 16, 16)),
        (StyleEncoder(24, (4, 6), 3), (1, 24, 24)),
    ],
)
def test_each_image_goes_to_the_head_of_its_domain(net, shape):
    x, domain = torch.randn(4, *shape), torch.tensor([0, 1, 1, 0])
    mixed = net(x, domain)
    alone = [net(x, torch.full((4,), d)) for d in (0, 1)]
    for d in (0, 1):
        torch.testing.assert_close(mixed[domain == d], alone[d][domain == d])
    assert not torch.allclose(*alone)


def test_the_fixed_style_is_one_that_training_sees():
    """A latent of zeros would give a style of almost 0, the same for both domains."""
    torch.manual_seed(0)
    nets = Translator(16, (4, 8), (4, 8), hidden=32)
    random = nets.mapping(torch.randn(400, 4), torch.arange(2).repeat(200)).norm(dim=1)  # (400,)
    fixed = nets.fixed_style(torch.arange(2))
    length = fixed.norm(dim=1)
    assert (length > random.quantile(0.05)).all() and (length < random.quantile(0.95)).all()
    assert (fixed[0] - fixed[1]).norm() > 0.5 * random.mean()
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(nets.to_normal(image), nets.generator(image, fixed[[1, 1]])["image"])
