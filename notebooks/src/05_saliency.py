# %% [markdown]
# # 05 Saliency: where did the model look, and may we believe the map?
#
# **Aim.** Compute relevance, the paper's saliency map, from its rules; see it for each disease on hospitals the model has never seen; then
# put it and ten rivals on trial against the true lesion and against the model itself.
#
# **Paper.** Park et al. 2021, section 3.3 and Figure 5; the rules are those of Chefer et al. 2020. **Time.** A minute and a half on two CPU
# cores, once lesson 04 has trained the models.
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

from cxrkit.config import profiles
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data import cache, datasets, preprocessing
from cxrkit.explain import deep_taylor, measures, methods, saliency_benchmark
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.pipeline import stages
from cxrkit.reproduction import results
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import diagnosis
from cxrkit.viz import curves, overlays, sliders, style

settings, store = profiles.get(profile), Store(out, mirror)
models = {
    view: diagnosis.load(stages.transformer(settings, view, store), settings)
    for view in ("PA", "AP")
}
# real films have no drawn lesions
table, exhibits = stages.diagnosis_films(settings, store)[0], stages.exhibits(settings, store)
names = ["normal", "other infection", "COVID-19"]

# %% [markdown]
# ## One rule by hand
#
# Relevance starts as a 1 on the logit to be explained and walks back through the network. At a linear layer it is shared out among the
# inputs in proportion to what each *added* to the output: products `x * w` of positive x and positive w, or of negative x and negative w.
# What pulled the output down gets nothing. Three tokens of two numbers, a layer with two outputs, and relevance 1 on the first output of
# the first token:

# %%
x = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-1.0, 3.0]])  # (3 tokens, 2)
layer = torch.nn.Linear(2, 2)
layer.weight.data = torch.tensor([[1.0, -2.0], [-1.0, 1.0]])
R = torch.zeros(3, 2)
R[0, 0], R[2, 1] = 1.0, 3.0

by_hand = torch.zeros_like(x)
for token in range(3):
    for o in range(2):
        # what each input added to output o
        added = (x[token] * layer.weight[o]).clamp(min=0).detach()
        if added.sum() > 0:
            by_hand[token] += R[token, o] * added / added.sum()
torch.testing.assert_close(by_hand, deep_taylor.linear_rule(layer, (x,), layer(x), R[None])[0])
print(by_hand)

# %% [markdown]
# The sum of the relevance is the same before and after, 4: nothing is lost. The package's rule gives the same from three matrix products:

# %%
print(inspect.getsource(deep_taylor.linear_rule))

# %% [markdown]
# ## From rules to a map
#
# Every kind of module has its rule, and hooks find the modules from outside: the model does not know that it is being explained.

# %%
for kind, rule in deep_taylor.RULES.items():
    print(f"{kind.__name__:10} {rule.__name__:12} {rule.__doc__.splitlines()[0]}")

# %% [markdown]
# At each block the relevance of the attention matrix is multiplied by its gradient, negative products are dropped and the heads averaged:
# the matrix C. A token keeps what it has and takes what C gives it, so block after block is `I + C`; the class token's row of the product
# is the map. A class token and two cells make three tokens:

# %%
torch.manual_seed(4)
toy = CorpusViT(in_channels=4, grid=(1, 2), embed_dim=16, depth=2, num_heads=2, mlp_dim=32).double()
for weight in toy.parameters():
    torch.nn.init.normal_(weight, std=0.5)
corpus = torch.rand(1, 4, 1, 2, dtype=torch.float64)

_, steps = deep_taylor.trace(toy, corpus, 2)
C = [step.attention[0, 0] for step in steps]  # last block first, (3, 3) each
product = (torch.eye(3) + C[0]) @ (torch.eye(3) + C[1])
by_hand = product[0, 1:]  # the class token's row, itself left out
torch.testing.assert_close(by_hand, deep_taylor.relevance(toy, corpus, 2).flatten())
print(
    "I + C, last block:",
    np.array2string((torch.eye(3) + C[0]).numpy(), precision=4),
    "map:",
    by_hand.numpy().round(4),
    sep="\n",
)

# %%
print(inspect.getsource(deep_taylor.relevance))

# %% [markdown]
# ## On films: what the court will see
#
# COVID-19 films of test and external hospitals whose lesion covers at most 15 % of the lungs: where half the lung is ill, any map that
# points at lungs looks good.

