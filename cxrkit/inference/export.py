"""Export: the networks as ONNX graphs, with all that stands before and after them as JSON.

Other programs, such as the page in `site/`, compute with the files what `predictor` computes. Each
graph is compared with its network before anything is written.

B batch, S px input of a network, s px input of the segmenter, h w grid of the corpus, T = 1 + h*w
tokens, L blocks, N heads, K findings, H W severity map.
"""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from cxrkit import NOTICE, __version__
from cxrkit.config.extras import require_extra
from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, ZONES
from cxrkit.data import lung_zones, preprocessing
from cxrkit.data.datasets import external_or_test
from cxrkit.evaluation import metrics
from cxrkit.inference import predictor, quality, trained
from cxrkit.inference.trained import Models, Part
from cxrkit.models import factory, zone_calibration
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.models.local_evidence import interpolated
from cxrkit.pipeline import stages
from cxrkit.simulation import hospital
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_atomic, write_json
from cxrkit.tasks import diagnosis
from cxrkit.training import checkpoint

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of models.json; another number where a reader must change
DESCRIPTION = "models.json"
TOLERANCE = 1e-4  # largest difference of any output: probabilities, attention, logits of lungs
OPSET = 17
CHECK_SIZE = 160  # px of the virtual images of the check
BINS = 5  # of a table of calibration


class NetworkGraph(nn.Module):
    """A network whose outputs have an order and names."""

    outputs: tuple[str, ...]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class FindingsGraph(NetworkGraph):
    """Probabilities of the findings, and their maps, of a `Backbone`."""

    outputs = ("probs", "maps")

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 1, S, S) -> probabilities (B, K) and of each cell (B, K, h, w)."""
        found = self.network(image)
        return found["logits"].sigmoid(), found["logit_map"].sigmoid()


class LungsGraph(NetworkGraph):
    """Logits of the lungs of a segmenter."""

    outputs = ("logits",)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 1, s, s) -> logits (B, 1, s, s)."""
        return (self.network.segment(image),)


class DiagnosisGraph(NetworkGraph):
    """Probabilities of the diagnoses of a `Classifier`, and the attention of its transformer.

    Args:
        network: changed: the attention is no longer fused, so that hooks see it.
        class_head: choice 10.
        temperature: that the logits are divided by (`diagnosis.temperature_of`).
    """

    def __init__(self, network: nn.Module, class_head: str, temperature: float = 1.0) -> None:
        super().__init__(network)
        self.to_probabilities = diagnosis.HEADS[class_head][1]
        self.temperature = temperature
        transformer = network.transformer
        self.blocks = []
        if isinstance(transformer, CorpusViT) and not transformer.even:
            transformer.fused = False
            self.blocks = list(transformer.blocks)
        self.outputs = ("probs", "attention") if self.blocks else ("probs",)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 1, S, S) -> probabilities (B, 3) and attention (B, L, N, T, T)."""
        seen = []
        hooks = []
        for block in self.blocks:
            hook = block.attn.softmax.register_forward_hook(
                lambda module, inputs, output: seen.append(output)
            )
            hooks.append(hook)
        try:
            logits = self.network(image)["logits"]
        finally:
            for hook in hooks:
                hook.remove()
        probs = self.to_probabilities(logits / self.temperature)  # (B, 3)
        return (probs, torch.stack(seen, dim=1)) if seen else (probs,)


class SeverityGraph(NetworkGraph):
    """The severity map of a `Classifier` with a map head, before the lungs are known."""

    outputs = ("severity_map",)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 1, S, S) -> map (B, 1, H, W) in [0, 1]."""
        found = self.network(image)
        if "gate_logits" not in found:
            return (found["severity_logits"].sigmoid(),)
        # the product that `severity_logits` holds as log-odds, for which ONNX has no exact operator
        gate = found["gate_logits"]
        local = interpolated(found["local_logits"], gate)
        return (gate.sigmoid() * local.sigmoid(),)


