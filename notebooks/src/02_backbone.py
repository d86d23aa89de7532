# %% [markdown]
# # 02 Backbone: ten findings, where they lie, and the corpus
#
# **Aim.** Write probabilistic-CAM pooling (PCAM) by hand and see what it does to a gradient; train a DenseNet that finds ten things on a
# film; evaluate it on hospitals it has never seen; look where each finding is said to be; and take from it the corpus, the feature map that
# the Vision Transformer of lesson 04 reads.
#
# **Afterwards you can** write PCAM and say what it does to a gradient; read an AUC with its interval; measure what a cell of a feature map can
# see; and say when a map of a finding may be believed. **Before it:** convolutions, the sigmoid, gradient descent; lessons 00 and 01.
#
# **Paper.** Park et al. 2021, sections 3.1 and 4; PCAM is from Ye et al. 2020. **Time to teach:** 75 minutes, 30 of them for the
# exercises. **Time to run:** half a minute on two CPU cores: the trained network comes with the kit.
#
# Research and teaching only: nothing here is a diagnostic device.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None

# %% tags=["story"]
import inspect
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle

from cxrkit import Run, data, models, tasks, viz
from cxrkit.teaching import check, hint, schematic, train_yourself, what_to_see  # noqa: F401

run = Run(profile, out, mirror)
names = viz.finding_names()
table = run.images("findings")
stamped = "synthetic" if table["dataset"].eq("virtual").all() else "research use only"
model, found = run.backbone.model, run.backbone.metrics  # trained, and what was measured of it
schematic("pcam")

# %% [markdown]
# **What you should have seen.** The cells are used twice: above with a *logit* each (any number; its sigmoid is a probability), below with their
# features; the logits decide how much each cell's features count.
#
# ## PCAM, by your own hand
#
# A network ends in a map of h x w cells, each with C numbers, its *features*. To say yes or no of the whole film it must *pool* the cells: make
# one list of features out of many. The plain mean treats a cell of the collapsed lung like one of the shoulder. PCAM lets the cells differ. A
# 1x1 convolution, which is one weighted sum of the C features, the same for every cell, gives the logit of the finding in each cell. The
# larger the probability there, the larger the weight of the cell. The same weighted sum, taken of the pooled features, then answers for
# the film. With $l_{kij}$ the logit of finding $k$ in cell $(i, j)$ and $x_{ij}$ the features of the cell:
#
# $$p_{kij} = \frac{1}{1 + e^{-l_{kij}}},\qquad w_{kij} = \frac{p_{kij}}{\sum_{ij} p_{kij}},\qquad \text{pooled}_k = \sum_{ij} w_{kij}\, x_{ij}$$
#
# ### Exercise 02.1 (core)
#
# Write it for B films and K findings at once, so that it returns the pooled features (B, K, C). `check` compares your function with the package's on maps drawn anew;
# `hint("02.1")` helps, a little more each time (three times).


# %% tags=["exercise", "02.1"]
def pcam(features, logit_map):
    """features (B, C, h, w), logit_map (B, K, h, w) -> pooled features (B, K, C)."""
    probability = ...  # of each finding in each cell (B, K, h, w)
    weight = ...  # sums to 1 over the cells (B, K, h, w)
    return ...  # (B, K, C)


check("02.1", pcam)

# %% [markdown]
# The package writes the weight as a softmax of log-probabilities: the same number, but finite where the quotient is 0/0 (all probabilities
# too small for the computer). A toy map goes through it: two cells are sure of the finding (logit 2), one cannot say (0), thirteen see nothing (-2).

