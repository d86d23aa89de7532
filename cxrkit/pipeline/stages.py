"""Stages: the reproduction as one table. Each stage loads its artifact, or makes it.

A `Stage` says which fields of the profile it reads, which stages it depends on, and what makes it.
Keys, the plan, the cluster, "which lessons come before" and the command line all read `STAGES`. The
key of an artifact is a hash of what its stage reads and of the keys' contents before it, so an
ablation of a late stage reuses all that comes before it. Where real images are used, here or
before, their digest is the second part of the artifact's name (`made_from`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.models import baselines
from cxrkit.pipeline import keys, made_from, makers, task_data
from cxrkit.pipeline.makers import StageInputs
from cxrkit.storage import integrity, provenance
from cxrkit.storage.artifacts import Store
from cxrkit.training.devices import pick_device


@dataclass(frozen=True)
class Need:
    """An artifact that a stage depends on.

    Attributes:
        role: the name under which `make` finds its folder.
        stage: the stage that makes it.
        profile: of that stage.
        key: the name under which its settings enter the key; "" where another need implies them.
        used: False for one that enters the key alone: a cohort, for a profile without one; a
            backbone, for a model that begins with other weights.
    """

    role: str
    stage: str
    profile: Profile
    key: str = ""
    used: bool = True


@dataclass(frozen=True)
class Stage:
    """One step of the reproduction.

    Attributes:
        name: of the stage, and of the folders of its artifacts.
        fields: what it reads of the profile, with dots that reach inside.
        make: fills the folder of the artifact from the profile and the folders that it needs.
        upstream: what it depends on, for a profile.
        tasks: whose images it reads itself, for a profile (`task_data.TASKS`).
        version: counts changes of its code that change its result.
    """

    name: str
    fields: tuple[str, ...]
    make: Callable[[Path, Profile, StageInputs], Any]
    upstream: Callable[[Profile], list[Need]]
    tasks: Callable[[Profile], tuple[str, ...]]
    version: int = 1


# what stages depend on


def _cohort(profile: Profile, key: str = "after cohort") -> Need:
    return Need("cohort", "cohort", profile, key, used="virtual" in profile.manifests)


def _settings_of_backbone(profile: Profile) -> Need:
    """Enters the key of what comes after: its weights are a need of those that begin with them."""
    return Need("backbone", "backbone", profile, "after backbone", used=False)


def _feature_stage(profile: Profile) -> str | None:
    """The stage whose weights the features of the variant start from; None = no stage."""
    if profile.variant.initial_weights != "findings":
        return None
    if profile.variant.model in baselines.FEATURE_EXTRACTORS:
        return "feature_extractor"
    return "backbone"


def nothing(profile: Profile) -> list[Need]:
    """A stage that depends on no other."""
    return []


def needs_of_findings(profile: Profile) -> list[Need]:
    """The feature extractor of a variant needs the images."""
    return [_cohort(profile)]


def needs_of_backbone(profile: Profile) -> list[Need]:
    """The backbone needs the images, and may start from the backbone of the virtual hospitals."""
    needs = [_cohort(profile)]
    if profile.backbone.initial_weights == "virtual":
        needs.append(Need("initial_weights", "backbone", profiles.virtual(profile), "start"))
    return needs


def needs_of_contrastive(profile: Profile) -> list[Need]:
    """SimCLR needs images, and features that learnt the findings where the variant has such."""
    needs = [_cohort(profile)]
    features = _feature_stage(profile)
    if features:
        needs.append(Need("features", features, profile, "start"))
    return needs


def _needs_of_initial_weights(profile: Profile, keyed: bool, virtual_key: str) -> list[Need]:
    """What the first model of the diagnosis starts from.

    Args:
        profile: of the diagnosis.
        keyed: False where the settings of another need imply the features' and SimCLR's.
        virtual_key: name in the key of the model of the virtual hospitals; "" where it is implied.
    """
    needs = []
    features = _feature_stage(profile)
    own = not profile.sources.virtual  # else all of it begins as the model of the virtual hospitals
    if features == "backbone":
        needs.append(Need("features", "backbone", profile, used=own))
    elif features:
        key = "start" if keyed else ""
        needs.append(Need("features", features, profile, key, used=own))
    if profile.variant.contrastive:
        key = "contrastive" if keyed else ""
        needs.append(Need("contrastive", "contrastive", profile, key, used=own))
    if profile.sources.virtual:
        home = profiles.virtual(profile)
        needs.append(Need("virtual_model", "diagnosis_pa", home, virtual_key))
    return needs


def needs_of_diagnosis(profile: Profile) -> list[Need]:
    """The diagnosis needs images, its first weights, and what the sources and the variant ask."""
    needs = [_cohort(profile, key=""), _settings_of_backbone(profile)]
    needs += _needs_of_initial_weights(profile, keyed=True, virtual_key="begins as")
    if dict(profile.sources.shares).get("virtual", 0):
        needs.append(Need("virtual_cohort", "cohort", profiles.virtual(profile), "virtual"))
    if profile.sources.framing != "whole":
        needs.append(Need("segmenter", "segmenter", profile, "lungs"))
    return needs


def needs_of_view(profile: Profile) -> list[Need]:
    """The model of one view: as the diagnosis, or a part of the model of both views."""
    needs = needs_of_diagnosis(profile)
    if profile.sources.joint_views:
        needs.append(Need("joint", "diagnosis", profile, "both views"))
    return needs


def needs_of_segmenter(profile: Profile) -> list[Need]:
    """The segmenter needs images, and those of the virtual hospitals where they train too."""
    needs = [_cohort(profile)]
    if profile.segmenter.virtual:
        needs.append(Need("virtual_cohort", "cohort", profiles.virtual(profile), "virtual"))
    return needs


def needs_of_severity(profile: Profile) -> list[Need]:
    """Severity needs images, lungs, and what its first weights come from."""
    needs = [
        _cohort(profile, key=""),
        _settings_of_backbone(profile),
        Need("segmenter", "segmenter", profile, "after segmenter"),
    ]
    if profile.severity.virtual:
        home = profiles.virtual(profile)
        return [*needs, Need("virtual_severity", "severity", home, "start")]
    if profile.choices.severity_start == "classifier":  # its key holds what it began with
        needs += _needs_of_initial_weights(profile, keyed=False, virtual_key="")
        return [*needs, Need("classifier", "diagnosis_pa", profile, "start")]
    return needs + _needs_of_initial_weights(profile, keyed=False, virtual_key="begins as")


def needs_of_severity_choices(profile: Profile) -> list[Need]:
    """The severity model, images, and their lungs."""
    return [
        _cohort(profile, key=""),
        Need("segmenter", "segmenter", profile),
        Need("severity", "severity", profile, "after severity"),
    ]


def needs_of_alternation(profile: Profile) -> list[Need]:
    """One severity model for each hospital that is held out in turn."""
    needs = []
    for site in profile.severity.alternation:
        other = replace(profile, severity=replace(profile.severity, held_out=site))
        needs.append(Need(site, "severity", other, f"severity without {site}"))
    return needs


def needs_of_saliency(profile: Profile) -> list[Need]:
    """The saliency benchmark needs both models, and images whose lesions are known."""
    needs = [
        Need("diagnosis_pa", "diagnosis_pa", profile, "after diagnosis_pa"),
        Need("diagnosis_ap", "diagnosis_ap", profile, "after diagnosis_ap"),
    ]
    if "virtual" in profile.manifests:
        needs.append(_cohort(profile, key=""))
    else:
        needs.append(Need("cohort", "cohort", profiles.virtual(profile), "lesions"))
    if profile.sources.framing != "whole":
        needs.append(Need("segmenter", "segmenter", profile))
    return needs


def needs_of_marker_study(profile: Profile) -> list[Need]:
    """The study runs on the virtual hospitals, whatever the profile."""
    home = profiles.virtual(profile)
    return [
        Need("cohort", "cohort", home, "films"),
        Need("backbone", "backbone", home, "backbone"),
    ]


# whose images stages read


def no_images(profile: Profile) -> tuple[str, ...]:
    """A stage that reads virtual patients alone, or what other stages left."""
    return ()


def findings_images(profile: Profile) -> tuple[str, ...]:
    """Images with known findings."""
    return ("findings",)


def diagnosis_images(profile: Profile) -> tuple[str, ...]:
    """Images with a diagnosis, of both views: patients of external ones train in neither."""
    return ("diagnosis",)


def segmenter_images(profile: Profile) -> tuple[str, ...]:
    """Images with a lung mask or a diagnosis."""
    return ("lungs", "diagnosis")


def severity_images(profile: Profile) -> tuple[str, ...]:
    """Images with a known severity or outlined lesions, and diagnosed ones that train beside."""
    tasks = ["severity"]
    if set(task_data.serving_datasets(profile, "lesion")) - {"virtual"}:
        tasks.append("lesion")
    if makers.uses_diagnosis(profile):
        tasks.append("diagnosis")
    return tuple(tasks)


def saliency_images(profile: Profile) -> tuple[str, ...]:
    """Images with a diagnosis; without virtual ones among them those of the virtual hospitals."""
    return ("diagnosis",) if "virtual" in profile.manifests else ()


# what stages read of a profile

# Counts changes of how files become pixels (2: one stretch and one working size). Drawn images have
# no file, and the networks see the same pixels of them as before.
IMAGE_READING = 2
IMAGES = (
    "manifests",
    "external",
    "max_images",
    "seed",
    "image_size",
    "choices.resize",
    "choices.stretch",
    "choices.working_size",
    "choices.order",
    "choices.normalize",
    "choices.augmentation",
)
MODEL = (
    "variant.model",
    "variant.initial_weights",
    "variant.contrastive",
    "variant.corpus",
    "variant.zoom",
    "variant.widths",
    "variant.layers",
    "variant.pretraining",
    "variant.max_images",
)
FINDINGS = (
    *IMAGES,
    "sources.findings_datasets",
    "sources.findings_tests",
    "choices.pretraining_images",
    "backbone",
    "backbone_training",
    "choices.uncertain",
    "choices.lr_decay",
)
DIAGNOSIS = (
    *IMAGES,
    *MODEL,
    "transformer",
    "transformer_training",
    "choices.mlp_dim",
    "choices.class_head",
    "choices.class_balance",
    "choices.threshold_from",
    "choices.views",
    "sources.shares",
    "sources.class_mask",
    "sources.joint_views",
    "sources.virtual",
    "sources.held_out",
    "sources.framing",
    "sources.diagnosis_datasets",
)
SEGMENTER = (
    "manifests",
    "sources.diagnosis_datasets",
    "external",
    "max_images",
    "seed",
    "image_size",
    "choices.stretch",
    "segmenter",
    "segmenter_training",
    "student_training",
    "unet_training",
)
SEVERITY = (
    *IMAGES,
    *MODEL,
    "folds",
    "transformer",
    "severity",
    "severity_training",
    "sources.diagnosis_datasets",
    "choices.mlp_dim",
    "choices.brixia_threshold",
    "choices.array_columns",
    "choices.zone_height",
    "choices.zone_origin",
    "choices.lung_sides",
    "choices.map_scale",
    "choices.map_upsampling",
    "choices.map_norm",
    "choices.map_widths",
    "choices.map_evidence",
    "choices.zone_maximum",
    "choices.sigmoid",
    "choices.severity_loss",
    "choices.severity_score",
    "choices.severity_start",
    "variant.pooling",
    "variant.sites",
)

_TABLE = (
    Stage("cohort", ("seed", "cohort"), makers.make_cohort, nothing, no_images, version=3),
    Stage(
        "backbone", (*FINDINGS, "folds"), makers.make_backbone, needs_of_backbone, findings_images
    ),
    Stage(
        "feature_extractor",
        (
            *FINDINGS,
            "variant.model",
            "variant.widths",
            "variant.layers",
            "variant.pretraining",
            "variant.max_images",
        ),
        makers.make_feature_extractor,
        needs_of_findings,
        findings_images,
    ),
    Stage(
        "contrastive",
        (
            *IMAGES,
            *MODEL,
            "sources.findings_datasets",
            "sources.findings_tests",
            "choices.pretraining_images",
            "backbone",
            "transformer",
            "choices.mlp_dim",
        ),
        makers.make_contrastive,
        needs_of_contrastive,
        findings_images,
    ),
    # of both views; those of one view take their part of it where sources.joint_views says so
    Stage(
        "diagnosis",
        (*DIAGNOSIS, "folds"),
        makers.make_joint_diagnosis,
        needs_of_diagnosis,
        diagnosis_images,
    ),
    Stage("diagnosis_pa", DIAGNOSIS, makers.make_diagnosis_pa, needs_of_view, diagnosis_images),
    Stage(
        "diagnosis_ap",
        (*DIAGNOSIS, "sources.external_ap"),
        makers.make_diagnosis_ap,
        needs_of_view,
        diagnosis_images,
    ),
    Stage(
        "saliency_benchmark",
        ("saliency_images", "saliency_blocks"),
        makers.make_saliency_benchmark,
        needs_of_saliency,
        saliency_images,
        version=2,  # AttnLRP, gradient x input, and saturation
    ),
    Stage(
        "segmenter",
        SEGMENTER,
        makers.make_segmenter,
        needs_of_segmenter,
        segmenter_images,
        version=3,
    ),
    Stage("severity", SEVERITY, makers.make_severity, needs_of_severity, severity_images),
    Stage(
        "severity_choices",
        (),
        makers.make_severity_choices,
        needs_of_severity_choices,
        severity_images,
    ),
    Stage("alternation", (), makers.make_alternation, needs_of_alternation, no_images),
    Stage("marker_study", ("seed",), makers.make_marker_study, needs_of_marker_study, no_images),
)
STAGES = {stage.name: stage for stage in _TABLE}


def stage_of(name: str) -> Stage:
    """The stage of a name. Raises ValueError, with the known names, for another."""
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; known: {list(STAGES)}")
    return STAGES[name]


def settings(profile: Profile, name: str) -> dict[str, Any]:
    """The nested dict of everything that a stage depends on; its hash is the key of the artifact.

    Raises:
        ValueError: the stage is unknown.
    """
    stage = stage_of(name)
    found = {"recipe": stage.version, **keys.pick(profile, stage.fields)}
    if "manifests" in stage.fields and set(profile.manifests) - {"virtual"}:
        found["image reading"] = IMAGE_READING
    for need in stage.upstream(profile):
        if need.key:
            found[need.key] = settings(need.profile, need.stage)
    return found


def upstream(profile: Profile, name: str) -> list[tuple[str, Profile]]:
    """The stages that a stage depends on: (stage, its profile), each once."""
    found = []
    for need in stage_of(name).upstream(profile):
        step = (need.stage, need.profile)
        if need.used and step not in found:
            found.append(step)
    return found


# where artifacts lie


def used_tasks(profile: Profile, name: str) -> tuple[str, ...]:
    """The tasks whose real images a stage is made from: its own, and those before it."""
    if not made_from.real_manifests(profile):
        return ()
    tasks = set(stage_of(name).tasks(profile))
    for before, other in upstream(profile, name):
        tasks |= set(used_tasks(other, before))
    return tuple(sorted(tasks))


def data_digest(profile: Profile, name: str, store: Store) -> str:
    """What tells artifacts of other images apart.

    Args:
        profile: what is run.
        name: of the stage.
        store: knows where the images lie.

    Returns:
        8 hex digits by the rows of the real images that the stage is made from; "" for a stage of
        virtual patients, whose settings say all.

    Raises:
        MissingData: the images are not here.
        ValueError: the stage is unknown, or a table of the images is wrong.
    """
    digest = made_from.images_digest(profile, used_tasks(profile, name), store)
    return digest[: made_from.DIGITS]


def all_data(profile: Profile, store: Store) -> str:
    """Digest of all real images that any stage of a profile is made from; "" where none is here."""
    tasks = sorted({task for name in STAGES for task in used_tasks(profile, name)})
    try:
        return made_from.images_digest(profile, tuple(tasks), store)
    except made_from.MissingData:
        return ""


def _known_data(profile: Profile, name: str, store: Store) -> str | None:
    """The data digest; where the images are not here, that of the only artifact; None = none."""
    try:
        return data_digest(profile, name, store)
    except made_from.MissingData as error:
        found = store.from_any_data(name, settings(profile, name))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise made_from.MissingData(
                f"{error}\nWithout them it cannot be said which of these is of your images: "
                f"{names}; give their folder (--data or CXRKIT_DATA)"
            ) from None
        return integrity.data_of(found[0]) if found else None


def folder_of(profile: Profile, name: str, store: Store) -> Path:
    """Where the artifact of a stage lies, or would lie.

    Where the images of the profile are not here, it is the only artifact of its settings.
    """
    data = _known_data(profile, name, store)
    return store.folder(name, settings(profile, name), data or "")


def is_done(profile: Profile, name: str, store: Store) -> bool:
    """Whether the artifact of a stage is finished, here or at the address of the store."""
    data = _known_data(profile, name, store)
    return data is not None and store.has(name, settings(profile, name), data)


def fetch(profile: Profile, name: str, store: Store) -> Path:
    """`folder_of`, with the artifact in it where `is_done`."""
    data = _known_data(profile, name, store)
    return store.fetch(name, settings(profile, name), data or "")


def finished(profile: Profile, name: str, store: Store) -> Path | None:
    """The folder of a finished artifact that was checked, None where there is none.

    Raises:
        DamagedArtifact: it is not as it was made.
    """
    if not store.from_any_data(name, settings(profile, name)):
        return None  # before any table of images is read
    folder = folder_of(profile, name, store)
    if not folder.exists():
        return None
    integrity.check(folder)
    return folder


def inputs_of(profile: Profile, name: str, store: Store) -> StageInputs:
    """The folders that a stage is made from; those that are missing are made (`resolve`)."""
    folders = {
        need.role: resolve(need.profile, need.stage, store, whole=True)
        for need in stage_of(name).upstream(profile)
        if need.used
    }
    return StageInputs(store, folders)


def resolve(profile: Profile, name: str, store: Store | None = None, whole: bool = False) -> Path:
    """The folder of the artifact of a stage.

    Where it is missing, it is made, after what it depends on. Artifacts of the same settings and
    other images stay beside it; a warning says which rows differ.

    Args:
        profile: what is run.
        name: of the stage, a key of STAGES.
        store: where artifacts lie; default `Store()`.
        whole: also make it where it came with the kit without its weights.

    Raises:
        ValueError: the stage is unknown, or cannot be made from the images of the profile.
        MissingData: images are not here, and nothing was made from them.
        DamagedArtifact: the artifact is not as it was made.
        RuntimeError: another process is making it.
    """
    stage, store = stage_of(name), store or Store()
    own = settings(profile, name)
    data = _known_data(profile, name, store)
    if data is None:
        data = data_digest(profile, name, store)  # says what is missing
    if not store.has(name, own, data):
        _compare_with_others(profile, name, store, data)

    def make(folder: Path) -> None:
        inputs = inputs_of(profile, name, store)
        note = provenance.note_of(store.root, store.folder(name, own, data).name)
        device = str(pick_device())
        with provenance.noted(note, folder, device, seed=profile.seed, profile=profile.name):
            stage.make(folder, profile, inputs)
        if data:
            rows = made_from.images_table(profile, used_tasks(profile, name), store)
            made_from.write(folder, rows)

    return store.load_or_make(name, own, make, data, whole)


def _compare_with_others(profile: Profile, name: str, store: Store, data: str) -> None:
    """Warn where artifacts of other images lie beside the one that is to be made."""
    others = store.from_any_data(name, settings(profile, name))
    if not data or not others:
        return
    new = made_from.images_table(profile, used_tasks(profile, name), store)
    for folder in others:
        old = made_from.read(folder)
        what = "its images were not noted"
        if old is not None:
            what = made_from.differences(old, new)
        warnings.warn(
            f"{folder.name} stays as it is, it was made from other images: {what}. "
            f"{name} is made from those of now",
            stacklevel=3,
        )
