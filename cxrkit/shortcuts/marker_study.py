"""The confound dial: the same films, with a marker in the corner that tells the diagnosis with
strength rho; what do models learn?

Every film's own marker is painted over and written anew, so that between two positions of the dial
nothing changes but these letters. Linear readers of three depths (pixels, the first layers of a
frozen backbone, its corpus) learn at every rho; a small corpus ViT on the first layers shows where
such a model looks. n films, M markers, K classes, d features, S px of a raw film, h w grid.
"""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config import profiles
from cxrkit.data import augmentation, masks, preprocessing
from cxrkit.evaluation import metrics, resampling, summaries
from cxrkit.explain import deep_taylor, measures
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.simulation import radiograph
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import diagnosis
from cxrkit.training import batches, checkpoint, loop

RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)
# where the fixes are tried: at 1 no film is left from which balancing could learn the difference
AT = 0.75
FILMS = {"train": 600, "internal": 300, "external": 300}
READERS = ("pixels", "first layers", "corpus")
PIXELS = 64  # px of the film that the reader of pixels sees
LINEAR = profiles.Training(
    "adamw",
    lr=2e-4,
    batch=32,
    steps=250,
    schedule="cosine",
    warmup=10,
    weight_decay=0.1,
    clip=1.0,
    threads=1,
)
NETWORK = replace(LINEAR, lr=2e-3, steps=300, weight_decay=0.05)
DRAWS = 200  # of patients, for an interval


# films


def erase(image, row):
    """Raw film with its marker painted over by what surrounds it, uint8 (S, S); row: its line of
    films.csv.
    """
    top, left, bottom, right = (
        max(0, int(row[f"marker_{side}"])) for side in ("top", "left", "bottom", "right")
    )
    return radiograph.erase_marker(image, (slice(top, bottom), slice(left, right)))


def write(image, marker, seed):
    """A film with a marker (its number in `film.MARKERS`), at a place that the seed alone decides
    -> (film, box top left bottom right).
    """
    out = image.copy()
    return out, radiograph.write_marker(
        out, radiograph.MARKERS[marker], np.random.default_rng(seed)
    )


def lungs_only(image, row):
    """The film with all but the lungs in their mean grey."""
    lungs = masks.load_mask(row["lung_mask"]) > 0
    out = np.full_like(image, np.rint(image[lungs].mean()))
    out[lungs] = image[lungs]
    return out


def turned(image, row):
    """The film turned, shifted, scaled and perhaps flipped (`data.augment`), by its own number."""
    return augmentation.augment(image, generator=torch.Generator().manual_seed(int(row["number"])))[
        0
    ]


CHANGES = {
    "as it is": lambda image, row: image,
    "marker erased": lambda image, row: image,
    "lungs only": lungs_only,
    "turned": turned,
}
BLIND = ("marker erased", "lungs only")  # no marker is left to be seen


@torch.no_grad()
def look(backbone, images, profile):
    """What each reader is given of raw films (n, S, S): dict of (n, C, h, w), "first layers" folded
    to the grid of the corpus.
    """
    ready = [
        preprocessing.prepare(np.asarray(image), profile.image_size, profile.choices)
        for image in images
    ]
    pixels = np.stack(
        [cv2.resize(image, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA) for image in ready]
    )
    inputs = torch.from_numpy(
        np.stack([preprocessing.normalize(image, profile.choices.normalize) for image in ready])
    )[:, None]
    seen = []
    hook = backbone.features.transition1.register_forward_hook(
        lambda module, given, out: seen.append(out)
    )
    try:
        corpus = torch.cat([backbone.features(part) for part in inputs.split(64)])
    finally:
        hook.remove()
    first = torch.cat(seen)
    fold = first.shape[-1] // corpus.shape[-1]
    return dict(
        zip(
            READERS,
            (
                torch.from_numpy(pixels / np.float32(255))[:, None],
                F.pixel_unshuffle(first, fold),
                corpus,
            ),
            strict=True,
        )
    )


class Ward(NamedTuple):
    """Films of one place with every marker: `seen` reader -> float16 (M, n, C, h, w), `boxes` (M,
    n, 4) in raw pixels.
    """

    table: pd.DataFrame
    codes: np.ndarray
    seen: dict
    boxes: np.ndarray

    def wearing(self, reader, markers):
        """The reader's input with marker `markers[i]` on film i, float32 (n, C, h, w)."""
        return self.seen[reader][torch.as_tensor(markers), torch.arange(len(self.codes))].float()


def ward(table, images, backbone, profile, change="as it is"):
    """The films of a table with each marker in turn, then changed; images: raw films, of which
    column `row` says which.

    A change in BLIND leaves no marker: all M are one film.
    """
    rows = table.to_dict("records")
    bare, seen, boxes = [erase(np.array(images[row["row"]]), row) for row in rows], [], []
    for marker in range(len(radiograph.MARKERS)):
        written, places = zip(
            *(write(image, marker, row["number"]) for image, row in zip(bare, rows, strict=True)),
            strict=True,
        )
        boxes.append(places)
        if change not in BLIND or not marker:
            films = bare if change in BLIND else written
            seen.append(
                look(
                    backbone,
                    [CHANGES[change](image, row) for image, row in zip(films, rows, strict=True)],
                    profile,
                )
            )
    stacks = {name: torch.stack([films[name] for films in seen]).half() for name in READERS}
    stacks = {name: x.expand(len(radiograph.MARKERS), *x.shape[1:]) for name, x in stacks.items()}
    return Ward(table, diagnosis.codes(table), stacks, np.array(boxes))


