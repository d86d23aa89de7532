"""Room: everything the models say of one film, computed once and kept; the state behind the reading
room, free of widgets and figures.

S px of a film as shown, s px as the models see it, K findings, h w grid of the corpus, T = 1 + h*w
tokens, D embed, L blocks, N heads, H W severity map; a 3x2 array has row 0 = upper zone, column 0 =
patient's right = image left.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import torch

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, HAS, VIEWS, known
from cxrkit.data import lung_zones, manifests, preprocessing
from cxrkit.data.cache import READ
from cxrkit.data.datasets import arrays, unseen
from cxrkit.data.images import load_image
from cxrkit.evaluation import follow_up, metrics
from cxrkit.explain import deep_taylor
from cxrkit.inference import predictor, quality
from cxrkit.pipeline import stages, task_data
from cxrkit.reading_room.edits import EDITS
from cxrkit.simulation import hospital
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis, findings, segmentation, severity

SHOWN = 256  # px of a film on the page
FILMS, SERIES, REAL = 18, 4, 12  # single films, patients followed up, real films on the list
STAMPS = {"virtual": "synthetic", "real": "real film, research use only", "yours": "your film"}


@dataclass(frozen=True, eq=False)
class Case:
    """A film on the list: what may be known of it before anyone has looked."""

    name: str
    pixels: np.ndarray  # uint8 or uint16 (H, W)
    view: str  # PA or AP: chooses the model
    origin: str  # a key of STAMPS
    mm: float | None = None  # width of the film at the patient
    patient: str = ""
    visit: float = 0.0
    # its line in a table, where it has one
    row: pd.DataFrame | None = field(default=None, repr=False)
    notes: tuple = ()

    @property
    def marker(self):
        """Rows and columns that the technician's marker covers, as slices; None where nobody knows."""
        if self.row is None or "marker_top" not in self.row or self.row["marker_top"].isna().any():
            return None
        top, left, bottom, right = (
            int(self.row[f"marker_{side}"].iloc[0]) for side in ("top", "left", "bottom", "right")
        )
        return slice(max(top, 0), bottom), slice(max(left, 0), right)


