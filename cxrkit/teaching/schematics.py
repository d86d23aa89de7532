"""Schematics of the lessons, drawn by code as SVG in one style.

A schematic is boxes, arrows and labels on a page of pixels. Blue boxes hold data, orange ones hold
learned weights, white ones only compute. A notebook shows the object that `schematic` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from cxrkit.config.vocabulary import known

FILLS = {"data": "#DCEBF7", "weights": "#FBE9C6", "compute": "#FFFFFF", "answer": "#D5EFE6"}
LINE = "#333333"
FONT = "DejaVu Sans, Verdana, Arial, sans-serif"


class Schematic:
    """A drawing; IPython shows it as SVG."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width = width
        self.height = height
        self.title = title
        self.parts: list[str] = []

    def __repr__(self) -> str:
        return f"schematic: {self.title}"

    def text(self, x: float, y: float, words: str, size: int = 13, anchor: str = "middle") -> None:
        """Words at (x, y), the middle of the line unless `anchor` is "start" or "end"."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
            f'dominant-baseline="central">{escape(words)}</text>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, words: Sequence[str], kind: str = "compute"
    ) -> None:
        """A box with its upper left corner at (x, y) and lines of words in its middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" '
            f'fill="{FILLS[kind]}" stroke="{LINE}"/>'
        )
        top = y + h / 2 - 9 * (len(words) - 1)
        for i, line in enumerate(words):
            self.text(x + w / 2, top + 18 * i, line, 13 if i == 0 else 12)

    def arrow(self, *points: tuple[float, float]) -> None:
        """An arrow along the points, its head at the last."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" '
            'marker-end="url(#head)"/>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False
    ) -> None:
        """A line along the points."""
        path = " ".join(f"{x:g},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )

    def grid(self, x: float, y: float, side: float, cells: int, dark: Sequence[int] = ()) -> None:
        """A square grid of cells at (x, y); the cells numbered in `dark` are filled."""
        step = side / cells
        for i in range(cells * cells):
            fill = "#0072B2" if i in dark else FILLS["data"]
            row, column = divmod(i, cells)
            self.parts.append(
                f'<rect x="{x + column * step:g}" y="{y + row * step:g}" width="{step:g}" '
                f'height="{step:g}" fill="{fill}" stroke="#FFFFFF"/>'
            )

    def _repr_svg_(self) -> str:
        """The drawing as one SVG document."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="{FONT}" fill="#111111" '
            f'role="img" aria-label="{escape(self.title)}">\n'
            f"<title>{escape(self.title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            f'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker>'
            "</defs>\n"
            f'<rect width="{self.width}" height="{self.height}" fill="#FFFFFF"/>\n'
            f"{body}\n</svg>"
        )


def pipeline() -> Schematic:
    """From a film to the diagnosis and the severity map."""
    page = Schematic(880, 190, "From a film to the diagnosis and the severity map")
    page.box(10, 60, 90, 60, ("film", "1 x H x W"), "data")
    page.arrow((100, 90), (130, 90))
    page.box(130, 60, 120, 60, ("backbone", "DenseNet, PCAM"), "weights")
    page.arrow((190, 60), (190, 36))
    page.text(190, 22, "ten findings")
    page.arrow((250, 90), (280, 90))
    page.grid(280, 55, 70, 4)
    page.text(315, 40, "corpus")
    page.text(315, 140, "C x h x w")
    page.arrow((350, 90), (380, 90))
    page.box(380, 60, 120, 60, ("tokens", "T = 1 + h w"), "data")
    page.text(440, 140, "1x1 convolution,")
    page.text(440, 158, "class token, positions")
    page.arrow((500, 90), (530, 90))
    page.box(530, 60, 130, 60, ("encoder layers", "attention, MLP"), "weights")
    page.arrow((660, 75), (700, 45))
    page.arrow((660, 105), (700, 135))
    page.box(700, 20, 170, 50, ("class token", "diagnosis"), "answer")
    page.box(700, 115, 170, 50, ("other tokens", "severity map"), "answer")
    return page


