"""Maps and masks drawn over films: every function takes arrays and returns a matplotlib Figure (see `plots` for the house rules)."""

import numpy as np
import torch

from .plots import GREEN, RED, SKY, YELLOW, grid, outline, show, stamp
from .saliency import upsample


def over(axis, image, heat, title="", lesion=None, top=None):
    """A saliency map (h, w) over its film (S, S), enlarged bilinearly, positive part, from 0 to `top` (default its maximum).

    A white contour runs at half of `top`; `lesion` (S, S) is outlined in blue. Returns the image for a colour bar.
    """
    show(axis, image, title)
    large = upsample(torch.as_tensor(np.ascontiguousarray(heat)).clamp(min=0).float(), image.shape).numpy()
    top = top or max(float(large.max()), 1e-12)
    share = np.clip(large / top, 0, 1)
    drawn = axis.imshow(share, cmap="magma", vmin=0, vmax=1, alpha=0.15 + 0.6 * share)
    if share.min() < 0.5 < share.max():
        axis.contour(share, levels=[0.5], colors="white", linewidths=1.2)
    if lesion is not None:
        outline(axis, lesion, SKY)
    return drawn


def plot_saliency(images, maps, row_names, column_names, title, lesions=None, stamped="synthetic", shared=False):
    """Films (rows), each followed by its saliency maps (columns): images uint8 (n, S, S), maps (n, m, h, w), lesions (n, S, S).

    shared: one scale for all maps of a film, so that a class of less relevance looks so; else each map to its own maximum.
    """
    maps = np.asarray(maps)
    figure, axes = grid(len(images), maps.shape[1] + 1, size=2.3, title=title)
    for i, (image, row) in enumerate(zip(images, maps, strict=True)):
        show(axes[i, 0], image, "film" if i == 0 else "")
        axes[i, 0].set_ylabel(row_names[i])
        if lesions is not None:
            outline(axes[i, 0], lesions[i], SKY)
        for j, heat in enumerate(row):
            drawn = over(axes[i, j + 1], image, heat, column_names[j] if i == 0 else "", None if lesions is None else lesions[i],
                         max(float(row.max()), 1e-12) if shared else None)
    figure.colorbar(drawn, ax=axes[:, -1], shrink=0.8, label="relevance (0 to the film's maximum)" if shared else "0 to the map's maximum")
    return stamp(figure, stamped)


def plot_attention(image, attention, cell, title, names=None, stamped="synthetic"):
    """Where a token looks: the film with its cell framed (None: the class token), then one map a head and their mean, on one scale.

    image uint8 (S, S); attention (N, h, w), the token's row of each head; cell = (row, column) in the grid.
    """
    attention = np.asarray(attention, float)
    heads = np.concatenate([attention, attention.mean(0, keepdims=True)])
    names = names or [*(f"head {i + 1}" for i in range(len(attention))), "mean"]
    figure, axes = grid(1, len(heads) + 1, size=2.7, title=title)
    side = image.shape[0] / attention.shape[1]
    show(axes[0, 0], image, "class token looks" if cell is None else "the framed cell looks")
    for axis, head, name in zip(axes[0, 1:], heads, names, strict=True):
        drawn = over(axis, image, head, f"{name}, highest {head.max():.2f}", top=heads.max())
    for axis in axes[0] if cell is not None else ():
        frame = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]) + cell[::-1]
        axis.plot(*(frame * side - 0.5).T, color=SKY, linewidth=2.2)
    figure.colorbar(drawn, ax=axes[0, -1], shrink=0.8, label="attention (0 to the film's maximum)")
    return stamp(figure, stamped)


def plot_masks(images, masks, row_names, title, stamped="synthetic"):
    """Films with outlined masks: images uint8 (n, S, S); masks name -> bool (n, S, S), the truth first; the film alone on the left."""
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
    """A film carried to several styles, and under each what that changed: image (S, S), carried (n, S, S), both in [-1, 1].

    The changes share one scale: orange became brighter, purple darker.
    """
    figure, axes = grid(2, len(carried) + 1, size=2.2, title=title)
    change = np.asarray(carried) - image
    top = max(float(np.abs(change).max()), 1e-6)
    show(axes[0, 0], image, "film", vmin=-1, vmax=1)
    axes[1, 0].axis("off")
    for j, (film, name) in enumerate(zip(carried, names, strict=True)):
        show(axes[0, j + 1], film, name, vmin=-1, vmax=1)
        drawn = show(axes[1, j + 1], change[j], "change" if j == 0 else "", cmap="PuOr_r", vmin=-top, vmax=top)
        if mask is not None:
            outline(axes[1, j + 1], mask, "0.2")
    figure.colorbar(drawn, ax=axes[1, :], fraction=0.03, label="change of grey (film: -1 to 1)")
    return stamp(figure, stamped)
