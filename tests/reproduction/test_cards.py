"""Hours and memory on a named card, by hand, and the memory of every training of the paper."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cxrkit.config import profiles
from cxrkit.config.sections import Training, Variant
from cxrkit.reproduction import cards, grid, plan
from cxrkit.training import memory, recompute

PAPER = profiles.paper()


def test_hours_by_hand():
    """A card of 1e12 FLOPs and 1e9 bytes a second. 1e9 FLOPs an image: 2 to 10 ms. 1e6 bytes in
    float32, moved 4 to 10 times at half the width: 2 to 5 ms. 3,600,000 images: 2 to 10 hours; of
    1e7 bytes 20 to 50, bound by memory.
    """
    card = cards.Card("made up", 1e12, 1e9, 2**30)
    assert card.hours(3_600_000, 1e9, 1e6) == pytest.approx((2, 10))
    assert card.hours(3_600_000, 1e9, 1e7) == pytest.approx((20, 50))


def test_flops_of_an_update_by_hand():
    """A linear layer of 6 inputs and 5 outputs: 2 * 6 * 5 forward, as much for its weights; its
    input needs no gradient.
    """
    training = Training("sgd", batch=4, steps=2)
    batch = {"image": torch.randn(4, 6)}
    loss = lambda model, batch: model(batch["image"]).square().mean()  # noqa: E731
    model = nn.Linear(6, 5, bias=False)
    *_, flops = plan.measure_update(training, model, loss, batch, torch.device("cpu"))
    assert flops == 2 * 2 * 6 * 5


def test_flops_are_those_of_torchs_own_counter():
    """A convolution, a product, and their backward passes."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    image = torch.randn(2, 1, 7, 7)
    totals = []
    for counter in (cards.FlopCounter(), FlopCounterMode(display=False)):
        with counter:
            model(image).sum().backward()
        totals.append(counter.total if not totals else counter.get_total_flops())
    assert totals[0] == totals[1] > 2000


def test_the_table_of_cards_is_said_to_be_estimated_and_names_what_is_too_large():
    training = Training("adam", batch=8, steps=1000)
    cost = plan.Cost("large", 9, training, 0.1, 5 * 2**30, 10**6, 2, flops=1e12)
    assert cost.card_memory == 8 * 5 * 2**29 + (4 * 4 + 2) * 10**6 + cards.WORK_SPACE
    said = plan.card_lines([cost])
    assert "estimated" in said[0] and "21.5 GB" in said[0]
    lines = {line.split(":")[0].strip(): line for line in said[1:]}
    assert "too small for large" in lines["T4"] and "too small" not in lines["RTX 3090"]


def kept(task, training, size, views=1):
    """Bytes kept by one update at full size in bf16, on meta."""
    with torch.device("meta"):
        model = task.network().to(torch.bfloat16).train()
        if task.profile.transformer.frozen and hasattr(model, "features"):
            model.features.requires_grad_(False)
        image = torch.empty(views * training.batch, 1, size, size, dtype=torch.bfloat16)
        call = partial(model, image)
        if hasattr(model, "class_token"):
            call = partial(
                recompute.in_parts, model.network, model.class_token, image, training.micro_batch
            )
        with recompute.recomputed(model, training.recompute):
            count = memory.kept_during(call, model.parameters())
    weights = sum(weight.numel() for weight in model.parameters())
    numbers = 2 + memory.MOMENTS[training.optimizer]
    return cards.card_memory(2 * count, 1, weights, numbers) / 2**30


# the others need less, or take longer to count, and are left to `make test-slow`
LARGEST = (
    "contrastive SimCLR: proposed",
    "diagnosis_pa proposed",
    "diagnosis_pa ViT",
    "diagnosis_pa hybrid ViT",
)


def trainings():
    """A parameter set for every update of the paper's models and its grid."""
    own = [("backbone", PAPER), (grid.DIAGNOSIS, PAPER), (grid.SEVERITY, PAPER)]
    steps = [(stage, profile, "proposed") for stage, profile in own]
    steps += grid.extra_steps(PAPER).values()
    seen = {}
    for stage, profile, cell in steps:
        own_profile = replace(profile, variant=Variant()) if stage == "backbone" else profile
        same = replace(own_profile.variant, initial_weights="", sites=(), contrastive=False)
        update = (stage, same, own_profile.transformer, own_profile.backbone)
        marks = () if f"{stage} {cell}" in LARGEST else pytest.mark.slow
        mark = pytest.param(stage, own_profile, id=f"{stage} {cell}", marks=marks)
        seen.setdefault(update, mark)
    return list(seen.values())


@pytest.mark.parametrize(("stage", "profile"), trainings())
def test_every_training_of_the_paper_fits_a_card_of_16_gb(stage, profile):
    """The work space is a guess, and SimCLR comes within 0.3 GB: 24 are safe and 16 a try."""
    if profile.variant.model == "timm_hybrid":
        pytest.importorskip("timm", reason='needs the extra weights: pip install "cxrkit[weights]"')
    kind, _ = plan.GRID_TASKS[stage]
    training = grid.training_of(profile, stage)
    size = profile.image_size * (profile.variant.zoom if stage == grid.DIAGNOSIS else 1)
    views = 2 if stage == "contrastive" else 1
    assert kept(kind(profile), training, size, views) < 16


def test_trainings_with_one_update_are_measured_once():
    """All of the grid's trainings are named, and fewer updates than trainings are built."""
    small = replace(profiles.demo(), name="small")
    tables = dict.fromkeys(
        ("findings", "diagnosis", "severity"),
        plan.pd.DataFrame({"external": [False], "split": ["train"]}),
    )
    planned, problems = plan.grid_trainings(small, tables)
    named = list(itertools.chain.from_iterable(one.images for one in planned))
    assert not problems and len(named) >= len(planned)
    assert len(planned) < len(grid.extra_trainings(small))
