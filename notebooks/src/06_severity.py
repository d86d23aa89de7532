# %% [markdown]
# # 06 Severity: how much, learnt from six ones and zeros
#
# **Aim.** Turn the corpus into a map of disease that nobody has outlined. The only label is a 3x2 array a film: is this zone of the lung
# involved or not. See why such a label alone does not place a lesion and what does, and what the zones, the threshold behind each 1, and
# the reader do to the number that comes out.
#
# **Afterwards you can** write ROI max-pooling; read an MSE beside a constant; say why a healthy film is read above 0; and say what the zone
# lines and the reader do to a score. **Before it:** lessons 02 to 04.
#
# **Paper.** Park et al. 2021, sections 3.3 and 5.3, Table 6, Figures 6 and 7. **Time to teach:** 75 minutes, 25 of them for the exercises.
# **Time to run:** half a minute on two CPU cores: the model comes with the kit, and the films that are shown are drawn here.
#
# Research and teaching only: nothing here is a diagnostic device, and no number here is about a patient.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None

# %%
import inspect

import numpy as np
import pandas as pd
import torch

from cxrkit import Run, data, evaluation, models, reproduction, tasks, viz
from cxrkit.teaching import check, hint, schematic, train_yourself, what_to_see  # noqa: F401

run = Run(profile, out, mirror)
# what follows needs truth, which only virtual films have
drawn = run.virtual.cohort
ward = drawn.table[(drawn.table.ward == "severity") & drawn.table.external]


def array_of(i, choices=data.Choices()):
    return data.coverage(drawn.lesion(i), data.zones_of_sides(*drawn.lungs(i), choices)) >= 0.01


row = next(
    int(i)
    for i in ward.index
    if ward.severity[i] == 4 and array_of(i, data.Choices(zone_origin="row0")).sum() != 4
)
image, (right, left), lesion = np.array(drawn.images[row]), drawn.lungs(row), drawn.lesion(row)

# %% [markdown]
# ## Six zones
#
# Each lung is cut at 5/12 and at 2/3 of the height of the lungs: upper, middle, lower. A zone with disease counts 1, and the sum, 0 to 6,
# is the severity. A reader needs seconds for it; outlining the lesions would take an hour.

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
figure, axes = viz.grid(1, 1, size=4.4, title="Six zones; involved ones are filled")
viz.show_zones(axes[0, 0], image, data.zones_of_sides(right, left), array_of(row) * 1.0)
viz.outline_mask(axes[0, 0], lesion, "white", "lesion")
viz.legend_below(figure)
display(viz.stamp(figure))
what_to_see(
    f"The lesion touches {int(array_of(row).sum())} of the six zones; that number is the severity.",
    "The lines are the same for both lungs, and a zone counts whether little or much of it is ill.",
)

# %% [markdown]
# ## ROI max-pooling by hand
#
# The model answers with a map, the label is an array. The bridge is the largest value inside each zone: one bright spot is enough to make
# a zone involved, as one lesion is enough for the reader. On a toy map:

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
toy_map, toy_lungs = torch.rand(1, 1, 12, 8).round(decimals=1), np.zeros((1, 12, 8), bool)
toy_lungs[0, :, 1:4] = toy_lungs[0, :, 5:7] = True
array = data.roi_pool(toy_map, toy_lungs)[0].numpy()
sides = ["patient's right", "patient's left"]
display(pd.DataFrame(array, ["upper", "middle", "lower"], sides))
schematic("zones")

# %% [markdown]
# **What you should have seen.** Of each zone of the map one value is left, the largest. With $M$ the map and $Z_{ij}$ the pixels of the zone in line $i$ on side $j$, the array is $a_{ij} = \max_{p \in Z_{ij}} M_p$.
#
# ### Exercise 06.1 (core): ROI max-pooling
#
# Write it. The six zones are given as masks. `check` compares with the package; `hint("06.1")` helps.


# %% tags=["exercise", "06.1"]
def roi_max(heat, six):
    """Map (H, W), zones bool (3, 2, H, W) -> the largest value of each zone (3, 2)."""
    return ...


