"""What CUDA's mixed precision makes of every training of the paper, without a card: on fake
tensors.

A fake tensor has a shape, a type and a device and no values, so that torch itself says which types
its autocast chooses on a GPU, which losses it refuses, and where two devices meet. Not seen that
way: values, and what asks autograd for gradients (R1's penalty too). Autocast treats fp16 as it
treats bf16.
"""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cxrkit.config import profiles
from cxrkit.data import lung_zones
from cxrkit.models import factory, simclr
from cxrkit.pipeline import dependencies
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction import plan
from cxrkit.tasks import contrastive, diagnosis, findings, segmentation, severity
from cxrkit.training import batches
from cxrkit.training import losses as losses_module

GPU = torch.device("cuda", 0)
FULL = profiles.paper()
PAPER = replace(
    FULL,
    backbone=replace(FULL.backbone, block_config=(2, 2, 2, 2)),
    transformer=replace(FULL.transformer, depth=2),
)
FILMS = 4


def on_card(model):
    """The model with fake weights on the card."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            module._parameters[name] = (
                weight if weight is None else nn.Parameter(torch.empty(weight.shape, device=GPU))
            )
        for name, buffer in module._buffers.items():
            module._buffers[name] = (
                buffer
                if buffer is None
                else torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
            )
    return model


@pytest.fixture
def asked(monkeypatch):
    """asked(make, loss, size): the loss of a model on fake films of `size` px, as autocast to fp16
    lets it be on a card.
    """
    monkeypatch.setattr(
        lung_zones,
        "zones",
        lambda masks, choices: torch.ones(
            FILMS, 3, 2, *masks.shape[1:], dtype=torch.bool, device=GPU
        ),
    )

    def ask(make, loss, size):
        with torch.device("meta"):
            model = make()
        with FakeTensorMode():
            batch = batches.to_device(plan.made_up(FILMS, size), GPU)
            # torch.autocast itself asks whether a card is there
            torch.set_autocast_dtype("cuda", torch.float16)
            torch.set_autocast_enabled("cuda", True)
            try:
                return loss(on_card(model).train(), batch)
            finally:
                torch.set_autocast_enabled("cuda", False)

    return ask


def sound(value):
    """A loss in float32 on the card, and so is every other scalar for the history."""
    values = value.values() if isinstance(value, dict) else (value,)
    return all(v.device == GPU and v.dtype == torch.float32 and v.shape == () for v in values)


def diagnose(profile):
    loss = diagnosis.HEADS[profile.choices.class_head][0]
    return lambda model, batch: loss(model(batch["image"])["logits"], batch["diagnosis"])


def test_the_stand_in_sees_types_devices_and_refused_losses(asked):
    line = functools.partial(nn.Linear, 8, 1)
    assert asked(line, lambda model, batch: model(batch["image"]), 8).dtype == torch.float16
    with pytest.raises(RuntimeError, match="unsafe to autocast"):
        asked(
            line,
            lambda model, batch: F.binary_cross_entropy(
                model(batch["image"]).sigmoid(), batch["image"][..., :1]
            ),
            8,
        )
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        asked(line, lambda model, batch: model(batch["image"]) + torch.zeros(1, 8), 8)
    assert not sound(asked(line, lambda model, batch: model(batch["image"]).amax(), 8))


def test_the_backbone(asked):
    assert sound(asked(lambda: factory.backbone_network(PAPER), findings.loss, PAPER.image_size))


@pytest.mark.parametrize(
    "coins", [(0.9, 0.9), (0.1, 0.9)], ids=["style of a latent", "style of a film"]
)
def test_the_teacher_of_the_segmenter(asked, monkeypatch, coins):
    def loss(nets, batch):
        del nets._buffers["step"]  # the loss asks for values of these two
        nets.step = 0
        monkeypatch.setattr(torch, "rand", lambda count: coins)
        # autograd needs a real card
        monkeypatch.setattr(losses_module, "r1", lambda logits, image: logits.float().sum())
        return segmentation.adaptation_loss(PAPER, nets, batch)

    assert sound(asked(lambda: segmentation.translator(PAPER), loss, PAPER.segmenter.size))


def test_the_student_of_the_segmenter(asked):
    with torch.device("meta"):
        teacher = segmentation.translator(PAPER).eval()
    assert sound(
        asked(
            lambda: segmentation.generator(PAPER),
            lambda student, batch: segmentation.student_loss(
                PAPER, on_card(teacher), student, batch
            ),
            PAPER.segmenter.size,
        )
    )


def test_the_plain_u_net(asked):
    assert sound(
        asked(
            lambda: segmentation.unet(PAPER),
            functools.partial(segmentation.unet_loss, PAPER),
            PAPER.segmenter.size,
        )
    )


@pytest.mark.parametrize("head", diagnosis.HEADS)
def test_the_diagnosis(asked, head):
    profile = replace(PAPER, choices=replace(PAPER.choices, class_head=head))
    assert sound(asked(lambda: factory.network(profile), diagnose(profile), PAPER.image_size))


def test_severity_by_every_choice(asked):
    """Float32 from the map on: the largest value of a zone decides, and in bf16 0.999 is 1."""

    def losses(model, batch):
        seen, out = model(batch["image"]), {}
        for how, pooling, sigmoid in itertools.product(
            severity.LOSSES, lung_zones.POOLS, severity.SIGMOIDS
        ):
            choices = replace(PAPER.choices, severity_loss=how, sigmoid=sigmoid)
            read = severity.read(lambda image: seen, batch, choices, pooling)
            assert {value.dtype for value in read.values()} == {torch.float32}
            out[how, pooling, sigmoid] = severity.loss(choices, pooling)(lambda image: seen, batch)
        assert len(out) == 8 and seen["severity_logits"].dtype == torch.float16
        return out

    assert sound(asked(lambda: severity.network(PAPER), losses, PAPER.image_size))


LOSSES = {
    "backbone": lambda profile: (
        lambda: factory.backbone_network(replace(profile, variant=profiles.Variant())),
        findings.loss,
    ),
    "trunk": lambda profile: (lambda: factory.backbone_network(profile), findings.loss),
    "contrastive": lambda profile: (
        lambda: simclr.Contrast(factory.network(profile), profile.transformer.embed_dim),
        contrastive.loss,
    ),
    "diagnosis_pa": lambda profile: (lambda: factory.network(profile), diagnose(profile)),
    "severity": lambda profile: (
        lambda: severity.network(profile),
        severity.loss(profile.choices, profile.variant.pooling),
    ),
}


def grid():
    """A parameter set (stage, profile) for all that lesson 07 trains beside the paper's own models."""
    asked = {}
    for cell in grid_module.cells(PAPER):
        for stage, profile in (
            (cell.stage, cell.profile),
            *dependencies.upstream(cell.profile, cell.stage),
        ):
            if stage in LOSSES:
                seen = (
                    stage,
                    replace(profile.variant, sites=()),
                    profile.transformer,
                    profile.backbone,
                )
                asked.setdefault(seen, pytest.param(stage, profile, id=f"{stage} {cell.name}"))
    return list(asked.values())


@pytest.mark.parametrize(("stage", "profile"), grid())
def test_every_cell_of_the_grid(asked, stage, profile):
    if profile.variant.model == "timm_hybrid":
        pytest.importorskip("timm", reason='needs the extra weights: pip install "cxrkit[weights]"')
    zoom = profile.variant.zoom if stage == "diagnosis_pa" else 1
    assert sound(asked(*LOSSES[stage](profile), zoom * profile.image_size))
