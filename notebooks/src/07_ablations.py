# %% [markdown]
# # 07 Ablations: which difference would you publish?
#
# **Aim.** The paper says that its model beats five others and that each of its choices is the best one. Build the others, run all of it as
# one grid of stage calls, and learn to say how much of a difference between two models is luck, and what each model costs.
#
# **Afterwards you can** write NT-Xent and Holm's correction; say why two models need the same films and several seeds; and decide by a rule that
# was fixed beforehand. **Before it:** lessons 02 and 04; what a p-value is.
#
# **Paper.** Park et al. 2021, sections 5.5 and 5.6, Tables 7 to 10. **Time to teach:** 75 minutes, 35 of them for the exercises. **Time to run:**
# two minutes on two CPU cores: the cells of the trial come with the kit.
#
# Research and teaching only: nothing here is a diagnostic device.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None
scheduler = None
workers = None

# %%
import contextlib
import inspect

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import HTML

from cxrkit import Run, evaluation, models, reproduction, viz
from cxrkit.teaching import check, hint, what_to_see  # noqa: F401

run = Run(profile, out, mirror)
synthetic = run.profile.manifests == ("virtual",)
grid = reproduction.grid_cells(run.profile)

# %% [markdown]
# ## The standard ViT is the proposed model without a corpus
#
# A ViT cuts the film into patches of 16x16 pixels and multiplies each with one matrix. Take a patch's 256 pixels as the channels of a cell,
# and that is what the corpus ViT does with its corpus: a 1x1 convolution. One code serves both, and the only thing that differs between
# "ViT" and "proposed" is what a token is made of: pixels, or findings.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
# a film of 2x2 patches, 5 numbers a token
image, kernel = torch.randn(1, 1, 32, 32), torch.randn(5, 1, 16, 16)
tokens = torch.stack(
    [
        (kernel[:, 0] * image[0, 0, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]).sum((1, 2))
        for i in range(2)
        for j in range(2)
    ]
)
cells = F.pixel_unshuffle(image, models.PATCH_SIZE)  # (1, 256, 2, 2)
torch.testing.assert_close(
    F.conv2d(cells, kernel.flatten(1)[:, :, None, None]).flatten(2)[0].T,
    tokens,
    atol=1e-4,
    rtol=1e-4,
)
print(f"{len(tokens)} patches, {tokens.shape[1]} numbers each; both ways give the same")
viz.plot_matrix(
    {"": pd.DataFrame(tokens.numpy(), [f"patch {i + 1}" for i in range(4)])},
    "Four tokens of a toy film",
    "value",
    columns="number of the embedding",
    synthetic=False,
)

# %% [markdown]
# **What you should have seen.** Each row is a token: five numbers, each a weighted sum of the 256 pixels of a patch. Nobody has said yet what a patch
# shows.
#
# ## SimCLR, by your own hand
#
# Table 9 also asks whether a transformer should first learn from films *without labels*. SimCLR shows each film twice, cropped and turned
# at random, and asks which of the other views is the same film. The loss (NT-Xent) is a cross-entropy over cosines. Three films:

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
a, b = torch.randn(2, 3, 4)  # two views of three films
z = torch.cat([a, b])
z = z / z.norm(dim=1, keepdim=True)
cosine = z @ z.T
loss = models.nt_xent(a, b)
print(f"of {len(z)} views each has 1 partner and {len(z) - 2} others")
names = [f"film {i + 1}{view}" for view in "ab" for i in range(3)]
viz.plot_matrix(
    {"": pd.DataFrame(cosine.numpy(), names, names)},
    f"Cosines of six views; loss {loss:.2f}, by chance log 5 = 1.61",
    "cosine",
    -1,
    1,
    synthetic=False,
)

# %% [markdown]
# **What you should have seen.** Ones on the diagonal, where a view meets itself. The twins (three places off the diagonal) are no closer than other
# pairs, except by luck: nothing has been learnt, and these views are noise.
#
# With $s_{ij}$ the cosine of views $i$ and $j$, $t$ the temperature and $i'$ the twin of $i$, the loss of 2B views is
#
# $$L = -\frac{1}{2B} \sum_i \log \frac{e^{s_{ii'}/t}}{\sum_{j \neq i} e^{s_{ij}/t}}$$
#
# ### Exercise 07.1 (core): NT-Xent
#
# Write it. `check` compares with the package; `hint("07.1")` helps.


# %% tags=["exercise", "07.1"]
def contrastive_loss(a, b):
    """Two views of the same films (B, P) -> loss, a scalar."""
    return ...


check("07.1", contrastive_loss)