# %%
view = "PA"
model = models[view]
films, lesion, lungs = saliency_benchmark.exhibits(
    diagnosis.of_view(exhibits, view), settings, store
)
seen = saliency_benchmark.case(model, films, lesion, lungs, settings, store)
pixels = np.load(cache.cached(films["path"], settings.image_size, settings.choices, store=store))
_, steps = deep_taylor.trace(
    model.transformer.double(), seen.corpus[:8].double(), saliency_benchmark.COVID
)
totals = torch.stack([step.tokens.sum((-2, -1))[0] for step in steps])  # (blocks, films)
model.transformer.float()
print(
    f"{len(films)} films; relevance after each block, from the last down, of one film:",
    totals[:, 0].numpy().round(6),
)

# %%
# NBVAL_CHECK_OUTPUT
three = deep_taylor.relevance(model.transformer, seen.corpus[:8], [0, 1, 2])
alone = deep_taylor.relevance(
    model.transformer.double(), seen.corpus[:1].double(), saliency_benchmark.COVID
)
batch = deep_taylor.relevance(model.transformer, seen.corpus[:8].double(), saliency_benchmark.COVID)
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
# One film of each diagnosis from an external hospital, the one its class is surest of, with the maps of all three classes on one scale.
# The paper shows such examples and calls them plausible. Looking is not judging: keep that in mind until the trial below.

# %% tags=["report"]
outside = datasets.parts(diagnosis.of_view(table, view))["external"]
judged = diagnosis.predict(model, outside, settings, store)
surest = [
    int(judged[f"p_{name}"].where(judged["diagnosis"] == name, -1).argmax()) for name in DIAGNOSES
]
batch = diagnosis.dataset(outside, settings, store).batch(surest)["image"]
with torch.no_grad():
    features = model.features(batch)
heat = deep_taylor.relevance(model.transformer, features, [0, 1, 2])
shown = np.load(cache.cached(outside["path"], settings.image_size, settings.choices, store=store))[
    surest
]
truth = None
if outside["lesion_mask"].notna().all():
    truth = (
        np.load(
            cache.cached(
                outside["lesion_mask"], settings.image_size, settings.choices, "lesion", store
            )
        )[surest]
        == 255
    )
labels = [
    f"{name}\n(p {judged.loc[i, f'p_{DIAGNOSES[k]}']:.2f})"
    for k, (i, name) in enumerate(zip(surest, names, strict=True))
]
plots_of = {
    "stamped": "synthetic" if outside["dataset"].eq("virtual").all() else "research use only"
}
overlays.plot_saliency(
    shown,
    heat,
    labels,
    [f"for {name}" for name in names],
    "Relevance for each class, external hospitals (blue: true lesion)",
    truth,
    shared=True,
    **plots_of,
)

# %% [markdown]
# ## Method, class, layer
#
# Eleven methods answer the same question differently. Raw attention and rollout look at attention only and say the same for every class;
# *random* is noise, which all of them must beat.


# %%
def look(film, method, explained, start_layer):
    options = {"start_layer": start_layer} if method == "relevance" else {}
    heat = methods.METHODS[method](
        model.transformer, seen.corpus[film : film + 1], names.index(explained), **options
    )
    title = f"{method.replace('_', ' ')} for {explained}" + (
        f", blocks from {start_layer}" if options else ""
    )
    return overlays.plot_saliency(
        pixels[film : film + 1],
        heat[:, None],
        [films.site[film]],
        [title],
        "",
        lesion[film : film + 1],
        **plots_of,
    )


kinds = list(methods.METHODS)
for part in (kinds[:5], kinds[5:]):
    shots = torch.stack(
        [
            methods.METHODS[name](model.transformer, seen.corpus[::16], saliency_benchmark.COVID)
            for name in part
        ],
        dim=1,
    )
    display(
        overlays.plot_saliency(
            pixels[::16],
            shots,
            list(films.site[::16]),
            [name.replace("_", " ") for name in part],
            "Saliency for COVID-19, three films (blue: true lesion)",
            lesion[::16],
            **plots_of,
        )
    )

# %%
look(0, "relevance", "COVID-19", 0)

# %%
sliders.explore(
    look,
    film=(0, min(len(films), 12) - 1, 1),
    method=list(methods.METHODS),
    explained=names,
    start={"explained": "COVID-19"},
    start_layer=(0, len(model.transformer.blocks) - 1, 1),
)

# %% [markdown]
# ## The trial
#
# Questions to each method, on every film of both views. *Against the lesion*: does the strongest point lie within one cell of it
# (pointing game), does the strongest cell touch it, how much of the map lies inside it, and inside the lungs? *Against the model*: does
# the probability of COVID-19 fall when the strongest cells are deleted first, and rise when they are inserted first? *Sanity*: does the
# map stay when a little noise is added, and does it *go* when the weights are shuffled? And what does it cost?

