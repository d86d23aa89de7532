"""Public ViTs explained: logits as before, nothing touched, all of the output found again."""

import copy
import re
import types

import pytest
import timm
import torch
import torchvision
from torch import nn

from cxrkit.explain import conversion, deep_taylor, methods
from cxrkit.storage import recorded
from tests.conftest import CHECKOUT
from tests.explain.test_attnlrp import shares


def randomised(model, seed=0, std=0.1):
    """Weights that leave no part idle: zero biases and heads would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return model.eval()


def timm_vit(**changes):
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
    return timm.models.vision_transformer.VisionTransformer(**sizes | {"num_classes": 3} | changes)


def torchvision_vit(**changes):
    return torchvision.models.VisionTransformer(16, 8, 2, 3, 12, 24, num_classes=3, **changes)


def with_regression_head():
    model = torchvision_vit()
    model.heads = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
    return model


def rectangular():
    return timm_vit(img_size=(16, 24), patch_size=(4, 8), in_chans=1)


MODELS = {
    "timm": timm_vit,
    "timm, mean": lambda: timm_vit(global_pool="avg"),
    "timm, mean after the norm": lambda: timm_vit(global_pool="avg", fc_norm=False),
    "timm, mean, no class token": lambda: timm_vit(global_pool="avg", class_token=False),
    "timm, LayerScale": lambda: timm_vit(init_values=0.1),
    "timm, DINOv2 with registers": lambda: timm_vit(
        init_values=0.1, reg_tokens=4, no_embed_class=True, global_pool="avg", fc_norm=False
    ),
    "timm, registers": lambda: timm_vit(reg_tokens=2),
    "timm, regression": lambda: timm_vit(num_classes=1),
    "timm, no biases": lambda: timm_vit(qkv_bias=False),
    "timm, rectangular": rectangular,
    "timm, SiLU and another eps": lambda: timm_vit(act_layer=nn.SiLU, norm_layer=nn.LayerNorm),
    "torchvision": torchvision_vit,
    "torchvision, tanh head": lambda: torchvision_vit(representation_size=10),
    "torchvision, regression": with_regression_head,
}


def made(name):
    model = randomised(MODELS[name]()).double()
    size = (16, 24) if name == "timm, rectangular" else (16, 16)
    channels = 1 if name == "timm, rectangular" else 3
    generator = torch.Generator().manual_seed(1)
    return model, torch.randn(3, channels, *size, generator=generator).double()


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_gives_the_same_logits(name):
    model, image = made(name)
    vit = conversion.convert(model)
    found = vit(vit.patches(image))["logits"]
    torch.testing.assert_close(found, model(image).detach(), rtol=1e-9, atol=1e-11)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_all_of_the_output_is_found_again(name):
    """Patches, biases, positions and what each softmax keeps sum to the output."""
    model, image = made(name)
    vit = conversion.convert(model).requires_grad_(True)
    value, of_input, of_biases, of_softmax = shares(vit, vit.patches(image[:1]), 0)
    torch.testing.assert_close(of_input + of_biases + of_softmax, value, rtol=1e-8, atol=1e-11)
    found = conversion.explain(model, image[:1], 0)
    torch.testing.assert_close(found.sum((1, 2)), of_input, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["timm, DINOv2 with registers", "torchvision, regression"])
@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_explains_an_image_alone_as_in_a_batch(name, method):
    model, image = made(name)
    maps = conversion.explain(model, image, 0, method)
    assert maps.shape == (3, 2, 2) and maps.isfinite().all()
    if method == "random":
        return
    alone = [conversion.explain(model, one[None], 0, method) for one in image]
    torch.testing.assert_close(maps, torch.cat(alone), rtol=1e-8, atol=1e-12)
    assert maps.abs().max() > 0 or method == "attention_gradcam"  # it keeps its positive part


def test_relevance_of_a_mean_is_conserved():
    model, image = made("timm, mean after the norm")
    vit = conversion.convert(model)
    row, steps = deep_taylor.trace(vit, vit.patches(image), [0, 2])
    totals = torch.stack([step.tokens.sum((-2, -1)) for step in steps])
    assert row[:, :, 0].abs().max() == 0  # nobody reads the class token
    torch.testing.assert_close(totals, row.sum(-1).expand_as(totals), rtol=1e-5, atol=1e-8)


def test_layer_scale_acts_like_a_module_of_its_own():
    """AttnLRP does not change where LayerScale becomes part of the layer before it."""
    model, image = made("timm, LayerScale")
    vit = conversion.convert(model)
    x = vit.patches(image).requires_grad_()
    (gradient,) = torch.autograd.grad(vit(x)["logits"][:, 1].sum(), x)
    pixels = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(pixels)[:, 1].sum(), pixels)
    torch.testing.assert_close(gradient, vit.patches(expected), rtol=1e-8, atol=1e-12)


@pytest.mark.integration
@pytest.mark.parametrize("library", ["torchvision vit_b_16", "timm vit_small_patch16_224"])
def test_public_models_at_full_size(library):
    torch.manual_seed(0)
    if library == "torchvision vit_b_16":
        model = torchvision.models.vit_b_16(weights=None)
        model.heads = nn.Linear(768, 2)
    else:
        model = timm.create_model("vit_small_patch16_224", num_classes=2, init_values=0.1)
    model, image = model.eval(), torch.randn(1, 3, 224, 224)
    vit = conversion.convert(model)
    with torch.no_grad():
        assert (vit(vit.patches(image))["logits"] - model(image)).abs().max() <= 1e-5
    maps = conversion.explain(model, image, [0, 1])
    assert maps.shape == (1, 2, 14, 14) and maps.std((2, 3)).min() > 0


def test_the_users_model_is_not_touched():
    model, image = made("timm")
    model.train().requires_grad_(False)
    model.blocks[0].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    conversion.explain(model, image, 1, "relevance")
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())


def test_dropout_in_training_mode_does_not_disturb():
    model, image = made("torchvision, regression")
    expected = conversion.explain(model, image, 0)
    torch.testing.assert_close(conversion.explain(model.train(), image, 0), expected)


def swapped(name, part):
    """A model of MODELS with another module at a place."""
    model = MODELS[name]()
    place, _, last = part.rpartition(".")
    setattr(model.get_submodule(place), last, nn.Softplus())
    return model


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: timm_vit(qk_norm=True), r"blocks\.0\.attn\.q_norm is a LayerNorm"),
        (lambda: timm_vit(norm_layer=timm.layers.RmsNorm), r"blocks\.0\.norm1 is a RmsNorm"),
        (lambda: timm_vit(pre_norm=True), "norm_pre is a LayerNorm"),
        (lambda: timm_vit(global_pool="map"), "attn_pool is a AttentionPoolLatent"),
        (lambda: timm_vit(global_pool="max"), "global_pool 'max'"),
        (lambda: timm_vit(num_classes=0), "the model has no head"),
        (lambda: timm_vit(pos_embed="none"), "pos_embed is None"),
        (lambda: timm_vit(act_layer=nn.Softplus), r"blocks\.0\.mlp\.act is a Softplus"),
        (lambda: timm_vit(mlp_layer=timm.layers.SwiGLU), r"blocks\.0\.mlp\.fc1 is a SwiGLU"),
        (lambda: swapped("timm", "head"), "head.2 is a Softplus"),
        (lambda: swapped("torchvision", "conv_proj"), "conv_proj is a Softplus"),
        (lambda: swapped("torchvision, regression", "heads.2"), r"heads\.2 is a Softplus"),
        (lambda: torchvision.models.resnet18(), "torchvision.models.resnet.ResNet"),
    ],
)
def test_an_unsupported_module_is_named(build, message):
    with pytest.raises(conversion.Unsupported, match=message):
        conversion.explain(build(), torch.rand(1, 3, 16, 16), 0)


def test_a_forward_pass_of_its_own_is_noticed():
    model = randomised(timm_vit())
    plain = model.forward
    model.forward = types.MethodType(lambda self, x: 2 * plain(x), model)
    with pytest.raises(conversion.Unsupported, match="other logits than the model"):
        conversion.explain(model, torch.rand(1, 3, 16, 16), 0)


@pytest.mark.parametrize(
    "image, options, message",
    [
        ((1, 3, 32, 32), {}, r"this model reads \(B, C, 16, 16\)"),
        ((3, 16, 16), {}, "give it a batch"),
        ((1, 3, 16, 16), {"method": "magic"}, "unknown method 'magic'; known: relevance, attnlrp"),
    ],
)
def test_what_cannot_be_explained_is_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        conversion.explain(randomised(timm_vit()), torch.rand(image), 0, **options)


def test_the_ten_lines_of_the_guide_run():
    text = (CHECKOUT / "docs" / "explain.md").read_text()
    code = re.search("```python\n(.*?)```", text, re.DOTALL).group(1)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 10
    names = {}
    exec(code, names)
    assert names["maps"].shape == (1, 14, 14) and names["maps"].std() > 0


def test_the_guide_says_what_was_measured_on_real_films():
    """Each cell of the table is that of the recorded result."""
    text = (CHECKOUT / "docs" / "explain.md").read_text()
    criteria = ("deletion", "insertion", "saturation")
    rows = recorded.read_result("saliency_real")["rows"]
    assert {row["criterion"] for row in rows} == set(criteria)
    for row in rows:
        line = next(x for x in text.splitlines() if x.startswith(f"| {row['method']} |"))
        cell = line.split(" | ")[1 + criteria.index(row["criterion"])]
        words = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        if "ahead_conclusion" in row:
            words += f", {row['ahead_conclusion']}"
        assert cell.removesuffix(" |") == words
    for criterion in ("deletion", "insertion"):
        values = {row["method"]: row for row in rows if row["criterion"] == criterion}
        others = [row for name, row in values.items() if name != methods.DEFAULT_METHOD]
        assert {row["ahead_conclusion"] for row in others} == {"better"}
