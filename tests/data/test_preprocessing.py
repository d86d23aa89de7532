"""Preprocessing against slow oracles, and the claims the specification makes about order and
padding.
"""

import re

import numpy as np
import pytest

from cxrkit.config.choices import OPEN_CHOICES, Choices
from cxrkit.data import preprocessing


@pytest.fixture
def film():
    """A smooth made-up film, uint8 (300, 240)."""
    rng = np.random.default_rng(3)
    waves = sum(
        np.outer(np.sin(np.linspace(0, f, 300) + rng.uniform(0, 6)), np.cos(np.linspace(0, g, 240)))
        for f, g in [(3, 2), (7, 5), (20, 31)]
    )
    return np.uint8(np.clip(110 + 25 * waves + rng.normal(0, 3, (300, 240)), 0, 255))


def slow_equalize(image):
    """Every grey value becomes the share of darker-or-equal pixels, stretched so that the darkest
    present is 0.
    """
    values = sorted(set(image.ravel().tolist()))
    counts = [int((image == v).sum()) for v in values]
    table, seen = {}, 0
    for value, count in zip(values, counts):
        seen += count
        table[value] = round((seen - counts[0]) / (image.size - counts[0]) * 255)
    return np.vectorize(table.get)(image).astype(np.uint8)


def test_equalize_is_the_cumulative_histogram(film):
    assert np.abs(preprocessing.equalize(film).astype(int) - slow_equalize(film)).max() <= 1
    flat = preprocessing.equalize(film)
    assert [
        abs(int(q) - p * 255) <= 8
        for p, q in zip((0.25, 0.5, 0.75), np.quantile(flat, [0.25, 0.5, 0.75]))
    ] == [True] * 3


def slow_limits(image):
    """The limits of the stretch by sorting all pixels, for an image of at most 256 px."""
    values = np.sort(image.ravel().astype(float))
    p1, p99 = (values[int(np.ceil(share * values.size)) - 1] for share in (0.01, 0.99))
    near = values[(values >= p1 - (p99 - p1)) & (values <= p99 + (p99 - p1))]
    return near[0], near[-1], values.size - near.size


def test_the_limits_are_the_extremes_without_outliers(film):
    small = film[:200, :200]
    assert preprocessing.stretch_limits(small) == (small.min(), small.max(), 0)
    for count in (1, 7):
        wild = small.astype(np.uint16) * 16
        wild.ravel()[:count] = 65535
        found = preprocessing.stretch_limits(wild)
        assert found == slow_limits(wild) and found[2] == count
        low, high, outliers = preprocessing.extremes_without_outliers(wild.astype(np.float32))
        assert (low, high, outliers) == found
    assert preprocessing.stretch_limits(np.eye(64, dtype=np.uint8) * 9)[:2] == (0, 9)


def test_the_stretch_saturates_and_reaches_both_ends(film):
    low, high, _ = preprocessing.stretch_limits(film)
    wanted = np.rint(np.clip((film.astype(float) - low) * 255 / (high - low), 0, 255))
    np.testing.assert_array_equal(preprocessing.to_uint8(film), wanted)
    assert low - 1 <= np.percentile(film, 1) and high + 1 >= np.percentile(film, 99)


@pytest.mark.parametrize(
    "stored",
    [
        lambda film: film.astype(np.uint16),
        lambda film: film.astype(np.uint16) * 16,
        lambda film: film.astype(np.uint16) * 257,
        lambda film: film.astype(np.float32) / 255,
        lambda film: film.astype(np.int16) * 7 - 1000,
    ],
    ids=["8 bits in 16", "12 bits", "16 bits", "float", "signed"],
)
def test_the_depth_of_an_image_changes_no_pixel(film, stored):
    wanted = preprocessing.to_uint8(film).astype(int)
    assert np.abs(preprocessing.to_uint8(stored(film)) - wanted).max() <= 1  # rounding of ties
    if stored(film).dtype == np.uint16:
        deep = preprocessing.prepare(stored(film), 96).astype(int)
        assert np.abs(deep - preprocessing.prepare(film, 96)).mean() < 0.01


