"""Sheets: figures of the reading room, laid out once and for all, with a scale and a line that says
what they are.

Places are fixed in inches instead of laid out anew for every drawing, and maps are mixed into the
film before matplotlib sees them: a figure must answer while the hand is still on the slider.
Letters are large enough for the back row. S px of a film as shown, h w grid.
"""

import base64
import io

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from cxrkit import NOTICE
from cxrkit.explain.methods import upsample
from cxrkit.reading_room.state import STAMPS
from cxrkit.viz.style import SKY, outline, show

# inches: a picture, between two, title above, scale and caption below
SIDE, GAP, HEAD, FOOT = 3.5, 0.15, 0.85, 1.05
LETTERS = 15  # pt
PEN = {"fontsize": LETTERS, "color": "black", "parse_math": False}  # a file's name may hold dollars


class Sheet:
    """A figure of `count` square pictures in a row, `extra` inches of room to their right, a title,
    and a line that says what it is.
    """

    def __init__(self, case, title, count, extra=0.0):
        self.width, self.height = count * SIDE + (count + 1) * GAP + extra, SIDE + HEAD + FOOT
        self.figure, self.case = Figure(figsize=(self.width, self.height)), case
        self.axes = [self.place(GAP + i * (SIDE + GAP), FOOT, SIDE, SIDE) for i in range(count)]
        self.right = GAP + count * (SIDE + GAP)
        self.figure.text(
            GAP / self.width,
            1 - 0.08 / self.height,
            title,
            va="top",
            fontsize=LETTERS + 1,
            weight="bold",
        )
        self.figure.text(
            GAP / self.width,
            0.05 / self.height,
            f"{case.name}. {NOTICE}",
            fontsize=9,
            color="0.35",
            parse_math=False,
        )
        self.figure.text(
            1 - GAP / self.width,
            0.05 / self.height,
            STAMPS[case.origin],
            ha="right",
            fontsize=11,
            style="italic",
        )

    def place(self, left, bottom, width, height):
        """New axes at inches from the lower left corner."""
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def bar(self, colours, low, high, label):
        """The colour bar of all maps, under the last picture."""
        axis = self.place(self.right - SIDE - GAP + 0.2, 0.8, SIDE - 0.4, 0.14)
        axis.imshow(
            np.linspace(0, 1, 128)[None], aspect="auto", cmap=colours, extent=(low, high, 0, 1)
        )
        axis.set(yticks=(), xticks=np.linspace(low, high, 3).round(1))
        axis.tick_params(labelsize=10, pad=1)
        axis.set_xlabel(label, fontsize=11, labelpad=1)

    def film(self, axis, image, title=""):
        """A film, grey or (S, S, 3), on one of the axes; under the first one 5 cm, where the scale
        is known.
        """
        show(axis, image, "", interpolation="nearest")
        axis.set_title(title, **PEN)
        if self.case.mm and axis is self.axes[0]:
            axis.plot(
                [0, 50 / self.case.mm],
                [-0.035] * 2,
                color="black",
                linewidth=3,
                clip_on=False,
                transform=axis.transAxes,
            )
            axis.text(
                50 / self.case.mm + 0.02,
                -0.035,
                "5 cm",
                fontsize=11,
                va="center",
                transform=axis.transAxes,
            )


def tinted(image, values, colours, low, high, alpha):
    """A grey film under a map: image uint8 (S, S), values (S, S), a colour map from `low` to `high`
    -> uint8 (S, S, 3).
    """
    tint = colormaps[colours](np.clip((values - low) / (high - low), 0, 1), bytes=True)[..., :3]
    alpha = np.broadcast_to(alpha, image.shape)[..., None]
    return np.rint(image[..., None] * (1 - alpha) + tint * alpha).astype(np.uint8)


def enlarged(mask, image):
    """A bool mask at the size of the film."""
    return cv2.resize(mask.astype(np.uint8), image.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0


def squares(values, image):
    """A value for each cell (h, w), enlarged without blur to the size of the film."""
    return cv2.resize(
        np.asarray(values, np.float32), image.shape[::-1], interpolation=cv2.INTER_NEAREST
    )


def over(sheet, axis, image, heat, title, truth):
    """A map (h, w) in [0, 1] over its film as `maps.over` draws it: a white contour at one half,
    the true lesion blue.
    """
    large = (
        upsample(torch.from_numpy(np.ascontiguousarray(heat)).float(), image.shape)
        .numpy()
        .clip(0, 1)
    )
    sheet.film(axis, tinted(image, large, "magma", 0, 1, 0.15 + 0.6 * large), title)
    outline(axis, large >= 0.5, "white")
    if truth and truth.lesion is not None:
        outline(axis, truth.lesion, SKY)


def frame(axes, cell, grid, size):
    """A frame around one cell of the grid, on every picture."""
    square = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]) + np.array(cell)[::-1]
    for axis in axes:
        for colour, width in (("black", 4.5), ("white", 2.2)):
            axis.plot(
                *(square * (size / np.array(grid)[::-1]) - 0.5).T, color=colour, linewidth=width
            )


def bars(axis, names, values, colours):
    """Horizontal bars from 0 to 1 with their values."""
    drawn = axis.barh(range(len(names)), values, color=colours)
    axis.bar_label(drawn, fmt="%.2f", padding=10, fontsize=12)
    axis.set_yticks(range(len(names)), names, fontsize=13)
    axis.set(xlim=(0, 1.12), xticks=(0, 0.5, 1), xlabel="probability")
    axis.invert_yaxis()


def picture(figure, kind="jpeg", dpi=80):
    """Figure -> bytes of a "jpeg" (quickest: for the page), "png" or "svg" (to keep), as large as
    it was laid out.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format=kind, dpi=dpi, **({"pil_kwargs": {"quality": 92}} if kind == "jpeg" else {})
    )
    return buffer.getvalue()


def thumbnail(image, size):
    """A film alone, uint8 (S, S) -> JPEG bytes of size x size px."""
    return cv2.imencode(".jpg", cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR))[
        1
    ].tobytes()


def link(content, name, kind, words):
    """HTML link that saves bytes under a name; works in JupyterLab and in Voila, where no file of
    the server can be reached.
    """
    return f'<a download="{name}" href="data:{kind};base64,{base64.b64encode(content).decode()}">{words}</a>'