class QualityGraph(NetworkGraph):
    """Probabilities of the faults of a `QualityModel`."""

    outputs = ("probs",)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 1, 128, 128) -> probabilities (B, 8)."""
        return (self.network(image).sigmoid(),)


@dataclass
class Graph:
    """A network on its way to a file.

    Attributes:
        network: one of the modules above, in evaluation mode.
        size: side of its input, px.
        preprocess: pixels (H, W) -> its input, float32 (size, size).
        preparation: name of the same in models.json.
        licence: terms of the training images.
        content: of the file.
        differences: largest difference from torch, by output.
        shapes: of one image, by output.
    """

    network: NetworkGraph
    size: int
    preprocess: Callable[[np.ndarray], np.ndarray]
    preparation: str
    licence: str
    content: bytes = b""
    differences: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)


class ExportError(RuntimeError):
    """A graph does not compute what its network computes; nothing was written."""


def export_onnx(
    folder: Path | str,
    profile: Profile,
    store: Store | None = None,
    weights: Path | None = None,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Write the networks of a profile as ONNX graphs, and models.json beside them.

    Args:
        folder: gets the files; those of the same names are overwritten.
        profile: whose networks.
        store: where finished stages lie; None = `Store()`.
        weights: folder with files of `tools/ship_weights.py`, in place of the store.
        say: gets a line for each graph.

    Returns:
        Path of models.json.

    Raises:
        MissingExtra: the extra "onnx" is not installed.
        FileNotFoundError: no complete set of weights; see `load_models`.
        ExportError: a graph and its network disagree.
    """
    require_extra("onnx", "cxrkit export --onnx")
    folder, store = Path(folder), store or Store()
    models = trained.load_models(profile, store, weights)
    graphs = make_graphs(models)
    backbone = None if weights else stages.finished(profile, "backbone", store)
    if backbone:
        graphs["findings"] = _findings_graph(profile, backbone)
    images = check_images()
    for name, graph in graphs.items():
        graph.content = to_onnx(graph.network, graph.size)
        graph.differences = compare(name, graph, images)
        if say:
            worst = max(graph.differences.values())
            say(f"{name}.onnx: {len(graph.content):,} bytes, within {worst:.1e} of torch")
    described = describe(graphs, models, len(images))
    described["diagnosis"] = {} if weights else _diagnosis_tables(profile, store)
    described["follow_up"] = {} if weights else _noise_limit(profile, store)
    for name, graph in graphs.items():
        write_atomic(folder / f"{name}.onnx", graph.content)
    write_json(folder / DESCRIPTION, described)
    return folder / DESCRIPTION


# the graphs


def make_graphs(models: Models) -> dict[str, Graph]:
    """The graphs of trained models, by the name of their file.

    Args:
        models: copied, so that they stay as they are.
    """
    graphs = {}
    for stage, part in models.parts.items():
        network, profile = copy.deepcopy(part.network).cpu().eval(), part.profile
        choices = profile.choices
        if stage == "segmenter":
            size = profile.segmenter.size
            prepare = partial(predictor.lungs_input, profile=profile)
            graphs["lungs"] = Graph(LungsGraph(network), size, prepare, "lungs", part.licence)
            continue
        if stage == "severity":
            graph = SeverityGraph(network)
        else:
            temperature = diagnosis.temperature_of(part.metrics)
            graph = DiagnosisGraph(network, choices.class_head, temperature)
        size = profile.variant.zoom * profile.image_size
        graphs[stage] = Graph(graph, size, _image_input(profile), "image", part.licence)
    network = copy.deepcopy(models.quality.network).cpu().eval()
    licence = "shipped with the kit (cxrkit/inference/weights/open/LICENSE-NOTE.md)"
    graphs["quality"] = Graph(
        QualityGraph(network), quality.SIZE, quality.network_input, "quality", licence
    )
    return {name: graphs[name] for name in sorted(graphs)}


def _findings_graph(profile: Profile, folder: Path) -> Graph:
    """The graph of the backbone of a finished stage."""
    path = folder / "weights.safetensors"
    network = checkpoint.load_weights(factory.build_backbone(profile), path)
    licence = trained.licence_of(profile.manifests)
    return Graph(
        FindingsGraph(network), profile.image_size, _image_input(profile), "image", licence
    )


def _image_input(profile: Profile) -> Callable[[np.ndarray], np.ndarray]:
    def prepare(pixels: np.ndarray) -> np.ndarray:
        return predictor.network_input(pixels, profile)[0, 0].numpy()

    return prepare