check("06.1", roi_max)

# %% [markdown]
# Through the maximum, the error of a zone moves one pixel of the map and no other. With the average it moves all of them, also the healthy
# ones: Table 10 of the paper compares the two. The demo stands between: the mean of the highest tenth of a zone
# (`choices.zone_maximum`).


# %% tags=["report", "story"]
def touched(how, choices=data.Choices()):
    free = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lungs = np.zeros((1, 48, 48), bool)
    lungs[0, 4:44, 6:22] = lungs[0, 4:44, 26:42] = True
    data.roi_pool(free, lungs, how, choices).sum().backward()
    return (255 * (free.grad[0, 0] > 0)).byte().numpy()


learn = {
    "maximum": touched("max"),
    "highest tenth": touched("max", data.Choices(zone_maximum="tenth")),
    "average": touched("average"),
}
title = "Pixels of the map that one film moves (bright)"
display(viz.plot_sheet([list(learn.values())], [""], list(learn), title, synthetic=False))
shares = ", ".join(f"{(pixels > 0).sum()} ({how})" for how, pixels in learn.items())
what_to_see(
    f"Pixels of the map with a gradient: {shares}.",
    "A network shares its weights over all pixels; so its other pixels move as well, but only in so "
    "far as they look like these.",
)

# %% [markdown]
# ## The model
#
# Patch tokens of the corpus ViT, back on their grid, go through upsizing convolution blocks to a map; sigmoid; times the lung mask; pooled.
# That is the paper. The kit adds two things, each a choice that can be switched off.
#
# - **Local evidence** (`choices.map_evidence`). A token knows the whole film, and a film that is ill at all is ill in most zones: every place
#   of a zone can answer for it equally well. So a second logit sees 35 px around a place and nothing else, and the map is the product of both:
#   tokens decide whether, local evidence says where.
# - **Healthy films** (`severity.healthy`). Whoever has only ever seen the ill reads illness everywhere. Films without disease train too, as
#   arrays of zeros.

# %%
# NBVAL_CHECK_OUTPUT
print(inspect.getsource(tasks.severity.read_logits))
print(inspect.getsource(models.Classifier.forward))

# %% [markdown]
# One stage call trains it on PA and AP films of three hospitals, or loads it: those of the severity ward, and the COVID-19 and normal films
# of the diagnosis ward. No lesion is shown to it.
#
# **Train it yourself, 60 seconds.** The curve below is stored. The button trains the same model, from the classifier of lesson 04 on, with
# some of the films, and draws its losses on them and on validation films.

# %%
result, model, task = run.severity.metrics, run.severity.model, run.severity.task
predictions = run.severity.predictions
where = "external" if "external" in result else "test"
held_out = predictions[predictions.part == where].reset_index(drop=True)
synthetic = predictions.dataset.eq("virtual").all()
history = run.severity.history
title = "Loss on six values while training"
display(viz.plot_history({"severity": history}, title, synthetic=synthetic))
seen = what_to_see(
    f"The loss goes from {history[0]['loss']:.2f} to {history[-1]['loss']:.2f}.",
    "These are the films that it trains on. Whether it has learnt anything of use, only other films say.",
)


def first_weights():
    weights = [run.backbone.model.state_dict()]
    if run.profile.choices.severity_start == "classifier":
        weights.append(run.diagnosis("PA").model.state_dict())
    return weights


display(seen, train_yourself(task, run.severity_images, model, first_weights))

# %% [markdown]
# ## Tokens decide, pixels place
#
# The same two films through both halves and their product. The tokens' map fills zones; local evidence finds spots, also some that are no
# disease; where both agree, the map is bright. Blue: the true extent, which no training has seen.

