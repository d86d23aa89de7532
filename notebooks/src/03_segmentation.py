# %% [markdown]
# # 03 Lungs: does a mask survive consolidation?
#
# **Aim.** Write adaptive instance normalisation in five lines; carry a chest from *abnormal* to *normal* and back; see a plain network lose
# the lung that is full of pneumonia; measure what the AdaIN segmenter does about it; see what a wrong mask does to the six zones.
#
# **Afterwards you can** write AdaIN and say what it forgets; read a difference of Dice with its interval; and tell what a method promises from
# what it delivers. **Before it:** lessons 00 and 01; what a U-Net is.
#
# **Paper.** Park et al. 2021, section 3.3: the severity map is multiplied by a lung mask; the mask comes from Oh & Ye 2021. **Time to teach:** 50
# minutes. **Time to run:** half a minute on two CPU cores. The trained networks and what was measured of them come with the kit (`cxrkit reproduce --fresh`
# trains here).
#
# Research and teaching only: nothing here is a diagnostic device.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None

# %%
import inspect

import numpy as np
import pandas as pd
import torch

from cxrkit import Run, data, models, tasks, viz
from cxrkit.teaching import check, hint, schematic, train_yourself, what_to_see  # noqa: F401

run = Run(profile, out, mirror)
task = run.segmenter.task

# %% [markdown]
# ## The problem
#
# Readers outline lungs on *normal* films: the border is easy to see there. A network trained on such films learns "lung = dark". Then comes a
# lobe full of pneumonia, as bright as the heart, and the network leaves it out. But that lobe is exactly what a severity score must count.
#
# Who does what in this lesson? `normal` films bring a mask, `abnormal` films bring none (their masks are not looked at, except by the
# U-Net that shows what masks of ill lungs are worth), and `test` films belong to patients who train nothing. Films with fewer than four ill zones are not used
# as abnormal ones: a small network cannot tell them from normal films, so there would be nothing to learn from the difference.

# %%
# NBVAL_CHECK_OUTPUT
table = tasks.segmentation.assign_roles(run.profile, run.segmenter_images)
display(pd.crosstab(table["role"].replace("", "not used"), table["diagnosis"]))
schematic("adain")

# %% [markdown]
# **What you should have seen.** Upper line: the image loses its own contrast and takes a new one. Lower line: two numbers for each channel say
# which. They do not depend on the place in the image, so no edge can move.
#
# ## AdaIN in five lines
#
# Instance normalisation gives every channel of every image mean 0 and standard deviation 1: contrast and brightness are forgotten, shapes
# stay. *Adaptive* instance normalisation then gives it a new mean and spread, and those are read off a *style*.
#
# $$y = (1 + \gamma)\,\frac{x - \mu}{\sqrt{\sigma^2 + 10^{-5}}} + \beta$$
#
# with $\mu$ and $\sigma^2$ the mean and variance of one channel of one image, $\gamma$ and $\beta$ two numbers for each channel, which the style
# gives.
#
# ### Exercise 03.1 (core): AdaIN
#
# Write it. `check` compares with the package; `hint("03.1")` helps.


# %% tags=["exercise", "03.1"]
def adain(x, gamma, beta):
    """x (B, C, H, W), gamma and beta (B, C) -> (B, C, H, W)."""
    return ...


check("03.1", adain)

# %% [markdown]
# On a film (one channel): the same picture under four styles. Nothing moved; only mean and spread are new. Inside the network the same
# happens to dozens of channels, some of which mean "opacity".

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
image = task.dataset(table[:1], size=run.profile.image_size)[0]["image"][
    None
]  # (1, 1, S, S), -1 to 1
styles = [(-0.6, 0.0), (-0.6, 0.5), (-0.8, 0.0), (-0.3, 0.0)]
shown = [
    models.adain(image, *(torch.tensor([[v]]) for v in style))[0, 0].numpy() for style in styles
]
made = all(np.isclose(x.mean(), b, atol=1e-3) for x, (_, b) in zip(shown, styles, strict=True))
print("beta is the mean of the film:", made)
made = all(np.isclose(x.std(), 1 + g, atol=1e-3) for x, (g, _) in zip(shown, styles, strict=True))
print("1 + gamma is its spread:", made)
grey = [np.uint8(np.clip((picture + 1) * 127.5, 0, 255)) for picture in shown]
viz.plot_steps(grey, [f"gamma {g}, beta {b}" for g, b in styles], "One film, four styles")