# %%
# NBVAL_CHECK_OUTPUT
print(inspect.getsource(models.pcam_weights), inspect.getsource(models.pcam_pool), sep="\n")
logit_map = torch.full((1, 1, 4, 4), -2.0)  # (B, K, h, w)
logit_map[0, 0, 2:, 1], logit_map[0, 0, 1, 2] = 2.0, 0.0
probability = logit_map.sigmoid()
weight = models.pcam_weights(logit_map)
torch.testing.assert_close(weight, probability / probability.sum(dim=(2, 3), keepdim=True))
print(f"the two sure cells together weigh {weight[0, 0, 2:, 1].sum():.2f} of 1")
far = torch.full((1, 1, 4, 4), -110.0)
print(
    "quotient at logits of -110:",
    float((far.sigmoid() / far.sigmoid().sum())[0, 0, 0, 0]),
    " package:",
    float(models.pcam_weights(far)[0, 0, 0, 0]),
)

# %% [markdown]
# ## What PCAM does to the gradient
#
# Training changes the network along a gradient: how much would the film's logit rise if the logit of a cell rose? The convolution is linear, so
# the film's logit $L$ is the weighted mean of the cells' logits $l$. Under the plain mean every cell has the same gradient, 1/16. Under PCAM,
# with $p$ the probability of a cell and $w$ its weight, it is
#
# $$\frac{\partial L}{\partial l} = w \, \bigl(1 + (1 - p)(l - L)\bigr)$$
#
# The cells that found something have the largest. Where $(1 - p)(L - l)$ exceeds 1 the gradient is *negative*: if such a cell believed a
# little more, it would take weight from the cells that found something, and the film's logit would fall.

# %%
# NBVAL_CHECK_OUTPUT
cells = logit_map.clone().requires_grad_()
film_logit = (models.pcam_weights(cells) * cells).sum()
film_logit.backward()
L = film_logit.detach()
torch.testing.assert_close(cells.grad, weight * (1 + (1 - probability) * (logit_map - L)))

