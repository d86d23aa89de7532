# %% [markdown]
# # 05 Saliency: where did the model look, and may we believe the map?
#
# **Aim.** Compute relevance, the paper's saliency map, from its rules; see it for each disease on hospitals the model has never seen; then
# evaluate it and twelve other methods against the true lesion and against the model itself.
#
# **Afterwards you can** write the linear rule of relevance; say what `I + C` does; tell a map that is right about the disease from one that is
# right about the model; and compare methods by paired differences. **Before it:** lesson 04, the chain rule.
#
# **Paper.** Park et al. 2021, section 3.3 and Figure 5; the rules are those of Chefer et al. 2020. **Time to teach:** 75 minutes, 30 of them for
# the exercises. **Time to run:** a minute on two CPU cores: the models and the benchmark come with the kit, the films that are shown are drawn.
#
# Research and teaching only: nothing here is a diagnostic device. A saliency map shows what moved a model, not what ails a patient.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None

# %%
import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrkit import Run, data, explain, tasks, viz
from cxrkit.teaching import check, hint, schematic, what_to_see  # noqa: F401

run = Run(profile, out, mirror)
# real films have no annotated lesions
table, evaluated = run.diagnosis_images, run.saliency_images
names = ["normal", "other infection", "COVID-19"]

# %% [markdown]
# ## One rule by hand
#
# Relevance starts as a 1 on the logit to be explained and walks back through the network. At a linear layer it is shared out among the
# inputs in proportion to what each *added* to the output: products `x * w` of positive x and positive w, or of negative x and negative w.
# What pulled the output down gets nothing. Three tokens of two numbers, a layer with two outputs, and relevance 1 on the first output of
# the first token:

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
x = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-1.0, 3.0]])  # (3 tokens, 2)
layer = torch.nn.Linear(2, 2)
layer.weight.data = torch.tensor([[1.0, -2.0], [-1.0, 1.0]])
R = torch.zeros(3, 2)
R[0, 0], R[2, 1] = 1.0, 3.0
before = explain.linear_rule(layer, (x,), layer(x), R[None])[0]
print("relevance of the outputs:", R.tolist(), "of the inputs:", before.tolist(), sep="\n")
assert torch.isclose(before.sum(), R.sum())  # nothing is lost
print(inspect.getsource(explain.linear_rule))

# %% [markdown]
# The sum of the relevance is the same before and after, 4: nothing is lost. The package computes it from three matrix products. With $x_i$ the inputs,
# $w_{oi}$ the weights and $R_o$ the relevance of the outputs, the rule is
#
# $$R_i = \sum_o \frac{\max(x_i w_{oi}, 0)}{\sum_j \max(x_j w_{oj}, 0)}\, R_o$$
#
# ### Exercise 05.1 (core): share relevance out
#
# Write the rule from this equation. An output to which no input added gives nothing. `check` compares with the package; `hint("05.1")` helps.


# %% tags=["exercise", "05.1"]
def share_out(x, weight, R):
    """Inputs (T, I), weight (O, I), relevance of the outputs (T, O) -> that of the inputs (T, I)."""
    return ...


check("05.1", share_out)

# %% [markdown]
# ## From rules to a map
#
# Every kind of module has its rule, and hooks find the modules from outside: the model does not know that it is being explained.

# %%
for kind, rule in explain.RULES.items():
    print(f"{kind.__name__:10} {rule.__name__:12} {rule.__doc__.splitlines()[0]}")
schematic("relevance")

# %% [markdown]
# **What you should have seen.** The upper line computes, from left to right; the lower one walks back. With $A$ the attention matrix of a block:
# at each block the relevance of $A$ is multiplied by its gradient, negative products are dropped and the heads averaged:
# the matrix $C$. A token keeps what it has and takes what $C$ gives it, so block after block is $I + C$, with $I$ the identity; the class
# token's row of the product $(I + C_2)(I + C_1)$ is the map. A class token and two cells make three tokens:

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(4)
toy = explain.CorpusViT(
    in_channels=4, grid=(1, 2), embed_dim=16, depth=2, num_heads=2, mlp_dim=32
).double()
for weight in toy.parameters():
    torch.nn.init.normal_(weight, std=0.5)