def test_a_dead_pixel_and_a_bright_letter_change_nothing_else(film):
    deep = film.astype(np.uint16) * 16
    plain = preprocessing.to_uint8(deep)
    dead, letter = deep.copy(), deep.copy()
    dead[100, 100] = 65535
    letter[10:16, 10:20] = 16383
    assert (preprocessing.to_uint8(dead) != plain).sum() <= 1
    away = np.ones(film.shape, bool)
    away[:30, :40] = False
    step = preprocessing.to_uint8(letter)[away].astype(int) - plain[away]
    assert np.abs(step).max() <= 2 and preprocessing.stretch_limits(letter)[2] == 60


@pytest.mark.parametrize("factor", [0.5, 0.7])
def test_brightness_is_stretched_away(film, factor):
    darker = np.uint8(film * factor)
    step = preprocessing.to_uint8(darker).astype(int) - preprocessing.to_uint8(film)
    assert np.abs(step).mean() < 2 / factor


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_the_size_of_the_file_hardly_matters(film, factor):
    import cv2

    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    other = cv2.resize(film, None, fx=factor, fy=factor, interpolation=how)
    a, b = (preprocessing.prepare(image, 64).astype(int) for image in (film, other))
    own = Choices(working_size="own")
    c, d = (preprocessing.prepare(image, 64, own).astype(int) for image in (film, other))
    assert np.abs(a - b).mean() < 2 and np.abs(a - b).mean() <= np.abs(c - d).mean()


def test_drawn_images_keep_the_pixels_that_they_had_before():
    """Twice the input is the size at which the demo draws: neither choice changes what a network
    sees of them, and the keys of what was trained on them may stay.
    """
    from cxrkit.simulation.hospital import Hospital

    before = Choices(stretch="min_max", working_size="own")
    for site in ("alder", "dogwood"):
        image = Hospital(site, n=1, size=256)[0].image
        found = preprocessing.prepare(image, 128)
        np.testing.assert_array_equal(found, preprocessing.prepare(image, 128, before))


def test_min_max_is_the_former_stretch(film):
    deep = film.astype(np.uint16) * 10 + 5000
    wanted = np.rint((film - film.min()) * (255 / (film.max() - film.min()).astype(float)))
    np.testing.assert_array_equal(preprocessing.to_uint8(deep, "min_max"), wanted)
    assert preprocessing.to_uint8(film, "min_max") is film
    np.testing.assert_array_equal(
        preprocessing.equalize(deep), preprocessing.equalize(preprocessing.to_uint8(deep))
    )


def test_blur_is_1_2_1():
    image = np.zeros((5, 5), np.uint8)
    image[2, 2] = 160
    wanted = np.zeros((5, 5))
    wanted[1:4, 1:4] = [[10, 20, 10], [20, 40, 20], [10, 20, 10]]  # 160 / 16 times 1-2-1 by 1-2-1
    np.testing.assert_array_equal(preprocessing.blur(image), wanted)
    edge = np.zeros((5, 5), np.uint8)
    edge[0] = 160
    # mirrored without the edge row: (2 * 160 + 0 + 0) / 4
    assert preprocessing.blur(edge)[:2, 2].tolist() == [80, 40]


def test_resize_plain_is_the_area_average():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    slow = np.rint(image.reshape(4, 2, 4, 2).mean((1, 3)))
    assert np.abs(preprocessing.resize(image, 4) - slow).max() <= 0.5


def test_resize_pad_keeps_the_aspect():
    image = np.full((100, 50), 200, np.uint8)
    padded = preprocessing.resize(image, 64, "pad")
    assert (padded[:, :32] == 200).all() and (padded[:, 32:] == preprocessing.GREY).all()
    wide = preprocessing.resize(image.T, 64, "pad")
    assert (wide[:32] == 200).all() and (wide[32:] == preprocessing.GREY).all()
    noise = np.uint8(np.random.default_rng(0).integers(0, 255, (90, 45)))
    assert (preprocessing.preprocess(noise, 64, Choices.author())[:, 32:] == 0).all()


@pytest.mark.parametrize(
    "how, low, high", [("fixed", -2, 127 / 64), ("imagenet", -0.449 / 0.226, 0.551 / 0.226)]
)
def test_normalize(how, low, high):
    found = preprocessing.normalize(np.array([[0, 255]], np.uint8), how)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[low, high]], rtol=1e-6)


