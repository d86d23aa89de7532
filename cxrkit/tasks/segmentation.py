"""Segmentation: the lungs (Oh & Ye 2021). Masks are known for normal images alone.

Stage 1 trains the generator to move images between normal and abnormal and to segment normal ones.
In stage 2 that teacher makes an abnormal image normal, segments it, and the student learns to do
the same in one pass. Two plain U-Nets stand beside it: one trained on the same masks, which the
method must beat, and one trained on masks of abnormal images too, the ceiling. The profile says
which network segments for everybody else (`Segmenter.output_network`).

B batch, H W image, N images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit.config import conditions
from cxrkit.config.choices import Choices
from cxrkit.config.sections import Profile, Training
from cxrkit.config.vocabulary import BRIXIA, ZONES, known
from cxrkit.data import variation
from cxrkit.data.datasets import CXRDataset
from cxrkit.data.masks import clean_mask
from cxrkit.evaluation import overlap
from cxrkit.models.adain_networks import DOMAINS, Generator, Translator
from cxrkit.models.unet import UNet
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.tasks.task import WEIGHTS, Inputs, State, Tables, Task
from cxrkit.training import checkpoint, loop
from cxrkit.training.devices import device_of
from cxrkit.training.losses import consistency, translation_losses, weighted_cross_entropy
from cxrkit.training.losses import nonsaturating as nonsaturating  # shown in the lesson

Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]  # model, images -> logits

# which image does what


def domain_of(profile: Profile, table: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows of the internal sites that the rules of the profile put into each domain."""
    internal = ~table["external"].astype(bool)
    rows = {}
    for name in DOMAINS:
        condition = conditions.parse(getattr(profile.segmenter, name), f"segmenter.{name}")
        chosen = condition(table).fillna(False).astype(bool)
        rows[name] = internal & chosen
    return rows


