"""Virtual hospitals: chest films of patients who do not exist, drawn from one real CT, with the
truth of every image.

`Hospital(site)[i]` is a pure function of (seed, site, ward, i). Anatomy, disease and projection are
`anatomy`, `patterns` and `disease`; this module adds what makes a hospital: who comes through the
door, how its machine turns photons into grey, and the marker that a technician leaves on the film.
Every figure made from these films says "synthetic".

S film size in px. Arrays are 3x2 with row 0 = upper zone, column 0 = patient's right = image left.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data.lung_zones import coverage, zones_of_sides
from cxrkit.simulation import anatomy, disease, patterns, radiograph, support_devices

VIEWS = ("PA", "AP")
WARDS = ("diagnosis", "findings", "severity")
# films a patient: the severity ward follows its patients up
VISITS = {"diagnosis": 1, "findings": 1, "severity": 3}
BODIES = 12  # anatomies of a site; none is shared between sites or splits
# of an internal site; all of an external one is test
SPLIT_OF_BODY = ("train",) * 8 + ("val",) * 2 + ("test",) * 2
MIN_COVERAGE = 0.01  # a zone is involved if the lesion covers 1 % of it


@dataclass(frozen=True)
class Site:
    """One hospital: its machine (`film.Detector`), its patients and its role. `prevalence` follows
    schema.DIAGNOSES.
    """

    name: str
    role: str  # "internal" (training and validation) or "external"
    pa_share: float
    prevalence: tuple[float, float, float]
    field_mm: float  # width of the film at the patient
    detector: radiograph.Detector = field(repr=False, default=radiograph.Detector())


def _site(name, role, pa_share, prevalence, field_mm, **detector):
    return Site(name, role, pa_share, prevalence, field_mm, radiograph.Detector(**detector))


SITES = {
    site.name: site
    for site in (
        _site(
            "alder",
            "internal",
            0.55,
            (0.36, 0.34, 0.30),
            270,
            blur=0.45,
            photons=3e5,
            scatter=0.35,
            sharpen=0.9,
            flatten=0.55,
        ),
        _site(
            "birch",
            "internal",
            0.40,
            (0.30, 0.30, 0.40),
            284,
            blur=0.65,
            photons=1.2e5,
            scatter=0.55,
            sharpen=0.5,
            flatten=0.40,
            gamma=0.9,
            border=0.5,
        ),
        _site(
            "cedar",
            "internal",
            0.60,
            (0.40, 0.28, 0.32),
            262,
            blur=0.55,
            photons=2e5,
            scatter=0.45,
            sharpen=1.2,
            flatten=0.65,
            gamma=1.1,
        ),
        _site(
            "dogwood",
            "external",
            0.60,
            (0.34, 0.30, 0.36),
            275,
            blur=0.50,
            photons=2.2e5,
            scatter=0.30,
            sharpen=0.7,
            flatten=0.50,
            gamma=0.85,
            border=0.3,
        ),
        _site(
            "elm",
            "external",
            0.50,
            (0.42, 0.30, 0.28),
            290,
            blur=0.80,
            photons=8e4,
            scatter=0.65,
            sharpen=0.4,
            flatten=0.45,
            gamma=1.15,
        ),
        _site(
            "fir",
            "external",
            0.55,
            (0.30, 0.38, 0.32),
            266,
            blur=0.40,
            photons=4e5,
            scatter=0.40,
            sharpen=1.4,
            flatten=0.60,
            border=0.2,
        ),
    )
}


@dataclass(frozen=True)
class Patient:
    """One film and its whole truth."""

    image: np.ndarray  # uint8 (S, S)
    lungs: tuple[np.ndarray, np.ndarray]  # bool (S, S) right, left, as a reader draws them
    lesion: np.ndarray  # bool (S, S), inside the lungs
    findings: dict[str, int]  # the ten of schema.FINDINGS -> 0 or 1
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
    def severity(self):
        """0-6, the number of involved zones."""
        return int(self.array.sum())


class _ChestCache:
    """The last few projected anatomies; a cohort is drawn anatomy by anatomy, so that few suffice."""

    def __init__(self, size=4):
        self.size, self.kept = size, OrderedDict()

    def get(self, key, make):
        if key not in self.kept:
            self.kept[key] = make()
            while len(self.kept) > self.size:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]


_chests = _ChestCache()


class Hospital:
    """The films of one site and ward: `len(hospital)`, `hospital[i]` -> Patient.

    site: a name in SITES; ward: "diagnosis" (normal, other infection, COVID-19), "findings" (the
    ten CheXpert findings) or "severity" (COVID-19 with three visits a patient); rho in [0, 1]: the
    probability that the marker is the one that goes with the diagnosis; with 0 it is drawn at
    random. Raises ValueError for an unknown site or ward, IndexError past the end.
    """

    def __init__(self, site, seed=0, rho=0.0, ward="diagnosis", n=200, size=256):
        if site not in SITES:
            raise ValueError(f"unknown site {site!r}; known: {list(SITES)}")
        if ward not in WARDS:
            raise ValueError(f"unknown ward {ward!r}; known: {list(WARDS)}")
        if not 0 <= rho <= 1:
            raise ValueError(f"rho = {rho}; it must lie in [0, 1]")
        self.site, self.seed, self.rho, self.ward, self.n, self.size = (
            SITES[site],
            seed,
            rho,
            ward,
            n,
            size,
        )

    def __len__(self):
        return self.n

    def _rng(self, *what):
        words = [list(SITES).index(self.site.name), *what]
        return np.random.default_rng([self.seed, *words])

    def patient_of(self, i):
        """(patient number, visit number) of film i."""
        return divmod(i, VISITS[self.ward])

    def body_of(self, patient):
        """Number of the anatomy that a patient has, in [0, BODIES)."""
        return int(self._rng(1, WARDS.index(self.ward), patient).integers(BODIES))

    def split_of(self, patient):
        """ "train", "val" or "test", by anatomy, so that no chest is in two splits; an external
        site is all test.
        """
        return "test" if self.site.role == "external" else SPLIT_OF_BODY[self.body_of(patient)]

    def view_of(self, i):
        """ "PA" or "AP"."""
        return VIEWS[int(self._rng(2, WARDS.index(self.ward), i).random() >= self.site.pa_share)]

    def chest(self, body, view):
        """The projected anatomy, cached."""
        key = (self.seed, self.site.name, body, view, self.size)
        return _chests.get(
            key,
            lambda: anatomy.project(
                anatomy.make_body(self._rng(3, body)), view, self.size, self.site.field_mm
            ),
        )

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(f"film {i} of {self.n} at {self.site.name}")
        patient, visit = self.patient_of(i)
        ward = WARDS.index(self.ward)
        case = self.case_of(i)
        view, body = self.view_of(i), self.body_of(patient)
        chest = self.chest(body, view)
        rng = self._rng(5, ward, i)
        look = radiograph.draw_look(self._rng(6, ward, patient), rng)
        added, extent = disease.apply(chest, case.lesions, look.vessels, look.lung)
        metal = support_devices.shadow(chest, case.devices) if case.devices else 0.0
        integral = radiograph.line_integral(chest, look) + added + metal
        integral, extent, right, left = radiograph.place(integral, extent, chest, look)
        marker = self.marker_of(i, case.diagnosis)
        image, marker_box = radiograph.expose(integral, self.site.detector, view, marker, rng)
        return self._truth(
            image, extent, right, left, case, patient, visit, view, marker, marker_box
        )

    def where(self, i, finding):
        """Where a finding lies in film i: bool (S, S), the pixels that its own lesions (or devices)
        change; empty where it is absent.

        The lesions are drawn once more without any other, so a pixel behind two findings belongs to
        both.
        """
        patient, _ = self.patient_of(i)
        case = self.case_of(i)
        chest = self.chest(self.body_of(patient), self.view_of(i))
        look = radiograph.draw_look(
            self._rng(6, WARDS.index(self.ward), patient), self._rng(5, WARDS.index(self.ward), i)
        )
        if finding == "support_device":
            change = (
                support_devices.shadow(chest, case.devices)
                if case.devices
                else np.zeros((self.size, self.size), np.float32)
            )
        elif disease.findings_of(case.lesions, case.diagnosis != "normal", False)[finding]:
            # any lesion of the lung, when an infection is the cause
            causes = "opacity" if finding == "pneumonia" else finding
            own = [lesion for lesion in case.lesions if causes in disease.KINDS[lesion.kind][1]]
            change = np.abs(disease.apply(chest, own, look.vessels, look.lung)[0])
        else:
            change = np.zeros((self.size, self.size), np.float32)
        return radiograph.place(np.zeros_like(change), change, chest, look)[1] >= disease.MIN_LESION

    def case_of(self, i):
        """What the patient of film i has at that visit -> Case, without drawing the film."""
        patient, visit = self.patient_of(i)
        return draw_case(self._rng(4, WARDS.index(self.ward), patient), self.ward, self.site, visit)

    def marker_of(self, i, diagnosis):
        """Marker of film i: with probability rho the one that goes with the diagnosis, else any."""
        rng = self._rng(7, WARDS.index(self.ward), i)
        tied, own = rng.random() < self.rho, int(rng.integers(3))
        return radiograph.MARKERS[DIAGNOSES.index(diagnosis) if tied else own]

    def _truth(self, image, extent, right, left, case, patient, visit, view, marker, marker_box):
        lesion = (extent >= disease.MIN_LESION) & (right | left)
        array = (coverage(lesion, zones_of_sides(right, left)) >= MIN_COVERAGE).astype(np.uint8)
        name = f"{self.site.name}-{self.ward[0]}{patient:05d}"
        findings = disease.findings_of(case.lesions, case.diagnosis != "normal", bool(case.devices))
        return Patient(
            image,
            (right, left),
            lesion,
            findings,
            case.diagnosis,
            array,
            view,
            name,
            self.site.name,
            f"{self.site.name}-body{self.body_of(patient):02d}",
            self.split_of(patient),
            visit,
            marker,
            marker_box,
        )

    def url(self, i):
        """The path of film i in a manifest; `from_url` finds the film again."""
        query = urlencode(
            {"seed": self.seed, "rho": self.rho, "ward": self.ward, "n": self.n, "size": self.size}
        )
        return f"virtual://{self.site.name}/{i}?{query}"


def _find(url):
    """`virtual://<site>/<i>?seed=..&rho=..&ward=..&n=..&size=..` -> (Hospital, i)."""
    parts = urlsplit(url)
    if parts.scheme != "virtual":
        raise ValueError(f"{url} is no virtual patient; expected virtual://<site>/<number>?seed=0")
    types = {"seed": int, "rho": float, "ward": str, "n": int, "size": int}
    options = {name: types[name](value) for name, value in parse_qsl(parts.query)}
    return Hospital(parts.netloc, **options), int(parts.path.strip("/"))


def from_url(url):
    """The virtual patient behind the path of a manifest (`Hospital.url`) -> Patient. Raises
    ValueError for another scheme.
    """
    hospital, i = _find(url)
    return hospital[i]


def place_from_url(url, finding):
    """Where a finding lies in the film behind a path: bool (S, S), see `Hospital.where`."""
    hospital, i = _find(url)
    return hospital.where(i, finding)


@dataclass(frozen=True)
class Case:
    """What a patient has."""

    diagnosis: str
    lesions: tuple
    devices: tuple


def _background(rng):
    """What any patient may have beside the diagnosis, at the same rates in every class: a large
    heart, plates, a device.
    """
    lesions = patterns.cardiomegaly(rng) if rng.random() < 0.12 else patterns.normal_heart(rng)
    worn = support_devices.draw(rng) if rng.random() < 0.25 else []
    return lesions, worn


def _findings_case(rng):
    """A patient of the general ward: each of the pathologies on its own, often two."""
    lesions, worn, infection = [], [], False
    draws = {
        "edema": 0.16,
        "bacterial": 0.17,
        "covid": 0.08,
        "tuberculosis": 0.05,
        "atelectasis": 0.2,
        "pneumothorax": 0.13,
        "effusion": 0.22,
    }
    for name, chance in draws.items():
        if rng.random() < chance:
            lesions += (
                patterns.covid(rng, rng.uniform(0.1, 1))
                if name == "covid"
                else getattr(patterns, name)(rng)
            )
            infection |= name in ("bacterial", "covid", "tuberculosis")
    lesions += patterns.cardiomegaly(rng) if rng.random() < 0.24 else patterns.normal_heart(rng)
    if rng.random() < 0.35:
        worn = support_devices.draw(rng)
    return Case("other_infection" if infection else "normal", tuple(lesions), tuple(worn))


def _course(rng, visit):
    """Extent of a patient's disease at a visit, relative to the worst: rising, then clearing, at
    each patient's own pace.
    """
    peak, width = rng.uniform(-0.3, 2.3), rng.uniform(1.2, 2.6)
    return float(np.exp(-(((visit - peak) / width) ** 2)))


def draw_case(rng, ward, site, visit):
    """Diagnosis, lesions and devices of a patient at a visit."""
    if ward == "findings":
        return _findings_case(rng)
    if ward == "severity":
        lesions, worn = _background(rng)
        course = _course(rng, visit)
        focal = patterns.covid(rng, rng.uniform(0.02, 1)) if rng.random() < 0.92 else []
        return Case("covid19", tuple(disease.scaled(focal, course) + lesions), tuple(worn))
    diagnosis = DIAGNOSES[rng.choice(3, p=site.prevalence)]
    lesions, worn = _background(rng)
    if diagnosis == "covid19":
        lesions = patterns.covid(rng, rng.uniform(0.15, 1)) + lesions
    elif diagnosis == "other_infection":
        lesions = (patterns.bacterial if rng.random() < 0.62 else patterns.tuberculosis)(
            rng
        ) + lesions
    return Case(diagnosis, tuple(lesions), tuple(worn))
