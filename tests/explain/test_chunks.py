"""Explanations on a device and in chunks: the same numbers as all at once, and nothing left behind.

A tensor on the meta device has a shape and no values: whatever meets one of the CPU fails at once,
and so does its copy to the CPU. A method that fails in that copy alone computed there from end to
end.
"""

import copy
import inspect

import numpy as np
import pytest
import torch

from cxrkit.explain import chunks, measures, methods, saliency_benchmark
from cxrkit.models.corpus_vit import CorpusViT

ONLY_THE_COPY_FAILS = pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor")


def tiny(batch=7, dtype=torch.float64):
    """A model with a map head, and the corpus of some images."""
    torch.manual_seed(0)
    model = CorpusViT(5, (2, 3), 8, 3, 2, 12, map_head=True, map_scale=2).to(dtype).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model, torch.rand(batch, 5, 2, 3, dtype=dtype)


def severity(outputs):
    return outputs["severity_map"].flatten(1).amax(1)


TARGETS = {
    "one class": 1,
    "the class of each image": torch.tensor([2, 0, 1, 1, 2, 0, 0]),
    "the same as an array": np.array([2, 0, 1, 1, 2, 0, 0]),
    "several classes": [2, 0],
    "a function": severity,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", methods.METHODS)
def test_chunks_change_nothing(name, target):
    model, inputs = tiny()
    explain, target = methods.METHODS[name], TARGETS[target]
    at_once = explain(model, inputs, target)
    found = explain(model, inputs, target, chunk=3)
    torch.testing.assert_close(found, at_once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", methods.METHODS)
def test_chunks_change_a_float32_by_less_than_a_millionth(name):
    torch.manual_seed(0)
    model = CorpusViT(16, 6, 32, 3, 4, 64).eval()
    inputs = torch.rand(20, 16, 6, 6)
    at_once = methods.METHODS[name](model, inputs, 2, chunk=20)
    found = methods.METHODS[name](model, inputs, 2, chunk=3)
    torch.testing.assert_close(found, at_once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_model_never_sees_more_than_a_chunk(name):
    model, inputs = tiny()
    sizes = []
    hook = model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    methods.METHODS[name](model, inputs, [0, 2], chunk=3)
    hook.remove()
    assert max(sizes, default=0) <= 3
    assert name == "random" or {3, 1} == set(sizes)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_explanation_names_device_and_chunk(name):
    parameters = inspect.signature(methods.METHODS[name]).parameters
    assert parameters["device"].default is None
    assert parameters["chunk"].default == chunks.CHUNK


@pytest.mark.parametrize("target", ["the class of each image", "a function"])
@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "random"])
def test_all_of_a_method_computes_on_the_device(name, target):
    model, inputs = tiny()
    with ONLY_THE_COPY_FAILS:
        methods.METHODS[name](model, inputs, TARGETS[target], device=torch.device("meta"))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert inputs.device.type == "cpu"


def test_pixels_and_removal_compute_on_the_device():
    network, image = torch.nn.Conv2d(1, 4, 2, stride=2), torch.rand(3, 1, 4, 4)
    with ONLY_THE_COPY_FAILS:
        methods.through_backbone(network, image, torch.rand(3, 2, 2), device=torch.device("meta"))
    model, corpus = tiny()
    model.to("meta")
    with ONLY_THE_COPY_FAILS:
        measures.removal(
            lambda x: model(x)["logits"][:, 0], corpus, torch.rand(7, 2, 3), device="meta"
        )


def test_the_fastest_device_is_the_default(monkeypatch):
    monkeypatch.setattr(chunks, "pick_device", lambda: torch.device("meta"))
    for name in ("relevance", "gradcam", "occlusion"):
        with ONLY_THE_COPY_FAILS:
            methods.METHODS[name](*tiny(), 1)
        maps = methods.METHODS[name](*tiny(), 1, device=torch.device("cpu"))
        assert maps.device.type == "cpu"


def test_double_precision_stays_on_the_cpu_of_a_mac(monkeypatch):
    monkeypatch.setattr(chunks, "pick_device", lambda: torch.device("mps"))
    assert chunks.device_for(torch.zeros(1)).type == "mps"
    assert chunks.device_for(torch.zeros(1, dtype=torch.float64)).type == "cpu"


def test_weights_that_move_in_inference_mode_can_still_be_trained():
    model, _ = tiny()
    with torch.inference_mode():
        chunks.move(model, torch.device("meta"))
    assert not any(weight.is_inference() for weight in model.parameters())


def test_what_cannot_be_cut_is_refused():
    model, inputs = tiny()
    with pytest.raises(ValueError, match="at least 1"):
        methods.METHODS["gradcam"](model, inputs, 1, chunk=0)
    for name in ("relevance", "gradcam"):
        with pytest.raises(ValueError, match="6 classes for a batch of 7 images"):
            methods.METHODS[name](model, inputs, torch.zeros(6, dtype=int), chunk=3)


def test_chunks_of_pixels_and_of_removal_change_nothing():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 2, stride=2), torch.nn.ReLU()).double()
    image, maps = torch.randn(7, 1, 4, 6).double(), torch.rand(7, 2, 3).double()
    at_once = methods.through_backbone(network, image, maps)
    found = methods.through_backbone(network, image, maps, chunk=2)
    torch.testing.assert_close(found, at_once, rtol=1e-9, atol=1e-12)

    model, corpus = tiny()
    sizes = []

    def score(part):
        sizes.append(len(part))
        return model(part)["logits"].softmax(1)[:, 1]

    at_once = measures.removal(score, corpus, maps, chunk=7)
    sizes.clear()
    for a, b in zip(measures.removal(score, corpus, maps, chunk=3), at_once, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert max(sizes) == 3


def test_the_benchmark_works_in_chunks():
    model, corpus = tiny()
    lesion = np.zeros((7, 12, 18), bool)
    lesion[:, 2:5, 3:7] = True
    sample = saliency_benchmark.Sample(corpus, corpus + 0.01, lesion, ~lesion, np.arange(7))

    def score(part):
        return model(part)["logits"].softmax(1)[:, 1]

    rows = [
        saliency_benchmark.benchmark(
            model, sample, 1, score, ["relevance", "gradcam", "random"], 4, chunk=chunk
        )
        for chunk in (7, 2)
    ]
    timeless = [part[part["criterion"] != "seconds"].reset_index(drop=True) for part in rows]
    np.testing.assert_allclose(timeless[1]["value"], timeless[0]["value"], rtol=1e-9, atol=1e-12)
    assert timeless[1].drop(columns="value").equals(timeless[0].drop(columns="value"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", methods.METHODS)
def test_a_gpu_gives_the_maps_of_the_cpu(name):
    model, inputs = tiny()
    explain = methods.METHODS[name]
    for target in TARGETS.values():
        expected = explain(copy.deepcopy(model), inputs, target, device=torch.device("cpu"))
        found = explain(model, inputs, target, chunk=3)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
