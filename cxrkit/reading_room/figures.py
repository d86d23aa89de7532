"""The figures of the reading room: `draw_panel(room, PanelState(...))` -> Figure.

Widgets, lessons and tests call this one function. S px of an image as shown, h w grid of the
corpus, L blocks, N heads.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import cv2
import numpy as np

from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, known
from cxrkit.data import lung_zones, preprocessing
from cxrkit.evaluation import overlap
from cxrkit.reading_room.layout import (
    FOOT,
    SIDE,
    TITLE,
    PanelLayout,
    blend,
    enlarge_cells,
    enlarge_mask,
    frame_cell,
    plot_probabilities,
)
from cxrkit.reading_room.state import rezone, token_similarity
from cxrkit.viz.style import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SKY,
    figure_style,
    finding_names,
    outline_mask,
    show_zones,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cxrkit.reading_room.state import Prediction, Room, Sample, Truth

DIAGNOSIS_NAMES = {
    "normal": "normal",
    "other_infection": "other infection",
    "covid19": "COVID-19",
}
COVERED = 0.01  # share of a zone from which a lesion counts as in it
MAX_VISITS = 4  # of one patient, in one figure
MAX_HEADS = 3  # of a block, in one figure


@dataclass(frozen=True)
class PanelState:
    """Which panel is shown of which sample, and with which settings.

    Attributes:
        panel: a key of PANELS.
        sample: a name in `room.samples`; "" = the first one.
        edit: a key of EDITS.
        truth: whether the truth is shown.
        cell: the framed cell, (row, column) in the grid of the corpus.
        finding: a name in FINDINGS.
        disease: a name in DIAGNOSES.
        layer: number of a block, from 0.
        threshold: of the contours of severity.
        lines: the two lines between zones, as shares of the lungs' height.
    """

    panel: str = "severity"
    sample: str = ""
    edit: str = "nothing"
    truth: bool = False
    cell: tuple[int, int] = (3, 2)
    finding: str = "opacity"
    disease: str = "covid19"
    layer: int = 0
    threshold: float = 0.5
    lines: tuple[float, float] = lung_zones.CUTS


@dataclass(frozen=True)
class Scene:
    """What a panel is drawn from.

    Attributes:
        room: the models.
        state: the settings.
        sample: the chosen sample.
        prediction: for the sample after the edit.
        truth: None where it is not shown.
    """

    room: Room
    state: PanelState
    sample: Sample
    prediction: Prediction
    truth: Truth | None

    @property
    def true_lesion(self) -> np.ndarray | None:
        """The lesion mask, where it is known and shown."""
        return self.truth.lesion_mask if self.truth else None

    @property
    def layer(self) -> int:
        """The chosen block, or the last one that there is."""
        return min(self.state.layer, len(self.prediction.attention) - 1)


def _has_known_zones(truth: Truth | None) -> TypeGuard[Truth]:
    """Whether the truth is shown and all six zones are known."""
    return truth is not None and not np.isnan(truth.severity_array).any()


def _draw_preprocessing(scene: Scene) -> PanelLayout:
    """The image, equalised, blurred, and as small as the models see it."""
    layout = PanelLayout(scene.sample, "Preprocessing: what the models see", 4)
    image, model_input = scene.prediction.image, scene.prediction.model_input
    equal = preprocessing.equalize(image)
    steps = {
        "film": image,
        "equalised": equal,
        "blurred 3x3": preprocessing.blur(equal),
        f"{len(model_input)} px": model_input,
    }
    for axis, (name, step) in zip(layout.axes, steps.items(), strict=True):
        layout.show_image(axis, step, name)
    return layout


def _draw_findings(scene: Scene) -> PanelLayout:
    """Ten probabilities, and where the chosen finding is."""
    prediction, truth = scene.prediction, scene.truth
    chosen = FINDINGS.index(scene.state.finding)
    name = finding_names()[chosen]
    layout = PanelLayout(scene.sample, f"Findings: {name}", 2, extra=6.6)
    first, second = layout.axes
    layout.show_image(first, prediction.image, "film")
    layout.show_map(second, prediction.image, prediction.finding_maps[chosen], name, truth)
    layout.add_scale("magma", 0, 1, "probability in a cell (0 to 1)")
    names, colours = [], []
    for i, label in enumerate(finding_names()):
        present = truth is not None and truth.findings[i] == 1
        names.append(f"{label} (present)" if present else label)
        colours.append(ORANGE if i == chosen else BLUE)
    axis = layout.add_axes(layout.right + 2.7, FOOT, 3.5, SIDE)
    plot_probabilities(axis, names, prediction.findings, colours)
    return layout


def _draw_lungs(scene: Scene) -> PanelLayout:
    """The lungs of the segmenter, and the true ones."""
    image = scene.prediction.image
    true_mask = scene.truth.lung_mask if scene.truth else None
    layout = PanelLayout(
        scene.sample, "Lungs, drawn by the segmenter", 2 if true_mask is None else 3
    )
    mask = enlarge_mask(scene.prediction.lung_mask, image)  # (S, S)
    layout.show_image(layout.axes[0], image, "film")
    layout.show_image(layout.axes[1], image, "patient's right blue, left orange")
    for side, colour in zip(lung_zones.sides(mask), (SKY, ORANGE), strict=True):
        outline_mask(layout.axes[1], side, colour)
    if true_mask is not None:
        title = f"true lungs: Dice {overlap.dice(true_mask, mask):.2f}"
        layout.show_image(layout.axes[2], image, title)
        outline_mask(layout.axes[2], true_mask, GREEN)
    return layout


def _draw_tokens(scene: Scene) -> PanelLayout:
    """How similar every cell is to the framed one, before the first block and after the last."""
    image, tokens = scene.prediction.image, scene.prediction.tokens
    cell, grid = scene.state.cell, scene.room.grid
    layout = PanelLayout(scene.sample, "Tokens: how alike is every cell to the framed one?", 3)
    layout.show_image(layout.axes[0], image, "the framed cell")
    similarity = token_similarity(tokens[[0, -1]], cell, grid)  # (2, h, w)
    names = ("as it goes in", f"after {len(tokens) - 1} blocks")
    for axis, values, name in zip(layout.axes[1:], similarity, names, strict=True):
        mixed = blend(image, enlarge_cells(values, image), "PuOr_r", -1, 1, 0.65)
        layout.show_image(axis, mixed, name)
    frame_cell(layout.axes, cell, grid, len(image))
    layout.add_scale("PuOr_r", -1, 1, "cosine (-1 to 1)")
    return layout


def _draw_attention(scene: Scene) -> PanelLayout:
    """Where the framed cell attends to in one block: up to three heads, and the mean of all."""
    image, grid = scene.prediction.image, scene.room.grid
    row, column = scene.state.cell
    heads = scene.prediction.attention[scene.layer]  # (N, T, T)
    token = 1 + row * grid[1] + column  # the class token comes first
    shares = heads[:, token, 1:] * heads.shape[-1]  # (N, h*w), 1 = an even share
    top = max(float(shares.max()), 2.0)
    maps = {f"head {i + 1}": share for i, share in enumerate(shares[:MAX_HEADS])}
    maps[f"mean of {len(shares)} heads"] = shares.mean(0)
    title = f"Attention in block {scene.layer + 1}: where does the framed cell look?"
    layout = PanelLayout(scene.sample, title, 1 + len(maps))
    layout.show_image(layout.axes[0], image, "the framed cell")
    for axis, (name, share) in zip(layout.axes[1:], maps.items(), strict=True):
        values = enlarge_cells(share.reshape(grid), image)  # (S, S)
        layout.show_image(axis, blend(image, values, "viridis", 0, top, 0.65), name)
    frame_cell(layout.axes, scene.state.cell, grid, len(image))
    layout.add_scale("viridis", 0, top, "times an even share")
    return layout


def _draw_relevance(scene: Scene) -> PanelLayout:
    """What each cell contributed to each diagnosis, on one scale."""
    state, prediction = scene.state, scene.prediction
    maps = scene.room.relevance(scene.sample, state.edit, state.cell, scene.layer)  # (3, h, w)
    layout = PanelLayout(scene.sample, f"Relevance from block {scene.layer + 1} up", 4)
    layout.show_image(layout.axes[0], prediction.image, "film")
    top = max(float(maps.max()), 1e-12)
    for i, name in enumerate(DIAGNOSIS_NAMES.values()):
        title = f"{name}: {prediction.diagnosis[i]:.2f}"
        axis = layout.axes[1 + i]
        layout.show_map(axis, prediction.image, maps[i] / top, title, scene.truth)
    layout.add_scale("magma", 0, 1, "0 to the largest of the three")
    return layout


def _enlarged_severity(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Lungs, bool (S, S), and the severity map (S, S) in them."""
    lungs = enlarge_mask(prediction.lung_mask, prediction.image)
    size = prediction.image.shape[::-1]
    return lungs, cv2.resize(prediction.severity_map, size) * lungs  # bilinear