# %% [markdown]
# ## The other models
#
# A feature extractor gives features; a convolutional network averages them, a transformer takes them as tokens. The weights of the ResNet carry
# torchvision's names and those of the hybrid timm's, so that published ImageNet weights load where a machine can fetch them. At this
# profile's size nothing is published: all start at random, and the proposed model starts from its findings. Keep this in mind.

# %%
print(inspect.getsource(models.ResNet))
print(inspect.getsource(reproduction.baselines))

# %%
# NBVAL_CHECK_OUTPUT
counted = {}
for cell in grid:
    if cell.stage == reproduction.DIAGNOSIS:
        # the published hybrid ViT needs the extra `weights`
        with contextlib.suppress(RuntimeError):
            counted[cell.name] = sum(
                weight.numel() for weight in models.build_classifier(cell.profile).parameters()
            )
print(f"the proposed model has {counted[reproduction.PROPOSED]:,} weights")
viz.plot_bars(
    list(counted),
    [n / 1000 for n in counted.values()],
    "Weights of each model of Tables 7 and 9",
    "thousands",
    synthetic=False,
)

# %% [markdown]
# The slim models have about as many weights as the proposed one (the DenseNet is by construction its backbone, and the "ResNet-152" is the deep one, as
# in the paper). Cells carry the paper's names, but this profile's sizes: in the demo the proposed model has 3 layers and 4 heads, "2 layers, 4 heads" has
# 1 and 2, "4 layers, 8 heads" 2 and 4; "1024 px input" is twice 128 px, and "Brixia alone" is one hospital alone, alder.
#
# Four rows of Table 7 are added by this kit. Three are there for fairness (*from findings* twice, *from scratch*): the paper's baselines
# came from ImageNet, its own model from 190,000 films with findings. **DenseNet-121, from findings** asks whether the *findings* win or
# the *transformer*. The fourth, *average-pooled backbone*, asks what PCAM is worth. Table 8 has the first of
# them alone.
#
# ## A grid of stage calls
#
# A cell of a table is a frozen profile and a stage. Its key is a hash of what it departs in, so that all cells share what they can: an
# ablation of the transformer never trains a backbone again.

# %%
# NBVAL_CHECK_OUTPUT
pd.DataFrame(
    [
        {
            "table": cell.table,
            "cell": cell.name,
            "compared with": cell.against,
            "stage": cell.stage,
            "key": cell.key[:6],
            "backbone": cell.key_of("backbone")[:6],
            "depends on": ", ".join(cell.depends_on),
        }
        for cell in grid
    ]
)

# %% [markdown]
# ## Rehearsal
#
# Here every cell runs for a few updates on a few films, two at a time in processes of one thread, or on a Dask cluster
# (`cxrkit reproduce --scheduler ADDRESS`). A worker that dies loses nothing: its task goes to another, which goes on from the checkpoint.
# A profile without `grid.steps` runs its whole budget at this point.

# %%
# NBVAL_CHECK_OUTPUT
rehearsal = reproduction.rehearsal_cells(run.profile)
# 0: one after the other, as on a card that all would share
several = reproduction.default_workers() if workers is None else workers
errors = {
    (cell.name, cell.stage): error
    for cell, error in reproduction.run_cells(rehearsal, run.store, scheduler, several)
}
print(f"{sum(error is None for error in errors.values())} of {len(rehearsal)} cells done")
for (name, stage), error in errors.items():
    if error:
        print(f"failed: {name}, {stage}: {error}")

# %%
whole = not run.profile.grid.steps
made = {
    (cell.stage, cell.name): cell for cell in rehearsal if errors[cell.name, cell.stage] is None
}
rows = [
    reproduction.measure_cell(cell, run.store, made.get((cell.stage, cell.against)))
    for cell in made.values()
]
tried = reproduction.over_seeds(rows)
print(
    "one seed, whole budget"
    if whole
    else f"updates of each: {run.profile.grid.steps}; not converged, no ranking"
)
tried[["table", "cell", "metric", "value", "parameters", "seconds", "memory_gb"]].round(2)

# %% [markdown]
# ## Why the same films, and why more than one seed
#
# Two models evaluated on the *same* films share the luck of those films. The interval of their difference, drawn patient by patient for both
# at once, is much narrower than two intervals side by side suggest. A toy: both models see the same hard and easy films.