# %%
# NBVAL_CHECK_OUTPUT
truth = tasks.severity.true_scores(held_out, run.profile.choices)
shown = pd.concat(
    [
        held_out[(truth == score) & (held_out.site == site)].head(1)
        for score, site in zip((1, 5), held_out.site.unique())
    ]
)
shown = (shown if len(shown) else held_out.head(2)).reset_index(drop=True)
images, lungs = run.pixels(shown), run.pixels(shown, "lungs", "lung_mask") == 255
found = result[where].get("map")
lesions = run.pixels(shown, "lesion", "lesion_mask") == 255 if found else None
seen = task.dataset(shown).batch(range(len(shown)))
with torch.no_grad():
    output = model(seen["image"].to(run.device))


def half(name):
    logits = output[name].cpu()
    grown = torch.nn.functional.interpolate(logits, images.shape[-2:], mode="bilinear")
    return grown[:, 0].sigmoid().numpy() * lungs


halves = [name for name in ("gate_logits", "local_logits", "severity_logits") if name in output]
maps = np.stack([half(name) for name in halves], axis=1)  # (films, halves, H, W)
if "gate_logits" in output:
    lower = output["severity_logits"] <= output["gate_logits"] + 1e-4
    print("the product is nowhere above the tokens' map:", bool(lower.all()))
kinds = ["tokens decide", "local evidence", "product: the map"][-len(halves) :]

# %% tags=["report", "story"]
display(
    viz.plot_saliency(
        images,
        maps,
        [f"true {score:.0f}" for score in tasks.severity.true_scores(shown, run.profile.choices)],
        kinds,
        "Where the map comes from",
        lesions,
        stamped="synthetic" if found else "real films, research use only",
        shared=True,
        quantity="probability",
    )
)
if found:
    inside = [
        maps[:, k][lesions].mean() - maps[:, k][lungs & ~lesions].mean() for k in range(len(kinds))
    ]
    text = "; ".join(f"{kind} {gap:+.2f}" for kind, gap in zip(kinds, inside))
    display(
        what_to_see(
            f"Mean probability inside the lesions minus elsewhere in the lungs: {text}.",
            "The larger, the better a map says *where*.",
        )
    )

# %% [markdown]
# ## How well
#
# Table 6 in form: hospitals that no training has seen, one by one. *MSE* is the mean of the squared error of the score; *R2* is 1 minus MSE over
# the variance of the true scores, so a constant guess has 0. Beside the model, what a constant guess would score: without it an MSE
# says nothing. Two more baselines stand beside the model on all these films: a linear model that sees a *thumbnail* of 16x16 px (fitted on the
# training films of the severity ward, `tools/severity_baselines.py`), and *random* scores: the true ones, shuffled. The table further down has
# the numbers of the paper too. It gives no constants, but they follow from its own numbers, as MSE / (1 - R2). The constant of this ward knows that the
# ward is full of severe disease. A model that must also read health as health may not know it, and pays for that in MSE.

# %% tags=["report", "story"]
tested = "External hospitals" if where == "external" else "Other patients"
sites = result.get("sites") or {"test": result["test"]}
lines = [
    {"label": f"{site}: {what}", "group": what, **found["mse"]}
    for site, part in sites.items()
    for what, found in (("model", part), ("constant guess", part["constant"]))
]
model_score, groups = held_out.score.to_numpy(), held_out.group_id.to_numpy()
guesses = {"model": model_score, "random": np.random.default_rng(0).permutation(truth)}
measured = run.recorded("severity_baselines") or {"rows": []}
small = {row["url"]: row["thumbnail"] for row in measured["rows"]}
if set(held_out.get("url", [""])) <= set(small):
    guesses["thumbnail"] = held_out.url.map(small).to_numpy()
for what, guess in guesses.items():
    error = tasks.severity.errors(truth, guess, groups)["mse"]
    lines.append({"label": f"all: {what}", "group": what, **error})
