"""Virtual hospitals: geometry and physics against closed forms, truth against itself, statistics
against a probe.
"""

import dataclasses
import hashlib
import os

import cv2
import joblib
import numpy as np
import pytest

from cxrkit.config.profiles import Cohort
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS
from cxrkit.data import lung_zones
from cxrkit.evaluation import linear_probe, metrics
from cxrkit.simulation import anatomy, cohort, disease, patterns, radiograph, support_devices
from cxrkit.simulation import hospital as hospital_module

PLAIN = anatomy.Body((1.0, 1.0, 1.0), 0.0, 0.0, (0.0, 0.0), np.zeros((2, 4, 6, 5), np.float32))


@pytest.fixture(scope="module")
def chests():
    """The unbent body from both sides."""
    return {view: anatomy.project(PLAIN, view) for view in hospital_module.VIEWS}


@pytest.fixture(scope="module")
def sample():
    """Thirty films of three sites and all wards, at half size."""
    return [
        hospital_module.Hospital(site, ward=ward, size=128)[i]
        for site in ("alder", "elm", "fir")
        for ward in hospital_module.WARDS
        for i in (0, 1, 2, 5)
    ]


# --- geometry
# ----------------------------------------------------------------------------------------------------------------


def test_magnification_is_that_of_a_point_source(chests):
    """Two points 60 mm apart: their image is larger by SDD / (SDD - distance to the detector), so
    AP magnifies what lies in front.
    """
    _, yc, _ = anatomy.load_atlas().centre
    for view, chest in chests.items():
        for y in (100.0, 160.0):
            y = chest.y[np.abs(chest.y - y).argmin()]
            a, b = chest.pixel_of([(190.0, y, 150.0), (190.0, y, 210.0)])
            distance = anatomy.SOURCE_DISTANCE[view]
            to_detector = 150.0 - (1 if view == "PA" else -1) * (y - yc)
            at_middle = distance / (distance - 150.0)
            want = 60.0 * (distance / (distance - to_detector)) / at_middle * 256 / 270.0
            assert b[0] - a[0] == pytest.approx(want, rel=2e-3)


def test_heart_is_larger_in_ap(chests):
    """The heart lies in front: its shadow is wider on AP, where the detector is behind the patient."""

    def width(chest):
        atlas = anatomy.load_atlas()
        (z, y, x), reach = atlas.heart, atlas.heart_reach
        a, b = chest.pixel_of([(z, y, x - reach[2]), (z, y, x + reach[2])])
        return b[0] - a[0]

    assert width(chests["AP"]) > 1.03 * width(chests["PA"])


