# %% [markdown]
# # 08 Shortcuts: what a model learns when the hospital gives the answer away
#
# **Aim.** Ask how far one gets without seeing disease; tie a marker in the corner to the diagnosis, more and more, and watch what models
# learn; see where such a model looks; try what is said to help, and what that costs; find patients on both sides of a split.
#
# **Paper.** Park et al. 2021 train on films of several hospitals and test on others (section 4), which is the right test; they do not ask
# what a trivial model would reach there. See also DeGrave et al. 2021 and Roberts et al. 2021.
#
# **Afterwards you can** build a confounder and measure what a model makes of it; find the trivial model that a result must beat; and test a split
# for leaks. **Before it:** lessons 02, 04 and 05.
#
# **Time to teach:** 60 minutes, 25 of them for the exercises. **Time to run:** half a minute on two CPU cores. The study comes with the kit
# (`cxrkit reproduce --fresh` makes it here, in minutes); a few films are drawn.
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

from cxrkit import Run, data, evaluation, shortcuts, viz
from cxrkit.teaching import check, hint, what_to_see  # noqa: F401

run = Run(profile, out, mirror)
# the virtual hospitals, whatever the profile: only there can a marker be exchanged
home = run.virtual
drawn = home.cohort
names = ["normal", "other infection", "COVID-19"]

# %% [markdown]
# ## A shortcut in four lines
#
# A technician's marker says "R", "R ER" or "R ICU". Let it be the one that goes with the diagnosis with probability rho, and any of the
# three otherwise. A model that reads the marker and nothing else calls a film by it. Its AUC needs no film: it is 1/2 + rho/2.

# %%
# NBVAL_CHECK_OUTPUT
codes = np.arange(30_000) % 3
alone = {}
for rho in shortcuts.RHOS:
    marker = shortcuts.draw_markers(codes, rho)
    alone[rho] = np.mean([evaluation.auc(codes == k, marker == k) for k in range(3)])
np.testing.assert_allclose(list(alone.values()), 0.5 + np.array(shortcuts.RHOS) / 2, atol=0.02)
pd.DataFrame({"rho": shortcuts.RHOS, "AUC of the marker alone": np.round(list(alone.values()), 2)})

# %% [markdown]
# One film with each marker. Its own is painted over and written anew, so nothing else differs.

# %% tags=["report", "story"]
# the answers of every model below, film by film
swaps = np.load(run.marker_study.folder / "exchanged.npz")
table = drawn.table.assign(number=(drawn.table["ward"] == "diagnosis").cumsum() - 1)


def with_markers(row):
    """The raw film `row` with each marker, uint8 (3, S, S)."""
    bare = shortcuts.erase_marker(np.array(drawn.images[row]), table.loc[row])
    return np.stack(
        [
            shortcuts.write_marker(bare, marker, table.loc[row, "number"])[0]
            for marker in range(len(shortcuts.MARKERS))
        ]
    )


corner = with_markers(int(swaps["rows"][0]))[:, :100, :150]
viz.plot_sheet(
    [corner],
    [""],
    [f'"{name}"' for name in shortcuts.MARKERS],
    "One patient, three markers: upper corner of the film",
)

# %% [markdown]
# **What you should have seen.** Only the letters differ; the lungs are not even on the picture. A model that answers differently to these three
# has read the letters.

# %% [markdown]
# ## How far does one get without seeing disease?
#
# Before any model is believed: logistic regression on what has nothing to do with lungs. Thumbnails of 16x16 cells, mean and spread of
# grey, the size of the stored file, the outermost ring of the thumbnail, the film with its lungs removed. And, for once, with the lungs
# alone, and with the mere shape of their mask: a hole where lungs were still has a shape.

# %%
for function in (evaluation.border, data.cover, evaluation.out_of_fold_predictions):
    print(inspect.getsource(function))

# %% [markdown]
# First question: which *hospital* is a film from? Folds of whole patients, 600 films, six hospitals; chance is 1/6 for the balanced
# accuracy. The last row is the network of lesson 02: what it has learnt to see tells the hospital, too. The stage `marker_study` has run
# this function:

# %%
print(inspect.getsource(shortcuts.trivial_probes))

# %% tags=["report", "story"]
study, predictions = run.marker_study, home.diagnosis("PA").external
trivial = study.table("trivial.csv").rename(columns={"features": "label"})
accuracy = trivial[(trivial["asked"] == "site") & (trivial["score"] == "balanced_accuracy")]
viz.plot_forest(
    accuracy,
    "Which of six hospitals is it from?",
    "balanced accuracy (0-1; dashed: chance)",
    chance=1 / 6,
)

