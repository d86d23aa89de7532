"""Profiles: every size, seed and reading of the paper as frozen values: a run is data and an
ablation is one `replace`.
"""

import re
from dataclasses import asdict, dataclass, field, fields, replace

from cxrkit.config.choices import OPEN_CHOICES, Choices


@dataclass(frozen=True)
class Cohort:
    """How many films of the virtual hospitals a run draws (images, not patients), at what size, and
    how confounded.

    `rho` in [0, 1] ties the visible marker to the diagnosis; 0 = independent (see
    `cohort.Hospital`).
    """

    findings: int = 2000
    diagnosis: int = 3000
    severity: int = 600
    size: int = 256
    rho: float = 0.0


@dataclass(frozen=True)
class Training:
    """One run of `train.fit`: everything that decides the weights beside the model, the data and
    the seed.

    `optimizer`, `schedule` and `amp` name entries of the tables in `train`; an unknown name raises
    there, with the known ones.
    """

    optimizer: str = "adamw"  # adamw, adam, sgd
    lr: float = 1e-3
    batch: int = 16  # images of one forward pass, on all devices together
    steps: int = 1000  # updates of the weights
    # constant, cosine (to 0 at `steps`), step (x `decay` at each of `milestones`)
    schedule: str = "constant"
    warmup: int = 0  # updates of linear warm-up before the schedule
    # updates after which the learning rate is multiplied by `decay`
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9  # SGD
    betas: tuple[float, float] = (0.9, 0.999)  # Adam, AdamW
    weight_decay: float = 0.0
    clip: float = 0.0  # largest norm of the gradient; 0 = no clipping
    accumulate: int = 1  # forward passes to one update
    ema: float = 0.0  # decay of the moving average of the weights; 0 = none
    amp: str = "auto"  # auto, bf16, fp16, off; never used on a CPU
    # of torch on the CPU; 0 = its default. Small images go faster on one: a second waits more than
    # it works
    threads: int = 0
    log_every: int = 10  # updates to one row of the history
    eval_every: int = 0  # updates to one validation; 0 = none, and the last weights count
    checkpoint_every: int = 500


@dataclass(frozen=True)
class DenseNet:
    """Sizes of the backbone (arguments of `backbone.Backbone`) and what it starts from; the
    defaults are DenseNet-121.
    """

    growth_rate: int = 32
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    num_init_features: int = 64
    bn_size: int = 4
    stem: int = 3
    stride: int = 32  # image px to one cell of the corpus
    pool: str = "pcam"
    augment: bool = True  # the films of its training, by choices.augmentation
    start: str = "random"  # random, imagenet, virtual (the backbone of the virtual hospitals)


@dataclass(frozen=True)
class Segmenter:
    """The AdaIN segmenter (arguments of `segmentation.Translator` and `UNet`), the weight of each
    loss, and who teaches it.

    The defaults are those of Oh & Ye 2021. `normal` and `abnormal` pick the films of the two
    domains: questions to a table of `schema.COLUMNS`, `zones` and `brixia` (`lungs.roles`), as in
    `pandas.DataFrame.eval`.
    """

    size: int = 256  # px
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    judge_widths: tuple[int, ...] = (64, 128, 256, 512)  # discriminator and style encoder
    unet_widths: tuple[int, ...] = (64, 128, 256, 512)
    unet_patch: int = 1  # px to a side that the U-Nets take at once; 2 = three times as fast
    style_dim: int = 16
    latent_dim: int = 4
    hidden: int = 512  # of the mapping network
    residual: bool = False  # the generator gives the change of a film
    # False = the ablation without the adversarial part: the teacher sees the abnormal film as it is
    translate: bool = True
    cross_entropy: tuple[float, float] = (0.7, 1.0)  # background, lung
    segment: float = 5.0
    style: float = 1.0
    cycle: float = 2.0
    diversity: float = 1.0  # falls to 0 over stage 1
    r1: float = 1.0
    r1_every: int = 1  # updates to one penalty, on average; its weight grows by as much
    consistency: float = 10.0  # student and teacher on abnormal films
    consistency_normal: float = 1.0
    mapping_lr: float = 0.01  # of the learning rate
    augmentation: str = "none"
    # the U-Nets learn from films in other frames and greys, with opacities painted in
    # (`variation`), instead
    vary: bool = False
    virtual: float = 0.0  # share of the films of the virtual hospitals in each batch of `unet_both`
    mirror: bool = False  # masks are drawn on the film and on its mirror image, and averaged
    # the network that draws for `predict` and the severity map: student, unet_normal, unet_both
    deliver: str = "student"
    judged: int = 0  # films of the test that are judged, drawn by the seed; 0 = all
    normal: str = "diagnosis == 'normal'"
    abnormal: str = "diagnosis in ('other_infection', 'covid19')"