@dataclass(frozen=True, eq=False)
class Reading:
    """What the models say of one film."""

    shown: np.ndarray  # uint8 (S, S)
    seen: np.ndarray  # uint8 (s, s), equalised and blurred
    findings: np.ndarray  # (K,) probabilities
    finding_maps: np.ndarray  # (K, h, w) probabilities of the cells
    corpus: torch.Tensor  # (1, C, h, w) of the diagnosis model
    tokens: np.ndarray  # (1 + L, T, D): into the first block, and out of each
    attention: np.ndarray  # (L, N, T, T)
    diagnosis: np.ndarray  # (3,) probabilities
    lungs: np.ndarray  # bool (s, s)
    severity_map: np.ndarray  # (H, W), 0 outside the lungs
    array: np.ndarray  # (3, 2)

    @property
    def severity(self):
        """0-6, the sum of the six values."""
        return float(self.array.sum())


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a film; None or NaN where nobody knows."""

    diagnosis: str | None
    findings: np.ndarray  # (K,)
    array: np.ndarray  # (3, 2)
    second: np.ndarray  # (3, 2), another reader's
    lungs: np.ndarray | None  # bool (S, S)
    lesion: np.ndarray | None  # bool (S, S)


class Room:
    """The models of a profile and a list of films: `room.cases` (name -> Case), `room.read(case)`
    -> Reading.

    The films are of hospitals that no training has seen (where a profile has none, of the test
    split), in an order that tells nothing; mirror: a folder of prepared real films, to put some on
    the list. Forward passes of the last `remember` films are kept, those of the patients followed
    up from the start.
    """

    def __init__(self, profile, store=None, mirror=None, remember=64):
        self.profile, self.store = profile, store or Store()
        folders = {view: stages.transformer(profile, view, self.store) for view in ("PA", "AP")}
        self.folder = stages.severity(profile, self.store)
        self.backbone = findings.load(stages.backbone(profile, self.store), profile).eval()
        self.models = {
            view: diagnosis.load(folder, profile).eval() for view, folder in folders.items()
        }
        self.segmenter = predictor.Part(
            segmentation.load(stages.segmenter(profile, self.store), profile).eval(), profile, ""
        )
        self.inspection = quality.load(predictor.INSPECTOR)
        self.severity = severity.load(self.folder, profile).eval()
        self.judged = {
            view: pd.read_csv(folder / "predictions.csv") for view, folder in folders.items()
        }
        followed = self._series()
        self.cases = {
            case.name: case
            for case in [*self._singles(), *followed, *(real_films(mirror) if mirror else [])]
        }
        self._read, self._relevance = (
            lru_cache(remember)(self._look),
            lru_cache(remember)(self._explain),
        )
        self.truth, self.calibration = (
            lru_cache(remember)(self._known),
            lru_cache(remember)(self._calibration),
        )
        self.thresholds = lru_cache(remember)(self._thresholds)
        self.virtual = self.profile.manifests == ("virtual",)
        # the panel of a patient asks for all visits at once: better now than while a class looks on
        for case in followed:
            self.read(case)

    # the list

    def _singles(self):
        table = unseen(task_data.for_task(self.profile, "diagnosis", self.store))
        table = table[table["view"].isin(self.models)].sample(
            frac=1, random_state=self.profile.seed
        )
        chosen = (
            table.groupby(["site", "view", "diagnosis"], sort=False)
            .head(1)[:FILMS]
            .sample(frac=1, random_state=self.profile.seed)
        )
        return [
            self._case(chosen.iloc[i : i + 1], f"film {i + 1}, {chosen['site'].iloc[i]}")
            for i in range(len(chosen))
        ]

    def _series(self):
        table = follow_up.series(unseen(task_data.for_task(self.profile, "severity", self.store)))
        table = table[table["view"].isin(self.models)]
        longest = (
            table["patient_id"]
            .value_counts(sort=False)
            .sort_values(ascending=False, kind="stable")
            .index[:SERIES]
        )
        rows = [
            (letter, table[table["patient_id"] == name])
            for letter, name in zip("ABCDEFGH", longest)
        ]
        return [
            self._case(part.iloc[i : i + 1], f"patient {letter}, visit {i + 1}")
            for letter, part in rows
            for i in range(len(part))
        ]

    def _case(self, row, name):
        first = row.iloc[0]
        site = hospital.SITES.get(first["site"])
        return Case(
            f"{name}, {first['view']}",
            load_image(first["path"]).pixels,
            first["view"],
            "virtual" if first["dataset"] == "virtual" else "real",
            site and site.field_mm,
            first["patient_id"],
            float(first["visit"]) if pd.notna(first["visit"]) else 0.0,
            row,
        )

    def visits(self, case):
        """All films of the case's patient on the list, in order; the case alone where nobody was
        followed up.
        """
        same = [
            other
            for other in self.cases.values()
            if case.patient and other.patient == case.patient and other.origin == case.origin
        ]
        return sorted(same, key=lambda other: other.visit) or [case]

    def upload(self, name, content, view=None):
        """A file's bytes -> Case, put on the list. view: PA or AP where the file does not say.
        Raises ImageError for a broken file.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{Path(name).suffix.lower()[:8]}"
            path.write_bytes(content)
            try:
                image = load_image(path)
            except ValueError as error:
                raise type(error)(str(error).replace(str(path), name)) from None
        view = image.view if image.view in self.models else known(view or "PA", VIEWS[:2], "view")
        mm = image.spacing and image.spacing[1] * image.pixels.shape[1]
        mask, probs = predictor.drawn_lungs(image.pixels, self.segmenter)
        said = self.inspection.warnings(image.pixels, mask, self.profile.image_size, probs)
        case = Case(
            f"yours: {name}, {view}", image.pixels, view, "yours", mm, notes=(*said, *image.notes)
        )
        self.cases[case.name] = case
        return case

    # what the models say

    def read(self, case, edit="nothing", cell=(0, 0)):
        """Everything the models say of a film, after an edit of EDITS; only "erase the framed cell"
        asks which (row, column).
        """
        return self._read(case, known(edit, EDITS, "edit"), tuple(cell) if "cell" in edit else None)

    def _look(self, case, edit, cell):
        if EDITS[edit] is None:
            return self.look(case.pixels, case.view)
        pixels = preprocessing.to_uint8(case.pixels).copy()
        H, W = pixels.shape
        lung = (
            cv2.resize(
                self._read(case, "nothing", None).lungs.astype(np.uint8),
                (W, H),
                interpolation=cv2.INTER_NEAREST,
            )
            > 0
        )
        h, w = self.grid
        at = cell and (
            slice(cell[0] * H // h, (cell[0] + 1) * H // h),
            slice(cell[1] * W // w, (cell[1] + 1) * W // w),
        )
        EDITS[edit](pixels, lung, at, case.marker)
        return self.look(pixels, case.view)

    @property
    def grid(self):
        """(h, w) of the corpus."""
        return self.models["PA"].transformer.grid

    @torch.no_grad()
    def look(self, pixels, view):
        """One film, uint8 or uint16 (H, W), through all models -> Reading."""
        size, choices = self.profile.image_size, self.profile.choices
        seen, mask = (
            preprocessing.prepare(pixels, size, choices),
            predictor.lungs_of(pixels, self.segmenter),
        )
        # (1, 1, s, s)
        image = torch.from_numpy(preprocessing.normalize(seen, choices.normalize))[None, None]
        found = self.backbone(image)
        own = preprocessing.preprocess(predictor.visible(pixels, mask, self.profile), size, choices)
        corpus = self.models[view].features(torch.from_numpy(own)[None, None])  # (1, C, h, w)
        vit = self.models[view].transformer
        with deep_taylor.recorded(vit) as recorded:
            logits = vit(corpus)["logits"]
        tokens = [
            recorded[vit.blocks[0].norm1][0][0],
            *(recorded[block.add2][1] for block in vit.blocks),
        ]
        lung = severity.placed(mask, pixels.shape, self.profile)
        graded = severity.read(
            self.severity, {"image": image, "lung_mask": torch.from_numpy(lung)[None]}, choices
        )
        return Reading(
            preprocessing.resize(preprocessing.to_uint8(pixels), SHOWN, choices.resize),
            seen,
            found["logits"][0].sigmoid().numpy(),
            found["logit_map"][0].sigmoid().numpy(),
            corpus,
            torch.cat(tokens).numpy(),
            torch.cat([recorded[block.attn.softmax][1] for block in vit.blocks]).numpy(),
            diagnosis.HEADS[choices.class_head][1](logits)[0].numpy(),
            lung == 255,
            graded["severity_map"][0, 0].numpy(),
            graded["array"][0].numpy(),
        )

    def relevance(self, case, edit="nothing", cell=(0, 0), start_layer=0):
        """Relevance maps of the three diagnoses from `start_layer` up, (3, h, w)."""
        return self._relevance(case, edit, tuple(cell) if "cell" in edit else None, start_layer)

    def _explain(self, case, edit, cell, start_layer):
        corpus = self._read(case, edit, cell).corpus
        return deep_taylor.relevance(
            self.models[case.view].transformer, corpus, list(range(len(DIAGNOSES))), start_layer
        )[0].numpy()

    # what is known

    def _known(self, case):
        if case.row is None:
            nothing = np.full((3, 2), np.nan)
            return Truth(None, np.full(len(FINDINGS), np.nan), nothing, nothing, None, None)
        row, choices = case.row.iloc[0], self.profile.choices
        masks = [
            READ[kind](row[column], SHOWN, choices) == 255 if isinstance(row[column], str) else None
            for column, kind in (("lung_mask", "lungs"), ("lesion_mask", "lesion"))
        ]
        second = lung_zones.brixia_to_array(
            case.row[list(HAS["readers"])].to_numpy(np.float32), choices.brixia_threshold
        )[0]
        return Truth(
            row["diagnosis"] if isinstance(row["diagnosis"], str) else None,
            case.row[list(FINDINGS)].to_numpy(np.float32)[0],
            arrays(case.row, choices)[0],
            second,
            *masks,
        )

    def _thresholds(self, view):
        """{diagnosis: threshold}: at least 80 % sensitivity on validation films of a view."""
        judged = self.judged[view]
        return diagnosis.thresholds(
            judged[(judged["split"] == "val") & ~judged["external"].astype(bool)]
        )

    def _calibration(self, view, name, bins=5):
        """How often films of unseen hospitals (or of the test split) have a diagnosis when the
        model says so (`metrics.reliability`).
        """
        judged = unseen(self.judged[view])
        return metrics.reliability(
            (judged["diagnosis"] == name).to_numpy(float), judged[f"p_{name}"].to_numpy(), bins
        )

    def noise(self):
        """Change of the severity score between two films that noise alone seldom exceeds; inf where
        it was not measured.
        """
        return read_json(self.folder / "metrics.json").get("followup", {}).get("limit", np.inf)


def real_films(mirror, n=REAL):
    """Films of `cohen` that two readers scored, of known view, one a patient, as cases. mirror:
    folder of prepared films.
    """
    table = manifests.read("cohen", mirror, Choices())
    both = table[
        table["brixia_A"].notna() & table["brixia2_A"].notna() & table["view"].isin(("PA", "AP"))
    ].drop_duplicates("group_id")
    rows = both.sample(min(n, len(both)), random_state=0)
    return [
        Case(
            f"real {i + 1}, {row['view']}",
            load_image(row["path"]).pixels,
            row["view"],
            "real",
            row=rows.iloc[i : i + 1],
        )
        for i, row in enumerate(rows.to_dict("records"))
    ]


def rezone(reading, cuts, choices=Choices()):
    """Zones bool (3, 2, s, s) cut at other shares of the lungs' height, and the array (3, 2) that
    the severity map gives in them.
    """
    zones = lung_zones.zones_of_sides(*lung_zones.sides(reading.lungs, choices), choices, cuts)
    large = cv2.resize(
        reading.severity_map, reading.lungs.shape[::-1], interpolation=cv2.INTER_NEAREST
    )
    return zones, np.array([[large[zone].max(initial=0.0) for zone in pair] for pair in zones])


def alike(tokens, cell, grid):
    """Cosine of the framed cell's token with every cell's: tokens (n, T, D), class token first ->
    (n, h, w) in [-1, 1].
    """
    cells = tokens[:, 1:] / np.linalg.norm(tokens[:, 1:], axis=-1, keepdims=True).clip(1e-9)
    own = cells[:, cell[0] * grid[1] + cell[1]]  # (n, D)
    return np.einsum("ntd,nd->nt", cells, own).reshape(len(tokens), *grid)
