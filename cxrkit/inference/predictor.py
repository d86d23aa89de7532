"""Predict: one film in; diagnosis, severity, maps and warnings out, exactly as the models saw films
in training.

`load` finds the models, `predict` reads one film, `run` is the command `cxrkit predict`. Not a
diagnostic device.

H W the film as it came, S px the models' input, h w the grid of the corpus.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydantic
import torch
from tqdm import tqdm

from cxrkit import NOTICE
from cxrkit.config import vocabulary
from cxrkit.config.profiles import Profile
from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.data import masked_images, preprocessing, schema
from cxrkit.data.images import Image, load_image
from cxrkit.explain import deep_taylor
from cxrkit.inference import quality
from cxrkit.models import factory
from cxrkit.pipeline import dependencies
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_atomic
from cxrkit.tasks import diagnosis, segmentation
from cxrkit.tasks import severity as severity_module
from cxrkit.training import checkpoint

SHIPPED = Path(__file__).resolve().parent / "weights"
INSPECTOR = SHIPPED / "open" / "inspector.safetensors"
NETWORKS = {
    "diagnosis_pa": factory.network,
    "diagnosis_ap": factory.network,
    "segmenter": segmentation.network,
    "severity": severity_module.network,
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
COLUMNS = ("path", "p_normal", "p_other", "p_covid", "severity", *ZONES, "warnings")
FRONTAL = ("PA", "AP")


@dataclass(frozen=True)
class Part:
    """A trained network with the profile that made it."""

    network: torch.nn.Module
    profile: Profile
    licence: str


@dataclass(frozen=True)
class Models:
    """All that `predict` needs: `parts` {stage: Part}, the film inspector, and in words where the
    weights come from.
    """

    parts: dict
    inspection: quality.Inspection
    origin: str

    @property
    def licence(self):
        """Terms of all weights in use, each once."""
        return "; ".join(dict.fromkeys(part.licence for part in self.parts.values()))

    @property
    def about(self):
        """What must be said beside every table: notice, weights, terms, and which parts never saw a
        patient.
        """
        drawn = [
            stage for stage, part in self.parts.items() if part.profile.manifests == ("virtual",)
        ]
        limits = (
            "\nLearnt from virtual patients alone, so expect these to fail on real films: "
            f"{', '.join(drawn)}."
            if drawn
            else ""
        )
        return f"{NOTICE}\nWeights: {self.origin}. Terms of their training films: {self.licence}.{limits}\n"


@dataclass(frozen=True)
class Prediction:
    """What the models say of one film; `maps` {name: (H, W)}: "lungs" bool, "severity" in [0, 1],
    "saliency_<class>" in [0, 1].
    """

    probs: dict  # of each of DIAGNOSES
    array: np.ndarray  # (3, 2) in [0, 1]: rows upper to lower, column 0 = patient's right
    severity: float  # 0-6
    view: str  # of the model that was asked; "PA+AP" for the mean of both
    maps: dict
    warnings: tuple

    def row(self, path):
        """The film's line in predictions.csv."""
        zones = dict(zip(ZONES, [*self.array[:, 0], *self.array[:, 1]], strict=True))
        return {
            "path": str(path),
            **dict(zip(COLUMNS[1:4], self.probs.values(), strict=True)),
            "severity": self.severity,
            **zones,
            "warnings": "; ".join(self.warnings),
        }


# finding and loading models


def enough(found):
    """Whether stages are all that a prediction needs: lungs, severity and one diagnosis."""
    return {"segmenter", "severity"} <= set(found) and any(
        name.startswith("diagnosis") for name in found
    )


def in_folder(folder):
    """Weights of `tools/ship_weights.py` in a folder or those below it: {stage: file}."""
    return {
        stage: path
        for stage in NETWORKS
        for path in sorted(Path(folder).rglob(f"{stage}.safetensors"))
    }


def in_store(profile, store):
    """Weights of the profile's finished stages: {stage: file}."""
    files = {
        stage: store.folder(stage, dependencies.settings(profile, stage)) / "weights.safetensors"
        for stage in NETWORKS
    }
    return {stage: path for stage, path in files.items() if path.exists()}


def load(profile, store=None, weights=None):
    """Models from the folder `weights`, else from the profile's finished stages in the store, else
    those that the kit ships.

    Raises FileNotFoundError, saying what to do, where none of them is complete.
    """
    places = (
        [(in_folder(weights), f"weights in {weights}")]
        if weights
        else [
            (in_store(profile, store or Store()), f"the store, profile {profile.name}"),
            (in_folder(SHIPPED), "shipped with the kit"),
        ]
    )
    for found, origin in places:
        if enough(found):
            return Models(
                {stage: read_part(stage, path, profile) for stage, path in found.items()},
                quality.load(INSPECTOR),
                origin,
            )
    raise FileNotFoundError(
        f"no complete set of weights in {' or '.join(origin for _, origin in places)} (segmenter, "
        "severity and a "
        f"diagnosis): run cxrkit reproduce --profile {profile.name}, or give --weights DIR"
    )


