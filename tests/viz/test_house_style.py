"""The house style of figures: what a reader must be able to see without an explanation."""

import ast
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cxrkit import simulation
from cxrkit.config import paths
from cxrkit.viz import curves, overlays, style

CODE = [
    *sorted((paths.PACKAGE / "viz").glob("*.py")),
    *sorted((paths.PACKAGE.parent / "notebooks" / "src").glob("*.py")),
]
COLOURS = re.compile(
    r"\b(red|blue|green|orange|purple|pink|yellow|white|black|vermillion)\b", re.IGNORECASE
)
S = 64  # px of the films drawn here
FILM = np.full((S, S), 128, np.uint8)
LUNG = np.zeros((S, S), bool)
LUNG[10:50, 8:28] = LUNG[10:50, 36:56] = True
LESION = np.zeros((S, S), bool)
LESION[30:40, 12:20] = True
PATIENT = simulation.Hospital("dogwood", ward="severity")[0]


# colours have names only in legends


def titles_of(tree):
    """Strings that become titles: of `title = ...`, `title=...`, and arguments of plot_*."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and "title" in target.id for target in node.targets
        ):
            yield from strings_in(node.value)
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for keyword in node.keywords:
            if keyword.arg in ("title", "xlabel", "ylabel"):
                yield from strings_in(keyword.value)
        if name.startswith(("plot_", "set_title", "overlay_map", "show_image")):
            for argument in node.args:
                yield from strings_in(argument)


def strings_in(node):
    """Strings of an expression; those that index or are compared are none of its text."""
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


@pytest.mark.parametrize("path", CODE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_title_names_a_colour(path):
    named = [text for text in titles_of(ast.parse(path.read_text())) if COLOURS.search(text)]
    assert named == []


def test_a_title_with_a_colour_would_be_found():
    for text in ("title = f'A (blue: {x})'", "viz.plot_forest(rows, 'A: red is worse', 'unit')"):
        assert any(COLOURS.search(found) for found in titles_of(ast.parse(text)))


def labels_of(figure):
    """Texts of the legends of a figure."""
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def saliency(count=2, rows=1):
    heat = np.random.default_rng(0).random((rows, count, 4, 4))
    names = [str(i) for i in range(rows)], [str(i) for i in range(count)]
    return overlays.plot_saliency(
        np.stack([FILM] * rows), heat, *names, "t", np.stack([LESION] * rows)
    )


def severity():
    heat = np.linspace(0, 1, S * S).reshape(1, S, S)
    lungs, array = LUNG[None], np.ones((1, 3, 2))
    return overlays.plot_severity(
        FILM[None], heat, lungs, array, [3], ["a"], "t", 0.5, LESION[None]
    )


def test_outlines_are_named_in_a_legend():
    assert labels_of(saliency()) == ["true extent"]
    assert labels_of(severity()) == ["contour of the map", "true extent"]


def test_groups_are_named_in_a_legend_unless_the_labels_name_them():
    rows = pd.DataFrame({"label": ["a", "b"], "value": 1, "low": 0, "high": 2})
    assert labels_of(curves.plot_forest(rows, "t", "u")) == []
    grouped = rows.assign(group=["test", "external"])
    assert labels_of(curves.plot_forest(grouped, "t", "u")) == ["test", "external"]
    named = grouped.assign(label=["a: test", "b: external"])
    assert labels_of(curves.plot_forest(named, "t", "u")) == []


# colours


def displayed(figure):
    """The picture of a figure, (H, W, 3) in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def test_a_colour_bar_shows_the_colours_on_the_film():
    """A map of one value over the middle grey: its colour stands in the bar at that value."""
    for value in (0.25, 0.6, 1.0):
        figure, axes = style.grid(1, 1, size=3)
        shown = overlays.overlay_map(axes[0, 0], FILM, np.full((2, 2), value), top=1)
        picture = displayed(figure)
        box = axes[0, 0].get_window_extent()
        row, column = int(picture.shape[0] - (box.y0 + box.y1) / 2), int((box.x0 + box.x1) / 2)
        on_film, on_bar = picture[row, column], np.array(shown.to_rgba(value))[:3]
        assert np.abs(on_film - on_bar).max() < 0.03
        # the colours of the map itself are others: the film shines through
        assert value == 1 or np.abs(on_film - overlays_colour(value)).max() > 0.05


