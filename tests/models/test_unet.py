"""The U-Net: shapes, and that its skip connections carry."""

import torch

from cxrkit.models.unet import UNet


def test_unet_shapes_and_that_its_skips_carry():
    torch.manual_seed(0)
    model, image = UNet((4, 6, 8)).eval(), torch.randn(2, 1, 16, 16)
    before = model(image)["logits"]
    assert before.shape == (2, 1, 16, 16)
    torch.nn.init.zeros_(model.down[-1][-3].weight)  # the lowest level gives nothing
    after = model(image)["logits"]
    assert after.std() > 0 and not torch.allclose(before, after)


def test_patches_change_neither_shape_nor_the_way_to_segment():
    torch.manual_seed(0)
    model, image = UNet((4, 6), patch=2).eval(), torch.randn(2, 1, 16, 16)
    assert model.segment(image).shape == (2, 1, 16, 16)
    assert torch.equal(model.segment(image), model(image)["logits"])
