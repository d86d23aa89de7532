"""Severity geometry against hand-worked masks and slow loops."""

import time

import numpy as np
import pytest
import torch

from cxrkit.config.choices import Choices
from cxrkit.data import lung_zones


def two_lungs(H=48, W=40, right=(12, 36), left=(6, 30)):
    """Two rectangles: the patient's right lung at image left, rows [top, bottom)."""
    mask = np.zeros((H, W), bool)
    mask[right[0] : right[1], 4:16] = True
    mask[left[0] : left[1], 22:36] = True
    return mask


def slow_zones(right, left, top, height):
    """Pixel by pixel: f = (r + 0.5 - top) / height; zone 0 if f < 5/12, 1 if f < 2/3, else 2."""
    out = np.zeros((3, 2, *right.shape), bool)
    for column, lung in enumerate((right, left)):
        for r, c in np.argwhere(lung):
            f = (r + 0.5 - top) / height
            out[0 if f < 5 / 12 else 1 if f < 2 / 3 else 2, column, r, c] = True
    return out


def test_zones_by_hand():
    mask = two_lungs()
    right, left = lung_zones.sides(mask)
    assert (
        right[:, :20].sum() == right.sum() == 24 * 12
        and left[:, 20:].sum() == left.sum() == 24 * 14
    )
    zones = lung_zones.zones(mask[None])[0]
    assert np.array_equal(zones, slow_zones(right, left, top=6, height=30))  # joint: rows 6 to 35
    # the lines: f < 5/12 <=> r < 6 + 12.5 - 0.5 = 18; f < 2/3 <=> r < 6 + 20 - 0.5 = 25.5
    assert np.where(zones[0, 0].any(1))[0].tolist() == list(range(12, 18))
    assert np.where(zones[1, 0].any(1))[0].tolist() == list(range(18, 26))
    assert np.where(zones[2, 0].any(1))[0].tolist() == list(range(26, 36))
    # every lung pixel in exactly one zone
    assert np.array_equal(zones.sum((0, 1)), mask.astype(int))


@pytest.mark.parametrize(
    "choices, top, heights",
    [
        (Choices(zone_height="own"), (12, 6), (24, 24)),
        (Choices(zone_height="image"), (0, 0), (48, 48)),
        (Choices(zone_origin="row0"), (0, 0), (30, 30)),
        (Choices(zone_height="own", zone_origin="row0"), (0, 0), (24, 24)),
    ],
)
def test_other_readings_of_the_lines(choices, top, heights):
    mask = two_lungs()
    right, left = lung_zones.sides(mask)
    zones = lung_zones.zones(mask[None], choices)[0]
    for column in range(2):
        assert np.array_equal(
            zones[:, column], slow_zones(right, left, top[column], heights[column])[:, column]
        )


def test_patient_left_swaps_the_columns():
    mask = two_lungs()[None]
    assert np.array_equal(
        lung_zones.zones(mask, Choices(array_columns="patient_left")),
        lung_zones.zones(mask)[:, :, ::-1],
    )


def test_sides_ignore_debris_and_take_the_two_largest():
    mask = two_lungs()
    mask[0, 0] = mask[47, 39] = True
    right, left = lung_zones.sides(mask)
    assert not right[0, 0] and not left[47, 39] and right.sum() == 288 and left.sum() == 336


def test_fused_lungs_are_cut_where_they_are_thinnest():
    mask = two_lungs()
    mask[20:22, 16:22] = True  # a bridge two rows high between columns 16 and 21
    right, left = lung_zones.sides(mask)
    assert not (right & left).any() and (right | left)[:, [*range(16), *range(22, 40)]].sum() == 624
    assert (
        right[:, 4:16].all(axis=0).sum() == 0
        and right[12:36, 4:16].all()
        and left[6:30, 22:36].all()
    )
    # a free column between them
    assert np.argwhere(right)[:, 1].max() + 1 < np.argwhere(left)[:, 1].min()


@pytest.mark.parametrize("columns, side", [(slice(4, 16), 0), (slice(24, 36), 1)])
def test_one_lung_stands_on_its_side(columns, side):
    mask = np.zeros((48, 40), bool)
    mask[10:30, columns] = True
    found = lung_zones.sides(mask)
    assert np.array_equal(found[side], mask) and not found[1 - side].any()
    zones = lung_zones.zones(mask[None])[0]
    assert not zones[:, 1 - side].any() and zones[:, side].sum() == mask.sum()