def _draw_contours(
    axis: Axes, severity_map: np.ndarray, lungs: np.ndarray, threshold: float
) -> None:
    for points in lung_zones.contours(severity_map, lungs, threshold):
        axis.plot(*points.T, color=RED, linewidth=2)


def _draw_severity(scene: Scene) -> PanelLayout:
    """The severity map, its contours, and the six zones."""
    prediction, threshold = scene.prediction, scene.state.threshold
    title = f"Severity {prediction.severity:.1f} of 6"
    if _has_known_zones(scene.truth):
        title += f", true {np.nansum(scene.truth.severity_array):.0f}"
    layout = PanelLayout(scene.sample, title, 3)
    heat, contour, zone = layout.axes
    image = prediction.image
    lungs, severity_map = _enlarged_severity(prediction)
    opacity = np.where(lungs, 0.65, 0.0)
    layout.show_image(heat, blend(image, severity_map, "magma", 0, 1, opacity), "map")
    layout.show_image(contour, image, f"contours at {threshold:.2f}")
    _draw_contours(contour, severity_map, lungs, threshold)
    if scene.true_lesion is not None:
        outline_mask(contour, scene.true_lesion, SKY)
    zones = lung_zones.zones(lungs[None], scene.room.profile.choices)[0]  # (3, 2, S, S)
    show_zones(zone, image, zones, prediction.severity_array)
    zone.set_title("six values", **TITLE)
    layout.add_scale("magma", 0, 1, "likelihood of disease (0 to 1)")
    return layout