corpus = torch.rand(1, 4, 1, 2, dtype=torch.float64)

_, steps = explain.trace(toy, corpus, 2)
C = [step.attention[0, 0] for step in steps]  # last block first, (3, 3) each
product = (torch.eye(3) + C[0]) @ (torch.eye(3) + C[1])
by_hand = product[0, 1:]  # the class token's row, itself left out
torch.testing.assert_close(by_hand, explain.relevance(toy, corpus, 2).flatten())
print(
    "I + C, last block:",
    np.array2string((torch.eye(3) + C[0]).numpy(), precision=4),
    "map:",
    by_hand.numpy().round(4),
    sep="\n",
)

# %%
print(inspect.getsource(explain.relevance))

# %% [markdown]
# ## On films: the evaluation set
#
# COVID-19 films of test and external hospitals whose lesion covers at most 15 % of the lungs: where half the lung is ill, any map that
# points at lungs looks good.

# %%
view = "PA"
model, task = run.diagnosis(view).model, run.diagnosis(view).task
# the benchmark has looked through all films already: those that it took
taken = evaluated[evaluated["path"].isin(run.saliency_benchmark.table("images.csv")["path"])]
found = explain.evaluation_set(tasks.diagnosis.of_view(taken, view), run.profile, run.store)
images, lesion, lungs = found
seen = explain.make_sample(model, images, lesion, lungs, run.profile, run.store)
pixels = run.pixels(images)
_, steps = explain.trace(model.transformer.double(), seen.corpus[:8].double(), explain.COVID)
totals = torch.stack([step.tokens.sum((-2, -1))[0] for step in steps])  # (blocks, images)
model.transformer.float()
print(
    f"{len(images)} films; relevance after each block, from the last down, of one film:",
    totals[:, 0].numpy().round(6),
)

# %%
# NBVAL_CHECK_OUTPUT
three = explain.relevance(model.transformer, seen.corpus[:8], [0, 1, 2])
alone = explain.relevance(model.transformer.double(), seen.corpus[:1].double(), explain.COVID)
batch = explain.relevance(model.transformer, seen.corpus[:8].double(), explain.COVID)
model.transformer.float()
print("three classes at once:", tuple(three.shape))
print("never negative:", bool((three >= 0).all()))
print("conserved through the blocks:", bool((totals - 1).abs().max() < 1e-4))
print(
    "a film alone has the map it has in a batch:",
    bool((alone - batch[:1]).abs().max() <= 1e-9 * batch.max()),
)

# %% [markdown]
# ## Figure 5: each disease, on hospitals never seen
#
# One film of each diagnosis from an external hospital, with the maps of all three classes. The films are chosen by a rule: of those that the
# model calls right, the one with the median probability (where it calls none right: of all of that diagnosis). The surest film would be a poor example. Where a probability is near 1, the
# gradient that the map is multiplied by is near 0 (*saturation*), and what is left of the map of that class is faint. For the same reason
# each map here has its own scale, and the sentence below says how large it is.
#
# The paper shows such examples and calls them plausible. Looking is not measuring: keep that in mind until the benchmark below.

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
outside = run.diagnosis(view).unseen  # with what the model said of each
p = outside[tasks.diagnosis.PROBABILITIES].to_numpy()
typical = explain.typical_images(p, tasks.diagnosis.codes(outside))
chosen, truth = outside.iloc[typical], None
batch = task.dataset(chosen).batch(range(len(chosen)))["image"].to(run.device)
with torch.no_grad():
    features = model.features(batch)
heat = explain.relevance(model.transformer, features, [0, 1, 2])
if outside["lesion_mask"].notna().all():
    truth = run.pixels(chosen, "lesion", "lesion_mask") == 255