title = f"{tested}: squared error of the 0-6 score"
display(viz.plot_forest(pd.DataFrame(lines), title, "MSE (less is better)", synthetic=synthetic))
won = [name for name, part in sites.items() if part["mse"]["high"] < part["constant"]["mse"]["low"]]
text = (
    f"At {len(won)} of {len(sites)} sites the interval of the model lies wholly below that of the "
)
text += "constant. Where two intervals overlap, only the paired difference can decide."
if "thumbnail" in guesses:
    squares = [(guess - truth) ** 2 for guess in (model_score, guesses["thumbnail"])]
    gap = evaluation.bootstrap(lambda a, b: np.mean(a - b), *squares, groups=groups)
    better = "clearly better" if gap[2] < 0 else "not shown to be better"
    text += f" On all these films its MSE is {better} than that of the thumbnail: "
    text += f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]."
what_to_see(text)

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
title = f"Predicted against true severity, {tested.lower()}"
display(viz.plot_agreement(truth, held_out.score, title, synthetic=synthetic))
table, constant = {}, "MSE of a constant"
for site, part in sites.items():
    found_at = {name: part[name] for name in ("mse", "mae", "cc", "r2")}
    table[site] = {
        name.upper(): f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
        for name, one in found_at.items()
    }
    table[site][constant] = f"{part['constant']['mse']['value']:.2f}"
for each in reproduction.paper_rows():
    if each.table == "Table 6":
        line = table.setdefault(f"the paper: {each.hospital}", {})
        line[each.key.split(".")[-1].upper()] = each.paper
        if {"MSE", "R2"} <= set(line):
            line[constant] = f"{float(line['MSE']) / (1 - float(line['R2'])):.2f}"
display(pd.DataFrame(table).T)
slope = np.polyfit(truth, held_out.score, 1)[0]
what_to_see(
    f"A line through the points has the slope {slope:.2f}; a perfect model has 1.",
    "A slope below 1 is *regression to the mean*: a model that is not sure says something in the middle.",
)

# %% [markdown]
# ## What is read where there is nothing
#
# An MSE hides what a user meets first: the healthy film. So every score is read by its truth. A model that always says the mean has no bias on
# the whole, and a large one in each row. The last row is of normal films of hospitals and patients that trained nothing.
#
# The largest value of many pixels is large even where nothing is. So, before they are summed, the six values go through *Platt scaling*: a slope
# and an offset of each zone, fitted on validation films, a quarter of them normal by weight. The map is left as it is.

# %% tags=["report", "story"]
lines = [
    {"label": f"true {row['low']}" + (f" to {row['high']}" if row["high"] else ""), **row["read"]}
    for row in result[where]["by_truth"]
]
if "healthy" in result:
    lines.append({"label": "normal films", **result["healthy"]["score"]})
    called = result["healthy"]["involved"]
    print(f"a zone is called involved in {called['value']:.0%} of {called['n']} normal films")
title, scale = "What is read, by the true score", "mean score that the model reads (0-6)"
display(viz.plot_forest(pd.DataFrame(lines), title, scale, synthetic=synthetic))
said = "; ".join(
    f"{line['label']} is read as {line['value']:.1f}" for line in (lines[0], lines[-1])
)
what_to_see(
    f"{said[0].upper()}{said[1:]}.",
    "Zones are read one by one, and the largest value of each counts; so a little noise in six zones "
    "adds up to a score above 0 where nothing is.",
)

# %%
# NBVAL_CHECK_OUTPUT
example = task.predict(model, held_out.head(4))
arrays = task.arrays(model, held_out.head(4))
print("array:", arrays.shape, "inside [0, 1]:", bool(arrays.min() >= 0 and arrays.max() <= 1))
print(
    "score is the sum of six values:",
    bool(np.allclose(example.soft, arrays.sum((1, 2)), atol=1e-5)),
)
print(
    "better than a constant guess:",
    result[where]["mse"]["value"] < result[where]["constant"]["mse"]["value"],
)
print(
    "maps rank lung pixels better than chance:",
    found["auprc"]["value"] > found["chance"]["value"] if found else "no truth here",
)