@dataclass(frozen=True)
class ViT:
    """Sizes of the corpus ViT (arguments of `transformer.CorpusViT`); the defaults are the paper's.

    Its MLP is choices.mlp_dim wide at embed_dim 768 and in proportion below. `frozen`: the backbone
    is not trained, and its corpus is computed once.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    frozen: bool = False


@dataclass(frozen=True)
class Sources:
    """Which films teach the findings and the diagnosis, and what, where hospital and class are tied
    together; the defaults are the paper's.

    Only what departs from them enters the key of an artifact (`stages.settings`).
    """

    # draws from each dataset, its classes equally often; () = classes equally often over all.
    shares: tuple[tuple[str, float], ...] = ()
    # A share of "virtual" brings in the training films of the virtual hospitals, where no hospital
    # gives a class away
    # of `diagnosis.CONTRASTS`; own = a film teaches only to tell apart the classes that its own
    # dataset has
    contrast: str = "all"
    # one training on PA and AP films, where a view alone has too few; both are still judged apart
    together: bool = False
    # begins as the PA model of the virtual hospitals instead of as the backbone of this profile
    virtual: bool = False
    # datasets that teach no diagnosis, and test it; `Profile.external` teach nothing at all
    aside: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()  # datasets that teach the findings; () = all that know some
    # the diagnosis sees films that are black outside of the lungs (`stages.lungs_only`)
    lungs_only: bool = False


@dataclass(frozen=True)
class Quantifier:
    """How the severity model is made, beside its sizes (`ViT`) and its training."""

    frozen: bool = False  # the backbone is not trained any further
    # begins as the severity model of the virtual hospitals, at the sizes of this profile
    virtual: bool = False
    # lungs of all films (section 3.3); "drawn" = those of a reader or of virtual truth, where there
    # are any
    masks: str = "segmenter"
    augmentation: str = "affine"  # of `data.AUGMENT`
    flip: float = 0.5  # chance of a mirrored film; the columns of its array change places
    # a training hospital that becomes the external test in place of the usual ones: alternation
    # (section 4)
    aside: str = ""
    # the training films of the diagnosis that show COVID-19 teach too, where their zones are known
    diagnosed: bool = False


@dataclass(frozen=True)
class Variant:
    """What a cell of Tables 7 to 10 does otherwise than the paper's own model, which is all of the
    defaults.

    Only what departs from them enters the key of an artifact (`stages.settings`): the paper's own
    model is made once.
    """

    model: str = "corpus_vit"  # of `networks.MODELS`
    # weights of the features: findings (they learnt them first), imagenet, random
    start: str = "findings"
    # SimCLR before the diagnosis, on the films of the findings without their labels
    contrastive: bool = False
    corpus: str = "before_pcam"  # of `networks.CORPORA`
    # times the input size, and as many cells of the corpus a side to one word; diagnosis only
    zoom: int = 1
    pooling: str = "max"  # of a zone of the severity map: max, average
    sites: tuple[str, ...] = ()  # sites or datasets that train for severity; () = all
    widths: tuple[int, ...] = ()  # of the stages of a ResNet, and
    layers: tuple[int, ...] = ()  # how many blocks each has
    pretraining: Training | None = None  # of SimCLR, and of a ResNet that learns the findings
    films: int = 0  # of each split, drawn by the seed; 0 = all


@dataclass(frozen=True)
class Grid:
    """Tables 7 to 10: sizes of the models that ours is compared with, seeds, and what the lesson
    spends on a cell.

    The defaults are the published sizes: ResNet-50, ResNet-152, ViT-B/16, and ViT-B on three stages
    of a ResNet-50.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    # of a ResNet's stages; its blocks give four times as many channels
    widths: tuple[int, ...] = (64, 128, 256, 512)
    resnet_50: tuple[int, ...] = (3, 4, 6, 3)
    resnet_152: tuple[int, ...] = (3, 8, 36, 3)
    hybrid: str = "timm_hybrid"  # of `networks.MODELS`
    hybrid_layers: tuple[int, ...] = (3, 4, 6)
    vit: ViT = field(default_factory=ViT)
    small: ViT = ViT(depth=2, num_heads=4)  # "2 layers, 4 heads"
    middle: ViT = ViT(depth=4, num_heads=8)  # "4 layers, 8 heads"
    start: str = "imagenet"  # of the models that ours is compared with
    # SimCLR
    pretraining: Training = Training(
        "adam", lr=3e-4, batch=64, steps=10_000, schedule="cosine", warmup=500
    )
    alone: tuple[str, ...] = ("brixia",)  # site or dataset of "Brixia alone"
    choices: tuple[str, ...] = tuple(OPEN_CHOICES)  # that can move a result here
    steps: int = 0  # of every training of a cell in the lesson; 0 = its whole budget
    films: int = 0  # of each split there; 0 = all
    # images of an update there, 1 at twice the input size or more; 0 = whole batches
    batch: int = 0