labels = [f"{name}\n(p {p[i, k]:.2f})" for k, (i, name) in enumerate(zip(typical, names))]
stamped = "synthetic" if outside["dataset"].eq("virtual").all() else "research use only"
columns = [f"for {name}" for name in names]
title = "Relevance for each class, external hospitals"
display(viz.plot_saliency(run.pixels(chosen), heat, labels, columns, title, truth, stamped=stamped))
sizes = explain.map_size(heat)  # (3 films, 3 classes)
strongest_own = int((sizes.argmax(1) == np.arange(3)).sum())
right = int((p[typical].argmax(1) == np.arange(3)).sum())
what_to_see(
    f"The model calls {'all three' if right == 3 else f'{right} of the three'} right. In {strongest_own} of them the map of that class is also the "
    f"largest of the three; sizes of the maps of its own class: {np.diag(sizes).round(2).tolist()}.",
    "A map shows where evidence lies, not how sure the model is.",
)

# %% [markdown]
# ## Method, class, layer
#
# The methods answer the same question differently. Raw attention and rollout look at attention only and say the same for every class;
# *random* is noise, which all of them must beat.


# %%
# NBVAL_CHECK_OUTPUT
def look(image, method, explained, start_layer):
    one, title = slice(image, image + 1), f"{method.replace('_', ' ')} for {explained}"
    options = {"start_layer": start_layer} if method == "relevance" else {}
    if options:
        title += f", blocks from {start_layer}"
    explained = names.index(explained)
    heat = explain.METHODS[method](model.transformer, seen.corpus[one], explained, **options)
    sites = [images.site[image]]
    return viz.plot_saliency(
        pixels[one], heat[:, None], sites, [title], "", lesion[one], stamped=stamped
    )


middle = len(images) // 2
one = slice(middle, middle + 1)
maps = {
    name.replace("_", " "): method(model.transformer, seen.corpus[one], explain.COVID)[0]
    for name, method in explain.METHODS.items()
}
same = [
    name.replace("_", " ")
    for name in ("raw_attention", "rollout", "relevance")
    if torch.equal(*(explain.METHODS[name](model.transformer, seen.corpus[one], k) for k in (0, 2)))
]
print("of three methods, the same map for every class:", ", ".join(same))
title = f"Saliency for COVID-19, a film of {images.site[middle]}"
heat = torch.stack(list(maps.values()))  # (methods, h, w)
viz.plot_methods(pixels[middle], heat, list(maps), title, lesion[middle], stamped)

# %% [markdown]
# **What you should have seen.** All methods answer the same question on the same film, and they do not agree. Every map has a bright spot, also that of
# *random*: a bright spot is no sign that a method is right.

# %% tags=["story"]
look(0, "relevance", "COVID-19", 0)

# %%
viz.explore(
    look,
    image=(0, min(len(images), 12) - 1, 1),
    method=list(explain.METHODS),
    explained=names,
    start={"explained": "COVID-19"},
    start_layer=(0, len(model.transformer.blocks) - 1, 1),
)

# %% [markdown]
# **What you should have seen.** Change the class: the map of relevance changes. That of raw attention and of rollout stays, because neither of them
# asks which class is to be explained.
#
# ## The saliency benchmark
#
# Questions to each method, on every film of both views. *Against the lesion*: does the strongest point lie within one cell of it
# (pointing game), does the strongest cell touch it, how much of the map lies inside it, and inside the lungs? *Against the model*: does
# the probability of COVID-19 fall when the strongest cells are deleted first, and rise when they are inserted first? *Sanity*: does the
# map stay when a little noise is added, and does it *go* when the weights are shuffled? And what does it cost?

# %%
# NBVAL_CHECK_OUTPUT
rows = run.saliency_benchmark.table("rows.csv")
summary = explain.summarise(rows, draws=400)
cells = summary.assign(
    text=[f"{v:.2f} [{a:.2f}, {b:.2f}]" for v, a, b in summary[["value", "low", "high"]].to_numpy()]
)
cells.pivot(index="method", columns="criterion", values="text").reindex(
    index=["relevance", *[m for m in explain.METHODS if m != "relevance"], "chance"],
    columns=list(explain.CRITERIA),
).fillna("")