# %% [markdown]
# ## Luck, and each hospital in turn
#
# The paper held out "alternately one institutional dataset". So does `make seeds STUDY=alternation`: the usual three hospitals, then each training hospital
# in turn, whose films then train nothing; all of it with three seeds, patients and first weights drawn anew. Bars are no intervals here:
# they run from the lowest to the highest seed.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
if run.recorded("seeds_alternation"):
    measured = run.recorded("seeds_alternation")
    seeds = pd.DataFrame(measured["rows"]).replace({"held_out": {"usual": "the usual three"}})
    spread = (
        seeds.melt("held_out", ["mse", "constant"])
        .groupby(["variable", "held_out"], sort=False)["value"]
        .agg(["mean", "min", "max"])
    )
    spread = spread.reset_index().set_axis(["group", "held_out", "value", "low", "high"], axis=1)
    spread["label"] = (
        spread["held_out"]
        + ": "
        + spread["group"].replace({"mse": "model", "constant": "constant guess"})
    )
    display(
        viz.plot_forest(
            spread,
            f"Three seeds, each hospital held out in turn ({measured['made']['date'][:10]})",
            "MSE (less is better): mean; bars: lowest and highest",
        )
    )
    display(
        what_to_see(
            "Compare model and constant at the same hospital: where their bars overlap, luck decides."
        )
    )
else:
    print("not measured here yet: make seeds STUDY=alternation")

# %% [markdown]
# ## The map
#
# Figures 6 and 7 in form. Red: contour of the map; blue: the true extent, which the model has never been shown.

# %% tags=["report", "story"]
heat, six = task.maps(model, shown), task.arrays(model, shown)
best = found["threshold"] if found else 0.5


def contours(threshold):
    return viz.plot_severity(
        images,
        heat,
        lungs,
        six,
        tasks.severity.true_scores(shown, run.profile.choices),
        list(shown.site),
        "Severity maps",
        threshold,
        lesions,
        "synthetic" if found else "real films, research use only",
    )


display(contours(best))
if found:
    display(
        what_to_see(
            f"Over all {where} films the contour has a Dice of {found['dice']['value']:.2f} with the "
            "true extent.",
            "It was trained with six ones and zeros: expect the right region, not the right outline.",
        )
    )
viz.explore(contours, threshold=(0.1, 0.9, 0.1))

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
labels = {
    "dice": f"Dice at the threshold {best:.2g} of validation",
    "auprc": "average precision of lung pixels",
    "chance": "the same by chance",
    "pointing": "hottest point of an involved zone on the lesion",
    "pointing_chance": "the same for a random point",
}
if found:
    rows = pd.DataFrame([{"label": label, **found[key]} for key, label in labels.items()])
    display(viz.plot_forest(rows, "Map against the true lesion, external hospitals", "share (0-1)"))
    value = {key: found[key]["value"] for key in labels}
    display(
        what_to_see(
            f"Average precision {value['auprc']:.2f} against {value['chance']:.2f} by chance; the "
            f"hottest point hits in {value['pointing']:.0%}, by chance in {value['pointing_chance']:.0%}.",
            "Read each bar against its own chance: without it no share says anything.",
        )
    )

# %% [markdown]
# ## What made the map
#
# Six designs, each trained for the same number of steps from the same classifier, on validation patients (`make severity`): the paper's
# head, then one change after another. Watch two columns: what is read on normal films, and how often the hottest point of an involved zone
# lies on the lesion.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
study = run.recorded("severity_designs")
if study:
    wanted = ["MSE", "normal images", "read at 5-6", "map auprc", "map dice", "map pointing"]
    table = pd.DataFrame(study["rows"]).pivot(index="design", columns="measure", values="value")
    order = list(dict.fromkeys(row["design"] for row in study["rows"]))
    display(table.loc[order, wanted].round(2))
    print(f"{study['made']['steps']} steps each, {study['made']['date'][:10]}; synthetic films")
else:
    print("not measured here yet: make severity")

# %% [markdown]
# ## What makes a 1
#
# ### The lines: drag them
#
# The score is a count of zones, so whoever moves the lines moves the score. The authors' later code forgets to add the top of the lungs:
# its lines sit too high (`slip`).


