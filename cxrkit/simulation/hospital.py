"""Virtual hospitals: chest films of patients who do not exist, each with its ground truth.

`Hospital(site)[i]` is a pure function of (seed, site, ward, i) and the options of the hospital.
Anatomy, disease and projection are in `anatomy`, `patterns`, `arrangement` and `disease`. This
module adds what makes a hospital: its patients, its machine (`radiograph.Detector`), the marker
that a technician leaves on the film, and a second reader. Every figure made from these films says
"synthetic".

S film size in px. Arrays are 3x2 with row 0 = upper zone, column 0 = patient's right = image left.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data.lung_zones import coverage, zones_of_sides
from cxrkit.simulation import anatomy, disease, patterns, radiograph, support_devices
from cxrkit.simulation.arrangement import PLACES, draw_infection
from cxrkit.simulation.atlases import load_atlas

VIEWS = ("PA", "AP")
WARDS = ("diagnosis", "findings", "severity")
# films of a patient: the severity ward follows its patients up
VISITS = {"diagnosis": 1, "findings": 1, "severity": 3}
BODIES = 72  # anatomies of a site; none is shared between sites or splits
# of an internal site, over and over; all of an external one is test
SPLIT_OF_BODY = ("train",) * 8 + ("val",) * 2 + ("test",) * 2
# share of the patients with an infection whose foci differ from those of other infections by their
# places alone (`arrangement`); see docs/virtual_hospitals.md for the choice
ARRANGEMENT = 0.7
MIN_COVERAGE = 0.01  # a zone is involved if the lesion covers 1 % of it
SECOND_READER_STEPS = (0.03, 0.25, 0.55)  # share of a zone from which a reader says 1, 2, 3


@dataclass(frozen=True)
class Site:
    """One hospital: its machine, its patients and its role."""

    name: str
    role: str  # "internal" (training and validation) or "external"
    pa_share: float  # of its films
    prevalence: tuple[float, float, float]  # of vocabulary.DIAGNOSES
    field_mm: float  # width of the film at the detector, for a patient of the size of the first CT
    sources: tuple[str, ...]  # CTs of its anatomies, in turn (`atlases.SOURCES`)
    detector: radiograph.Detector = field(repr=False, default=radiograph.Detector())


_SITES = (
    Site(
        name="alder",
        role="internal",
        pa_share=0.55,
        prevalence=(0.36, 0.34, 0.30),
        field_mm=375,
        sources=("lidc", "lidc", "lung_dx_a0001"),
        detector=radiograph.Detector(
            blur=0.30, photons=3e5, scatter=0.35, sharpen=1.4, tone="nih", border=0.1
        ),
    ),
    Site(
        name="birch",
        role="internal",
        pa_share=0.40,
        prevalence=(0.30, 0.30, 0.40),
        field_mm=395,
        sources=("lidc", "lung_dx_a0001"),
        detector=radiograph.Detector(
            blur=0.25, photons=5e4, scatter=0.6, sharpen=2.0, tone="hannover", border=0.4, text=0.5
        ),
    ),
    Site(
        name="cedar",
        role="internal",
        pa_share=0.60,
        prevalence=(0.40, 0.28, 0.32),
        field_mm=365,
        sources=("lidc", "lung_dx_a0001"),
        detector=radiograph.Detector(
            blur=0.34, photons=2e5, scatter=0.45, sharpen=1.8, tone="cohen", equalize=0.7
        ),
    ),
    Site(
        name="dogwood",
        role="external",
        pa_share=0.60,
        prevalence=(0.34, 0.30, 0.36),
        field_mm=380,
        sources=("lung_dx_a0002", "lidc"),
        detector=radiograph.Detector(
            blur=0.32, photons=2.2e5, scatter=0.30, sharpen=1.2, tone="shenzhen", border=0.3
        ),
    ),
    Site(
        name="elm",
        role="external",
        pa_share=0.50,
        prevalence=(0.42, 0.30, 0.28),
        field_mm=400,
        sources=("lung_dx_a0002",),
        detector=radiograph.Detector(
            blur=0.45, photons=7e4, scatter=0.65, sharpen=0.8, tone="nih_large", equalize=0.3
        ),
    ),
    Site(
        name="fir",
        role="external",
        pa_share=0.55,
        prevalence=(0.30, 0.38, 0.32),
        field_mm=370,
        sources=("lung_dx_a0002", "lung_dx_a0001"),
        detector=radiograph.Detector(
            blur=0.26, photons=5e5, scatter=0.40, sharpen=2.2, tone="nih", border=0.2, text=0.4
        ),
    ),
)
SITES = {site.name: site for site in _SITES}


@dataclass(frozen=True)
class Patient:
    """A virtual patient: one film and its whole ground truth."""

    image: np.ndarray  # uint8 (S, S)
    lungs: tuple[np.ndarray, np.ndarray]  # bool (S, S) right, left, as a radiologist outlines them
    lesion: np.ndarray  # bool (S, S), inside the lungs
    findings: dict[str, int]  # the ten of vocabulary.FINDINGS -> 0 or 1
    diagnosis: str
    array: np.ndarray  # uint8 (3, 2)
    # uint8 (3, 2), Brixia scores 0-3 of a second reader, who misses some zones and adds others
    second: np.ndarray
    view: str
    patient_id: str
    site: str
    group_id: str  # the anatomy: the unit of every split
    split: str
    visit: int
    marker: str  # letters of the technician's marker
    marker_box: tuple[int, int, int, int]  # top, left, bottom, right px

    @property
    def severity(self) -> int:
        """Number of involved zones, 0-6."""
        return int(self.array.sum())


@dataclass(frozen=True)
class Condition:
    """What a patient has."""

    diagnosis: str
    lesions: tuple[disease.Lesion, ...]
    devices: tuple[tuple[str, int], ...]  # kind and seed of each

    def findings(self) -> dict[str, int]:
        """The ten findings: name -> 0 or 1."""
        infection = self.diagnosis != "normal"
        return disease.findings_from_lesions(self.lesions, infection, bool(self.devices))


class _ChestCache(threading.local):
    """The last few projected anatomies, of each thread its own.

    A cohort is drawn anatomy by anatomy, so one suffices where several threads draw: each takes up
    to 100 MB.
    """

    def __init__(self) -> None:
        self.size = 3 if threading.current_thread() is threading.main_thread() else 1
        self.kept = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], anatomy.Chest]) -> anatomy.Chest:
        """The chest of a key; `make` is called if it is not kept."""
        if key not in self.kept:
            while len(self.kept) >= self.size:  # before: the new one needs their room
                self.kept.popitem(last=False)
            self.kept[key] = make()
        self.kept.move_to_end(key)
        return self.kept[key]


_chests = _ChestCache()


class _Stream(IntEnum):
    """Independent streams of random numbers of a hospital."""

    BODY_OF_PATIENT = 1
    VIEW = 2
    BODY = 3
    CONDITION = 4
    IMAGE = 5
    APPEARANCE = 6
    MARKER = 7
    SECOND_READER = 8


class Hospital:
    """The films of one site and ward: `len(hospital)`, `hospital[i]` -> Patient.

    Args:
        site: a name in `SITES`.
        seed: of all random numbers.
        rho: in [0, 1], the probability that the marker is the one that goes with the diagnosis.
            Otherwise it is drawn at random.
        ward: "diagnosis" (normal, other infection, COVID-19), "findings" (the ten CheXpert
            findings) or "severity" (COVID-19 with three visits of a patient).
        n: number of films.
        size: F, px of a side of a film; a multiple of 4.
        arrangement: in [0, 1], the probability that the infections of a patient of the diagnosis
            or findings ward differ from others by the places of their foci alone. With 0 each has
            textures of its own.
        places: "textbook", or "sides", the strict world in which COVID-19 is on both sides and any
            other infection on one (`arrangement.PLACES`).

    Raises:
        ValueError: for an unknown site, ward or places, a rho or an arrangement outside [0, 1], or
            a size that is no multiple of 4.

    Example:
        >>> hospital = Hospital("alder", seed=1, n=10, size=128)
        >>> len(hospital), hospital.view_of(0) in VIEWS
        (10, True)
    """

    def __init__(
        self,
        site: str,
        seed: int = 0,
        rho: float = 0.0,
        ward: str = "diagnosis",
        n: int = 200,
        size: int = 256,
        arrangement: float = ARRANGEMENT,
        places: str = "textbook",
    ) -> None:
        for name, known, kind in ((site, SITES, "site"), (ward, WARDS, "ward")):
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; known: {list(known)}")
        if places not in PLACES:
            raise ValueError(f"unknown places {places!r}; known: {list(PLACES)}")
        for value, kind in ((rho, "rho"), (arrangement, "arrangement")):
            if not 0 <= value <= 1:
                raise ValueError(f"{kind} = {value}; it must lie in [0, 1]")
        if size % 4:
            raise ValueError(f"size = {size}; it must be a multiple of 4")
        self.arrangement = arrangement
        self.places = places
        self.site = SITES[site]
        self.seed = seed
        self.rho = rho
        self.ward = ward
        self.n = n
        self.size = size

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Patient:
        if not 0 <= i < self.n:
            raise IndexError(f"film {i} of {self.n} at {self.site.name}")
        condition = self.condition_of(i)
        chest = self._chest_of(i)
        rng = self._ward_rng(_Stream.IMAGE, i)
        appearance = self._appearance_of(i, condition, rng)
        added, extent = disease.add_lesions(
            chest, condition.lesions, appearance.vessels, appearance.lung
        )
        integral = radiograph.line_integral(chest, appearance) + added
        if condition.devices:
            integral += support_devices.project_devices(chest, condition.devices)
        integral, extent, right, left = radiograph.reposition(integral, extent, chest, appearance)
        marker = self.marker_of(i, condition.diagnosis)
        detector = self.site.detector
        image, box = radiograph.expose(integral, detector, chest.view, marker, rng)

        lesion = (extent >= disease.MIN_LESION) & (right | left)
        covered = coverage(lesion, zones_of_sides(right, left))  # (3, 2)
        patient, visit = self.patient_of(i)
        site = self.site.name
        return Patient(
            image=image,
            lungs=(right, left),
            lesion=lesion,
            findings=condition.findings(),
            diagnosis=condition.diagnosis,
            array=(covered >= MIN_COVERAGE).astype(np.uint8),
            second=second_reading(covered, self._ward_rng(_Stream.SECOND_READER, i)),
            view=chest.view,
            patient_id=f"{site}-{self.ward[0]}{patient:05d}",
            site=site,
            group_id=f"{site}-body{self.body_of(patient):02d}",
            split=self.split_of(patient),
            visit=visit,
            marker=marker,
            marker_box=box,
        )

    def _rng(self, *numbers: int) -> np.random.Generator:
        """Generator of a stream; the same numbers give the same one."""
        site = list(SITES).index(self.site.name)
        return np.random.default_rng([self.seed, site, *numbers])

    def _ward_rng(self, stream: _Stream, number: int) -> np.random.Generator:
        """Generator of a stream for one patient or film of the ward."""
        return self._rng(stream, WARDS.index(self.ward), number)

    def patient_of(self, i: int) -> tuple[int, int]:
        """Number of the patient and of the visit of film i."""
        return divmod(i, VISITS[self.ward])

    def body_of(self, patient: int) -> int:
        """Number of the anatomy of a patient, in [0, BODIES)."""
        return int(self._ward_rng(_Stream.BODY_OF_PATIENT, patient).integers(BODIES))

    def split_of(self, patient: int) -> str:
        """Split of a patient: "train", "val" or "test".

        It goes by anatomy, so that no chest is in two splits. An external site is all test.
        """
        if self.site.role == "external":
            return "test"
        return SPLIT_OF_BODY[self.body_of(patient) % len(SPLIT_OF_BODY)]

    def source_of(self, body: int) -> str:
        """The CT that an anatomy is bent from; every split of a site has all CTs of the site."""
        turn = body + body // len(SPLIT_OF_BODY)
        return self.site.sources[turn % len(self.site.sources)]

    def view_of(self, i: int) -> str:
        """View of film i: "PA" or "AP"."""
        is_ap = self._ward_rng(_Stream.VIEW, i).random() >= self.site.pa_share
        return VIEWS[int(is_ap)]

    def condition_of(self, i: int) -> Condition:
        """What the patient of film i has at that visit, without making the film."""
        patient, visit = self.patient_of(i)
        rng = self._ward_rng(_Stream.CONDITION, patient)
        world = World(
            self.site.prevalence,
            self.source_of(self.body_of(patient)),
            self.arrangement,
            self.places,
        )
        return draw_condition(rng, self.ward, world, visit)

    def marker_of(self, i: int, diagnosis: str) -> str:
        """Marker of film i: with probability rho the one of the diagnosis, else any."""
        rng = self._ward_rng(_Stream.MARKER, i)
        tied = rng.random() < self.rho
        number = int(rng.integers(3))
        if tied:
            number = DIAGNOSES.index(diagnosis)
        return radiograph.MARKERS[number]

    def chest(self, body: int, view: str) -> anatomy.Chest:
        """Project an anatomy of this hospital; the last few are cached.

        Args:
            body: number of the anatomy, in [0, BODIES).
            view: "PA" or "AP".

        Returns:
            The chest, at twice the size of the films.
        """

        def make() -> anatomy.Chest:
            return anatomy.project(self._shape(body), view, 2 * self.size)

        return _chests.get((self.seed, self.site.name, body, view, self.size), make)

    def _shape(self, body: int) -> anatomy.Body:
        """Shape of an anatomy."""
        return anatomy.make_body(self._rng(_Stream.BODY, body), self.source_of(body))

    def _chest_of(self, i: int) -> anatomy.Chest:
        """The chest on film i, in its view."""
        patient, _ = self.patient_of(i)
        return self.chest(self.body_of(patient), self.view_of(i))

    def _appearance_of(
        self, i: int, condition: Condition, image_rng: np.random.Generator
    ) -> radiograph.Appearance:
        """Appearance of film i; takes numbers from the generator of the film.

        The field grows half as much as the chest, and does not depend on the view.
        """
        patient, _ = self.patient_of(i)
        body = self._shape(self.body_of(patient))
        drawn = radiograph.draw_appearance(self._ward_rng(_Stream.APPEARANCE, patient), image_rng)
        relative = body.scale[2] / load_atlas(body.source).stretch[2]
        width = self.site.field_mm * (0.5 + 0.5 * relative) / anatomy.FIELD
        return replace(
            drawn,
            width=float(np.clip(drawn.width * width, 0.5, 1.0)),
            raised=disease.volume_loss(condition.lesions),
        )

    def finding_mask(self, i: int, finding: str) -> np.ndarray:
        """Where a finding lies in film i: the pixels that its own lesions or devices change.

        The lesions are projected once more without any other, so a pixel behind two findings
        belongs to both.

        Args:
            i: number of the film.
            finding: a name in `vocabulary.FINDINGS`.

        Returns:
            Mask, bool (S, S), empty where the finding is absent.
        """
        condition = self.condition_of(i)
        chest = self._chest_of(i)
        appearance = self._appearance_of(i, condition, self._ward_rng(_Stream.IMAGE, i))
        change = np.zeros((chest.size, chest.size), np.float32)
        if finding == "support_device":
            change = support_devices.project_devices(chest, condition.devices)
        elif condition.findings()[finding]:
            # pneumonia is any lesion of the lung whose cause is an infection
            cause = "opacity" if finding == "pneumonia" else finding
            own = [s for s in condition.lesions if cause in disease.KINDS[s.kind].findings]
            added, _ = disease.add_lesions(chest, own, appearance.vessels, appearance.lung)
            change = np.abs(added)
        nothing = np.zeros_like(change)
        _, change, _, _ = radiograph.reposition(nothing, change, chest, appearance)
        return change >= disease.MIN_LESION

    def url(self, i: int) -> str:
        """The path of film i in a manifest; `from_url` makes the film again."""
        names = ("seed", "rho", "ward", "n", "size", "arrangement", "places")
        query = urlencode({name: getattr(self, name) for name in names})
        return f"virtual://{self.site.name}/{i}?{query}"


def parse_url(url: str) -> tuple[Hospital, int]:
    """Hospital and number of `virtual://<site>/<i>?seed=..&rho=..`, as `Hospital.url` writes it.

    Args:
        url: the path of a film.

    Raises:
        ValueError: for another scheme.
    """
    parts = urlsplit(url)
    if parts.scheme != "virtual":
        raise ValueError(f"{url} is no virtual patient; expected virtual://<site>/<number>?seed=0")
    types = {"seed": int, "n": int, "size": int, "rho": float, "arrangement": float}
    options = {name: types.get(name, str)(value) for name, value in parse_qsl(parts.query)}
    return Hospital(parts.netloc, **options), int(parts.path.strip("/"))


def from_url(url: str) -> Patient:
    """The virtual patient behind the path of a manifest.

    Args:
        url: as `Hospital.url` gives it.

    Returns:
        The patient; the same url gives the same one.

    Raises:
        ValueError: for another scheme.
    """
    hospital, i = parse_url(url)
    return hospital[i]


def finding_mask_from_url(url: str, finding: str) -> np.ndarray:
    """Where a finding lies in the film behind a path.

    Args:
        url: as `Hospital.url` gives it.
        finding: a name in `vocabulary.FINDINGS`.

    Returns:
        Mask, bool (S, S), as `Hospital.finding_mask` gives it.
    """
    hospital, i = parse_url(url)
    return hospital.finding_mask(i, finding)


# the second reader


def second_reading(covered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brixia scores of a second reader, who does not see the truth.

    A faint or small lesion is missed more often than a large one, a lesion at the border of a zone
    is counted in the next one as well, and some healthy zones are called ill.

    Args:
        covered: share of each zone that is lesion (3, 2).
        rng: source of the errors.

    Returns:
        Scores 0-3, uint8 (3, 2).
    """
    seen = covered * np.exp(rng.normal(0, 0.45, covered.shape))
    missed = rng.random(covered.shape) < 0.04 + 0.5 * np.exp(-covered / 0.05)
    seen = np.where(missed, 0, seen)
    for row, neighbour in ((0, 1), (1, 0), (1, 2), (2, 1)):
        spilt = rng.random(covered.shape[1]) < 0.08
        seen[row] = np.maximum(seen[row], np.where(spilt, 0.3 * covered[neighbour], 0))
    called = rng.random(covered.shape) < 0.04
    seen = np.where(called & (seen < MIN_COVERAGE), 0.05, seen)
    return np.digitize(seen, SECOND_READER_STEPS).astype(np.uint8)