# %% tags=["report", "story"]
count = rows.groupby("view")["image"].nunique()
viz.plot_benchmark(
    summary, explain.CRITERIA, f"The saliency benchmark: {count.sum()} films of COVID-19"
)

# %% [markdown]
# Relevance minus each other method on the same films: what makes a film hard for both falls out, so small differences show.

# %% tags=["report"]
gaps = pd.concat(
    {
        name: explain.paired_differences(rows, "relevance", name)[
            ["difference", "low", "high", "conclusion"]
        ]
        for name in ("pointing", "lesion", "deletion")
    },
    axis=1,
)
gaps.loc[[m for m in explain.METHODS if m in gaps.index] + ["chance"]].round(3)

# %% [markdown]
# Shuffle the weights part by part, from the head down. A map that stays has never looked at the weights it claims to explain.

# %% tags=["report", "story"]
cascade = run.saliency_benchmark.table("cascade.csv")
display(viz.plot_cascade(cascade, "Does the map notice that the weights are gone?"))
read = explain.read_cascade(explain.summarise_cascade(cascade))
what_to_see(
    f"Relevance: {read.get('relevance', 'not measured')}.",
    "A curve that stays high belongs to a map that the shuffled weights have not made. Its shape "
    "comes from what is left of the network, from positions, or from the film itself.",
)

# %% [markdown]
# ## The results
#
# Who is best on each question, and who is no better than chance? Methods are compared on the same films, and a difference counts where
# its p-value, adjusted for the number of methods (Holm), is below 0.05. Intervals that overlap decide nothing.
#
# It matters that the tokens are local (lesson 02): what a cell says, it has seen itself. Where every
# cell has seen the whole film, no map of cells can say where something lies. Read it soberly all the same. One training is one draw
# (below), little of a map lies inside the lesion, and a map that is exact about the model is no proof that the model looks at the disease.
# `attention_gradcam` is empty on some films (n in the table above): an empty map has no share in the lesion and no rank correlation, and a
# method without an interval takes no part in that question.

# %%
# NBVAL_CHECK_OUTPUT
order = explain.rank_methods(rows)
for column in ("not clearly worse", "not above chance"):
    order[column] = [
        "no chance known" if found is None else ", ".join(found) or "none"
        for found in order[column]
    ]
pd.set_option("display.max_colwidth", None)
display(order.round(3))
pointing = summary[summary["criterion"] == "pointing"].set_index("method")["value"]
what_to_see(
    f"Pointing game: relevance {pointing['relevance']:.0%}, raw attention "
    f"{pointing['raw_attention']:.0%}, chance {pointing['chance']:.0%}.",
    "Raw attention says the same for every class; what it lacks beside relevance is the question.",
)

# %% [markdown]
# ## How much is luck?
#
# The same benchmark over models of three seeds (`make seeds STUDY=saliency_benchmark`): other patients, other first weights. Two
# trainings that differ only in how the optimiser rounds can already end in models with other hit rates. A single model says little of a
# method, and intervals over its films do not hold this luck.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
if run.recorded("seeds_saliency_benchmark"):
    measured = run.recorded("seeds_saliency_benchmark")
    print(f"measured at commit {measured['made']['commit']} by {measured['made']['command']}")
    hit_rates = (
        pd.DataFrame(measured["rows"])
        .query("criterion == 'pointing'")
        .assign(label=lambda t: t["method"].str.replace("_", " "))
    )
    hit_rates = hit_rates[
        hit_rates["method"].isin(
            ["attnlrp", "relevance", "raw_attention", "rollout", "gradcam", "chance"]
        )
    ]
    display(
        viz.plot_forest(
            hit_rates.assign(group="seed " + hit_rates["seed"].astype(str)),
            "Pointing game, three seeds",
            "share of films hit",
        )
    )
