"""Figures of numbers: training curves, ROC and calibration curves, intervals, tables, agreement.

n images of a curve, K classes, k visits of a patient. See `style` for what all figures share.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxrkit.evaluation import metrics
from cxrkit.viz.style import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    StyledFigure,
    figure_style,
    legend_below,
    short_number,
    stamp,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LINES = (BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK, BROWN)  # of models or hospitals, in order
CASCADE_COLOURS = (RED, BLUE, GREEN, ORANGE, SKY, PINK)
PANELS_IN_ROW = 3  # of the benchmark
MOST_INSIDE = 3  # curves of a training whose legend finds room between them
SCORED = Mapping[str, tuple[np.ndarray, np.ndarray]]  # name -> (labels 0 or 1, scores), (n,) each


def _finish(figure: Figure, title: str, synthetic: bool) -> Figure:
    """Put the title over a figure, and say in its corner where the patients are virtual."""
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def _criterion_panel(axis: Axes, part: pd.DataFrame, methods: Sequence[str]) -> None:
    """Value and interval of each method on one criterion; part: indexed by method."""
    for y, method in enumerate(methods):
        if method not in part.index:
            continue
        value, low, high = part.loc[method, ["value", "low", "high"]]
        colour = RED if method == "relevance" else BLUE
        axis.plot([low, high], [y, y], color=colour, linewidth=2.5)
        axis.plot(value, y, "o", color=colour, markersize=7)
    if "chance" in part.index:
        axis.axvline(part.loc["chance", "value"], color="0.3", linestyle="--")


@figure_style()
def plot_benchmark(
    table: pd.DataFrame,
    criteria: Mapping[str, tuple[str, int]],
    title: str,
    synthetic: bool = True,
) -> Figure:
    """Results of the saliency benchmark: a panel a criterion, a line a method.

    Args:
        table: columns method, criterion, value, low, high (95 % interval); a method "chance" is
            shown as a dashed line.
        criteria: name -> (what it measures, +1 where more is better or -1 where less is).
        title: above the panels.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    methods = [name for name in dict.fromkeys(table["method"]) if name != "chance"]
    rows = -(-len(criteria) // PANELS_IN_ROW)
    height = rows * (1.1 + 0.26 * len(methods))
    figure = StyledFigure(figsize=(13, height), layout="constrained")
    axes = figure.subplots(rows, PANELS_IN_ROW, sharey=True, squeeze=False).ravel()
    for axis, (name, (measured, sign)) in zip(axes, criteria.items(), strict=False):
        part = table[table["criterion"] == name].set_index("method")
        _criterion_panel(axis, part, methods)
        axis.set_title(f"{name} ({'more' if sign > 0 else 'less'} is better)")
        axis.set_xlabel(textwrap.fill(measured, 40), fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        if name == "seconds":
            axis.set_xscale("log")
    for axis in axes[len(criteria) :]:
        axis.remove()
    axes[0].set_yticks(range(len(methods)), [name.replace("_", " ") for name in methods])
    axes[0].invert_yaxis()
    return _finish(
        figure, f"{title} (bars: 95 % intervals over patients; dashed: chance)", synthetic
    )


@figure_style()
def plot_cascade(rows: pd.DataFrame, title: str, synthetic: bool = True) -> Figure:
    """How similar saliency maps stay while weights are randomised from the head down.

    The check of Adebayo et al. 2018, "Sanity checks for saliency maps".

    Args:
        rows: columns part, method, value: rank correlation with the map of the trained model.
        title: above the axes.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    parts = list(dict.fromkeys(rows["part"]))
    styles = [(colour, line) for line in ("-", "--", ":") for colour in CASCADE_COLOURS]
    figure = StyledFigure(figsize=(9, 4.6), layout="constrained")
    axis = figure.subplots()
    by_method = rows.groupby("method", sort=False)
    for (method, part), (colour, line) in zip(by_method, styles, strict=False):
        means = part.groupby("part")["value"].mean().reindex(parts)
        axis.plot(
            ["nothing", *parts],
            [1, *means],
            line,
            color=colour,
            marker="o",
            markersize=5,
            label=method.replace("_", " "),
        )
    axis.axhline(0, color="0.6", linewidth=1)
    axis.set(
        title=title,
        xlabel="shuffled down to",
        ylabel="rank correlation with\nthe trained model's map",
        ylim=(-0.75, 1.05),
    )
    axis.legend(fontsize=10, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    return stamp(figure) if synthetic else figure


def _has_values(histories: Mapping[str, Sequence[dict]], key: str) -> bool:
    """Whether any row of any history has a value of `key`."""
    return any(row.get(key) is not None for rows in histories.values() for row in rows)


@figure_style()
def plot_history(
    histories: Mapping[str, Sequence[dict[str, Any]]],
    title: str,
    score: str = "validation score",
    synthetic: bool = True,
) -> Figure:
    """Training curves: the loss, and the score where it was computed, against the step.

    Args:
        histories: name -> rows of history.json: dicts with step, loss and score.
        title: above the panels.
        score: what the score is, for its axis.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    keys = [key for key in ("loss", "score") if _has_values(histories, key)]
    markers = {"loss": "-", "score": "o-"}
    labels = {"loss": "training loss", "score": score}
    width = 8.5 if len(keys) == 1 else 5.5 * len(keys)
    figure = StyledFigure(figsize=(width, 4), layout="constrained")
    axes = figure.subplots(1, len(keys), squeeze=False)[0]
    for (name, rows), colour in zip(histories.items(), LINES, strict=False):
        for axis, key in zip(axes, keys, strict=True):
            known = [row for row in rows if row.get(key) is not None]
            if not known:
                continue
            steps = [row["step"] for row in known]
            values = [row[key] for row in known]
            axis.plot(steps, values, markers[key], color=colour, linewidth=2, label=name)
    for axis, key in zip(axes, keys, strict=True):
        axis.set(xlabel="step", ylabel=labels[key])
        if key == "loss":
            axis.set_ylim(0, None)
    if len(histories) > MOST_INSIDE:
        legend_below(figure, framed=False)
    else:
        axes[0].legend(frameon=False)
    return _finish(figure, title, synthetic)


@figure_style()
def plot_forest(
    rows: pd.DataFrame,
    title: str,
    unit: str,
    chance: float | None = None,
    synthetic: bool = True,
    digits: int = 2,
) -> Figure:
    """Forest plot: values with their intervals, one below the other.

    Args:
        rows: columns label, value, low, high and, to colour by, group. A legend names the groups
            where the labels do not.
        title: above the axes.
        unit: of the values, for the axis.
        chance: where to draw a dashed line.
        synthetic: whether the images are of virtual patients; the figure then says so.
        digits: decimals of the numbers beside the bars.
    """
    groups = list(dict.fromkeys(rows["group"])) if "group" in rows else []
    figure = StyledFigure(figsize=(9, 0.42 * len(rows) + 1.5), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows.to_dict("records")):
        value, low, high = row["value"], row["low"], row["high"]
        colour = LINES[groups.index(row["group"])] if groups else BLUE
        axis.plot([low, high], [y, y], color=colour, linewidth=2.5)
        label = row["group"] if groups else None
        axis.plot(value, y, "o", color=colour, markersize=8, label=label)
        text = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=11)
    if chance is not None:
        axis.axvline(chance, color="0.4", linestyle="--", linewidth=1)
    axis.locator_params(axis="x", nbins=6)
    axis.set(yticks=range(len(rows)), title=title, xlabel=unit)
    axis.set_yticklabels(rows["label"])
    axis.grid(axis="x", alpha=0.3)
    axis.invert_yaxis()
    if len(groups) > 1 and not _named_by_labels(rows):
        legend_below(figure, framed=False)
    return stamp(figure) if synthetic else figure


def _named_by_labels(rows: pd.DataFrame) -> bool:
    """Whether every label says already which group its row belongs to."""
    return all(str(row.group) in str(row.label) for row in rows.itertuples())


@figure_style()
def plot_cost(
    rows: pd.DataFrame, cost: str, title: str, unit: str, synthetic: bool = True
) -> Figure:
    """What each model reaches, with its interval, and beside it what it costs.

    Args:
        rows: columns label, value, low, high and the one named by `cost`; NaN = not known.
        cost: name of the column of costs, with its unit.
        title: above both panels.
        unit: of the values.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    figure = StyledFigure(figsize=(12, 0.36 * len(rows) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    y = np.arange(len(rows))
    left.hlines(y, rows["low"], rows["high"], color=BLUE, linewidth=2.5)
    left.plot(rows["value"], y, "o", color=BLUE, markersize=8)
    bars = right.barh(y, rows[cost].fillna(0), color=ORANGE)
    labels = ["not known" if np.isnan(value) else short_number(value) for value in rows[cost]]
    right.bar_label(bars, labels, padding=3, fontsize=10)
    most = rows[cost].max()
    right.set_xlim(0, 1.15 * most if most > 0 else 1)
    left.set(xlabel=f"{unit} (bars: 95 % intervals)", yticks=y)
    left.set_yticklabels(rows["label"])
    left.grid(axis="x", alpha=0.3)
    left.invert_yaxis()
    right.set_xlabel(cost)
    return _finish(figure, title, synthetic)


def roc_curve(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold; equal scores are one step.

    Args:
        y: (n,) labels, 0 or 1.
        p: (n,) scores.

    Returns:
        Two arrays (m + 1,), for m different scores, from (0, 0) to (1, 1).
    """
    y, p = np.asarray(y, bool), np.asarray(p)
    order = np.argsort(-p, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(p[order])), len(p) - 1]  # of each run of equal scores
    true_positives = np.cumsum(y[order])[last]
    false_positives = last + 1 - true_positives
    return np.r_[0, false_positives / (~y).sum()], np.r_[0, true_positives / y.sum()]


