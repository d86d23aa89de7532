"""Lungs: the segmenter's task (Oh & Ye 2021). Masks are drawn on normal films alone; abnormal films
come without any.

Stage 1 teaches the generator to move films between normal and abnormal and to draw the lungs of
normal ones. In stage 2 that teacher makes an abnormal film normal, draws its lungs, and the student
learns to draw them in one pass. Two plain U-Nets stand beside it: one that saw the same masks
(where the method must win), one that saw those of abnormal films too (the ceiling). The profile
says which of the networks draws for everybody else (`Segmenter.deliver`).

B batch, H W image, N films.
"""

import copy
from functools import partial

import cv2
import numpy as np
import pandas as pd
import torch

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, ZONES, known
from cxrkit.data import variation
from cxrkit.data.datasets import CXRDataset
from cxrkit.data.masks import clean_mask
from cxrkit.evaluation import overlap
from cxrkit.models.adain_networks import DOMAINS, Generator, Translator
from cxrkit.models.unet import UNet
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.training import checkpoint, devices, loop
from cxrkit.training import losses as losses_module

# which film does what


def roles(profile, table):
    """The table with `zones` (involved, 0-6), `brixia` (sum of six scores, 0-18) and `role`, each
    film's part in the game.

    profile.segmenter.normal and .abnormal are the rules. Their films of the train split, from no
    external site, get the role "normal" (those with a mask teach the drawing) or "abnormal" (their
    masks are not looked at); of the val split, "val". "test" are other films with a mask whose
    patient teaches nothing; the rest has "". Raises ValueError where a domain has no film to learn
    from.
    """
    table = table.assign(
        zones=table[list(ZONES)].sum(axis=1, min_count=6),
        brixia=table[list(BRIXIA)].sum(axis=1, min_count=6),
    )
    inside, masked = ~table["external"].astype(bool), table["lung_mask"].notna()
    rule = {
        name: inside & table.eval(getattr(profile.segmenter, name)).fillna(False).astype(bool)
        for name in DOMAINS
    }
    role = pd.Series("", table.index)
    for name in DOMAINS:
        role[rule[name] & table["split"].isin(["train", "val"])] = "val"
        role[rule[name] & (table["split"] == "train")] = name
    drawn = set(table["group_id"][(role == "normal") & masked])
    role[
        masked
        & (role == "")
        & ~table["group_id"].isin(drawn | set(table["group_id"][(role == "abnormal") & masked]))
    ] = "test"
    role[
        role.isin(DOMAINS)
        & ~masked
        & table["group_id"].isin(set(table["group_id"][role == "test"]))
    ] = ""
    if not drawn or not (role == "abnormal").any():
        raise ValueError(
            f"{len(drawn)} patients with a normal mask, {(role == 'abnormal').sum()} abnormal "
            "films to learn from: "
            "see profile.segmenter.normal and .abnormal"
        )
    return table.assign(role=role)


def dataset(table, profile, store=None, augmented=False, size=None):
    """Films as the segmenter sees them: grey, plain resize, [-1, 1]; with masks (127 where nobody
    has drawn).
    """
    how = Choices(augmentation=profile.segmenter.augmentation)
    return CXRDataset(
        table,
        size or profile.segmenter.size,
        how,
        train=augmented,
        flip=0,
        masks=True,
        kind="grey",
        store=store,
    )


class Pairs:
    """Abnormal films, each beside a normal film drawn at random: dict `abnormal`, `normal` (B, 1,
    H, W), `lung_mask` (B, H, W).

    Only the mask of the normal film is handed out.
    """

    def __init__(self, abnormal, normal):
        self.abnormal, self.normal = abnormal, normal

    def __len__(self):
        return len(self.abnormal)

    def batch(self, indices):
        """`train.fit` seeds torch by the position in the stream: the partner is the same after a
        restart.
        """
        partners = self.normal.batch(torch.randint(len(self.normal), (len(indices),)).tolist())
        return {
            "abnormal": self.abnormal.batch(indices)["image"],
            "normal": partners["image"],
            "lung_mask": partners["lung_mask"],
        }


class Varied:
    """Films with masks, changed at random each time they are asked for (`variation.vary`)."""

    def __init__(self, films):
        self.films = films

    def __len__(self):
        return len(self.films)

    def batch(self, indices):
        batch = self.films.batch(indices)
        image, mask = variation.vary(batch["image"], batch["lung_mask"])
        return {**batch, "image": image, "lung_mask": mask}


# what is learned


def generator(profile):
    """The generator, which is also the student."""
    s = profile.segmenter
    return Generator(s.widths, s.style_dim, residual=s.residual)


def unet(profile):
    """A plain U-Net."""
    return UNet(profile.segmenter.unet_widths, profile.segmenter.unet_patch)


# those that may be delivered
NETWORKS = {"student": generator, "unet_normal": unet, "unet_both": unet}


def network(profile, name=None):
    """A network of the stage with random weights: `name` of NETWORKS, default the one that the
    profile delivers.
    """
    return NETWORKS[known(name or profile.segmenter.deliver, NETWORKS, "network to deliver")](
        profile
    )