def markers(codes, rho, seed=0):
    """A marker for each film, (n,): with probability rho the one that goes with its diagnosis, else
    any (as `cohort.Hospital` does).

    Raises ValueError for rho outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho = {rho}; it must lie in [0, 1]")
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random(len(codes)) < rho, codes, rng.integers(len(radiograph.MARKERS), size=len(codes))
    )


# learners


class Linear(nn.Module):
    """Multinomial regression on standardised features (n, C, h, w)."""

    def __init__(self, features, classes=3):
        super().__init__()
        flat = features.flatten(1)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("spread", flat.std(0) + 1e-3)
        self.head = nn.Linear(flat.shape[1], classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, features):
        return {"logits": self.head((features.flatten(1) - self.mean) / self.spread)}


def vit(features, profile):
    """A corpus ViT of one block for features (n, C, h, w)."""
    sizes = profile.transformer
    return CorpusViT(
        features.shape[1],
        features.shape[-1],
        sizes.embed_dim,
        1,
        sizes.num_heads,
        4 * sizes.embed_dim,
        fused=True,
    )


def learn(make, features, codes, training=LINEAR, weights=None, seed=0):
    """make(features) -> a model, trained on features (n, C, h, w) of films with class numbers (n,)."""
    torch.manual_seed(seed)
    model = make(features)
    films = batches.Tensors(features=features, diagnosis=torch.tensor(codes))
    loop.fit(
        model,
        lambda model, batch: F.cross_entropy(
            model(batch["features"])["logits"], batch["diagnosis"]
        ),
        films,
        training,
        seed=seed,
        sample_weights=weights,
        progress=False,
    )
    return model.eval()


@torch.no_grad()
def probabilities(model, features):
    """(n, K) of features (n, C, h, w)."""
    return torch.cat([model(part)["logits"].softmax(1) for part in features.split(128)]).numpy()


def even(codes, worn):
    """Chances (n,) of a draw that make all pairs of diagnosis and marker equally frequent, as far
    as there are any.
    """
    pair = pd.Series(list(zip(codes, worn, strict=True)))
    return (1 / pair.map(pair.value_counts())).to_numpy()


# judgement


def judge(model, place, reader, worn):
    """Macro AUC on a ward whose films wear the markers `worn`, with its interval by patient."""
    p, groups = (
        probabilities(model, place.wearing(reader, worn)),
        place.table["group_id"].to_numpy(),
    )
    return summaries.interval(
        resampling.bootstrap(metrics.macro_auc, place.codes, p, groups=groups, draws=DRAWS), len(p)
    )


def swapped(model, place, reader):
    """Probabilities of every film under each marker, (M, n, K): what changes between them is the
    marker's doing alone.
    """
    return np.stack(
        [
            probabilities(model, place.seen[reader][marker].float())
            for marker in range(len(radiograph.MARKERS))
        ]
    )


def obeys(p):
    """Share of films whose answer changes with the marker: p (M, n, K) of `swapped`."""
    answers = p.argmax(2)
    return float((answers != answers[0]).any(0).mean())


def on_marker(model, place, reader, worn, size):
    """Share of each film's relevance for its answer that lies in cells with its marker: dict value,
    low, high, n, and `chance`.

    size: px of a raw film.
    """
    features = place.wearing(reader, worn)
    mask = np.zeros((len(worn), size, size), bool)
    for film_mask, (top, left, bottom, right) in zip(
        mask, place.boxes[worn, np.arange(len(worn))], strict=True
    ):
        film_mask[max(0, top) : bottom, max(0, left) : right] = True
    cells = measures.near(mask, features.shape[-2:], 0.5)  # (n, h, w)
    maps = (
        deep_taylor.relevance(
            model, features, torch.from_numpy(probabilities(model, features).argmax(1))
        )
        .clamp(min=0)
        .numpy()
    )
    share = (maps * cells).sum((1, 2)) / np.maximum(maps.sum((1, 2)), 1e-12)
    found = resampling.bootstrap(
        np.mean, share, groups=place.table["group_id"].to_numpy(), draws=DRAWS
    )
    return {**summaries.interval(found, len(share)), "chance": float(cells.mean())}


# the study


FIXES = {  # name -> change of the training films, of the films that are judged, and what else
    "none": ("as it is", "as it is", ""),
    "balanced draws": ("as it is", "as it is", "even"),
    "turned and shifted": ("turned", "as it is", ""),
    "any marker painted": ("as it is", "as it is", "any"),
    "marker erased": ("marker erased", "marker erased", ""),
    "lungs only": ("lungs only", "lungs only", ""),
}


def wards(table, seed=0):
    """The films of the dial: {"train": , "internal": , "external": } tables of FILMS rows at most,
    each film with its `number`.
    """
    table = table[table["ward"] == "diagnosis"].assign(number=lambda part: np.arange(len(part)))
    inside, outside = table[table["external"] == 0], table[table["external"] == 1]
    places = {
        "train": inside[inside["split"] == "train"],
        "internal": inside[inside["split"] != "train"],
        "external": outside,
    }
    return {
        name: part.sample(min(len(part), FILMS[name]), random_state=seed).sort_index()
        for name, part in places.items()
    }


def turn_dial(places, seed=0):
    """Every reader at every rho: (rows of AUC inside, at the same rho, and outside, at rho 0;
    {reader: (RHOS, M, n, K) of `swapped`}).
    """
    rows, swaps, inside = [], {}, places["internal"]
    free = markers(places["external"].codes, 0, seed + 2)
    for reader in READERS:
        swaps[reader] = []
        for rho in RHOS:
            codes = places["train"].codes
            model = learn(
                Linear, places["train"].wearing(reader, markers(codes, rho, seed)), codes, seed=seed
            )
            judged = {
                "internal": judge(model, inside, reader, markers(inside.codes, rho, seed + 1)),
                "external": judge(model, places["external"], reader, free),
            }
            swaps[reader].append(swapped(model, places["external"], reader))
            rows += [
                {
                    "reader": reader,
                    "rho": rho,
                    "place": place,
                    "obeys": obeys(swaps[reader][-1]),
                    **found,
                }
                for place, found in judged.items()
            ]
    return rows, {reader: np.stack(p) for reader, p in swaps.items()}


def try_fixes(change_of, seed=0, reader="first layers"):
    """Every fix at rho = AT and, for what it costs, at 0: rows of external AUC; change_of: change
    -> {place: Ward}.
    """
    rows = []
    for name, (learnt, judged, more) in FIXES.items():
        for rho in (0.0, AT):
            films, outside = change_of(learnt)["train"], change_of(judged)["external"]
            worn = markers(films.codes, 0.0 if more == "any" else rho, seed)
            weights = even(films.codes, worn) if more == "even" else None
            model = learn(
                Linear, films.wearing(reader, worn), films.codes, weights=weights, seed=seed
            )
            rows.append(
                {
                    "fix": name,
                    "rho": rho,
                    "obeys": obeys(swapped(model, outside, reader)),
                    **judge(model, outside, reader, markers(outside.codes, 0, seed + 2)),
                }
            )
    return rows


def attend(places, profile, size, seed=0, reader="first layers"):
    """The small ViT at rho 0 and 1: its AUC, how far it obeys the marker, and the share of
    relevance on it, on external films.
    """
    out, inside, outside = {}, places["internal"], places["external"]
    for rho in (0.0, 1.0):
        codes = places["train"].codes
        worn = markers(codes, rho, seed)
        model = learn(
            lambda features: vit(features, profile),
            places["train"].wearing(reader, worn),
            codes,
            NETWORK,
            seed=seed,
        )
        free = markers(outside.codes, 0, seed + 2)
        out[f"rho{rho:g}"] = {
            "internal": judge(model, inside, reader, markers(inside.codes, rho, seed + 1)),
            "external": judge(model, outside, reader, free),
            "obeys": obeys(swapped(model, outside, reader)),
            "relevance": on_marker(model, outside, reader, free, size),
        }
    return out, model


def make(folder, profile, drawn, backbone, seed=0):
    """The whole study of a drawn cohort (`films.Films`) into `folder`: dial.csv, fixes.csv,
    swapped.npz, metrics.json, weights.safetensors.

    The weights are those of the ViT at rho = 1. backbone: `findings.load`, used frozen.
    """
    table = drawn.table.assign(
        row=np.arange(len(drawn)),
        lung_mask=[str(drawn.folder / path) for path in drawn.table["lung_mask"]],
    )
    films, kept = wards(table, seed), {}

    def change_of(change, only=("train", "external")):
        if change not in kept:
            asked = ("train",) if change == "turned" else only
            kept[change] = {
                name: ward(films[name], drawn.images, backbone, profile, change) for name in asked
            }
        return kept[change]

    places = change_of("as it is", tuple(films))
    rows, swaps = turn_dial(places, seed)
    looked, model = attend(places, profile, drawn.images.shape[-1], seed)
    fixes = try_fixes(change_of, seed)
    pd.DataFrame(rows).to_csv(folder / "dial.csv", index=False)
    pd.DataFrame(fixes).to_csv(folder / "fixes.csv", index=False)
    np.savez(
        folder / "swapped.npz",
        rows=films["external"]["row"].to_numpy(),
        **{name.replace(" ", "_"): p for name, p in swaps.items()},
    )
    checkpoint.save_tensors(folder / "weights.safetensors", model.state_dict())
    write_json(
        folder / "metrics.json",
        {
            "images": {name: len(part) for name, part in films.items()},
            "network": looked,
            "obeys": {
                name: {f"rho{rho:g}": obeys(p) for rho, p in zip(RHOS, part, strict=True)}
                for name, part in swaps.items()
            },
        },
    )
