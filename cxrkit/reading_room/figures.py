"""Panels: the pictures of the reading room, `draw(room, State(...))` -> Figure; widgets, lessons
and tests call this one function.

S px of a film as shown, s px as the models see it, h w grid of the corpus.
"""

import html
from dataclasses import dataclass

import cv2
import numpy as np

from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, known
from cxrkit.data import lung_zones
from cxrkit.data import preprocessing as preprocessing_module
from cxrkit.evaluation import overlap
from cxrkit.reading_room.layout import (
    FOOT,
    PEN,
    SIDE,
    Sheet,
    bars,
    enlarged,
    frame,
    over,
    squares,
    tinted,
)
from cxrkit.reading_room.state import alike, rezone
from cxrkit.viz.style import BLUE, GREEN, ORANGE, RED, SKY, finding_names, outline, show_zones

NAMES = dict(zip(DIAGNOSES, ("normal", "other infection", "COVID-19"), strict=True))


@dataclass(frozen=True)
class State:
    """What the controls of the room stand at."""

    panel: str = "severity"
    film: str = ""  # a name in room.cases
    edit: str = "nothing"
    truth: bool = False
    cell: tuple[int, int] = (3, 2)  # row, column in the grid of the corpus
    finding: str = "opacity"
    disease: str = "covid19"
    layer: int = 0
    threshold: float = 0.5
    lines: tuple[float, float] = lung_zones.CUTS


def preprocessing(room, state, case, reading, truth):
    """The film, equalised, blurred, and as small as the models see it."""
    sheet = Sheet(case, "Preprocessing: what the models see", 4)
    equal = preprocessing_module.equalize(reading.shown)
    steps = {
        "film": reading.shown,
        "equalised": equal,
        "blurred 3x3": preprocessing_module.blur(equal),
        f"{len(reading.seen)} px": reading.seen,
    }
    for axis, (name, image) in zip(sheet.axes, steps.items(), strict=True):
        sheet.film(axis, image, name)
    return sheet


def the_findings(room, state, case, reading, truth):
    """Ten probabilities, and where the chosen finding is."""
    k = FINDINGS.index(state.finding)
    sheet = Sheet(case, f"Findings: {finding_names()[k]}", 2, extra=6.6)
    sheet.film(sheet.axes[0], reading.shown, "film")
    over(sheet, sheet.axes[1], reading.shown, reading.finding_maps[k], finding_names()[k], truth)
    sheet.bar("magma", 0, 1, "probability in a cell (0 to 1)")
    names = [
        f"{name} (present)" if truth and truth.findings[i] == 1 else name
        for i, name in enumerate(finding_names())
    ]
    bars(
        sheet.place(sheet.right + 2.7, FOOT, 3.5, SIDE),
        names,
        reading.findings,
        [ORANGE if i == k else BLUE for i in range(len(names))],
    )
    return sheet


def the_lungs(room, state, case, reading, truth):
    """The segmenter's lungs, and a reader's."""
    drawn = truth is not None and truth.lungs is not None
    sheet = Sheet(case, "Lungs, drawn by the segmenter", 3 if drawn else 2)
    large = enlarged(reading.lungs, reading.shown)
    sheet.film(sheet.axes[0], reading.shown, "film")
    sheet.film(sheet.axes[1], reading.shown, "patient's right blue, left orange")
    for side, colour in zip(lung_zones.sides(large), (SKY, ORANGE), strict=True):
        outline(sheet.axes[1], side, colour)
    if drawn:
        sheet.film(
            sheet.axes[2], reading.shown, f"true lungs: Dice {overlap.dice(truth.lungs, large):.2f}"
        )
        outline(sheet.axes[2], truth.lungs, GREEN)
    return sheet


def tokens(room, state, case, reading, truth):
    """Which cells are alike to the framed one, before the first block and after the last."""
    sheet = Sheet(case, "Tokens: how alike is every cell to the framed one?", 3)
    sheet.film(sheet.axes[0], reading.shown, "the framed cell")
    heat = alike(reading.tokens[[0, -1]], state.cell, room.grid)
    for axis, part, name in zip(
        sheet.axes[1:],
        heat,
        ("as it goes in", f"after {len(reading.tokens) - 1} blocks"),
        strict=True,
    ):
        sheet.film(
            axis, tinted(reading.shown, squares(part, reading.shown), "PuOr_r", -1, 1, 0.65), name
        )
    frame(sheet.axes, state.cell, room.grid, len(reading.shown))
    sheet.bar("PuOr_r", -1, 1, "cosine (-1 to 1)")
    return sheet