@dataclass(frozen=True)
class Profile:
    """Everything a run depends on. A stage's artifact is named by a hash of the fields that it
    reads (`dependencies.DEPENDS`).
    """

    name: str
    manifests: tuple[str, ...]  # datasets by the name of their manifest, in data_manifests/
    image_size: int  # px, input of the backbone
    seed: int = 0
    lesson_minutes: int = 20  # the runner ends a lesson that takes longer
    # datasets and sites set aside for testing; virtual films say it themselves
    external: tuple[str, ...] = ()
    films: int = 0  # of each kind (`selection.sample`); 0 = all
    cohort: Cohort = field(default_factory=Cohort)
    backbone: DenseNet = field(default_factory=DenseNet)
    backbone_training: Training = field(default_factory=Training)
    segmenter: Segmenter = field(default_factory=Segmenter)
    # pairs of films
    segmenter_training: Training = Training(
        "adam", lr=1e-4, batch=4, steps=40_000, betas=(0.0, 0.99), ema=0.999
    )
    student_training: Training = Training(
        "adam", lr=1e-4, batch=4, steps=40_000, betas=(0.0, 0.99), ema=0.999
    )
    unet_training: Training = Training("adam", lr=1e-4, batch=8, steps=40_000)
    transformer: ViT = field(default_factory=ViT)
    transformer_training: Training = Training(
        "sgd", lr=1e-3, batch=16, steps=10_000, schedule="cosine", warmup=500, clip=1.0
    )
    sources: Sources = field(default_factory=Sources)
    # grouped cross-validation beside the split, where one split holds too few patients; 0 = none
    folds: int = 0
    quantifier: Quantifier = field(default_factory=Quantifier)
    severity_training: Training = Training("sgd", lr=3e-3, batch=4, steps=12_000)
    court_films: int = 48  # of a view, on which the saliency methods are judged, at most
    # of the model that are shuffled one after another, from the head down (`court.randomised`); 0 =
    # all
    court_parts: int = 0
    variant: Variant = field(default_factory=Variant)
    grid: Grid = field(default_factory=Grid)
    choices: Choices = field(default_factory=Choices)

    def to_dict(self):
        """Plain nested dict for JSON and for the artifact key."""
        return asdict(self)