# conditions


class World(NamedTuple):
    """What decides, beside chance, which diseases a patient may have and how they look."""

    prevalence: tuple[float, float, float]  # of vocabulary.DIAGNOSES in the diagnosis ward
    source: str  # the CT of the patient's body
    arrangement: float
    places: str


# a pattern of disease: (generator, source) -> lesions


def _any_covid(rng: np.random.Generator, source: str) -> list[disease.Lesion]:
    """COVID-19 of any burden above 0.1."""
    return patterns.covid(rng, rng.uniform(0.1, 1), source)


def _edema(rng: np.random.Generator, source: str) -> list[disease.Lesion]:
    return patterns.edema(rng)


def _pneumothorax(rng: np.random.Generator, source: str) -> list[disease.Lesion]:
    return patterns.pneumothorax(rng)


def _effusion(rng: np.random.Generator, source: str) -> list[disease.Lesion]:
    return patterns.effusion(rng)


# pathology of the findings ward -> its chance and its pattern
PATHOLOGIES = {
    "edema": (0.16, _edema),
    "bacterial": (0.17, patterns.bacterial),
    "covid": (0.08, _any_covid),
    "tuberculosis": (0.05, patterns.tuberculosis),
    "atelectasis": (0.2, patterns.atelectasis),
    "pneumothorax": (0.13, _pneumothorax),
    "effusion": (0.22, _effusion),
}
INFECTIONS = ("bacterial", "covid", "tuberculosis")