def to_onnx(network: NetworkGraph, size: int) -> bytes:
    """A network as an ONNX graph of any batch.

    Args:
        network: takes images (B, 1, size, size).
        size: side of the input, px.
    """
    network.eval()  # the exporter leaves all of a network as the outermost module was
    image = torch.zeros(2, 1, size, size)
    names = list(network.outputs)
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # checks of shapes, which the trace leaves out; and praise of the other exporter, which
        # takes a minute for what this one does in a second
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (image,),
            content,
            input_names=["image"],
            output_names=names,
            dynamic_axes={name: {0: "B"} for name in ("image", *names)},
            opset_version=OPSET,
            dynamo=False,
        )
    return content.getvalue()


# the check


def check_images() -> list[np.ndarray]:
    """A virtual image of each hospital: what the graphs are compared with torch on."""
    return [hospital.Hospital(site, n=1, size=CHECK_SIZE)[0].image for site in hospital.SITES]


def compare(name: str, graph: Graph, images: Sequence[np.ndarray]) -> dict[str, float]:
    """The largest differences of a graph from its network, for one image and for all at once.

    Args:
        name: of the graph, for the message.
        graph: with its content; gets its shapes.
        images: pixels (H, W).

    Returns:
        The largest difference of each output.

    Raises:
        ExportError: one is over TOLERANCE, or not a number.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.content, options, providers=["CPUExecutionProvider"]
    )
    outputs = graph.network.outputs
    batch = np.stack([graph.preprocess(one) for one in images])[:, None]  # (B, 1, size, size)
    found = dict.fromkeys(outputs, 0.0)
    for part in (batch[:1], batch):
        with torch.no_grad():
            expected = graph.network(torch.from_numpy(part))
        actual = session.run(list(outputs), {"image": part})
        for key, wanted, got in zip(outputs, expected, actual, strict=True):
            difference = float(np.abs(wanted.numpy() - cast(np.ndarray, got)).max())
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"{name}.onnx: {key} differs from torch by {difference:.2g}, more than "
                    f"{TOLERANCE:g}; nothing was written. Compare the versions of torch and "
                    "onnxruntime with those in constraints.txt"
                )
            found[key] = max(found[key], difference)
            graph.shapes[key] = list(wanted.shape[1:])
    return found


# models.json


def describe(graphs: dict[str, Graph], models: Models, images: int) -> dict[str, Any]:
    """What a program must know to predict with the graphs as `predictor.predict` does.

    Args:
        graphs: with their contents.
        models: of which they are.
        images: how many served the check.
    """
    severity = models.parts["severity"].profile
    segmenter = models.parts["segmenter"].profile
    return {
        "format": FORMAT,
        "made": {
            "by": f"cxrkit {__version__}",
            "profile": severity.name,
            "models": models.digest(),
            "check": {"images": images, "tolerance": TOLERANCE, "torch": torch.__version__},
        },
        "notice": NOTICE,
        "about": models.about,
        "virtual_only": _virtual_only(models),
        "origin": models.origin,
        "licence": models.licence,
        "labels": {"findings": FINDINGS, "diagnoses": DIAGNOSES, "zones": ZONES},
        "networks": {name: _described(name, graph) for name, graph in graphs.items()},
        "preprocessing": {
            "limits_size": preprocessing.LIMITS_SIZE,
            "outlier": preprocessing.OUTLIER,
            "normalize": _normalisations(),
            "image": _preparation(severity),
            "lungs": {
                "stretch": segmenter.choices.stretch,
                "size": segmenter.segmenter.size,
                "normalize": "signed",
            },
            "quality": {"stretch": "robust", "size": quality.SIZE, "normalize": "signed"},
        },
        "lungs": {"mirror": segmenter.segmenter.mirror, "mask_size": segmenter.image_size},
        "severity": _severity_rules(models.parts["severity"]),
        "quality": _quality_rules(models),
    }


def _virtual_only(models: Models) -> bool:
    """Whether no network has seen an image of a patient."""
    return all(part.profile.manifests == trained.VIRTUAL_ONLY for part in models.parts.values())


def _described(name: str, graph: Graph) -> dict[str, Any]:
    return {
        "file": f"{name}.onnx",
        "bytes": len(graph.content),
        "sha256": hashlib.sha256(graph.content).hexdigest(),
        "size": graph.size,
        "outputs": graph.shapes,
        "preparation": graph.preparation,
        "parameters": sum(one.numel() for one in graph.network.parameters()),
        "differences": graph.differences,
        "licence": graph.licence,
    }


def _normalisations() -> dict[str, dict[str, float]]:
    """Each pointwise normalisation as (grey - shift) / scale."""
    found = {}
    for name, convert in preprocessing.NORMALIZE.items():
        if name == "zscore":
            continue
        low, high = (float(convert(np.float64(grey))) for grey in (0, 255))
        scale = 255 / (high - low)
        found[name] = {"shift": -low * scale, "scale": scale}
    return found


def _preparation(profile: Profile) -> dict[str, Any]:
    choices = profile.choices
    return {
        "stretch": choices.stretch,
        "working_size": choices.working_size,
        "order": choices.order,
        "resize": choices.resize,
        "size": profile.variant.zoom * profile.image_size,
        "normalize": choices.normalize,
        "framing": profile.sources.framing,
    }


def _severity_rules(part: Part) -> dict[str, Any]:
    profile, choices = part.profile, part.profile.choices
    names = (
        "zone_height",
        "zone_origin",
        "lung_sides",
        "array_columns",
        "zone_maximum",
        "sigmoid",
        "severity_score",
    )
    return {
        **{name: getattr(choices, name) for name in names},
        "cuts": lung_zones.CUTS,
        "debris": lung_zones.DEBRIS,
        "severe": predictor.SEVERE,
        "contour": predictor.contour_of(part),
        "calibration": _zone_calibration(part),
        "healthy": profile.severity.healthy,
    }


def _zone_calibration(part: Part) -> dict[str, Any] | None:
    """Slope and offset of each zone, in the order of ZONES; None where zones stay as pooled."""
    calibration = getattr(part.network, "calibration", None)
    if calibration is None:
        return None
    right_first = part.profile.choices.array_columns == "patient_right"
    columns = (0, 1) if right_first else (1, 0)
    lines = {name: _by_zone(array, columns) for name, array in calibration.lines().items()}
    return {**lines, "nearest": zone_calibration.NEAREST}


def _by_zone(array: list[list[float]], columns: Sequence[int]) -> list[float]:
    """Values (3, 2) as six, from above: of the column of the right lung, then of the left one."""
    return [row[column] for column in columns for row in array]


def _quality_rules(models: Models) -> dict[str, Any]:
    control = models.quality
    return {
        "faults": quality.FAULTS,
        "thresholds": control.thresholds,
        "ranges": control.ranges,
        "quantities": {name: text for name, (text, _) in quality.QUANTITIES.items()},
        "smallest": models.image_size,
        "lung_share": quality.LUNG_SHARE,
        "lung_balance": quality.LUNG_BALANCE,
        "lung_uncertainty": quality.LUNG_UNCERTAINTY,
        "lung_agreement": quality.LUNG_AGREEMENT,
        "lung_contrast": quality.LUNG_CONTRAST,
    }


def _diagnosis_tables(profile: Profile, store: Store) -> dict[str, Any]:
    """Thresholds and calibration of each view, from the predictions of the finished stages."""
    found = {}
    for view in predictor.FRONTAL:
        folder = stages.finished(profile, f"diagnosis_{view.lower()}", store)
        if folder:
            raw = store.read_table(folder / "predictions.csv")
            temperature = diagnosis.temperature_of(read_json(folder / "metrics.json"))
            table = diagnosis.calibrated(raw, temperature, profile.choices.class_head)
            internal = ~table["external"].astype(bool) & (table["split"] == "val")
            found[view] = {
                "thresholds": diagnosis.thresholds(table[internal]),
                "calibration": _calibration(external_or_test(table)),
            }
    return found


def _calibration(table: pd.DataFrame) -> dict[str, list[dict[str, float | None]]]:
    """By diagnosis: rows of `metrics.reliability`; None in an empty bin."""
    found = {}
    for name in DIAGNOSES:
        labels = (table["diagnosis"] == name).to_numpy(float)
        bins = metrics.reliability(labels, table[f"p_{name}"].to_numpy(), BINS)
        rows = zip(bins["n"], bins["predicted"], bins["observed"], strict=True)
        found[name] = [
            {"n": int(n), "predicted": float(p), "observed": float(o)}
            if n
            else {"n": 0, "predicted": None, "observed": None}
            for n, p, o in rows
        ]
    return found


def _noise_limit(profile: Profile, store: Store) -> dict[str, float]:
    """Change of the severity score that noise alone exceeds in 5 % of pairs, where measured."""
    folder = stages.finished(profile, "severity", store)
    measured = read_json(folder / "metrics.json").get("followup", {}) if folder else {}
    return {"limit": float(measured["limit"])} if "limit" in measured else {}
