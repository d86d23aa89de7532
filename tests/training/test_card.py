"""What runs on a graphics card comes out as on the CPU, and nothing meets a tensor of the other
device; on a stand-in (`card`).
"""

import contextlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from cxrkit.pipeline import dependencies, stages
from cxrkit.shortcuts import marker_study
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.training import checkpoint, devices, loop
from tests.fakes.card import CARD, CPU, Card
from tests.training import test_distributed as small

pytestmark = [
    pytest.mark.usefixtures("few_draws"),
    pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning"),
]
CHAIN = ("backbone", "segmenter", "diagnosis_pa", "severity")
films = small.films


def unfused(maker, parameters, fused, **options):
    """An optimiser without its fused form, which knows by name the devices that it runs on."""
    return maker(parameters, **options)


@contextlib.contextmanager
def machine(device, mode=contextlib.nullcontext):
    """`train` finds this device, whose arithmetic is that of the CPU."""
    with pytest.MonkeyPatch.context() as patch, mode():
        for maker in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD):
            patch.setattr(torch.optim, maker.__name__, partial(unfused, maker))
        patch.setattr(devices, "pick_device", lambda: device)
        # a weight that moves stays the same object, as it does with CUDA
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture
def card():
    with machine(CARD, Card):
        yield


def chain(root, films):
    store = Store(root, films)
    for stage in CHAIN:
        stages.MAKE[stage](small.profile(), store)
    return store


@pytest.fixture(scope="module")
def on_the_cpu(films, few_draws, tmp_path_factory):
    """The store with the stages of CHAIN."""
    with machine(CPU):
        return chain(tmp_path_factory.mktemp("cpu"), films)


@pytest.fixture(scope="module")
def on_the_card(films, few_draws, tmp_path_factory):
    with machine(CARD, Card):
        return chain(tmp_path_factory.mktemp("card"), films)


def test_the_stand_in_keeps_devices_apart(card):
    here, model = torch.randn(4, 3), nn.Linear(3, 2)
    want = model(here)
    model.to(CARD)
    with pytest.raises(RuntimeError, match="tensors on two devices"):
        model(here)
    there = model(here.to(CARD))
    assert there.device == CARD and there.cpu().device == want.device
    torch.testing.assert_close(there.cpu(), want)
    with pytest.raises(RuntimeError, match="numpy"):
        there.detach().numpy()
    there.square().sum().backward()
    assert model.weight.grad.device == CARD and float(model.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_ends_where_it_was(card, fails):
    """Else what follows a training or an evaluation, made on the CPU, would not meet it."""
    model, data = small.Net(), small.data()
    seen = []

    def loss(model, batch):
        seen.append((devices.device_of(model), batch["image"].device))
        return small.loss(model, batch)

    loop.fit(
        model,
        loss,
        data,
        small.TRAINING,
        validate=lambda model: {"score": float(devices.device_of(model) == CARD)},
        progress=False,
    )
    assert set(seen) == {(CARD, CARD)} and devices.device_of(model) == CPU
    with pytest.raises(FloatingPointError):
        loop.fit(
            model,
            lambda model, batch: loss(model, batch) * float("nan"),
            data,
            small.TRAINING,
            progress=False,
        )
    assert devices.device_of(model) == CPU
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        loop.evaluate(model, data, ("no such output",) if fails else ("logits",))
    assert devices.device_of(model) == CPU


@pytest.mark.parametrize("stage", CHAIN)
def test_stages_of_a_card_equal_those_of_the_cpu(on_the_cpu, on_the_card, stage):
    ours, theirs = (
        store.folder(stage, dependencies.settings(small.profile(), stage))
        for store in (on_the_cpu, on_the_card)
    )
    weights = [
        checkpoint.load_tensors(folder / "weights.safetensors")[0] for folder in (ours, theirs)
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)
    assert (
        read_json(theirs / "metrics.json")["images"] == read_json(ours / "metrics.json")["images"]
    )


def test_the_dial_reads_on_the_cpu_what_it_learnt_on_the_card(card):
    features, codes = torch.randn(24, 5, 2, 2), [i % 3 for i in range(24)]
    model = marker_study.learn(
        marker_study.Linear, features, codes, replace(marker_study.LINEAR, steps=3)
    )
    assert marker_study.probabilities(model, features).shape == (24, 3)