def test_no_lung_gives_no_zone():
    assert not lung_zones.zones(np.zeros((2, 16, 16), bool)).any()


def test_midline_reading():
    mask = two_lungs()
    right, left = lung_zones.sides(mask, Choices(lung_sides="midline"))
    assert np.array_equal(right, mask & (np.arange(40) < 20)) and np.array_equal(
        left, mask & (np.arange(40) >= 20)
    )


def test_masks_with_ignore_are_refused():
    mask = two_lungs().astype(np.uint8) * 255
    mask[0, 0] = 127
    with pytest.raises(ValueError, match="127"):
        lung_zones.zones(mask[None])
    with pytest.raises(ValueError, match=r"\(B, H, W\)"):
        lung_zones.zones(two_lungs())


def test_zones_of_tensors_and_of_255_masks():
    mask = two_lungs()
    out = lung_zones.zones(torch.from_numpy(mask[None]))
    assert out.dtype == torch.bool and np.array_equal(out.numpy(), lung_zones.zones(mask[None]))
    assert np.array_equal(lung_zones.zones(mask[None].astype(np.uint8) * 255), out.numpy())


@pytest.mark.parametrize("how", ["max", "average"])
def test_roi_pool_against_a_slow_loop(how):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 1, 48, 40, generator=generator)
    masks = np.stack([two_lungs(), two_lungs(right=(0, 0))])  # the second has no right lung
    pooled = lung_zones.roi_pool(maps, torch.from_numpy(masks), how)
    zones = lung_zones.zones(masks)
    for b in range(2):
        for row in range(3):
            for column in range(2):
                values = maps[b, 0].numpy()[zones[b, row, column]]
                want = 0.0 if values.size == 0 else values.max() if how == "max" else values.mean()
                assert pooled[b, row, column].item() == pytest.approx(want, abs=1e-6)
    assert (pooled[1, :, 0] == 0).all()


