"""The style of all figures, the parts that they are built from, and figures of plain images.

Every `plot_*` function of this package takes arrays and returns a matplotlib Figure. Colours are
from the Okabe-Ito palette, maps are viridis or magma: readable with a colour vision deficiency. A
figure made from virtual patients says "synthetic" in its lower right corner. The style holds inside
the functions of this package only; the caller's rcParams, backend and notebook stay as they are.

S px of an image; a zone array (3, 2) has row 0 = upper zone, column 0 = patient's right.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data.lung_zones import zones_of_sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from cxrkit.simulation.hospital import Patient

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
SKY = "#56B4E9"
YELLOW = "#F0E442"
PINK = "#CC79A7"
BLACK = "#222222"
BROWN = "#8C5A2B"

# rows upper to lower, columns patient's right, left
ZONE_COLOURS = ((BLUE, ORANGE), (SKY, YELLOW), (GREEN, PINK))
IN_A_ROW = 4  # images in a row that a page can show large
INVOLVED = 0.5  # a zone from this value on is filled

STYLE = {
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 80,
    "savefig.dpi": 80,
    "image.cmap": "gray",
}


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """The style of the kit's figures inside a `with`, or as a decorator `@figure_style()`.

    The caller's rcParams are as before when it ends.
    """
    # inside another plotting function: entering anew takes half a millisecond for each part
    if all(matplotlib.rcParams[name] == value for name, value in STYLE.items()):
        yield
        return
    with matplotlib.rc_context(STYLE):
        yield


def _in_style(method: Callable) -> Callable:
    """A method of Figure that works in the kit's style."""

    @functools.wraps(method)
    def styled(self: Figure, *args: Any, **options: Any) -> Any:
        with figure_style():
            return method(self, *args, **options)

    return styled


class StyledFigure(Figure):
    """A figure in the kit's style, whenever its parts are made and wherever it is drawn.

    matplotlib makes tick labels only when a figure is drawn, long after a plotting function has
    returned; therefore drawing enters the style as well. No pyplot window owns the figure: a
    notebook shows it through `_repr_png_`, without any setting.
    """

    __init__ = _in_style(Figure.__init__)
    add_axes = _in_style(Figure.add_axes)
    add_subplot = _in_style(Figure.add_subplot)
    colorbar = _in_style(Figure.colorbar)
    legend = _in_style(Figure.legend)
    suptitle = _in_style(Figure.suptitle)
    supxlabel = _in_style(Figure.supxlabel)
    supylabel = _in_style(Figure.supylabel)
    text = _in_style(Figure.text)
    draw = _in_style(Figure.draw)
    savefig = _in_style(Figure.savefig)

    def _repr_png_(self) -> bytes:
        """The picture that IPython shows."""
        return to_png(self)


def to_png(figure: Figure) -> bytes:
    """Figure -> PNG bytes, for widgets, notebooks and reports."""
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def stamp(figure: Figure, text: str = "synthetic") -> Figure:
    """Say in the lower right corner what the images are; returns the same figure."""
    # the layout keeps room for it
    figure.supxlabel(text, x=0.995, ha="right", fontsize=10, color="0.4", style="italic")
    return figure