def draw_condition(rng: np.random.Generator, ward: str, world: World, visit: int) -> Condition:
    """Draw what a patient has at a visit.

    Args:
        rng: of the patient, the same at all visits.
        ward: a name in `WARDS`.
        world: its prevalence counts in the diagnosis ward, its arrangement in the findings ward
            too.
        visit: number of the visit, which counts in the severity ward.

    Returns:
        Diagnosis, lesions and devices.
    """
    if ward == "findings":
        return _draw_findings(rng, world)
    if ward == "severity":
        return _draw_severity(rng, world.source, visit)
    return _draw_diagnosis(rng, world)


def _draw_background(
    rng: np.random.Generator, source: str
) -> tuple[list[disease.Lesion], list[tuple[str, int]]]:
    """What any patient may have beside the diagnosis: a large heart, a device.

    The rates are the same in every class, so that they do not give the diagnosis away.
    """
    large = rng.random() < 0.12
    heart = patterns.cardiomegaly if large else patterns.normal_heart
    lesions = heart(rng, source)
    devices = support_devices.draw_devices(rng) if rng.random() < 0.25 else []
    return lesions, devices


def _draw_findings(rng: np.random.Generator, world: World) -> Condition:
    """A patient of the findings ward: each pathology independently, often two."""
    lesions = []
    diagnosis = "normal"
    by_places = rng.random() < world.arrangement
    for name, (chance, pattern) in PATHOLOGIES.items():
        if rng.random() >= chance:
            continue
        if name in INFECTIONS:
            diagnosis = "other_infection"
        if name in INFECTIONS and by_places:
            lesions += draw_infection(rng, name, world.places, world.source)
        else:
            lesions += pattern(rng, world.source)
    heart = patterns.cardiomegaly if rng.random() < 0.24 else patterns.normal_heart
    lesions += heart(rng, world.source)
    devices = support_devices.draw_devices(rng) if rng.random() < 0.35 else []
    return Condition(diagnosis, tuple(lesions), tuple(devices))


