"""What runs on a graphics card comes out as on the CPU, and nothing meets a tensor of the other
device; on a stand-in (`card`).
"""

import contextlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from cxrkit.pipeline import stages
from cxrkit.shortcuts import marker_study
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.training import checkpoint, device_of, devices, evaluate, fit
from tests.fakes.card import CARD, CPU, Card
from tests.training import test_distributed as small

pytestmark = [
    pytest.mark.usefixtures("few_draws"),
    pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning"),
]
CHAIN = ("backbone", "segmenter", "diagnosis_pa", "severity")
data_root = small.data_root


def unfused(maker, parameters, fused, **options):
    """An optimiser without its fused form, which knows by name the devices that it runs on."""
    return maker(parameters, **options)


@contextlib.contextmanager
def machine(device, mode=contextlib.nullcontext):
    """`pick_device` finds this device, whose arithmetic is that of the CPU."""
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


def chain(root, data_root):
    store = Store(root, data_root)
    for stage in CHAIN:
        stages.resolve(small.profile(), stage, store)
    return store


@pytest.fixture(scope="module")
def on_the_cpu(data_root, few_draws, tmp_path_factory):
    """The store with the stages of CHAIN."""
    with machine(CPU):
        return chain(tmp_path_factory.mktemp("cpu"), data_root)


@pytest.fixture(scope="module")
def on_the_card(data_root, few_draws, tmp_path_factory):
    with machine(CARD, Card):
        return chain(tmp_path_factory.mktemp("card"), data_root)


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


def train(model, loss=small.loss, **options):
    return fit(model, loss, small.data(), small.TRAINING, progress=False, **options)


def score(model):
    """Of a validation that evaluates where the training is."""
    output = evaluate(model, small.data(), device=device_of(model))
    return {"score": float(output["logits"].mean())}


def test_fit_moves_the_model_to_the_device_and_leaves_it_there(card):
    """By default the fastest, else the one asked for; a training that fails moves nothing back."""
    seen = []

    def loss(model, batch):
        seen.append((device_of(model), batch["image"].device))
        return small.loss(model, batch)

    for device, want in ((None, CARD), (CPU, CPU), ("meta", CARD)):
        model = small.Net()
        train(model, loss, validate=score, device=device)
        assert set(seen) == {(want, want)} and device_of(model) == want
        seen.clear()
    with pytest.raises(FloatingPointError):
        train(model, lambda model, batch: loss(model, batch) * float("nan"))
    assert device_of(model) == CARD


def test_evaluate_moves_the_model_and_returns_tensors_on_the_cpu(card):
    model, data = small.Net(), small.data()
    with torch.no_grad():
        want = model.eval()(data["image"])["logits"]
    for device, where in ((None, CARD), (CPU, CPU), (CARD, CARD)):
        logits = evaluate(model, data, device=device)["logits"]
        assert device_of(model) == where and logits.device == CPU
        torch.testing.assert_close(logits, want)
    with pytest.raises(KeyError):
        evaluate(model, data, ("no such output",))
    assert device_of(model) == CARD


def test_a_validation_must_not_move_the_model(card):
    def moves(model):
        return {"score": float(evaluate(model, small.data(), device=CPU)["logits"].mean())}

    with pytest.raises(RuntimeError, match=r"from meta to cpu.*device=device_of\(model\)"):
        train(small.Net(), validate=moves)


def test_weights_and_checkpoints_have_no_device(tmp_path):
    """A training that was cut on the card goes on on the CPU, and comes out as one of the CPU."""
    whole, cut, updates = small.Net(), small.Net(), []

    def power_cut(model, batch):
        updates.append(1)
        if len(updates) > 7:  # in update 4, each of two passes
            raise OSError("power cut")
        return small.loss(model, batch)

    with machine(CARD, Card), pytest.raises(OSError):
        train(cut, power_cut, folder=tmp_path)
    tensors, state = checkpoint.load_tensors(tmp_path / "checkpoint.safetensors")
    assert state["step"] == 2 and {tensor.device for tensor in tensors.values()} == {CPU}
    resumed = small.Net()
    with machine(CPU):
        train(resumed, folder=tmp_path)
        train(whole)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=1e-5)
    with machine(CARD, Card):
        again = small.Net().to(CARD)
        checkpoint.load_weights(again, tmp_path / "weights.safetensors")
        assert device_of(again) == CARD
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor.cpu(), resumed.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("stage", CHAIN)
def test_stages_of_a_card_equal_those_of_the_cpu(on_the_cpu, on_the_card, stage):
    cpu, card = (
        stages.folder_of(small.profile(), stage, store) for store in (on_the_cpu, on_the_card)
    )
    weights = [checkpoint.load_tensors(folder / "weights.safetensors")[0] for folder in (cpu, card)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)
    assert read_json(card / "metrics.json")["images"] == read_json(cpu / "metrics.json")["images"]


def test_the_marker_study_predicts_from_tensors_of_the_cpu_with_a_probe_of_the_card(card):
    features, codes = torch.randn(24, 5, 2, 2), [i % 3 for i in range(24)]
    model = marker_study.fit_model(
        marker_study.LinearProbe,
        features,
        codes,
        replace(marker_study.PROBE_TRAINING, steps=3),
    )
    assert marker_study.probabilities(model, features).shape == (24, 3)