def assign_roles(profile: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """What each image does in the training.

    profile.segmenter.normal and .abnormal are the rules. Their images of the train split, from no
    external site, get the role "normal" (those with a mask train the segmentation) or "abnormal"
    (their masks are not looked at); of the val split, "val". "test" are other images with a mask
    whose patient trains nothing; the rest has "".

    Returns:
        The table with `zones` (involved, 0-6), `brixia` (sum of six scores, 0-18) and `role`.

    Raises:
        ValueError: a domain has no training image.
    """
    table = table.assign(
        zones=table[list(ZONES)].sum(axis=1, min_count=6),
        brixia=table[list(BRIXIA)].sum(axis=1, min_count=6),
    )
    domain, masked = domain_of(profile, table), table["lung_mask"].notna()
    role = pd.Series("", table.index)
    for name in DOMAINS:
        role[domain[name] & table["split"].isin(["train", "val"])] = "val"
        role[domain[name] & (table["split"] == "train")] = name
    group = table["group_id"]
    annotated = set(group[(role == "normal") & masked])
    trains_with_mask = annotated | set(group[(role == "abnormal") & masked])
    role[masked & (role == "") & ~group.isin(trains_with_mask)] = "test"
    tested = set(group[role == "test"])
    role[role.isin(DOMAINS) & ~masked & group.isin(tested)] = ""
    abnormal = int((role == "abnormal").sum())
    if not annotated or not abnormal:
        raise ValueError(
            f"{len(annotated)} patients with a normal mask, {abnormal} abnormal images to train "
            "on: see profile.segmenter.normal and .abnormal"
        )
    return table.assign(role=role)


def unet_rows(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows that train each U-Net.

    Returns:
        {"unet_normal": bool (N,), "unet_both": bool (N,)}; the second only where masks of abnormal
        images exist.
    """
    masked = table["lung_mask"].notna()
    normal = masked & (table["role"] == "normal")
    both = masked & table["role"].isin([*DOMAINS, "virtual"])
    if (both == normal).all():
        return {"unet_normal": normal}
    return {"unet_normal": normal, "unet_both": both}


def unet_sample_weights(profile: Profile, table: pd.DataFrame) -> np.ndarray | None:
    """How often each image is drawn for a U-Net, (N,); None where all come from one dataset.

    Virtual images among others have the share profile.segmenter.virtual of a batch; the datasets
    share the rest evenly, however many images each has.
    """
    virtual, share = table["role"] == "virtual", profile.segmenter.virtual
    source = table["dataset"].mask(virtual, "auxiliary")
    if source.nunique() == 1:
        return None
    others = (1 - share * virtual.any()) / source[~virtual].nunique()
    share_of_source = np.where(virtual, share, others)
    return share_of_source / source.map(source.value_counts()).to_numpy()


class Pairs:
    """Abnormal images, each beside a normal one drawn at random.

    A batch is a dict `abnormal`, `normal` (B, 1, H, W), `lung_mask` (B, H, W). Only the mask of the
    normal image is given.
    """

    def __init__(self, abnormal: CXRDataset, normal: CXRDataset) -> None:
        self.abnormal, self.normal = abnormal, normal

    def __len__(self) -> int:
        return len(self.abnormal)

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A batch; `fit` seeds torch by the position, so a restart draws the same partners."""
        drawn = torch.randint(len(self.normal), (len(indices),)).tolist()
        partners = self.normal.batch(drawn)
        return {
            "abnormal": self.abnormal.batch(indices)["image"],
            "normal": partners["image"],
            "lung_mask": partners["lung_mask"],
        }


class Varied:
    """Images with masks, changed at random each time they are asked for (`data.variation`)."""

    def __init__(self, images: CXRDataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A batch of the dataset, varied."""
        batch = self.images.batch(indices)
        image, mask = variation.vary(batch["image"], batch["lung_mask"])
        return {**batch, "image": image, "lung_mask": mask}


# the networks


def build_generator(profile: Profile) -> Generator:
    """The generator, which is also the student, with random weights."""
    settings = profile.segmenter
    return Generator(settings.widths, settings.style_dim, residual=settings.residual)


def build_unet(profile: Profile) -> UNet:
    """A plain U-Net with random weights."""
    return UNet(profile.segmenter.unet_widths, profile.segmenter.unet_patch)


def build_translator(profile: Profile) -> Translator:
    """The four networks of stage 1, with random weights."""
    s = profile.segmenter
    return Translator(
        s.size, s.widths, s.discriminator_widths, s.style_dim, s.latent_dim, s.hidden, s.residual
    )


# networks that may segment for everybody else
NETWORKS = {"student": build_generator, "unet_normal": build_unet, "unet_both": build_unet}


# losses


def adaptation_loss(
    profile: Profile, nets: Translator, batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Stage 1: images between the domains, and lungs on normal ones.

    Half of the steps ask for the style of a random latent, half for that of an image of the other
    domain (StarGAN v2 does both in each). With `translate` off only the lungs are learned.

    Returns:
        `loss` and its parts.
    """
    s, steps = profile.segmenter, profile.segmenter_training.steps
    logits = nets.generator(batch["normal"])["logits"]  # (B, 1, H, W)
    lungs = weighted_cross_entropy(logits, batch["lung_mask"], s.cross_entropy)
    if not s.translate:
        return {"loss": s.segment * lungs, "lungs": lungs}
    image = torch.cat([batch["abnormal"], batch["normal"]])  # (2B, 1, H, W)
    domain = torch.arange(2, device=image.device).repeat_interleave(len(batch["normal"]))  # (2B,)
    target, coin = 1 - domain, torch.rand(2)
    diversity = s.diversity * max(0.0, 1 - int(nets.step) / steps)

    def random_style() -> torch.Tensor:
        latent = torch.randn(len(image), s.latent_dim, device=image.device)
        return nets.mapping(latent, target)

    style, other = random_style(), random_style()
    if coin[0] < 0.5:
        style = nets.encoder(image.flip(0), target).detach()
    losses = translation_losses(
        nets,
        image,
        domain,
        target,
        style,
        other.detach() if diversity else None,
        penalty=bool(coin[1] < 1 / s.r1_every),
    )
    nets.step += 1
    weights = {
        "real": 1,
        "fake": 1,
        "r1": s.r1 * s.r1_every,
        "adversarial": 1,
        "style": s.style,
        "cycle": s.cycle,
        "diversity": -diversity,
    }
    loss = s.segment * lungs + sum(weights[name] * value for name, value in losses.items())
    shown = {name: losses[name] for name in ("real", "fake", "adversarial", "style", "cycle")}
    return {"loss": loss, "lungs": lungs, **shown}


def teacher_logits(profile: Profile, nets: Translator, image: torch.Tensor) -> torch.Tensor:
    """The teacher's logits of abnormal images: (B, 1, H, W) -> (B, 1, H, W).

    It makes them normal first, then segments them (`translate` off: as they are).
    """
    if profile.segmenter.translate:
        image = nets.to_normal(image)
    return nets.generator(image)["logits"]


def direct_logits(nets: Translator, image: torch.Tensor) -> torch.Tensor:
    """The generator's logits of images as they are: (B, 1, H, W) -> (B, 1, H, W)."""
    return nets.generator(image)["logits"]


def student_loss(
    profile: Profile, nets: Translator, student: Generator, batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Stage 2: in one pass, with the self code, the student does what the teacher does in two.

    Returns:
        `loss` and its parts.
    """
    s = profile.segmenter
    with torch.no_grad():
        of_abnormal = teacher_logits(profile, nets, batch["abnormal"])
        of_normal = direct_logits(nets, batch["normal"])
    abnormal = consistency(student.segment(batch["abnormal"]), of_abnormal)
    normal = consistency(student.segment(batch["normal"]), of_normal)
    return {
        "loss": s.consistency * abnormal + s.consistency_normal * normal,
        "abnormal": abnormal,
        "normal": normal,
    }


def unet_loss(profile: Profile, model: UNet, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same cross-entropy for the plain U-Net, a scalar."""
    logits = model.segment(batch["image"])  # (B, 1, H, W)
    return weighted_cross_entropy(logits, batch["lung_mask"], profile.segmenter.cross_entropy)


# what comes out


def lung_logits(model: nn.Module, image: torch.Tensor, mirror: bool = False) -> torch.Tensor:
    """Logits of the lungs by one of NETWORKS: (B, 1, H, W) -> (B, 1, H, W).

    Args:
        model: has `segment(image)`.
        image: grey images in [-1, 1].
        mirror: give the mean over the image and its mirror image.
    """
    logits = model.segment(image)
    if not mirror:
        return logits
    return (logits + model.segment(image.flip(-1)).flip(-1)) / 2


def to_mask(logits: np.ndarray, size: int) -> np.ndarray:
    """Logits (H, W) -> clean bool mask (size, size).

    Interpolated, cut at 0, the two largest components, their holes filled.
    """
    resized = cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR)
    return clean_mask(resized > 0)


class SegmentationTask(Task):
    """The AdaIN segmenter and two plain U-Nets."""

    name = "segmentation"

    def network(self, name: str | None = None) -> nn.Module:
        """One of NETWORKS with random weights, by default the one whose masks the profile uses."""
        name = known(
            name or self.profile.segmenter.output_network, NETWORKS, "network of the segmenter"
        )
        return NETWORKS[name](self.profile)

    def load(self, folder: Path, name: str | None = None) -> nn.Module:
        """A finished network, by default the one whose masks the profile uses."""
        return checkpoint.load_weights(self.network(name), folder / (name or "") / WEIGHTS)

    def load_teacher(self, folder: Path) -> Translator:
        """The networks of stage 1."""
        return checkpoint.load_weights(build_translator(self.profile), folder / "teacher" / WEIGHTS)

    def dataset(
        self, table: pd.DataFrame, train: bool = False, size: int | None = None
    ) -> CXRDataset:
        """Images as the segmenter sees them: grey, plain resize, [-1, 1]; with masks.

        A mask is 127 where nobody has annotated.
        """
        return CXRDataset(
            table,
            size or self.profile.segmenter.size,
            Choices(
                augmentation=self.profile.segmenter.augmentation,
                stretch=self.profile.choices.stretch,
            ),
            train=train,
            flip=0,
            masks=True,
            kind="grey",
            store=self.store,
        )

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a plain U-Net; the AdaIN networks have their own, stage by stage."""
        return unet_loss(self.profile, model, batch)

    def training(self, images: int) -> Training:
        """The training of a plain U-Net."""
        return self.profile.unet_training

    def fit_adain(self, folder: Path, table: pd.DataFrame) -> tuple[Translator, Generator]:
        """Stage 1, then stage 2.

        Args:
            folder: the stages train in teacher/ and student/ in it.
            table: with `role`.

        Returns:
            The networks of stage 1, and the student.
        """
        profile = self.profile
        domains = [self.dataset(table[table["role"] == name], train=True) for name in DOMAINS]
        pairs = Pairs(*domains)
        torch.manual_seed(profile.seed)
        nets, training = build_translator(profile), profile.segmenter_training
        trained = (nets.generator, nets.encoder, nets.discriminator)
        weights = [weight for part in trained for weight in part.parameters()]
        mapping_lr = training.lr * profile.segmenter.mapping_lr
        loop.fit(
            nets,
            partial(adaptation_loss, profile),
            pairs,
            training,
            folder=folder / "teacher",
            seed=profile.seed,
            device=self.device,
            parameters=[
                {"params": weights},
                {"params": list(nets.mapping.parameters()), "lr": mapping_lr},
            ],
        )
        student = copy.deepcopy(nets.generator)
        loop.fit(
            student,
            partial(student_loss, profile, nets.eval()),
            pairs,
            profile.student_training,
            folder=folder / "student",
            seed=profile.seed,
            device=device_of(nets),  # the teacher runs beside its student
        )
        return nets, student

    def fit(
        self,
        folder: Path,
        train: pd.DataFrame,
        val: pd.DataFrame | None = None,
        initial_weights: Sequence[State] = (),
    ) -> UNet:
        """Train a plain U-Net on the masks of a table with `role`."""
        torch.manual_seed(self.profile.seed)
        model, vary = build_unet(self.profile), self.profile.segmenter.vary
        images = self.dataset(train, train=not vary)
        loop.fit(
            model,
            self.loss,
            Varied(images) if vary else images,
            self.training(len(train)),
            folder=folder,
            seed=self.profile.seed,
            device=self.device,
            sample_weights=unet_sample_weights(self.profile, train),
        )
        return model

    def masks(
        self, model: nn.Module, forward: Forward, table: pd.DataFrame, size: int
    ) -> np.ndarray:
        """Clean masks of the images of a table, bool (N, size, size).

        Args:
            model: any of the networks.
            forward: model, images (B, 1, H, W) -> logits (B, 1, H, W).
            table: N images.
            size: px.
        """

        def logits_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"logits": forward(model, batch["image"])}

        output = loop.evaluate(model, self.dataset(table), device=self.device, forward=logits_of)
        return np.stack([to_mask(one, size) for one in output["logits"][:, 0].numpy()])

    def segment(self, model: nn.Module, table: pd.DataFrame, size: int | None = None) -> np.ndarray:
        """Lung masks by the finished segmenter, bool (N, size, size), default image_size."""
        forward = partial(lung_logits, mirror=self.profile.segmenter.mirror)
        return self.masks(model, forward, table, size or self.profile.image_size)

    def compare(self, model: nn.Module, forward: Forward, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the agreement of each image's mask and truth (`overlap.compare_masks`)."""
        size = self.profile.image_size
        masks = self.masks(model, forward, table, size)
        truth = self.dataset(table, size=size)
        lesions = self.dataset(table.assign(lung_mask=table["lesion_mask"]), size=size)
        if truth.masks is None or lesions.masks is None:
            raise ValueError("the dataset of a segmenter has no masks")
        rows = []
        for i, mask in enumerate(masks):
            image, lung = truth.images[i], truth.masks[i]
            rows.append(overlap.compare_masks(lung, mask, lesions.masks[i], image))
        return table.assign(**pd.DataFrame(rows, index=table.index))

    def predict(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the agreement of the finished segmenter's masks and the truth."""
        forward = partial(lung_logits, mirror=self.profile.segmenter.mirror)
        return self.compare(model, forward, table)

    def evaluate(self, predictions: Tables, train: pd.DataFrame) -> dict[str, Any]:
        """Agreement by network, place and group (`overlap.report`)."""
        return overlap.report(pd.concat(predictions.values(), ignore_index=True))

    def test_images(self, table: pd.DataFrame) -> pd.DataFrame:
        """Images of the role "test", at most `segmenter.max_eval_images`, drawn by the seed."""
        test, most = table[table["role"] == "test"], self.profile.segmenter.max_eval_images
        if 0 < most < len(test):
            test = test.sample(most, random_state=self.profile.seed).sort_index()
        return test.reset_index(drop=True)

    def make(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """Both stages and the U-Nets, evaluated on images whose patients trained nothing.

        Leaves weights.safetensors (the network whose masks the profile uses), history.json (of all
        trainings), metrics.json, predictions.csv (a row an image and network), and teacher/,
        student/, unet_normal/, unet_both/ with their own weights. A training that was cut off goes
        on where it stopped.

        Args:
            folder: of the artifact.
            inputs: `auxiliary`: virtual images that train `unet_both` too.

        Raises:
            ValueError: the output network is unknown, or a domain has no training image.
        """
        output = self.profile.segmenter.output_network
        known(output, NETWORKS, "network of the segmenter")
        table = assign_roles(self.profile, inputs.table)
        if inputs.auxiliary is not None:
            auxiliary = inputs.auxiliary.assign(role="virtual")
            table = pd.concat([table, auxiliary], ignore_index=True)
        nets, student = self.fit_adain(folder, table)
        networks = {"student": student}
        for name, rows in unet_rows(table).items():
            networks[name] = self.fit(folder / name, table[rows])

        test = self.test_images(table)
        predictions = {name: self.predict(model, test) for name, model in networks.items()}
        predictions["teacher"] = self.compare(nets, partial(teacher_logits, self.profile), test)
        predictions["direct"] = self.compare(nets, direct_logits, test)
        predictions = {name: part.assign(network=name) for name, part in predictions.items()}
        whole = pd.concat(predictions.values(), ignore_index=True)
        self.store.write_table(folder / "predictions.csv", whole)
        checkpoint.save_tensors(folder / WEIGHTS, networks[output].state_dict())
        history = {
            name: read_json(folder / name / "history.json") for name in ("teacher", *networks)
        }
        write_json(folder / "history.json", history)
        images = table["role"].value_counts().drop("", errors="ignore").to_dict()
        metrics = {
            "images": {**images, "evaluated": len(test)},
            "output_network": output,
            **self.evaluate(predictions, table),
        }
        write_json(folder / "metrics.json", metrics)
        return metrics
