"""Figures: every function takes arrays or films and returns a matplotlib Figure; lessons, report
and widgets draw with these alone.

Colours are from the Okabe-Ito palette, maps are viridis or magma: readable to colour-blind eyes. A
figure made from virtual patients says "synthetic" in its lower right corner.
"""

import io

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data.lung_zones import zones_of_sides

BLUE, ORANGE, GREEN, RED, SKY, YELLOW, PINK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#F0E442",
    "#CC79A7",
)
# rows upper to lower, columns patient's right, left
ZONE_COLOURS = ((BLUE, ORANGE), (SKY, YELLOW), (GREEN, PINK))

plt.rcParams.update(
    {
        "font.size": 12,
        "axes.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 80,
        "savefig.dpi": 80,
        "image.cmap": "gray",
    }
)


def _show_in_notebooks():
    """Let Jupyter show a Figure that no pyplot window owns."""
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    if get_ipython() is not None:
        select_figure_formats(get_ipython(), {"png"})


_show_in_notebooks()


def png(figure):
    """Figure -> PNG bytes, for widgets and reports."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def stamp(figure, text="synthetic"):
    """Say in the corner what the pictures are."""
    # the layout keeps room for it
    figure.supxlabel(text, x=0.995, ha="right", fontsize=10, color="0.4", style="italic")
    return figure


def grid(rows, columns, size=2.6, title=None, **options):
    """Figure and an array (rows, columns) of axes without ticks; `size` inches a panel."""
    figure = Figure(
        figsize=(columns * size, rows * size + (0.4 if title else 0)), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    if title:
        figure.suptitle(title)
    return figure, axes


def show(axis, image, title="", **options):
    """An image without ticks; grey films are shown from 0 to 255."""
    if getattr(image, "dtype", None) == np.uint8:
        options = {"vmin": 0, "vmax": 255, **options}
    shown = axis.imshow(image, **options)
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
    return shown


def outline(axis, mask, colour, label=None):
    """The contour of a bool mask (H, W)."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for i, points in enumerate(contours):
        closed = np.vstack([points[:, 0], points[:1, 0]])
        axis.plot(
            closed[:, 0], closed[:, 1], color=colour, linewidth=1.4, label=label if i == 0 else None
        )


def plot_sheet(images, row_names, column_names, title, synthetic=True):
    """Contact sheet: images (rows, columns, S, S), or a nested list of such, with a name for each
    row and column.
    """
    figure, axes = grid(len(row_names), len(column_names), size=1.9, title=title)
    for i, line in enumerate(images):
        for j, image in enumerate(line):
            show(axes[i, j], image, column_names[j] if i == 0 else "")
        axes[i, 0].set_ylabel(row_names[i])
    return stamp(figure) if synthetic else figure


def plot_film(film, truth=True):
    """A virtual patient: the film, and beside it lungs, lesion and zones (`cohort.Patient`)."""
    figure, axes = grid(1, 3 if truth else 1, size=3.6)
    show(axes[0, 0], film.image, f"{film.patient_id}, {film.view}")
    if truth:
        show(axes[0, 1], film.image, "lungs and lesion (truth)")
        outline(axes[0, 1], film.lungs[0], SKY, "right lung")
        outline(axes[0, 1], film.lungs[1], ORANGE, "left lung")
        outline(axes[0, 1], film.lesion, RED, "lesion")
        axes[0, 1].legend(
            loc="lower center", fontsize=9, ncols=3, bbox_to_anchor=(0.5, -0.12), frameon=False
        )
        show_zones(axes[0, 2], film.image, zones_of_sides(*film.lungs), film.array)
        axes[0, 2].set_title(f"{film.diagnosis}, severity {film.severity} of 6")
    return stamp(figure)


def show_zones(axis, image, zones, array):
    """Film with its six zones (3, 2, H, W); an involved zone is filled and carries a 1."""
    show(axis, image)
    tint = np.zeros((*image.shape, 4))
    for row in range(3):
        for column in range(2):
            zone, colour = zones[row, column], ZONE_COLOURS[row][column]
            outline(axis, zone, colour)
            if not zone.any():
                continue
            y, x = (np.median(a) for a in np.where(zone))
            axis.text(
                x,
                y,
                f"{array[row, column]:.2g}",
                color="white",
                ha="center",
                va="center",
                fontsize=14,
                weight="bold",
            )
            if array[row, column] >= 0.5:
                tint[zone] = (*[int(RED[k : k + 2], 16) / 255 for k in (1, 3, 5)], 0.35)
    axis.imshow(tint)


def plot_series(films, title="Follow-up"):
    """Films of one patient in the order of visits, and severity over time under them."""
    figure = Figure(figsize=(3.0 * len(films), 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1.6))
    axes = top.subplots(1, len(films), squeeze=False)[0]
    for visit, (axis, film) in enumerate(zip(axes, films, strict=True)):
        show(axis, film.image, f"visit {visit + 1}, {film.view}")
        outline(axis, film.lesion, RED)
    axis = bottom.subplots()
    axis.plot(
        range(1, len(films) + 1), [film.severity for film in films], "o-", color=BLUE, markersize=9
    )
    axis.set(
        xlabel="visit",
        ylabel="severity (0-6)",
        ylim=(-0.4, 6.4),
        xticks=range(1, len(films) + 1),
        yticks=range(0, 7, 2),
    )
    top.suptitle(f"{title}: {films[0].patient_id}")
    return stamp(figure)


def plot_bars(names, values, title, unit, colour=BLUE, synthetic=True):
    """Horizontal bars with their values written beside them."""
    figure = Figure(figsize=(7, 0.42 * len(names) + 1.2), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(range(len(names)), values, color=colour)
    axis.bar_label(bars, fmt="%.3g", padding=3)
    axis.set(yticks=range(len(names)), title=title, xlabel=unit)
    axis.set_yticklabels(names)
    axis.invert_yaxis()
    return stamp(figure) if synthetic else figure


def finding_names():
    """The ten findings as one says them."""
    return [name.replace("_", " ") for name in FINDINGS]


def plot_steps(images, names, title, stamped="synthetic"):
    """Grey images (H, W) of 0-255 in a row, the histogram of each under it (share of pixels per 8
    grey levels).
    """
    figure = Figure(figsize=(2.7 * len(images), 4.4), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False, height_ratios=(3, 1))
    for axis, below, image, name in zip(axes[0], axes[1], images, names, strict=True):
        show(axis, image, name, vmin=0, vmax=255)
        counts, edges = np.histogram(image, 32, (0, 256))
        below.bar(edges[:-1], counts / image.size, width=8, align="edge", color=BLUE)
        below.set(xlabel="grey level", xticks=(0, 128, 255))
    highest = max(axis.get_ylim()[1] for axis in axes[1])
    for axis in axes[1]:
        axis.set_ylim(0, highest)
    axes[1, 0].set_ylabel("share of pixels")
    figure.suptitle(title)
    return stamp(figure, stamped)