def overlays_colour(value):
    from matplotlib import colormaps

    return np.array(colormaps["magma"](value))[:3]


def test_numbers_of_both_signs_have_a_diverging_map_around_0():
    signed = pd.DataFrame([[-1.0, 0.5], [0.0, 3.0]])
    (drawn,) = curves.plot_matrix({"": signed}, "t", "u").axes[0].images
    assert drawn.get_cmap().name == "PuOr_r" and drawn.get_clim() == (-3, 3)
    assert np.allclose(drawn.to_rgba(0)[:3], 1, atol=0.06), "0 is white"
    (drawn,) = curves.plot_matrix({"": signed.abs()}, "t", "u").axes[0].images
    assert drawn.get_cmap().name == "viridis" and drawn.get_clim() == (0, 3)


def test_a_number_can_be_read_on_its_cell():
    frame = pd.DataFrame([[-3.0, 0.0, 3.0, np.nan]])
    figure = curves.plot_matrix({"": frame}, "t", "u")
    assert [t.get_color() for t in figure.axes[0].texts] == ["white", "black", "white", "black"]


# size


def pixels_of_films(figure):
    """The shorter side of the smallest film of a figure, in px as a notebook shows it."""
    FigureCanvasAgg(figure).draw()
    sides = []
    for axis in figure.axes:
        if axis.images and axis.get_label() != "<colorbar>":
            box = axis.get_window_extent()
            sides.append(min(box.width, box.height))
    return min(sides)


LARGE = 256  # px of a film that a figure must reach
FIGURES = {
    "plot_zone_lines": lambda: overlays.plot_zone_lines(
        FILM, LUNG, LUNG[:, ::-1], LESION, 0.3, 0.6, False, "t"
    ),
    "plot_saliency, one map": lambda: saliency(1),
    "plot_saliency": lambda: saliency(3, 3),
    "plot_severity": severity,
    "plot_attention": lambda: overlays.plot_attention(FILM, np.ones((4, 4, 4)), (1, 1), "t"),
    "plot_methods": lambda: overlays.plot_methods(
        FILM, np.ones((13, 4, 4)), list("abcdefghijklm"), "t"
    ),
    "plot_findings": lambda: overlays.plot_findings(
        FILM, np.ones((10, 4, 4)), list("abcdefghij"), [0.5] * 10, None, "t"
    ),
    "plot_masks": lambda: overlays.plot_masks(
        FILM[None].repeat(3, 0), {k: LUNG[None].repeat(3, 0) for k in "abc"}, list("abc"), "t"
    ),
    "plot_steps": lambda: style.plot_steps([FILM] * 4, list("abcd"), "t"),
    "plot_steps, two rows": lambda: style.plot_steps([FILM] * 6, list("abcdef"), "t"),
    "plot_sheet": lambda: style.plot_sheet([[FILM] * 3] * 3, list("abc"), list("abc"), "t"),
    "plot_image": lambda: style.plot_image(PATIENT),
    "plot_image, alone": lambda: style.plot_image(PATIENT, truth=False),
    "plot_series": lambda: style.plot_series([PATIENT] * 3),
    "plot_markers": lambda: overlays.plot_markers(
        FILM[None].repeat(3, 0), np.eye(3), list("abc"), list("abc"), "t"
    ),
    "plot_styles": lambda: overlays.plot_styles(FILM, FILM[None].repeat(3, 0), list("abc"), "t"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_films_are_large(name):
    assert pixels_of_films(FIGURES[name]()) >= LARGE