# %% [markdown]
# **What you should have seen.** Every edge is where it was. Gamma stretches or flattens the greys, beta makes all of them brighter or darker.
#
# ## One network, three jobs
#
# The generator has no flag that says what to do. With the style of a domain it makes a film of that domain; with none, it segments the lungs.

# %%
print(inspect.getsource(models.Generator.forward))
print(inspect.getsource(tasks.segmentation.teacher_logits))
print(inspect.getsource(models.Generator.segment))
schematic("distillation")

# %% [markdown]
# **What you should have seen.** One generator stands twice in the upper way. The lower way is shorter, and never sees a mask of an abnormal film.
#
# Training is a game in two stages. **Stage 1**: a *discriminator* learns to tell real films of a domain from made ones, the generator to
# fool it, and a film that goes there and *back* must come back (`cycle`). At the same time the generator segments the lungs of normal films.
# **Stage 2**: the *teacher* makes an abnormal film normal and segments its lungs; the *student* learns to segment the same in one pass, with a
# code of its own (`self_code`).
#
# The discriminator's loss is the familiar cross-entropy. Two logits by hand:

# %%
# NBVAL_CHECK_OUTPUT
logits = torch.tensor([0.0, 2.0])
by_hand = -torch.log(torch.sigmoid(logits)).mean()  # "both are real": minus log of the probability
torch.testing.assert_close(tasks.nonsaturating(logits, True), by_hand)
print(
    "chance level of the game, log 2 =",
    round(float(tasks.nonsaturating(torch.zeros(1), True)), 3),
)

# %% [markdown]
# ## Train, or load
#
# One call: both stages, then two plain U-Nets. One sees the same normal masks and nothing else; the other is also given the masks of
# abnormal films, which is what the method tries to do without.
#
# **Train it yourself, 60 seconds.** The curves below are stored. The button trains the U-Net that sees normal masks alone, from random weights,
# and draws its losses on films that it trains on and on validation films.

# %%
# NBVAL_CHECK_OUTPUT
folder = run.segmenter.folder
result, history = run.segmenter.metrics, run.segmenter.history
student, unet = (task.load(folder, name) for name in ("student", "unet_normal"))
teacher = task.load_teacher(folder)
print("The other lessons get their masks from:", result["output_network"])

# %% tags=["report"]
shares = {
    "lungs": "segmenting the lungs",
    "real": "discriminator: real",
    "fake": "discriminator: made",
    "cycle": "there and back",
}
parts = {
    name: [{"step": row["step"], "loss": row[key]} for row in history["teacher"]]
    for key, name in shares.items()
    if key in history["teacher"][0]
}
parts["U-Net: segmenting"] = history["unet_normal"]
display(viz.plot_history(parts, "Four losses of stage 1, and that of the U-Net"))
last = {name: rows[-1]["loss"] for name, rows in parts.items()}
seen = what_to_see(
    f"Where the losses end: {', '.join(f'{name} {value:.2f}' for name, value in last.items())}.",
    f"A discriminator that guesses has a loss of log 2 = {np.log(2):.2f} for real and for made films. "
    "If its losses stay there, the generator learns nothing about disease from it.",
)
# masked normal films of train and val
normal = table[table["role"].isin(["normal", "val"]) & table["diagnosis"].eq("normal")]
normal = normal[normal["lung_mask"].notna()]
display(seen, train_yourself(task, normal, unet))

# %% [markdown]
# ## The same chest, carried to normal and back
#
# The style slider: 0 is a style of the abnormal domain, 1 one of the normal domain; a style between them was never trained. The lower row
# shows what changed. After so short a training expect little: the film comes out with blocks, and the opacity stays. That agrees
# with a discriminator that guesses.
#
# A trap on the way: the style comes from a small network (*mapping network*) that turns a list of numbers (*latent*) into the means and spreads of
# AdaIN. With a latent of zeros it gives a style of almost nothing, the same for both domains, and a decoder
# without a style gives masks. The "normal" film then has white lungs, and what the student learns from the teacher is wrong. Hence a latent of ones.