print(f"cells with a negative gradient: {(cells.grad < 0).sum()} of 16")
figure, axes = viz.grid(1, 4, size=3.1, title="One finding on a 4x4 map")
shown = {
    "logit of each cell": logit_map,
    "weight under PCAM": weight,
    "gradient under PCAM": cells.grad,
    "gradient under the mean": torch.full_like(weight, 1 / 16),
}
for axis, (title, values) in zip(axes[0], shown.items(), strict=True):
    low, high = (-2, 2) if "logit" in title else (-0.1, 0.3)
    drawn = viz.show_image(axis, values[0, 0], title, cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(drawn, ax=axis, shrink=0.8)
figure

# %% [markdown]
# **What you should have seen.** Weight and gradient are largest in the two sure cells and smaller in the one that cannot say. In the thirteen
# others the weight is small but not 0, and the gradient is slightly below 0. Under the mean all sixteen have the same.
#
# ## The network
#
# A *DenseNet* (each layer of a block reads the outputs of all layers before it in the block), a ReLU (negative numbers become 0), one 1x1
# convolution. `features` is the corpus. In `forward`, see where the logit map, the weights and the pooled logits come from.

# %%
print(inspect.getsource(models.Backbone))

# %% [markdown]
# Sizes are values of a *profile*: `demo` is small, `paper` is the paper's. The paper's backbone is built here on torch's `meta` device, where a
# network has shapes but no numbers:

# %%
# NBVAL_CHECK_OUTPUT
with torch.device("meta"):
    full = models.Backbone()
    corpus = full.features(torch.empty(1, 1, 512, 512))
print(
    "paper: corpus",
    tuple(corpus.shape[1:]),
    "from 512 px,",
    f"{sum(w.numel() for w in full.features.parameters()):,}",
    "weights",
)
small = models.build_backbone(run.virtual.profile).eval()
side = run.virtual.profile.image_size
print(
    "demo: corpus",
    tuple(small.features(torch.zeros(1, 1, side, side)).shape[1:]),
    f"from {side} px",
)

# %% [markdown]
# ## What a cell can see
#
# A cell of the corpus stands for a square of the film, but it *sees* more: every 3x3 convolution lets it look one step further. Its
# **receptive field**, the pixels that can change its features, is measured here and not computed by rules: which pixels have a gradient on the
# features of the middle cell? On the left is the demo's backbone: the convolutions of its four blocks are 3x3, 3x3, 1x1 and 1x1. On the right
# they are 3x3 throughout, as in DenseNet-121. There every cell can see the whole film. Then a transformer, which compares cells (lesson 04),
# learns nothing from the comparison that one cell could not know by itself. The picture is four films wide; the brighter, the larger the gradient.

# %%
# NBVAL_CHECK_OUTPUT
sizes = run.virtual.profile.backbone
torch.manual_seed(0)
figure, axes = viz.grid(1, 2, size=3.2, title="What one cell of the corpus sees")
for axis, kernels in zip(axes[0], (sizes.kernels, (3, 3, 3, 3)), strict=True):
    network = models.build_backbone(
        replace(run.virtual.profile, backbone=replace(sizes, kernels=kernels))
    )
    field = models.receptive_field(network.features, 4 * side)  # (4 S, 4 S)
    width = int((field > 0).any(dim=0).sum())
    print(f"kernels {kernels}: wider than the film: {width > side}")
    title = f"sees {width} px; film {side} px"
    viz.show_image(axis, field.sqrt(), title, cmap="magma", vmin=0, vmax=1)
    for edge, colour, name in ((side, "white", "a film"), (sizes.stride, "yellow", "the cell")):
        low = 2 * side + sizes.stride / 2 - edge / 2
        axis.add_patch(Rectangle((low, low), edge, edge, fill=False, color=colour, label=name))
viz.legend_below(figure)
figure

# %% [markdown]
# **What you should have seen.** On the left the spot is a few cells wide and ends inside the film. On the right it is wider than the film; its
# edge is faint, because far pixels change the features little.
#
# ## Labels that nobody is sure of
#
# The labels of CheXpert, the public films that the paper's backbone learnt from, were read from reports by a program: 1, 0, blank (not
# mentioned, read as 0) and -1 (the report is not sure). The paper does not say what it makes of a -1. The kit names four answers (choice 14):
# *mixed* (1 for edema and atelectasis, 0 for the others), *ignore* (unknown), *zeros* and *ones*. A made-up row that is sure of nothing but
# the effusion:

# %%
# NBVAL_CHECK_OUTPUT
columns = (
    "No Finding,Cardiomegaly,Lung Opacity,Edema,Consolidation,Pneumonia,Atelectasis,"
    "Pneumothorax,Pleural Effusion,Support Devices"
).split(",")
path = "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"
row = [path, "Frontal", "AP", "", *["-1.0"] * 7, "1.0", ""]
head = ["Path", "Frontal/Lateral", "AP/PA", *columns]
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "train.csv").write_text("\n".join([",".join(head), ",".join(row)]) + "\n")
    read = {
        how: data.read_manifest(
            "chexpert", folder, replace(run.profile.choices, uncertain=how)
        ).loc[0, list(data.FINDINGS)]
        for how in data.OPEN_CHOICES["uncertain"][1]
    }
answers = {
    how: values.map(lambda v: "unknown" if np.isnan(v) else f"{v:.0f}").to_numpy()
    for how, values in read.items()
}
pd.DataFrame({"in the file": row[3:], **answers}, index=names)

# %% [markdown]
# Each column is another training set made of the same report. Virtual patients have no such trouble: we know what we put into them. Unknown
# labels (NaN) take no part in the loss.
#
# ## One step of training, by your own hand
#
# *Training* repeats one step: take a few films (a *batch*), compute the loss, and move every weight a little against its gradient. The loss here is the
# *cross-entropy*: minus the logarithm of the probability that the model gave to what is true, the mean over the films. How far a step goes is the
# *learning rate*: too small and nothing happens, too large and the loss jumps. The smallest model has one weight for each feature; here $w$ is
# the list of them (above it was the weight of a cell). With $p_i$ the probability of film $i$ of $n$, $y_i$ its label, $x_i$ its features and
# $\eta$ the learning rate:
#
# $$p_i = \frac{1}{1 + e^{-w \cdot x_i}},\qquad g = \frac{\partial\, \text{loss}}{\partial w} = \frac{1}{n} \sum_i (p_i - y_i)\, x_i,\qquad w \leftarrow w - \eta\, g$$
#
# ### Exercise 02.5 (core): one step
#
# Write one such step; it returns the new weights. `check` compares with torch's own gradient and optimiser; `hint("02.5")` helps. The loop of this kit, `training.fit`, does the same with
# a better optimiser, a learning rate that rises and falls, and a checkpoint now and then.


