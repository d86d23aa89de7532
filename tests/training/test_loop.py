"""The loop against closed forms and hand-written loops; killed runs against uninterrupted ones, to
the bit.
"""

import contextlib
import json
import math
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.sections import Training
from cxrkit.training import batches, checkpoint, devices, loop, random_state
from cxrkit.training.optimizers import lr_factor
from tests.fakes import processes

CPU = torch.device("cpu")
PAPER_VIT = Training(
    optimizer="sgd",
    lr=1e-3,
    momentum=0.9,
    clip=1.0,
    batch=16,
    steps=10_000,
    schedule="cosine",
    warmup=500,
)


class Net(nn.Module):
    """Small, with everything that carries state: batch norm, dropout, a channels_last conv."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 2)

    def forward(self, image):
        return {"logits": self.head(self.body(image).mean((2, 3)))}


class Noisy:
    """A dataset that augments with torch's global generator, one item at a time."""

    def __init__(self, n=40, delay=0.0):
        g = torch.Generator().manual_seed(1)
        self.image, self.target, self.delay = (
            torch.randn(n, 1, 8, 8, generator=g),
            torch.arange(n) % 2,
            delay,
        )

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        time.sleep(self.delay)
        return {
            "image": self.image[i] + self.target[i] + 0.1 * torch.randn(1, 8, 8),
            "target": self.target[i],
        }


def loss(model, batch):
    # so that python's and numpy's generators matter too
    chance = 1 + 0.1 * random.random() + 0.1 * np.random.rand()
    return chance * F.cross_entropy(model(batch["image"])["logits"], batch["target"])


def linear_data(n=64):
    g = torch.Generator().manual_seed(2)
    image = torch.randn(n, 3, generator=g)
    return batches.Tensors(image=image, target=image @ torch.tensor([[1.0], [-2.0], [0.5]]))


def squared(model, batch):
    return F.mse_loss(model(batch["image"]), batch["target"])


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def fit(model, data, training, loss=squared, **more):
    return loop.fit(model, loss, data, training, device=CPU, progress=False, **more)


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# schedules, optimisers, precision


@pytest.mark.parametrize(
    "step, want",
    [
        (0, 1 / 500),
        (249, 0.5),
        (499, 1.0),
        (500, 1.0),
        (5250, 0.5),
        (9999, math.sin(math.pi / 2 / 9500) ** 2),
    ],
)
def test_paper_schedule(step, want):
    assert lr_factor(step, PAPER_VIT) == pytest.approx(want, rel=1e-9)


def test_step_decay_and_constant():
    decay = Training(schedule="step", milestones=(10, 15), decay=0.5)
    assert [lr_factor(s, decay) for s in (0, 9, 10, 14, 15, 999)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
    ]
    assert [lr_factor(s, Training(warmup=4)) for s in (0, 1, 3, 4, 99)] == [
        0.25,
        0.5,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("bad", [{"optimizer": "lion"}, {"schedule": "poly"}, {"amp": "fp8"}])
def test_unknown_names_are_refused_with_the_known_ones(bad):
    with pytest.raises(ValueError, match="unknown .*known: "):
        fit(linear(), linear_data(), Training(steps=1, **bad))


@pytest.mark.parametrize(
    "name, make",
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.01)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01)),
    ],
)
def test_loop_is_the_loop_anyone_would_write(name, make):
    data, training = (
        linear_data(),
        Training(
            optimizer=name,
            lr=0.1,
            momentum=0.8,
            betas=(0.5, 0.9),
            weight_decay=0.01,
            batch=16,
            steps=12,
            schedule="cosine",
            warmup=3,
            clip=0.5,
        ),
    )
    trained, plain = linear(), linear()
    fit(trained, data, training, seed=5)
    optimizer = make(plain.parameters())
    order = np.concatenate(
        [np.random.default_rng([5, epoch]).permutation(64) for epoch in range(3)]
    )
    for step in range(12):
        rows = order[step * 16 : (step + 1) * 16]
        factor = (step + 1) / 3 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 9)) / 2
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        optimizer.zero_grad()
        F.mse_loss(plain(data["image"][rows]), data["target"][rows]).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
    torch.testing.assert_close(trained.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("amp", list(devices.PRECISIONS))
def test_a_cpu_mixes_precision_only_where_bf16_is_named(amp):
    autocast, scaler = devices.precision(amp, CPU)
    with autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if amp == "bf16" else torch.float32)
    assert not scaler.is_enabled()