else:
    print("not measured here yet: make seeds STUDY=saliency_benchmark")

# %% [markdown]
# Even the best method fails on some films. Where? The share of hits by whether the model called the film COVID-19, and by the size of the
# lesion: a small lesion is easily missed by a model that sees a grid of cells, and one would expect fewer hits where the answer is wrong,
# for that map explains a mistake. Look at the number of films before you believe either.

# %%
called = task.predict(model, images)
right = called[tasks.diagnosis.PROBABILITIES].to_numpy().argmax(1) == explain.COVID
share = (lesion & lungs).sum((1, 2)) / lungs.sum((1, 2))
groups = {
    "called COVID-19": right,
    "called something else": ~right,
    "smaller lesions": share <= np.median(share),
    "larger lesions": share > np.median(share),
}
strongest = explain.relevance(model.transformer, seen.corpus, explain.COVID)
hits = explain.pointing(strongest, lesion)
chance = explain.near(lesion, seen.corpus.shape[-2:]).mean((1, 2))
pd.DataFrame(
    {
        name: {
            "films": int(on.sum()),
            "relevance hits": hits[on].mean(),
            "chance": chance[on].mean(),
        }
        for name, on in groups.items()
        if on.any()
    }
).T.round(2)

# %% [markdown]
# ## Down to the pixels
#
# A map of the corpus has a cell for every 16 pixels. Gradient x input carries it on through the convolutions: which pixels gave a cell its
# features? Sharper to look at, but it says where the *edges* are that the convolutions read, and the benchmark does not cover it.

# %%
# NBVAL_CHECK_OUTPUT
image = task.dataset(images).batch([0])["image"].to(run.device)
fine = explain.through_backbone(model.features, image, strongest[:1]).abs()
# single pixels are too small to see
fine = torch.nn.functional.avg_pool2d(fine[:, None], 3, 1, 1)[:, 0]
fine = fine / torch.quantile(fine, 0.995) * strongest[0].max()
figure, axes = viz.grid(1, 3, size=3.4, title="One map at two resolutions")
viz.show_image(axes[0, 0], pixels[0], "film")
viz.overlay_map(axes[0, 1], pixels[0], strongest[0], "relevance of cells (enlarged)", lesion[0])
viz.overlay_map(
    axes[0, 2],
    pixels[0],
    fine[0].clamp(max=float(strongest[0].max())),
    "carried on to pixels",
    lesion[0],
)
display(viz.stamp(figure, stamped))
peak = np.array(np.unravel_index(int(fine[0].argmax()), fine[0].shape))
cell = np.array(np.unravel_index(int(strongest[0].argmax()), strongest[0].shape))
step = fine.shape[-1] / strongest.shape[-1]  # pixels of a cell
what_to_see(
    f"The brightest pixel lies within {np.ceil(np.linalg.norm(peak - (cell + 0.5) * step) / step) * step:.0f} "
    f"px of the middle of the strongest cell, which is {step:.0f} px wide.",
    "A convolution reads edges, also of pixels beside the cell; so the two maps need not agree.",
)

# %% [markdown]
# ## Real boxes
#
# With `mirror` set, the pointing game on the 43 boxes that radiologists drew on NIH films, most of them pneumonia. A box is larger than
# the disease in it, so chance is high; models trained on virtual hospitals have never seen a real film, and those of `mini` have seen
# these films and the word pneumonia, but no box.