def attention(room, state, case, reading, truth):
    """Where the framed cell looks in one block: up to three heads, and the mean of all."""
    layer = min(state.layer, len(reading.attention) - 1)
    heads = reading.attention[layer]  # (N, T, T)
    # (N, h*w), 1 = an even share
    rows = heads[:, 1 + state.cell[0] * room.grid[1] + state.cell[1], 1:] * heads.shape[-1]
    top = max(float(rows.max()), 2.0)
    pictures = {
        **{f"head {i + 1}": row for i, row in enumerate(rows[:3])},
        f"mean of {len(rows)} heads": rows.mean(0),
    }
    sheet = Sheet(
        case, f"Attention in block {layer + 1}: where does the framed cell look?", 1 + len(pictures)
    )
    sheet.film(sheet.axes[0], reading.shown, "the framed cell")
    for axis, (name, row) in zip(sheet.axes[1:], pictures.items(), strict=True):
        sheet.film(
            axis,
            tinted(
                reading.shown,
                squares(row.reshape(room.grid), reading.shown),
                "viridis",
                0,
                top,
                0.65,
            ),
            name,
        )
    frame(sheet.axes, state.cell, room.grid, len(reading.shown))
    sheet.bar("viridis", 0, top, "times an even share")
    return sheet


def relevance(room, state, case, reading, truth):
    """What each cell contributed to each diagnosis, on one scale."""
    layer = min(state.layer, len(reading.attention) - 1)
    heat = room.relevance(case, state.edit, state.cell, layer)
    sheet = Sheet(case, f"Relevance from block {layer + 1} up", 4)
    sheet.film(sheet.axes[0], reading.shown, "film")
    top = max(float(heat.max()), 1e-12)
    for axis, part, name, p in zip(
        sheet.axes[1:], heat, NAMES.values(), reading.diagnosis, strict=True
    ):
        over(sheet, axis, reading.shown, part / top, f"{name}: {p:.2f}", truth)
    sheet.bar("magma", 0, 1, "0 to the largest of the three")
    return sheet


def the_severity(room, state, case, reading, truth):
    """The severity map, its contours, and the six zones."""
    title = f"Severity {reading.severity:.1f} of 6" + (
        f", true {np.nansum(truth.array):.0f}" if known_array(truth) else ""
    )
    sheet = Sheet(case, title, 3)
    film, contour, zone = sheet.axes
    lung = enlarged(reading.lungs, reading.shown)
    large = (
        cv2.resize(reading.severity_map, reading.shown.shape, interpolation=cv2.INTER_LINEAR) * lung
    )
    sheet.film(film, tinted(reading.shown, large, "magma", 0, 1, np.where(lung, 0.65, 0.0)), "map")
    sheet.film(contour, reading.shown, f"contours at {state.threshold:.2f}")
    for points in lung_zones.contours(large, lung, state.threshold):
        contour.plot(*points.T, color=RED, linewidth=2)
    if truth and truth.lesion is not None:
        outline(contour, truth.lesion, SKY)
    show_zones(
        zone, reading.shown, lung_zones.zones(lung[None], room.profile.choices)[0], reading.array
    )
    zone.set_title("six values", **PEN)
    sheet.bar("magma", 0, 1, "likelihood of disease (0 to 1)")
    return sheet


def lines(room, state, case, reading, truth):
    """The zones as the paper cuts them, and with lines of one's own."""
    sheet = Sheet(case, "Whoever moves the lines moves the score", 3)
    choices, large = room.profile.choices, reading.shown
    sheet.film(sheet.axes[0], large, "film")
    for axis, cuts, name in zip(
        sheet.axes[1:],
        (lung_zones.CUTS, state.lines),
        ("the paper's lines", "your lines"),
        strict=True,
    ):
        zones, array = rezone(reading, cuts, choices)
        zones = np.array([[enlarged(zone, large) for zone in pair] for pair in zones])
        show_zones(axis, large, zones, array)
        words = f"{name}: {array.sum():.1f}"
        if truth and truth.lesion is not None:
            outline(axis, truth.lesion, "white")
            words += f", true {(lung_zones.coverage(truth.lesion, zones) >= 0.01).sum()}"
        axis.set_title(words, **PEN)
    return sheet