# %%
# NBVAL_CHECK_OUTPUT
predictions = run.segmenter.predictions
opaque = predictions[
    (predictions["network"] == "unet_normal") & (predictions["diagnosis"] != "normal")
].sort_values("opaque", ascending=False)
worst = opaque.head(40).sort_values("dice").head(6)
samples = table.set_index("path").loc[worst["path"]].reset_index()
inputs = task.dataset(samples).batch(range(len(samples)))["image"]
ill = (samples["diagnosis"] != "normal").all()
print(f"{len(samples)} films, none of them normal: {ill}")


@torch.no_grad()
def carried(number, steps):
    image = inputs[number : number + 1]
    abnormal, normal = teacher.fixed_style(torch.arange(2))
    return np.stack(
        [
            teacher.generator(image, torch.lerp(abnormal, normal, t)[None])["image"][0, 0].numpy()
            for t in steps
        ]
    )


# %% tags=["report", "story"]
def slide(number, style):
    images = carried(number, (0.0, 1.0, style))
    names = ["abnormal", "normal", f"style {style:.1f}"]
    return viz.plot_styles(
        inputs[number, 0].numpy(),
        images,
        names,
        f"Film {number + 1} of {len(samples)}, carried by the style",
    )


display(slide(0, 0.5))
apart = np.abs(np.diff(carried(0, (0.0, 1.0)), axis=0)).mean() * 127.5
what_to_see(
    f"From the style of ill films to that of normal ones the film changes by {apart:.1f} grey levels of "
    "255 on average. Look in the lower row whether that is the opacity, or something else.",
)

# %%
viz.explore(slide, start={"style": 0.5}, number=list(range(len(samples))), style=(-0.5, 1.5, 0.1))

# %% [markdown]
# ## Under-segmentation, seen
#
# Of the 40 test films with the densest lungs, the six on which the U-Net trained on normal lungs does *worst*. They were chosen to show its
# failure; beside it any other network looks good. Therefore go by the table of all films below, not by these. The three worst are shown. Lungs as rendered (the truth of the
# virtual hospitals), as segmented by that U-Net, and by the AdaIN student, which has seen no mask of an abnormal lung either.

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
seen = task.dataset(samples, size=run.profile.image_size)
images, truth = seen.images.gather(), seen.masks.gather()
lungs = {
    "truth": truth == 255,
    "U-Net, normal only": task.segment(unet, samples),
    "AdaIN student": task.segment(student, samples),
}
shares = [f"{100 * share:.0f} % opaque" for share in worst["opaque"]]
first = {name: masks[:3] for name, masks in lungs.items()}
display(viz.plot_masks(images[:3], first, shares[:3], "Lungs full of pneumonia"))
six = predictions[predictions["path"].isin(worst["path"])].groupby("network")["missed"].mean()
what_to_see(
    f"Of the lesions of these six films the U-Net leaves out {six['unet_normal']:.0%}, the student "
    f"{six['student']:.0%}.",
    "The films were chosen by the failure of the U-Net, so this comparison is not a fair one.",
)

# %% [markdown]
# ## Measured
#
# *Dice* (twice the overlap of two masks over the sum of their areas; 1 = equal) of mask and truth, film by film, on hospitals that no network
# has seen, with 95 % intervals by anatomy. Columns: diagnosis, involved zones, `opaque` films, where a lesion covers more than 30 % of a
# lung, and `bright` ones (below). `teacher` goes the long way (normal first, then the mask); `direct` is the
# same network without that.

# %%
# NBVAL_CHECK_OUTPUT
# real films: the test, which holds sources that trained no network
part = "external" if "external" in result else "test"
viz.summary_table(result, part)

# %%
# share of the lesion that the mask leaves out
viz.summary_table(result, part, "missed").dropna(axis=1, how="all")

# %% tags=["report", "story"]
gain = pd.DataFrame(
    [
        {"label": viz.group_label(group), "group": split, **entry}
        for split in ("test", "external")
        if split in result
        for group, entry in result[split]["gain"].items()
    ]
)
title = "Student minus U-Net trained on normal lungs"
scale = "difference in Dice (> 0: the student is better)"
display(viz.plot_forest(gain, title, scale, chance=0, digits=3))
ahead, behind = int((gain["low"] > 0).sum()), int((gain["high"] < 0).sum())
what_to_see(
    f"Of {len(gain)} groups of films the student is better in {ahead} and worse in {behind}; in the "
    f"other {len(gain) - ahead - behind} the interval holds 0, and neither is ahead.",
)

