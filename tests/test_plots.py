"""Figures and widgets without a kernel: what they draw, what they say, how they answer."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cxrkit import cohort, plots, severity, widgets

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def visits():
    hospital = cohort.Hospital("alder", ward="severity", size=64)
    return [hospital[i] for i in range(3)]


def texts(figure):
    """All words of a figure."""
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_figures_of_virtual_patients_say_synthetic(visits):
    images = [visit.image for visit in visits]
    figures = [plots.plot_film(visits[0]), plots.plot_film(visits[0], truth=False), plots.plot_series(visits),
               plots.plot_sheet([images], ["row"], ["a", "b", "c"], "sheet"), plots.plot_steps(images, ["a", "b", "c"], "steps"),
               plots.plot_bars(["x"], [1.5], "bars", "unit")]
    for figure in figures:
        assert isinstance(figure, Figure) and "synthetic" in texts(figure) and plots.png(figure).startswith(PNG)
    assert "real films" in texts(plots.plot_steps(images, ["a", "b", "c"], "steps", stamped="real films"))


def test_a_film_shows_its_truth(visits):
    shown = texts(plots.plot_film(visits[0]))
    assert visits[0].patient_id in shown and f"severity {visits[0].severity} of 6" in shown


def test_zones_are_numbered_and_filled_where_involved():
    lungs = np.zeros((2, 48, 40), bool)
    lungs[0, 6:42, 4:16] = lungs[1, 6:42, 24:36] = True
    zones = severity.zones_of_sides(*lungs)
    figure, axes = plots.grid(1, 1)
    plots.show_zones(axes[0, 0], np.zeros((48, 40), np.uint8), zones, np.array([[0, 0], [1, 0], [0, 0]]))
    assert sorted(text.get_text() for text in axes[0, 0].texts) == ["0"] * 5 + ["1"]
    tint = np.asarray(axes[0, 0].images[-1].get_array())
    assert np.array_equal(tint[..., 3] > 0, zones[1, 0])


def test_histograms_count_every_pixel():
    figure = plots.plot_steps([np.full((8, 8), 255, np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8)], ["white", "ramp"], "t")
    white, ramp = (np.array([bar.get_height() for bar in axis.patches]) for axis in figure.axes[2:])
    assert white[-1] == 1 and white.sum() == 1 and np.allclose(ramp[:8], 1 / 8) and np.isclose(ramp.sum(), 1)


def test_a_widget_follows_its_controls_and_remembers():
    calls = []

    def draw(level, name, on):
        calls.append((level, name, on))
        figure, axes = plots.grid(1, 1, size=1)
        axes[0, 0].set_title(f"{level} {name} {on}")
        return figure

    box = widgets.explore(draw, start={"level": 2}, level=(0, 5, 1), name=["a", "b"], on=True)
    first = bytes(box.picture.value)
    assert first.startswith(PNG) and calls == [(2, "a", True)]
    box.controls["name"].value = "b"
    assert bytes(box.picture.value) != first and calls[-1] == (2, "b", True)
    box.controls["name"].value = "a"
    assert bytes(box.picture.value) == first and len(calls) == 2  # kept, not drawn again


def test_a_widget_shows_what_went_wrong_and_recovers():
    def draw(level):
        if level == 1:
            raise ValueError("no <film> 1")
        return plots.grid(1, 1, size=1)[0]

    box = widgets.explore(draw, level=(0, 3, 1))
    kept = bytes(box.picture.value)
    box.controls["level"].value = 1
    assert "ValueError: no &lt;film&gt; 1" in box.message.value and bytes(box.picture.value) == kept
    box.controls["level"].value = 2
    assert box.message.value == ""
