"""The button trains with the kit's own loop, for as long as it may, and stops when asked."""

import threading
import time
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cxrkit import teaching
from cxrkit.config import profiles
from cxrkit.config.sections import Training
from cxrkit.tasks.task import Task
from cxrkit.teaching import live_training
from cxrkit.training import batches

ROWS = 40  # 20 train, 10 validate, 10 are external
PATIENCE = 30  # s for a thread to end


class Slope(Task):
    """y = 2 x, learned by one weight from numbers in the table."""

    name = "slope"

    def network(self):
        return nn.Linear(1, 1)

    def dataset(self, table, train=False):
        columns = (torch.tensor(table[[name]].to_numpy(np.float32)) for name in ("x", "y"))
        return batches.Tensors(zip(("x", "y"), columns, strict=True))

    def loss(self, model, batch):
        return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}

    def training(self, images):
        return Training("adamw", lr=0.05, batch=8, steps=5, schedule="cosine", warmup=2)

    def predict(self, model, table):
        raise NotImplementedError

    def evaluate(self, predictions, train):
        raise NotImplementedError


class Broken(Slope):
    """A task whose loss fails in training."""

    def loss(self, model, batch):
        if model.training:
            raise ValueError("no <loss>")
        return super().loss(model, batch)


def numbers():
    x = np.linspace(-1, 1, ROWS)
    split = np.tile(["train", "train", "val", "test"], ROWS // 4)
    return pd.DataFrame({"x": x, "y": 2 * x, "split": split, "external": split == "test"})


def button(seconds, task=Slope, weights=tuple):
    reference = nn.Linear(1, 1)
    nn.init.constant_(reference.weight, 2.0)
    nn.init.constant_(reference.bias, 0.1)
    task = task(profiles.demo(), device=torch.device("cpu"))
    return teaching.train_yourself(task, numbers(), reference, weights, seconds, images=16)


def end(box):
    box.thread.join(PATIENCE)
    assert not box.thread.is_alive()
    assert not box.start.disabled and box.stop.disabled


def test_nothing_is_trained_before_the_click():
    threads = threading.active_count()
    box = button(60, weights=lambda: pytest.fail("the weights were asked for"))
    assert box.thread is None and box.training.model is None and box.picture.value == ""
    assert threading.active_count() == threads
    assert box.start.description == "Train it yourself, 60 seconds"


def test_a_click_trains_for_the_time_that_is_given():
    box, began = button(1), time.monotonic()
    box.start.click()
    end(box)
    assert time.monotonic() - began >= 1
    train, val = box.training.train, box.training.val
    assert [step for step, _ in val] == [0, *[step for step, _ in train]]
    assert len(train) >= 3 and train[-1][0] > Slope.training(None, 0).steps
    assert val[-1][1] < val[0][1] / 10 and train[-1][1] < train[0][1] / 10
    assert box.training.model.weight.item() == pytest.approx(2, abs=0.2)
    assert not box.training.model.training
    # (w x + b - 2 x) squared with w = 2 and b = 0.1, whatever x is
    assert box.training.at_reference == pytest.approx(0.01, rel=1e-4)
    assert "The reference model" in box.message.value and "has 0.010" in box.message.value
    page = ElementTree.fromstring(box.picture.value)
    words = [word.text for word in page.iter("{http://www.w3.org/2000/svg}text")]
    assert {"training", "validation"} <= set(words)


def test_it_can_be_stopped_and_started_again():
    box = button(600)
    for _ in range(2):
        box.start.click()
        assert box.start.disabled
        box.stop.click()
        end(box)


def test_it_begins_with_the_weights_that_it_is_given():
    weights = {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([0.0])}
    box = button(0.2, weights=lambda: [weights])
    box.start.click()
    end(box)
    assert box.training.val[0] == (0, pytest.approx(0, abs=1e-9))


def test_an_error_is_shown_and_leaves_the_button():
    box = button(60, Broken)
    box.start.click()
    end(box)
    assert "ValueError: no &lt;loss&gt;" in box.message.value


def test_only_images_of_train_and_val_are_used():
    tables = button(60).training.tables
    assert {name: len(table) for name, table in tables.items()} == {"train": 16, "val": 8}
    for name, table in tables.items():
        assert set(table["split"]) == {name} and not table["external"].any()


def test_the_mean_loss_weighs_images_alike(monkeypatch):
    """Seven images in batches of three: the mean of all, not that of three batches."""
    monkeypatch.setattr(live_training, "BATCH", 3)
    task, table = Slope(profiles.demo()), numbers()[:7]
    model = nn.Linear(1, 1)
    error = model.weight.item() * table["x"] + model.bias.item() - table["y"]
    found = live_training.mean_loss(task, model, task.dataset(table))
    assert found == pytest.approx((error**2).mean(), rel=1e-4)


def test_curves_lie_on_their_page():
    page = live_training.draw_curves([(5, 0.2), (9, 0.1)], [(0, 3.0), (9, 0.3)], 0.25)
    lines = ElementTree.fromstring(page._repr_svg_()).iter("{http://www.w3.org/2000/svg}polyline")
    for line in lines:
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= page.width and 0 <= y <= page.height