# %% [markdown]
# Second question: which *diagnosis*? The three training hospitals are evaluated with models fitted on the three external ones, and these by
# models fitted on those. The virtual hospitals are built to give little away; real collections are not (below).

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
areas = trivial[(trivial["asked"] == "diagnosis") & (trivial["score"] == "auc")]
title = "Diagnosis on hospitals never seen, from trivial features"
display(viz.plot_forest(areas, title, "macro AUC (0-1; dashed: chance)", chance=0.5))
blind = areas[areas["label"] != "trained backbone"]  # that has learnt from lungs
best = blind.loc[blind["value"].idxmax()]
above = blind.loc[blind["low"] > 0.5, "label"]
what_to_see(
    f'The best of those that see no disease is "{best["label"]}" with {best["value"]:.2f} '
    f"[{best['low']:.2f}, {best['high']:.2f}]; above chance: {', '.join(above) or 'none'}.",
    "A diagnosis model must beat this number, not 0.5.",
)

# %% [markdown]
# ## The corpus ViT against the best of them
#
# The corpus ViT of lesson 04 on external PA films, minus the best trivial model fitted on the same training films: one number with its
# interval by patient. If it held zero, the model would have shown nothing.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
columns = [f"p_{name}" for name in data.DIAGNOSES]
p, truth = (
    predictions[columns].to_numpy(),
    predictions["diagnosis"].map(data.DIAGNOSES.index).to_numpy(),
)
baselines = {
    name: part.set_index("path").loc[predictions["path"], columns].to_numpy()
    for name, part in study.table("baselines.csv").groupby("features", sort=False)
}
gap = evaluation.compare_with_best(
    evaluation.macro_auc, truth, p, baselines, predictions["group_id"].to_numpy()
)
pd.DataFrame(
    {
        "AUC": {"corpus ViT": evaluation.macro_auc(truth, p), **gap["values"]},
        "difference": {
            gap["baseline"]: f"{gap['difference']:.2f} [{gap['low']:.2f}, {gap['high']:.2f}]"
        },
    }
).fillna("").round(2)

# %% [markdown]
# ## The confounder sweep
#
# The same 600 training films at every rho; only the letters in the corner change. Three linear *probes* (a linear model on features that somebody else has made): of the pixels, of the first
# layers of the backbone of lesson 02 (frozen), and of its corpus. *Internal* films have markers as biased as those of the training, as a
# random split of a biased collection does; on *external* films the marker tells nothing.

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
rows = study.table("sweep.csv")
display(viz.plot_sweep(rows, "The confounder sweep"))
value = rows.set_index(["probe", "split", "rho"])["value"]
change = {
    probe: [value[probe, split, 1] - value[probe, split, 0] for split in ("internal", "external")]
    for probe in shortcuts.PROBES
}
said = "; ".join(f"{probe} {inside:+.2f} and {far:+.2f}" for probe, (inside, far) in change.items())
what_to_see(
    f"AUC at rho = 1 minus AUC at rho = 0, internal and external: {said}.",
    "Where the inside gains and the outside does not, the gain is the marker.",
)

# %% [markdown]
# An external test of this size may hardly notice a small loss. Exchanging the marker shows it at once. The share of external films whose
# *answer* changes when nothing else does:

# %% tags=["report"]
flip_rates = (
    rows.drop_duplicates(["probe", "rho"])
    .pivot(index="probe", columns="rho", values="flip_rate")
    .loc[list(shortcuts.PROBES)]
)
title = "Share of films whose answer the marker changes"
shown = {"": flip_rates.rename_axis(index=None, columns=None)}
display(viz.plot_matrix(shown, title, "share (0-1)", 0, 1))
at_one = flip_rates[1.0].sort_values()
what_to_see(
    f"At rho = 1 the marker decides {at_one.iloc[-1]:.0%} of the answers of the probe of "
    f"{at_one.index[-1]}, and {at_one.iloc[0]:.0%} of that of {at_one.index[0]}.",
    "What a frozen network does not see, its probe cannot misuse.",
)

