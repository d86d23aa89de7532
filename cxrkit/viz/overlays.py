"""Maps and masks drawn over films: every function takes arrays and returns a matplotlib Figure (see
`plots` for the house rules).
"""

import cv2
import numpy as np
import torch

from cxrkit.config.choices import Choices
from cxrkit.data import lung_zones
from cxrkit.explain.methods import upsample
from cxrkit.viz.style import BLUE, GREEN, RED, SKY, YELLOW, grid, outline, show, show_zones, stamp


def over(axis, image, heat, title="", lesion=None, top=None):
    """A saliency map (h, w) over its film (S, S), enlarged bilinearly, positive part, from 0 to
    `top` (default its maximum).

    A white contour runs at half of `top`; `lesion` (S, S) is outlined in blue. Returns the image
    for a colour bar.
    """
    show(axis, image, title)
    large = upsample(
        torch.as_tensor(np.ascontiguousarray(heat)).clamp(min=0).float(), image.shape
    ).numpy()
    top = top or max(float(large.max()), 1e-12)
    share = np.clip(large / top, 0, 1)
    drawn = axis.imshow(share, cmap="magma", vmin=0, vmax=1, alpha=0.15 + 0.6 * share)
    if share.min() < 0.5 < share.max():
        axis.contour(share, levels=[0.5], colors="white", linewidths=1.2)
    if lesion is not None:
        outline(axis, lesion, SKY)
    return drawn


def plot_saliency(
    images, maps, row_names, column_names, title, lesions=None, stamped="synthetic", shared=False
):
    """Films (rows), each followed by its saliency maps (columns): images uint8 (n, S, S), maps (n,
    m, h, w), lesions (n, S, S).

    shared: one scale for all maps of a film, so that a class of less relevance looks so; else each
    map to its own maximum.
    """
    maps = np.asarray(maps)
    figure, axes = grid(
        len(images), maps.shape[1] + 1, size=2.3 if maps.shape[1] > 1 else 3.6, title=title
    )
    for i, (image, row) in enumerate(zip(images, maps, strict=True)):
        show(axes[i, 0], image, "film" if i == 0 else "")
        axes[i, 0].set_ylabel(row_names[i])
        if lesions is not None:
            outline(axes[i, 0], lesions[i], SKY)
        for j, heat in enumerate(row):
            drawn = over(
                axes[i, j + 1],
                image,
                heat,
                column_names[j] if i == 0 else "",
                None if lesions is None else lesions[i],
                max(float(row.max()), 1e-12) if shared else None,
            )
    figure.colorbar(
        drawn,
        ax=axes[:, -1],
        shrink=0.8,
        label="relevance (0 to the film's maximum)" if shared else "0 to the map's maximum",
    )
    return stamp(figure, stamped)


def plot_attention(image, attention, cell, title, stamped="synthetic"):
    """Where a token looks: the film with its cell framed (None: the class token), then a map for
    each head and their mean, on one scale.

    image uint8 (S, S); attention (N, h, w), the token's row of each head; cell = (row, column) in
    the grid. Values are multiples of an even share, one over the number of tokens: where all is
    about 1, the head reads everything alike.
    """
    attention = np.asarray(attention, float)
    attention = attention * (1 + attention[0].size)
    heads = [*attention, attention.mean(0)]
    side, size = image.shape[0] / attention.shape[1], image.shape[0] - 0.5
    figure, axes = grid(1, len(heads) + 1, size=2.7, title=title)
    show(axes[0, 0], image, "the class token looks" if cell is None else "the framed cell looks")
    for i, (axis, head) in enumerate(zip(axes[0, 1:], heads, strict=True)):
        show(axis, image, f"head {i + 1}" if i < len(attention) else "mean")
        drawn = axis.imshow(
            head,
            cmap="viridis",
            vmin=0,
            vmax=attention.max(),
            alpha=0.6,
            extent=(-0.5, size, size, -0.5),
        )
    for axis in axes[0] if cell is not None else ():
        frame = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]) + cell[::-1]
        axis.plot(*(frame * side - 0.5).T, color="white", linewidth=2.2)
    figure.colorbar(drawn, ax=axes[0, -1], shrink=0.7, label="times an even share")
    return stamp(figure, stamped)


def plot_findings(image, maps, names, probabilities, places, title, stamped="synthetic"):
    """The map of each finding over one film, two rows, on one scale from 0 to 1; the place and the
    name of one present are blue.

    image uint8 (S, S); maps (K, h, w) in [0, 1]; probabilities (K,) of the film; places (K, S, S)
    bool, or None where nobody knows.
    """
    columns = (len(names) + 1) // 2
    figure, axes = grid(2, columns, size=2.3, title=title)
    for k, (axis, name) in enumerate(zip(axes.ravel(), names, strict=False)):
        drawn = over(
            axis,
            image,
            maps[k],
            f"{name}: {probabilities[k]:.2f}",
            None if places is None else places[k],
            top=1,
        )
        if places is not None and places[k].any():
            axis.set_title(axis.get_title(), color=BLUE, weight="bold")
    for axis in axes.ravel()[len(names) :]:
        axis.remove()
    figure.colorbar(
        drawn,
        ax=list(axes.ravel()[: len(names)]),
        shrink=0.8,
        label="probability of the finding in a cell (0 to 1)",
    )
    return stamp(figure, stamped)