def one_head() -> Schematic:
    """One attention head."""
    page = Schematic(880, 250, "One attention head")
    page.box(10, 95, 90, 60, ("tokens X", "T x D"), "data")
    for y, letter, what in ((15, "Q", "queries"), (100, "K", "keys"), (185, "V", "values")):
        page.arrow((100, 125), (140, y + 25))
        page.box(140, y, 60, 50, (f"W{letter}", "D x d"), "weights")
        page.arrow((200, y + 25), (235, y + 25))
        page.box(235, y, 110, 50, (f"{letter} = X W{letter}", f"{what}, T x d"), "data")
    page.arrow((345, 40), (400, 70))
    page.arrow((345, 125), (400, 90))
    page.box(400, 55, 130, 50, ("Q Kᵀ / √d", "fit, T x T"))
    page.arrow((530, 80), (570, 80))
    page.box(570, 55, 130, 50, ("A = softmax", "each row sums to 1"))
    page.arrow((635, 105), (635, 185))
    page.arrow((345, 210), (570, 210))
    page.box(570, 185, 130, 50, ("A V", "mean of the values"))
    page.arrow((700, 210), (750, 210))
    page.box(750, 185, 110, 50, ("new content", "T x d"), "answer")
    return page


def several_heads() -> Schematic:
    """Several heads in one layer, and the residual sum."""
    page = Schematic(880, 250, "Several heads, and one layer of the encoder")
    page.box(10, 95, 90, 60, ("tokens", "T x D"), "data")
    page.arrow((100, 125), (125, 125))
    page.box(125, 100, 60, 50, ("norm",), "weights")
    for y, name in ((20, "head 1"), (100, "head 2"), (180, "head N")):
        page.arrow((185, 125), (225, y + 25))
        page.box(225, y, 120, 50, (name, "T x d, d = D / N"), "weights")
        page.arrow((345, y + 25), (385, 125))
    page.box(385, 100, 90, 50, ("side by side", "T x D"))
    page.arrow((475, 125), (500, 125))
    page.box(500, 100, 70, 50, ("WO", "D x D"), "weights")
    page.arrow((570, 125), (600, 125))
    page.box(600, 110, 30, 30, ("+",))
    page.arrow((55, 95), (55, 8), (615, 8), (615, 110))
    page.arrow((630, 125), (660, 125))
    page.box(660, 95, 110, 60, ("norm, MLP", "each token alone"), "weights")
    page.arrow((770, 125), (800, 125))
    page.box(800, 110, 30, 30, ("+",))
    page.arrow((645, 125), (645, 220), (815, 220), (815, 140))
    page.arrow((830, 125), (868, 125))
    return page


def pcam() -> Schematic:
    """PCAM pooling of one finding."""
    page = Schematic(880, 220, "PCAM pooling of one finding")
    page.grid(20, 60, 90, 4, (9, 13))
    page.text(65, 170, "features")
    page.text(65, 188, "C x h x w")
    page.arrow((110, 105), (160, 60))
    page.box(160, 35, 140, 50, ("1x1 convolution", "logit of each cell"), "weights")
    page.arrow((300, 60), (345, 60))
    page.box(345, 35, 130, 50, ("p = sigmoid", "of the finding"))
    page.arrow((475, 60), (520, 60))
    page.box(520, 35, 130, 50, ("w = p / sum of p", "sums to 1"))
    page.arrow((585, 85), (585, 130))
    page.arrow((110, 120), (160, 155), (520, 155))
    page.box(520, 130, 130, 50, ("sum of w x", "pooled, C"), "data")
    page.arrow((650, 155), (690, 155))
    page.box(690, 130, 185, 50, ("the same 1x1 convolution", "logit of the film"), "answer")
    return page


def adain() -> Schematic:
    """Adaptive instance normalisation: an image forgets its contrast and takes that of a style."""
    page = Schematic(880, 170, "Adaptive instance normalisation (AdaIN)")
    page.box(10, 30, 90, 50, ("x", "one channel"), "data")
    page.arrow((100, 55), (140, 55))
    page.box(
        140,
        30,
        190,
        50,
        ("(x - μ) / √(σ² + 10⁻⁵)", "mean 0, spread 1"),
    )
    page.arrow((330, 55), (420, 55))
    page.box(420, 30, 190, 50, ("(1 + γ) · + β", "new spread, new mean"))
    page.arrow((610, 55), (660, 55))
    page.box(660, 30, 120, 50, ("y", "the same shapes"), "answer")
    page.box(10, 110, 110, 50, ("latent", "random numbers"), "data")
    page.arrow((120, 135), (170, 135))
    page.box(170, 110, 150, 50, ("mapping network", "for each domain"), "weights")
    page.arrow((320, 135), (420, 135))
    page.box(420, 110, 190, 50, ("style", "γ and β of each channel"), "data")
    page.arrow((515, 110), (515, 80))
    return page