# %% [markdown]
# The backbone learnt the ten findings where markers say nothing. Later layers keep less of the letters than the first ones, because a finding
# does not need them; coarse pixels hardly show letters at all.
#
# ## Where does such a model look?
#
# A small corpus ViT on the first layers, trained at rho = 0 and at rho = 1, and the share of its relevance (lesson 05) that lies in cells
# with letters. A map cannot prove that a model is right, but it can catch one that is wrong.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
vit = study.metrics["network"]
shares = pd.DataFrame(
    [
        {"label": f"trained at {name.replace('rho', 'rho = ')}", **found["relevance"]}
        for name, found in vit.items()
    ]
)
display(
    pd.DataFrame(
        {
            name: {
                "internal AUC": f["internal"]["value"],
                "external AUC": f["external"]["value"],
                "answers changed by the marker": f["flip_rate"],
            }
            for name, f in vit.items()
        }
    ).T.round(2)
)
chance = shares["chance"].mean()
scale = "share of the relevance (0-1; dashed: share of the cells)"
display(viz.plot_forest(shares, "Relevance on the marker, external films", scale, chance=chance))
said = "; ".join(f"{label} {v:.2f}" for label, v in shares[["label", "value"]].to_numpy())
what_to_see(
    f"Share of the relevance on the letters: {said}; their share of the cells is {chance:.2f}.",
    "Compare the external AUCs in the table too: a model near 0.5 there has learnt no disease, so it "
    "is no control of what a good model would look at.",
)

# %% [markdown]
# ## What helps, and what does it cost?
#
# Five remedies for the probe of the first layers at rho = 0.75, evaluated outside. What a remedy costs is its loss of AUC at rho = 0, where
# there is nothing to cure. Painting any marker onto the training films is, here, rho set back to 0: it needs somebody who has noticed the
# marker, and so does erasing. Covering all but the lungs needs only masks (here the true ones).

# %% tags=["report", "story"]
fixes = study.table("fixes.csv")
fixes = fixes.assign(
    label=fixes["fix"] + np.where(fixes["rho"] > 0, ", biased films", ", unbiased films"),
    group=fixes["rho"],
).sort_values("rho", ascending=False, kind="stable")
display(viz.plot_forest(fixes, "External AUC with each remedy", "macro AUC, external (0-1)"))
biased = fixes[fixes["rho"] > 0].set_index("fix")["value"]
best = biased.drop("none").idxmax()
what_to_see(
    f"With biased films the probe has {biased['none']:.2f} without a remedy and {biased[best]:.2f} with "
    f"the best one ({best}).",
)

# %%
# NBVAL_CHECK_OUTPUT
cured = fixes.pivot(index="fix", columns="rho", values=["value", "flip_rate"]).loc[
    list(shortcuts.FIXES)
]
low, high = sorted(fixes["rho"].unique())
pd.DataFrame(
    {
        "gain at rho 0.75": cured["value", high] - cured.loc["none", ("value", high)],
        "cost at rho 0": cured["value", low] - cured.loc["none", ("value", low)],
        "answers changed by the marker": cured["flip_rate", high],
    }
).round(3)

# %% [markdown]
# All of this is one run, without intervals of the differences: read small ones as nothing. Balanced draws let the few exceptions count more,
# and they stay few; at rho = 1 there is none, and no sampling repairs that. Turning and shifting, the augmentation that every paper names, makes
# letters harder to read, but linear probes know a film by its positions and may lose more than they gain. And no remedy here helps against a confounder that lies in the lungs themselves, such as another machine.
#
# ## One film, one letter
#
# A film of an external hospital under the three markers: the first one, chosen for that, to which each marker gives its own answer. Then a
# widget: turn rho and see when the letters win.


# %%
def exchange(number, probe, rho):
    """An image, each marker, and what the probe trained at rho predicts."""
    row = int(swaps["rows"][number])
    p = swaps[probe.replace(" ", "_")][shortcuts.RHOS.index(rho), :, number]
    true = names[data.DIAGNOSES.index(table.loc[row, "diagnosis"])]
    return viz.plot_markers(
        with_markers(row),
        p,
        shortcuts.MARKERS,
        names,
        f"{true}, predicted from the {probe} by a model trained at rho = {rho}",
    )


# %%
fooled = swaps["first_layers"][-1].argmax(2)
# the first film that every marker persuades, if there is one
victim = int((fooled == np.arange(3)[:, None]).all(0).argmax())
display(exchange(victim, "first layers", 1.0))
answers = [names[k] for k in fooled[:, victim]]
display(
    what_to_see(
        f"With the three markers the model says, in order: {', '.join(answers)}.",
        "The film was chosen for this; how often it happens is in the matrix above.",
    )
)
viz.explore(
    exchange,
    start={"probe": "first layers", "rho": 1.0},
    number=(0, 19, 1),
    probe=list(shortcuts.PROBES),
    rho=list(shortcuts.RHOS),
)