def plot_masks(images, masks, row_names, title, stamped="synthetic"):
    """Films with outlined masks: images uint8 (n, S, S); masks name -> bool (n, S, S), the truth
    first; the film alone on the left.
    """
    colours = (SKY, RED, YELLOW, GREEN)
    figure, axes = grid(len(images), len(masks) + 1, size=2.5, title=title)
    for i, image in enumerate(images):
        show(axes[i, 0], image, "film" if i == 0 else "")
        axes[i, 0].set_ylabel(row_names[i])
        for j, (name, stack) in enumerate(masks.items()):
            show(axes[i, j + 1], image, name if i == 0 else "")
            outline(axes[i, j + 1], stack[i], colours[j % len(colours)])
    return stamp(figure, stamped)


def plot_styles(image, carried, names, title, mask=None, stamped="synthetic"):
    """A film carried to several styles, and under each what that changed: image (S, S), carried (n,
    S, S), both in [-1, 1].

    The changes share one scale: orange became brighter, purple darker.
    """
    figure, axes = grid(2, len(carried) + 1, size=2.2, title=title)
    change = np.asarray(carried) - image
    top = max(float(np.abs(change).max()), 1e-6)
    show(axes[0, 0], image, "film", vmin=-1, vmax=1)
    axes[1, 0].axis("off")
    for j, (film, name) in enumerate(zip(carried, names, strict=True)):
        show(axes[0, j + 1], film, name, vmin=-1, vmax=1)
        drawn = show(
            axes[1, j + 1],
            change[j],
            "change" if j == 0 else "",
            cmap="PuOr_r",
            vmin=-top,
            vmax=top,
        )
        if mask is not None:
            outline(axes[1, j + 1], mask, "0.2")
    figure.colorbar(drawn, ax=axes[1, :], fraction=0.03, label="change of grey")
    return stamp(figure, stamped)


def plot_severity(
    images,
    maps,
    lungs,
    arrays,
    truths,
    row_names,
    title,
    threshold=0.5,
    lesions=None,
    stamped="synthetic",
):
    """Figures 6 and 7 in form: film, severity map, contours at `threshold`, zones with their
    values; a row a film.

    images uint8 (n, S, S); maps (n, H, W) in [0, 1]; lungs bool (n, S, S); arrays (n, 3, 2); truths
    (n,) scores 0-6; lesions: true extent, bool (n, S, S), outlined in blue.
    """
    figure, axes = grid(len(images), 4, size=2.9, title=title)
    for i, (image, lung, array) in enumerate(zip(images, lungs, arrays, strict=True)):
        film, heat, contour, zone = axes[i]
        large = cv2.resize(maps[i], image.shape[::-1], interpolation=cv2.INTER_LINEAR) * lung
        show(film, image, "film" if i == 0 else "")
        film.set_ylabel(row_names[i])
        show(heat, image, "severity map" if i == 0 else "")
        drawn = heat.imshow(large, cmap="magma", vmin=0, vmax=1, alpha=np.where(lung, 0.65, 0.0))
        show(contour, image, f"contours at {threshold:.2g}" if i == 0 else "")
        for points in lung_zones.contours(large, lung, threshold):
            contour.plot(*points.T, color=RED, linewidth=1.6)
        if lesions is not None:
            outline(contour, lesions[i], SKY)
        show_zones(zone, image, lung_zones.zones(lung[None])[0], array)
        zone.set_title(f"read {array.sum():.1f}, true {truths[i]:.0f}")
    figure.colorbar(drawn, ax=axes[:, -1], shrink=0.7, label="likelihood of disease (0-1)")
    return stamp(figure, stamped)


def plot_zone_lines(image, right, left, lesion, upper, lower, slip, title, stamped="synthetic"):
    """A film with its zones cut at shares `upper` and `lower` of the lungs' height; `slip`:
    measured from row 0 of the image.

    right, left, lesion: bool (S, S). A zone that the lesion (white) covers by 1 % counts; beside it
    the zones as the paper cuts them.
    """
    figure, axes = grid(1, 2, size=4.4, title=title)
    lungs = right | left
    rows = np.where(lungs.any(axis=1))[0]
    height = rows[-1] - rows[0] + 1
    for axis, cuts, origin, name in (
        (axes[0, 0], lung_zones.CUTS, rows[0], "as the paper cuts"),
        (axes[0, 1], (upper, lower), 0 if slip else rows[0], "your lines"),
    ):
        zones = lung_zones.zones_of_sides(
            right, left, Choices(zone_origin="lungs" if origin else "row0"), cuts
        )
        array = (lung_zones.coverage(lesion, zones) >= 0.01) * 1.0
        show_zones(axis, image, zones, array)
        outline(axis, lesion, "white")
        for cut in cuts:
            axis.axhline(origin + cut * height, color="white", linestyle="--", linewidth=1.5)
        axis.set_title(f"{name}: score {array.sum():.0f}")
    return stamp(figure, stamped)


def plot_markers(images, p, names, classes, title, stamped="synthetic"):
    """One film under several markers and the probabilities that a model gives it: images uint8 (M,
    S, S), p (M, K).
    """
    figure, axes = grid(2, len(images), size=2.9, title=title, height_ratios=(2, 1))
    for axis, below, image, row, name in zip(axes[0], axes[1], images, p, names, strict=True):
        show(axis, image, f'marker "{name}"')
        bars = below.barh(
            range(len(classes)),
            row,
            color=[RED if k == np.argmax(row) else SKY for k in range(len(classes))],
        )
        below.bar_label(bars, fmt="%.2f", padding=3)
        below.set(
            xlim=(0, 1.2), yticks=range(len(classes)), xticks=(0, 0.5, 1), xlabel="probability"
        )
        below.set_yticklabels(classes if axis is axes[0, 0] else [""] * len(classes))
        below.invert_yaxis()
    return stamp(figure, stamped)
