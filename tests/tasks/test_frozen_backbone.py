"""A frozen backbone: its corpora are those of a forward pass, each is computed once for all stages,
and a mirrored one takes array and mask with it.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import COLUMNS
from cxrkit.data import corpus_cache
from cxrkit.data.datasets import CXRDataset
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import frozen_backbone

CPU = torch.device("cpu")
SIZE, N = 32, 11


class Model(nn.Module):
    """Features of four channels on a grid of 2x2, which count the images that they see."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(1, 4, 16, stride=16)
        self.seen = 0
        self.features.register_forward_hook(self._count)

    def _count(self, module, inputs, output):
        self.seen += len(output)


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(1)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (N, SIZE, SIZE)).astype(np.uint8))
    rows = pd.DataFrame({"rul": np.arange(N) % 2, "lul": 1 - np.arange(N) % 2})
    rows[["rml", "rll", "lml", "lll"]] = 0.0
    table = rows.reindex(columns=COLUMNS)
    paths = [f"{tmp_path / 'images.npy'}#{i}" for i in range(N)]
    return table.assign(path=paths, lung_mask=paths)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def images_of(table, store, masks=False):
    return CXRDataset(table, SIZE, Choices(augmentation="none"), masks=masks, store=store)


def direct(model, images):
    with torch.no_grad():
        return model.features(images.batch(range(len(images)))["image"])


def test_corpora_are_those_of_a_forward_pass_and_are_computed_once(table, store, monkeypatch):
    monkeypatch.setattr(corpus_cache, "CHUNK", 4)  # several files
    model, images = Model().eval(), images_of(table, store)
    truth = direct(model, images)
    model.seen = 0
    first = table[:5].reset_index(drop=True)
    frozen_backbone.corpora_of(model, images_of(first, store), first, store, CPU)
    assert model.seen == 5
    found = frozen_backbone.corpora_of(model, images, table, store, CPU)
    assert model.seen == N and len(found) == N
    order = [7, 0, 7, N - 1]
    for reader in (found, pickle.loads(pickle.dumps(found))):
        torch.testing.assert_close(reader.gather(order), truth[order])
    # another table of the same images, in another order, in another stage
    turned = table[::-1].reset_index(drop=True)
    again = frozen_backbone.corpora_of(model, images_of(turned, store), turned, store, CPU)
    assert model.seen == N
    torch.testing.assert_close(again.gather(range(N)), truth.flip(0))


def test_other_weights_have_other_corpora(table, store):
    model, images = Model().eval(), images_of(table, store)
    before = frozen_backbone.corpora_of(model, images, table, store, CPU).gather([3])
    with torch.no_grad():
        model.features.weight *= 2
    after = frozen_backbone.corpora_of(model, images, table, store, CPU).gather([3])
    assert not torch.allclose(before, after)


def test_a_kill_loses_no_finished_file(table, store, monkeypatch):
    monkeypatch.setattr(corpus_cache, "CHUNK", 4)
    model, images = Model().eval(), images_of(table, store)
    truth, forward = direct(model, images), model.features.forward
    model.seen = 0

    def killed(x):
        if model.seen >= 8:
            raise KeyboardInterrupt
        return forward(x)

    monkeypatch.setattr(model.features, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        frozen_backbone.corpora_of(model, images, table, store, CPU)
    monkeypatch.setattr(model.features, "forward", forward)
    found = frozen_backbone.corpora_of(model, images, table, store, CPU)
    assert model.seen == N
    torch.testing.assert_close(found.gather(range(N)), truth)


def test_a_damaged_file_is_named(table, store):
    model, images = Model().eval(), images_of(table, store)
    frozen_backbone.corpora_of(model, images, table, store, CPU)
    (index,) = store.root.glob("corpora-*/corpora-0.json")
    index.write_text(index.read_text()[:-20])
    with pytest.raises(ValueError, match="corpora-0.json"):
        frozen_backbone.corpora_of(model, images, table, store, CPU)


def test_a_mirrored_corpus_takes_array_and_mask_with_it(table, store):
    model, images = Model().eval(), images_of(table, store, masks=True)
    straight = frozen_backbone.corpus_dataset(model, images, table, store, CPU)
    mirrored = frozen_backbone.corpus_dataset(model, images, table, store, CPU, flip=1.0)
    for name in ("features", "array", "lung_mask"):
        one, other = straight.batch(range(N))[name], mirrored.batch(range(N))[name]
        assert torch.equal(one.flip(-1), other) and not torch.equal(one, other), name
    half = frozen_backbone.corpus_dataset(model, images, table, store, CPU, flip=0.5)
    torch.manual_seed(0)
    changed = (half.batch([2] * 200)["array"] != straight.batch([2] * 200)["array"]).any((1, 2))
    assert 70 < changed.sum() < 130
