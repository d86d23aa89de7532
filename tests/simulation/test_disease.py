"""Lesions against closed forms, and the findings that they cause."""

import dataclasses

import numpy as np
import pytest

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data import lung_zones
from cxrkit.simulation import anatomy, disease, patterns
from cxrkit.simulation.hospital import MIN_COVERAGE, VIEWS
from tests.fakes.chests import lung_box, planted


def test_nodule_adds_attenuation_times_length():
    """Through a sphere of radius R the film gains (new - old) x 2R x (1 - soft border)."""
    chest = lung_box()
    added, extent = disease.add_lesions(chest, [planted("nodule", (128, 120, 128), 48.0, (1,))])
    row, column = 63 - 32, 32
    w = np.clip((1 - np.abs(chest.y - 120) / 48.0) / 0.3, 0, 1).sum() * 6.0  # mm
    assert added[row, column] == pytest.approx((104 - 14) / 100 * anatomy.WATER * w, rel=1e-4)
    assert w == pytest.approx(2 * 48 * 0.85, rel=0.05)
    assert np.unravel_index(added.argmax(), added.shape) == (row, column)
    assert np.array_equal(added, extent)


def test_a_voxel_is_never_replaced_twice():
    chest, lesion = lung_box(), planted("nodule", (128, 120, 128), 48.0, (1,))
    solid = dataclasses.replace(lesion, radius=(90.0,) * 3)
    once, _ = disease.add_lesions(chest, [solid])
    twice, _ = disease.add_lesions(chest, [solid, lesion])
    assert np.allclose(once[20:44, 20:44], twice[20:44, 20:44], rtol=1e-5)


def test_silhouette_sign(chests):
    """Vessels vanish inside a consolidation: the film there no longer depends on them."""
    chest = chests["PA"]
    lesion = planted("nodule", (170, 100, 110), 40.0, (3,))
    thin, _ = disease.add_lesions(chest, [lesion], vessels=1.0)
    thick, _ = disease.add_lesions(chest, [lesion], vessels=2.0)
    whole = disease.Region(chest.z, chest.y[:, None, None], chest.x, None, None)
    inside = np.clip((1 - whole.distance(lesion.centre, lesion.radius)) / 0.3, 0, 1)
    vessels = (inside * (chest.lobes == 3) * chest.vessels).sum(axis=0)
    lost = vessels * (anatomy.WATER / 100 * chest.step)
    assert np.allclose((thin - thick)[chest.box], lost, atol=2e-3) and lost.max() > 0.05


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "point, zone",
    [
        ((268, 110, 105), (0, 0)),
        ((205, 110, 95), (1, 0)),
        ((165, 110, 95), (2, 0)),
        ((272, 110, 245), (0, 1)),
        ((205, 110, 262), (1, 1)),
        ((160, 110, 265), (2, 1)),
    ],
)
def test_a_planted_lesion_lands_in_its_zone(chests, view, point, zone):
    chest = chests[view]
    lobes = patterns.RIGHT_LOBES if zone[1] == 0 else patterns.LEFT_LOBES
    _, extent = disease.add_lesions(chest, [planted("nodule", point, 12.0, lobes)])
    lesion = (extent >= disease.MIN_LESION) & (chest.right | chest.left)
    share = lung_zones.coverage(lesion, lung_zones.zones_of_sides(chest.right, chest.left))
    assert np.unravel_index(share.argmax(), (3, 2)) == zone
    assert share[zone] >= MIN_COVERAGE
    centre = np.argwhere(lesion).mean(axis=0)[::-1]
    assert np.abs(centre - chest.pixel_of([point])[0]).max() < 4


@pytest.mark.parametrize("kind", sorted(set(disease.KINDS) - set(disease.FINE_KINDS)))
def test_smooth_kinds_lose_nothing_to_the_coarser_grid(chests, kind, monkeypatch):
    """Computed on every voxel or on a quarter of them, the film gains nearly the same."""
    heart = tuple(anatomy.load_atlas().heart)
    collapse = ((0.0, 0.0, 100.0), (150.0, 1.0, 0.3))
    geometry = {  # kind -> centre, radius
        "haze": (disease.HILA["right"], (60.0,) * 3),
        "fluid": ((150.0, 115.0, 0.0), (40.0, 8.0, 1.0)),
        "air": collapse,
        "pleural_line": collapse,
        "big_heart": (heart, (1.4,) * 3),
        "full_heart": (heart, (1.1,) * 3),
    }
    centre, radius = geometry.get(kind, ((180.0, 110.0, 105.0), (40.0,) * 3))
    lesion = disease.Lesion(kind, centre, radius, (1, 2, 3), 30.0, 0.5, 3)
    coarse, _ = disease.add_lesions(chests["PA"], [lesion])
    monkeypatch.setattr(disease, "FINE_KINDS", tuple(disease.KINDS))
    fine, _ = disease.add_lesions(chests["PA"], [lesion])
    assert fine.max() > 0.05 and np.abs(coarse - fine).mean() < 0.02 * fine.max()
    assert abs(coarse.sum() - fine.sum()) < 0.05 * fine.sum()
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.98


def test_lobes_hold_their_lesions(chests):
    chest = chests["PA"]
    _, extent = disease.add_lesions(chest, [planted("consolidation", (230, 140, 110), 60.0, (1,))])
    upper = (chest.lobes == 1).any(axis=0)
    assert extent.any() and not extent[chest.box][~upper].any()


def test_findings_follow_the_table():
    def present(*kinds, pneumonia=False, devices=False):
        lesions = [planted(kind, (0, 0, 0), 1.0, (1,)) for kind in kinds]
        found = disease.findings_from_lesions(lesions, pneumonia, devices)
        return {name for name in FINDINGS if found[name]}

    assert present() == {"no_finding"} == present("full_heart")
    assert present(devices=True) == {"no_finding", "support_device"}
    assert present("consolidation", pneumonia=True) == {"opacity", "consolidation", "pneumonia"}
    assert present("fluid") == {"pleural_effusion"}
    assert present("air", "pleural_line") == {"pneumothorax"}
    assert present("haze", "big_heart") == {"opacity", "edema", "cardiomegaly"}
    assert present("plate", "ground_glass") == {"opacity", "atelectasis"}


def test_shrunken_lesions_are_smaller_and_then_gone():
    lesions = patterns.covid(np.random.default_rng(0), 0.5)
    for small, large in zip(disease.scale_lesions(lesions, 0.5), lesions, strict=True):
        assert small.radius[0] == pytest.approx(0.5 * large.radius[0])
    assert disease.scale_lesions(lesions, 0.1) == []