def demo():
    """Lessons, Binder, CI: the virtual hospitals on 2 CPU cores, nothing to download.

    Command: `make demo` or `cxrkit reproduce --profile demo`; budget: all lessons and the report in
    20 minutes. A wide and shallow DenseNet: at equal time it sees twice as many films as a deep
    one. Its training augments nothing: turning a film blurs the thin lines (tubes, plates, the edge
    of a collapsed lung), which a hundred seconds of training then do not learn.
    """
    return Profile(
        "demo",
        manifests=("virtual",),
        image_size=128,
        choices=Choices(augmentation="shift"),
        backbone=DenseNet(
            growth_rate=32,
            block_config=(1, 2, 4, 3),
            num_init_features=32,
            bn_size=1,
            stem=1,
            stride=16,
            augment=False,
        ),
        backbone_training=Training(
            "adamw",
            lr=2e-3,
            batch=8,
            steps=2300,
            schedule="cosine",
            warmup=20,
            weight_decay=0.01,
            threads=1,
        ),
        segmenter=Segmenter(
            size=64,
            widths=(16, 32, 64),
            judge_widths=(16, 32, 64, 64),
            unet_widths=(16, 32, 64, 64),
            hidden=64,
            residual=True,
            diversity=0.0,
            r1_every=4,
            augmentation="affine",
            deliver="unet_both",
            judged=600,
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
        transformer=ViT(embed_dim=64, depth=3, num_heads=4),
        transformer_training=Training(
            "adamw",
            lr=5e-4,
            batch=16,
            steps=700,
            schedule="cosine",
            warmup=30,
            weight_decay=0.05,
            clip=1.0,
            eval_every=175,
            threads=1,
        ),
        quantifier=Quantifier(augmentation="shift", diagnosed=True),
        severity_training=Training(
            "adamw",
            lr=1e-3,
            batch=8,
            steps=750,
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
            vit=ViT(88, 3, 4),
            small=ViT(64, 1, 2),
            middle=ViT(64, 2, 4),
            start="random",
            alone=("alder",),
            steps=8,
            films=40,
            choices=(
                "class_head",
                "mlp_dim",
                "severity_start",
                "severity_loss",
                "map_scale",
                "zone_origin",
                "zone_height",
                # all films here are square, and every label is known
                "lung_sides",
                "augmentation",
                "normalize",
                "order",
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


def mini():
    """The honest small reproduction on real public X-rays (162 MB).

    Command: `make mini` or `cxrkit reproduce --profile mini`; budget: 60 minutes on 2 cores. The
    diagnosis begins as the model of the virtual hospitals, whose films go on teaching beside the
    real ones: in them no hospital gives a class away. Cohen's collection and CXNet teach no
    diagnosis (docs/mini.md has the trials behind these values).
    """
    slim = demo().backbone
    return Profile(
        "mini",
        manifests=("cohen", "cxnet", "hannover", "kermany", "kermany_224", "nih_cxr14"),
        image_size=128,
        lesson_minutes=60,
        folds=5,
        segmenter=replace(
            demo().segmenter,
            size=128,
            judged=0,
            unet_widths=(16, 32, 64, 128, 128),
            unet_patch=2,
            vary=True,
            mirror=True,
            normal="lung_mask.notna() and (diagnosis == 'normal' or brixia <= 3)",
            abnormal="diagnosis in ('other_infection', 'covid19')",
        ),
        segmenter_training=replace(demo().segmenter_training, steps=80),
        student_training=replace(demo().student_training, steps=40),
        unet_training=replace(demo().unet_training, steps=800, ema=0.98),
        backbone=replace(slim, start="virtual", augment=True),
        backbone_training=Training(
            "adamw",
            lr=1e-3,
            batch=8,
            steps=600,
            schedule="cosine",
            warmup=30,
            weight_decay=0.05,
            threads=1,
        ),
        transformer=demo().transformer,
        transformer_training=replace(demo().transformer_training, steps=1000, eval_every=0),
        sources=Sources(
            shares=(
                ("virtual", 0.35),
                ("nih_cxr14", 0.35),
                ("kermany", 0.05),
                ("kermany_224", 0.1),
                ("hannover", 0.15),
            ),
            together=True,
            virtual=True,
            aside=("cohen", "cxnet"),
            lungs_only=True,
        ),
        quantifier=Quantifier(virtual=True),
        grid=replace(demo().grid, alone=("cohen",)),
        severity_training=Training(
            "adamw",
            lr=3e-4,
            batch=8,
            steps=200,
            schedule="cosine",
            warmup=20,
            weight_decay=0.05,
            clip=1.0,
            threads=1,
        ),
    )


def paper():
    """The paper's own data and sizes on GPUs (Park et al. 2021, sections 4 and 5).

    Command: `cxrkit reproduce --profile paper --data DIR` (docs/paper.md). Set aside: the paper's
    three external hospitals, by their names in the `site` column of `local`, and a public
    collection with all three classes. RSNA's films are NIH's under other names.
    """
    return Profile(
        "paper",
        manifests=("chexpert", "brixia", "bimcv_covid19", "nih_chestxray14", "cohen_full", "local"),
        image_size=512,
        lesson_minutes=14 * 24 * 60,
        external=("cohen_full", "CNUH", "YNU", "KNUH"),
        sources=Sources(findings=("chexpert",)),
        backbone_training=Training("adam", lr=1e-4, batch=8, steps=160_000, schedule="step"),
    )


PROFILES = {"demo": demo, "mini": mini, "paper": paper}


def get(name):
    """Profile by name; "paper-local" is paper without the dataset local, "paper+dry" is `dry`.
    Raises ValueError with the known names.
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
        kept = tuple(dataset for dataset in profile.manifests if dataset != change[1:])
        profile = dry(profile) if change == "+dry" else replace(profile, manifests=kept)
    return replace(profile, name=name)


def dry(profile):
    """The same sizes and batches with two updates a training: whether all of it runs, at full size,
    before days are spent on it.

    Three films of each kind are taken (`selection.sample`), or all where there are so few that they
    are cross-validated. A batch is put together from passes of two films, so that the memory of a
    plain computer is enough. The court judges two films a view and shuffles the head and one block:
    occlusion and the deletion curves take hundreds of passes for each. A cell of the grid takes one
    update, of two films or of one at 1024 px.
    """

    def two(training):
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
    grid = replace(profile.grid, seeds=profile.grid.seeds[:1], steps=1, films=6, batch=2)
    return replace(
        profile, **short, films=0 if profile.folds else 3, court_films=2, court_parts=2, grid=grid
    )


def ablations(profile):
    """One profile per alternative value of every open choice: {"choice=value": profile}, one
    question at a time.
    """
    return {
        f"{name}={value}": replace(profile, choices=replace(profile.choices, **{name: value}))
        for name, (_, known) in OPEN_CHOICES.items()
        for value in known
        if value != getattr(profile.choices, name)
    }