def translator(profile):
    """The four networks of stage 1, with random weights."""
    s = profile.segmenter
    return Translator(
        s.size, s.widths, s.judge_widths, s.style_dim, s.latent_dim, s.hidden, s.residual
    )


def adaptation_loss(profile, nets, batch):
    """Stage 1: films between the domains, and lungs on normal ones -> dict with `loss`.

    Half of the updates ask for the style of a random latent, half for that of a film of the other
    domain (StarGAN v2 does both in each). With `translate` off only the lungs are learned.
    """
    s, steps = profile.segmenter, profile.segmenter_training.steps
    lungs = losses_module.weighted_cross_entropy(
        nets.generator(batch["normal"])["logits"], batch["lung_mask"], s.cross_entropy
    )
    if not s.translate:
        return {"loss": s.segment * lungs, "lungs": lungs}
    image = torch.cat([batch["abnormal"], batch["normal"]])  # (2B, 1, H, W)
    domain = torch.arange(2, device=image.device).repeat_interleave(len(batch["normal"]))  # (2B,)
    target, coin = 1 - domain, torch.rand(2)
    diversity = s.diversity * max(0.0, 1 - int(nets.step) / steps)
    style, other = (
        nets.mapping(torch.randn(len(image), s.latent_dim, device=image.device), target)
        for _ in range(2)
    )
    if coin[0] < 0.5:
        style = nets.encoder(image.flip(0), target).detach()
    losses = losses_module.translation_losses(
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
    return {
        "loss": loss,
        "lungs": lungs,
        **{name: losses[name] for name in ("real", "fake", "adversarial", "style", "cycle")},
    }


def teach(profile, nets, image):
    """The teacher's logits of abnormal films: made normal first, then drawn (`translate` off: drawn
    as they are).
    """
    return nets.generator(nets.to_normal(image) if profile.segmenter.translate else image)["logits"]


def student_loss(profile, nets, student, batch):
    """Stage 2: in one pass with the self code, the student draws what the teacher draws in two ->
    dict with `loss`.
    """
    s = profile.segmenter
    with torch.no_grad():
        shown, plain = (
            teach(profile, nets, batch["abnormal"]),
            nets.generator(batch["normal"])["logits"],
        )
    abnormal = losses_module.consistency(student.draw(batch["abnormal"]), shown)
    normal = losses_module.consistency(student.draw(batch["normal"]), plain)
    return {
        "loss": s.consistency * abnormal + s.consistency_normal * normal,
        "abnormal": abnormal,
        "normal": normal,
    }


def unet_loss(profile, model, batch):
    """The same cross-entropy for the plain U-Net."""
    return losses_module.weighted_cross_entropy(
        model.draw(batch["image"]), batch["lung_mask"], profile.segmenter.cross_entropy
    )


def make(folder, profile, table, store=None, virtual=None):
    """Both stages and the U-Nets into `folder`, judged on films whose patients taught nothing.

    virtual: films of the virtual hospitals that teach `unet_both` too. Leaves weights.safetensors
    (the network that the profile delivers), history.json (of all trainings), metrics.json,
    predictions.csv (a row a film), and teacher, student, unet_normal, unet_both with their own
    weights. A training that was cut off goes on where it stopped. Raises ValueError for an unknown
    network to deliver.
    """
    known(profile.segmenter.deliver, NETWORKS, "network to deliver")
    table = roles(profile, table)
    if virtual is not None:
        table = pd.concat([table, virtual.assign(role="virtual")], ignore_index=True)
    nets, student = fit_adain(folder, profile, table, store)
    unets = {
        name: fit_unet(folder / name, profile, table[rows], store)
        for name, rows in unet_films(profile, table).items()
    }
    mirror = profile.segmenter.mirror
    forwards = {
        **{
            name: (model, partial(draw, mirror=mirror))
            for name, model in {"student": student, **unets}.items()
        },
        "teacher": (nets, partial(teach, profile)),
        "direct": (nets, lambda nets, image: nets.generator(image)["logits"]),
    }
    test = table[table["role"] == "test"]
    if 0 < profile.segmenter.judged < len(test):
        test = test.sample(profile.segmenter.judged, random_state=profile.seed).sort_index()
    test = test.reset_index(drop=True)
    judged = pd.concat(
        [judge(*how, test, profile, store).assign(network=name) for name, how in forwards.items()],
        ignore_index=True,
    )
    judged.to_csv(folder / "predictions.csv", index=False)
    checkpoint.save_tensors(
        folder / "weights.safetensors",
        {"student": student, **unets}[profile.segmenter.deliver].state_dict(),
    )
    trained = ("teacher", "student", *unets)
    write_json(
        folder / "history.json",
        {name: read_json(folder / name / "history.json") for name in trained},
    )
    images = table["role"].value_counts().drop("", errors="ignore").to_dict() | {
        "judged": len(test)
    }
    write_json(
        folder / "metrics.json",
        {"images": images, "delivered": profile.segmenter.deliver, **overlap.report(judged)},
    )


def fit_adain(folder, profile, table, store=None):
    """Stage 1, then stage 2 -> (Translator, student Generator)."""
    pairs = Pairs(
        *(dataset(table[table["role"] == name], profile, store, augmented=True) for name in DOMAINS)
    )
    torch.manual_seed(profile.seed)
    nets, training = translator(profile), profile.segmenter_training
    moved = [
        weight
        for part in (nets.generator, nets.encoder, nets.discriminator)
        for weight in part.parameters()
    ]
    groups = [
        {"params": moved},
        {
            "params": list(nets.mapping.parameters()),
            "lr": training.lr * profile.segmenter.mapping_lr,
        },
    ]
    loop.fit(
        nets,
        partial(adaptation_loss, profile),
        pairs,
        training,
        folder=folder / "teacher",
        seed=profile.seed,
        parameters=groups,
    )
    student = copy.deepcopy(nets.generator)
    with devices.borrowed(nets):  # the teacher, beside its student
        loop.fit(
            student,
            partial(student_loss, profile, nets.eval()),
            pairs,
            profile.student_training,
            folder=folder / "student",
            seed=profile.seed,
        )
    return nets, student


def unet_films(profile, table):
    """Rows that teach each U-Net: {"unet_normal": bool (N,), "unet_both": bool (N,)}; the second
    only where there are such masks.
    """
    masked = table["lung_mask"].notna()
    rows = {
        "unet_normal": masked & (table["role"] == "normal"),
        "unet_both": masked & table["role"].isin([*DOMAINS, "virtual"]),
    }
    return (
        rows
        if (rows["unet_both"] != rows["unet_normal"]).any()
        else {"unet_normal": rows["unet_normal"]}
    )


def fit_unet(folder, profile, table, store=None):
    """A plain U-Net taught by the masks of `table`."""
    torch.manual_seed(profile.seed)
    model, vary = unet(profile), profile.segmenter.vary
    films = dataset(table, profile, store, augmented=not vary)
    loop.fit(
        model,
        partial(unet_loss, profile),
        Varied(films) if vary else films,
        profile.unet_training,
        folder=folder,
        seed=profile.seed,
        sample_weights=chances(profile, table),
    )
    return model


def chances(profile, table):
    """How often each film is drawn, (N,): virtual films among others have the share
    profile.segmenter.virtual of a batch, and the datasets share the rest evenly, however many films
    each has; None where all films come from one place.
    """
    lent, share = table["role"] == "virtual", profile.segmenter.virtual
    place = table["dataset"].mask(lent, "lent")
    if place.nunique() == 1:
        return None
    # of each film's place in a batch
    shares = np.where(lent, share, (1 - share * lent.any()) / place[~lent].nunique())
    return shares / place.map(place.value_counts()).to_numpy()


def load(folder, profile, name=None):
    """A finished network of the stage (NETWORKS), default the one that the profile delivers."""
    return checkpoint.load_weights(
        network(profile, name), folder / (name or "") / "weights.safetensors"
    )


def load_teacher(folder, profile):
    """The networks of stage 1."""
    return checkpoint.load_weights(translator(profile), folder / "teacher" / "weights.safetensors")


# what comes out, and how good it is


def draw(model, image, mirror=False):
    """Logits (B, 1, H, W) of the lungs by one of NETWORKS; `mirror`: the mean of those of the film
    and of its mirror image.
    """
    logits = model.draw(image)
    return (logits + model.draw(image.flip(-1)).flip(-1)) / 2 if mirror else logits


def masks(model, forward, table, profile, store=None, size=None):
    """Clean masks of the films of a table, bool (N, size, size), default profile.image_size;
    forward: model, images -> logits.
    """
    size = size or profile.image_size
    logits = loop.evaluate(
        model,
        dataset(table, profile, store),
        forward=lambda model, batch: {"logits": forward(model, batch["image"])},
    )["logits"][:, 0].numpy()
    return np.stack([to_mask(film, size) for film in logits])


def to_mask(logits, size):
    """Logits (H, W) -> clean bool mask (size, size): interpolated, cut at 0, two largest
    components, holes filled.
    """
    return clean_mask(cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR) > 0)


def predict(model, table, profile, store=None, size=None):
    """Lung masks of the finished segmenter, bool (N, size, size), default profile.image_size."""
    return masks(model, partial(draw, mirror=profile.segmenter.mirror), table, profile, store, size)


def judge(model, forward, table, profile, store=None):
    """The table with the agreement of each film's mask and truth (`overlap.compare`), at
    profile.image_size; forward as in `masks`.
    """
    drawn, size = masks(model, forward, table, profile, store), profile.image_size
    truth = dataset(table, profile, store, size=size)
    lesions = dataset(table.assign(lung_mask=table["lesion_mask"]), profile, store, size=size)
    rows = [
        overlap.compare(truth.pixels(i)[1], mask, lesions.pixels(i)[1], truth.pixels(i)[0])
        for i, mask in enumerate(drawn)
    ]
    return table.assign(**pd.DataFrame(rows, index=table.index))
