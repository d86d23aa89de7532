"""Trained models: where their weights are found, and what must be said beside their predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import nn

from cxrkit import NOTICE
from cxrkit.config import paths, profiles
from cxrkit.config.choices import without_removed
from cxrkit.config.sections import Profile
from cxrkit.data import schema
from cxrkit.inference.quality import QualityControl, load_quality_control
from cxrkit.inference.severity_statement import severity_statement
from cxrkit.models import factory
from cxrkit.pipeline import stages
from cxrkit.storage import integrity, locations
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.training import checkpoint

SHIPPED = paths.bundled("inference/weights")
QUALITY_MODEL = SHIPPED / "open" / "quality_model.safetensors"
NEEDED = ("segmenter", "severity", "a diagnosis")
JOINT = "diagnosis"  # the file of a diagnosis of both views
VIRTUAL_ONLY = ("virtual",)  # the manifests of a profile that trains on virtual patients alone
GET_RESEARCH_WEIGHTS = (
    "The research weights of the kit are no part of an installed package, because the terms of "
    "their training images are non-commercial or unclear. They lie in "
    "cxrkit/inference/weights/research of a checkout of the repository: cxrkit models fetch --from "
    "ADDRESS gets them, or copy that folder and give it with --weights DIR"
)
GET_MODELS = "The models that may be passed on: pip install cxrkit-models"


def build_segmenter(profile: Profile) -> nn.Module:
    """The lung segmenter of a profile, with random weights."""
    return SegmentationTask(profile).network()


def build_severity(profile: Profile) -> nn.Module:
    """The severity model of a profile, with random weights."""
    return factory.build_classifier(profile, map_head=True)


NETWORKS: dict[str, Callable[[Profile], nn.Module]] = {
    "diagnosis_pa": factory.build_classifier,
    "diagnosis_ap": factory.build_classifier,
    "segmenter": build_segmenter,
    "severity": build_severity,
}


@dataclass(frozen=True)
class Part:
    """A trained network.

    Attributes:
        network: In evaluation mode.
        profile: That made it.
        licence: Terms of its training images, in one line.
        metrics: What its training measured; {} where that does not lie beside the weights.
    """

    network: nn.Module
    profile: Profile
    licence: str
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Models:
    """All that `predict` needs.

    Attributes:
        parts: Trained networks by stage, keys of `NETWORKS`; one diagnosis may be missing.
        quality: Warns of unsuitable images.
        origin: Where the weights come from, in words.
    """

    parts: dict[str, Part]
    quality: QualityControl
    origin: str

    def to(self, device: torch.device | str) -> Models:
        """Move all networks to a device, where they stay.

        Args:
            device: Where the networks compute from now on.

        Returns:
            These models.
        """
        for part in self.parts.values():
            part.network.to(device)
        self.quality.network.to(device)
        return self

    def digest(self) -> str:
        """Hash of all that the predictions depend on: weights, profiles, limits of the warnings."""
        found = hashlib.sha256()
        for stage, part in sorted(self.parts.items()):
            found.update(f"{stage} {json.dumps(part.profile.to_dict(), sort_keys=True)}".encode())
            _hash_weights(found, part.network)
        found.update(repr((self.quality.thresholds, self.quality.ranges)).encode())
        _hash_weights(found, self.quality.network)
        return found.hexdigest()[:16]

    @property
    def views_apart(self) -> bool:
        """Whether PA and AP films have diagnosis models of their own."""
        return self.parts.get("diagnosis_pa") is not self.parts.get("diagnosis_ap")

    @property
    def networks(self) -> dict[str, Part]:
        """Each network once, by the name of its file: `parts`, or `JOINT` for both views."""
        if self.views_apart:
            return dict(self.parts)
        others = {name: part for name, part in self.parts.items() if not name.startswith(JOINT)}
        return {JOINT: self.parts["diagnosis_pa"], **others}

    @property
    def image_size(self) -> int:
        """Side of the largest input of a network, px."""
        return max(part.profile.image_size for part in self.parts.values())

    @property
    def licence(self) -> str:
        """Terms of all weights in use, each once."""
        return "; ".join(dict.fromkeys(part.licence for part in self.parts.values()))

    @property
    def about(self) -> str:
        """What must stand beside every table of predictions.

        Returns:
            The notice, the origin and terms of the weights, which parts never saw a patient, and
            what the severity score means.
        """
        virtual = [
            stage for stage, part in self.parts.items() if part.profile.manifests == VIRTUAL_ONLY
        ]
        limits = ""
        if virtual:
            limits = (
                "\nLearnt from virtual patients alone, so expect these to fail on real films: "
                f"{', '.join(virtual)}."
            )
        severity = self.parts["severity"]
        statement = severity_statement(severity.metrics, severity.profile.choices.brixia_threshold)
        return (
            f"{NOTICE}\nWeights: {self.origin}. Terms of their training films: {self.licence}."
            f"{limits}\n{statement}\n"
        )


def _hash_weights(found: hashlib._Hash, network: nn.Module) -> None:
    """Add names, types and values of a state dict to a hash."""
    for name, values in sorted(network.state_dict().items()):
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.cpu().contiguous().numpy().tobytes())


def missing(found: Iterable[str]) -> list[str]:
    """What a prediction needs and these stages do not give: some of NEEDED.

    Args:
        found: Names of stages.
    """
    have = set(found)
    if any(name.startswith("diagnosis") for name in have):
        have.add("a diagnosis")
    return [name for name in NEEDED if name not in have]


def weights_in_folder(folder: Path) -> dict[str, Path]:
    """Files of `tools/ship_weights.py` in a folder or below it, by stage.

    A diagnosis of both views (`Sources.joint_views`) is one file, which serves both stages.
    """
    found = {}
    for stage in NETWORKS:
        for name in (JOINT, stage) if stage.startswith(JOINT) else (stage,):
            for path in sorted(Path(folder).rglob(f"{name}.safetensors")):
                found[stage] = path
    return found


def weights_in_store(profile: Profile, store: Store) -> dict[str, Path]:
    """Files of the finished stages of a profile, by stage.

    Raises:
        DamagedArtifact: A finished stage lacks its weights, or is not as it was made.
    """
    found = {}
    for stage in NETWORKS:
        folder = stages.finished(profile, stage, store)
        if not folder:
            continue
        found[stage] = folder / "weights.safetensors"
        if not found[stage].exists():
            lacks = ["weights.safetensors is missing"]
            raise integrity.DamagedArtifact(integrity.message(folder, lacks))
    return found


def load_models(
    profile: Profile | None = None, store: Store | None = None, weights: Path | None = None
) -> Models:
    """Find and load trained models.

    They come from the folder `weights`; without one, from the finished stages of the profile in the
    store, else from the kit itself and from what `cxrkit models fetch` got. Where a package without
    the research weights is installed, the models of `mini` are missing; those of `demo`, which
    learnt from virtual patients alone, are then given.

    Args:
        profile: Whose models; None = `profiles.mini()`. Shipped files bring their own.
        store: Where finished stages lie; None = `Store()`.
        weights: Folder with files of `tools/ship_weights.py`, searched at any depth.

    Returns:
        The models, on the CPU.

    Raises:
        FileNotFoundError: No place has all that a prediction needs. The message says what is
            missing and how to get it.
    """
    profile = profile or profiles.mini()
    lacks = []
    for found, made_by, origin in _places(profile, store or Store(), weights):
        if not missing(found):
            return Models(
                _load_parts(found, made_by), load_quality_control(_quality_model()), origin
            )
        lacks.append(f"{origin} (missing: {', '.join(missing(found))})")
    raise FileNotFoundError(
        f"no complete set of weights in {' or '.join(lacks)}. {GET_RESEARCH_WEIGHTS}. Or train "
        f"them: cxrkit reproduce --profile {profile.name}"
    )


def _places(
    profile: Profile, store: Store, weights: Path | None
) -> Iterator[tuple[dict[str, Path], Profile, str]]:
    """Where weights are looked for, best first: files by stage, their profile, and in words."""
    if weights:
        yield weights_in_folder(weights), profile, f"weights in {weights}"
        return
    yield weights_in_store(profile, store), profile, f"the store, profile {profile.name}"
    with_kit = weights_in_folder(locations.fetched_weights()) | weights_in_folder(SHIPPED)
    yield with_kit, profile, "shipped with the kit"
    if profile.name == "mini" and not (SHIPPED / "research").is_dir():
        demo = profiles.demo()
        yield weights_in_store(demo, store), demo, "the kit's profile demo"


def _quality_model() -> Path:
    """The file of the model that warns of unsuitable images.

    Raises:
        FileNotFoundError: it is not here; the message says how to get it.
    """
    if not QUALITY_MODEL.is_file():
        raise FileNotFoundError(f"{QUALITY_MODEL} is missing. {GET_MODELS}")
    return QUALITY_MODEL


def _load_parts(found: Mapping[str, Path], profile: Profile) -> dict[str, Part]:
    """Networks by stage; stages that one file serves share one network."""
    parts: dict[str, Part] = {}
    loaded: dict[Path, Part] = {}
    for stage, path in found.items():
        if path not in loaded:
            loaded[path] = load_part(stage, path, profile)
        parts[stage] = loaded[path]
    return parts


def load_part(stage: str, path: Path, profile: Profile) -> Part:
    """A trained network from its file.

    Args:
        stage: A key of NETWORKS.
        path: Of the weights. Shipped files hold their own profile and licence.
        profile: Of weights from a store.
    """
    _, state = checkpoint.load_tensors(path)
    if "profile" in state:
        settings = without_removed(state["profile"])
        profile = pydantic.TypeAdapter(Profile).validate_python(settings)
    network = checkpoint.load_weights(NETWORKS[stage](profile), path)
    licence = state.get("licence") or licence_of(profile.manifests)
    return Part(network, profile, str(licence), _metrics_beside(path))


def _metrics_beside(path: Path) -> dict[str, Any]:
    """Metrics of weights, from the folder of the finished stage or of shipped files."""
    own, card = path.parent / "metrics.json", path.parent / "card.json"
    if own.is_file():
        return read_json(own)
    if card.is_file():
        return read_json(card)["models"].get(path.stem, {}).get("metrics", {})
    return {}


def licence_of(manifests: Iterable[str]) -> str:
    """The terms that the images of a training come under, in one line."""
    return ", ".join(f"{name}: {schema.load(name).licence_class}" for name in manifests)