def prediction(room, state, case, reading, truth):
    """Three probabilities, before and after an edit, their thresholds, and how often such a
    probability is right.
    """
    sheet = Sheet(case, f"Prediction ({case.view} model)", 1, extra=11.2)
    sheet.film(sheet.axes[0], reading.shown, "film" if state.edit == "nothing" else state.edit)
    axis = sheet.place(sheet.right + 1.7, FOOT, 3.6, SIDE - 0.3)
    names = [
        f"{name} (true)" if truth and truth.diagnosis == key else name
        for key, name in NAMES.items()
    ]
    bars(axis, names, reading.diagnosis, [BLUE] * len(names))
    for i, threshold in enumerate(room.thresholds(case.view).values()):
        axis.plot(
            [threshold] * 2,
            [i - 0.45, i + 0.45],
            color="black",
            linewidth=2.5,
            label="threshold" if i == 0 else None,
        )
    if state.edit != "nothing":
        before = room.read(case).diagnosis
        axis.plot(
            before,
            range(len(names)),
            "D",
            color=ORANGE,
            markersize=12,
            markeredgecolor="black",
            label="unedited film",
        )
    axis.legend(loc="lower right", fontsize=10, frameon=False, bbox_to_anchor=(1.0, 1.0), ncols=2)
    use = sheet.place(sheet.right + 7.2, FOOT, SIDE, SIDE - 0.3)
    table, p = (
        room.calibration(case.view, state.disease),
        reading.diagnosis[DIAGNOSES.index(state.disease)],
    )
    use.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    use.plot(table["predicted"], table["observed"], "o-", color=BLUE, markersize=9)
    use.axvline(p, color=RED, linewidth=3)
    within = min(int(p * len(table["n"])), len(table["n"]) - 1)
    use.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=f"model says {NAMES[state.disease]}",
        ylabel="share that has it",
    )
    said = (
        f"{table['observed'][within]:.0%} of {table['n'][within]} such films"
        if table["n"][within]
        else "no such films"
    )
    use.set_title(f"{p:.2f} here (red): {said}\nof other hospitals have it", fontsize=12)
    return sheet


def follow_up(room, state, case, reading, truth):
    """The patient's films with their contours, and severity over time: a ring marks a change that
    is more than noise.
    """
    visits = room.visits(case)[:4]
    sheet = Sheet(case, "Follow-up, films without edits", len(visits), extra=6.0)
    readings = [room.read(visit) for visit in visits]
    for axis, visit, one in zip(sheet.axes, visits, readings, strict=True):
        lung = enlarged(one.lungs, one.shown)
        sheet.film(
            axis,
            one.shown,
            f"{visit.name.split(', ', 1)[1]}"
            + (" (chosen)" if visit is case and len(visits) > 1 else ""),
        )
        for points in lung_zones.contours(
            cv2.resize(one.severity_map, one.shown.shape) * lung, lung, state.threshold
        ):
            axis.plot(*points.T, color=RED, linewidth=2)
    axis = sheet.place(sheet.right + 1.0, FOOT + 0.1, 4.8, SIDE - 0.3)
    score, at = np.array([one.severity for one in readings]), np.arange(1, len(visits) + 1)
    axis.plot(at, score, "o-", color=BLUE, markersize=10, label="read")
    moved = 1 + np.where(np.abs(np.diff(score)) > room.noise())[0]
    axis.plot(
        at[moved],
        score[moved],
        "o",
        markersize=20,
        markerfacecolor="none",
        markeredgecolor=RED,
        markeredgewidth=2.5,
    )
    if known_array(truth):
        axis.plot(
            at,
            [room.truth(visit).array.sum() for visit in visits],
            "s--",
            color="0.4",
            markersize=8,
            label="true",
        )
    axis.set(xticks=at, ylim=(-0.4, 6.4), xlabel="visit", ylabel="severity (0-6)")
    axis.set_title(
        f"ring: moved by more than {room.noise():.1f}"
        if len(visits) > 1
        else "no other film of this patient",
        fontsize=12,
    )
    axis.legend(frameon=False, fontsize=11)
    return sheet


PANELS = {
    "preprocessing": preprocessing,
    "findings": the_findings,
    "lungs": the_lungs,
    "tokens": tokens,
    "attention": attention,
    "relevance": relevance,
    "severity": the_severity,
    "zone lines": lines,
    "prediction": prediction,
    "follow-up": follow_up,
}


def known_array(truth):
    """Does anyone know all six zones?"""
    return truth is not None and not np.isnan(truth.array).any()


def draw(room, state):
    """The figure of a state. Raises ValueError for an unknown panel, film or edit."""
    case = room.cases[known(state.film or next(iter(room.cases)), room.cases, "film")]
    reading = room.read(case, state.edit, state.cell)
    sheet = PANELS[known(state.panel, PANELS, "panel")](
        room, state, case, reading, room.truth(case) if state.truth else None
    )
    return sheet.figure


def summary(room, state):
    """The prediction of a film in one line of HTML."""
    case = room.cases[state.film]
    reading = room.read(case, state.edit, state.cell)
    best = int(reading.diagnosis.argmax())
    words = f"<b>{list(NAMES.values())[best]} {reading.diagnosis[best]:.2f}</b>, severity {reading.severity:.1f} of 6 ({case.view} model)"
    notes = "".join(
        f" &middot; {html.escape(note)}" for note in case.notes if case.origin == "yours"
    )
    far = (
        " &middot; these models were trained on virtual films alone"
        if case.origin != "virtual" and room.virtual
        else ""
    )
    return words + far + notes