def test_bf16_finds_the_same_weights_and_keeps_them_in_float32():
    model = linear()
    fit(model, linear_data(), Training(optimizer="sgd", lr=0.05, batch=16, steps=200, amp="bf16"))
    assert model.weight.dtype == torch.float32
    torch.testing.assert_close(model.weight, torch.tensor([[1.0, -2.0, 0.5]]), rtol=0, atol=0.02)


def test_loss_scaling_trains_skips_overflow_and_survives_a_restart(monkeypatch, tmp_path):
    """The fp16 branch, with the CPU standing in: float32 arithmetic, a real scaler."""
    monkeypatch.setattr(
        devices,
        "precision",
        lambda amp, device: (
            contextlib.nullcontext,
            torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3),
        ),
    )
    training = Training(optimizer="sgd", lr=0.05, batch=16, steps=9, clip=1.0, checkpoint_every=4)
    scaled = linear()
    fit(scaled, linear_data(), training, folder=tmp_path / "whole")
    with monkeypatch.context() as plain:
        off = contextlib.nullcontext, torch.amp.GradScaler(enabled=False)
        plain.setattr(devices, "precision", lambda amp, device: off)
        unscaled = linear()
        fit(unscaled, linear_data(), training)
    torch.testing.assert_close(scaled.state_dict(), unscaled.state_dict(), rtol=1e-5, atol=1e-6)

    calls = []

    def overflows(model, batch):
        calls.append(1)
        if len(calls) == 2:
            # finite loss, infinite gradient
            return squared(model, batch) + (model.weight.sum() * 1e38).clamp(-1e38, 1e38) * 10
        if len(calls) == 7:
            raise OSError("power cut")
        return squared(model, batch)

    with pytest.raises(OSError):
        fit(linear(), linear_data(), training, overflows, folder=tmp_path / "cut")
    scale = checkpoint.load_tensors(tmp_path / "cut" / "checkpoint.safetensors")[1]["scaler"][
        "scale"
    ]
    assert scale == 2.0**7  # halved once by the overflow, two good steps do not raise it yet
    model = linear()
    fit(model, linear_data(), training, overflows, folder=tmp_path / "cut")
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_gradient_that_no_scale_makes_finite_stops_the_training(monkeypatch):
    """Else fp16 would skip every update to the end, in silence."""
    monkeypatch.setattr(
        devices,
        "precision",
        lambda amp, device: (
            contextlib.nullcontext,
            torch.amp.GradScaler("cpu", init_scale=2.0**8),
        ),
    )
    skipped = -int(math.log2(loop.LOWEST_SCALE / 2**8))
    with pytest.raises(
        FloatingPointError, match=f"norm of the gradient is nan in step {skipped + 2} of 99"
    ):
        fit(
            linear(),
            linear_data(),
            Training(batch=4, steps=99),
            lambda model, batch: squared(model, batch) + (0 * model.weight).sum().sqrt(),
        )


@pytest.mark.parametrize("first", [False, True])
def test_a_training_goes_on_where_the_other_machine_needs_a_scale_or_none(
    monkeypatch, tmp_path, first
):
    training, data = (
        Training(optimizer="sgd", lr=0.05, batch=16, steps=9, checkpoint_every=4),
        linear_data(),
    )

    def scaling(on):
        monkeypatch.setattr(
            devices,
            "precision",
            lambda amp, device: (contextlib.nullcontext, torch.amp.GradScaler("cpu", enabled=on)),
        )

    calls = []

    def cut(model, batch):
        calls.append(1)
        if len(calls) == 7:
            raise OSError("the card is gone")
        return squared(model, batch)

    scaling(first)
    with pytest.raises(OSError):
        fit(linear(), data, training, cut, folder=tmp_path)
    scaling(not first)
    moved, whole = linear(), linear()
    fit(moved, data, training, folder=tmp_path)
    fit(whole, data, training)
    torch.testing.assert_close(moved.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)