def _draw_zone_lines(scene: Scene) -> PanelLayout:
    """The zones as the paper cuts them, and with lines of one's own."""
    image, choices = scene.prediction.image, scene.room.profile.choices
    layout = PanelLayout(scene.sample, "Whoever moves the lines moves the score", 3)
    layout.show_image(layout.axes[0], image, "film")
    lines = {"the paper's lines": lung_zones.CUTS, "your lines": scene.state.lines}
    for axis, (name, cuts) in zip(layout.axes[1:], lines.items(), strict=True):
        small, array = rezone(scene.prediction, cuts, choices)
        zones = np.zeros((3, 2, *image.shape), bool)
        for row, column in np.ndindex(3, 2):
            zones[row, column] = enlarge_mask(small[row, column], image)
        show_zones(axis, image, zones, array)
        title = f"{name}: {array.sum():.1f}"
        if scene.true_lesion is not None:
            outline_mask(axis, scene.true_lesion, "white")
            covered = lung_zones.coverage(scene.true_lesion, zones) >= COVERED
            title += f", true {covered.sum()}"
        axis.set_title(title, **TITLE)
    return layout


def _draw_diagnosis_bars(scene: Scene, axis: Axes) -> None:
    """Probabilities of the three diagnoses with thresholds, and those before the edit."""
    prediction, state, room = scene.prediction, scene.state, scene.room
    names = []
    for key, name in DIAGNOSIS_NAMES.items():
        is_true = scene.truth is not None and scene.truth.diagnosis == key
        names.append(f"{name} (true)" if is_true else name)
    plot_probabilities(axis, names, prediction.diagnosis, [BLUE] * len(names))
    for i, threshold in enumerate(room.thresholds(scene.sample.view).values()):
        axis.plot(
            [threshold, threshold],
            [i - 0.45, i + 0.45],
            color="black",
            linewidth=2.5,
            label="threshold" if i == 0 else None,
        )
    if state.edit != "nothing":
        axis.plot(
            room.predict(scene.sample).diagnosis,
            range(len(names)),
            "D",
            color=ORANGE,
            markersize=12,
            markeredgecolor="black",
            label="unedited film",
        )
    axis.legend(loc="lower right", fontsize=10, frameon=False, bbox_to_anchor=(1.0, 1.0), ncols=2)


def _draw_calibration(scene: Scene, axis: Axes) -> None:
    """How often images have the chosen diagnosis where the model predicts it as it does here."""
    disease = scene.state.disease
    table = scene.room.calibration(scene.sample.view, disease)
    p = scene.prediction.diagnosis[DIAGNOSES.index(disease)]
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    axis.plot(table["predicted"], table["observed"], "o-", color=BLUE, markersize=9)
    axis.axvline(p, color=RED, linewidth=3, label="this film")
    axis.legend(loc="upper left", fontsize=10, frameon=False)
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=f"model says {DIAGNOSIS_NAMES[disease]}",
        ylabel="share that has it",
    )
    bins = len(table["n"])
    within = min(int(p * bins), bins - 1)
    record = "no such films"
    if table["n"][within]:
        record = f"{table['observed'][within]:.0%} of {table['n'][within]} such films"
    axis.set_title(f"{p:.2f} here: {record}\nof other hospitals have it", fontsize=12)