# %% [markdown]
# Three of the comparisons in the table say different things: `unet_both` against `unet_normal` what masks of abnormal lungs are worth (the most there
# is to gain without them), `teacher` against `direct` what the adversarial part adds, `student` against `unet_normal` what you would use.
#
# ## Where masks fail
#
# A mask fails where a lesion looks like chest wall. How bright are lesions here? 0 is the healthy lung of the same film, 1 the wall beside
# the lungs. Below, the share of the lesion's pixels that each mask keeps (recall), by brightness. Faint lesions cost nobody anything. Of the
# brightest ones a network that knows normal lungs alone leaves out a part, the way through normal wins some of it back (`teacher` against
# `direct`), and the student keeps what its teacher found: that is what the method promises. In Dice it still loses to the plain U-Net,
# because over a whole film its borders are coarser. Masks of abnormal lungs (`unet_both`) do best where it counts, which is why the other
# lessons use that network.

# %%
# NBVAL_CHECK_OUTPUT
# none where nobody has annotated lesions
external = predictions["external"].astype(bool)
ill = predictions[(external == (part == "external")) & predictions["bright"].notna()]
bins, names = [-9, 0, 0.25, 0.5, 9], ["< 0", "0 to 0.25", "to 0.5", "> 0.5"]
ill = ill.assign(kept=1 - ill["missed"], brightness=pd.cut(ill["bright"], bins, labels=names))
kept = ill.pivot_table("kept", "network", "brightness", observed=True).round(3)
kept.loc["films"] = ill[ill["network"] == "student"]["brightness"].value_counts()
kept

# %% [markdown]
# ## Ten times longer
#
# Does it take more training? `make segmenter` gives every network about ten times the budget, and trains a second student from a teacher
# *without* the adversarial part (`ablation`: it sees the abnormal film as it is). Differences in Dice on the unseen hospitals, film by
# film, and the share of the lesion that is left out.


# %%
def differences(study):
    rows = [row for row in study["rows"] if "minus" in row and row["measure"] == "dice"]
    pairs = pd.DataFrame(rows)
    pairs = pairs[pairs["group"].isin(["normal", "zones_4_6", "opaque", "bright"])]
    labels = pairs["network"] + " - " + pairs["minus"] + ", " + pairs["group"].map(viz.group_label)
    # a colour for each comparison
    return pairs.assign(label=labels, group=pairs["network"] + pairs["minus"])


def left_out(study):
    groups = ("zones_4_6", "bright")
    rows = [r for r in study["rows"] if r["measure"] == "missed" and r["group"] in groups]
    missed = pd.DataFrame(rows)
    missed["network"] += (" - " + missed["minus"]).fillna("")
    # share of the lesion left out; with "-": difference on the films that both saw
    return missed.pivot_table("value", "network", "group").round(3)


# %% tags=["report"]
longer = run.recorded("segmenter_large")
if longer:
    made = longer["made"]
    print(made["date"], "commit", made["commit"], "discriminator", made["discriminator"])
    title = "Ten times the budget, external hospitals"
    display(
        viz.plot_forest(differences(longer), title, "difference in Dice", chance=0, digits=3),
        left_out(longer),
        what_to_see(
            "Each colour is one comparison. Right of 0 the first network of a pair is better; an interval "
            "that holds 0 decides nothing."
        ),
    )
else:
    print("not measured on these virtual hospitals yet: make segmenter")

# %%
# NBVAL_CHECK_OUTPUT
found = result[part]
print("films evaluated:", result["images"]["evaluated"])
if "opaque" in found["unet_normal"]:
    plain = found["unet_normal"]
    lost = plain["zones_0"]["dice"]["value"] - plain["opaque"]["dice"]["value"]
    networks = ("student", "teacher", "direct", "unet_normal", "unet_both")
    missed = {name: found[name]["opaque"]["missed"]["value"] for name in networks}
    for other, name in (
        ("unet_normal", "unet_both"),
        ("unet_normal", "student"),
        ("direct", "teacher"),
    ):
        print(
            f"{name} leaves out less of an opaque lung than {other}:", missed[name] < missed[other]
        )