def _draw_severity(rng: np.random.Generator, source: str, visit: int) -> Condition:
    """A patient of the severity ward: COVID-19 whose extent rises and clears over the visits."""
    background, devices = _draw_background(rng, source)
    peak = rng.uniform(-0.3, 2.3)  # visit of the greatest extent
    width = rng.uniform(1.2, 2.6)  # visits over which it changes
    course = float(np.exp(-(((visit - peak) / width) ** 2)))  # relative to the greatest extent
    lesions = patterns.covid(rng, rng.uniform(0.02, 1), source) if rng.random() < 0.92 else []
    lesions = disease.scale_lesions(lesions, course)
    return Condition("covid19", tuple(lesions + background), tuple(devices))


def _draw_diagnosis(rng: np.random.Generator, world: World) -> Condition:
    """A patient of the diagnosis ward."""
    diagnosis = DIAGNOSES[rng.choice(3, p=world.prevalence)]
    background, devices = _draw_background(rng, world.source)
    by_places = rng.random() < world.arrangement
    bacterial = rng.random() < 0.62
    lesions = []
    if diagnosis != "normal" and by_places:
        name = "bacterial" if bacterial else "tuberculosis"
        if diagnosis == "covid19":
            name = "covid"
        lesions = draw_infection(rng, name, world.places, world.source)
    elif diagnosis == "covid19":
        lesions = patterns.covid(rng, rng.uniform(0.15, 1), world.source)
    elif diagnosis == "other_infection":
        pattern = patterns.bacterial if bacterial else patterns.tuberculosis
        lesions = pattern(rng, world.source)
    return Condition(diagnosis, tuple(lesions + background), tuple(devices))