def test_normalize_zscore(film):
    found = preprocessing.normalize(film, "zscore")
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-5)
    assert np.isfinite(preprocessing.normalize(np.full((4, 4), 7, np.uint8), "zscore")).all()


def test_normalising_before_resizing_gives_the_same_to_half_a_grey_level(film):
    """The text's order is equalise, blur, normalise, resize; normalisation is affine, so only uint8
    rounding differs.
    """
    import cv2

    blurred = preprocessing.blur(preprocessing.equalize(film))
    text = cv2.resize(preprocessing.normalize(blurred), (128, 128), interpolation=cv2.INTER_AREA)
    ours = preprocessing.preprocess(film, 128, Choices.text())
    assert np.abs(ours - text).max() * 64 <= 0.501


def test_resizing_first_is_another_image(film):
    a, b = (
        preprocessing.preprocess(film, 64, Choices(order=order))
        for order in OPEN_CHOICES["order"][1]
    )
    assert 1 < np.abs(a - b).max() * 64 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("resize", list(OPEN_CHOICES["resize"][1]))
@pytest.mark.parametrize("order", list(OPEN_CHOICES["order"][1]))
@pytest.mark.parametrize("normalize", list(OPEN_CHOICES["normalize"][1]))
def test_every_choice_gives_a_square_of_floats(film, dtype, resize, order, normalize):
    found = preprocessing.preprocess(
        film.astype(dtype) * dtype(1), 96, Choices(resize=resize, order=order, normalize=normalize)
    )
    assert (
        found.shape == (96, 96)
        and found.dtype == np.float32
        and np.isfinite(found).all()
        and found.std() > 0
    )


def test_default_size_and_an_enlarged_film(film):
    assert preprocessing.preprocess(film).shape == (512, 512)
    assert preprocessing.preprocess(film[:64, :64], 200, Choices(resize="pad")).shape == (200, 200)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros((3, 8, 8), np.uint8), "uint8 (3, 8, 8)"),
        (np.zeros((8, 8)), "float64 (8, 8)"),
        ("film.png", "<class 'str'>"),
    ],
)
def test_wrong_input_says_what_to_do(bad, message):
    with pytest.raises(ValueError, match=re.escape(f"got {message}")):
        preprocessing.preprocess(bad)


def test_unknown_names_list_the_known_ones(film):
    with pytest.raises(ValueError, match=r"unknown resize 'stretch'; known: \['pad', 'plain'\]"):
        preprocessing.resize(film, 64, "stretch")
    with pytest.raises(
        ValueError,
        match=r"unknown normalisation 'max'; known: \['fixed', 'imagenet', 'signed', 'zscore'\]",
    ):
        preprocessing.normalize(film, "max")


@pytest.mark.parametrize("how", list(preprocessing.NORMALIZE))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", ["whole", "every second column"])
def test_normalize_returns_the_array_that_it_wrote(how, dtype, layout):
    image = np.random.default_rng(0).integers(0, 256, (24, 20)).astype(dtype)
    out = np.zeros((24, 40), np.float32)[:, ::2] if layout != "whole" else np.zeros((24, 20), "f4")
    found = preprocessing.normalize(image, how, out=out)
    assert found is out
    np.testing.assert_array_equal(found, preprocessing.normalize(image, how))
    stack = np.zeros((1, 24, 20), np.float32)
    assert preprocessing.normalize(image[None], how, out=stack) is stack
    np.testing.assert_array_equal(stack[0], found)


def test_every_value_of_the_profiles_is_built():
    assert set(preprocessing.RESIZE) == set(OPEN_CHOICES["resize"][1])
    assert set(preprocessing.ORDER) == set(OPEN_CHOICES["order"][1])
    assert set(preprocessing.STRETCH) == set(OPEN_CHOICES["stretch"][1])
    assert set(preprocessing.WORKING_SIZE) == set(OPEN_CHOICES["working_size"][1])
    assert set(preprocessing.NORMALIZE) == {*OPEN_CHOICES["normalize"][1], "signed"}