# %% tags=["exercise", "02.5"]
def one_step(weight, features, labels, learning_rate):
    """Weight (C,), features (n, C), labels 0 or 1 (n,) -> weight after one step (C,)."""
    return ...


check("02.5", one_step)

# %% [markdown]
# ## Training
#
# `run.backbone` loads the trained network, or trains it where it does not come with the kit. It has learnt from three hospitals (*train*). Films
# of their other patients choose settings (*val*, for validation) and test it (*test*). The films of three more hospitals are *external*: no
# training has seen those hospitals. Its loss, and the number of films of each kind:

# %%
# NBVAL_CHECK_OUTPUT
print(inspect.getsource(tasks.findings.cross_entropy))
print("films:", found["images"])

# %% [markdown]
# **Train it yourself, 60 seconds.** The curve below is stored. Behind the button the same network starts from random weights and learns from
# some of the films, with the same loop; its losses on them and on validation films are drawn while they fall. Watch where they part.

# %% tags=["report", "story"]
history, scored = run.backbone.history, run.backbone.predictions
held_out = next(part for part in ("external", "folds", "test") if part in found)
title = f"Training of the backbone: binary cross-entropy, {len(data.FINDINGS)} findings"
display(viz.plot_history({"backbone": history}, title, synthetic=stamped == "synthetic"))
far = {}
for part, rows in scored.groupby("part"):
    z = rows[[f"logit_{key}" for key in data.FINDINGS]].to_numpy()  # (films, findings)
    far[part] = np.nanmean(np.logaddexp(0, z) - rows[list(data.FINDINGS)].to_numpy() * z)
said = ", ".join(f"{loss:.3f} ({part})" for part, loss in far.items())
seen = what_to_see(
    f"The loss of the training films ends at {history[-1]['loss']:.3f}; of films not trained on it is: {said}.",
    "A falling curve of the *training* films does not say that the network gets better on others. A "
    "network can learn its training films by heart (*over-fitting*): then films of other patients "
    "have a larger loss. What the external films have beyond those of *test* comes from the hospital.",
)
frozen = run.profile.backbone.frozen  # then it keeps these features
start = [model.state_dict()] if frozen else []
display(seen, train_yourself(run.backbone.task, table, model, lambda: start))

# %% [markdown]
# ## Evaluated on hospitals never seen
#
# An **AUC** is the chance that a film with the finding gets a larger score than one without: 0.5 is a guess, 1 is perfect order. Below is that of
# each finding on all external films. Intervals are of 95 %, by *bootstrap* (the films are drawn anew with replacement, many times, and the
# middle 95 % of the results are kept). They count *anatomies*, not films: many virtual patients are made of the same body, and their films are
# one piece of evidence together (of real films, all films of one patient). Size matters: a large heart or a lung full of water
# is hard to miss at 128 px; a plate of collapsed lung (*atelectasis*) or the line of a *pneumothorax* is one to four pixels thick, and no
# cell here sees more than a part of it. A tube is as thin, but it is long and brighter than all around it. *No finding* must exclude all others.