@figure_style()
def plot_roc(
    scores: SCORED, title: str, threshold: float | None = None, synthetic: bool = True
) -> Figure:
    """ROC curves with their AUC.

    Args:
        scores: name -> (y, p): labels 0 or 1 and scores, (n,) each.
        title: above the axes.
        threshold: where given, the operating point of each curve is marked, and its sensitivity
            and specificity are in the legend.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    figure = StyledFigure(figsize=(9.5, 5.4), layout="constrained")
    axis = figure.subplots()
    for (name, (y, p)), colour in zip(scores.items(), LINES, strict=False):
        label = f"{name}: AUC {metrics.auc(y, p):.2f}"
        if threshold is not None:
            point = metrics.at_threshold(y, p, threshold)
            sensitivity, specificity = point["sensitivity"], point["specificity"]
            axis.plot(
                1 - specificity,
                sensitivity,
                "o",
                color=colour,
                markersize=12,
                markeredgecolor="black",
                zorder=3,
            )
            label += f"\nsensitivity {sensitivity:.2f}, specificity {specificity:.2f}"
        axis.plot(*roc_curve(y, p), color=colour, linewidth=2.2, label=label)
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    axis.axhline(0.8, color="0.6", linestyle=":", linewidth=1)
    axis.set(
        xlabel="1 - specificity",
        ylabel="sensitivity",
        title=title,
        aspect="equal",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=11)
    return stamp(figure) if synthetic else figure


def _calibration_panel(axis: Axes, scores: SCORED, bins: int) -> None:
    """Reliability diagram: observed share against predicted probability in equal bins."""
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for (name, (y, p)), colour in zip(scores.items(), LINES, strict=False):
        table = metrics.reliability(y, p, bins)
        filled = table["n"] > 0
        predicted, observed = table["predicted"][filled], table["observed"][filled]
        axis.plot(
            predicted,
            observed,
            "o-",
            color=colour,
            linewidth=1.5,
            markersize=4,
            label=f"{name}: ECE {metrics.ece(y, p, bins):.2f}",
        )
        axis.scatter(predicted, observed, 3 * table["n"][filled] + 15, color=colour, alpha=0.7)
    axis.set(
        xlabel="predicted probability",
        ylabel="observed share",
        title="Calibration (area of a dot: films)",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    axis.legend(frameon=False, fontsize=11)


def _net_benefit_panel(axis: Axes, scores: SCORED) -> None:
    """Net benefit of acting on the model, on all images and on none, against the threshold."""
    best = 0.01
    for (name, (y, p)), colour in zip(scores.items(), LINES, strict=False):
        curve = metrics.decision_curve(y, p)
        best = max(best, np.nanmax(curve["model"]))
        axis.plot(curve["thresholds"], curve["model"], color=colour, linewidth=2.2, label=name)
        axis.plot(curve["thresholds"], curve["all"], color=colour, linestyle=":", linewidth=1.5)
    axis.axhline(0, color="0.4", linewidth=1)
    axis.set(
        xlabel="threshold: probability at which one acts",
        ylabel="net benefit (true positives a film)",
        ylim=(-0.25 * best, 1.2 * best),
        title="Decision curve (dotted: act on all; 0: on none)",
    )
    axis.legend(frameon=False, fontsize=11)


@figure_style()
def plot_decision_curve(
    scores: SCORED, title: str, bins: int = 5, synthetic: bool = True
) -> Figure:
    """Calibration and decision curve: is a probability right, and does acting on it help?

    Args:
        scores: name -> (y, p): labels 0 or 1 and probabilities, (n,) each.
        title: above both panels.
        bins: equal bins of the calibration.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    figure = StyledFigure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _calibration_panel(left, scores, bins)
    _net_benefit_panel(right, scores)
    return _finish(figure, title, synthetic)


