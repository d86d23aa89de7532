# %% [markdown]
# # 02 Backbone: ten findings, where they lie, and the corpus
#
# **Aim.** Write probabilistic-CAM pooling (PCAM) by hand and see what it does to a gradient; train a DenseNet that finds ten things on a
# film; evaluate it on hospitals it has never seen; look where each finding is said to be; and take from it the corpus, the feature map that
# the Vision Transformer of lesson 04 reads.
#
# **Paper.** Park et al. 2021, sections 3.1 and 4; PCAM is from Ye et al. 2020. **Time.** Two minutes on two CPU cores, once lesson 00 has
# drawn the films.
#
# Research and teaching only: nothing here is a diagnostic device.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None

# %%
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

run = Run(profile, out, mirror)
names = viz.finding_names()
table = run.images("findings")
stamped = "synthetic" if table["dataset"].eq("virtual").all() else "research use only"

# %% [markdown]
# ## PCAM by hand
#
# A network ends in a map of cells, each with C features. To say yes or no it must pool the cells. The plain mean treats a cell of the
# collapsed lung like one of the shoulder. PCAM asks each cell first, with the *same* 1x1 convolution that will answer for the film: the
# probability of the finding in the cell is the weight of the cell.

# %%
g = torch.Generator().manual_seed(3)
features = torch.rand(1, 6, 4, 4, generator=g)  # (B, C, h, w)
logit_map = torch.full((1, 1, 4, 4), -2.0)  # (B, K, h, w): one finding
logit_map[0, 0, 2:, 1], logit_map[0, 0, 1, 2] = 2.0, 0.0  # two cells that are sure, one that is not

probability = 1 / (1 + (-logit_map).exp())  # of the finding in each cell
weight = probability / probability.sum(dim=(2, 3), keepdim=True)  # sums to 1 over the cells
pooled = torch.zeros(1, 1, 6)
for i in range(4):
    for j in range(4):
        pooled[:, 0] += weight[:, 0, i, j] * features[:, :, i, j]
torch.testing.assert_close(pooled, models.pcam_pool(features, logit_map))
print(
    "equal to models.pcam_pool; the two sure cells together weigh",
    f"{weight[0, 0, 2:, 1].sum():.2f} of 1",
)

# %% [markdown]
# The package writes the weight as a softmax of log-probabilities: the same number, but finite where the quotient is 0/0.

# %%
print(inspect.getsource(models.pcam_weights), inspect.getsource(models.pcam_pool), sep="\n")
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
# The convolution is linear, so the film's logit is the weighted mean L of the cells' logits l. Under the plain mean every cell hears the
# same, 1/16. Under PCAM, with p the probability of a cell and w its weight, the derivative is `w (1 + (1 - p)(l - L))`: the cells that
# found something hear most, and a cell that found nothing is pushed the *other* way, since a louder one would steal weight.

# %%
cells = logit_map.clone().requires_grad_()
film_logit = (models.pcam_weights(cells) * cells).sum()
film_logit.backward()
L = film_logit.detach()
torch.testing.assert_close(cells.grad, weight * (1 + (1 - probability) * (logit_map - L)))

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
# ## The network
#
# DenseNet features, a ReLU, one 1x1 convolution. `features` is the corpus.

# %%
print(inspect.getsource(models.Backbone))

# %% [markdown]
# Sizes are values of a profile. The paper's backbone stands here without memory or weights, on torch's `meta` device:

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
# **receptive field** is measured, not computed by rules: which pixels have a gradient on the features of the middle cell? On the left
# is the demo's backbone, whose late blocks have 1x1 convolutions only. On the right are the same sizes with 3x3 convolutions throughout,
# as DenseNet-121 has them. There every cell has seen the whole film, and a transformer that compares cells could learn nothing from the
# comparison that one cell does not know already (lesson 04 comes back to it).

# %%
sizes = run.virtual.profile.backbone
figure, axes = viz.grid(
    1, 2, size=4.2, title="What one cell of the corpus sees (yellow: the cell; white: a film)"
)
for axis, kernels in zip(axes[0], (sizes.kernels, (3, 3, 3, 3)), strict=True):
    network = models.build_backbone(
        replace(run.virtual.profile, backbone=replace(sizes, kernels=kernels))
    )
    field = models.receptive_field(network.features, 4 * side)  # (4 S, 4 S)
    width = int((field > 0).any(dim=0).sum())
    title = f"kernels {kernels}: {width} px of {side}"
    viz.show_image(axis, field.sqrt(), title, cmap="magma", vmin=0, vmax=1)
    for edge, colour in ((side, "white"), (sizes.stride, "yellow")):
        low = 2 * side + sizes.stride / 2 - edge / 2
        axis.add_patch(Rectangle((low, low), edge, edge, fill=False, color=colour))