# %%
trial = stages.court(settings, store)
rows = pd.read_csv(trial / "rows.csv")
verdict = saliency_benchmark.verdict(rows, draws=400)
cells = verdict.assign(
    text=[f"{v:.2f} [{a:.2f}, {b:.2f}]" for v, a, b in verdict[["value", "low", "high"]].to_numpy()]
)
cells.pivot(index="method", columns="criterion", values="text").reindex(
    index=["relevance", *[m for m in methods.METHODS if m != "relevance"], "chance"],
    columns=list(saliency_benchmark.CRITERIA),
).fillna("")

# %% tags=["report"]
count = rows.groupby("view")["film"].nunique()
curves.plot_court(
    verdict, saliency_benchmark.CRITERIA, f"The court: {count.sum()} films of COVID-19"
)

# %% [markdown]
# Relevance minus each rival on the same films: what makes a film hard for both falls out, so small differences show.

# %% tags=["report"]
gaps = pd.concat(
    {
        name: saliency_benchmark.against(rows, "relevance", name, draws=400)
        for name in ("pointing", "lesion", "deletion")
    },
    axis=1,
)
gaps.loc[[m for m in methods.METHODS if m in gaps.index] + ["chance"]].round(3)

# %% [markdown]
# Shuffle the weights part by part, from the head down. A map that stays has never looked at the weights it claims to explain.

# %% tags=["report"]
curves.plot_cascade(
    pd.read_csv(trial / "cascade.csv"), "Does the map notice that the weights are gone?"
)

# %% [markdown]
# ## The verdict
#
# Who is best on each question, and who is no better than chance? Two intervals that do not overlap count as a difference, nothing less.
#
# Read it soberly. Relevance points above chance, but how far above, and whether it is ahead of plain attention, changes from one training
# to the next (below). The pictures at the top say the same: the map of a film that is rightly called COVID-19 can be nearly empty, or sit
# on the mediastinum. A map that is exact about the model is no proof that the model looks at the disease. `attention_gradcam` is empty on
# some films (n in the table above): an empty map has no share in the lesion and no rank correlation, and a method without an interval
# takes no part in that question.

# %%
order = saliency_benchmark.ranking(verdict)
for column in ("not clearly worse", "not above chance"):
    order[column] = [
        "no chance known" if found is None else ", ".join(found) or "none"
        for found in order[column]
    ]
pd.set_option("display.max_colwidth", None)
order.round(3)

# %% [markdown]
# ## How much is luck?
#
# The same court over models of three seeds (`make seeds STUDY=court`): other patients, other first weights. The aim of this kit, three hits
# in four, is reached by some trainings and missed by others, and two trainings of one seed that differed only in how the optimiser rounds
# gave 0.54 and 0.75. A single model says little of a method, and intervals over its films do not hold this luck.

# %% tags=["report"]
if "seeds_court" in results.names():
    measured = results.read("seeds_court")
    played = (
        pd.DataFrame(measured["rows"])
        .query("criterion == 'pointing'")
        .assign(label=lambda t: t["method"].str.replace("_", " "))
    )
    played = played[
        played["method"].isin(["relevance", "raw_attention", "rollout", "gradcam", "chance"])
    ]
    display(
        curves.plot_forest(
            played.assign(group="seed " + played["seed"].astype(str)),
            "Pointing game: seeds 0 (blue), 1 (red), 2 (green)",
            "share of films hit",
        )
    )
else:
    print("not measured here yet: make seeds STUDY=court")

# %% [markdown]
# Even the winner fails on some films. Where? The share of hits by whether the model called the film COVID-19, and by the size of the
# lesion: a small lesion is easily missed by a model that sees a grid of cells, and one would expect fewer hits where the answer is wrong,
# for that map explains a mistake. Look at the number of films before you believe either.

# %%
called = diagnosis.predict(model, films, settings, store)
right = called[diagnosis.PROBABILITIES].to_numpy().argmax(1) == saliency_benchmark.COVID
share = (lesion & lungs).sum((1, 2)) / lungs.sum((1, 2))
groups = {
    "called COVID-19": right,
    "called something else": ~right,
    "smaller lesions": share <= np.median(share),
    "larger lesions": share > np.median(share),
}
strongest = deep_taylor.relevance(model.transformer, seen.corpus, saliency_benchmark.COVID)
hits = measures.pointing(strongest, lesion)
chance = measures.near(lesion, seen.corpus.shape[-2:]).mean((1, 2))
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
# features? Sharper to look at, but it says where the *edges* are that the convolutions read, and the court's judgement does not cover it.