def read_part(stage, path, profile):
    """A network from its file. Shipped files carry their own profile and licence; those of the
    store have the profile given.
    """
    _, state = checkpoint.load_tensors(path)
    if "profile" in state:
        profile = pydantic.TypeAdapter(Profile).validate_python(state["profile"])
    return Part(
        checkpoint.load_weights(NETWORKS[stage](profile), path),
        profile,
        state.get("licence") or licence_of(profile.manifests),
    )


def licence_of(manifests):
    """The terms that the films of a training come under, in one line."""
    return ", ".join(f"{name}: {schema.load(name).licence_class}" for name in manifests)


# one film


def predict(film, models, view=None, maps=True):
    """A film (path, `Image`, or uint8 or uint16 (H, W)) -> Prediction.

    view "PA" or "AP" picks the diagnosis model; without it the file's tag does, else both are asked
    and their mean is given with a warning. Raises ImageError for what is no film, ValueError for an
    unknown view.
    """
    image, said = _opened(film)
    mask, sure = drawn_lungs(image.pixels, models.parts["segmenter"])  # (S', S'), (2, s, s)
    asked, doubts = views(models, view and vocabulary.known(view, FRONTAL, "view"), image.view)
    found = [
        diagnose(image.pixels, models.parts[f"diagnosis_{name.lower()}"], maps, mask)
        for name in asked
    ]
    array, score, drawn = quantify(image.pixels, mask, models.parts["severity"])
    out = {"lungs": to_film(mask, image.pixels.shape)}
    if maps:
        heat = np.mean([heat for _, heat in found], axis=0)  # (K, H, W)
        out |= {
            "severity": drawn * out["lungs"],
            **{
                f"saliency_{name}": one / max(heat.max(), 1e-12)
                for name, one in zip(DIAGNOSES, heat, strict=True)
            },
        }
    size = max(part.profile.image_size for part in models.parts.values())
    probs = dict(zip(DIAGNOSES, np.mean([p for p, _ in found], axis=0).tolist(), strict=True))
    return Prediction(
        probs,
        array,
        score,
        "+".join(asked),
        out if maps else {},
        (*models.inspection.warnings(image.pixels, mask, size, sure), *doubts, *said),
    )


def _opened(film):
    """Path, Image or pixels -> (Image, what the reader warns of)."""
    if isinstance(film, np.ndarray):
        return Image(film, (int(film.min()), int(film.max())), 8 * film.dtype.itemsize), ()
    if isinstance(film, Image):
        return film, ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = load_image(film)
    # other libraries' warnings may quote what is in the file: they are not passed on
    name = f"{Path(film).name}: "
    return image, tuple(
        str(w.message).removeprefix(name) for w in caught if str(w.message).startswith(name)
    )


def views(models, asked, tag):
    """Which diagnosis models to ask, and what to warn of: view asked for (PA, AP or None), view in
    the file (any or None).
    """
    have = [name for name in FRONTAL if f"diagnosis_{name.lower()}" in models.parts]
    want, doubts = asked or tag, ()
    if want in have:
        return [want], doubts
    if want in FRONTAL:
        return have, (f"no model of {want} films: the {have[0]} model was used",)
    if want:
        doubts = (f"{quality.FAULTS['not_frontal']}: the file says view {want}",)
    return have, (
        *doubts,
        "view unknown: "
        f"{'mean of the PA and AP models' if len(have) > 1 else f'the {have[0]} model was used'}",
    )


def _input(pixels, profile):
    """The film as the networks saw films in training: (1, 1, S, S)."""
    return torch.from_numpy(
        preprocessing.preprocess(pixels, profile.variant.zoom * profile.image_size, profile.choices)
    )[None, None]


def visible(pixels, mask, profile):
    """What of a film the profile's diagnosis looks at, uint8 or uint16 (H, W): all of it, or the
    lungs of a mask (`stages.lungs_only`).
    """
    return (
        masked_images.only_lungs(pixels, np.where(mask, np.uint8(255), np.uint8(0)))
        if profile.sources.lungs_only
        else pixels
    )


def lungs_of(pixels, part):
    """Clean lung mask, bool (S, S), of the whole film resized plainly."""
    return drawn_lungs(pixels, part)[0]


def drawn_lungs(pixels, part):
    """`lungs_of`, and the probability of lung on the film and on its mirror image, float32 (2, s,
    s), the second flipped back.
    """
    sizes = part.profile.segmenter
    grey = preprocessing.normalize(
        preprocessing.resize(preprocessing.to_uint8(pixels), sizes.size), "signed"
    )
    image = torch.from_numpy(grey)[None, None]  # (1, 1, s, s)
    with torch.no_grad():
        # (2, s, s)
        both = torch.cat(
            [
                segmentation.draw(part.network, image),
                segmentation.draw(part.network, image.flip(-1)).flip(-1),
            ]
        )[:, 0]
    logits = both.mean(0) if sizes.mirror else both[0]
    return segmentation.to_mask(logits.numpy(), part.profile.image_size), both.sigmoid().numpy()


