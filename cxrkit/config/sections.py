"""Sections of a profile: frozen values for every size, budget and source of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict

from cxrkit.config import conditions
from cxrkit.config.choices import OPEN_CHOICES, Choices
from cxrkit.config.vocabulary import FRAMINGS, known

STRICT = ConfigDict(extra="forbid")  # a misspelt field of a settings file is an error


def optional(default: Any, key: str = "") -> Any:
    """A field that enters the key of an artifact only where it departs from its default.

    Every field that is added after the keys were first made must be one, so that the keys of
    finished artifacts stay. `key`: the name under which it enters, where it was renamed since.
    """
    return field(default=default, metadata={"optional": True, "key": key})


def costs_only(default: Any) -> Any:
    """A field that enters no key: it changes the memory and the time of a training, no weight."""
    return field(default=default, metadata={"costs_only": True})


def renamed(default: Any, key: str) -> Any:
    """A field that enters the key of an artifact under the name that it had before."""
    return field(default=default, metadata={"key": key})


@dataclass(frozen=True)
class CohortSettings:
    """How many images of the virtual hospitals a run draws, at what size, and how confounded.

    `findings`, `diagnosis` and `severity` count images, not patients, of the ward of that name.
    """

    __pydantic_config__ = STRICT

    findings: int = 3600
    diagnosis: int = 5400
    severity: int = 600
    size: int = 256  # px
    # in [0, 1]: ties the visible marker to the diagnosis; 0 = independent (`simulation.Hospital`)
    rho: float = 0.0
    # in [0, 1]: share of infections that differ by the places of their foci alone
    arrangement: float = optional(0.7)
    places: str = optional("textbook")  # or "sides" (`simulation.arrangement`)


@dataclass(frozen=True)
class Training:
    """One call of `training.fit`: all that decides the weights beside model, data and seed.

    `optimizer`, `schedule` and `amp` name entries of tables in `training.loop` and
    `training.devices`; an unknown name raises there, with the known ones.
    """

    __pydantic_config__ = STRICT

    optimizer: str = "adamw"  # adamw, adam, sgd
    lr: float = 1e-3
    batch: int = 16  # images of one forward pass, on all devices together
    steps: int = 1000  # optimiser steps
    # constant, cosine (to 0 at `steps`), step (times `decay` at each of `milestones`)
    schedule: str = "constant"
    warmup: int = 0  # steps of linear warm-up before the schedule
    milestones: tuple[int, ...] = ()  # steps after which the learning rate is multiplied by `decay`
    decay: float = 0.1
    momentum: float = 0.9  # SGD
    betas: tuple[float, float] = (0.9, 0.999)  # Adam, AdamW
    weight_decay: float = 0.0
    clip: float = 0.0  # largest norm of the gradient; 0 = no clipping
    accumulate: int = 1  # forward passes to one step
    # blocks are computed again in the backward pass (`training.recompute`): a third more time
    recompute: bool = costs_only(False)
    # of SimCLR: views that pass through the network at once, 0 = all; a network with batch norm
    # takes all of them
    micro_batch: int = costs_only(0)
    ema: float = 0.0  # decay of the moving average of the weights; 0 = none
    amp: str = "auto"  # auto, bf16, fp16, off; a CPU knows bf16 alone, and auto is off there
    # CPU threads of torch; 0 = its default. Small images train faster on one thread, because a
    # second one waits more than it works.
    threads: int = 0
    log_every: int = 10  # steps to one row of the history
    eval_every: int = 0  # steps to one validation; 0 = none, and the last weights count
    checkpoint_every: int = 500


@dataclass(frozen=True)
class DenseNet:
    """The backbone: sizes of the DenseNet (arguments of `models.Backbone`) and its first weights.

    The defaults are DenseNet-121. Another network (`models.factory.BACKBONES`) has sizes of its
    own: of these fields it reads `stem`, `stride`, `pool` and what follows.
    """

    __pydantic_config__ = STRICT

    growth_rate: int = 32
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    num_init_features: int = 64
    bn_size: int = 4
    stem: int = 3  # channels of the first convolution
    stride: int = 32  # image px per cell of the corpus
    pool: str = "pcam"
    augment: bool = True  # its training images, by `choices.augmentation`
    # sides of the convolutions in each block; 1 = a cell of the corpus sees no further from there
    kernels: tuple[int, ...] = optional((3, 3, 3, 3))
    # random, imagenet, virtual (the demo's backbone)
    initial_weights: str = renamed("random", "start")
    network: str = optional("densenet")  # of `models.factory.BACKBONES`
    # the findings teach the head alone, on the corpus, which is computed once
    frozen: bool = optional(False)


@dataclass(frozen=True)
class Segmenter:
    """The AdaIN segmenter: sizes, the weight of each loss, and which images train it.

    The defaults are those of Oh & Ye 2021. `normal` and `abnormal` select the images of the two
    domains. They are conditions (`config.conditions`) on a table of `vocabulary.COLUMNS`, `zones`
    and `brixia` (`tasks.segmentation.assign_roles`).
    """

    __pydantic_config__ = STRICT

    size: int = 256  # px
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    # and of the style encoder
    discriminator_widths: tuple[int, ...] = renamed((64, 128, 256, 512), "judge_widths")
    unet_widths: tuple[int, ...] = (64, 128, 256, 512)
    unet_patch: int = 1  # px to a side that the U-Nets take at once; 2 = three times as fast
    style_dim: int = 16
    latent_dim: int = 4
    hidden: int = 512  # of the mapping network
    residual: bool = False  # the generator gives the change of an image
    # False = ablation without the adversarial part: the teacher sees abnormal images as they are
    translate: bool = True
    cross_entropy: tuple[float, float] = (0.7, 1.0)  # background, lung
    segment: float = 5.0
    style: float = 1.0
    cycle: float = 2.0
    diversity: float = 1.0  # falls to 0 over stage 1
    r1: float = 1.0
    r1_every: int = 1  # steps to one penalty, on average; its weight grows by as much
    consistency: float = 10.0  # student and teacher on abnormal images
    consistency_normal: float = 1.0
    mapping_lr: float = 0.01  # of the learning rate
    augmentation: str = "none"
    # the U-Nets train on images in other frames and greys, with opacities painted in
    # (`data.variation`), instead
    vary: bool = False
    virtual: float = 0.0  # share of virtual images in each batch of `unet_both`
    mirror: bool = False  # masks are predicted on the image and its mirror image, and averaged
    # the network that segments for `predict` and the severity map: student, unet_normal, unet_both
    output_network: str = renamed("student", "deliver")
    # test images that are evaluated, drawn by the seed; 0 = all
    max_eval_images: int = renamed(0, "judged")
    normal: str = "diagnosis == 'normal'"
    abnormal: str = "diagnosis in ('other_infection', 'covid19')"

    def __post_init__(self) -> None:
        """Refuse what is no condition before anything is trained."""
        for name in ("normal", "abnormal"):
            conditions.parse(getattr(self, name), f"segmenter.{name}")


@dataclass(frozen=True)
class ViT:
    """Sizes of the corpus ViT (arguments of `models.CorpusViT`); the defaults are the paper's.

    Its MLP is `choices.mlp_dim` wide at embed_dim 768 and in proportion below.
    """

    __pydantic_config__ = STRICT

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    frozen: bool = False  # the backbone is not trained further, and its corpus is computed once
    flip: float = optional(0.0)  # chance that such a corpus is mirrored in training
    # of `models.corpus_vit.INITIALISATIONS`; "narrow" for an embed_dim far below 768
    initialisation: str = optional("vit")
    positions: bool = optional(True)  # False = ablation: tokens do not know where they stand
    even: bool = optional(False)  # ablation: every token looks at all tokens alike


@dataclass(frozen=True)
class Sources:
    """Which images train the findings and the diagnosis; the defaults are the paper's.

    Only what departs from them enters the key of an artifact.
    """

    __pydantic_config__ = STRICT

    # share of the draws of each dataset, its classes equally often; () = classes equally often over
    # all. A share of "virtual" adds the training images of the virtual hospitals, in which no
    # hospital gives a class away.
    shares: tuple[tuple[str, float], ...] = optional(())
    # of `tasks.diagnosis.CLASS_MASKS`; own = an image trains only the classes that its dataset has
    class_mask: str = optional("all", "contrast")
    # one training on PA and AP images, where one view has too few; both are evaluated apart
    joint_views: bool = optional(False, "together")
    # begins as the PA model of the virtual hospitals instead of the backbone
    virtual: bool = optional(False)
    # datasets that are tested and train no diagnosis; those of `Profile.external` train nothing
    held_out: tuple[str, ...] = optional((), "aside")
    # that train the findings; () = all that know some
    findings_datasets: tuple[str, ...] = optional((), "findings")
    # that test the findings and train none of them: the images of their test split; external are
    # those of a site that trains nothing (`choices.pretraining_images`)
    findings_tests: tuple[str, ...] = optional(())
    # that train and test the diagnosis; () = all that know some. Others may still give lung masks
    # and severities.
    diagnosis_datasets: tuple[str, ...] = optional(())
    # datasets and sites that train no AP model; None = those of `Profile.external` (section 4: the
    # paper sets three hospitals aside for PA, and one of them for AP)
    external_ap: tuple[str, ...] | None = optional(None)
    # what the diagnosis sees of an image (FRAMINGS): whole; crop, the box around the
    # lungs; lungs, all black but them
    framing: str = optional("whole")

    def __post_init__(self) -> None:
        """Refuse an unknown framing before anything is trained."""
        known(self.framing, FRAMINGS, "framing of the diagnosis")


@dataclass(frozen=True)
class Severity:
    """How the severity model is made, beside its sizes (`ViT`) and its training."""

    __pydantic_config__ = STRICT

    frozen: bool = False  # the backbone is not trained any further
    virtual: bool = False  # begins as the severity model of the virtual hospitals
    # lungs of all images (section 3.3); "annotated" = a radiologist's or rendered ones, where known
    masks: str = "segmenter"
    augmentation: str = "affine"  # of `data.AUGMENT`
    flip: float = 0.5  # chance of a mirrored image; the columns of its array change places
    # a training hospital that becomes the external test in place of the usual ones: alternation
    # (section 4)
    held_out: str = renamed("", "aside")
    # hospitals that are held out in turn (stage `alternation`, Table 6); the others of them train,
    # although `Profile.external` names them
    alternation: tuple[str, ...] = optional(())
    # COVID-19 images of the diagnosis train too, where their zones are known
    auxiliary_diagnosis: bool = renamed(False, "diagnosed")
    # normal images of the diagnosis, of which the paper says nothing: left_out, or zeros
    healthy: str = optional("left_out")
    # datasets whose normal images are these zeros; () = all
    healthy_datasets: tuple[str, ...] = optional(())
    # of the six zone values, on validation: none (the paper), or zones, each by its own
    calibration: str = optional("none")


@dataclass(frozen=True)
class Variant:
    """What a cell of Tables 7 to 10 changes; the defaults are the paper's own model.

    Only what departs from them enters the key of an artifact: the paper's own model is made once.
    """

    __pydantic_config__ = STRICT

    model: str = optional("corpus_vit")  # of `models.factory.MODELS`
    # of the features: findings (trained on the findings first), imagenet, random
    initial_weights: str = optional("findings", "start")
    # SimCLR before the diagnosis, on the findings' images without labels
    contrastive: bool = optional(False)
    corpus: str = optional("before_pcam")  # of `models.factory.CORPORA`
    # times the input size, and as many cells of the corpus a side to one token; diagnosis only
    zoom: int = optional(1)
    pooling: str = optional("max")  # of a zone of the severity map: max, average
    # sites or datasets that train for severity; () = all
    sites: tuple[str, ...] = optional(())
    widths: tuple[int, ...] = optional(())  # of the stages of a ResNet, and
    layers: tuple[int, ...] = optional(())  # how many blocks each has
    # of SimCLR, and of a ResNet trained on the findings
    pretraining: Training | None = optional(None)
    # of each split, drawn by the seed; 0 = all
    max_images: int = optional(0, "films")


@dataclass(frozen=True)
class Search:
    """A search for the learning rate and the steps of a task, the same for each model of a table.

    Validation images decide (tools/learning_rates.py).
    """

    __pydantic_config__ = STRICT

    rates: tuple[float, ...] = ()  # of the first round
    steps: int = 1500  # of each of its trainings
    most_steps: int = 0  # of a training of the last round
    # (row, rate) and (row, steps) of the models that do not keep those of the profile
    chosen_rates: tuple[tuple[str, float], ...] = ()
    chosen_steps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Grid:
    """Tables 7 to 10: sizes of the baselines, seeds, and the budget of a cell in the lesson.

    The defaults are the published sizes: ResNet-50, ResNet-152, ViT-B/16, and ViT-B on three stages
    of a ResNet-50.
    """

    __pydantic_config__ = STRICT

    seeds: tuple[int, ...] = (0, 1, 2)
    # of a ResNet's stages; its blocks give four times as many channels
    widths: tuple[int, ...] = (64, 128, 256, 512)
    resnet_50: tuple[int, ...] = (3, 4, 6, 3)
    resnet_152: tuple[int, ...] = (3, 8, 36, 3)
    hybrid: str = "timm_hybrid"  # of `models.factory.MODELS`
    hybrid_layers: tuple[int, ...] = (3, 4, 6)
    vit: ViT = field(default_factory=ViT)
    small: ViT = ViT(depth=2, num_heads=4)  # "2 layers, 4 heads"
    middle: ViT = ViT(depth=4, num_heads=8)  # "4 layers, 8 heads"
    initial_weights: str = "imagenet"  # of the baselines
    scratch_steps: int = 0  # of a diagnosis that begins with random weights; 0 = as the others
    diagnosis_search: Search = field(default_factory=Search)  # of the models of Table 7
    severity_search: Search = field(default_factory=Search)  # of those of Table 8
    # SimCLR
    pretraining: Training = Training(
        "adam", lr=3e-4, batch=64, steps=10_000, schedule="cosine", warmup=500
    )
    # SimCLR and inputs of twice the size are computed again in the backward pass
    recompute: bool = costs_only(False)
    micro_batch: int = costs_only(0)  # of SimCLR
    alone: tuple[str, ...] = ("brixia",)  # site or dataset of "Brixia alone"
    choices: tuple[str, ...] = tuple(OPEN_CHOICES)  # that can move a result here
    steps: int = 0  # of every training of a cell in the lesson; 0 = its whole budget
    max_images: int = 0  # of each split there; 0 = all
    batch: int = 0  # images of a step there, 1 at twice the input size or more; 0 = whole batches


@dataclass(frozen=True)
class Profile:
    """Everything a run depends on.

    A stage's artifact is named by a hash of the fields that the stage reads (`pipeline.stages`).
    """

    __pydantic_config__ = STRICT

    name: str
    manifests: tuple[str, ...]  # datasets by the name of their manifest, in data_manifests/
    image_size: int  # px, input of the backbone
    seed: int = 0
    lesson_minutes: int = 20  # the runner ends a lesson that takes longer
    home: str = "demo"  # profile of the virtual hospitals that models begin with and studies use
    # what a reader must know before any number; the report and every lesson begin with it
    caveat: str = ""
    external: tuple[str, ...] = ()  # datasets and sites held out for testing; virtual ones say so
    # of each kind (`pipeline.task_data.subsample`); 0 = all
    max_images: int = optional(0, "films")
    cohort: CohortSettings = field(default_factory=CohortSettings)
    backbone: DenseNet = field(default_factory=DenseNet)
    backbone_training: Training = field(default_factory=Training)
    segmenter: Segmenter = field(default_factory=Segmenter)
    # pairs of images
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
    severity: Severity = renamed(Severity(), "quantifier")
    severity_training: Training = Training("sgd", lr=3e-3, batch=4, steps=12_000)
    # of a view, on which the saliency methods are evaluated, at most
    saliency_images: int = optional(48, "court_films")
    # blocks of the model that are shuffled one after another, from the head down; 0 = all
    saliency_blocks: int = optional(0, "court_parts")
    variant: Variant = field(default_factory=Variant)
    grid: Grid = field(default_factory=Grid)
    choices: Choices = field(default_factory=Choices)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, for JSON."""
        return asdict(self)