def test_the_highest_tenth_of_a_zone_against_sorting_by_hand():
    """Mean of the highest tenth, rounded up; these pixels alone learn, each by the same share."""
    tenth = Choices(zone_maximum="tenth")
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(2, 1, 48, 40, generator=generator).requires_grad_()
    masks = np.stack([two_lungs(), two_lungs(right=(0, 0))])
    pooled = lung_zones.roi_pool(maps, torch.from_numpy(masks), "max", tenth)
    pooled.sum().backward()
    for b, three in enumerate(lung_zones.zones(masks)):
        for row, column in np.ndindex(3, 2):
            zone = three[row, column]
            values = np.sort(maps.detach()[b, 0].numpy()[zone])[::-1]
            most = -(-len(values) // 10)
            want = values[:most].mean() if most else 0.0
            assert pooled[b, row, column].item() == pytest.approx(want, abs=1e-6)
            learns = maps.grad[b, 0].numpy()[zone]
            assert (learns > 0).sum() == most and learns.sum() == pytest.approx(min(most, 1))
    assert torch.isfinite(maps.grad).all()
    average = lung_zones.roi_pool(maps, torch.from_numpy(masks), "average", tenth)
    torch.testing.assert_close(
        average, lung_zones.roi_pool(maps, torch.from_numpy(masks), "average")
    )


def test_roi_pool_passes_gradient_to_the_largest_pixel_only():
    maps = torch.rand(1, 1, 48, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mask = torch.from_numpy(two_lungs()[None])
    lung_zones.roi_pool(maps, mask).sum().backward()
    zones = lung_zones.zones(mask)[0]
    for zone in zones.reshape(6, 48, 40):
        gradient = maps.grad[0, 0][zone]
        assert gradient.sum().item() == 1 and (gradient != 0).sum() == 1
        assert gradient.argmax() == maps.detach()[0, 0][zone].argmax()
    assert maps.grad[0, 0][~mask[0]].abs().sum() == 0


def test_roi_pool_is_finite_where_a_zone_is_absent():
    maps = torch.rand(1, 1, 16, 16).requires_grad_()
    for how in lung_zones.POOLS:
        pooled = lung_zones.roi_pool(maps, torch.zeros(1, 16, 16, dtype=torch.bool), how)
        assert torch.equal(pooled, torch.zeros(1, 3, 2))
        pooled.sum().backward()
        assert torch.isfinite(maps.grad).all()
    with pytest.raises(ValueError, match="known"):
        lung_zones.roi_pool(maps, torch.zeros(1, 16, 16, dtype=torch.bool), "median")
    with pytest.raises(ValueError, match="nearest"):
        lung_zones.roi_pool(maps, torch.zeros(1, 8, 8, dtype=torch.bool))


def test_brixia_zones_run_down_each_lung():
    scores = np.array([0, 1, 2, 3, 0, np.nan])  # A B C right, D E F left
    assert np.array_equal(
        lung_zones.brixia_to_array(scores), [[0, 1], [1, 0], [1, np.nan]], equal_nan=True
    )
    assert np.array_equal(
        lung_zones.brixia_to_array(scores, threshold=2),
        [[0, 1], [0, 0], [1, np.nan]],
        equal_nan=True,
    )
    assert torch.equal(
        lung_zones.brixia_to_array(torch.tensor([0, 1, 2, 3, 0, 1])),
        torch.tensor([[0.0, 1], [1, 0], [1, 1]]),
    )
    with pytest.raises(ValueError, match="A-F"):
        lung_zones.brixia_to_array(np.zeros(5))


def test_scores():
    array = torch.tensor([[0.2, 0.6], [0.5, 0.4], [1.0, 0.0]])
    assert lung_zones.severity_score(array).item() == pytest.approx(2.7)
    assert lung_zones.severity_score(array, "hard").item() == 3
    with pytest.raises(ValueError, match="known"):
        lung_zones.severity_score(array, "mean")


def test_coverage_by_hand():
    zones = np.zeros((3, 2, 10, 10), bool)
    zones[0, 0, :2] = True  # 20 pixels
    lesion = np.zeros((10, 10), bool)
    lesion[1, :5] = True
    assert lung_zones.coverage(lesion, zones).tolist() == [[0.25, 0], [0, 0], [0, 0]]


def test_areas_are_the_coverage_of_each_film():
    mask = np.stack([two_lungs(), two_lungs(right=(0, 0))])
    involved = np.zeros_like(mask)
    # all of the upper left zone; of the right lung rows 12 to 17, its whole upper zone
    involved[:, :18] = True
    shares = lung_zones.areas(involved, mask)
    assert shares[0].tolist() == [[1, 1], [0, 0], [0, 0]] and shares[1, :, 0].tolist() == [0, 0, 0]
    zones = lung_zones.zones(mask)
    for b in range(2):
        assert np.array_equal(shares[b], lung_zones.coverage(involved[b], zones[b]))


def test_contours_run_around_what_exceeds_the_threshold_inside_the_lungs():
    severity_map = np.zeros((48, 40))
    severity_map[14:20, 6:12] = 0.7
    severity_map[16:18, 8:10] = 0.2  # a hole
    severity_map[0:4, 0:4] = 0.9  # outside the lungs
    found = lung_zones.contours(severity_map, two_lungs(), 0.5)
    outer, hole = sorted(found, key=len, reverse=True)
    assert (
        (outer[0] == outer[-1]).all()
        and (outer.min(0) == (6, 14)).all()
        and (outer.max(0) == (11, 19)).all()
    )
    assert len(outer) == 4 * 5 + 1  # every pixel of the rim once, and the first again
    assert (hole.min(0) >= (7, 15)).all() and (hole.max(0) <= (10, 18)).all()
    assert lung_zones.contours(severity_map, two_lungs(), 0.8) == []
    assert len(lung_zones.contours(severity_map, two_lungs(), 0.1)) == 1  # the hole is filled


def test_zones_are_fast_enough_for_a_batch():
    """256 masks of 256x256 in a second is what lessons rely on; ten times that is a sign of a loop
    over pixels.
    """
    masks = np.repeat(np.kron(two_lungs(), np.ones((5, 6), bool))[None, :240, :240], 256, axis=0)
    start = time.perf_counter()
    lung_zones.zones(masks)
    assert time.perf_counter() - start < 10