# %% tags=["report", "story"]
outside = found[held_out]
rows = [
    {
        "label": f"{name} (n = {outside['findings'][key]['auc']['n']})",
        **outside["findings"][key]["auc"],
        "group": "finding",
    }
    for key, name in zip(data.FINDINGS, names, strict=True)
    if outside["findings"][key]["auc"]["value"] is not None
]
rows.sort(key=lambda row: -row["value"])
forest = pd.DataFrame([*rows, {"label": "mean", **outside["auc"], "group": "mean"}])
scale = "AUC (95 % interval; n = films with the finding)"
title = "Findings on hospitals never seen"
display(viz.plot_forest(forest, title, scale, synthetic=stamped == "synthetic"))
lost = [row["label"].split(" (")[0] for row in rows if row["low"] <= 0.5]
what_to_see(
    f"From {rows[0]['label']}: {rows[0]['value']:.2f}, to {rows[-1]['label']}: "
    f"{rows[-1]['value']:.2f}. Not shown to be better than a guess: {', '.join(lost) or 'none'}.",
    "The mean hides how far the findings lie apart.",
)

# %% [markdown]
# The same, hospital by hospital, beside the internal test films. One mean hides that a finding may be easy at one site and hard at another. The
# last lines check that nobody is in training and test at once.


# %%
# NBVAL_CHECK_OUTPUT
def cell(area):
    return (
        "-"
        if area["value"] is None
        else f"{area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]"
    )


sites = {"internal test": found["test"], **found.get("sites", {})}
of_sites = {
    where: [cell(part["findings"][key]["auc"]) for key in data.FINDINGS] + [cell(part["auc"])]
    for where, part in sites.items()
}
display(pd.DataFrame(of_sites, index=[*names, "mean"]))
areas = [found[held_out]["findings"][key]["auc"]["value"] for key in data.FINDINGS]
print("every finding above chance:", all(area > 0.5 for area in areas if area is not None))
parts = data.split_parts(table)
both = set(parts["train"].patient_id) & set(parts["test"].patient_id)
print("patients in training and test:", len(both))

# %% [markdown]
# ## May one believe the probability?
#
# Right order is one thing, right numbers another. Of the films with a probability of 0.7, do 70 % have the finding? If so, the network is
# *calibrated*, and its dots lie on the dashed line (ECE: the mean distance from it, 0 = none). *Prevalence*, the share of films with the
# finding, differs between hospitals, so a probability learnt here need not hold there. The right panel asks whether acting on it
# helps (lesson 04 explains it).

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
predictions = run.backbone.predictions
predictions = predictions[predictions["part"] == held_out]
shown = [
    key
    for key in ("cardiomegaly", "consolidation", "atelectasis", "support_device")
    if set(predictions[key]) == {0, 1}
]
scores = {
    key.replace("_", " "): (predictions[key], 1 / (1 + np.exp(-predictions[f"logit_{key}"])))
    for key in shown
}
title = "Calibration of four findings, hospitals never seen"
display(viz.plot_decision_curve(scores, title, synthetic=stamped == "synthetic"))
trained = {key.replace("_", " "): parts["train"][key].mean() for key in shown}
said = [f"{k} {p.mean():.0%}, {y.mean():.0%}, {trained[k]:.0%}" for k, (y, p) in scores.items()]
what_to_see(
    f"Mean probability, prevalence here and in training: {'; '.join(said)}.",
    "Where a curve lies below the diagonal, the network promises more than comes true. If the two "
    "prevalences are alike, another share of ill films is not the cause: the network is too sure of "
    "itself on films that look unlike those of training.",
)

# %% [markdown]
# ## Where it lies
#
# The logit map was trained by nothing but ten labels a film. Below is the first external film with four findings, once for each finding. The
# number is the probability that the network gives to the film; the colours are the probability in each of the 8x8 cells, drawn smoothly; the
# white line runs at half of the scale. Blue outlines the pixels that the finding's own lesions or devices change. "No finding" lies nowhere.

