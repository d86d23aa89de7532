"""The layout of the reading room's figures: images in a row, a title, a scale, and a caption.

Positions are fixed in inches instead of laid out anew for every drawing, and maps are mixed into
the image before matplotlib sees them: a figure must answer while the hand is still on the slider.
Letters are large enough for the back row. S px of an image as shown, h w grid.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from matplotlib import colormaps

from cxrkit import NOTICE
from cxrkit.explain.methods import upsample
from cxrkit.reading_room.state import ORIGINS
from cxrkit.viz.style import SKY, StyledFigure, figure_style, outline_mask, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cxrkit.reading_room.state import Sample, Truth

# inches
SIDE = 3.5  # of an image
GAP = 0.15  # between two images
HEAD = 0.85  # above the images, for the title
FOOT = 1.05  # below the images, for scale and caption
LETTERS = 15  # pt
# the name of a file may hold dollars, which are no formula
TITLE = {"fontsize": LETTERS, "color": "black", "parse_math": False}
SQUARE = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)])  # x, y of the corners of one cell
JPEG_QUALITY = 92


class PanelLayout:
    """A figure of square images in a row, with a title and a line that says what it is.

    Args:
        sample: what is shown; it is named in the caption.
        title: above the images.
        count: number of images.
        extra: inches of room to the right of the images.

    Attributes:
        figure: the figure.
        axes: `count` axes for images.
        right: inches from the left edge to the end of the images.
    """

    def __init__(self, sample: Sample, title: str, count: int, extra: float = 0.0) -> None:
        self.sample = sample
        self.width = count * SIDE + (count + 1) * GAP + extra
        self.height = SIDE + HEAD + FOOT
        self.right = GAP + count * (SIDE + GAP)
        self.figure = StyledFigure(figsize=(self.width, self.height))
        self.axes = [self.add_axes(GAP + i * (SIDE + GAP), FOOT, SIDE, SIDE) for i in range(count)]
        left, right = GAP / self.width, 1 - GAP / self.width
        top, bottom = 1 - 0.08 / self.height, 0.05 / self.height
        self.figure.text(left, top, title, va="top", fontsize=LETTERS + 1, weight="bold")
        caption = f"{sample.name}. {NOTICE}"
        self.figure.text(left, bottom, caption, fontsize=9, color="0.35", parse_math=False)
        origin = ORIGINS[sample.origin]
        self.figure.text(right, bottom, origin, ha="right", fontsize=11, style="italic")

    def add_axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """New axes at inches from the lower left corner."""
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    @figure_style()
    def add_scale(self, colours: str, low: float, high: float, label: str) -> None:
        """Add the colour bar of all maps, below the last image.

        Args:
            colours: name of a colour map.
            low: value at its lower end.
            high: value at its upper end.
            label: what the values are.
        """
        axis = self.add_axes(self.right - SIDE - GAP + 0.2, 0.8, SIDE - 0.4, 0.14)
        ramp = np.linspace(0, 1, 128)[None]
        axis.imshow(ramp, aspect="auto", cmap=colours, extent=(low, high, 0, 1))
        axis.set(yticks=(), xticks=np.linspace(low, high, 3).round(1))
        axis.tick_params(labelsize=10, pad=1)
        axis.set_xlabel(label, fontsize=11, labelpad=1)

    @figure_style()
    def show_image(self, axis: Axes, image: np.ndarray, title: str = "") -> None:
        """Show an image, grey or (S, S, 3); below the first one 5 cm, where the scale is known."""
        show_image(axis, image, "", interpolation="nearest")
        axis.set_title(title, **TITLE)
        if not self.sample.width_mm or axis is not self.axes[0]:
            return
        end = 50 / self.sample.width_mm
        below = -0.035
        axis.plot(
            [0, end],
            [below, below],
            color="black",
            linewidth=3,
            clip_on=False,
            transform=axis.transAxes,
        )
        axis.text(end + 0.02, below, "5 cm", fontsize=11, va="center", transform=axis.transAxes)

    def show_map(
        self, axis: Axes, image: np.ndarray, heat: np.ndarray, title: str, truth: Truth | None
    ) -> None:
        """Show a map over its image, as `overlays.overlay_map` does.

        Args:
            axis: where to draw.
            image: uint8 (S, S).
            heat: (h, w) in [0, 1]; a white contour runs at one half.
            title: above the image.
            truth: where given, the true lesion is blue.
        """
        cells = torch.from_numpy(np.ascontiguousarray(heat)).float()
        large = upsample(cells, image.shape).numpy().clip(0, 1)  # (S, S)
        mixed = blend(image, large, "magma", 0, 1, 0.15 + 0.6 * large)
        self.show_image(axis, mixed, title)
        outline_mask(axis, large >= 0.5, "white")
        if truth and truth.lesion_mask is not None:
            outline_mask(axis, truth.lesion_mask, SKY)


def blend(
    image: np.ndarray,
    values: np.ndarray,
    colours: str,
    low: float,
    high: float,
    alpha: np.ndarray | float,
) -> np.ndarray:
    """A grey image below a map.

    Args:
        image: uint8 (S, S).
        values: (S, S).
        colours: name of a colour map, from `low` to `high`.
        low: value at its lower end.
        high: value at its upper end.
        alpha: opacity of the map, a number or (S, S).

    Returns:
        uint8 (S, S, 3).
    """
    shares = np.clip((values - low) / (high - low), 0, 1)
    tint = colormaps[colours](shares, bytes=True)[..., :3]  # (S, S, 3)
    alpha = np.broadcast_to(alpha, image.shape)[..., None]  # (S, S, 1)
    return np.rint(image[..., None] * (1 - alpha) + tint * alpha).astype(np.uint8)


def enlarge_mask(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A bool mask at the size of the image."""
    return cv2.resize(mask.astype(np.uint8), image.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0


def enlarge_cells(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Values of cells (h, w), enlarged without blur to the size of the image."""
    values = np.asarray(values, np.float32)
    return cv2.resize(values, image.shape[::-1], interpolation=cv2.INTER_NEAREST)


def frame_cell(
    axes: Iterable[Axes], cell: tuple[int, int], grid: tuple[int, int], size: int
) -> None:
    """Draw a frame around one cell of the grid on every image of `size` px."""
    (row, column), (h, w) = cell, grid
    x, y = ((SQUARE + (column, row)) * (size / np.array((w, h))) - 0.5).T
    for axis in axes:
        for colour, width in (("black", 4.5), ("white", 2.2)):
            axis.plot(x, y, color=colour, linewidth=width)


@figure_style()
def plot_probabilities(
    axis: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str]
) -> None:
    """Horizontal bars from 0 to 1 with their values."""
    positions = range(len(names))
    bars = axis.barh(positions, values, color=colours)
    axis.bar_label(bars, fmt="%.2f", padding=10, fontsize=12)
    axis.set_yticks(positions, names, fontsize=13)
    axis.set(xlim=(0, 1.12), xticks=(0, 0.5, 1), xlabel="probability")
    axis.invert_yaxis()


def to_bytes(figure: Figure, kind: str = "jpeg", dpi: int = 80) -> bytes:
    """A figure as large as it was laid out.

    Args:
        figure: of a panel.
        kind: "jpeg" (the fastest, for the page), "png" or "svg" (to keep).
        dpi: resolution.
    """
    options = {"pil_kwargs": {"quality": JPEG_QUALITY}} if kind == "jpeg" else {}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, **options)
    return buffer.getvalue()


def thumbnail(image: np.ndarray, size: int) -> bytes:
    """An image alone, uint8 (S, S) -> JPEG bytes of size x size px."""
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    _, encoded = cv2.imencode(".jpg", small)
    return encoded.tobytes()


def download_link(content: bytes, name: str, kind: str, text: str) -> str:
    """HTML link that saves bytes under a name.

    It works in JupyterLab and in Voila, where no file of the server can be reached.

    Args:
        content: of the file.
        name: of the file.
        kind: MIME type.
        text: of the link.
    """
    data = base64.b64encode(content).decode()
    return f'<a download="{name}" href="data:{kind};base64,{data}">{text}</a>'