# %%
# NBVAL_CHECK_OUTPUT
print(
    "marker alone, rho = 1: AUC",
    evaluation.macro_auc(codes, np.eye(3)[shortcuts.draw_markers(codes, 1)]),
)
print(
    "inside better than outside at rho = 1:",
    bool(all(value[r, "internal", 1] > value[r, "external", 1] for r in shortcuts.PROBES[:2])),
)
print(
    "answers follow the marker more at rho = 1 than at 0:",
    bool((flip_rates[1.0] > flip_rates[0.0]).all()),
)
print("the corpus follows it least:", flip_rates[1.0].idxmin() == "corpus")
print(
    "erased markers change no answer:",
    bool((fixes.loc[fixes["fix"] == "marker erased", "flip_rate"] == 0).all()),
)

# %% [markdown]
# ## A leak that a public loader has
#
# Another shortcut needs no marker: the same patient on both sides. The public loader of the Brixia films splits by *image*; on the films
# with two readers, 17 of its 46 test images show a patient of the training set. Here is a made-up manifest of that form, and the test that
# such a split fails and a split by patient passes.

# %%
# NBVAL_CHECK_OUTPUT
rng = np.random.default_rng(0)
patient = np.repeat([f"p{i:03}" for i in range(140)], rng.choice([1, 1, 1, 2, 3], 140))
made_up = pd.DataFrame({"path": [f"film{i:03}" for i in range(len(patient))], "group_id": patient})
# of images that are all different
prints = rng.integers(0, 256, (len(made_up), 32), dtype=np.uint8)
by_image = made_up.assign(
    split=np.where(rng.permutation(len(made_up)) < len(made_up) // 4, "test", "train")
)
tested = rng.permutation(140)[:35]
by_patient = made_up.assign(
    split=np.where(made_up["group_id"].isin([f"p{i:03}" for i in tested]), "test", "train")
)
for name, split in (("by image", by_image), ("by patient", by_patient)):
    leaks = data.find_leaks(split, prints)
    test = split[split["split"] == "test"]
    shared = test["group_id"].isin(leaks["what"]).sum()
    print(
        f"split {name}: {'FAILED' if len(leaks) else 'passed'}, {shared} of {len(test)} test images share a patient with training"
    )

# %% [markdown]
# ## Other seeds
#
# One run is one draw of patients and weights. `make seeds STUDY=marker_study` runs the sweep for three seeds; this is the spread.

# %%
# NBVAL_CHECK_OUTPUT
if run.recorded("seeds_marker_study"):
    many = pd.DataFrame(run.recorded("seeds_marker_study")["rows"])
    spread = many.groupby(["probe", "split", "rho"])["value"].agg(["mean", "min", "max"])
    display(
        spread.apply(lambda r: f"{r['mean']:.2f} ({r['min']:.2f}-{r['max']:.2f})", axis=1).unstack(
            "rho"
        )
    )
else:
    print("not measured yet: make seeds STUDY=marker_study")

# %% [markdown]
# ## Real films
#
# With `mirror` set: which source is a film from, by the same trivial features. Source and class are tied together in every public
# collection of COVID-19, so whoever knows the source knows most of the answer. Lungs can be removed only where somebody has outlined them;
# a diagnosis that is shown nothing but lungs (`--set sources.framing=lungs`) has the segmenter find them on every film. Then the diagnosis
# is asked too: what a border, or a film without its lungs, says of the disease can only be the source.
#
# The profile `mini` is evaluated inside each source that has two classes, beside trivial models of the same films: there the source says
# nothing.

# %%
found = {}
if mirror and run.profile.folds:
    found = run.diagnosis().metrics["within_source"]
    for source, comparison in found.get("by_source", {}).items():
        display(
            viz.comparison_table(comparison).style.set_caption(
                f"Two classes inside {source}; trivial models see whole films"
            )
        )
if "probes" in found:
    for asked, scores_of in found["probes"].items():
        chance = scores_of.pop("chance")
        rows = pd.DataFrame(
            [{"label": name, **scores["balanced_accuracy"]} for name, scores in scores_of.items()]
        )
        display(
            viz.plot_forest(
                rows,
                f"Which {asked}, from films without a look at disease?",
                "balanced accuracy (0-1; dashed: chance)",
                chance=chance,
                synthetic=False,
            )
        )
    for name, what in (("internal", "whole films"), ("internal_lungs", "nothing but lungs")):
        display(
            viz.comparison_table(found[name]).style.set_caption(
                f"Normal against other infection inside the NIH; trivial models see {what}"
            )
        )

# %%
# NBVAL_CHECK_OUTPUT
if mirror and "probes" not in found:
    real = Run("mini", out, mirror)
    every = real.images("diagnosis").drop_duplicates("group_id")
    few = every.sample(frac=1, random_state=0).groupby("dataset").head(80).reset_index(drop=True)
    masked = every[every["lung_mask"].notna()].reset_index(drop=True)
    trivial = ["thumbnail", "file size", "border"]
    for asked, part in (("of all", few), ("with masks", masked)):
        source = part["dataset"].astype("category").cat.codes.to_numpy()
        fold = evaluation.assign_folds(part["group_id"].to_numpy(), 3)
        which = trivial + ["lungs removed", "lungs only"] * (asked == "with masks")
        scores, _ = evaluation.run_probes(
            which, source, part, fold, real.profile, run.store, draws=100
        )
        scores = scores[scores["score"] == "balanced_accuracy"]
        sources = part["dataset"].nunique()
        display(
            viz.plot_forest(
                scores.rename(columns={"features": "label"}),
                f"Which source is a film from? ({asked}: {len(part)} of {sources} sources)",
                "balanced accuracy (0-1; dashed: chance)",
                chance=1 / sources,
                synthetic=False,
            )
        )
elif not mirror:
    print("not available here: set the parameter `mirror` to a folder of prepared real films")

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("08.1")` helps, a little more each time (three times).
#
# ### Exercise 08.1 (warm-up): four questions
#
# Roberts et al. 2021 read 62 papers on COVID-19 films and found none fit for the clinic. Four of their questions: (1) Are patients kept
# apart? (2) Was the model tested on other hospitals? (3) Do the classes come from the same sources? (4) Are intervals given? For the model of
# lesson 04 all answers are yes. Which answer changes if the same code is run on public collections? Give its number.

# %% tags=["exercise", "08.1"]
number = ...  # 1 to 4
check("08.1", number)

# %% [markdown]
# ### Exercise 08.2 (core): where it begins to cost
#
# At which rho does external AUC first lie 0.02 or more below that at rho = 0? NaN if it never does. Apply it to
# `value["first layers"]["external"]`, and read the internal AUC at that rho.


# %% tags=["exercise", "08.2"]
def first_loss(external):
    """Series of AUC by rho -> the smallest rho that loses 0.02 or more; NaN if none does."""
    return ...


check("08.2", first_loss)

# %% [markdown]
# ### Exercise 08.3 (core): balanced draws
#
# `shortcuts.balanced_weights` makes all pairs of class and marker equally frequent. Which share of the draws then falls on *exceptions*, films
# whose marker does not go with their class? Try it where 30 films of 600 are exceptions: is that enough to learn from?


# %% tags=["exercise", "08.3"]
def share_of_exceptions(labels, markers):
    """Class and marker of each film (n,) -> share of balanced draws that are exceptions."""
    return ...


check("08.3", share_of_exceptions)

# %% [markdown]
# ### Exercise 08.4 (project): letters
#
# Write the confounder yourself: with probability rho a film gets the marker of its class, otherwise any of the three.


# %% tags=["exercise", "08.4"]
def write_letters(codes, rho, rng):
    """Class of each film (n,) -> number of its marker (n,), 0 to 2."""
    return ...


check("08.4", write_letters)

# %% [markdown]
# > **Take away.** (1) Before you believe a model, ask what a model without a look at disease reaches. (2) An internal test cannot show a shortcut that the
# > training shares with it. (3) Exchange the marker and count the answers that change. (4) No sampling repairs a bias without exceptions.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. Marker and diagnosis always agree. What is the AUC of reading the marker, inside and outside?
#    <details><summary>answer</summary>1 inside; outside, where the marker is drawn at random, 0.5.</details>
# 2. A model reaches 0.95 inside and 0.60 outside. Name two causes.
#    <details><summary>answer</summary>A shortcut that only the inside has, and other patients or machines outside. The exchange of the marker tells them apart.</details>
# 3. Why are balanced draws of no use at rho = 1?
#    <details><summary>answer</summary>There is no film whose marker does not go with its class, so there is nothing to draw.</details>
# 4. A saliency map lies on the lungs. Is the model free of shortcuts?
#    <details><summary>answer</summary>No: a shortcut may lie in the lungs too, such as the sharpness of a machine.</details>
# 5. Why must a split go by patient?
#    <details><summary>answer</summary>Films of one patient are alike; with one in training, a test on the other is too easy.</details>
#
# **To read.** DeGrave et al. 2021, *AI for radiographic COVID-19 detection selects shortcuts over signal*,
# [doi 10.1038/s42256-021-00338-7](https://doi.org/10.1038/s42256-021-00338-7). Roberts et al. 2021, *Common pitfalls and recommendations*,
# [doi 10.1038/s42256-021-00307-0](https://doi.org/10.1038/s42256-021-00307-0).
#
# ## Next
#
# **09_reading_room** shows one patient at a time. Paint a marker there and see whether the model of lesson 04 minds.
