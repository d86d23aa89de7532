"""Lesions against closed forms, and the findings that they cause."""

import dataclasses

import cv2
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
    added, extent = added[::2, ::2], extent[::2, ::2]
    row, column = 63 - 32, 32
    w = np.clip((1 - np.abs(chest.y - 120) / 48.0) / 0.3, 0, 1).sum() * 6.0  # mm
    assert added[row, column] == pytest.approx((104 - 14) / 100 * anatomy.WATER * w, rel=0.02)
    assert w == pytest.approx(2 * 48 * 0.85, rel=0.05)
    peak = np.unravel_index(added.argmax(), added.shape)
    assert np.abs(np.subtract(peak, (row, column))).max() <= 1
    assert np.array_equal(added, extent)


def test_a_voxel_is_never_replaced_twice():
    chest, lesion = lung_box(), planted("nodule", (128, 120, 128), 48.0, (1,))
    solid = dataclasses.replace(lesion, radius=(90.0,) * 3)
    once, _ = disease.add_lesions(chest, [solid])
    twice, _ = disease.add_lesions(chest, [solid, lesion])
    assert np.allclose(once[40:88, 40:88], twice[40:88, 40:88], rtol=1e-5)


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
    whole = np.zeros((chest.size // 2,) * 2, np.float32)
    whole[chest.box] = lost
    whole = cv2.resize(whole, (chest.size, chest.size))
    assert np.allclose(thin - thick, whole, atol=2e-3) and lost.max() > 0.04


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
    assert np.abs(centre - chest.pixel_of([point])[0]).max() < 4  # px of 1.8 mm


@pytest.mark.parametrize("kind", sorted(set(disease.KINDS) - set(disease.FINE_KINDS)))
def test_smooth_kinds_lose_nothing_to_the_coarser_grid(chests, kind, monkeypatch):
    """Computed on every voxel or on a quarter of them, the film gains nearly the same."""
    heart = tuple(anatomy.load_atlas().heart)
    geometry = {  # kind -> centre, radius
        "haze": (disease.HILA["right"], (60.0,) * 3),
        "fluid": ((110.0, 115.0, 0.0), (60.0, 8.0, 1.0)),
        "collapse": (disease.HILA["right"], (45.0, 15.0, 12.0)),
        "viral_glass": ((150.0, 110.0, 176.0), (0.9,) * 3),
        "viral_core": ((150.0, 110.0, 176.0), (1.1,) * 3),
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
    upper = np.zeros((chest.size // 2,) * 2, np.uint8)
    upper[chest.box] = (chest.lobes == 1).any(axis=0)
    upper = cv2.dilate(cv2.resize(upper, (chest.size, chest.size)), np.ones((3, 3), np.uint8)) > 0
    assert extent.any() and not extent[~upper].any()


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
    assert present("viral_glass", "viral_core") == {"opacity", "consolidation"}


def test_shrunken_lesions_are_smaller_and_then_gone():
    lesions = patterns.covid(np.random.default_rng(0), 0.5)
    for small, large in zip(disease.scale_lesions(lesions, 0.5), lesions, strict=True):
        assert small.radius[0] == pytest.approx(0.5 * large.radius[0])
    assert disease.scale_lesions(lesions, 0.1) == []


def test_pneumothorax_darkens_what_lies_outside_the_line(chests):
    """Rays through at least 6 mm of air: darker on 75 % of them, brighter on 2 % (the bar)."""
    chest = chests["PA"]
    for seed in range(4):
        lesions = patterns.pneumothorax(np.random.default_rng(seed))
        added, _ = disease.add_lesions(chest, lesions)
        box, region = disease._region(chest, lesions[1])
        depth = (disease.air(lesions[1], region) * region.lung).sum(axis=0) * chest.step
        outside = np.zeros((chest.size // 2,) * 2, bool)
        rows, columns = (
            slice(b.start + c.start, b.start + c.stop)
            for b, c in zip(chest.box, box[1:], strict=True)
        )
        outside[rows, columns] = depth >= 6.0
        small = cv2.resize(added, outside.shape, interpolation=cv2.INTER_AREA)[outside]
        assert (small < -0.01).mean() >= 0.75 and (small > 0.01).mean() <= 0.02


def test_fluid_rises_along_the_chest_wall(chests):
    """Above the level, fluid lies at the wall and not at the mediastinum: a meniscus."""
    chest = chests["PA"]
    level = patterns.LUNG_BOTTOM + 80.0
    lesion = disease.Lesion("fluid", (level, 115.0, 0.0), (60.0,) * 3, (1, 2, 3), 10.0, 0.5, 0)
    box, region = disease._region(chest, lesion)
    share = disease.fluid(lesion, region) * region.lung
    above = region.lung & (region.z > level + 5) & (region.z < level + 25)
    near, far = above & (region.costal < 6), above & (region.costal > 40)
    assert share[near].mean() > 0.9 and share[far].mean() < 0.02
    assert share[region.lung & (region.z < level - 12)].min() > 0.99


def test_a_collapsed_lobe_raises_its_dome():
    rng = np.random.default_rng(0)
    lesions = [s for _ in range(30) for s in patterns.atelectasis(rng) if s.kind == "collapse"]
    right, left = disease.volume_loss(lesions)
    assert lesions and right > 0 and left > 0
    only_left = [s for s in lesions if s.centre[2] > disease.MIDLINE]
    assert disease.volume_loss(only_left)[0] == 0
    assert disease.volume_loss([planted("plate", (0, 0, 0), 1.0, (1,))]) == (0.0, 0.0)
