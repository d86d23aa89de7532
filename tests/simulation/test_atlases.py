"""The three CTs: what was taken out, what was put around, and what their labels are good for."""

import numpy as np
import pytest
from scipy import ndimage

from cxrkit.simulation import anatomy, atlases
from tests.fakes.chests import unbent

TUMOUR_FREE = 0.25  # line integral of 12 mm of tissue; the tumours had 0.6 to 1.1


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_no_ray_crosses_a_tumour(source):
    """Dense tissue inside the box of each tumour, summed along the ray: the core of one is seen.

    Only voxels that are lung now count, because chest wall and mediastinum lie in the box too; and
    most of the box must be lung.
    """
    atlas = atlases.load_atlas(source)
    total = atlas.attenuation()  # (D, Z, X)
    D, Z, X = total.shape
    z = np.arange(Z)[None, :, None] * atlas.pitch[0]
    y = np.arange(D)[:, None, None] * atlases.SLICE_SPACING
    x = np.arange(X)[None, None, :] * atlas.pitch[1]
    lung = (atlas.labels >= 1) & (atlas.labels <= 5)
    assert len(atlas.tumours) >= 1
    for centre, radius in atlas.tumours:
        axes = zip((z, y, x), centre, radius, strict=True)
        core = sum(((axis - c) / (0.6 * r)) ** 2 for axis, c, r in axes) < 1
        assert (core & lung).sum() > 0.4 * core.sum()
        excess = np.where(core & lung, np.clip(total - 14.0, 0, None), 0).sum(axis=0)
        on_the_ray = excess * atlases.WATER / 100 * atlases.SLICE_SPACING
        assert on_the_ray.max() < 2 * TUMOUR_FREE and np.percentile(on_the_ray, 99) < TUMOUR_FREE


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_healthy_lungs_are_clear_of_haze(source):
    """No lung of a CT is ground glass: else every normal film from it would show COVID-19.

    Units of the atlas, 100 = water: 14 is -860 HU. Haze is the mean within about 20 mm of what is
    no large vessel. Before its lungs were evened, the third CT had medians of 15 and 23 and a
    haze of 26 and 30.
    """
    atlas = atlases.load_atlas(source)
    total = atlas.attenuation()  # (D, Z, X)
    deep = np.repeat(atlas.wall_distance, 2, axis=2)[:, :, : total.shape[2]] > 8.0
    for side in atlases.SIDES:
        inner = np.isin(atlas.labels, side) & deep
        assert 11 <= np.median(total[inner]) <= 16
        grains = np.where(inner, np.minimum(total, 40), 0).astype(np.float32)
        weight = ndimage.gaussian_filter(inner.astype(np.float32), (4, 5, 8))
        haze = ndimage.gaussian_filter(grains, (4, 5, 8)) / np.maximum(weight, 1e-3)
        assert np.percentile(haze[inner], 95) < 23


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_lungs_fill_the_canonical_box(source):
    atlas = atlases.load_atlas(source)
    depth, row, column = np.nonzero((atlas.labels >= 1) & (atlas.labels <= 5))
    own = [row * atlas.pitch[0], depth * atlases.SLICE_SPACING, column * atlas.pitch[1]]
    canonical = atlas.origin + atlas.stretch * np.stack(own, axis=1)
    assert np.allclose(canonical.min(0), atlases.LUNG_BOX[0], atol=1e-6)
    assert np.allclose(canonical.max(0), atlases.LUNG_BOX[1], atol=1e-6)
    back = atlas.to_own(*canonical.T)
    assert np.allclose(np.stack(back, axis=1), np.stack(own, axis=1))


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_the_windpipe_is_air_from_the_neck_to_the_carina(source):
    atlas = atlases.load_atlas(source)
    z, y, x = atlas.trachea.T
    assert len(z) > 15 and (np.diff(z) < 0).all()
    own = atlas.to_own(z, y, x)
    steps = (atlas.pitch[0], atlases.SLICE_SPACING, atlas.pitch[1])
    row, depth, column = (np.round(a / s).astype(int) for a, s in zip(own, steps, strict=True))
    assert np.median(atlas.attenuation()[depth, row, column]) < 30
    assert np.abs(np.diff(x)).max() < 8


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_costal_distance_knows_the_chest_wall_from_mediastinum_and_diaphragm(source):
    """In one axial slice it is the distance to the hull of both lungs, by a slow loop."""
    atlas = atlases.load_atlas(source)
    lung = (atlas.labels[:, :, ::2] >= 1) & (atlas.labels[:, :, ::2] <= 5)
    row = int(np.median(np.nonzero(lung)[1]))
    points = np.argwhere(lung[:, row]).astype(float)
    scale = np.array([atlases.SLICE_SPACING, 2 * atlas.pitch[1]])
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # outward normals
    support = ((points * scale) @ directions.T).max(axis=0)
    sample = points[:: len(points) // 40]
    slow = (support - (sample * scale) @ directions.T).min(axis=1)
    depth, column = sample.astype(int).T
    fast = atlas.costal_distance[depth, row, column]
    assert np.abs(fast - slow).max() < 7.0 and np.abs(fast - slow).mean() < 3.5
    # beside the spine the surface of the lung is near, the chest wall far
    assert (atlas.costal_distance[lung] - atlas.wall_distance[lung]).max() > 30


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_nothing_around_the_scan_is_a_mirror_image(source):
    """Neck and waist continue the body; beyond the flanks there is air."""
    atlas = atlases.load_atlas(source)
    soft = atlas.soft[..., 0].astype(float)
    assert soft[:, :, [0, -1]].max() == 0
    below = round(atlas.margin[0] / atlas.pitch[0])
    D, Z, X = atlas.labels.shape
    side = round(atlas.margin[1] / atlas.pitch[1])
    for rows in (slice(below + Z, None), slice(0, below)):
        outside = soft[:, rows, side : side + X]
        inside = soft[:, below : below + Z, side : side + X]
        n = min(outside.shape[1], 20)
        first = outside[:, :n] if rows.start else outside[:, -n:]
        mirrored = inside[:, -n:][:, ::-1] if rows.start else inside[:, :n][:, ::-1]
        assert not np.array_equal(first, mirrored)
        assert (first > 0).any()


def test_an_atlas_that_is_missing_names_the_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(atlases, "ATLAS_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tools/build_atlas\.py"):
        atlases.load_atlas.__wrapped__("lidc")


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_all_of_the_film_is_known_body_or_air(source):
    """No ray of a film needs a voxel that is not there: the map ends in the body or in air."""
    chest = anatomy.project(unbent(source), "PA", size=128)
    total = chest.integrals.sum(axis=0)
    assert total[:10, :6].max() < 0.6 and total[:10, -6:].max() < 0.6  # beside the neck
    assert total[-1, 54:74].min() > 1.0  # the abdomen goes on below
    assert total[0, 58:70].min() > 0.5  # and the neck above