# %%
image = diagnosis.dataset(films, settings, store).batch([0])["image"]
fine = methods.through_backbone(model.features, image, strongest[:1]).abs()
# single pixels are too small to see
fine = torch.nn.functional.avg_pool2d(fine[:, None], 3, 1, 1)[:, 0]
fine = fine / torch.quantile(fine, 0.995) * strongest[0].max()
figure, axes = style.grid(1, 3, size=3.4, title="One map at two resolutions")
style.show(axes[0, 0], pixels[0], "film")
overlays.over(axes[0, 1], pixels[0], strongest[0], "relevance of cells (enlarged)", lesion[0])
overlays.over(
    axes[0, 2],
    pixels[0],
    fine[0].clamp(max=float(strongest[0].max())),
    "carried on to pixels",
    lesion[0],
)
style.stamp(figure, plots_of["stamped"])

# %% [markdown]
# ## Real boxes
#
# With `mirror` set, the pointing game on the 43 boxes that radiologists drew on NIH films, most of them pneumonia. A box is larger than
# the disease in it, so chance is high; models trained on virtual hospitals have never seen a real film, and those of `mini` have seen
# these films and the word pneumonia, but no box.

# %%
if mirror and (Path(mirror) / "nih_cxr14" / "bbox.csv").exists():
    paths, boxes = saliency_benchmark.read_boxes(Path(mirror) / "nih_cxr14", settings.image_size)
    if settings.sources.lungs_only:  # the model sees nothing else
        paths = table.set_index(table["origin"].map(lambda path: Path(path).name))["path"].loc[
            [Path(path).name for path in paths]
        ]
    real = np.load(cache.cached(paths, settings.image_size, settings.choices, store=store))
    film = torch.stack(
        [
            torch.from_numpy(preprocessing.normalize(pixels, settings.choices.normalize))[None]
            for pixels in real
        ]
    )
    with torch.no_grad():
        features = model.features(film)
    hit = {
        name: measures.pointing(explain(model.transformer, features, 1), boxes)
        for name, explain in methods.METHODS.items()
    }
    hit["chance"] = measures.near(boxes, features.shape[-2:]).mean((1, 2))
    lines = [
        pd.DataFrame({"method": name, "criterion": "boxes", "group": range(len(v)), "value": v})
        for name, v in hit.items()
    ]
    display(saliency_benchmark.verdict(pd.concat(lines)))
else:
    print("not available here: set the parameter `mirror` to a folder of prepared real films")

# %% [markdown]
# ## Exercises
#
# 1. Use only the last block (`start_layer`). Does relevance point better or worse than through all blocks, and what does that say of the
#    first ones?
# 2. Relevance of a *difference*: explain "COVID-19 rather than other infection" with a function of the outputs. How does the map differ?
# 3. The pointing game forgives one cell. Be more generous and let a hit be two cells away: what happens to chance?

# %% tags=["solution"]
# Exercise 1: the pointing game by the first block used.
for layer in range(len(model.transformer.blocks)):
    heat = deep_taylor.relevance(
        model.transformer, seen.corpus, saliency_benchmark.COVID, start_layer=layer
    )
    print(f"blocks from {layer}: {measures.pointing(heat, lesion).mean():.2f}")

# %% tags=["solution"]
# Exercise 2: a contrast.
contrast = deep_taylor.relevance(
    model.transformer, seen.corpus, lambda out: out["logits"][:, 2] - out["logits"][:, 1]
)
print(
    "pointing game:",
    measures.pointing(contrast, lesion).mean().round(2),
    "against",
    hits.mean().round(2),
)
print(
    "rank correlation of the two maps:",
    np.nanmean(measures.rank_correlation(contrast, strongest)).round(2),
)

# %% tags=["solution"]
# Exercise 3: a cell more of tolerance on each side.
wide = torch.nn.functional.max_pool2d(
    torch.from_numpy(measures.near(lesion, seen.corpus.shape[-2:])).float()[:, None], 3, 1, 1
)[:, 0]
peak = strongest.flatten(1).argmax(1, keepdim=True)
print("hits:", wide.flatten(1).gather(1, peak).mean().item(), "chance:", wide.mean().item())

# %% [markdown]
# ## Next
#
# **06_severity** puts the map head on the same transformer and asks how much of each lung zone is ill. `saliency.relevance` explains that
# too: give it a function of the outputs.