figure

# %% [markdown]
# ## Labels that nobody is sure of
#
# CheXpert's labels were read from reports by a program: 1, 0, blank (not mentioned) and -1 (the report hedges). What a -1 means is one of
# the paper's open questions (choice 14). A made-up row that hedges everything but the effusion, in the four interpretations:

# %%
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
# Virtual patients have no such trouble: we know what we put into them. Unknown labels (NaN) take no part in the loss.
#
# ## Training
#
# One stage call. It trains on three hospitals (ten minutes of one core, where it does not come with the kit), and is evaluated on the
# other three.

# %%
print(
    inspect.getsource(tasks.FindingsTask.loss),
    inspect.getsource(tasks.findings.cross_entropy),
    sep="\n",
)
model, found = run.backbone.model, run.backbone.metrics
print(found["images"])

# %% tags=["report"]
viz.plot_history(
    {"backbone": run.backbone.history},
    f"Training of the backbone: binary cross-entropy, {len(data.FINDINGS)} findings",
    synthetic=stamped == "synthetic",
)

# %% [markdown]
# ## Evaluated on hospitals never seen
#
# AUC of each finding on all external films. Intervals are of 95 % and count *anatomies*, not films: all patients made of one bent body are
# one piece of evidence (of real films, all films of one patient). Size explains most of the order: a large heart or a lung full of water
# is hard to miss at 128 px; a plate of collapsed lung, a pleural line or a tube is one to four pixels thick, and no cell here sees more
# than a part of it.

# %% tags=["report"]
held_out = next(part for part in ("external", "folds", "test") if part in found)
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
viz.plot_forest(
    forest,
    "Findings on hospitals never seen",
    "AUC (95 % interval; n = films with the finding)",
    synthetic=stamped == "synthetic",
)

# %% [markdown]
# The same, hospital by hospital, beside the internal test films. One mean hides that a finding may be easy at one site and hard at another.


# %%
def cell(area):
    return (
        "-"
        if area["value"] is None
        else f"{area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]"
    )


sites = {"internal test": found["test"], **found.get("sites", {})}
pd.DataFrame(
    {
        where: [cell(part["findings"][key]["auc"]) for key in data.FINDINGS] + [cell(part["auc"])]
        for where, part in sites.items()
    },
    index=[*names, "mean"],
)

# %%
# NBVAL_CHECK_OUTPUT
areas = [found[held_out]["findings"][key]["auc"]["value"] for key in data.FINDINGS]
print("every finding above chance:", all(area > 0.5 for area in areas if area is not None))
print(
    "patients in training and test:",
    len(
        set(data.split_parts(table)["train"].patient_id)
        & set(data.split_parts(table)["test"].patient_id)
    ),
)

# %% [markdown]
# ## May one believe the probability?
#
# Right order is one thing, right numbers another. Of the films called 0.7, do 70 % have the finding? Prevalence differs between hospitals,
# so a probability learnt here need not hold there (ECE: the mean gap between the two, 0 = none). The right panel asks whether acting on it
# helps (lesson 04 explains it).

# %% tags=["report"]
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
viz.plot_decision_curve(
    scores, "Calibration of four findings, hospitals never seen", synthetic=stamped == "synthetic"
)

# %% [markdown]
# ## Where it lies
#
# The logit map was trained by nothing but ten labels a film. The first external film with four findings, the map of each finding, and,
# outlined in blue, the pixels that the finding's own lesions or devices change; the white line runs at half of the scale. "No finding"
# lies nowhere.

# %% tags=["report"]
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
# Choose a film, a finding and what to see: the probability of each cell, or its weight in PCAM (which sums to 1 even where nothing is: a
# weight map always points somewhere). First as a figure, then as a widget.


# %%
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
        title=f"{finding}: film says {chances[image, k]:.2f}, truth {gallery[data.FINDINGS[k]][image]:.0f}",
    )
    viz.show_image(
        axes[0, 0], images[image], f"hospital {gallery.site[image]}, {gallery.view[image]}"
    )
    drawn = viz.overlay_map(
        axes[0, 1], images[image], heat, f"{show} of each cell (blue: truth)", place, top
    )
    figure.colorbar(
        drawn,
        ax=axes[0, 1],
        shrink=0.8,
        label="of the finding" if show == "probability" else f"as a share of {top:.2f}",
    )
    return viz.stamp(figure, stamped)


