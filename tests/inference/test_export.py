"""ONNX graphs compute what the networks compute, and models.json says how they are used."""

import copy
import hashlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles
from cxrkit.config.extras import MissingExtra
from cxrkit.data import preprocessing
from cxrkit.data.images import load_image
from cxrkit.inference import export, predictor, trained
from cxrkit.models import densenet, factory, zone_calibration
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import segmentation, severity
from tests.fakes.small_models import random_state, small_profile

NEEDS = "needs the extra onnx: pip install 'cxrkit[onnx]'"


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("onnx", reason=NEEDS)
    return pytest.importorskip("onnxruntime", reason=NEEDS)


@pytest.fixture(scope="module")
def exported(onnxruntime, weights, images, tmp_path_factory):
    """Folder of the graphs of small random networks, checked on the images of the tests."""
    folder = tmp_path_factory.mktemp("onnx")
    pixels = [load_image(path).pixels for path in images["path"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "check_images", lambda: pixels)
        export.export_onnx(folder, profiles.demo(), Store(folder / "store"), weights)
    return folder


@pytest.fixture
def run(exported, onnxruntime):
    """Calls a graph: name of the graph, inputs (B, 1, size, size) -> outputs by name."""

    def call(name, batch):
        session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": batch}), strict=True))

    return call


def inputs(images, profile):
    return np.concatenate(
        [predictor.network_input(load_image(path).pixels, profile).numpy() for path in images.path]
    )


def test_diagnoses_are_those_of_predict(run, models, images):
    part = models.parts["diagnosis_pa"]
    found = run("diagnosis_pa", inputs(images, part.profile))  # a batch of four
    for path, probs in zip(images["path"], found["probs"], strict=True):
        mask = np.zeros((64, 64), bool)
        expected, _ = predictor.diagnose(load_image(path).pixels, mask, part, maps=False)
        np.testing.assert_allclose(probs, expected, atol=1e-5)
    assert found["attention"].shape == (4, 2, 2, 17, 17)  # B, L, N, T, T
    np.testing.assert_allclose(found["attention"].sum(-1), 1, atol=1e-5)


def test_a_graph_divides_its_logits_by_the_temperature(models, images):
    """Checked without a runtime: the graph is a network."""
    part = models.parts["diagnosis_pa"]
    raw, soft = (
        export.DiagnosisGraph(copy.deepcopy(part.network), "softmax", temperature)
        for temperature in (1.0, 2.0)
    )
    batch = torch.from_numpy(inputs(images, part.profile))
    with torch.no_grad():
        root = raw(batch)[0].sqrt()
        np.testing.assert_allclose(soft(batch)[0], root / root.sum(1, keepdim=True), atol=1e-5)


def test_severity_maps_are_those_of_predict(run, models, images):
    part = models.parts["severity"]
    assert part.network.evidence is not None, "the map is the product of two"
    found = run("severity", inputs(images, part.profile))["severity_map"]
    assert found.std() > 0.01
    for path, cells in zip(images["path"], found, strict=True):
        pixels = load_image(path).pixels
        everywhere = np.ones((64, 64), bool)
        _, _, expected = predictor.predict_severity(pixels, everywhere, part)
        shown = predictor.to_image_size(cells[0], pixels.shape, part.profile)
        np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_lungs_are_those_of_predict(run, models, images):
    part = models.parts["segmenter"]
    for path in images["path"][:2]:
        pixels = load_image(path).pixels
        small = preprocessing.resize(preprocessing.to_uint8(pixels), part.profile.segmenter.size)
        image = preprocessing.normalize(small, "signed")[None, None]
        both = np.concatenate([image, image[..., ::-1]])
        straight, mirrored = run("lungs", both)["logits"][:, 0]
        logits = straight
        if part.profile.segmenter.mirror:
            logits = (straight + mirrored[:, ::-1]) / 2
        mask, _ = predictor.segment_lungs(pixels, part)
        np.testing.assert_array_equal(segmentation.to_mask(logits, 64), mask)


def test_findings_are_those_of_the_backbone(onnxruntime):
    profile = small_profile()
    network = factory.build_backbone(profile)
    network.load_state_dict(random_state(network))
    network.eval()
    content = export.to_onnx(export.FindingsGraph(network), profile.image_size)
    image = torch.randn(3, 1, 64, 64)
    probs, maps = onnxruntime.InferenceSession(content).run(
        ["probs", "maps"], {"image": image.numpy()}
    )
    with torch.no_grad():
        expected = network(image)
    np.testing.assert_allclose(probs, expected["logits"].sigmoid(), atol=1e-5)
    np.testing.assert_allclose(maps, expected["logit_map"].sigmoid(), atol=1e-5)


def test_a_finding_that_is_surely_absent_stays_a_number(onnxruntime):
    """Some runtimes take log(sigmoid(l)) to be minus infinity below -18, and the pooling 0/0."""
    profile = small_profile()
    network = factory.build_backbone(profile)
    network.load_state_dict(random_state(network))
    network.eval()
    with torch.no_grad():
        network.head.bias.fill_(-200.0)
    content = export.to_onnx(export.FindingsGraph(network), profile.image_size)
    image = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    (probs,) = onnxruntime.InferenceSession(content).run(["probs"], {"image": image.numpy()})
    with torch.no_grad():
        expected = network(image)["logits"].sigmoid()
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def computed_from_pixels(graph):
    """Names of the values of an ONNX graph that depend on the pixels, not on the shape alone."""
    found = {"image"}
    for node in graph.node:  # in the order of computation
        if node.op_type not in ("Shape", "Size") and found.intersection(node.input):
            found.update(node.output)
    return found


def unsafe(content):
    """Operators that give no number where a value that they are given has become zero."""
    import onnx

    graph = onnx.load_from_string(content).graph
    computed = computed_from_pixels(graph)
    found = []
    for node in graph.node:
        at_risk = {"Div": node.input[1:], "Log": node.input, "Reciprocal": node.input}
        if computed.intersection(at_risk.get(node.op_type, ())):
            found.append(node.op_type)
    return found


def test_no_graph_divides_by_or_takes_the_logarithm_of_what_may_become_zero(onnxruntime, models):
    """A runtime whose sigmoid is exactly 0 far below 0 would make 0/0 or log 0 of it."""
    graphs = export.make_graphs(models)
    contents = {name: export.to_onnx(graph.network, graph.size) for name, graph in graphs.items()}
    for pool in densenet.POOLS:
        profile = replace(small_profile(), backbone=replace(small_profile().backbone, pool=pool))
        network = export.FindingsGraph(factory.build_backbone(profile))
        contents[f"findings, {pool}"] = export.to_onnx(network, profile.image_size)
    assert {name: unsafe(content) for name, content in contents.items()} == dict.fromkeys(
        contents, []
    )


class Quotient(export.NetworkGraph):
    """What such a graph must not hold."""

    outputs = ("share", "log")

    def forward(self, image):
        p = self.network(image).sigmoid()
        return p / p.sum(dim=(2, 3), keepdim=True), torch.nn.functional.logsigmoid(image)


def test_the_check_of_the_graphs_sees_a_quotient_and_a_logarithm(onnxruntime):
    content = export.to_onnx(Quotient(torch.nn.Identity()), 8)
    assert sorted(unsafe(content)) == ["Div", "Log"]


def test_export_leaves_the_networks_as_they_were(models):
    before = models.digest()
    export.make_graphs(models)
    assert models.digest() == before
    assert models.parts["diagnosis_pa"].network.transformer.fused


def test_a_graph_that_disagrees_is_refused(onnxruntime, models, images):
    graph = export.make_graphs(models)["diagnosis_pa"]
    graph.content = export.to_onnx(graph.network, graph.size)
    pixels = [load_image(path).pixels for path in images["path"]]
    assert max(export.compare("diagnosis_pa", graph, pixels).values()) < 1e-5
    with torch.no_grad():
        graph.network.network.transformer.head.bias[0] += 0.01
    with pytest.raises(export.ExportError, match=r"diagnosis_pa.onnx: probs differs .* nothing"):
        export.compare("diagnosis_pa", graph, pixels)


def test_nothing_is_written_where_a_graph_disagrees(
    onnxruntime, weights, images, tmp_path, monkeypatch
):
    pixels = [load_image(images["path"][0]).pixels]
    monkeypatch.setattr(export, "check_images", lambda: pixels)
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(export.ExportError):
        export.export_onnx(tmp_path / "out", profiles.demo(), Store(tmp_path / "store"), weights)
    assert not (tmp_path / "out").exists()


def test_the_description_says_what_predict_does(exported, models):
    found = read_json(exported / "models.json")
    profile = models.parts["severity"].profile
    assert found["made"]["models"] == models.digest() and found["about"] == models.about
    assert set(found["networks"]) == {*trained.NETWORKS, "quality"} - {"segmenter"} | {"lungs"}
    for one in found["networks"].values():
        content = (exported / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert len(content) == one["bytes"] and one["licence"]
        assert max(one["differences"].values()) <= export.TOLERANCE
    assert found["preprocessing"]["image"]["size"] == profile.image_size
    assert found["severity"]["zone_maximum"] == profile.choices.zone_maximum
    assert found["severity"]["healthy"] == profile.severity.healthy
    lines = models.parts["severity"].network.calibration.lines()
    six = [lines["slope"][row][column] for column in (0, 1) for row in range(3)]
    assert found["severity"]["calibration"]["slope"] == six
    assert found["severity"]["contour"] == predictor.contour_of(models.parts["severity"])
    assert found["quality"]["thresholds"] == models.quality.thresholds


@pytest.mark.parametrize("columns", ["patient_right", "patient_left"])
def test_lines_of_zones_are_in_the_order_of_the_patient(columns):
    profile = small_profile()
    choices = replace(profile.choices, array_columns=columns)
    lines = np.arange(6.0).reshape(3, 2)
    calibration = zone_calibration.ZoneCalibration()
    calibration.set_lines(lines, -lines)
    network = SimpleNamespace(calibration=calibration)
    part = SimpleNamespace(network=network, profile=replace(profile, choices=choices))
    found = export._zone_calibration(part)
    # the same order as the columns of predictions
    named = severity.add_predictions(pd.DataFrame(index=[0]), lines[None], choices)
    expected = named[severity.PREDICTED].to_numpy()[0].tolist()
    assert found["slope"] == expected and found["offset"] == [-value for value in expected]


@pytest.mark.parametrize("how", ["fixed", "imagenet", "signed"])
def test_normalisations_are_written_as_shift_and_scale(how):
    grey = np.arange(256, dtype=np.float64)
    one = export._normalisations()[how]
    expected = preprocessing.NORMALIZE[how](grey)
    np.testing.assert_allclose((grey - one["shift"]) / one["scale"], expected, atol=1e-9)


def test_calibration_and_thresholds_come_from_the_predictions(monkeypatch, tmp_path):
    """The shipped demo: of each bin the films, their mean probability and how many were right."""
    monkeypatch.delenv("CXRKIT_FRESH", raising=False)
    found = export._diagnosis_tables(profiles.demo(), Store(tmp_path))
    assert set(found) == {"PA", "AP"}
    for tables in found.values():
        counts = [sum(row["n"] for row in rows) for rows in tables["calibration"].values()]
        assert len(set(counts)) == 1 and counts[0] > 100, "each film stands in one bin"
        for rows in tables["calibration"].values():
            for i, row in enumerate(rows):
                assert row["n"] == 0 or i / 5 <= row["predicted"] <= (i + 1) / 5
        assert all(0 < one < 1 for one in tables["thresholds"].values())


def test_without_the_extra_the_command_names_it(monkeypatch, tmp_path):
    def missing(name, what):
        raise MissingExtra(f"{what}: {name}")

    monkeypatch.setattr(export, "require_extra", missing)
    with pytest.raises(MissingExtra, match="cxrkit export --onnx: onnx"):
        export.export_onnx(tmp_path, replace(profiles.demo(), name="demo"))
    assert "onnxruntime" not in sys.modules or not list(tmp_path.iterdir())