def _draw_prediction(scene: Scene) -> PanelLayout:
    """Three probabilities, before and after an edit, and how often such a probability is right."""
    state, sample = scene.state, scene.sample
    layout = PanelLayout(sample, f"Prediction ({sample.view} model)", 1, extra=11.2)
    title = "film" if state.edit == "nothing" else state.edit
    layout.show_image(layout.axes[0], scene.prediction.image, title)
    bars = layout.add_axes(layout.right + 1.7, FOOT, 3.6, SIDE - 0.3)
    _draw_diagnosis_bars(scene, bars)
    calibration = layout.add_axes(layout.right + 7.2, FOOT, SIDE, SIDE - 0.3)
    _draw_calibration(scene, calibration)
    return layout


def _draw_course(scene: Scene, axis: Axes, visits: list[Sample], score: np.ndarray) -> None:
    """Severity over time: a ring marks a change that exceeds noise."""
    limit = scene.room.noise_limit()
    at = np.arange(1, len(visits) + 1)
    axis.plot(at, score, "o-", color=BLUE, markersize=10, label="read")
    changed = 1 + np.where(np.abs(np.diff(score)) > limit)[0]
    axis.plot(
        at[changed],
        score[changed],
        "o",
        markersize=20,
        markerfacecolor="none",
        markeredgecolor=RED,
        markeredgewidth=2.5,
    )
    if _has_known_zones(scene.truth):
        true = [scene.room.truth(visit).severity_array.sum() for visit in visits]
        axis.plot(at, true, "s--", color="0.4", markersize=8, label="true")
    axis.set(xticks=at, ylim=(-0.4, 6.4), xlabel="visit", ylabel="severity (0-6)")
    title = f"ring: moved by more than {limit:.1f}"
    if len(visits) == 1:
        title = "no other film of this patient"
    axis.set_title(title, fontsize=12)
    axis.legend(frameon=False, fontsize=11)


def _draw_follow_up(scene: Scene) -> PanelLayout:
    """The images of a patient with their contours, and severity over time."""
    visits = scene.room.visits(scene.sample)[:MAX_VISITS]
    title = "Follow-up, films without edits"
    layout = PanelLayout(scene.sample, title, len(visits), extra=6.0)
    predictions = [scene.room.predict(visit) for visit in visits]
    for axis, visit, prediction in zip(layout.axes, visits, predictions, strict=True):
        lungs, severity_map = _enlarged_severity(prediction)
        name = visit.name.split(", ", 1)[1]
        if visit is scene.sample and len(visits) > 1:
            name += " (chosen)"
        layout.show_image(axis, prediction.image, name)
        _draw_contours(axis, severity_map, lungs, scene.state.threshold)
    axis = layout.add_axes(layout.right + 1.0, FOOT + 0.1, 4.8, SIDE - 0.3)
    score = np.array([prediction.severity for prediction in predictions])
    _draw_course(scene, axis, visits, score)
    return layout


PANELS: dict[str, Callable[[Scene], PanelLayout]] = {
    "preprocessing": _draw_preprocessing,
    "findings": _draw_findings,
    "lungs": _draw_lungs,
    "tokens": _draw_tokens,
    "attention": _draw_attention,
    "relevance": _draw_relevance,
    "severity": _draw_severity,
    "zone lines": _draw_zone_lines,
    "prediction": _draw_prediction,
    "follow-up": _draw_follow_up,
}


@figure_style()
def draw_panel(room: Room, state: PanelState) -> Figure:
    """The figure of a panel.

    Args:
        room: holds the samples and the models.
        state: what to show.

    Raises:
        ValueError: the panel, the sample or the edit is unknown; the message lists the known ones.
    """
    name = state.sample or next(iter(room.samples))
    sample = room.samples[known(name, room.samples, "film")]
    prediction = room.predict(sample, state.edit, state.cell)
    draw = PANELS[known(state.panel, PANELS, "panel")]
    truth = room.truth(sample) if state.truth else None
    return draw(Scene(room, state, sample, prediction, truth)).figure


def summarise(room: Room, state: PanelState) -> str:
    """The prediction for a sample in one line of HTML."""
    sample = room.samples[state.sample]
    prediction = room.predict(sample, state.edit, state.cell)
    best = int(prediction.diagnosis.argmax())
    name = list(DIAGNOSIS_NAMES.values())[best]
    parts = [
        f"<b>{name} {prediction.diagnosis[best]:.2f}</b>, severity {prediction.severity:.1f} of 6 "
        f"({sample.view} model)"
    ]
    if sample.origin != "virtual" and room.is_virtual:
        parts.append("these models were trained on virtual films alone")
    if sample.origin == "uploaded":
        parts += [html.escape(note) for note in sample.notes]
    return " &middot; ".join(parts)