# %%
def drag(upper, lower, slip):
    return viz.plot_zone_lines(
        image, right, left, lesion, upper, lower, slip, "Whoever moves the lines moves the score"
    )


display(drag(5 / 12, 2 / 3, True))
slipped = int(array_of(row, data.Choices(zone_origin="row0")).sum())
display(
    what_to_see(
        f"The same lesion touches {int(array_of(row).sum())} zones with the lines of the lungs and "
        f"{slipped} with the slip. Nothing in the patient has changed."
    )
)
viz.explore(
    drag,
    start={"upper": 0.4, "lower": 0.65},
    upper=(0.2, 0.5, 0.05),
    lower=(0.5, 0.85, 0.05),
    slip=True,
)

# %% [markdown]
# ### From which Brixia score on?
#
# Public films carry Brixia scores, 0 to 3 a zone. Read as "involved if >= 1" or ">= 2" the same films give two tasks. How far do two
# radiologists lie apart on each? (The paper's ceiling is another one: five readers against their own majority, on other films.) With
# `mirror` set this is measured on the films at hand; without it, it is shown as measured before.

# %%
# NBVAL_CHECK_OUTPUT
measured = run.recorded("second_reader")
readers = pd.DataFrame(measured["rows"])
if mirror:
    real = data.read_manifest("cohen", mirror)
    readers = pd.DataFrame(tasks.reader_study.second_reader_errors(real))
readers["MSE"] = [
    f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in readers.itertuples()
]
readers["rule"] = [f"a zone counts from {threshold} on" for threshold in readers["threshold"]]
display(readers.pivot(index="guess", columns="rule", values="MSE").iloc[::-1])
of_constant = readers.pivot(index="threshold", columns="guess", values="value")
shares = of_constant["second reader"] / of_constant["constant guess"]
what_to_see(
    f"On {readers['n'][0]} real films the squared error between two radiologists is {shares[1]:.0%} of that "
    f"of a constant guess at the first rule, and {shares[2]:.0%} at the second.",
    "Read each MSE beside its own constant, because the two rules spread the scores differently.",
)

# %% [markdown]
# Model, human and constant in one plot need films with two readers: the profile `mini` cross-validates its model over 142 real films in
# five folds by patient. Only a difference whose interval leaves zero out may be claimed. The virtual hospitals have a second reader too, who
# misses some zones and adds others: what he scores against the truth is the human ceiling there.

# %%
if "folds" in result:
    lines = [
        {
            "label": f"{rule[-1]} and more: {name.replace('_', ' ')}",
            "group": name,
            **found[name]["mse"],
        }
        for rule, found in result["folds"].items()
        for name in ("model", "second_reader", "constant", "ridge")
        if name in found
    ]
    title = "Real films, five folds by patient"
    display(viz.plot_forest(pd.DataFrame(lines), title, "MSE of the 0-6 score", synthetic=False))
    for rule, found in result["folds"].items():
        print(
            rule,
            {
                name: f"{d['difference']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
                for name, d in found["difference"].items()
            },
        )
else:
    external = result["external"]
    for who, found in (("model", external), ("second reader", external["second_reader"])):
        print(f"{who}, virtual films: MSE {found['mse']['value']:.2f}")

# %% [markdown]
# ## Follow-up
#
# Severity is wanted over time. A change counts only when it is larger than noise: 1.96 standard deviations of (predicted - true change) over
# pairs of films of the training hospitals, validation and test. Red rings mark such changes. Printed is what that limit is worth: how many
# true changes of two zones or more it catches, and how many false alarms it raises. A model that catches few of them, as that of the demo,
# is of no use for follow-up, and then the figure has no rings.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
followed, noise = held_out, result
if "folds" in result:  # every real film, predicted by a model that never saw its patient
    noise = result["folds"]["threshold1"]
    followed = run.severity.table("crossvalidated.csv").query("threshold == 1")
    followed = followed.reset_index(drop=True)
