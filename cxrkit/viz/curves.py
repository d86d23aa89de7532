"""Numbers as curves, points and intervals: every function returns a matplotlib Figure (see `plots`
for the house rules).
"""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from cxrkit.evaluation import metrics
from cxrkit.viz.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, stamp


def plot_court(table, criteria, title, synthetic=True):
    """Verdict of the court: a panel a criterion, a line a method with its 95 % interval; dashed =
    chance.

    table: DataFrame method, criterion, value, low, high (`court.verdict`); criteria: name -> (what
    it measures, +1 or -1).
    """
    methods = [name for name in dict.fromkeys(table["method"]) if name != "chance"]
    rows = -(-len(criteria) // 3)
    figure = Figure(figsize=(13, rows * (1.1 + 0.26 * len(methods))), layout="constrained")
    axes = figure.subplots(rows, 3, sharey=True, squeeze=False).ravel()
    for axis, (name, (what, sign)) in zip(axes, criteria.items(), strict=False):
        part = table[table["criterion"] == name].set_index("method")
        for y, method in enumerate(methods):
            if method in part.index:
                value, low, high = part.loc[method, ["value", "low", "high"]]
                colour = RED if method == "relevance" else BLUE
                axis.plot([low, high], [y, y], color=colour, linewidth=2.5)
                axis.plot(value, y, "o", color=colour, markersize=7)
        if "chance" in part.index:
            axis.axvline(part.loc["chance", "value"], color="0.3", linestyle="--")
        axis.set_title(f"{name} ({'more' if sign > 0 else 'less'} is better)")
        axis.set_xlabel(textwrap.fill(what, 40), fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        if name == "seconds":
            axis.set_xscale("log")
    for axis in axes[len(criteria) :]:
        axis.remove()
    axes[0].set_yticks(range(len(methods)), [name.replace("_", " ") for name in methods])
    axes[0].invert_yaxis()
    figure.suptitle(f"{title} (bars: 95 % intervals over patients; dashed: chance)")
    return stamp(figure) if synthetic else figure


def plot_cascade(rows, title, synthetic=True):
    """How alike maps stay while weights are shuffled from the head down; rows: DataFrame part,
    method, value (`court.randomised`).
    """
    parts = list(dict.fromkeys(rows["part"]))
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axis = figure.subplots()
    styles = [
        (colour, line)
        for line in ("-", "--", ":")
        for colour in (RED, BLUE, GREEN, ORANGE, SKY, PINK)
    ]
    for (method, part), (colour, line) in zip(
        rows.groupby("method", sort=False), styles, strict=False
    ):
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


LINES = (BLUE, RED, GREEN, ORANGE, PINK, SKY)  # of models or hospitals, in order


def plot_history(histories, title, score="validation score", synthetic=True):
    """Training curves: loss, and the score where it was taken, against the step; histories: name ->
    rows of history.json.
    """
    keys = [
        key
        for key in ("loss", "score")
        if any(row.get(key) is not None for rows in histories.values() for row in rows)
    ]
    figure = Figure(figsize=(5.5 * len(keys) + (len(keys) == 1) * 3, 4), layout="constrained")
    axes = figure.subplots(1, len(keys), squeeze=False)[0]
    for (name, rows), colour in zip(histories.items(), LINES, strict=False):
        for axis, key in zip(axes, keys, strict=True):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    {"loss": "-", "score": "o-"}[key],
                    color=colour,
                    linewidth=2,
                    label=name,
                )
    for axis, key in zip(axes, keys, strict=True):
        axis.set(xlabel="step", ylabel={"loss": "training loss", "score": score}[key])
        if key == "loss":
            axis.set_ylim(0, None)
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def plot_forest(rows, title, unit, chance=None, synthetic=True, digits=2):
    """Values with their intervals, one under the other; rows: DataFrame label, value, low, high
    and, for colours, `group`.
    """
    groups = list(dict.fromkeys(rows["group"])) if "group" in rows else []
    figure = Figure(figsize=(9, 0.42 * len(rows) + 1.5), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows.to_dict("records")):
        colour = LINES[groups.index(row["group"])] if groups else BLUE
        axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.5)
        axis.plot(row["value"], y, "o", color=colour, markersize=8)
        text = "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(
            row["value"], row["low"], row["high"], digits
        )
        axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=11)
    if chance is not None:
        axis.axvline(chance, color="0.4", linestyle="--", linewidth=1)
    axis.locator_params(axis="x", nbins=6)
    axis.set(yticks=range(len(rows)), title=title, xlabel=unit)
    axis.set_yticklabels(rows["label"])
    axis.grid(axis="x", alpha=0.3)
    axis.invert_yaxis()
    return stamp(figure) if synthetic else figure