def diagnose(pixels, part, maps=True, mask=None):
    """Probabilities of the classes (K,), and where each comes from: relevance (K, H, W), not
    negative; None without `maps`.

    mask: lungs of the whole film, bool (S', S'), for a model that sees nothing else (`visible`).
    """
    with torch.no_grad():
        # (1, C, h, w)
        corpus = part.network.corpus(_input(visible(pixels, mask, part.profile), part.profile))
        logits = part.network(features=corpus)["logits"]
    probs = diagnosis.HEADS[part.profile.choices.class_head][1](logits)[0].numpy()
    if not maps:
        return probs, None
    cells = deep_taylor.relevance(part.network.transformer, corpus, range(len(DIAGNOSES)))[0]
    return probs, np.stack([to_film(one.numpy(), pixels.shape, part.profile) for one in cells])


def quantify(pixels, mask, part):
    """Array (3, 2) in [0, 1], score 0-6, severity map (H, W) in [0, 1], of a film and its lungs
    (S', S').
    """
    profile = part.profile
    placed = severity_module.placed(mask, pixels.shape, profile)  # (S, S)
    batch = {"image": _input(pixels, profile), "lung_mask": torch.from_numpy(placed)[None]}
    with torch.no_grad():
        found = severity_module.read(part.network, batch, profile.choices)
    array = found["array"].numpy()
    judged = severity_module.judge(pd.DataFrame(index=[0]), array, profile.choices)
    # column 0 = patient's right
    sided = judged[severity_module.PREDICTED].to_numpy()[0].reshape(2, 3).T
    return (
        sided,
        float(judged["score"][0]),
        to_film(found["severity_map"][0, 0].numpy(), pixels.shape, profile),
    )


def to_film(values, shape, profile=None):
    """A map of the square that a model sees -> the film's own (H, W): nearest for bool, else
    linear; grey padding is cut off.
    """
    if profile and profile.choices.resize == "pad":
        h, w = (max(1, round(side * values.shape[0] / max(shape))) for side in shape)
        values = values[:h, :w]
    if values.dtype == bool:
        return cv2.resize(
            values.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST
        ).astype(bool)
    return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)


# many films: the command


def films(paths):
    """Files, and the films in folders (by suffix, at any depth), in order, each once."""
    found = []
    for path in map(Path, paths):
        inside = sorted(path.rglob("*")) if path.is_dir() else ()
        found += (
            [p for p in inside if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
            if path.is_dir()
            else [path]
        )
    return list(dict.fromkeys(found))


def stems(paths):
    """A name for each film's maps: its stem, with a number where an earlier film has taken it."""
    names = []
    for path in paths:
        name, number = path.stem, 2
        while name.lower() in {taken.lower() for taken in names}:  # some file systems know no case
            name, number = f"{path.stem}_{number}", number + 1
        names.append(name)
    return names


def write_maps(prediction, folder, stem):
    """<stem>_lungs.png (0, 255), <stem>_severity.png and <stem>_saliency_<class>.png (0-255 for
    0-1), at the size of the film.
    """
    for name, values in prediction.maps.items():
        grey = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
        write_atomic(folder / f"{stem}_{name}.png", cv2.imencode(".png", grey)[1].tobytes())


def run(paths, out, models, view=None, maps=False, progress=True):
    """Read films into `out`: predictions.csv and, with `maps`, their maps -> list of failures in
    words; no film stops the others.
    """
    out, rows, failures, listed = Path(out), [], [], films(paths)
    for path, stem in zip(
        tqdm(listed, unit="film", disable=None if progress else True), stems(listed), strict=True
    ):
        try:
            prediction = predict(path, models, view, maps)
            write_maps(prediction, out, stem)
            rows.append(prediction.row(path))
        except Exception as error:
            # whatever one film of ten thousand is wrong with, the rest must be read
            failures.append(
                f"skipped {error}"
                if str(path) in str(error)
                else f"skipped {path}: {type(error).__name__}: {error}"
            )
        if len(rows) % 100 == 99:
            write_table(out, rows)
    write_table(out, rows)
    write_atomic(out / "about.txt", models.about)
    return failures or (
        []
        if listed
        else [f"no film in {', '.join(map(str, paths))}: {', '.join(SUFFIXES)} are read"]
    )


def write_table(out, rows):
    """predictions.csv, whole or not at all."""
    write_atomic(
        out / "predictions.csv",
        pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, float_format="%.4f"),
    )