first = names[int(gallery.loc[1, list(data.FINDINGS)].to_numpy(float).argmax())]
look(1, first, "weight")

# %%
viz.explore(
    look,
    start={"image": 1, "finding": first},
    image=(0, len(gallery) - 1, 1),
    finding=names,
    show=["probability", "weight"],
)

# %% [markdown]
# ## What PCAM buys, and what it does not
#
# The pointing game asks whether the highest cell of a finding's map touches the finding. Below: PCAM and plain averaging, trained with the
# same budget, three seeds each (new patients and new weights). Such runs are too long for a lesson: `make seeds` makes them. In the
# table of PCAM's own authors, with a full DenseNet-121 on CheXpert, it gains 0.001 of AUC over averaging; our network is small and its
# training short, where a hint of which cells matter can be worth more. What it buys on real films, this does not say.

# %% tags=["report"]
if run.recorded("seeds_backbone"):
    study = run.recorded("seeds_backbone")
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
else:
    print("not measured on these virtual hospitals yet: make seeds STUDY=backbone")

# %%
if run.recorded("seeds_backbone"):
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
# 1,024. Eight of its channels, those that vary most on this film:

# %% tags=["report"]
features = output["features"][0].numpy()  # (C, h, w)
most = features.std(axis=(1, 2)).argsort()[::-1][:8]
heats = features[most] / features[most].max(axis=(1, 2), keepdims=True)
figure, axes = viz.grid(
    2,
    4,
    size=2.1,
    title=f"Eight of {len(features)} channels of the corpus, each to its own maximum",
)
for axis, channel, heat in zip(axes.ravel(), most, heats, strict=True):
    drawn = viz.overlay_map(axis, images[0], heat, f"channel {channel}", top=1)
figure.colorbar(drawn, ax=axes, shrink=0.8, label="feature (0 to its maximum)")
viz.stamp(figure, stamped)

# %% [markdown]
# ## Real films
#
# With `mirror` set to a folder of prepared public films, the same network looks at NIH films it was not made for: it learnt from virtual
# patients alone. Whether it says anything about real ones is a question, not a promise; `cxrkit reproduce --profile mini` trains on them.

# %%
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
# 1. Pool the toy map by the plain mean and by the maximum (`models.POOLS`). Where does PCAM lie, and when does it become each of them?
# 2. "Opacity" is any lesion of the lung. Use `tasks.findings.twins` on the external films: do two findings ever say the same? Then look at
#    consolidation and pneumonia: how often do they differ, and what does that mean for their two AUCs?
# 3. Move the threshold: choose it for a sensitivity of 80 % on the validation films and carry it to the external ones. What is the
#    sensitivity for each finding there?

# %% tags=["solution"]
# Exercise 1: scaled logits take PCAM from the mean of all cells to the mean of the sure ones.
ones = torch.zeros(1, 1, 4, 4)
ones[0, 0, 2:, 1] = 1.0
toy = ones.clone()  # one feature: 1 in two cells of sixteen, so mean 0.125 and maximum 1
for scale in (0, 1, 4, 16):
    print(f"logits x {scale}: PCAM {float(models.pcam_pool(toy, scale * (2 * ones - 1))):.3f}")

# %% tags=["solution"]
# Exercise 2: labels that say the same.
print("identical or opposite:", tasks.findings.twins(outer[list(data.FINDINGS)]) or "none")
print(
    "films where consolidation and pneumonia differ:",
    int((outer["consolidation"] != outer["pneumonia"]).sum()),
    "of",
    len(outer),
)

# %% tags=["solution"]
# Exercise 3: thresholds carried over.

every = run.backbone.predictions
val, far = every[every["part"] == "val"], every[every["part"] == held_out]
for key in data.FINDINGS:
    threshold = tasks.findings.metrics.operating_point(val[key], val[f"logit_{key}"])["threshold"]
    point = tasks.findings.metrics.at_threshold(far[key], far[f"logit_{key}"], threshold)
    print(f"{key}: sensitivity {point['sensitivity']:.2f}, specificity {point['specificity']:.2f}")

# %% [markdown]
# ## Next
#
# **03_segmentation** finds the lungs, also where a pneumonia hides them; **04_corpus_vit** reads the corpus.