def _write_values(axis: Axes, frame: pd.DataFrame, shown: AxesImage) -> None:
    """Write the numbers of a heat map into its cells, white on its dark colours.

    Args:
        axis: of the heat map.
        frame: the numbers.
        shown: the drawn heat map.
    """
    for i, j in np.ndindex(frame.shape):
        value = float(frame.iat[i, j])
        luminance = np.dot(shown.to_rgba(np.nan_to_num(value))[:3], (0.299, 0.587, 0.114))
        is_dark = luminance < 0.5 and not np.isnan(value)
        axis.text(
            j,
            i,
            "-" if np.isnan(value) else f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=11,
            color="white" if is_dark else "black",
        )


@figure_style()
def plot_matrix(
    frames: Mapping[str, pd.DataFrame],
    title: str,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    columns: str = "",
    rows: str = "",
    synthetic: bool = True,
) -> Figure:
    """Tables of numbers as heat maps side by side, on one scale.

    Where the scale holds numbers of both signs it is symmetric, and its colours diverge from white
    at 0: orange above, purple below.

    Args:
        frames: name -> table. NaN is shown as "-".
        title: above all.
        unit: of the numbers, for the colour bar.
        low: lower end of the scale, by default the smallest number.
        high: upper end of the scale, by default the largest number.
        columns: what the columns are.
        rows: what the rows are.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    values = np.concatenate([np.ravel(frame) for frame in frames.values()]).astype(float)
    low = float(np.nanmin(values)) if low is None else low
    high = float(np.nanmax(values)) if high is None else high
    colours = "viridis"
    if low < 0 < high:
        colours, high = "PuOr_r", max(-low, high)
        low = -high
    height = max(len(frame) for frame in frames.values())
    width = max(len(frame.columns) for frame in frames.values())
    figure = StyledFigure(
        figsize=((1.0 * width + 1.8) * len(frames) + 1.2, 0.75 * height + 2.1),
        layout="constrained",
    )
    axes = figure.subplots(1, len(frames), squeeze=False)[0]
    for axis, (name, frame) in zip(axes, frames.items(), strict=True):
        numbers = frame.to_numpy(float)
        shown = axis.imshow(numbers, cmap=colours, vmin=low, vmax=high, aspect="auto")
        _write_values(axis, frame, shown)
        axis.set(title=name, xlabel=columns)
        axis.set(xticks=range(len(frame.columns)), yticks=range(len(frame)))
        long_names = max(len(str(name)) for name in frame.columns) > 3
        axis.set_xticklabels(
            frame.columns,
            rotation=35 if long_names else 0,
            ha="right" if long_names else "center",
        )
        axis.set_yticklabels(frame.index)
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(rows)
    figure.colorbar(shown, ax=axes, label=unit, shrink=0.9)
    return _finish(figure, title, synthetic)


@figure_style()
def plot_agreement(
    truth: Sequence[float],
    predicted: Sequence[float],
    title: str,
    unit: str = "severity (0-6)",
    synthetic: bool = True,
) -> Figure:
    """Predicted against true severity, and the Bland-Altman plot with bias and 95 % limits.

    Args:
        truth: (n,) true scores, 0-6.
        predicted: (n,) predicted scores, 0-6.
        title: above both panels.
        unit: of the scores.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    true, read = np.asarray(truth, float), np.asarray(predicted, float)
    figure = StyledFigure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    jitter = np.random.default_rng(0).uniform(-0.15, 0.15, len(true))
    left.plot([0, 6], [0, 6], color="0.5", linestyle="--")
    left.plot(true + jitter, read, "o", color=BLUE, alpha=0.45, markersize=6)
    left.set(
        xlabel=f"true {unit}",
        ylabel=f"read {unit}",
        xlim=(-0.4, 6.4),
        ylim=(-0.4, 6.4),
        title="dashed: perfect reading",
    )
    limits = metrics.bland_altman(read, true)
    mean, difference = (true + read) / 2, read - true
    right.plot(mean, difference, "o", color=BLUE, alpha=0.45, markersize=6)
    for name, line in (("bias", "-"), ("low", "--"), ("high", "--")):
        right.axhline(limits[name], color=RED, linestyle=line)
        right.annotate(
            f"{limits[name]:+.2f}",
            (1.01, limits[name]),
            xycoords=("axes fraction", "data"),
            color=RED,
            va="center",
        )
    right.set(
        xlabel=f"mean of the two, {unit}",
        ylabel="read - true",
        title="line: bias, dashed: 95 % limits",
    )
    return _finish(figure, title, synthetic)