# %% tags=["story"]
rng = np.random.default_rng(0)
truth, images = rng.integers(0, 2, 300), rng.normal(0, 1.3, 300)
strong, weak = (
    truth * 2.0 + images + rng.normal(0, 0.3, 300),
    truth * 1.7 + images + rng.normal(0, 0.3, 300),
)
alone = {name: evaluation.auc_ci(truth, p) for name, p in (("strong", strong), ("weak", weak))}
pair = evaluation.paired_bootstrap(evaluation.auc, truth, strong, weak, draws=500)
shown = [
    {"label": name, "value": v, "low": low, "high": high} for name, (v, low, high) in alone.items()
]
shown += [
    {
        "label": "0.5 + difference, paired",
        "value": 0.5 + pair["difference"],
        "low": 0.5 + pair["low"],
        "high": 0.5 + pair["high"],
    }
]
viz.plot_forest(
    pd.DataFrame(shown),
    "Intervals overlap, and yet the difference is clear",
    "AUC (dashed: no difference)",
    0.5,
    False,
)

# %% [markdown]
# But a patient interval knows nothing of the luck of *training*. So every seed draws new weights, on virtual hospitals new patients too, and the
# interval has two levels: seeds are drawn with replacement, then the patients of each. And ten comparisons at 5 % give a false difference in
# four of ten papers: Holm multiplies the smallest p by their number, the next by one fewer, and so on.

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
p = np.array([0.012, 0.20, 0.004, 0.03])
pd.DataFrame({"p": p, "adjusted by Holm": evaluation.holm(p)})

# %% [markdown]
# ### Exercise 07.2 (core): Holm
#
# Write it. An adjusted value is at most 1 and never below that of a smaller p. `check` compares with the package; `hint("07.2")` helps.


# %% tags=["exercise", "07.2"]
def adjust(p):
    """p-values (n,) -> adjusted by Holm (n,)."""
    return ...


check("07.2", adjust)

# %% [markdown]
# ## What `make grid` has measured
#
# Whole budgets, hospitals never seen. The grid takes hours and resumes; what has not run is said. A difference is the cell minus what it is
# compared with, on the same films. The interval of an AUC is computed on the logit scale, so that it stays between 0 and 1. Each row ends in a
# word that a rule chose: better, worse, equivalent (the interval of the difference lies inside a margin) or undecided. `detectable` is the
# smallest difference that so many seeds could have shown in four of five repetitions. `training` says whether more steps would have helped (its
# curve was flat, or twice the steps are known to bring less than the margin), or that no curve was kept; `note`, of which hospitals a row is, where these
# are not the present ones.

# %%
# NBVAL_CHECK_OUTPUT
committed = run.recorded("grid") or {"rows": [], "made": {"date": "-", "commit": "-"}}
tables = reproduction.recorded_rows(run.profile, committed["rows"])
table = pd.concat(tables.values(), ignore_index=True) if tables else tried[:0].assign(note="")
# as in the paper's tables, whatever was run first
order = {(cell.name, cell.stage): i for i, cell in enumerate(grid)}
table = table.iloc[np.argsort([order[pair] for pair in zip(table["cell"], table["stage"])])]
ran = set(zip(table["cell"], table["stage"]))
print(
    f"last written {committed['made']['date']}, commit {committed['made']['commit']}: {len(ran)} of {len(grid)} cells, seeds each: "
    f"{sorted(set(table['seeds'])) or 'none'}"
)
for stage, rows in tables.items():
    print(f"{stage}:", reproduction.note_on_rows(rows) or "settings of this run")
missing = [f"{cell.name} ({cell.table})" for cell in grid if (cell.name, cell.stage) not in ran]
print("not run yet:", ", ".join(missing) or "nothing")
columns = "table cell against seeds value low high difference difference_low difference_high holm conclusion detectable training note"
table[columns.split()].round(3)


# %%
def forest(stage):
    """Differences of one task, in hundredths of AUC or in MSE."""
    part = table[(table["stage"] == stage) & table["difference"].notna()]
    if part.empty:
        return f"{stage}: not run yet"
    scale = 100 if stage == reproduction.DIAGNOSIS else 1
    lines = pd.DataFrame(
        {
            "label": part["cell"] + " - " + part["against"] + ": " + part["conclusion"],
            "value": scale * part["difference"],
            "low": scale * part["difference_low"],
            "high": scale * part["difference_high"],
            "group": part["table"],
        }
    )
    unit = (
        "hundredths of macro AUC (below 0: worse)"
        if scale == 100
        else "MSE of the score 0-6 (above 0: worse)"
    )
    seeds = "-".join(map(str, sorted({part["seeds"].min(), part["seeds"].max()})))
    return viz.plot_forest(
        lines, f"Difference; {seeds} seeds a row; 95 % intervals", unit, 0, synthetic
    )


# %% tags=["report", "story"]
display(forest(reproduction.DIAGNOSIS))
what_to_see(
    "Left of 0 a cell is worse than what it is compared with. A bar that crosses 0 shows no difference; "
    "it does not show that there is none."
)

