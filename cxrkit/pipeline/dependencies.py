"""What each stage depends on: fields of the profile, and earlier stages. Its hash names the
artifact (`artifacts.key`), so an ablation of a late stage reuses all that comes before it.
"""

from dataclasses import asdict, dataclass, replace

from cxrkit.config import profiles
from cxrkit.models import baselines


@dataclass(frozen=True)
class Depends:
    """What a stage reads: `fields` of the profile (dots reach inside), `stages` before it; `recipe`
    counts changes of its code.
    """

    fields: tuple[str, ...]
    stages: tuple[str, ...] = ()
    recipe: int = 1


FILMS = (
    "manifests",
    "external",
    "films",
    "seed",
    "image_size",
    "choices.resize",
    "choices.order",
    "choices.normalize",
    "choices.augmentation",
)
MODEL = tuple(
    f"variant.{name}"
    for name in (
        "model",
        "start",
        "contrastive",
        "corpus",
        "zoom",
        "widths",
        "layers",
        "pretraining",
        "films",
    )
)
SOURCES = tuple(
    f"sources.{name}"
    for name in ("shares", "contrast", "together", "virtual", "aside", "lungs_only")
)
DIAGNOSIS = Depends(
    (
        *FILMS,
        "transformer",
        "transformer_training",
        "choices.mlp_dim",
        "choices.class_head",
        "choices.threshold_from",
        "choices.views",
        *MODEL,
        *SOURCES,
    ),
    ("backbone",),
)
SEVERITY = tuple(
    f"choices.{name}"
    for name in (
        "brixia_threshold",
        "array_columns",
        "zone_height",
        "zone_origin",
        "lung_sides",
        "map_scale",
        "sigmoid",
        "severity_loss",
        "severity_score",
        "severity_start",
    )
)
DEPENDS = {
    "cohort": Depends(("seed", "cohort"), recipe=2),
    "backbone": Depends(
        (
            *FILMS,
            "sources.findings",
            "folds",
            "backbone",
            "backbone_training",
            "choices.uncertain",
            "choices.lr_decay",
        ),
        ("cohort",),
    ),
    "trunk": Depends(
        (
            *FILMS,
            "sources.findings",
            "backbone",
            "backbone_training",
            "choices.uncertain",
            "choices.lr_decay",
            *(f"variant.{name}" for name in ("model", "widths", "layers", "pretraining", "films")),
        ),
        ("cohort",),
    ),
    "contrastive": Depends(
        (*FILMS, "sources.findings", "backbone", "transformer", "choices.mlp_dim", *MODEL),
        ("cohort",),
    ),
    # of both views, where profile.sources says together
    "diagnosis": Depends((*DIAGNOSIS.fields, "folds"), DIAGNOSIS.stages),
    "diagnosis_pa": DIAGNOSIS,
    "diagnosis_ap": DIAGNOSIS,
    "court": Depends(("court_films", "court_parts"), ("diagnosis_pa", "diagnosis_ap")),
    "segmenter": Depends(
        (
            "manifests",
            "external",
            "films",
            "seed",
            "image_size",
            "segmenter",
            "segmenter_training",
            "student_training",
            "unet_training",
        ),
        ("cohort",),
        recipe=2,
    ),
    "severity": Depends(
        (
            *FILMS,
            "folds",
            "transformer",
            "quantifier",
            "severity_training",
            "choices.mlp_dim",
            *SEVERITY,
            *MODEL,
            "variant.pooling",
            "variant.sites",
        ),
        ("backbone", "segmenter"),
    ),
    "dial": Depends(("seed",)),
}

OWN = {
    f"{part}.{name}": value
    for part, default in (("variant", profiles.Variant()), ("sources", profiles.Sources()))
    for name, value in asdict(default).items()
} | {  # the paper's own model, and films
    name: getattr(profiles.Profile, name) for name in ("films", "court_films", "court_parts")
}


def settings(profile, stage):
    """The nested dict of everything that `stage` depends on; of a variant, only what departs from
    the paper's own model.

    Raises ValueError for an unknown stage.
    """
    if stage not in DEPENDS:
        raise ValueError(f"unknown stage {stage!r}; known: {list(DEPENDS)}")
    needs, values = DEPENDS[stage], profile.to_dict()
    picked = {}
    for path in needs.fields:
        value = values
        for name in path.split("."):
            value = value[name]
        if value != OWN.get(path, ...):
            picked[path] = value
    return {
        "recipe": needs.recipe,
        **picked,
        **{f"after {name}": settings(profile, name) for name in needs.stages},
        **{
            name: settings(profile if own else virtual(profile), before)
            for name, (before, own) in _chosen(profile, stage).items()
        },
    }


def _chosen(profile, stage):
    """Stages that this one stands on by a choice of the profile: what for -> (stage, of this
    profile or of the virtual hospitals).
    """
    quantifier, choices, variant = profile.quantifier, profile.choices, profile.variant
    learnt = (
        ("trunk" if variant.model in baselines.TRUNKS else "backbone", True)
        if variant.start == "findings"
        else None
    )
    # a diagnosis stands on the backbone anyhow
    diagnosed = {
        "start": learnt if learnt != ("backbone", True) else None,
        "contrastive": ("contrastive", True) if variant.contrastive else None,
    }
    taught = {
        **diagnosed,
        "begins as": ("diagnosis_pa", False) if profile.sources.virtual else None,
        "virtual": ("cohort", False) if dict(profile.sources.shares).get("virtual", 0) else None,
        "lungs": ("segmenter", True) if profile.sources.lungs_only else None,
    }
    one_view = {**taught, "both views": ("diagnosis", True) if profile.sources.together else None}
    chosen = {
        "backbone": {"start": ("backbone", False) if profile.backbone.start == "virtual" else None},
        "court": {"lesions": ("cohort", False) if "virtual" not in profile.manifests else None},
        "dial": {"films": ("cohort", False), "backbone": ("backbone", False)},
        "segmenter": {"virtual": ("cohort", False) if profile.segmenter.virtual else None},
        "contrastive": {"start": learnt},
        "diagnosis": taught,
        "diagnosis_pa": one_view,
        "diagnosis_ap": one_view,
        "severity": {
            "start": ("severity", False)
            if quantifier.virtual
            else ("diagnosis_pa", True)
            if choices.severity_start == "classifier"
            else None
        },
    }
    return {name: before for name, before in chosen.get(stage, {}).items() if before}


def upstream(profile, stage):
    """What a stage stands on: list of (stage, its profile)."""
    chosen = [
        (before, profile if own else virtual(profile))
        for before, own in _chosen(profile, stage).values()
    ]
    fixed = [
        (before, profile)
        for before in DEPENDS[stage].stages
        if before != "cohort" or "virtual" in profile.manifests
    ]
    return [*fixed, *chosen]


def virtual(profile):
    """The demo profile with the seed of this one: what a backbone, or a severity model, that starts
    "virtual" begins from.
    """
    return replace(profiles.demo(), seed=profile.seed)