def distillation() -> Schematic:
    """The teacher segments an abnormal film by way of a normal one; the student does it at once."""
    page = Schematic(880, 190, "Teacher and student of the AdaIN segmenter")
    page.box(10, 70, 110, 50, ("abnormal film", "no mask known"), "data")
    page.arrow((120, 85), (160, 50))
    page.box(160, 20, 150, 50, ("generator", "style: normal"), "weights")
    page.arrow((310, 45), (350, 45))
    page.box(350, 20, 120, 50, ("normal film", "made"), "data")
    page.arrow((470, 45), (510, 45))
    page.box(510, 20, 150, 50, ("the same generator", "no style"), "weights")
    page.arrow((660, 45), (700, 45))
    page.box(700, 20, 170, 50, ("mask of the teacher", "1 x H x W"), "answer")
    page.arrow((120, 105), (160, 145))
    page.box(160, 120, 500, 50, ("student", "one pass, with a code of its own"), "weights")
    page.arrow((660, 145), (700, 145))
    page.box(700, 120, 170, 50, ("mask of the student", "1 x H x W"), "answer")
    page.arrow((785, 70), (785, 120))
    page.text(800, 95, "learns from", 12, "start")
    return page


def relevance() -> Schematic:
    """Relevance walks back from a logit to the tokens."""
    page = Schematic(880, 200, "Relevance walks back from a logit to the tokens")
    forward = (("tokens", "T x D"), ("block 1", "attention A"), ("block 2", "attention A"))
    for x, words in zip((60, 240, 440), forward, strict=True):
        page.box(x, 25, 130, 50, words, "data" if x == 60 else "weights")
    page.box(640, 25, 90, 50, ("head",), "weights")
    page.box(780, 25, 90, 50, ("logit",), "answer")
    for left, right in ((190, 240), (370, 440), (570, 640), (730, 780)):
        page.arrow((left, 50), (right, 50))
    page.box(780, 125, 90, 50, ("R = 1",), "data")
    page.box(640, 125, 90, 50, ("Rᵢ of Rₒ", "linear rule"))
    page.box(440, 125, 130, 50, ("C₂, I + C₂", "T x T"))
    page.box(240, 125, 130, 50, ("C₁, I + C₁", "T x T"))
    page.box(10, 125, 180, 50, ("(I + C₂)(I + C₁)", "row of the class token"), "answer")
    for right, left in ((780, 730), (640, 570), (440, 370), (240, 190)):
        page.arrow((right, 150), (left, 150))
    page.arrow((825, 75), (825, 125))
    for x in (305, 505):
        page.arrow((x, 75), (x, 125))
        page.text(x + 8, 100, "A: gradient times R", 11, "start")
    return page


def zones() -> Schematic:
    """From the tokens to a map, six zones and the severity."""
    page = Schematic(880, 220, "Zones and ROI max-pooling")
    page.box(10, 90, 80, 50, ("tokens", "h x w"), "data")
    page.arrow((90, 115), (115, 115))
    page.box(115, 90, 120, 50, ("convolutions", "larger maps"), "weights")
    page.arrow((235, 115), (260, 115))
    page.box(260, 90, 130, 50, ("map M", "sigmoid, lungs only"), "data")
    page.arrow((390, 115), (430, 115))
    page.text(485, 22, "zones of M")
    page.text(695, 22, "array, 3 x 2")
    for i, row in enumerate("₁₂₃"):
        for j, column in enumerate("₁₂"):
            name = row + column
            page.box(430 + 57 * j, 40 + 52 * i, 52, 46, (f"Z{name}",), "data")
            page.box(640 + 57 * j, 40 + 52 * i, 52, 46, (f"a{name}",), "data")
    page.arrow((541, 115), (640, 115))
    page.text(590, 100, "max over Z", 12)
    page.text(695, 208, "label: 0 or 1 each", 12)
    page.arrow((751, 115), (780, 115))
    page.box(780, 90, 95, 50, ("severity", "sum, 0 to 6"), "answer")
    page.text(485, 208, "patient's right, left", 12)
    return page


SCHEMATICS: dict[str, Callable[[], Schematic]] = {
    "pipeline": pipeline,
    "one_head": one_head,
    "several_heads": several_heads,
    "pcam": pcam,
    "adain": adain,
    "distillation": distillation,
    "relevance": relevance,
    "zones": zones,
}


def schematic(name: str) -> Schematic:
    """The schematic of a name in SCHEMATICS.

    Raises:
        ValueError: there is none of this name; the message lists the names.
    """
    known(name, SCHEMATICS, "schematic")
    return SCHEMATICS[name]()