# %% [markdown]
# ## What a wrong mask does to the six zones
#
# The zone lines lie at 5/12 and 2/3 of the height of the *mask*. A mask that stops above a consolidated base is shorter: the lines move up
# and the lesion is no longer inside. Below, the lesion of the truth counted in the zones of each mask (a zone is 1 if 1 % of it is ill).

# %%
# NBVAL_CHECK_OUTPUT
known = samples["lesion_mask"].notna().all()
lesion = run.pixels(samples, "lesion", "lesion_mask") == 255 if known else None


def zones_of(number, name):
    zones = data.zones(lungs[name][number][None])[0]
    array = (data.coverage(lesion[number], zones) >= 0.01).astype(float)
    return zones, array


def compare_zones(number):
    figure, axes = viz.grid(
        1, len(lungs), size=3.4, title=f"Film {number + 1}: zones and which of them are ill"
    )
    for axis, name in zip(axes[0], lungs, strict=True):
        zones, array = zones_of(number, name)
        viz.show_zones(axis, images[number], zones, array)
        axis.set_title(f"{name}: {array.sum():.0f} of 6")
    return viz.stamp(figure)


if known:
    true = zones_of(0, "truth")[1].sum()
    print(f"ill zones of the first film with its true lungs: {true:.0f} of 6")

# %% tags=["story"]
if known:
    display(compare_zones(0))
    counts = {name: int(zones_of(0, name)[1].sum()) for name in lungs}
    said = ", ".join(f"{count} with the mask of {name}" for name, count in counts.items())
    display(
        what_to_see(f"One lesion and three masks; ill zones: {said}.", "Only the mask differs."),
        viz.explore(compare_zones, number=list(range(len(samples)))),
    )
else:
    print("not available here: nobody has annotated the lesions of these films")

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("03.2")` helps, a little more each time (three times).
#
# ### Exercise 03.2 (warm-up): filled with 1
#
# A public code fills the holes of a mask by writing 1 into it. The mask holds 0 and 255 and is cut at half of its range afterwards (lung:
# above 127). How many pixels of a hole of four are lung in the end?

# %% tags=["exercise", "03.2"]
hole = np.full((2, 2), 1)
pixels = ...  # a whole number
check("03.2", pixels)

# %% [markdown]
# ### Exercise 03.3 (core): what a mask leaves out
#
# Of the lesion pixels inside the true lungs, which share is not in the mask? Then use it on the six films: the lesion is
# `run.pixels(samples, "lesion", "lesion_mask") == 255`, the masks are in `lungs`.


# %% tags=["exercise", "03.3"]
def missed(lesion, lungs, mask):
    """bool (H, W) each -> share of the lesion inside the lungs that the mask leaves out."""
    return ...


check("03.3", missed)

# %% [markdown]
# ### Exercise 03.4 (project): clean a mask
#
# A chest has two lungs without holes. Keep the two largest pieces of a mask and fill their holes. Pieces touch over edges, not over corners.


# %% tags=["exercise", "03.4"]
def clean(mask):
    """bool (H, W) -> bool (H, W): the two largest pieces, their holes filled."""
    return ...


check("03.4", clean)

# %% [markdown]
# > **Take away.** (1) AdaIN forgets the contrast of an image and takes that of a style. (2) A network that knows normal lungs alone leaves opaque lung
# > out, just where a severity score must count. (3) Pictures that were chosen to show a failure prove nothing; a table of all films
# > does. (4) Here the simple way, masks of ill lungs, is the better one where it counts.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. A film is made brighter by a constant. What does instance normalisation make of the change?
#    <details><summary>answer</summary>Nothing is left of it: the mean is taken away.</details>
# 2. A discriminator has a loss of log 2 for real and for made films. What does it know?
#    <details><summary>answer</summary>Nothing: it says one half to everything.</details>
# 3. Why can a high Dice hide a failure on opaque lungs?
#    <details><summary>answer</summary>Few films are opaque, and on each the missing part may be a small share of the lung.</details>
# 4. The interval of a difference holds 0. What may you say?
#    <details><summary>answer</summary>That this test cannot tell the two apart; not that they are equal.</details>
# 5. Why must a lung mask contain the pneumonia?
#    <details><summary>answer</summary>The severity map is multiplied by the mask. What the mask leaves out is never counted.</details>
#
# ## Next
#
# **03b_attention** is a small task in which places decide; then **04_corpus_vit** turns the backbone's feature map into tokens and diagnoses. The masks come back in **06_severity**.
