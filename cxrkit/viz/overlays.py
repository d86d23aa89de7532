"""Figures of maps and masks over images: saliency, attention, severity, zones, masks, styles.

n images, m maps of each, S px of an image, h w the cells of a map, H W px of a severity map,
N heads, K findings or classes, M markers. See `style` for what all figures share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from cxrkit.config.choices import Choices
from cxrkit.data import lung_zones
from cxrkit.explain.measures import map_size
from cxrkit.explain.methods import upsample
from cxrkit.viz.style import (
    BLUE,
    GREEN,
    RED,
    SKY,
    YELLOW,
    StyledFigure,
    colours_on_image,
    figure_style,
    grid,
    legend_below,
    outline_mask,
    show_image,
    show_zones,
    stamp,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

SIDE = 3.8  # inches of a panel, so that a film has at least 256 px beside titles and colour bar
IN_ROW = 4  # panels of one film
COVER = 0.6  # opacity of a map over its film
TINY = 1e-12  # keeps a map of zeros from being divided by zero
SQUARE = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)])  # x, y of the corners of one cell
MASK_COLOURS = (SKY, RED, YELLOW, GREEN)
TRUE = "true extent"  # of a lesion, in legends
COVERED = 0.01  # share of a zone from which a lesion counts as in it


def _first(i: int, text: str) -> str:
    """A title for the first row of panels only."""
    return text if i == 0 else ""


def _image_panels(
    count: int, title: str, columns: int = IN_ROW, size: float = SIDE
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows of `columns`; those that are left over are taken away."""
    columns = min(count, columns)
    figure, axes = grid(-(-count // columns), columns, size=size, title=title)
    panels = list(axes.ravel())
    for axis in panels[count:]:
        axis.remove()
    return figure, panels[:count]


def _opacity(share: np.ndarray) -> np.ndarray:
    """How much a map covers its image: more where it is strong."""
    return 0.15 + 0.6 * share


@figure_style()
def overlay_map(
    axis: Axes,
    image: np.ndarray,
    heat: np.ndarray,
    title: str = "",
    lesion: np.ndarray | None = None,
    top: float | None = None,
) -> ScalarMappable:
    """Show the positive part of a map over its image, with a white contour at half of `top`.

    Args:
        axis: where to draw.
        image: (S, S), grey.
        heat: (h, w), enlarged bilinearly.
        title: above the image.
        lesion: bool (S, S), outlined in blue, and named for a legend.
        top: upper end of the scale from 0, by default the maximum of the map.

    Returns:
        The colours as they are seen, for a colour bar.
    """
    show_image(axis, image, title)
    cells = torch.as_tensor(np.ascontiguousarray(heat)).clamp(min=0).float()
    large = upsample(cells, image.shape).numpy()  # (S, S)
    top = top or max(float(large.max()), TINY)
    share = np.clip(large / top, 0, 1)
    axis.imshow(share, cmap="magma", vmin=0, vmax=1, alpha=_opacity(share))
    if share.min() < 0.5 < share.max():
        axis.contour(share, levels=[0.5], colors="white", linewidths=1.2)
    if lesion is not None:
        outline_mask(axis, lesion, SKY, TRUE)
    return colours_on_image("magma", _opacity)


@figure_style()
def plot_saliency(
    images: np.ndarray,
    maps: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    lesions: np.ndarray | None = None,
    stamped: str = "synthetic",
    shared: bool = False,
    sizes: bool = False,
    quantity: str = "relevance",
) -> Figure:
    """Images, a row each, followed by their saliency maps.

    Args:
        images: uint8 (n, S, S).
        maps: (n, m, h, w).
        row_names: n names.
        column_names: m names.
        title: above all.
        lesions: bool (n, S, S), outlined in blue.
        stamped: what the images are, for the corner of the figure.
        shared: one scale for all maps of an image, so that maps of less relevance look weaker;
            else each map is scaled to its own maximum.
        sizes: write below each map its size, the sum of its positive part, as a share of the
            largest of the image: for maps of one method, such as those of several classes.
        quantity: what shared maps hold, for the colour bar.
    """
    maps = np.asarray(maps)
    count = maps.shape[1]
    figure, axes = grid(len(images), count + 1, size=SIDE if count > 1 else 3.95, title=title)
    for i, (image, row) in enumerate(zip(images, maps, strict=True)):
        lesion = None if lesions is None else lesions[i]
        top = max(float(row.max()), TINY) if shared else None
        size = map_size(torch.from_numpy(row))
        shares = size / max(float(size.max()), TINY)
        show_image(axes[i, 0], image, _first(i, "film"))
        axes[i, 0].set_ylabel(row_names[i])
        if lesion is not None:
            outline_mask(axes[i, 0], lesion, SKY, TRUE)
        for j, heat in enumerate(row):
            name = _first(i, column_names[j])
            shown = overlay_map(axes[i, j + 1], image, heat, name, lesion, top)
            if sizes:
                axes[i, j + 1].set_xlabel(f"size {shares[j]:.2g}")
    label = f"{quantity} (0 to the film's maximum)" if shared else "0 to the map's maximum"
    figure.colorbar(shown, ax=axes[:, -1], shrink=0.8, label=label)
    legend_below(figure)
    return stamp(figure, stamped)


@figure_style()
def plot_methods(
    image: np.ndarray,
    maps: np.ndarray,
    names: Sequence[str],
    title: str,
    lesion: np.ndarray | None = None,
    stamped: str = "synthetic",
) -> Figure:
    """One image and its maps by several methods, each map scaled to its own maximum.

    Args:
        image: uint8 (S, S).
        maps: (m, h, w).
        names: m names.
        title: above all.
        lesion: bool (S, S), outlined in blue.
        stamped: what the images are, for the corner of the figure.
    """
    figure, (plain, *panels) = _image_panels(len(names) + 1, title)
    show_image(plain, image, "film")
    if lesion is not None:
        outline_mask(plain, lesion, SKY, TRUE)
    for axis, heat, name in zip(panels, np.asarray(maps), names, strict=True):
        shown = overlay_map(axis, image, heat, name, lesion)
    figure.colorbar(shown, ax=[plain, *panels], shrink=0.5, label="0 to the map's maximum")
    legend_below(figure)
    return stamp(figure, stamped)


@figure_style()
def plot_attention(
    image: np.ndarray,
    attention: np.ndarray,
    cell: tuple[int, int] | None,
    title: str,
    stamped: str = "synthetic",
) -> Figure:
    """Where one token attends to: a map for each head and their mean, on one scale.

    Values are multiples of an even share, one over the number of tokens: where all are about 1,
    the head attends to all tokens alike.

    Args:
        image: uint8 (S, S).
        attention: (N, h, w), the token's row of each head without the class token.
        cell: (row, column) of the token in the grid, framed in white; None for the class token.
        title: above all.
        stamped: what the images are, for the corner of the figure.
    """
    attention = np.asarray(attention, float)
    attention = attention * (1 + attention[0].size)
    heads = [*attention, attention.mean(0)]
    side = image.shape[0] / attention.shape[1]
    edge = image.shape[0] - 0.5
    figure, panels = _image_panels(len(heads) + 1, title, columns=3)
    first, *others = panels
    show_image(first, image, "the class token looks" if cell is None else "the framed cell looks")
    for i, (axis, head) in enumerate(zip(others, heads, strict=True)):
        show_image(axis, image, f"head {i + 1}" if i < len(attention) else "mean")
        axis.imshow(
            head,
            cmap="viridis",
            vmin=0,
            vmax=attention.max(),
            alpha=COVER,
            extent=(-0.5, edge, edge, -0.5),
        )
    if cell is not None:
        row, column = cell
        x, y = ((SQUARE + (column, row)) * side - 0.5).T
        for axis in panels:
            axis.plot(x, y, color="white", linewidth=2.2)
    shown = colours_on_image("viridis", COVER, attention.max())
    figure.colorbar(shown, ax=panels, shrink=0.7, label="times an even share")
    return stamp(figure, stamped)


@figure_style()
def plot_findings(
    image: np.ndarray,
    maps: np.ndarray,
    names: Sequence[str],
    probabilities: Sequence[float],
    truth: np.ndarray | None,
    title: str,
    stamped: str = "synthetic",
) -> Figure:
    """The map of each finding over one image, on one scale from 0 to 1.

    Args:
        image: uint8 (S, S).
        maps: (K, h, w) in [0, 1].
        names: K names.
        probabilities: (K,) of the image.
        truth: bool (K, S, S), where each finding is, outlined in blue; None where unknown. The
            name of a finding that is present is blue.
        title: above all.
        stamped: what the images are, for the corner of the figure.
    """
    figure, panels = _image_panels(len(names), title)
    for k, (axis, name) in enumerate(zip(panels, names, strict=True)):
        mask = None if truth is None else truth[k]
        shown = overlay_map(axis, image, maps[k], f"{name}: {probabilities[k]:.2f}", mask, top=1)
        if mask is not None and mask.any():
            axis.set_title(axis.get_title(), color=BLUE, weight="bold")
    figure.colorbar(
        shown,
        ax=panels,
        shrink=0.8,
        label="probability of the finding in a cell (0 to 1)",
    )
    legend_below(figure)
    return stamp(figure, stamped)


@figure_style()
def plot_masks(
    images: np.ndarray,
    masks: Mapping[str, np.ndarray],
    row_names: Sequence[str],
    title: str,
    stamped: str = "synthetic",
) -> Figure:
    """Images with outlined masks; the image alone on the left.

    Args:
        images: uint8 (n, S, S).
        masks: name -> bool (n, S, S), the truth first.
        row_names: n names.
        title: above all.
        stamped: what the images are, for the corner of the figure.
    """
    figure, axes = grid(len(images), len(masks) + 1, size=SIDE, title=title)
    for i, image in enumerate(images):
        show_image(axes[i, 0], image, _first(i, "film"))
        axes[i, 0].set_ylabel(row_names[i])
        for j, (name, stack) in enumerate(masks.items()):
            show_image(axes[i, j + 1], image, _first(i, name))
            outline_mask(axes[i, j + 1], stack[i], MASK_COLOURS[j % len(MASK_COLOURS)])
    return stamp(figure, stamped)


@figure_style()
def plot_styles(
    image: np.ndarray,
    translated: np.ndarray,
    names: Sequence[str],
    title: str,
    mask: np.ndarray | None = None,
    stamped: str = "synthetic",
) -> Figure:
    """An image translated to several styles, and below each the change of grey, on one scale.

    Args:
        image: (S, S) in [-1, 1].
        translated: (n, S, S) in [-1, 1].
        names: n names of the styles.
        title: above all.
        mask: bool (S, S), outlined on the changes.
        stamped: what the images are, for the corner of the figure.
    """
    figure, axes = grid(2, len(translated) + 1, size=SIDE, title=title)
    change = np.asarray(translated) - image  # (n, S, S)
    top = max(float(np.abs(change).max()), 1e-6)
    show_image(axes[0, 0], image, "film", vmin=-1, vmax=1)
    axes[1, 0].axis("off")
    for j, (one, name) in enumerate(zip(translated, names, strict=True)):
        above, below = axes[:, j + 1]
        show_image(above, one, name, vmin=-1, vmax=1)
        # orange became brighter, purple darker
        shown = show_image(
            below, change[j], _first(j, "change"), cmap="PuOr_r", vmin=-top, vmax=top
        )
        if mask is not None:
            outline_mask(below, mask, "0.2")
    figure.colorbar(shown, ax=axes[1, :], fraction=0.03, label="change of grey")
    return stamp(figure, stamped)


@figure_style()
def plot_severity(
    images: np.ndarray,
    maps: np.ndarray,
    lungs: np.ndarray,
    arrays: np.ndarray,
    truths: Sequence[float],
    row_names: Sequence[str],
    title: str,
    threshold: float = 0.5,
    lesions: np.ndarray | None = None,
    stamped: str = "synthetic",
) -> Figure:
    """Image, severity map, contours, and zones with their values: Figures 6 and 7 of the paper.

    Args:
        images: uint8 (n, S, S), a row each.
        maps: severity maps (n, H, W) in [0, 1].
        lungs: lung masks, bool (n, S, S).
        arrays: (n, 3, 2) in [0, 1].
        truths: (n,) true scores, 0-6.
        row_names: n names.
        title: above all.
        threshold: of the contours.
        lesions: true extent, bool (n, S, S), outlined in blue.
        stamped: what the images are, for the corner of the figure.
    """
    figure, axes = grid(len(images), 4, size=SIDE, title=title)
    for i, (image, lung, array) in enumerate(zip(images, lungs, arrays, strict=True)):
        plain, heat, contour, zone = axes[i]
        large = cv2.resize(maps[i], image.shape[::-1], interpolation=cv2.INTER_LINEAR)  # (S, S)
        large = large * lung
        show_image(plain, image, _first(i, "film"))
        plain.set_ylabel(row_names[i])
        show_image(heat, image, _first(i, "severity map"))
        heat.imshow(large, cmap="magma", vmin=0, vmax=1, alpha=np.where(lung, COVER, 0.0))
        show_image(contour, image, _first(i, f"contours at {threshold:.2g}"))
        for points in lung_zones.contours(large, lung, threshold):
            contour.plot(*points.T, color=RED, linewidth=1.6, label="contour of the map")
        if lesions is not None:
            outline_mask(contour, lesions[i], SKY, TRUE)
        show_zones(zone, image, lung_zones.zones(lung[None])[0], array)
        zone.set_title(f"read {array.sum():.1f}, true {truths[i]:.0f}")
    shown = colours_on_image("magma", COVER)
    figure.colorbar(shown, ax=axes[:, -1], shrink=0.7, label="likelihood of disease (0-1)")
    legend_below(figure)
    return stamp(figure, stamped)


@figure_style()
def plot_zone_lines(
    image: np.ndarray,
    right: np.ndarray,
    left: np.ndarray,
    lesion: np.ndarray,
    upper: float,
    lower: float,
    from_row0: bool,
    title: str,
    stamped: str = "synthetic",
) -> Figure:
    """The zones as the paper cuts them, and beside them with lines of one's own.

    Args:
        image: uint8 (S, S).
        right: the patient's right lung, bool (S, S).
        left: the patient's left lung, bool (S, S).
        lesion: bool (S, S), outlined in white; a zone of which it covers 1 % counts.
        upper: upper line, as a share of the lungs' height.
        lower: lower line, as a share of the lungs' height.
        from_row0: whether the lines are measured from the top of the image instead of the lungs,
            as in the authors' later code.
        title: above both panels.
        stamped: what the images are, for the corner of the figure.
    """
    figure, axes = grid(1, 2, size=4.4, title=title)
    rows = np.where((right | left).any(axis=1))[0]
    top, height = rows[0], rows[-1] - rows[0] + 1
    panels = (
        (axes[0, 0], lung_zones.CUTS, top, "as the paper cuts"),
        (axes[0, 1], (upper, lower), 0 if from_row0 else top, "your lines"),
    )
    for axis, cuts, origin, name in panels:
        choices = Choices(zone_origin="lungs" if origin else "row0")
        zones = lung_zones.zones_of_sides(right, left, choices, cuts)  # (3, 2, S, S)
        array = (lung_zones.coverage(lesion, zones) >= COVERED) * 1.0
        show_zones(axis, image, zones, array)
        outline_mask(axis, lesion, "white")
        for cut in cuts:
            axis.axhline(origin + cut * height, color="white", linestyle="--", linewidth=1.5)
        axis.set_title(f"{name}: score {array.sum():.0f}")
    return stamp(figure, stamped)


@figure_style()
def plot_markers(
    images: np.ndarray,
    p: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    title: str,
    stamped: str = "synthetic",
) -> Figure:
    """One image with several markers, and below each the probabilities that a model predicts.

    Args:
        images: uint8 (M, S, S).
        p: (M, K); the largest of a row is red.
        names: M texts of the markers.
        classes: K names.
        title: above all.
        stamped: what the images are, for the corner of the figure.
    """
    figure = StyledFigure(figsize=(3.6 * len(images), 6.2), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False, height_ratios=(5, 2))
    figure.suptitle(title)
    positions = range(len(classes))
    for j, (image, row, name) in enumerate(zip(images, p, names, strict=True)):
        axis, below = axes[:, j]
        show_image(axis, image, f'marker "{name}"')
        colours = [RED if k == np.argmax(row) else SKY for k in positions]
        bars = below.barh(positions, row, color=colours)
        below.bar_label(bars, fmt="%.2f", padding=3)
        below.set(xlim=(0, 1.2), yticks=positions, xticks=(0, 0.5, 1), xlabel="probability")
        below.set_yticklabels(classes if j == 0 else [""] * len(classes))
        below.invert_yaxis()
    return stamp(figure, stamped)