# %% tags=["report"]
display(forest(reproduction.SEVERITY))
what_to_see("Mind the scale: here right of 0 is worse, because MSE is an error.")

# %% [markdown]
# ## What the paper claims, and what we see
#
# A line for each claim: the paper's word, and ours on virtual hospitals and on public films. All is read from committed files; nobody
# typed a number or a word. Where several baselines stand against a claim, the closest one is shown.

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
with pd.option_context("display.max_colwidth", None):
    display(HTML(reproduction.claims_frame().to_html(index=False)))
print(reproduction.claim_legend())
print(reproduction.compute_split())
print()
for name, part in table.groupby("table", sort=False):
    print(f"{name}: {reproduction.conclusion(part)}")
print()
for note in reproduction.claim_notes():
    print("-", note)

# %% [markdown]
# Read three lines together: the proposed model against CNNs, against a CNN that learnt the same findings, and the sweep of attention. The paper
# gave the findings to its own model alone, and so it could not tell the two apart: the transformer, and what it was given. The row *from
# findings* can. And look at `training`: who is better than a model that has not converged, or that learnt nothing at all, has shown little.
#
# **Three seeds are few.** They say little of how far trainings differ, and with many comparisons Holm asks for a very small p of the first, so
# that a large difference of the means may still be "undecided". More seeds may settle it (`make grid` with more of them in `grid.seeds` of
# the profile, which this lesson reads). A difference that three seeds cannot carry is not shown to be absent: that is what "equivalent" says.

# %% [markdown]
# ## What it costs
#
# Accuracy is half of the answer. On the left what a cell reaches, on the right what it took, pre-training counted in: the findings that
# the proposed model learnt first were not free. Weights and memory are counted; seconds were taken on whatever machine ran the cell, and on a busy one
# they are too many (the least of the seeds is shown): compare them only within one quiet run. First a static figure, then the same with
# another cost.


# %%
# NBVAL_CHECK_OUTPUT
def cost(task, axis):
    """Value against cost, one task."""
    stage = {"diagnosis": reproduction.DIAGNOSIS, "severity": reproduction.SEVERITY}[task]
    part = (table if (table["stage"] == stage).any() else tried).query("stage == @stage")
    part = part.assign(
        **{
            "training, s": part["seconds"],
            "with pre-training, s": part["seconds"] + part["seconds_before"],
            "weights, thousands": part["parameters"] / 1e3,
            "memory of a step, GB": part["memory_gb"],
        }
    )
    note = "" if (table["stage"] == stage).any() else " (rehearsal: not converged, no ranking)"
    unit = {"diagnosis": "macro AUC", "severity": "MSE"}[task]
    return viz.plot_cost(
        part.rename(columns={"cell": "label"}),
        axis,
        f"{task}, hospitals never seen{note}",
        unit,
        synthetic,
    )


print(f"{table['seconds'].notna().sum()} of {len(table)} cells have a measured time")
cost("diagnosis", "with pre-training, s")

# %%
viz.explore(
    cost,
    task=["diagnosis", "severity"],
    axis=["with pre-training, s", "training, s", "weights, thousands", "memory of a step, GB"],
)

# %% [markdown]
# **What you should have seen.** Up is better for AUC, down for MSE; left is cheaper. A model is worth its cost only if none to the left of it does as
# well. Change the axis: the order by weights, by memory and by seconds is not the same.
#
# ## The named choices
#
# What the paper leaves open (lesson 00) is a field of the profile. Some choices need no training: the model of lesson 06 is evaluated again with
# each other value. The rest are cells of the grid (`python tools/grid.py --choices`), trained again from the first stage that the choice
# touches. A bar across 0 means that no effect of the choice was shown here, not that it has none. The slip of the authors'
# later code (`zone_origin=row0`) is the first to look at.


# %% tags=["report"]
def moved(stage):
    """What a choice moves, of the committed cells of this profile that were trained again."""
    cells = reproduction.open_choice_cells(run.profile)
    asked = {cell.key for cell in cells if cell.stage == stage}
    rows = [row for row in committed["rows"] if row["table"] == "choices" and row["key"] in asked]
    renamed = {"cell": "choice", "difference": "value"}
    renamed |= {"difference_low": "low", "difference_high": "high"}
    return [{new: row[old] for old, new in renamed.items()} for row in rows if "difference" in row]


def plot_moved(rows, title, unit):
    table = pd.DataFrame(rows).rename(columns={"choice": "label"})
    unit = f"change of the {unit} (hospitals never seen, one seed)"
    return viz.plot_forest(table, f"How much a choice moves {title}", unit, 0, synthetic, digits=3)


