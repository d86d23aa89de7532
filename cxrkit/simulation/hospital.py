"""Virtual hospitals: chest films of patients who do not exist, each with its ground truth.

`Hospital(site)[i]` is a pure function of (seed, site, ward, i). Anatomy, disease and projection are
in `anatomy`, `patterns` and `disease`. This module adds what makes a hospital: its patients, its
machine (`radiograph.Detector`), and the marker that a technician leaves on the film. Every figure
made from these films says "synthetic".

S film size in px. Arrays are 3x2 with row 0 = upper zone, column 0 = patient's right = image left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data.lung_zones import coverage, zones_of_sides
from cxrkit.simulation import anatomy, disease, patterns, radiograph, support_devices

VIEWS = ("PA", "AP")
WARDS = ("diagnosis", "findings", "severity")
# films of a patient: the severity ward follows its patients up
VISITS = {"diagnosis": 1, "findings": 1, "severity": 3}
BODIES = 12  # anatomies of a site; none is shared between sites or splits
# of an internal site; all of an external one is test
SPLIT_OF_BODY = ("train",) * 8 + ("val",) * 2 + ("test",) * 2
MIN_COVERAGE = 0.01  # a zone is involved if the lesion covers 1 % of it


@dataclass(frozen=True)
class Site:
    """One hospital: its machine, its patients and its role."""

    name: str
    role: str  # "internal" (training and validation) or "external"
    pa_share: float  # of its films
    prevalence: tuple[float, float, float]  # of vocabulary.DIAGNOSES
    field_mm: float  # width of the film at the patient
    detector: radiograph.Detector = field(repr=False, default=radiograph.Detector())


_SITES = (
    Site(
        name="alder",
        role="internal",
        pa_share=0.55,
        prevalence=(0.36, 0.34, 0.30),
        field_mm=270,
        detector=radiograph.Detector(
            blur=0.45, photons=3e5, scatter=0.35, sharpen=0.9, flatten=0.55
        ),
    ),
    Site(
        name="birch",
        role="internal",
        pa_share=0.40,
        prevalence=(0.30, 0.30, 0.40),
        field_mm=284,
        detector=radiograph.Detector(
            blur=0.65, photons=1.2e5, scatter=0.55, sharpen=0.5, flatten=0.40, gamma=0.9, border=0.5
        ),
    ),
    Site(
        name="cedar",
        role="internal",
        pa_share=0.60,
        prevalence=(0.40, 0.28, 0.32),
        field_mm=262,
        detector=radiograph.Detector(
            blur=0.55, photons=2e5, scatter=0.45, sharpen=1.2, flatten=0.65, gamma=1.1
        ),
    ),
    Site(
        name="dogwood",
        role="external",
        pa_share=0.60,
        prevalence=(0.34, 0.30, 0.36),
        field_mm=275,
        detector=radiograph.Detector(
            blur=0.50,
            photons=2.2e5,
            scatter=0.30,
            sharpen=0.7,
            flatten=0.50,
            gamma=0.85,
            border=0.3,
        ),
    ),
    Site(
        name="elm",
        role="external",
        pa_share=0.50,
        prevalence=(0.42, 0.30, 0.28),
        field_mm=290,
        detector=radiograph.Detector(
            blur=0.80, photons=8e4, scatter=0.65, sharpen=0.4, flatten=0.45, gamma=1.15
        ),
    ),
    Site(
        name="fir",
        role="external",
        pa_share=0.55,
        prevalence=(0.30, 0.38, 0.32),
        field_mm=266,
        detector=radiograph.Detector(
            blur=0.40, photons=4e5, scatter=0.40, sharpen=1.4, flatten=0.60, border=0.2
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


class _ChestCache:
    """The last few projected anatomies.

    A cohort is drawn anatomy by anatomy, so a few suffice.
    """

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.kept = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], anatomy.Chest]) -> anatomy.Chest:
        """The chest of a key; `make` is called if it is not kept."""
        if key not in self.kept:
            self.kept[key] = make()
            while len(self.kept) > self.size:
                self.kept.popitem(last=False)
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
        size: S, px of a side of a film.

    Raises:
        ValueError: for an unknown site or ward, or a rho outside [0, 1].
    """

    def __init__(
        self,
        site: str,
        seed: int = 0,
        rho: float = 0.0,
        ward: str = "diagnosis",
        n: int = 200,
        size: int = 256,
    ) -> None:
        if site not in SITES:
            raise ValueError(f"unknown site {site!r}; known: {list(SITES)}")
        if ward not in WARDS:
            raise ValueError(f"unknown ward {ward!r}; known: {list(WARDS)}")
        if not 0 <= rho <= 1:
            raise ValueError(f"rho = {rho}; it must lie in [0, 1]")
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
        appearance = self._appearance_of(i, rng)
        added, extent = disease.add_lesions(
            chest, condition.lesions, appearance.vessels, appearance.lung
        )
        healthy = radiograph.line_integral(chest, appearance)
        devices = support_devices.project_devices(chest, condition.devices)
        integral, extent, right, left = radiograph.reposition(
            healthy + added + devices, extent, chest, appearance
        )
        marker = self.marker_of(i, condition.diagnosis)
        detector = self.site.detector
        image, box = radiograph.expose(integral, detector, chest.view, marker, rng)

        lesion = (extent >= disease.MIN_LESION) & (right | left)
        array = coverage(lesion, zones_of_sides(right, left)) >= MIN_COVERAGE
        patient, visit = self.patient_of(i)
        site = self.site.name
        return Patient(
            image=image,
            lungs=(right, left),
            lesion=lesion,
            findings=condition.findings(),
            diagnosis=condition.diagnosis,
            array=array.astype(np.uint8),
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
        return SPLIT_OF_BODY[self.body_of(patient)]

    def view_of(self, i: int) -> str:
        """View of film i: "PA" or "AP"."""
        is_ap = self._ward_rng(_Stream.VIEW, i).random() >= self.site.pa_share
        return VIEWS[int(is_ap)]

    def condition_of(self, i: int) -> Condition:
        """What the patient of film i has at that visit, without making the film."""
        patient, visit = self.patient_of(i)
        rng = self._ward_rng(_Stream.CONDITION, patient)
        return draw_condition(rng, self.ward, self.site, visit)

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
            The chest at the size and field of this hospital.
        """

        def make() -> anatomy.Chest:
            shape = anatomy.make_body(self._rng(_Stream.BODY, body))
            return anatomy.project(shape, view, self.size, self.site.field_mm)

        return _chests.get((self.seed, self.site.name, body, view, self.size), make)

    def _chest_of(self, i: int) -> anatomy.Chest:
        """The chest on film i, in its view."""
        patient, _ = self.patient_of(i)
        return self.chest(self.body_of(patient), self.view_of(i))

    def _appearance_of(self, i: int, image_rng: np.random.Generator) -> radiograph.Appearance:
        """Appearance of film i; takes numbers from the generator of the film."""
        patient, _ = self.patient_of(i)
        return radiograph.draw_appearance(self._ward_rng(_Stream.APPEARANCE, patient), image_rng)

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
        appearance = self._appearance_of(i, self._ward_rng(_Stream.IMAGE, i))
        change = np.zeros((self.size, self.size), np.float32)
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
        query = urlencode(
            {"seed": self.seed, "rho": self.rho, "ward": self.ward, "n": self.n, "size": self.size}
        )
        return f"virtual://{self.site.name}/{i}?{query}"


def _parse_url(url: str) -> tuple[Hospital, int]:
    """Hospital and number of `virtual://<site>/<i>?seed=..&rho=..&ward=..&n=..&size=..`."""
    parts = urlsplit(url)
    if parts.scheme != "virtual":
        raise ValueError(f"{url} is no virtual patient; expected virtual://<site>/<number>?seed=0")
    types = {"seed": int, "rho": float, "ward": str, "n": int, "size": int}
    options = {name: types[name](value) for name, value in parse_qsl(parts.query)}
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
    hospital, i = _parse_url(url)
    return hospital[i]


def finding_mask_from_url(url: str, finding: str) -> np.ndarray:
    """Where a finding lies in the film behind a path.

    Args:
        url: as `Hospital.url` gives it.
        finding: a name in `vocabulary.FINDINGS`.

    Returns:
        Mask, bool (S, S), as `Hospital.finding_mask` gives it.
    """
    hospital, i = _parse_url(url)
    return hospital.finding_mask(i, finding)


# conditions


def _any_covid(rng: np.random.Generator) -> list[disease.Lesion]:
    """COVID-19 of any burden above 0.1."""
    return patterns.covid(rng, rng.uniform(0.1, 1))


# pathology of the findings ward -> its chance and its pattern
PATHOLOGIES = {
    "edema": (0.16, patterns.edema),
    "bacterial": (0.17, patterns.bacterial),
    "covid": (0.08, _any_covid),
    "tuberculosis": (0.05, patterns.tuberculosis),
    "atelectasis": (0.2, patterns.atelectasis),
    "pneumothorax": (0.13, patterns.pneumothorax),
    "effusion": (0.22, patterns.effusion),
}
INFECTIONS = ("bacterial", "covid", "tuberculosis")


def draw_condition(rng: np.random.Generator, ward: str, site: Site, visit: int) -> Condition:
    """Draw what a patient has at a visit.

    Args:
        rng: of the patient, the same at all visits.
        ward: a name in `WARDS`.
        site: its prevalence counts in the diagnosis ward.
        visit: number of the visit, which counts in the severity ward.

    Returns:
        Diagnosis, lesions and devices.
    """
    if ward == "findings":
        return _draw_findings(rng)
    if ward == "severity":
        return _draw_severity(rng, visit)
    return _draw_diagnosis(rng, site)


def _draw_background(
    rng: np.random.Generator,
) -> tuple[list[disease.Lesion], list[tuple[str, int]]]:
    """What any patient may have beside the diagnosis: a large heart, a device.

    The rates are the same in every class, so that they do not give the diagnosis away.
    """
    lesions = patterns.cardiomegaly(rng) if rng.random() < 0.12 else patterns.normal_heart(rng)
    devices = support_devices.draw_devices(rng) if rng.random() < 0.25 else []
    return lesions, devices


def _draw_findings(rng: np.random.Generator) -> Condition:
    """A patient of the findings ward: each pathology independently, often two."""
    lesions = []
    diagnosis = "normal"
    for name, (chance, pattern) in PATHOLOGIES.items():
        if rng.random() < chance:
            lesions += pattern(rng)
            if name in INFECTIONS:
                diagnosis = "other_infection"
    lesions += patterns.cardiomegaly(rng) if rng.random() < 0.24 else patterns.normal_heart(rng)
    devices = support_devices.draw_devices(rng) if rng.random() < 0.35 else []
    return Condition(diagnosis, tuple(lesions), tuple(devices))


def _draw_severity(rng: np.random.Generator, visit: int) -> Condition:
    """A patient of the severity ward: COVID-19 whose extent rises and clears over the visits."""
    background, devices = _draw_background(rng)
    peak = rng.uniform(-0.3, 2.3)  # visit of the greatest extent
    width = rng.uniform(1.2, 2.6)  # visits over which it changes
    course = float(np.exp(-(((visit - peak) / width) ** 2)))  # relative to the greatest extent
    lesions = patterns.covid(rng, rng.uniform(0.02, 1)) if rng.random() < 0.92 else []
    lesions = disease.scale_lesions(lesions, course)
    return Condition("covid19", tuple(lesions + background), tuple(devices))


def _draw_diagnosis(rng: np.random.Generator, site: Site) -> Condition:
    """A patient of the diagnosis ward."""
    diagnosis = DIAGNOSES[rng.choice(3, p=site.prevalence)]
    background, devices = _draw_background(rng)
    lesions = []
    if diagnosis == "covid19":
        lesions = patterns.covid(rng, rng.uniform(0.15, 1))
    elif diagnosis == "other_infection":
        pattern = patterns.bacterial if rng.random() < 0.62 else patterns.tuberculosis
        lesions = pattern(rng)
    return Condition(diagnosis, tuple(lesions + background), tuple(devices))