# %%
# NBVAL_CHECK_OUTPUT
if mirror and (Path(mirror) / "nih_cxr14" / "bbox.csv").exists():
    paths, boxes = explain.read_boxes(Path(mirror) / "nih_cxr14", run.profile.image_size)
    if run.profile.sources.framing == "lungs":  # the model sees nothing else
        paths = table.set_index(table["origin"].map(lambda path: Path(path).name))["path"].loc[
            [Path(path).name for path in paths]
        ]
    real = run.pixels(pd.DataFrame({"path": list(paths)}))
    image = torch.stack(
        [
            torch.from_numpy(data.normalize(pixels, run.profile.choices.normalize))[None]
            for pixels in real
        ]
    )
    with torch.no_grad():
        features = model.features(image.to(run.device))
    hit = {
        name: explain.pointing(method(model.transformer, features, 1), boxes)
        for name, method in explain.METHODS.items()
    }
    hit["chance"] = explain.near(boxes, features.shape[-2:]).mean((1, 2))
    lines = [
        pd.DataFrame({"method": name, "criterion": "boxes", "group": range(len(v)), "value": v})
        for name, v in hit.items()
    ]
    display(explain.summarise(pd.concat(lines)))
else:
    print("not available here: set the parameter `mirror` to a folder of prepared real films")

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("05.2")` helps, a little more each time (three times).
#
# ### Exercise 05.2 (core): block after block
#
# Relevance may start at a later block (`start_layer`). Write the share of films that the map for class 2 (COVID-19) hits, for each first block
# from 0 to the last. Does it point better with all blocks, and what does that say of the first ones?


# %% tags=["exercise", "05.2"]
def hits_by_layer(model, corpus, lesion):
    """Corpus ViT of L blocks, corpus (B, C, h, w), lesion (B, S, S) -> share of hits, (L,)."""
    return ...


check("05.2", hits_by_layer)

# %% [markdown]
# ### Exercise 05.3 (project): rather than
#
# Explain "class a rather than class b": relevance of the difference of the two logits. Compare the map for COVID-19 rather than other infection
# with `strongest`, the map for COVID-19. Then exchange a and b: what happens, and why?


# %% tags=["exercise", "05.3"]
def rather_than(model, corpus, a, b):
    """Why class a rather than class b: corpus (B, C, h, w) -> map (B, h, w)."""
    return ...


check("05.3", rather_than)

# %% [markdown]
# ### Exercise 05.4 (warm-up): a more generous game
#
# The pointing game forgives one cell. Let it forgive two: what is the chance of a random cell then?


# %% tags=["exercise", "05.4"]
def chance_within_two(lesion):
    """bool (B, S, S) -> chance that a random cell of the (8, 8) grid lies within two cells."""
    return ...


check("05.4", chance_within_two)

# %% [markdown]
# > **Take away.** (1) Relevance shares one number out, layer by layer, and loses none of it. (2) A map always has a brightest spot; chance and a
# > random map belong beside every hit rate. (3) Pointing at a lesion and following the model are two questions. (4) Methods are compared on the
# > same films, with as many tests as there are comparisons.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. An input of 2 with a weight of -1, and an output of 3. How much of its relevance does the input get?
#    <details><summary>answer</summary>None: its product is negative, so it pulled the output down.</details>
# 2. Why does rollout give the same map for every class?
#    <details><summary>answer</summary>It multiplies attention matrices alone. The class enters only after the last of them.</details>
# 3. A map does not change when the weights are shuffled. What has it shown?
#    <details><summary>answer</summary>Nothing that the network has learnt: it comes from the architecture, the positions or the film.</details>
# 4. A method hits in 60 % of the films, chance is 55 %. What is missing before you may claim something?
#    <details><summary>answer</summary>An interval of the paired difference, by patient, and an adjustment for the number of methods.</details>
# 5. A map lies exactly on the lesion. Does the model diagnose by it?
#    <details><summary>answer</summary>It may, but the map does not prove it. Delete those pixels and see whether the probability falls.</details>
#
# **To read.** Chefer et al. 2020, *Transformer interpretability beyond attention visualization*,
# [arXiv 2012.09838](https://arxiv.org/abs/2012.09838). Adebayo et al. 2018, *Sanity checks for saliency maps*,
# [arXiv 1810.03292](https://arxiv.org/abs/1810.03292).
#
# ## Next
#
# **06_severity** puts the map head on the same transformer and asks how much of each lung zone is ill. `explain.relevance` explains that
# too: give it a function of the outputs.