evaluated = run.severity_choices.metrics["choices"]
read = [{"choice": name, **effect["mse"]} for name, effect in evaluated.items()]
again = moved(reproduction.SEVERITY)
groups = ["evaluated again"] * len(read) + ["trained again"] * len(again)
rows = [row | {"group": group} for row, group in zip(read + again, groups, strict=True)]
title = "the severity score"
display(plot_moved(rows, title, "MSE, above 0: worse"))
largest = max(rows, key=lambda row: abs(row["value"]))
what_to_see(
    f"The choice that moves the score most is {largest['choice']}: {largest['value']:+.2f}."
)

# %% tags=["report"]
again = moved(reproduction.DIAGNOSIS)
if again:
    display(plot_moved(again, "the diagnosis", "macro AUC, below 0: worse"))
else:
    print("not measured here yet: python tools/grid.py --choices")

# %% [markdown]
# How a trained map is *scored* moves the score too: look at the lines that start at row 0, the slip in the authors' later code, and at the
# count of six hard values. A model that is *trained* with such lines can make up for them. And with one interval of 95 % for each of many
# choices, some leave 0 out by luck.

# %%
# NBVAL_CHECK_OUTPUT
print(
    "cells:",
    len(grid),
    "all with a key of their own:",
    len({(cell.stage, cell.key) for cell in grid}) == len(grid),
)
print(
    "backbones that the grid trains:",
    len({cell.key_of("backbone") for cell in grid}),
)
print("cells that failed:", {key: error for key, error in errors.items() if error})
print("rehearsed:", "not converged, no ranking" if run.profile.grid.steps else "whole budget")
print(
    "weights, times the proposed model's:",
    {
        name: round(counted[name] / counted[reproduction.PROPOSED], 2)
        for name in reproduction.baselines(run.profile)
        if name in counted
    },
)

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("07.3")` helps, a little more each time (three times).
#
# ### Exercise 07.3 (warm-up): a rule, written down before
#
# "publish" with three seeds or more and an adjusted p below 0.05; otherwise "no difference" where the interval lies between -0.01 and 0.01;
# otherwise "more seeds". Write it, then apply it to the rows of `table` (`seeds`, `holm`, `difference_low`, `difference_high`).


# %% tags=["exercise", "07.3"]
def decide(seeds, p, low, high):
    """Seeds, adjusted p-value, interval of the difference -> one of three answers."""
    return ...


check("07.3", decide)

# %% [markdown]
# ### Exercise 07.4 (project): how many seeds?
#
# One model's AUC has the standard deviation `spread` between seeds. Two models are compared with n seeds each, drawn anew for each model. How
# large must the mean difference be for a 95 % t interval (n - 1 degrees of freedom) to leave 0 out?


# %% tags=["exercise", "07.4"]
def smallest_difference(spread, n):
    """Standard deviation between seeds, number of seeds -> smallest difference that shows."""
    return ...


check("07.4", smallest_difference)

# %% [markdown]
# > **Take away.** (1) Two models on the same films are compared film by film. (2) A new seed draws new weights and new patients; one seed is an
# > anecdote. (3) Many comparisons need an adjustment. (4) A fair baseline gets the same data and the same time.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. Two intervals overlap. Is there no difference?
#    <details><summary>answer</summary>That does not follow. The interval of the paired difference decides.</details>
# 2. Ten comparisons at 5 %, no true difference. How often is at least one "significant"?
#    <details><summary>answer</summary>In about four studies of ten: 1 - 0.95 to the power of 10.</details>
# 3. Three seeds give p = 0.04, adjusted 0.30. What do you write?
#    <details><summary>answer</summary>That three seeds cannot show a difference; more seeds may.</details>
# 4. The proposed model was pre-trained on findings, the baselines were not. What does its lead show?
#    <details><summary>answer</summary>That one of the two helped, the architecture or the pre-training. A row with the baseline "from findings" separates them.</details>
# 5. What is the loss of NT-Xent if all vectors are equal?
#    <details><summary>answer</summary>log(2B - 1): every other view fits alike.</details>
#
# **To read.** Chen et al. 2020, *A simple framework for contrastive learning*, [arXiv 2002.05709](https://arxiv.org/abs/2002.05709). Holm 1979,
# [jstor 4615733](https://www.jstor.org/stable/4615733). Bouthillier et al. 2021, *Accounting for variance in machine learning benchmarks*,
# [arXiv 2103.03098](https://arxiv.org/abs/2103.03098).
#
# ## Next
#
# **08_shortcuts** asks what a model learns when the hospital gives the answer away.