def grid(
    rows: int, columns: int, size: float = 2.6, title: str | None = None, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Figure and an array of axes (rows, columns).

    Args:
        rows: number of rows.
        columns: number of columns.
        size: inches of a panel.
        title: above all panels.
        **options: for `Figure.subplots`, such as `height_ratios`.
    """
    height = rows * size + (0.4 if title else 0)
    figure = StyledFigure(figsize=(columns * size, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    if title:
        figure.suptitle(title)
    return figure, axes


@figure_style()
def show_image(axis: Axes, image: np.ndarray, title: str = "", **options: Any) -> AxesImage:
    """Show an image without ticks.

    Args:
        axis: where to draw.
        image: (H, W) or (H, W, 3); uint8 images are shown from 0 to 255.
        title: above the image.
        **options: for `Axes.imshow`.
    """
    if getattr(image, "dtype", None) == np.uint8:
        options = {"vmin": 0, "vmax": 255, **options}
    shown = axis.imshow(image, **options)
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
    return shown


@figure_style()
def outline_mask(axis: Axes, mask: np.ndarray, colour: str, label: str | None = None) -> None:
    """Draw the contours of a bool mask (H, W); `label` names them in a legend."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for i, points in enumerate(contours):
        closed = np.vstack([points[:, 0], points[:1, 0]])
        axis.plot(
            closed[:, 0],
            closed[:, 1],
            color=colour,
            linewidth=1.4,
            label=label if i == 0 else None,
        )


@figure_style()
def legend_below(figure: Figure, framed: bool = True, columns: int = 4) -> None:
    """A legend below all panels, with each label once; nothing where no line has a label.

    Args:
        figure: whose axes hold labelled lines.
        framed: on grey, where lines in light colours can be seen.
        columns: of labels; a narrow figure has room for fewer.
    """
    known = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if known:
        figure.legend(
            list(known.values()),
            list(known),
            loc="outside lower left",
            ncols=columns,
            fontsize=10,
            frameon=framed,
            facecolor="0.7",
            framealpha=1,
            edgecolor="0.7",
        )


def colours_on_image(
    name: str, opacity: float | Callable[[np.ndarray], np.ndarray], top: float = 1
) -> ScalarMappable:
    """The colours of a map that lies over an image, for a colour bar.

    An overlay lets the image through; a bar in the colours of the map itself would show colours
    that are nowhere on the image. Here they lie over the middle grey.

    Args:
        name: of the colour map.
        opacity: of the overlay, or a function of the share of the scale (n,) in [0, 1].
        top: upper end of the scale from 0.

    Returns:
        To be given to `Figure.colorbar`.
    """
    share = np.linspace(0, 1, 256)
    alpha = opacity(share) if callable(opacity) else np.full(256, opacity)
    colours = matplotlib.colormaps[name](share)[:, :3]
    mixed = alpha[:, None] * colours + (1 - alpha[:, None]) * 0.5
    return ScalarMappable(Normalize(0, top), ListedColormap(mixed))


@figure_style()
def show_zones(axis: Axes, image: np.ndarray, zones: np.ndarray, array: np.ndarray) -> None:
    """Show an image with its six zones and their values; an involved zone is filled.

    Args:
        axis: where to draw.
        image: (H, W), grey.
        zones: bool (3, 2, H, W).
        array: (3, 2), a value in [0, 1] for each zone.
    """
    show_image(axis, image)
    tint = np.zeros((*image.shape, 4))  # (H, W, 4), red, green, blue, opacity
    red = [int(RED[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    for row, column in np.ndindex(3, 2):
        zone = zones[row, column]
        value = array[row, column]
        outline_mask(axis, zone, ZONE_COLOURS[row][column])
        if not zone.any():
            continue
        y, x = (np.median(index) for index in np.where(zone))
        axis.text(
            x,
            y,
            f"{value:.2g}",
            color="white",
            ha="center",
            va="center",
            fontsize=14,
            weight="bold",
        )
        if value >= INVOLVED:
            tint[zone] = (*red, 0.35)
    axis.imshow(tint)


@figure_style()
def plot_sheet(
    images: Sequence[Sequence[np.ndarray]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    synthetic: bool = True,
) -> Figure:
    """Contact sheet.

    Args:
        images: (rows, columns, S, S), or a nested list of images of different sizes.
        row_names: one a row.
        column_names: one a column.
        title: above the sheet.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    figure, axes = grid(len(row_names), len(column_names), size=3.6, title=title)
    for i, line in enumerate(images):
        for j, image in enumerate(line):
            show_image(axes[i, j], image, column_names[j] if i == 0 else "")
        axes[i, 0].set_ylabel(row_names[i])
    return stamp(figure) if synthetic else figure


@figure_style()
def plot_image(patient: Patient, truth: bool = True) -> Figure:
    """The image of a virtual patient; with `truth`, beside it lungs, lesion and zones."""
    figure, axes = grid(1, 3 if truth else 1, size=4.2)
    show_image(axes[0, 0], patient.image, f"{patient.patient_id}, {patient.view}")
    if truth:
        right, left = patient.lungs
        masks = axes[0, 1]
        show_image(masks, patient.image, "lungs and lesion (truth)")
        outline_mask(masks, right, SKY, "right lung")
        outline_mask(masks, left, ORANGE, "left lung")
        outline_mask(masks, patient.lesion, RED, "lesion")
        masks.legend(
            loc="lower center", fontsize=9, ncols=3, bbox_to_anchor=(0.5, -0.12), frameon=False
        )
        show_zones(axes[0, 2], patient.image, zones_of_sides(right, left), patient.array)
        axes[0, 2].set_title(f"{patient.diagnosis}, severity {patient.severity} of 6")
    return stamp(figure)


@figure_style()
def plot_series(visits: Sequence[Patient], title: str = "Follow-up") -> Figure:
    """Images of one virtual patient in the order of visits, and below them severity over time."""
    numbers = range(1, len(visits) + 1)
    figure = StyledFigure(figsize=(3.8 * len(visits), 6.2), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 1.3))
    top, bottom = halves[:, 0]
    axes = top.subplots(1, len(visits), squeeze=False)[0]
    for number, axis, visit in zip(numbers, axes, visits, strict=True):
        show_image(axis, visit.image, f"visit {number}, {visit.view}")
        outline_mask(axis, visit.lesion, RED)
    axis = bottom.subplots()
    scores = [visit.severity for visit in visits]
    axis.plot(numbers, scores, "o-", color=BLUE, markersize=9)
    axis.set(
        xlabel="visit",
        ylabel="severity (0-6)",
        ylim=(-0.4, 6.4),
        xticks=numbers,
        yticks=range(0, 7, 2),
    )
    top.suptitle(f"{title}: {visits[0].patient_id}")
    return stamp(figure)


def short_number(value: float) -> str:
    """Three digits, or all of those before the point: "0.0123", "12.3", "1,152"."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@figure_style()
def plot_bars(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    unit: str,
    colour: str = BLUE,
    synthetic: bool = True,
) -> Figure:
    """Horizontal bars, one a name, with their values written beside them."""
    figure = StyledFigure(figsize=(7, 0.42 * len(names) + 1.2), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(range(len(names)), values, color=colour)
    axis.bar_label(bars, fmt=short_number, padding=3)
    axis.set(yticks=range(len(names)), title=title, xlabel=unit)
    axis.set_yticklabels(names)
    axis.invert_yaxis()
    return stamp(figure) if synthetic else figure


@figure_style()
def plot_steps(
    images: Sequence[np.ndarray], names: Sequence[str], title: str, stamped: str = "synthetic"
) -> Figure:
    """Images side by side, and below each its histogram: the share of pixels per 8 grey levels.

    Args:
        images: each (H, W), grey from 0 to 255.
        names: one an image.
        title: above all.
        stamped: what the images are, for the corner of the figure.
    """
    rows = -(-len(images) // IN_A_ROW)
    columns = -(-len(images) // rows)
    figure = StyledFigure(figsize=(3.8 * columns, 5.5 * rows + 0.4), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(3, 1) * rows)
    pairs = np.stack([axes[::2].ravel(), axes[1::2].ravel()])  # (image or histogram, place)
    for axis in pairs[:, len(images) :].flat:
        axis.set_axis_off()
    shown, histograms = pairs[:, : len(images)]
    for axis, below, image, name in zip(shown, histograms, images, names, strict=True):
        show_image(axis, image, name, vmin=0, vmax=255)
        counts, edges = np.histogram(image, 32, (0, 256))
        below.bar(edges[:-1], counts / image.size, width=8, align="edge", color=BLUE)
        below.set(xlabel="grey level", xticks=(0, 128, 255))
    highest = max(axis.get_ylim()[1] for axis in histograms)
    for number, axis in enumerate(histograms):
        axis.set_ylim(0, highest)
        if number % columns:  # the scale is that of the first of the row
            axis.tick_params(labelleft=False)
        else:
            axis.set_ylabel("share of pixels")
    figure.suptitle(title)
    return stamp(figure, stamped)


def finding_names() -> list[str]:
    """The ten findings as shown in figures and lists."""
    return [name.replace("_", " ") for name in FINDINGS]