# %% tags=["report", "story"]
outer = data.split_parts(table)["external"]
outer = outer if len(outer) else data.split_parts(table)["test"]
order = (outer[list(data.FINDINGS[1:])].sum(axis=1) - 4).abs().sort_values(kind="stable").index
gallery = outer.loc[order[:12]].reset_index(drop=True)
images = run.pixels(gallery)
with torch.no_grad():
    batch = run.backbone.task.dataset(gallery).batch(range(len(gallery)))
    output = {name: value.cpu() for name, value in model(batch["image"].to(run.device)).items()}
probability, chances = output["logit_map"].sigmoid().numpy(), output["logits"].sigmoid().numpy()


def truth(i, key):
    """bool (S, S), at the size of the model's input; None where nobody knows."""
    if "url" not in gallery:
        return None
    place = tasks.findings.finding_mask_from_url(gallery.url[i], key).astype(np.uint8)
    size = (run.profile.image_size,) * 2
    return cv2.resize(place, size, interpolation=cv2.INTER_NEAREST).astype(bool)


lies = np.stack([truth(0, key) for key in data.FINDINGS]) if "url" in table else None
viz.plot_findings(
    images[0],
    probability[0],
    names,
    chances[0],
    lies,
    f"Ten findings on a film of {gallery.site[0]} (bold: present)",
    stamped,
)

# %% [markdown]
# **What you should have seen.** Read the names first: a large number without bold letters is a false alarm, bold letters with a small number
# are a finding that the network missed. A map can be wrong in the same two ways: bright where nothing is, and dark where something is. A
# right answer with a bright spot outside of the blue outline is no sign that the model has seen the lesion.
#
# Choose a film, a finding and what to see: the probability of each cell, or its weight in PCAM. The weights sum to 1 even where nothing is, so
# a weight map always points somewhere. First as a figure, then as a widget.


# %%
# NBVAL_CHECK_OUTPUT
def look(image, finding, show):
    k = names.index(finding)
    heat = (
        probability[image, k] if show == "probability" else output["weight_map"][image, k].numpy()
    )
    place, top = truth(image, data.FINDINGS[k]), 1.0 if show == "probability" else float(heat.max())
    figure, axes = viz.grid(
        1,
        2,
        size=3.8,
        title=f"{finding}: predicted {chances[image, k]:.2f}, true {gallery[data.FINDINGS[k]][image]:.0f}",
    )
    viz.show_image(
        axes[0, 0], images[image], f"hospital {gallery.site[image]}, {gallery.view[image]}"
    )
    drawn = viz.overlay_map(axes[0, 1], images[image], heat, f"{show} of each cell", place, top)
    figure.colorbar(
        drawn,
        ax=axes[0, 1],
        shrink=0.8,
        label="of the finding" if show == "probability" else f"as a share of {top:.2f}",
    )
    viz.legend_below(figure)
    return viz.stamp(figure, stamped)


sums = output["weight_map"].sum((2, 3))
print("weights of every map sum to 1:", torch.allclose(sums, torch.ones(1), atol=1e-4))

# %%
first = names[int(gallery.loc[1, list(data.FINDINGS)].to_numpy(float).argmax())]
display(look(1, first, "weight"))
viz.explore(
    look,
    start={"image": 1, "finding": first},
    image=(0, len(gallery) - 1, 1),
    finding=names,
    show=["probability", "weight"],
)