known = noise.get("followup", {})
limit = known.get("limit", np.inf)
shares = {
    name: f"{known[name]['value']:.0%} of {known[name]['n']}"
    for name in ("false_alarms", "caught", "direction")
    if name in known and known[name]["n"]
}
print(
    f"a change counts from {limit:.2f} points on:",
    shares,
    f"({known.get('pairs', 0)} pairs of films)",
)
series = evaluation.series(followed)
chosen = series.patient_id.value_counts(sort=False).loc[lambda n: n == n.max()].index[:4]
each = [series[series.patient_id == name] for name in chosen]
visits, read = [part.visit.to_numpy() for part in each], [part.score.to_numpy() for part in each]
true = [tasks.severity.true_scores(part, run.profile.choices) for part in each]
title, none = "Patients followed up", "not available here: no patient has two films at known times"
display(viz.plot_followup(visits, read, true, limit, title, synthetic)) if each else print(none)
what_to_see(
    f"A ring needs a change of {limit:.1f} points.",
    "The larger this limit, the more true changes stay without a ring; the shares above say how many.",
)

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("06.2")` helps, a little more each time (three times).
#
# ### Exercise 06.2 (warm-up): two scores
#
# The soft score is the sum of six values, the hard score the number of values above 0.5. Write both. The columns `soft` and `hard` of
# `held_out` hold them for every film: which has the smaller mean squared error against `truth`?


# %% tags=["exercise", "06.2"]
def two_scores(arrays):
    """Arrays of six values in [0, 1] (n, 3, 2) -> soft score (n,), hard score (n,)."""
    return ...


check("06.2", two_scores)

# %% [markdown]
# ### Exercise 06.3 (core): the slip
#
# The authors' later code starts its lines at row 0 of the film (`data.Choices(zone_origin="row0")`) instead of the top of the lungs. In how
# many of the six zones does the 0 or 1 of a film change? A zone is 1 if the lesion covers at least 1 % of it.


# %% tags=["exercise", "06.3"]
def zones_moved(lesion, right, left):
    """bool (H, W) each -> how many of six zones change with the slip."""
    return ...


check("06.3", zones_moved)

# %% [markdown]
# ### Exercise 06.4 (warm-up): the average instead
#
# A map that was trained for the maximum of each zone is scored by the average. Is the score then larger: "always", "sometimes" or
# "never"? Answer with one word.

# %% tags=["exercise", "06.4"]
word = ...
check("06.4", word)

# %% [markdown]
# > **Take away.** (1) Six ones and zeros can train a map, but do not place a lesion inside a zone. (2) An MSE means something only beside a constant
# > and a second reader. (3) Read every score by its truth: the mean error hides the healthy film. (4) Whoever moves the lines moves the score.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. The largest value of a zone is 0.9, all others are 0. What does max-pooling give, what does the average?
#    <details><summary>answer</summary>0.9, and nearly 0.</details>
# 2. A model always says the mean severity. What is its R2?
#    <details><summary>answer</summary>0 on the films that the mean was taken from; below 0 on others.</details>
# 3. Why is a healthy film rarely read as exactly 0?
#    <details><summary>answer</summary>Six zones, each a maximum over many pixels: a little noise anywhere adds up.</details>
# 4. Two visits differ by one point and the limit is two points. What do you report?
#    <details><summary>answer</summary>No change that this model can show. It may still be there.</details>
# 5. Two hospitals use other zone lines. May their scores be compared?
#    <details><summary>answer</summary>No: the same lesion can touch another number of zones.</details>
#
# **To read.** Wong et al. 2020, *Frequency and distribution of chest radiographic findings in patients positive for COVID-19*,
# [doi 10.1148/radiol.2020201160](https://doi.org/10.1148/radiol.2020201160). Bland and Altman 1986,
# [doi 10.1016/S0140-6736(86)90837-8](https://doi.org/10.1016/S0140-6736(86)90837-8).
#
# ## Next
#
# **07_ablations** takes the model apart, one choice at a time.