def test_projection_is_the_sum_along_the_ray():
    """With the source far away and no bending, the film is the plain sum of the atlas over depth."""
    atlas = anatomy.load_atlas()
    far = dict(anatomy.SOURCE_DISTANCE, PA=1e9)
    original, anatomy.SOURCE_DISTANCE = anatomy.SOURCE_DISTANCE, far
    try:
        # a pixel is 1.5 mm, as a voxel
        chest = anatomy.project(PLAIN, "PA", size=180, field_mm=270.0)
    finally:
        anatomy.SOURCE_DISTANCE = original
    # (Z, X)
    plain = (
        atlas.channels[:86].astype(np.float64).sum(axis=(0, 3))
        * anatomy.WATER
        / 100
        * anatomy.DEPTH
    )
    zc, _, xc = atlas.centre
    rows = (zc + 134.25 - 1.5 * np.arange(180)) / atlas.spacing
    columns = (xc - 134.25 + 1.5 * np.arange(180)) / atlas.spacing
    at = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    want = cv2.remap(plain, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    # of up to 6: rounding of uint8 slices
    assert np.abs(chest.integrals.sum(axis=0) - want)[2:-2, 2:-2].max() < 0.02


def test_left_is_on_the_right_of_the_image(chests):
    for chest in chests.values():
        assert np.where(chest.left)[1].mean() > np.where(chest.right)[1].mean() + 60
        hearts = chest.pixel_of([anatomy.load_atlas().heart])[0]
        # the heart points to the left
        assert hearts[0] > (np.where(chest.right)[1].max() + np.where(chest.left)[1].min()) / 2


def test_bodies_differ_and_repeat():
    a, b = (
        anatomy.project(anatomy.make_body(np.random.default_rng(s)), "PA", size=64) for s in (1, 2)
    )
    again = anatomy.project(anatomy.make_body(np.random.default_rng(1)), "PA", size=64)
    assert np.array_equal(a.integrals, again.integrals) and np.array_equal(a.right, again.right)
    assert np.abs(a.integrals - b.integrals).mean() > 0.05
    overlap = (a.right & b.right).sum() / (a.right | b.right).sum()
    assert 0.4 < overlap < 0.97


# --- disease
# -----------------------------------------------------------------------------------------------------------------


def planted(kind, centre, radius, lobes, hu=40.0):
    return disease.Lesion(kind, tuple(centre), (radius,) * 3, lobes, hu, 0.0, 0)


def air_chest(size=64):
    """A box of lung of 40 slices, 6 mm each, at one density: lesions in it have closed forms."""
    shape = (40, size, size)
    mm = np.arange(size, dtype=np.float32) * 4
    z, x = np.meshgrid(mm[::-1], mm, indexing="ij")
    flat = np.zeros((size, size), np.float32)
    return anatomy.Chest(
        "PA",
        size,
        np.zeros((4, size, size), np.float32),
        flat,
        flat,
        flat > 0,
        flat > 0,
        (slice(0, size),) * 2,
        np.full(shape, 14.0, np.float32),
        np.zeros(shape, np.float32),
        np.ones(shape, np.uint8),
        np.full(shape, 50.0, np.float32),
        np.broadcast_to(z, shape).copy(),
        np.broadcast_to(x, shape).copy(),
        np.arange(40, dtype=np.float32) * 6,
        6.0,
        {1: (slice(0, 40), slice(0, size), slice(0, size))},
    )


def test_nodule_adds_attenuation_times_length():
    """Through the middle of a sphere of radius R the film gains (new - old) x 2R x (1 - soft
    border).
    """
    chest = air_chest()
    added, extent = disease.apply(chest, [planted("nodule", (128, 120, 128), 48.0, (1,))])
    row, column = 63 - 32, 32
    w = np.clip((1 - np.abs(chest.y - 120) / 48.0) / 0.3, 0, 1).sum() * 6.0  # mm
    assert added[row, column] == pytest.approx((104 - 14) / 100 * anatomy.WATER * w, rel=1e-4)
    assert w == pytest.approx(2 * 48 * 0.85, rel=0.05)
    assert np.unravel_index(added.argmax(), added.shape) == (row, column) and np.array_equal(
        added, extent
    )


def test_a_voxel_is_never_replaced_twice():
    chest, lesion = air_chest(), planted("nodule", (128, 120, 128), 48.0, (1,))
    solid = dataclasses.replace(lesion, radius=(90.0,) * 3)
    once, _ = disease.apply(chest, [solid])
    twice, _ = disease.apply(chest, [solid, lesion])
    assert np.allclose(once[20:44, 20:44], twice[20:44, 20:44], rtol=1e-5)


def test_silhouette_sign(chests):
    """Vessels vanish inside a consolidation: the film there no longer depends on them."""
    chest = chests["PA"]
    lesion = planted("nodule", (170, 100, 110), 40.0, (3,))
    for vessels in (1.0, 2.0):
        added, _ = disease.apply(chest, [lesion], vessels=vessels)
        if vessels == 1.0:
            first = added
    box, d = chest.box, anatomy.WATER / 100 * chest.step
    everywhere = disease.Region(chest.z, chest.y[:, None, None], chest.x, None, None)
    inside = np.clip((1 - everywhere.distance(lesion.centre, lesion.radius)) / 0.3, 0, 1)
    lost = (inside * (chest.lobes == 3) * chest.vessels).sum(axis=0) * d
    assert np.allclose((first - added)[box], lost, atol=2e-3) and lost.max() > 0.05


@pytest.mark.parametrize("view", hospital_module.VIEWS)
@pytest.mark.parametrize(
    "place, zone",
    [
        ((268, 110, 105), (0, 0)),
        ((205, 110, 95), (1, 0)),
        ((165, 110, 95), (2, 0)),
        ((272, 110, 245), (0, 1)),
        ((205, 110, 262), (1, 1)),
        ((160, 110, 265), (2, 1)),
    ],
)
def test_a_planted_lesion_lands_in_its_zone(chests, view, place, zone):
    chest = chests[view]
    lobes = patterns.RIGHT if zone[1] == 0 else patterns.LEFT
    _, extent = disease.apply(chest, [planted("nodule", place, 12.0, lobes)])
    lesion = (extent >= disease.MIN_LESION) & (chest.right | chest.left)
    share = lung_zones.coverage(lesion, lung_zones.zones_of_sides(chest.right, chest.left))
    assert (
        np.unravel_index(share.argmax(), (3, 2)) == zone
        and share[zone] >= hospital_module.MIN_COVERAGE
    )
    centre = np.argwhere(lesion).mean(axis=0)[::-1]
    assert np.abs(centre - chest.pixel_of([place])[0]).max() < 4


@pytest.mark.parametrize("kind", sorted(set(disease.KINDS) - set(disease.FINE)))
def test_smooth_kinds_lose_nothing_to_the_coarser_grid(chests, kind, monkeypatch):
    """Worked out on every voxel or on a quarter of them, the film gains the same, to a few
    hundredths of its largest gain.
    """
    heart = tuple(anatomy.load_atlas().heart)
    centre = {"haze": disease.HILA["right"], "fluid": (150.0, 115.0, 0.0), "air": (0.0, 0.0, 100.0)}
    centre |= {"big_heart": heart, "full_heart": heart}
    radius = {
        "haze": (60.0,) * 3,
        "fluid": (40.0, 8.0, 1.0),
        "air": (150.0, 1.0, 0.3),
        "big_heart": (1.4,) * 3,
        "full_heart": (1.1,) * 3,
    }
    centre["pleural_line"], radius["pleural_line"] = centre["air"], radius["air"]
    lesion = disease.Lesion(
        kind,
        centre.get(kind, (180.0, 110.0, 105.0)),
        radius.get(kind, (40.0,) * 3),
        (1, 2, 3),
        30.0,
        0.5,
        3,
    )
    coarse, _ = disease.apply(chests["PA"], [lesion])
    monkeypatch.setattr(disease, "FINE", tuple(disease.KINDS))
    fine, _ = disease.apply(chests["PA"], [lesion])
    assert fine.max() > 0.05 and np.abs(coarse - fine).mean() < 0.02 * fine.max()
    assert abs(coarse.sum() - fine.sum()) < 0.05 * fine.sum()
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.98


def test_lobes_hold_their_lesions(chests):
    chest = chests["PA"]
    _, extent = disease.apply(chest, [planted("consolidation", (230, 140, 110), 60.0, (1,))])
    upper = (chest.lobes == 1).any(axis=0)
    assert extent.any() and not extent[chest.box][~upper].any()


def test_findings_follow_the_table():
    def of(*kinds, pneumonia=False, worn=False):
        found = disease.findings_of(
            [planted(kind, (0, 0, 0), 1.0, (1,)) for kind in kinds], pneumonia, worn
        )
        return {name for name in FINDINGS if found[name]}

    assert of() == {"no_finding"} == of("full_heart")
    assert of(worn=True) == {"no_finding", "support_device"}
    assert of("consolidation", pneumonia=True) == {"opacity", "consolidation", "pneumonia"}
    assert of("fluid") == {"pleural_effusion"} and of("air", "pleural_line") == {"pneumothorax"}
    assert of("haze", "big_heart") == {"opacity", "edema", "cardiomegaly"}
    assert of("plate", "ground_glass") == {"opacity", "atelectasis"}


def test_shrunken_lesions_are_smaller_and_then_gone():
    lesions = patterns.covid(np.random.default_rng(0), 0.5)
    assert all(
        s.radius[0] == pytest.approx(0.5 * b.radius[0])
        for s, b in zip(disease.scaled(lesions, 0.5), lesions, strict=True)
    )
    assert disease.scaled(lesions, 0.1) == []


# --- film
# --------------------------------------------------------------------------------------------------------------------


def test_transmission_is_beer_lambert():
    """Without scatter, noise or blur, the log signal is the hardened line integral."""
    integral = np.linspace(0, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
    ideal = radiograph.Detector(blur=1e-3, photons=1e30, scatter=0.0)
    assert np.allclose(
        radiograph.detect(integral, ideal, np.random.default_rng(0)),
        integral / (1 + 0.03 * integral),
        atol=1e-4,
    )


def test_noise_is_that_of_counted_photons():
    """The variance of a log of N counted photons is 1 / N: e^t times that of open air behind an
    integral of t.
    """
    detector = radiograph.Detector(blur=1e-3, photons=1e5, scatter=0.0)
    variances = [
        radiograph.detect(
            np.full((256, 256), t, np.float32), detector, np.random.default_rng(0)
        ).var()
        for t in (0.0, 2.0)
    ]
    assert variances[1] / variances[0] == pytest.approx(np.exp(2.0 / 1.06), rel=0.03)


def test_film_and_truth_move_together(chests):
    """A bright disc on the film and the same disc in the truth land on the same pixels."""
    chest = chests["PA"]
    disc = cv2.circle(np.zeros((256, 256), np.float32), (90, 120), 12, 1.0, -1)
    look = dataclasses.replace(
        radiograph.draw_look(np.random.default_rng(3), np.random.default_rng(4)),
        angle=9.0,
        zoom=1.1,
        shift=(0.05, -0.04),
    )
    integral, extent, right, left = radiograph.place(disc, disc, chest, look)
    assert np.array_equal(integral > 0.5, extent > 0.5) and extent.sum() == pytest.approx(
        disc.sum() * 1.21, rel=0.12
    )
    assert np.abs(np.argwhere(extent > 0.5).mean(0) - np.argwhere(disc > 0.5).mean(0)).max() > 3
    assert not (cv2.dilate(right.astype(np.uint8), np.ones((3, 3), np.uint8)) & left).any()


# --- hospitals
# ---------------------------------------------------------------------------------------------------------------


def test_truth_agrees_on_every_film(sample):
    for p in sample:
        right, left = p.lungs
        assert p.image.dtype == np.uint8 and p.image.shape == (128, 128) and p.image.std() > 20
        assert not (p.lesion & ~(right | left)).any()
        assert not (cv2.dilate(right.astype(np.uint8), np.ones((3, 3), np.uint8)) & left).any()
        found = lung_zones.sides(right | left)
        # severity finds the sides that we know
        assert np.array_equal(found[0], right) and np.array_equal(found[1], left)
        zones = lung_zones.zones((right | left)[None])[0]
        assert np.array_equal(
            p.array, lung_zones.coverage(p.lesion, zones) >= hospital_module.MIN_COVERAGE
        )
        assert p.severity == p.array.sum() and set(p.findings) == set(FINDINGS)
        assert p.findings["no_finding"] <= 1 - p.findings["opacity"]
        if p.diagnosis == "normal" and not p.findings["opacity"]:
            assert p.severity == 0


def test_films_repeat_and_do_not_depend_on_order():
    hospital = hospital_module.Hospital("birch", seed=5, size=64)
    first = [hospital[i] for i in (3, 4)]
    hospital_module._chests.kept.clear()
    second = [hospital[i] for i in (4, 3)][::-1]
    other = hospital_module.Hospital("birch", seed=6, size=64)[3]
    for a, b in zip(first, second, strict=True):
        assert (
            np.array_equal(a.image, b.image)
            and np.array_equal(a.lesion, b.lesion)
            and a.findings == b.findings
        )
    assert not np.array_equal(first[0].image, other.image)


def test_url_finds_the_film_again():
    hospital = hospital_module.Hospital("cedar", seed=2, rho=0.5, ward="severity", n=30, size=64)
    again = hospital_module.from_url(hospital.url(7))
    assert (
        np.array_equal(again.image, hospital[7].image)
        and again.patient_id == hospital[7].patient_id
    )
    with pytest.raises(ValueError, match="virtual://"):
        hospital_module.from_url("https://example.org/1")


def test_follow_up_shares_anatomy_and_patient():
    films_ = [hospital_module.Hospital("alder", ward="severity", size=64)[i] for i in range(3, 6)]
    assert len({p.patient_id for p in films_}) == 1 and [p.visit for p in films_] == [0, 1, 2]
    assert len({p.group_id for p in films_}) == len({p.split for p in films_}) == 1


def test_no_anatomy_in_two_splits_or_sites():
    table = cohort.plan(Cohort(findings=300, diagnosis=300, severity=150), seed=0)
    of = {}
    for row in table.itertuples():
        hospital = hospital_module.Hospital(row.site, 0, 0.0, row.ward, row.n)
        patient = hospital.patient_of(row.index)[0]
        of.setdefault((row.site, hospital.body_of(patient)), set()).add(hospital.split_of(patient))
    assert all(len(splits) == 1 for splits in of.values()) and len(of) >= 64
    bodies = [
        hospital_module.Hospital(site)._rng(3, body).normal()
        for site in hospital_module.SITES
        for body in range(hospital_module.BODIES)
    ]
    assert len(set(bodies)) == len(bodies)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="alder"):
        hospital_module.Hospital("nowhere")
    with pytest.raises(ValueError, match="severity"):
        hospital_module.Hospital("alder", ward="emergency")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        hospital_module.Hospital("alder", rho=2)
    with pytest.raises(IndexError):
        hospital_module.Hospital("alder", n=3)[3]


@pytest.mark.parametrize("rho, low, high", [(0.0, 0.45, 0.55), (1.0, 0.95, 1.0)])
def test_the_marker_dial(rho, low, high):
    """The marker alone predicts the diagnosis at rho = 1 and tells nothing at rho = 0 (1,800
    patients, no pixels needed).
    """
    rows = []
    for site in hospital_module.SITES:
        hospital = hospital_module.Hospital(site, rho=rho, n=300)
        for i in range(300):
            diagnosis = hospital.case_of(i).diagnosis
            rows.append(
                (
                    radiograph.MARKERS.index(hospital.marker_of(i, diagnosis)),
                    DIAGNOSES.index(diagnosis),
                )
            )
    marker, diagnosis = np.array(rows).T
    assert low <= metrics.macro_auc(diagnosis, np.eye(3)[marker]) <= high


def test_the_marker_is_written_in_its_box():
    for i in range(6):
        p = hospital_module.Hospital("elm", size=256)[i]
        top, left, bottom, right = p.marker_box
        assert (p.image[top:bottom, left:right] >= 200).sum() >= 8 and top >= 0 and left >= 0


def test_grey_statistics_do_not_give_the_diagnosis_away():
    """Mean, deviation and histogram of the raw film, site held out: macro AUC <= 0.65 (SPEC 1.1)."""
    drawn = [
        hospital[i]
        for hospital in (
            hospital_module.Hospital(name, n=60, size=64) for name in hospital_module.SITES
        )
        for i in sorted(range(60), key=lambda i: (hospital.body_of(i), hospital.view_of(i)))
    ]
    y, site, bodies = (
        np.array([of(film) for film in drawn])
        for of in (
            lambda film: DIAGNOSES.index(film.diagnosis),
            lambda film: film.site,
            lambda film: film.group_id,
        )
    )
    p = linear_probe.refit(linear_probe.histogram([film.image for film in drawn]), y, bodies, site)
    assert linear_probe.by_site(metrics.macro_auc)(y, p, site) <= 0.65


def test_devices_follow_the_anatomy(chests):
    """The tip of a tube lies above the carina in both views, and shadows add attenuation only."""
    for chest in chests.values():
        for kind in support_devices.KINDS:
            sheet = support_devices.shadow(chest, [(kind, 1)])
            assert sheet.shape == (256, 256) and sheet.min() >= 0 and sheet.max() > 0.1
        tube = support_devices.shadow(chest, [("tube", 1)])
        carina = chest.pixel_of([(200.0, support_devices.TRACHEA_Y, support_devices.TRACHEA_X)])[0]
        assert np.argwhere(tube > 0.05)[:, 0].max() < carina[1]
        assert np.abs(np.argwhere(tube > 0.05)[:, 1].mean() - carina[0]) < 12


# --- where a finding lies
# ----------------------------------------------------------------------------------------------------


class Without(hospital_module.Hospital):
    """The same hospital, had its patients not had one finding."""

    def __init__(self, finding, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.finding = finding

    def case_of(self, i):
        case, cause = super().case_of(i), "opacity" if self.finding == "pneumonia" else self.finding
        if self.finding == "support_device":
            return dataclasses.replace(case, devices=())
        return dataclasses.replace(
            case, lesions=tuple(s for s in case.lesions if cause not in disease.KINDS[s.kind][1])
        )


WARD = {"site": "elm", "ward": "findings", "n": 60, "size": 128}


@pytest.fixture(scope="module")
def clearest():
    """Finding -> the film of the ward that has it and fewest lesions of other findings, which would
    fill the place it leaves.
    """
    hospital = hospital_module.Hospital(**WARD)
    found = [
        disease.findings_of(c.lesions, c.diagnosis != "normal", bool(c.devices))
        for c in map(hospital.case_of, range(60))
    ]
    return {
        name: min(
            (i for i in range(60) if found[i][name]),
            key=lambda i: len(Without(name, **WARD).case_of(i).lesions),
        )
        for name in FINDINGS
    }


@pytest.mark.parametrize("finding", FINDINGS[1:])
def test_a_finding_lies_where_the_film_changes_without_it(clearest, finding, monkeypatch):
    """Drawn with the finding and without it, the line integrals differ where `where` says, and
    hardly elsewhere.
    """
    monkeypatch.setattr(radiograph, "expose", lambda integral, *rest: (integral, (0, 0, 1, 1)))
    i = clearest[finding]
    change = np.abs(hospital_module.Hospital(**WARD)[i].image - Without(finding, **WARD)[i].image)
    place = hospital_module.Hospital(**WARD).where(i, finding)
    assert place.any() and place.mean() < 0.4
    assert (change[place] >= disease.MIN_LESION).mean() > 0.98
    # a turned film is mirrored beyond its edge, truth is not
    assert (change[~place] > 1.15 * disease.MIN_LESION).mean() < 0.003


@pytest.mark.parametrize("finding", FINDINGS)
def test_an_absent_finding_lies_nowhere(finding):
    hospital = hospital_module.Hospital(**WARD)
    i = next(i for i in range(60) if finding == "no_finding" or not hospital[i].findings[finding])
    place = hospital.where(i, finding)
    assert place.shape == (128, 128) and place.dtype == bool and not place.any()


def test_opacity_lies_inside_the_lungs_where_the_lesion_is_true():
    """Of a patient whose lesions are all of the lung itself, the place of the opacity is the lesion
    mask, before it is cut to the lungs.
    """
    hospital = hospital_module.Hospital("fir", ward="diagnosis", size=128)
    own = [
        i
        for i in range(40)
        if hospital.case_of(i).lesions
        and all(disease.KINDS[s.kind][2] for s in hospital.case_of(i).lesions)
    ]
    assert len(own) >= 3
    for i in own[:6]:
        patient, place = hospital[i], hospital.where(i, "opacity")
        assert np.array_equal(place & (patient.lungs[0] | patient.lungs[1]), patient.lesion)


def test_a_place_is_found_by_its_url(clearest):
    hospital, i = hospital_module.Hospital(**WARD), clearest["pleural_effusion"]
    assert np.array_equal(
        hospital_module.place_from_url(hospital.url(i), "pleural_effusion"),
        hospital.where(i, "pleural_effusion"),
    )


# --- drawn cohorts
# -----------------------------------------------------------------------------------------------------------

TINY = Cohort(findings=9, diagnosis=9, severity=9, size=64)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    cohort.draw(folder, TINY, seed=0, workers=1)
    return cohort.Films(folder)


def test_drawn_films_are_the_hospitals_films(drawn):
    assert len(drawn) == 27 and drawn.images.shape == (27, 64, 64)
    for row in (0, 13, 26):
        p = hospital_module.from_url(drawn.table.url[row])
        assert np.array_equal(drawn.images[row], p.image) and np.array_equal(
            drawn.lesion(row), p.lesion
        )
        assert all(np.array_equal(a, b) for a, b in zip(drawn.lungs(row), p.lungs, strict=True))
        assert np.array_equal(drawn.arrays(row), p.array) and drawn.findings(row).tolist() == list(
            p.findings.values()
        )


def test_a_killed_drawing_goes_on_and_ends_the_same(drawn, tmp_path):
    (tmp_path / "chunks").mkdir()
    groups = list(cohort.plan(TINY, 0).groupby(["site", "body"]))
    for (site, body), rows in groups[:2]:
        cohort._draw_chunk(tmp_path / "chunks" / f"{site}-{body:02d}.npz", rows, TINY, 0)
    (tmp_path / "chunks" / "torn.999.part").write_bytes(b"half")
    cohort.draw(tmp_path, TINY, seed=0, workers=1)
    assert cohort.digest(tmp_path) == cohort.digest(drawn.folder)
    assert np.array_equal(cohort.Films(tmp_path).images, drawn.images)


def test_digest_is_the_same_in_other_processes(drawn, tmp_path):
    """Two new interpreters, each with hash seeds of its own, plan the same films and draw them
    alike.
    """
    cohort.draw(tmp_path, TINY, seed=0, workers=2)
    assert cohort.digest(tmp_path) == cohort.digest(drawn.folder)
    pid, elsewhere = joblib.Parallel(2)(
        [joblib.delayed(os.getpid)(), joblib.delayed(cohort.plan)(TINY, 0)]
    )
    assert pid != os.getpid() and elsewhere.equals(cohort.plan(TINY, 0))


def test_no_films_no_cohort(tmp_path):
    with pytest.raises(FileNotFoundError, match="stages.cohort"):
        cohort.Films(tmp_path)


def test_what_is_drawn_is_the_same_on_any_machine():
    """Digest over the parameters of 120 patients (rounded to nine digits), fixed here."""
    sha = hashlib.sha256()
    for site in hospital_module.SITES:
        for ward in hospital_module.WARDS:
            hospital = hospital_module.Hospital(site, ward=ward)
            for i in range(7):
                case = hospital.case_of(i)
                sha.update(
                    repr(
                        (
                            case.diagnosis,
                            case.devices,
                            hospital.view_of(i),
                            hospital.marker_of(i, case.diagnosis),
                        )
                    ).encode()
                )
                for lesion in case.lesions:
                    numbers = np.round([*lesion.centre, *lesion.radius, lesion.hu], 9).tolist()
                    sha.update(repr((lesion.kind, lesion.lobes, lesion.seed, numbers)).encode())
    assert sha.hexdigest()[:16] == "7a74697590d2c353"


def test_memory_left_is_the_least_of_machine_container_and_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("MEM_LIMIT", raising=False)
    free = cohort.memory_left(tmp_path)
    assert free > 1e7
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("123\n")
    assert cohort.memory_left(tmp_path) > free / 2
    (tmp_path / "memory.max").write_text("1500000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert cohort.memory_left(tmp_path) == 1_100_000
    monkeypatch.setenv("MEM_LIMIT", "1000")
    assert cohort.memory_left(tmp_path) == 0


@pytest.mark.parametrize("left, workers", [(0, 1), (1.5e9, 1), (2.5e9, 2), (1e12, 3)])
def test_drawing_takes_as_many_processes_as_fit(tmp_path, monkeypatch, left, workers):
    asked = []
    monkeypatch.setattr(cohort, "memory_left", lambda: left)
    monkeypatch.setattr(cohort.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(
        cohort.joblib,
        "Parallel",
        lambda n_jobs, **_: asked.append(n_jobs) or (lambda jobs: iter(())),
    )
    monkeypatch.setattr(cohort, "_join", lambda *_: None)
    cohort.draw(tmp_path, TINY, seed=0)
    assert asked == [workers]
