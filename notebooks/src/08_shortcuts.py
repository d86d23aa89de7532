# %% [markdown]
# # 08 Shortcuts: what a model learns when the hospital gives the answer away
#
# **Aim.** Ask how far one gets without seeing disease; tie a marker in the corner to the diagnosis, more and more, and watch what models
# learn; see where such a model looks; try what is said to help, and what that costs; find patients on both sides of a split.
#
# **Paper.** Park et al. 2021 train on films of several hospitals and test on others (section 4), which is the right test; they do not ask
# what a trivial model would reach there. See also DeGrave et al. 2021 and Roberts et al. 2021. **Time.** A minute and a half on two CPU
# cores, once lessons 02 and 04 have trained their models.
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
codes = np.arange(30_000) % 3
rng = np.random.default_rng(0)
by_hand = {}
for rho in shortcuts.RHOS:
    marker = np.where(rng.random(len(codes)) < rho, codes, rng.integers(3, size=len(codes)))
    by_hand[rho] = np.mean([evaluation.auc(codes == k, marker == k) for k in range(3)])
np.testing.assert_allclose(list(by_hand.values()), 0.5 + np.array(shortcuts.RHOS) / 2, atol=0.01)
package = [
    evaluation.macro_auc(codes, np.eye(3)[shortcuts.draw_markers(codes, rho)])
    for rho in shortcuts.RHOS
]
np.testing.assert_allclose(package, list(by_hand.values()), atol=0.02)
pd.DataFrame(
    {"rho": shortcuts.RHOS, "AUC of the marker alone": np.round(list(by_hand.values()), 2)}
)

# %%
print(inspect.getsource(shortcuts.draw_markers))

# %% [markdown]
# One film with each marker. Its own is painted over and written anew, so nothing else differs.

# %% tags=["report"]
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
# accuracy. The last row is the network of lesson 02: what it has learnt to see tells the hospital, too.

# %% tags=["report"]
some = home.images("diagnosis").sample(600, random_state=0).reset_index(drop=True)
site = some["site"].astype("category").cat.codes.to_numpy()
fold = evaluation.assign_folds(some["group_id"].to_numpy(), 3)
network = home.backbone.model
seen = {"trained backbone": evaluation.pooled_features(network, some, home.profile, run.store)}
trivial = [
    "thumbnail",
    "mean and SD",
    "file size",
    "border",
    "lungs removed",
    "lungs only",
    "lung shape",
]
by_site, _ = evaluation.run_probes(
    trivial, site, some, fold, home.profile, run.store, more=seen, draws=100
)
accuracy = by_site[by_site["score"] == "balanced_accuracy"].rename(columns={"features": "label"})
viz.plot_forest(
    accuracy,
    "Which of six hospitals is it from?",
    "balanced accuracy (0-1; dashed: chance)",
    chance=1 / 6,
)

# %% [markdown]
# Second question: which *diagnosis*? The three training hospitals are evaluated with models fitted on the three external ones, and these by
# models fitted on those. The virtual hospitals are built to give little away; real collections are not (below).

# %% tags=["report"]
illness, _ = evaluation.run_probes(
    trivial,
    some["diagnosis"].map(data.DIAGNOSES.index).to_numpy(),
    some,
    some["external"].astype(int).to_numpy(),
    home.profile,
    run.store,
    more=seen,
    draws=100,
)
areas = illness[illness["score"] == "auc"].rename(columns={"features": "label"})
viz.plot_forest(
    areas,
    "Diagnosis on hospitals never seen, from trivial features",
    "macro AUC (0-1; dashed: chance)",
    chance=0.5,
)

# %% [markdown]
# ## The corpus ViT against the best of them
#
# The corpus ViT of lesson 04 on external PA films, minus the best trivial model fitted on the same training films: one number with its
# interval by patient. If it held zero, the model would have shown nothing.

# %% tags=["report"]
images = home.images("diagnosis")
images = images[images["view"] == "PA"]
images = images[images["external"].astype(bool) | (images["split"] == "train")]
images = images.reset_index(drop=True)
outside = images["external"].astype(bool).to_numpy()
predictions = home.diagnosis("PA").predictions.set_index("path")
columns = [f"p_{name}" for name in data.DIAGNOSES]
p = predictions.loc[images["path"][outside], columns].to_numpy()
truth = images["diagnosis"].map(data.DIAGNOSES.index).to_numpy()
groups = images["group_id"].to_numpy()
baselines = {}
for name in ("thumbnail", "equalised thumbnail", "border", "lungs removed"):
    x = evaluation.trivial_features(name, images, home.profile, run.store)
    baselines[name] = evaluation.fit_probe(
        x[~outside], truth[~outside], groups[~outside]
    ).predict_proba(x[outside])
gap = evaluation.compare_with_best(
    evaluation.macro_auc, truth[outside], p, baselines, groups[outside]
)
pd.DataFrame(
    {
        "AUC": {"corpus ViT": evaluation.macro_auc(truth[outside], p), **gap["values"]},
        "difference": {
            gap["baseline"]: f"{gap['difference']:.2f} [{gap['low']:.2f}, {gap['high']:.2f}]"
        },
    }
).fillna("").round(2)

# %% [markdown]
# ## The confounder sweep
#
# The same 600 training films at every rho; only the letters in the corner change. Three linear probes: of the pixels, of the first
# layers of the backbone of lesson 02 (frozen), and of its corpus. *Internal* films have markers as biased as those of the training, as a
# random split of a biased collection does; on *external* films the marker tells nothing.

# %% tags=["report"]
study = run.marker_study
rows = study.table("sweep.csv")
viz.plot_sweep(rows, "The confounder sweep")