def plot_cost(rows, cost, title, unit, synthetic=True):
    """What each model reaches, with its interval, and beside it what it takes.

    rows: DataFrame label, value, low, high and the column `cost`, whose name says its unit.
    """
    figure = Figure(figsize=(12, 0.36 * len(rows) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    y = np.arange(len(rows))
    left.hlines(y, rows["low"], rows["high"], color=BLUE, linewidth=2.5)
    left.plot(rows["value"], y, "o", color=BLUE, markersize=8)
    bars = right.barh(y, rows[cost], color=ORANGE)
    right.bar_label(bars, fmt="%.3g", padding=3, fontsize=10)
    right.set_xlim(0, 1.15 * rows[cost].max())
    left.set(xlabel=f"{unit} (bars: 95 % intervals)", yticks=y)
    left.set_yticklabels(rows["label"])
    left.grid(axis="x", alpha=0.3)
    left.invert_yaxis()
    right.set_xlabel(cost)
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def roc(y, p):
    """Rates of false and of true positives at every threshold, (n + 1,) each: equal scores are one
    step.
    """
    y, p = np.asarray(y, bool), np.asarray(p)
    order = np.argsort(-p, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(p[order])), len(p) - 1]  # of each run of equal scores
    hits = np.cumsum(y[order])[last]
    return np.r_[0, (last + 1 - hits) / (~y).sum()], np.r_[0, hits / y.sum()]


def plot_roc(scores, title, threshold=None, synthetic=True):
    """ROC curves, name -> (y, p) of 0/1 and scores; with a threshold, where each of them stands at
    it, and its rates in the legend.
    """
    figure = Figure(figsize=(9.5, 5.4), layout="constrained")
    axis = figure.subplots()
    for (name, (y, p)), colour in zip(scores.items(), LINES, strict=False):
        label = f"{name}: AUC {metrics.auc(y, p):.2f}"
        if threshold is not None:
            point = metrics.at_threshold(y, p, threshold)
            axis.plot(
                1 - point["specificity"],
                point["sensitivity"],
                "o",
                color=colour,
                markersize=12,
                markeredgecolor="black",
                zorder=3,
            )
            label += (
                f"\nsensitivity {point['sensitivity']:.2f}, specificity {point['specificity']:.2f}"
            )
        axis.plot(*roc(y, p), color=colour, linewidth=2.2, label=label)
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


def plot_use(scores, title, bins=5, synthetic=True):
    """May one believe the probability, and does acting on it help? Reliability and decision curve
    of name -> (y, p).
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = 0.01
    left.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for (name, (y, p)), colour in zip(scores.items(), LINES, strict=False):
        table = metrics.reliability(y, p, bins)
        some = table["n"] > 0
        left.plot(
            table["predicted"][some],
            table["observed"][some],
            "o-",
            color=colour,
            linewidth=1.5,
            markersize=4,
            label=f"{name}: ECE {metrics.ece(y, p, bins):.2f}",
        )
        left.scatter(
            table["predicted"][some],
            table["observed"][some],
            3 * table["n"][some] + 15,
            color=colour,
            alpha=0.7,
        )
        curve = metrics.decision_curve(y, p)
        best = max(best, np.nanmax(curve["model"]))
        right.plot(curve["thresholds"], curve["model"], color=colour, linewidth=2.2, label=name)
        right.plot(curve["thresholds"], curve["all"], color=colour, linestyle=":", linewidth=1.5)
    right.axhline(0, color="0.4", linewidth=1)
    left.set(
        xlabel="predicted probability",
        ylabel="observed share",
        title="Calibration (area of a dot: films)",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    right.set(
        xlabel="threshold: probability at which one acts",
        ylabel="net benefit (true positives a film)",
        ylim=(-0.25 * best, 1.2 * best),
        title="Decision curve (dotted: act on all; 0: on none)",
    )
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=11)
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def plot_matrix(frames, title, unit, low=None, high=None, columns="", rows="", synthetic=True):
    """Tables of numbers as heat maps side by side with one scale; frames: name -> DataFrame,
    `columns` and `rows` say what these are.
    """
    values = np.concatenate([np.ravel(frame) for frame in frames.values()]).astype(float)
    low, high = (
        (np.nanmin(values) if low is None else low),
        (np.nanmax(values) if high is None else high),
    )
    shape = next(iter(frames.values())).shape
    figure = Figure(
        figsize=((1.0 * shape[1] + 1.8) * len(frames) + 1.2, 0.75 * shape[0] + 2.1),
        layout="constrained",
    )
    axes = figure.subplots(1, len(frames), squeeze=False)[0]
    for axis, (name, frame) in zip(axes, frames.items(), strict=True):
        shown = axis.imshow(
            frame.to_numpy(float), cmap="viridis", vmin=low, vmax=high, aspect="auto"
        )
        for i, j in np.ndindex(frame.shape):
            value = frame.iat[i, j]
            axis.text(
                j,
                i,
                "-" if np.isnan(value) else f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=11,
                color="white" if value <= (low + high) / 2 else "black",
            )
        axis.set(
            title=name, xlabel=columns, xticks=range(frame.shape[1]), yticks=range(frame.shape[0])
        )
        turned = max(len(str(name)) for name in frame.columns) > 3
        axis.set_xticklabels(
            frame.columns, rotation=35 if turned else 0, ha="right" if turned else "center"
        )
        axis.set_yticklabels(frame.index)
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(rows)
    figure.colorbar(shown, ax=axes, label=unit, shrink=0.9)
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def plot_agreement(truth, read, title, unit="severity (0-6)", synthetic=True):
    """Read score against true score (n,), and Bland and Altman's plot: difference over mean, bias
    and 95 % limits.
    """
    truth, read = np.asarray(truth, float), np.asarray(read, float)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    jitter = np.random.default_rng(0).uniform(-0.15, 0.15, len(truth))
    left.plot([0, 6], [0, 6], color="0.5", linestyle="--")
    left.plot(truth + jitter, read, "o", color=BLUE, alpha=0.45, markersize=6)
    left.set(
        xlabel=f"true {unit}",
        ylabel=f"read {unit}",
        xlim=(-0.4, 6.4),
        ylim=(-0.4, 6.4),
        title="dashed: perfect reading",
    )
    limits = metrics.bland_altman(read, truth)
    right.plot((truth + read) / 2, read - truth, "o", color=BLUE, alpha=0.45, markersize=6)
    for name, style in (("bias", "-"), ("low", "--"), ("high", "--")):
        right.axhline(limits[name], color=RED, linestyle=style)
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
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def plot_followup(visits, read, true, limit, title, synthetic=True):
    """Score over time of a few patients, one panel each: lists of (k,) arrays. A ring marks a
    change beyond `limit` since the visit before.

    true: None, or true scores, dashed.
    """
    figure = Figure(figsize=(3.4 * len(visits), 3.6), layout="constrained")
    axes = figure.subplots(1, len(visits), sharey=True, squeeze=False)[0]
    for i, (axis, at, score) in enumerate(zip(axes, visits, read, strict=True)):
        axis.plot(at, score, "o-", color=BLUE, markersize=8, label="read")
        if true is not None:
            axis.plot(at, true[i], "s--", color="0.4", markersize=6, label="true")
        moved = 1 + np.where(np.abs(np.diff(score)) > limit)[0]
        axis.plot(
            np.asarray(at)[moved],
            np.asarray(score)[moved],
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
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure


def plot_dial(rows, title, at=None, synthetic=True):
    """The confound dial: AUC against marker strength, a panel a reader; inside the marker tells the
    diagnosis, outside it tells nothing.

    rows: DataFrame reader, rho, place ("internal", "external"), value, low, high; `at`: a rho to
    point out.
    """
    readers = list(dict.fromkeys(rows["reader"]))
    figure = Figure(figsize=(4.3 * len(readers), 4.2), layout="constrained")
    axes = figure.subplots(1, len(readers), sharey=True, squeeze=False)[0]
    for axis, reader in zip(axes, readers, strict=True):
        for place, colour in (("internal", ORANGE), ("external", BLUE)):
            part = rows[(rows["reader"] == reader) & (rows["place"] == place)].sort_values("rho")
            axis.plot(
                part["rho"],
                part["value"],
                "o-",
                color=colour,
                linewidth=2.2,
                markersize=7,
                label=place,
            )
            axis.fill_between(part["rho"], part["low"], part["high"], color=colour, alpha=0.2)
            for value in part.loc[part["rho"] == at, "value"]:
                axis.annotate(
                    f"{value:.2f}",
                    (at, value),
                    (0, 12),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                    weight="bold",
                )
        if at is not None:
            axis.axvline(at, color="0.4", linestyle=":")
        axis.set(
            xlabel="marker strength rho (0-1)",
            title=f"reads {reader}",
            xticks=(0, 0.25, 0.5, 0.75, 1),
            ylim=(0.5, 1),
        )
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("macro AUC (band: 95 % interval)")
    axes[0].legend(frameon=False, loc="lower left")
    figure.suptitle(title)
    return stamp(figure) if synthetic else figure