@figure_style()
def plot_followup(
    visits: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    true: Sequence[np.ndarray] | None,
    limit: float,
    title: str,
    synthetic: bool = True,
) -> Figure:
    """Severity over time, a panel a patient; a ring marks a change that exceeds noise.

    Args:
        visits: a patient each, (k,) numbers of the visits.
        predicted: a patient each, (k,) predicted scores, 0-6.
        true: the same for true scores, shown dashed, or None.
        limit: a change since the visit before beyond this gets a ring.
        title: above all.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    figure = StyledFigure(figsize=(3.4 * len(visits), 3.6), layout="constrained")
    axes = figure.subplots(1, len(visits), sharey=True, squeeze=False)[0]
    for i, axis in enumerate(axes):
        at, score = np.asarray(visits[i]), np.asarray(predicted[i])
        axis.plot(at, score, "o-", color=BLUE, markersize=8, label="read")
        if true is not None:
            axis.plot(at, true[i], "s--", color="0.4", markersize=6, label="true")
        changed = 1 + np.where(np.abs(np.diff(score)) > limit)[0]
        axis.plot(
            at[changed],
            score[changed],
            "o",
            markersize=17,
            markerfacecolor="none",
            markeredgecolor=RED,
            markeredgewidth=2,
            label=f"change beyond noise (> {limit:.1f})",
        )
        axis.set(xlabel="visit", ylim=(-0.6, 6.6), xticks=at)
    axes[0].set_ylabel("severity (0-6)")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=10,
        frameon=False,
    )
    return _finish(figure, title, synthetic)


def _point_out(axis: Axes, x: float, values: Sequence[float], colour: str) -> None:
    """Write values above their points at x."""
    for value in values:
        axis.annotate(
            f"{value:.2f}",
            (x, value),
            (0, 12),
            textcoords="offset points",
            ha="center",
            color=colour,
            weight="bold",
        )


@figure_style()
def plot_sweep(
    rows: pd.DataFrame, title: str, at: float | None = None, synthetic: bool = True
) -> Figure:
    """Confounder sweep: AUC against marker strength, a panel a linear probe.

    Inside, the marker agrees with the diagnosis with strength rho; outside it says nothing of it.

    Args:
        rows: columns probe, rho, split ("internal", "external"), value, low
            and high (95 % interval).
        title: above the panels.
        at: a value of rho whose AUCs are written out.
        synthetic: whether the images are of virtual patients; the figure then says so.
    """
    probes = list(dict.fromkeys(rows["probe"]))
    figure = StyledFigure(figsize=(4.3 * len(probes), 4.2), layout="constrained")
    axes = figure.subplots(1, len(probes), sharey=True, squeeze=False)[0]
    for axis, probe in zip(axes, probes, strict=True):
        for split, colour in (("internal", ORANGE), ("external", BLUE)):
            chosen = (rows["probe"] == probe) & (rows["split"] == split)
            part = rows[chosen].sort_values("rho")
            axis.plot(
                part["rho"],
                part["value"],
                "o-",
                color=colour,
                linewidth=2.2,
                markersize=7,
                label=split,
            )
            axis.fill_between(part["rho"], part["low"], part["high"], color=colour, alpha=0.2)
            if at is not None:
                _point_out(axis, at, part.loc[part["rho"] == at, "value"], colour)
        if at is not None:
            axis.axvline(at, color="0.4", linestyle=":")
        axis.set(
            xlabel="marker strength rho (0-1)",
            title=f"reads {probe}",
            xticks=(0, 0.25, 0.5, 0.75, 1),
            ylim=(0.5, 1),
        )
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("macro AUC (band: 95 % interval)")
    axes[0].legend(frameon=False, loc="lower left")
    return _finish(figure, title, synthetic)


def _line_panel(axis: Axes, rows: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Values of each model over x with bars of their intervals, set a little apart."""
    is_log = rows["x"].min() > 0 and rows["x"].max() / rows["x"].min() > 4
    ticks = sorted(rows["x"].unique())
    for number, (model, part) in enumerate(rows.groupby("model", sort=False)):
        ordered = part.sort_values("x")
        share = (number - (rows["model"].nunique() - 1) / 2) * 0.012
        width = np.log(ticks[-1] / ticks[0]) if is_log else ticks[-1] - ticks[0]
        at = ordered["x"] * np.exp(share * width) if is_log else ordered["x"] + share * width
        colour = colours[str(model)]
        axis.vlines(at, ordered["low"], ordered["high"], color=colour, linewidth=1.8, alpha=0.6)
        axis.plot(at, ordered["value"], "o-", color=colour, linewidth=2, markersize=6, label=model)
    if is_log:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.grid(axis="y", alpha=0.3)