# %% [markdown]
# **What you should have seen.** The brightest colour is the largest weight of this map; the number beside the bar says how little that may be. Switch
# to *probability*, and the spot fades where the network believes nothing.
#
# ## What PCAM buys, and what it does not
#
# The *pointing game* asks whether the highest cell of a finding's map touches the finding. To compare PCAM with plain averaging, both are trained
# for as many steps, with three *seeds* each (the number from which all random draws begin: new patients and new weights). That is too long
# for a lesson: `make seeds` does it, and the next two cells show the result where there is one. In the table of PCAM's own authors, with a
# full DenseNet-121 on CheXpert, it gains 0.001 of AUC over averaging. Virtual films cannot say what it buys on real ones.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
if run.recorded("seeds_pooling"):
    study = run.recorded("seeds_pooling")
    seeds = pd.DataFrame(study["rows"])
    labels = seeds["pool"].replace("pcam", "PCAM") + ", seed " + seeds["seed"].astype(str)
    hits = pd.DataFrame(
        {
            "label": labels,
            "group": seeds["pool"],
            "value": seeds["hit"],
            "low": seeds["hit_low"],
            "high": seeds["hit_high"],
        }
    )
    display(
        viz.plot_forest(
            hits.sort_values("group", kind="stable"),
            "Pointing game on hospitals never seen (dashed: chance)",
            "share of findings that the highest cell touches",
            chance=seeds["chance"].mean(),
        )
    )
    print(f"measured at commit {study['made']['commit']} by {study['made']['command']}")
    means = seeds.groupby("pool")["hit"].mean()
    said = ", ".join(f"{pool} {value:.2f}" for pool, value in means.items())
    display(what_to_see(f"Mean of the seeds: {said}; chance {seeds['chance'].mean():.2f}."))
else:
    print("not measured on these virtual hospitals yet: make seeds STUDY=pooling")

# %%
if run.recorded("seeds_pooling"):
    gains = seeds[seeds["pool"] == "pcam"].set_index("seed")
    area = seeds.pivot(index="seed", columns="pool", values="auc")
    display(
        pd.DataFrame(
            {
                "AUC, PCAM": area["pcam"].round(3),
                "AUC, average": area["average"].round(3),
                "AUC gained": (area["pcam"] - area["average"]).round(3),
                "hits gained [95 %]": [
                    f"{g.gain:+.3f} [{g.gain_low:+.3f}, {g.gain_high:+.3f}]"
                    for g in gains.itertuples()
                ],
            }
        )
    )
    better = int((gains["gain_low"] > 0).sum()), int((gains["gain_high"] < 0).sum())
    print(
        f"of {len(gains)} seeds, PCAM points better in {better[0]}, worse in {better[1]} (intervals without 0)"
    )

# %% [markdown]
# ## The corpus
#
# What goes on to the transformer is not the ten answers but the map before them, here 8x8 cells of 184 features, in the paper 16x16 of
# 1,024. One feature over all cells is a *channel*. Four channels, those that vary most on the film above:

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
features = output["features"][0].numpy()  # (C, h, w)
print("corpus of one film:", features.shape, "never below 0 (ReLU):", bool((features >= 0).all()))
most = features.std(axis=(1, 2)).argsort()[::-1][:4]
heats = features[most] / features[most].max(axis=(1, 2), keepdims=True)
title = f"Four of {len(features)} channels of the corpus, each to its own maximum"
figure, axes = viz.grid(1, 4, size=3.8, title=title)
for axis, channel, heat in zip(axes.ravel(), most, heats, strict=True):
    drawn = viz.overlay_map(axis, images[0], heat, f"channel {channel}", top=1)
figure.colorbar(drawn, ax=axes, shrink=0.8, label="feature (0 to its maximum)")
viz.stamp(figure, stamped)

# %% [markdown]
# **What you should have seen.** Channels that look alike: many features are large in the same cells. Each has its own scale. None is a finding
# by itself; the answer to a finding is a weighted sum of all of them.
#
# ## Real films
#
# With `mirror` set to a folder of prepared public films, the same network looks at NIH films it was not made for: it learnt from virtual
# patients alone. Whether it says anything about real ones is a question, not a promise; `cxrkit reproduce --profile mini` trains on them.

# %%
# NBVAL_CHECK_OUTPUT
if mirror and run.profile.manifests == ("virtual",):
    with tempfile.TemporaryDirectory() as temporary:
        real = run.real_images("nih_cxr14", mirror, temporary)
        task = Run(run.profile, temporary).task(tasks.FindingsTask)
        seen = tasks.findings.scores(task.predict(model, real))
    print(f"{len(real)} NIH films; labels that say the same: {', '.join(seen['same'])}")
    display(
        pd.DataFrame(
            {"AUC": [cell(seen["findings"][key]["auc"]) for key in data.FINDINGS]}, index=names
        )
    )