# %% [markdown]
# Inside, everything improves, the probe of the first layers most. Outside nothing does: it falls a little, less than the intervals are wide, so that an
# external test of this size may hardly notice either. Exchanging the marker shows it at once. The share of external films whose *answer*
# changes when nothing else does:

# %% tags=["report"]
flip_rates = (
    rows.drop_duplicates(["probe", "rho"])
    .pivot(index="probe", columns="rho", values="flip_rate")
    .loc[list(shortcuts.PROBES)]
)
viz.plot_matrix(
    {"": flip_rates.rename_axis(index=None, columns=None)},
    "Share of films whose answer the marker changes",
    "share (0-1)",
    0,
    1,
)

# %% [markdown]
# The corpus resists best: the backbone learnt the ten findings where markers tell nothing, and kept little of the letters. What a frozen
# network does not see, its probe cannot misuse. The probe of pixels follows the marker less than that of the first layers, perhaps because letters are
# hard to read from coarse pixels.
#
# ## Where does such a model look?
#
# A small corpus ViT on the first layers, trained at rho = 0 and at rho = 1, and the share of its relevance (lesson 05) that lies in cells
# with letters. At rho = 0 it learns next to nothing in so few steps; at rho = 1 it learns at once, to read. Its internal AUC would pass for
# a success. A map cannot prove that a model is right, but it can catch one that is wrong.

# %% tags=["report"]
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
viz.plot_forest(
    shares,
    "Relevance on the marker, external films",
    "share of the relevance (0-1; dashed: share of the cells)",
    chance=shares["chance"].mean(),
)

# %% [markdown]
# ## What helps, and what does it cost?
#
# Five remedies for the probe of the first layers at rho = 0.75, evaluated outside. What a remedy costs is its AUC at rho = 0, where there is
# nothing to cure. Painting any marker onto the training films is, here, rho set back to 0: it needs somebody who has noticed the
# marker, and so does erasing. Covering all but the lungs needs only masks (here the true ones).

# %% tags=["report"]
fixes = study.table("fixes.csv")
fixes = fixes.assign(
    label=fixes["fix"] + np.where(fixes["rho"] > 0, ", biased films", ", unbiased films"),
    group=fixes["rho"],
).sort_values("rho", ascending=False, kind="stable")
viz.plot_forest(fixes, "External AUC with each remedy", "macro AUC, external (0-1)")

# %%
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
# Taking the letters away restores what they cost, at hardly a price here, and so does showing the lungs alone; all of this is one run,
# without intervals of the differences. Balanced draws lower the share of answers that follow the marker, but gain nothing in AUC:
# the few exceptions count more and stay few; at rho = 1 there is none, and no sampling repairs that. Turning and shifting, the augmentation
# that every paper names, makes letters harder to read too, but costs these linear probes more than the letters did: they know a film by
# its positions. And no remedy here helps against a confounder that lies in the lungs themselves, such as another machine.
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


fooled = swaps["first_layers"][-1].argmax(2)
# the first film that every marker persuades, if there is one
victim = int((fooled == np.arange(3)[:, None]).all(0).argmax())
exchange(victim, "first layers", 1.0)

# %%
viz.explore(
    exchange,
    start={"probe": "first layers", "rho": 1.0},
    number=(0, 19, 1),
    probe=list(shortcuts.PROBES),
    rho=list(shortcuts.RHOS),
)

# %%
# NBVAL_CHECK_OUTPUT
value = rows.set_index(["probe", "split", "rho"])["value"]
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
# the profile `mini` lets its segmenter find them on every film, and asks the diagnosis too: what a border, or a film without its lungs,
# says of the disease can only be the source. So its diagnosis is shown nothing but lungs, and is evaluated beside trivial models that see
# whole films, or nothing but lungs either.

# %%
if mirror and run.profile.sources.lungs_only:
    found = run.diagnosis().metrics["within_source"]
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
if mirror and not run.profile.sources.lungs_only:
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
# 1. Roberts et al. 2021 read 62 papers on COVID-19 films and found none fit for the clinic. Answer four of their questions for the model of
#    lesson 04: Are patients kept apart? Was it tested on other hospitals? Do the classes come from the same sources? Are intervals given?
# 2. CLAIM (a checklist for papers, docs/checklist.md) asks for "the robustness of the model" (item 30) and for failure analysis (item 37).
#    Which figure above would you put into the paper, and which number would you be most ashamed of?
# 3. At which rho does the probe of the first layers lose 0.02 of external AUC? What does the internal AUC say there?
# 4. Give the balanced draws only 30 films whose marker does not go with the diagnosis. Is that enough?

# %% [markdown] tags=["solution"]
# 1. Yes (`group_id`, tested); yes (three hospitals); in the virtual hospitals yes, in every public collection no; yes, by patient.
#    2. The confounder sweep, for robustness; for shame the share of answers that change with the letters.

# %% tags=["solution"]
# Exercise 3: internal and external AUC of the probe of the first layers.
value["first layers"].unstack("split").round(3)

# %% tags=["solution"]
# Exercise 4: a few exceptions are enough to draw from, but hardly to learn from.
few = np.arange(600) % 3
letters = np.where(np.arange(600) < 30, (few + 1) % 3, few)
chances = shortcuts.balanced_weights(few, letters)
print(
    "chance of an exception under balanced draws:",
    round(chances[:30].sum() / chances.sum(), 2),
    "from only 30 films",
)

# %% [markdown]
# ## Next
#
# **09_reading_room** shows one patient at a time. Paint a marker there and see whether the model of lesson 04 minds.