@figure_style()
def plot_model_lines(
    panels: Mapping[str, pd.DataFrame],
    title: str,
    unit: str,
    chance: float | None = None,
    synthetic: bool = True,
) -> Figure:
    """How models part as something grows: a panel a quantity, a line a model.

    An axis whose values span more than a factor of four is logarithmic.

    Args:
        panels: what the x axis is -> columns model, x, value, low, high (95 % interval). A model
            has one colour in all panels.
        title: above the panels.
        unit: of the values.
        chance: where to draw a dashed line.
        synthetic: whether the images are of virtual patients; the figure then says so.

    Raises:
        ValueError: there are more models than colours.
    """
    models = list(dict.fromkeys(m for rows in panels.values() for m in rows["model"]))
    if len(models) > len(LINES):
        raise ValueError(f"{len(models)} models, and colours for {len(LINES)}")
    colours = dict(zip(models, LINES, strict=False))
    figure = StyledFigure(figsize=(5.6 * len(panels), 5.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (quantity, rows) in zip(axes, panels.items(), strict=True):
        _line_panel(axis, rows, colours)
        axis.set_xlabel(quantity)
        if chance is not None:
            axis.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    axes[0].set_ylabel(f"{unit}\n(bars: 95 % intervals)")
    legend_below(figure, framed=False, columns=2 * len(panels))
    return _finish(figure, title, synthetic)
