"""Figures and widgets without a kernel: what they draw, what they say, how they answer."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cxrkit.data import lung_zones
from cxrkit.simulation import hospital as hospital_module
from cxrkit.viz import curves, overlays, sliders, style

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def visits():
    hospital = hospital_module.Hospital("alder", ward="severity", size=64)
    return [hospital[i] for i in range(3)]


def texts(figure):
    """All text of a figure."""
    return " ".join(
        text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    )


def test_figures_of_virtual_patients_say_synthetic(visits):
    images = [visit.image for visit in visits]
    figures = [
        style.plot_image(visits[0]),
        style.plot_image(visits[0], truth=False),
        style.plot_series(visits),
        style.plot_sheet([images], ["row"], ["a", "b", "c"], "sheet"),
        style.plot_steps(images, ["a", "b", "c"], "steps"),
        style.plot_bars(["x"], [1.5], "bars", "unit"),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        assert "synthetic" in texts(figure)
        assert style.to_png(figure).startswith(PNG)
    assert "real films" in texts(
        style.plot_steps(images, ["a", "b", "c"], "steps", stamped="real films")
    )


def test_a_patient_is_shown_with_the_truth(visits):
    shown = texts(style.plot_image(visits[0]))
    assert visits[0].patient_id in shown
    assert f"severity {visits[0].severity} of 6" in shown


def test_zones_are_numbered_and_filled_where_involved():
    lungs = np.zeros((2, 48, 40), bool)
    lungs[0, 6:42, 4:16] = lungs[1, 6:42, 24:36] = True
    zones = lung_zones.zones_of_sides(*lungs)
    figure, axes = style.grid(1, 1)
    style.show_zones(
        axes[0, 0], np.zeros((48, 40), np.uint8), zones, np.array([[0, 0], [1, 0], [0, 0]])
    )
    assert sorted(text.get_text() for text in axes[0, 0].texts) == ["0"] * 5 + ["1"]
    tint = np.asarray(axes[0, 0].images[-1].get_array())
    assert np.array_equal(tint[..., 3] > 0, zones[1, 0])


def test_finding_maps_share_one_scale_and_outline_what_is_present():
    heat = np.zeros((3, 4, 4))
    heat[1, 2, 1], heat[2] = 0.25, 1.0
    present = np.zeros((3, 32, 32), bool)
    present[1, 16:24, 8:16] = True
    figure = overlays.plot_findings(
        np.zeros((32, 32), np.uint8),
        heat,
        ["no finding", "edema", "opacity"],
        [0.1, 0.25, 0.9],
        present,
        "t",
    )
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [
        "no finding: 0.10",
        "edema: 0.25",
        "opacity: 0.90",
    ]
    assert [axis.title.get_weight() == "bold" for axis in panels] == [False, True, False]
    shown = [np.asarray(axis.images[-1].get_array()) for axis in panels]
    # not stretched to its own maximum
    assert shown[0].max() == 0
    assert np.allclose(shown[2], 1)
    assert 0.1 < shown[1].max() <= 0.25
    row, column = np.unravel_index(shown[1].argmax(), (32, 32))
    assert row in range(16, 24)
    assert column in range(8, 16)
    outlines = [line for axis in panels for line in axis.lines]
    assert len(outlines) == 1
    assert np.ptp(outlines[0].get_xdata()) == 7
    assert outlines[0].axes is panels[1]
    unknown = overlays.plot_findings(
        np.zeros((32, 32), np.uint8), heat, "abc", [0] * 3, None, "t", "real films"
    )
    assert "synthetic" in texts(figure)
    assert "real films" in texts(unknown)
    assert not any(axis.lines for axis in unknown.axes)


def test_a_training_without_validation_has_one_curve():
    figure = curves.plot_history(
        {"backbone": [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]}, "t"
    )
    assert [axis.get_ylabel() for axis in figure.axes] == ["training loss"]
    assert figure.axes[0].get_ylim()[0] == 0


def test_histograms_count_every_pixel():
    figure = style.plot_steps(
        [np.full((8, 8), 255, np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8)],
        ["white", "ramp"],
        "t",
    )
    white, ramp = (np.array([bar.get_height() for bar in axis.patches]) for axis in figure.axes[2:])
    assert white[-1] == 1
    assert white.sum() == 1
    assert np.allclose(ramp[:8], 1 / 8)
    assert np.isclose(ramp.sum(), 1)


def test_a_widget_follows_its_controls_and_remembers():
    calls = []

    def draw(level, name, on):
        calls.append((level, name, on))
        figure, axes = style.grid(1, 1, size=1)
        axes[0, 0].set_title(f"{level} {name} {on}")
        return figure

    box = sliders.explore(draw, start={"level": 2}, level=(0, 5, 1), name=["a", "b"], on=True)
    first = bytes(box.picture.value)
    assert first.startswith(PNG)
    assert calls == [(2, "a", True)]
    box.controls["name"].value = "b"
    assert bytes(box.picture.value) != first
    assert calls[-1] == (2, "b", True)
    box.controls["name"].value = "a"
    assert bytes(box.picture.value) == first
    assert len(calls) == 2  # kept, not drawn again


def test_a_widget_shows_what_went_wrong_and_recovers():
    def draw(level):
        if level == 1:
            raise ValueError("no <film> 1")
        return style.grid(1, 1, size=1)[0]

    box = sliders.explore(draw, level=(0, 3, 1))
    kept = bytes(box.picture.value)
    box.controls["level"].value = 1
    assert "ValueError: no &lt;film&gt; 1" in box.message.value
    assert bytes(box.picture.value) == kept
    box.controls["level"].value = 2
    assert box.message.value == ""


def test_values_beside_bars_have_no_exponent():
    values = [0.01234, 12.34, 1152.4, 0.0]
    figure = style.plot_bars(list("abcd"), values, "bars", "unit")
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["0.0123", "12.3", "1,152", "0"]