else:
    print("not available here: set the parameter `mirror` to a folder of prepared real films")

# %% [markdown]
# ## Exercises
#
# ### Exercise 02.2 (warm-up): between mean and maximum
#
# One feature is 1 in two cells of sixteen, so its mean is 0.125 and its maximum 1. The logits are +1 where the feature is and -1 elsewhere.
# What is the feature after PCAM? Answer with a number. Try larger and smaller logits too: when does PCAM become the mean of all cells, and when
# the mean of the two cells alone?

# %% tags=["exercise", "02.2"]
ones = torch.zeros(1, 1, 4, 4)
ones[0, 0, 2:, 1] = 1.0
logits = 2 * ones - 1
pooled = ...  # a number
check("02.2", pooled)

# %% [markdown]
# ### Exercise 02.3 (core): two findings, one label?
#
# Write a function that returns the pairs of findings whose labels say the same in every film: equal in all, or opposite in all. A film where one
# of the two is unknown (NaN) does not count. Then try it on `outer[list(data.FINDINGS)]`, and count the films where consolidation and pneumonia
# differ: what does that mean for their two AUCs?


# %% tags=["exercise", "02.3"]
def say_the_same(labels):
    """Table (films, findings) of 0, 1, NaN -> list of pairs of column names."""
    return ...


check("02.3", say_the_same)

# %% [markdown]
# ### Exercise 02.4 (project): a threshold goes on a journey
#
# A film is *called* when its score is at least the threshold; *sensitivity* is the share of the films with the finding that are called. Choose the
# highest threshold with a sensitivity of at least 80 % on validation films, and use it at another hospital. Write the function, which returns the
# sensitivity there; then run it on every finding (`run.backbone.predictions` has a column `part`, the truth of a finding and `logit_<finding>`).


# %% tags=["exercise", "02.4"]
def carry(y_val, p_val, y_far, p_far):
    """Labels 0 or 1 and scores, (n,) each -> sensitivity on the far films."""
    return ...


check("02.4", carry)

# %% [markdown]
# > **Take away.** (1) PCAM gives the cells that believe in a finding the largest weight. (2) A mean AUC hides that thin findings are hard at this
# > size. (3) A weight map always points somewhere; a probability map may stay dark. (4) The corpus is the map before the answers, and
# > lesson 04 builds on it.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. All logits of a finding's map are equal. What does PCAM give?
#    <details><summary>answer</summary>The plain mean: equal probabilities are equal weights.</details>
# 2. Why may the weight map of a healthy film show a bright spot?
#    <details><summary>answer</summary>Weights sum to 1 over the cells. If all are small, the largest of the small ones is still bright on
#    its own scale.</details>
# 3. A finding has an AUC of 0.55 with an interval from 0.50 to 0.59. What may you say?
#    <details><summary>answer</summary>That the network hardly orders films by it, if at all; certainly not that it finds it.</details>
# 4. Why do the intervals count anatomies and not films?
#    <details><summary>answer</summary>Films of one anatomy are alike. Counting each as new evidence makes the interval too short.</details>
# 5. What does a cell know if its receptive field covers the whole film?
#    <details><summary>answer</summary>In principle everything: then a comparison between cells can be made inside one cell, and a map of cells
#    says less about where.</details>
#
# **To read.** Ye et al. 2020, *Weakly supervised lesion localization with probabilistic-CAM pooling*,
# [arXiv 2005.14480](https://arxiv.org/abs/2005.14480). Huang et al. 2017, *Densely connected convolutional networks*,
# [arXiv 1608.06993](https://arxiv.org/abs/1608.06993). Irvin et al. 2019, *CheXpert*, [arXiv 1901.07031](https://arxiv.org/abs/1901.07031).
#
# ## Next
#
# **03_segmentation** asks whether the lungs are found also where a pneumonia hides them; **04_corpus_vit** reads the corpus.