# accumulation, averages, freezing, groups, order


def test_accumulation_equals_the_larger_batch():
    whole, parts = linear(), linear()
    fit(whole, linear_data(), Training(optimizer="sgd", lr=0.1, batch=16, steps=5))
    fit(parts, linear_data(), Training(optimizer="sgd", lr=0.1, batch=4, accumulate=4, steps=5))
    torch.testing.assert_close(whole.state_dict(), parts.state_dict(), rtol=1e-6, atol=1e-7)


def test_ema_is_its_recursion():
    seen, model = [], linear()

    def spy(m, batch):
        seen.append(m.weight.detach().clone())
        return squared(m, batch)

    training = Training(lr=0.1, batch=8, steps=6)
    fit(linear(), linear_data(), training, spy)
    last = linear()
    fit(last, linear_data(), training)
    fit(model, linear_data(), replace(training, ema=0.25))
    average = seen[0]
    for step, weight in enumerate([*seen[1:], last.weight.detach()], start=1):
        decay = min(0.25, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(model.weight.detach(), average, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.weight, last.weight, atol=1e-3)


def test_frozen_part_keeps_weights_and_batch_statistics():
    model, before = net(), net().body.state_dict()
    model.body.requires_grad_(False)
    fit(model, Noisy(), Training(steps=3, batch=8), loss)
    assert all(torch.equal(model.body.state_dict()[k], v) for k, v in before.items())
    assert not torch.equal(model.head.weight, net().head.weight)


def test_parameter_groups_have_their_own_rate():
    model, start = linear(), linear()
    fit(
        model,
        linear_data(),
        Training(optimizer="sgd", lr=0.1, batch=8, steps=2),
        parameters=[{"params": [model.weight]}, {"params": [model.bias], "lr": 0.0}],
    )
    assert torch.equal(model.bias, start.bias) and not torch.equal(model.weight, start.weight)


def test_order_sees_every_image_once_an_epoch_and_can_be_entered_anywhere():
    order = batches.Order(10, seed=3)
    whole = order.take(0, 40)
    assert all(sorted(whole[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
    assert whole[:10] != whole[10:20] and whole != batches.Order(10, seed=4).take(0, 40)
    assert batches.Order(10, seed=3).take(17, 9) == whole[17:26]
    indices = batches.Order(2, seed=0, weights=[1, 3]).take(0, 8000)
    assert np.mean(indices) == pytest.approx(0.75, abs=0.02)


def test_processes_share_out_each_step():
    data = batches.Tensors(image=torch.arange(30))
    one = batches.stream(data, batches.Order(30, 0), 8, seed=0)
    two = [batches.stream(data, batches.Order(30, 0), 8, seed=0, rank=r, world=2) for r in range(2)]
    for _ in range(6):
        assert next(one)[0] == next(two[0])[0] + next(two[1])[0]


def test_workers_give_the_same_augmentation():
    plain, workers = (
        batches.stream(Noisy(), batches.Order(40, 0), 4, seed=0, workers=w) for w in (0, 2)
    )
    for _ in range(5):
        (i, a), (j, b) = next(plain), next(workers)
        assert i == j and torch.equal(a["image"], b["image"])


def test_batch_method_is_preferred_and_equal():
    data = linear_data()
    items = [{name: data[name][i] for name in data} for i in range(64)]
    got, want = batches.fetch(data, [5, 2]), batches.fetch(items, [5, 2])
    assert all(torch.equal(got[name], want[name]) for name in want)


# validation, history, evaluation


def test_best_weights_by_validation(tmp_path):
    scores = iter([0.1, 0.9, math.nan, 0.5])
    at = []

    def validate(model):
        assert not model.training
        at.append(model.weight.detach().clone())
        return {"score": next(scores), "auc": 0.7}

    model = linear()
    training = Training(lr=0.1, batch=8, steps=8, eval_every=2, log_every=4)
    result = fit(model, linear_data(), training, validate=validate, folder=tmp_path)
    assert (result["best_step"], result["best_score"], result["steps"]) == (4, 0.9, 8)
    assert torch.equal(model.weight, at[1]) and not torch.equal(model.weight, at[3])
    rows = json.loads((tmp_path / "history.json").read_text())
    assert rows == result["history"] and [r["step"] for r in rows] == [2, 4, 6, 8]
    assert [r["score"] for r in rows] == [0.1, 0.9, None, 0.5] and all(
        r["auc"] == 0.7 and r["images_per_s"] > 0 for r in rows
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.json", "weights.safetensors"]
    assert torch.equal(
        checkpoint.load_weights(linear(), tmp_path / "weights.safetensors").weight, at[1]
    )


def test_history_holds_means_and_named_parts():
    losses = []

    def two_parts(model, batch):
        value = squared(model, batch)
        losses.append(float(value.detach()))
        return {"loss": value, "twice": 2 * value.detach()}

    result = fit(linear(), linear_data(), Training(batch=8, steps=5, log_every=2), two_parts)
    assert [r["step"] for r in result["history"]] == [2, 4, 5]
    assert [r["loss"] for r in result["history"]] == pytest.approx(
        [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]]
    )
    assert result["history"][0]["twice"] == pytest.approx(2 * np.mean(losses[:2]))


def test_evaluate_is_one_plain_forward_in_order():
    model, data = net(), Noisy(10)
    data = batches.Tensors(image=data.image, target=data.target)
    output = loop.evaluate(model.train(), data, batch=4, device=CPU)
    with torch.no_grad():
        torch.testing.assert_close(output["logits"], model.eval()(data["image"])["logits"])
    both = loop.evaluate(
        model,
        data,
        keep=("target", "double"),
        device=CPU,
        forward=lambda model, batch: {"target": batch["target"], "double": 2 * batch["target"]},
    )
    assert torch.equal(both["double"], 2.0 * data["target"])


def test_a_training_may_ask_for_its_number_of_threads():
    before, seen = torch.get_num_threads(), []

    def watched(model, batch):
        seen.append(torch.get_num_threads())
        return squared(model, batch)

    for asked, want in ((before + 1, before + 1), (1, 1), (0, before)):
        fit(
            linear(),
            linear_data(),
            Training("sgd", lr=0.01, batch=4, steps=2, threads=asked),
            watched,
        )
        assert set(seen) == {want} and torch.get_num_threads() == before
        seen.clear()
    with pytest.raises(KeyboardInterrupt), devices.cpu_threads(before + 1):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before


def test_empty_datasets_are_refused():
    empty = batches.Tensors(image=torch.zeros(0, 3))
    with pytest.raises(ValueError, match="empty"):
        fit(linear(), empty, Training())
    with pytest.raises(ValueError, match="empty"):
        loop.evaluate(linear(), empty, device=CPU)


# trouble


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_names_the_images_and_keeps_the_checkpoint(tmp_path, where, accumulate):
    """A loss names the images of its own pass, a gradient those of the whole update, whichever pass
    spoilt it: here the first.
    """
    calls, data = [], linear_data()

    def breaks(model, batch):
        calls.append(batch["image"])
        value = squared(model, batch)
        if len(calls) != 5 * accumulate + 1:
            return value
        # slope of sqrt at 0: 0 * inf
        return value * math.nan if where == "loss" else value + (0 * model.weight).sum().sqrt()

    with pytest.raises(FloatingPointError, match="in step 6 of 9, images") as error:
        fit(
            linear(),
            data,
            Training(batch=3, steps=9, accumulate=accumulate, checkpoint_every=2),
            breaks,
            folder=tmp_path,
        )
    named = json.loads(
        str(error.value)
        .split("images ")[1]
        .split(" (rows of the training films' table, from 0);")[0]
    )
    passes = 1 if where == "loss" else accumulate
    assert len(calls) == 5 * accumulate + passes and torch.equal(
        data["image"][named], torch.cat(calls[5 * accumulate :])
    )
    tensors, state = checkpoint.load_tensors(tmp_path / "checkpoint.safetensors")
    assert state["step"] == 4 and all(torch.isfinite(t).all() for t in tensors.values())


def cut_at(step, kind=OSError):
    calls = []

    def cut(model, batch):
        calls.append(1)
        if len(calls) > step:
            raise kind("power cut")
        return loss(model, batch)

    return cut


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_cut_run_ends_with_the_same_bits(tmp_path, optimizer):
    """Cut between checkpoints; best weights, EMA, accumulation and history are part of what goes
    on.
    """
    training = Training(
        optimizer=optimizer,
        lr=0.01,
        batch=6,
        accumulate=2,
        steps=20,
        schedule="cosine",
        warmup=4,
        ema=0.9,
        clip=1.0,
        eval_every=3,
        log_every=2,
        checkpoint_every=4,
    )

    def score(model):
        return {
            "score": -float(model.head.weight.square().sum())
            + (model.head.bias[0] * 3).sin().item()
        }

    whole = net()
    want = fit(whole, Noisy(), training, loss, validate=score, folder=tmp_path / "whole")
    # from the start to step 7; then from step 4 to the middle of step 11
    for seed, passes in ((0, 2 * 7), (9, 2 * 6 + 1)):
        with pytest.raises(OSError):
            fit(
                net(seed),
                Noisy(),
                training,
                cut_at(passes),
                validate=score,
                folder=tmp_path / "cut",
            )
    cut = net(seed=9)  # whatever the weights, those of the checkpoint count
    got = fit(cut, Noisy(), training, loss, validate=score, folder=tmp_path / "cut")
    assert same(whole, cut)
    drop = [{k: v for k, v in row.items() if k != "images_per_s"} for row in got["history"]]
    assert drop == [
        {k: v for k, v in row.items() if k != "images_per_s"} for row in want["history"]
    ]
    assert (got["best_step"], got["best_score"]) == (want["best_step"], want["best_score"])


def test_without_the_generators_the_bits_differ(tmp_path, monkeypatch):
    """The test above can fail: leave the RNG out of the resumption and it does."""
    training = Training(batch=8, steps=8, checkpoint_every=3)
    whole, cut = net(), net()
    fit(whole, Noisy(), training, loss)
    with pytest.raises(OSError):
        fit(net(), Noisy(), training, cut_at(5), folder=tmp_path)
    monkeypatch.setattr(checkpoint, "set_rng_state", lambda state: None)
    fit(cut, Noisy(), training, loss, folder=tmp_path)
    assert not same(whole, cut)


def cut_third_write(folder, kill):
    """Train; the rename of the third checkpoint fails, or the process is killed instead of it."""
    replace_file, writes = os.replace, []

    def cut(source, target):
        if Path(target).name == "checkpoint.safetensors":
            writes.append(target)
            if len(writes) == 3:
                if kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError("disk gone")
        replace_file(source, target)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(os, "replace", cut)
        fit(net(), Noisy(), CUT, loss, folder=folder)


CUT = Training(batch=8, steps=9, checkpoint_every=2)


@pytest.mark.parametrize("kill", [True, False])
def test_a_cut_write_leaves_the_old_checkpoint(tmp_path, kill):
    """A process that is killed leaves half a file, which the next one removes; one that goes on
    removes it itself, since the disk may be full.
    """
    folder, errors = tmp_path / "cut", tmp_path / "errors.txt"
    folder.mkdir()
    code, said = processes.end(processes.start(errors, cut_third_write, folder, kill), errors)
    assert code == (-signal.SIGKILL if kill else 1) and ("disk gone" in said) != kill, said
    assert len(list(folder.glob("*.part"))) == kill
    assert checkpoint.load_tensors(folder / "checkpoint.safetensors")[1]["step"] == 4
    whole, cut = net(), net()
    fit(whole, Noisy(), CUT, loss)
    fit(cut, Noisy(), CUT, loss, folder=folder)
    assert same(whole, cut) and not list(folder.glob("*.part"))


def test_a_finished_folder_is_only_loaded(tmp_path):
    training, model = Training(batch=8, steps=3), net(seed=9)
    first = fit(net(), Noisy(), training, loss, folder=tmp_path)
    assert fit(model, Noisy(), training, cut_at(0), folder=tmp_path) == first
    assert same(model, checkpoint.load_weights(net(), tmp_path / "weights.safetensors"))


def test_a_folder_of_other_settings_is_refused(tmp_path):
    with pytest.raises(OSError):
        fit(
            net(),
            Noisy(),
            Training(batch=8, steps=3, checkpoint_every=1),
            cut_at(2),
            folder=tmp_path,
        )
    with pytest.raises(ValueError, match=r"'lr': \(0.001, 0.1\)"):
        fit(
            net(),
            Noisy(),
            Training(batch=8, steps=3, checkpoint_every=1, lr=0.1),
            loss,
            folder=tmp_path,
        )
    with pytest.raises(ValueError, match=r"'images': \(40, 39\)"):
        fit(net(), Noisy(39), Training(batch=8, steps=3, checkpoint_every=1), loss, folder=tmp_path)


def test_rng_state_passes_through_json():
    random_state.seed_everything(7)
    np.random.randn()  # leaves a spare gaussian in numpy's state
    state = json.loads(json.dumps(random_state.rng_state()))

    def draw():
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.randn(3).tolist(),
            torch.randn(3).tolist(),
        )

    first, other = draw(), draw()
    random_state.set_rng_state(state)
    assert draw() == first != other


# real signals, in processes of their own

STEPS = Training(lr=0.01, batch=8, steps=30, checkpoint_every=1, ema=0.9, eval_every=5)


def child(*folders):
    """What the processes below run: 30 steps of about 40 ms, in one folder after the other."""
    for folder in folders:
        loop.fit(
            net(),
            loss,
            Noisy(delay=0.005),
            STEPS,
            validate=lambda m: {"score": m.head.bias[0].item()},
            folder=folder,
            device=CPU,
        )


def wait_for_step(folder, step, process):
    """Until the checkpoint has reached `step`."""
    path, deadline = folder / "checkpoint.safetensors", time.time() + 60
    while time.time() < deadline:
        if path.exists() and checkpoint.load_tensors(path)[1]["step"] >= step:
            return
        assert process.is_alive(), f"it ended with exit code {process.exitcode}"
        time.sleep(0.002)
    raise TimeoutError


@pytest.mark.integration
@pytest.mark.parametrize(
    "kills", [(7,), pytest.param((1, 2, 5, 11, 12, 19), marks=pytest.mark.slow)]
)
def test_sigkill_and_ctrl_c_change_no_bit(tmp_path, kills):
    cut, whole, errors = tmp_path / "cut", tmp_path / "whole", tmp_path / "errors.txt"
    for step in kills:
        process = processes.start(errors, child, cut)
        wait_for_step(cut, step, process)
        time.sleep(random.Random(step).uniform(0, 0.05))  # anywhere within a step or a write
        os.kill(process.pid, signal.SIGKILL)
        assert processes.end(process, errors)[0] == -signal.SIGKILL
    process = processes.start(errors, child, cut)
    wait_for_step(cut, kills[-1] + 3, process)
    os.kill(process.pid, signal.SIGINT)
    code, said = processes.end(process, errors)
    assert (
        code == 1
        and "KeyboardInterrupt: stopped after step" in said
        and "make the same call again to go on" in said
    )
    stopped = checkpoint.load_tensors(cut / "checkpoint.safetensors")[1]["step"]
    assert kills[-1] + 3 <= stopped < 30
    code, said = processes.end(processes.start(errors, child, cut, whole), errors)
    assert code == 0 and "images/s" in said
    weights = [
        checkpoint.load_tensors(tmp_path / name / "weights.safetensors")[0]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
