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

from cxrkit.config import profiles, sections
from cxrkit.data import lung_zones
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction import plan
from cxrkit.tasks import diagnosis, segmentation, severity
from cxrkit.tasks.contrastive import ContrastiveTask
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.tasks.findings import FindingsTask
from cxrkit.tasks.severity import SeverityTask
from cxrkit.training import batches, losses

GPU = torch.device("cuda", 0)
FULL = profiles.paper()
PAPER = replace(
    FULL,
    backbone=replace(FULL.backbone, block_config=(2, 2, 2, 2)),
    transformer=replace(FULL.transformer, depth=2),
)
IMAGES = 4


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
    """asked(make, loss, size): the loss of a model on fake images of `size` px, as autocast to fp16
    lets it be on a card.
    """
    monkeypatch.setattr(
        lung_zones,
        "zones",
        lambda masks, choices: torch.ones(
            IMAGES, 3, 2, *masks.shape[1:], dtype=torch.bool, device=GPU
        ),
    )

    def ask(make, loss, size):
        with torch.device("meta"):
            model = make()
        with FakeTensorMode():
            batch = batches.to_device(plan.noise_batch(IMAGES, size), GPU)
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
    task = FindingsTask(PAPER)
    assert sound(asked(task.network, task.loss, PAPER.image_size))


@pytest.mark.parametrize(
    "coins", [(0.9, 0.9), (0.1, 0.9)], ids=["style of a latent", "style of an image"]
)
def test_the_teacher_of_the_segmenter(asked, monkeypatch, coins):
    def loss(nets, batch):
        del nets._buffers["step"]  # the loss asks for values of these two
        nets.step = 0
        monkeypatch.setattr(torch, "rand", lambda count: coins)
        # autograd needs a real card
        monkeypatch.setattr(losses, "r1", lambda logits, image: logits.float().sum())
        return segmentation.adaptation_loss(PAPER, nets, batch)

    assert sound(asked(lambda: segmentation.build_translator(PAPER), loss, PAPER.segmenter.size))


def test_the_student_of_the_segmenter(asked):
    with torch.device("meta"):
        teacher = segmentation.build_translator(PAPER).eval()
    assert sound(
        asked(
            lambda: segmentation.build_generator(PAPER),
            lambda student, batch: segmentation.student_loss(
                PAPER, on_card(teacher), student, batch
            ),
            PAPER.segmenter.size,
        )
    )


def test_the_plain_u_net(asked):
    assert sound(
        asked(
            lambda: segmentation.build_unet(PAPER),
            functools.partial(segmentation.unet_loss, PAPER),
            PAPER.segmenter.size,
        )
    )


@pytest.mark.parametrize("head", diagnosis.HEADS)
def test_the_diagnosis(asked, head):
    profile = replace(PAPER, choices=replace(PAPER.choices, class_head=head))
    task = DiagnosisTask(profile)
    assert sound(asked(task.network, task.loss, PAPER.image_size))


def test_severity_by_every_choice(asked):
    """Float32 from the map on: the largest value of a zone decides, and in bf16 0.999 is 1."""

    def losses_by_choice(model, batch):
        output = model(batch["image"])
        out = {}
        for how, pooling, sigmoid in itertools.product(
            severity.LOSSES, lung_zones.POOLS, severity.SIGMOIDS
        ):
            profile = replace(
                PAPER,
                choices=replace(PAPER.choices, severity_loss=how, sigmoid=sigmoid),
                variant=replace(PAPER.variant, pooling=pooling),
            )
            found = severity.read_severity(lambda image: output, batch, profile.choices, pooling)
            assert {value.dtype for value in found.values()} == {torch.float32}
            out[how, pooling, sigmoid] = SeverityTask(profile).loss(lambda image: output, batch)
        assert len(out) == 8 and output["severity_logits"].dtype == torch.float16
        return out

    assert sound(asked(SeverityTask(PAPER).network, losses_by_choice, PAPER.image_size))


def without_variant(profile):
    """The backbone is the paper's own whatever the variant."""
    return FindingsTask(replace(profile, variant=sections.Variant()))


TASKS = {
    "backbone": without_variant,
    "feature_extractor": FindingsTask,
    "contrastive": ContrastiveTask,
    "diagnosis_pa": DiagnosisTask,
    "severity": SeverityTask,
}


def grid():
    """A parameter set (stage, profile) for all that lesson 07 trains beside the paper's models."""
    asked = {}
    for cell in grid_module.grid_cells(PAPER):
        steps = [(cell.stage, cell.profile), *stages.upstream(cell.profile, cell.stage)]
        for stage, profile in steps:
            if stage in TASKS:
                trained = (
                    stage,
                    replace(profile.variant, sites=()),
                    profile.transformer,
                    profile.backbone,
                )
                asked.setdefault(trained, (stage, profile, f"{stage} {cell.name}"))
    parameters, seen = [], set()
    for stage, profile, name in asked.values():
        # one of each kind of network is quick enough for every day
        kind = (stage, profile.variant.model, profile.variant.zoom)
        marks = [pytest.mark.slow] if kind in seen else []
        seen.add(kind)
        parameters.append(pytest.param(stage, profile, id=name, marks=marks))
    return parameters


@pytest.mark.integration
@pytest.mark.parametrize(("stage", "profile"), grid())
def test_every_cell_of_the_grid(asked, stage, profile):
    if profile.variant.model == "timm_hybrid":
        pytest.importorskip("timm", reason='needs the extra weights: pip install "cxrkit[weights]"')
    zoom = profile.variant.zoom if stage == "diagnosis_pa" else 1
    task = TASKS[stage](profile)
    assert sound(asked(task.network, task.loss, zoom * profile.image_size))
