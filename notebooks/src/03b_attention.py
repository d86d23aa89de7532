# %% [markdown]
# # 03b Attention: a task that needs places
#
# **Aim.** Write one attention head, train a transformer of two layers in seconds on a task in which *where* decides, and switch its
# positions and its attention off to see what it had used.
#
# **Afterwards you can** compute attention from queries, keys and values; say why a bag of tokens knows no places; tell what a switch at
# test time shows and what it does not; and read a map of attention without taking it for an explanation. **Before it:** matrix products,
# softmax, gradient descent; lessons 00 and 02 help.
#
# **Paper.** Park et al. 2021, section 3.2 (the transformer on the corpus). **Time to teach:** 60 minutes, 30 of them for the exercises.
# **Time to run:** a minute on one core, most of it for two trainings.
#
# Research and teaching only: nothing here is a diagnostic device. Every image in this lesson is *synthetic*.

# %% tags=["parameters"]
profile = "demo"
out = None

# %%
import contextlib
import inspect
import time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from cxrkit import Run, models, simulation, teaching, viz
from cxrkit.simulation import disease
from cxrkit.teaching import check, hint, schematic  # noqa: F401

run = Run(profile, out)

# %% [markdown]
# ## The task
#
# An image here is a grid of 8x8 cells with two channels, so small that it needs no backbone: it *is* the corpus that lesson 04 will take
# from a film. Each channel marks one cell. The question is a radiologist's question in its smallest form: do both marks lie in the right
# lung, both in the left, or one in each? As on a film, the patient's right is on your left.

# %%
# NBVAL_CHECK_OUTPUT
print(inspect.getsource(teaching.draw_marks))
images, answers, cells = teaching.draw_marks(2000, np.random.default_rng(99))
print(
    tuple(images.shape),
    "images;",
    {name: int((answers == k).sum()) for k, name in enumerate(teaching.ANSWERS)},
)

# %% tags=["story"]
shown = [int((answers == k).nonzero()[i]) for k in (0, 1, 2) for i in (0, 1)]
figure, axes = viz.grid(
    1, 6, size=2.0, title="Two marks (each cell: the larger of its two channels)"
)
for axis, i in zip(axes[0], shown, strict=True):
    drawn = viz.show_image(
        axis, images[i].amax(0), teaching.ANSWERS[answers[i]], cmap="viridis", vmin=0, vmax=1
    )
    axis.axvline(3.5, color="white", linestyle="--")
figure.colorbar(drawn, ax=axes, label="value", shrink=0.8)
viz.stamp(figure)

# %% [markdown]
# **What you should have seen.** Two bright cells on a dark grid, and a dashed line between the halves. Nothing but the places differs
# between the three answers: every image has one mark in each channel.
#
# ## A bag of words cannot know
#
# The cells of an image are like the words of a text. A *bag of words* keeps how many there are of each kind and forgets where they stood.
# Here a bag is the mean, the largest value and the variance of each channel over the cells. A linear model reads it.


# %%
def bag(images):
    """(n, C, h, w) -> (n, 3 C)."""
    statistics = [images.mean((2, 3)), images.amax((2, 3)), images.var((2, 3))]
    return torch.cat(statistics, dim=1).numpy()


more, their_answers, _ = teaching.draw_marks(4000, np.random.default_rng(7))
of_bag = LogisticRegression(max_iter=2000).fit(bag(more), their_answers)
accuracy = {
    "always the most frequent answer": float(torch.bincount(answers).max() / len(answers)),
    "bag of words": of_bag.score(bag(images), answers),
}
pd.Series(accuracy, name="accuracy").round(3).to_frame()

# %%
# NBVAL_CHECK_OUTPUT
elsewhere = images.flatten(2)[:, :, torch.randperm(64)].view_as(images)  # the cells, shuffled
print("shuffled images have the same bags:", np.allclose(bag(images), bag(elsewhere), atol=1e-5))

# %% [markdown]
# **What you should have seen.** The bag is as good as the guess that looks at nothing. No better reader of the bag would help, because
# the bags of the three answers are the same.
#
# ## One head of attention
#
# Let $X$ hold one token a row: $T$ tokens of $D$ numbers. A head makes three linear views of every token, of $d$ numbers each: what it
# looks for (*query*), what it can be found by (*key*) and what it hands over (*value*).
#
# $$Q = X W_Q,\quad K = X W_K,\quad V = X W_V,\qquad A = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt d}\right),\qquad \text{answer} = A V$$
#
# Row $i$ of $A$ belongs to the token that looks. It holds shares, one for each token looked at, and sums to 1. Therefore the answer of
# token $i$ is a mean of all values, weighted by how well their keys fit its query. The root of $d$ keeps the fits small, because a sum of
# $d$ products grows with $d$ and a softmax of large numbers picks one token and has no gradient for the others.

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
print("equal fits give equal shares:", torch.zeros(4).softmax(0).tolist())
schematic("one_head")

# %% [markdown]
# **What you should have seen.** Queries and keys meet in the matrix of fits and decide only *how much*; what is handed over takes the lower
# way, through the values.
#
# ### Exercise 03b.1 (warm-up)
#
# The grid has 8x8 cells, and the model adds one *class token*, which will give the answer. How many entries has the attention matrix of one
# head for one image?

# %% tags=["exercise", "03b.1"]
entries = ...  # a whole number
check("03b.1", entries)

# %% [markdown]
# ### Exercise 03b.2 (core): write the head yourself
#
# Fill the gaps from the equation, with the same symbols. `check` compares your function with the package's own on tokens drawn anew. If you
# are stuck, run `hint("03b.2")` in a new cell, up to three times.


# %% tags=["exercise", "03b.2"]
def one_head(X, W_Q, W_K, W_V):
    """X (T, D), the weights (D, d) each -> attention (T, T), answer (T, d)."""
    Q, K, V = ..., ..., ...  # (T, d) each
    fit = ...  # (T, T)
    A = ...  # (T, T), each row sums to 1
    return A, ...


check("03b.2", one_head)

# %% [markdown]
# ## The model
#
# The package's own transformer, the one of lesson 04, in very small: two layers of two heads. Every cell becomes a token through one
# matrix; a learned *position* is added to it, because attention by itself compares tokens and does not know where they stand. A layer adds
# what the heads say to the tokens (a *residual* sum: the layer learns a change, and the gradient finds a way past it), then what a small
# network (*MLP*) makes of each token alone. *LayerNorm* before each part brings every token to mean 0 and spread 1, so that no token
# shouts the others down.
#
# How it begins matters. With the usual weights of large transformers (spread 0.02) the queries and keys of a narrow model are almost 0, so
# attention is even and hardly gets a gradient. `initialisation="narrow"` draws the weights by Xavier's rule and the positions with a spread
# of 0.5, as large as the tokens.

# %%
schematic("several_heads")

# %% [markdown]
# **What you should have seen.** The numbers of a token are cut into parts, one for each head. Each head makes an attention matrix of its own; what they
# say is put side by side again, and one more matrix mixes it.


# %%
# NBVAL_CHECK_OUTPUT
def make_model(seed, **ablation):
    torch.manual_seed(seed)
    return models.CorpusViT(
        in_channels=2,
        grid=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_dim=128,
        num_classes=3,
        fused=True,
        initialisation="narrow",
        **ablation,
    )


vit = make_model(0)
print(f"{sum(p.numel() for p in vit.parameters()):,} weights")

# %% [markdown]
# ## Training, on one page
#
# One step: predict, measure the loss, ask for its gradient, take a step against it. *AdamW* sets its length for each weight.
# The *learning rate* rises for 50 steps, because the first gradients are wild, and then falls slowly along a cosine. Every step sees new images,
# so that nothing can be learnt by heart: the loss of training is also the loss on images never seen. Not every beginning finds the marks soon: a
# model that has not learnt the task in 700 steps begins anew with the next seed.


# %%
# NBVAL_CHECK_OUTPUT
def train(model, steps=1500, lr=2e-3, batch=64, enough=0.03):
    rng = np.random.default_rng(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    history = []
    for step in range(steps):
        rate = lr * min(1, (step + 1) / 50) * (1 + np.cos(np.pi * step / 1500)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, answers, _ = teaching.draw_marks(batch, rng)
        loss = F.cross_entropy(model(images)["logits"], answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append({"step": step + 1, "loss": loss.item()})
        if step > 100 and np.mean([row["loss"] for row in history[-40:]]) < enough:
            break
    model.eval()
    return history


@torch.no_grad()
def score(model):
    """Share of right answers on the 2,000 images of the first figure."""
    return float((model(images)["logits"].argmax(1) == answers).float().mean())


print(f"loss of a guess among three answers: log 3 = {np.log(3):.2f}")


# %%
start = time.process_time()
for seed in range(4):
    vit = make_model(seed)
    history = train(vit, steps=700)
    if len(history) < 700:
        break
print(f"seed {seed}, {len(history)} steps; {time.process_time() - start:.0f} s of one core")

# %% tags=["story"]
smooth = pd.DataFrame(history).rolling(20, min_periods=1).mean()
smooth["step"] = range(1, len(smooth) + 1)
viz.plot_history(
    {"two layers, two heads": smooth.to_dict("records")},
    "Cross-entropy of three answers, mean of 20 steps",
)

# %% [markdown]
# **What you should have seen.** For a long time nothing: the loss stays where a guess stands. Then it falls, step by step.
# Before the first step no head looks at the marks, so their places cannot help; each step is something found, and the next can build on it.
#
# ## Switches
#
# Now take something away from the *finished* model. `models.INTERVENTIONS` are context managers: inside the `with` the switch is on, after
# it the model is as before. *Shuffled*: the cells stand in another order, the same for all images. *Without positions*: the learned
# positions are 0. *Even attention*: every row of $A$ is $1/T$.

# %% tags=["story"]
accuracy["two layers, two heads"] = score(vit)
for name, intervention in models.INTERVENTIONS.items():
    with intervention(vit):
        accuracy[name.replace("_", " ")] = score(vit)
viz.plot_bars(
    list(accuracy), list(accuracy.values()), "Two marks: right answers", "share of 2,000 new images"
)

# %%
# NBVAL_CHECK_OUTPUT
print("bag of words at most 0.55:", accuracy["bag of words"] <= 0.55)
print("the model at least 0.97:", accuracy["two layers, two heads"] >= 0.97)
print("without positions at most 0.5:", accuracy["without positions"] <= 0.5)
print("even attention at most 0.5:", accuracy["even attention"] <= 0.5)
assert accuracy["bag of words"] <= 0.55 and accuracy["two layers, two heads"] >= 0.97
assert max(accuracy["without positions"], accuracy["even attention"]) <= 0.5

# %% [markdown]
# **What you should have seen.** The model is nearly always right; each switch throws it back to a guess or below. A wrong model is not a
# random one: without its attention this one gives nearly the same answer to every image.
#
# ### Exercise 03b.3 (warm-up)
#
# Two of the three switches also lead the model to inputs that it has never met, so a loss may come from the surprise alone. Which one does
# not?

# %% tags=["exercise", "03b.3"]
honest = ...  # "shuffled", "without positions" or "even attention"
check("03b.3", honest)

# %% [markdown]
# ## Used, or needed?
#
# A switch at test time shows what *this* model has used. Whether the task *needs* it is another question, and it takes another experiment:
# train a model that never had it. Without positions the tokens are a bag, and no training can help. With even attention each layer
# still takes the mean of all tokens; let us see what training makes of that in as many steps.

# %%
# NBVAL_CHECK_OUTPUT
never = make_model(seed, even=True)
train(never, steps=len(history))
less = score(never) < accuracy["two layers, two heads"]
print("trained without attention it is right less often:", less)
needed = {
    "trained with all": accuracy["two layers, two heads"],
    "trained with even attention": score(never),
    "no positions (a bag)": accuracy["bag of words"],
}
viz.plot_bars(
    list(needed), list(needed.values()), "What the task needs", "share of 2,000 new images"
)

# %% [markdown]
# **What you should have seen.** In as many steps the model that never had attention does not get as far. That does not say that it never
# could: the MLP of its first layer can write "a mark on the left" into a token, and the mean of the second layer counts. So the task does not
# *force* attention; attention finds the marks sooner. Positions it does force: without them there is nothing to find.
#
# ## Where the heads look
#
# Hooks on the softmax of each layer catch $A$. Below stands how much of its attention the class token gives to the two marked cells, in
# multiples of an even share: 1 means that it looks at them as at any other cell.


# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
def attention_of(model, images):
    """List over the layers of (n, N, T, T)."""
    seen, fused = [], model.fused
    model.fused = False  # the fused call computes the same, but hooks cannot look into it
    hooks = [
        block.attn.softmax.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    model.fused = fused
    return seen


seen = attention_of(vit, images)
sums = torch.stack([A.sum(-1) for A in seen])
print("all attention of a token sums to 1:", torch.allclose(sums, torch.ones(1)))
in_half = [cells % 8 < 4, cells % 8 >= 4]  # (n, 2) of bool: the mark lies right, left
shares = teaching.share_on_pair(seen, cells)  # (layers, heads)
table = pd.DataFrame(shares.numpy(), ["layer 1", "layer 2"], ["head 1", "head 2"])
viz.plot_matrix(
    {"": table}, "Attention of the class token to the two marks", "times an even share", 0
)

# %%
print("one head puts at least five times the even share on the pair:", bool(shares.max() >= 5))
assert shares.max() >= 5
layer, head = divmod(int(shares.argmax()), 2)
to_marks = seen[layer][:, head, 0].gather(1, 1 + cells) * seen[layer].shape[-1]  # (n, 2)
pd.Series(
    {
        side: float(to_marks[where].mean())
        for side, where in zip(("mark on the right", "mark on the left"), in_half)
    },
    name=f"layer {layer + 1}, head {head + 1}: times an even share",
).round(1).to_frame()

# %% [markdown]
# **What you should have seen.** Which head looks at the marks, and in which layer, depends on the beginning and even on the version of the
# libraries; the matrix shows it of this model. Compare the two numbers of the head that looks most. Where one is far larger, it is no "find the
# partner" head: it looks at marks of *one* side and leaves the other alone. That is enough. Whoever knows how many marks lie in one lung knows
# the answer. A head does what lowers the loss, not what we would have drawn.
#
# Look for yourself: choose an image and a layer, and switch positions and attention off.


# %%
def look(image, layer, positions, attention):
    with contextlib.ExitStack() as switches:
        if not positions:
            switches.enter_context(models.INTERVENTIONS["without_positions"](vit))
        with torch.no_grad(), contextlib.ExitStack() as inner:
            if not attention:
                inner.enter_context(models.INTERVENTIONS["even_attention"](vit))
            p = vit(images[image : image + 1])["logits"].softmax(1)[0]
        A = attention_of(vit, images[image : image + 1])[layer - 1][0, :, 0, 1:].unflatten(
            1, (8, 8)
        )
    if not attention:
        A = torch.full_like(A, 1 / 65)
    says = ", ".join(f"{name} {value:.2f}" for name, value in zip(teaching.ANSWERS, p))
    picture = (255 * (images[image, 0] + 0.5 * images[image, 1]).clamp(0, 1)).byte().numpy()
    picture = picture.repeat(16, 0).repeat(16, 1)
    return viz.plot_attention(
        picture, A, None, f"Layer {layer}. Truth: {teaching.ANSWERS[answers[image]]}. Says: {says}"
    )


look(shown[2], 2, True, True)

# %%
viz.explore(
    look,
    image=(0, 50, 1),
    layer=(1, 2, 1),
    positions=True,
    attention=True,
    start={"layer": 2, "image": min(shown[2], 50)},
)

# %% [markdown]
# **What you should have seen.** On the picture the two marks; beside it, for each head, from where the class token takes its content. Switch the
# positions or the attention off: the matrix and the answer change, the picture does not.
#
# ## From marks to lesions
#
# The same on the virtual hospitals, with the backbone left out: a token is the *true* share of a cell that is lesion. Their infections
# have one law of sizes, textures and areas; only the places differ. COVID-19 lies on both sides, low
# and near the wall, bacterial pneumonia in one lobe, tuberculosis in the apices.


# %%
def lesion_words(kind, seed):
    """True lesion share of each cell (8, 8) of a virtual patient."""
    rng = np.random.default_rng(seed)
    lesions = simulation.arrangement.draw_infection(rng, kind, "textbook", chest.source)
    _, extent = simulation.add_lesions(chest, lesions)
    lesion = (extent >= disease.MIN_LESION) & (chest.right | chest.left)
    side = len(lesion) // 8  # px of a cell
    return lesion.reshape(8, side, 8, side).mean((1, 3))


chest = simulation.Hospital("alder", n=10, size=128).chest(0, "PA")
names = {"covid": "COVID-19", "bacterial": "bacterial", "tuberculosis": "tuberculosis"}
figure, axes = viz.grid(
    1, 6, size=2.1, title="Words made of the true lesion map, two patients each"
)
for axis, i in zip(axes[0], range(6), strict=True):
    kind = list(names)[i // 2]
    drawn = viz.show_image(axis, lesion_words(kind, i), names[kind], cmap="viridis", vmin=0, vmax=1)
figure.colorbar(drawn, ax=axes, label="lesion share", shrink=0.8)
viz.stamp(figure)

# %% [markdown]
# **What you should have seen.** COVID-19 touches both halves of the grid; bacterial pneumonia stays in one place, tuberculosis lies higher up. How
# *much* is lesion does not tell them apart.
#
# Transformers were trained on such tokens to tell COVID-19 from other infections, and evaluated on bodies made from a CT that no training
# saw. That takes many minutes, so it was done once; the command is printed.

# %% tags=["report"]
# NBVAL_CHECK_OUTPUT
if run.recorded("hospital_tokens"):
    measured = run.recorded("hospital_tokens")
    made, rows = measured["made"], pd.DataFrame(measured["rows"])
    rows = rows.groupby("reader", sort=False)["auc"]
    spread = pd.DataFrame({"mean": rows.mean(), "lowest seed": rows.min(), "highest": rows.max()})
    print(f"{made['command']}, commit {made['commit']}, {made['external']} external patients; AUC:")
    display(spread.round(3))
else:
    print("not measured on these virtual hospitals yet: python benchmarks/hospitals.py tokens")

# %% [markdown]
# Read such a table by its pairs: *shuffled at test* against the first row says what the finished model used; *trained without positions* and
# *trained with even attention* say what the task needs.
#
# On features of a deep network the same switches can tell another story, because one of its cells may see far beyond its own square (lesson
# 02, *What a cell can see*): then one cell knows already what attention would have compared. Lesson 04 tries the switches on the
# model of the virtual hospitals, and [the data sheet of the virtual hospitals](../docs/virtual_hospitals.md) has models that were trained
# without. Look there before you believe that a transformer has compared anything.
#
# ## More exercises
#
# ### Exercise 03b.4 (project): be the transformer
#
# Write features by hand that solve the two marks. Your function gets images (n, 2, 8, 8) and gives an array (n, F); `check` fits a linear
# model on them and tries it on new images.


# %% tags=["exercise", "03b.4"]
def features(images):
    """(n, 2, 8, 8) -> (n, F)."""
    return ...


check("03b.4", features)

# %% [markdown]
# > **Take away.** (1) Attention is a weighted mean; the weights come from queries and keys, the content from values. (2) Without
# > positions a transformer reads a bag. (3) A switch at test time shows what a model has used, a training without shows what the task
# > needs. (4) A head does what lowers the loss; a map of it shows where it looked, not why the model answered.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. Why does a row of $A$ sum to 1, and not a column?
#    <details><summary>answer</summary>A row belongs to the token that looks; it divides its attention among the others. How much a token is
#    looked at, its column, may be anything from 0 to T.</details>
# 2. Two tokens exchange their places in a model without positions. What happens to the answer of the class token?
#    <details><summary>answer</summary>Nothing: it is a weighted mean, and a mean does not depend on the order.</details>
# 3. With even attention at test time the model falls to a guess. Does that prove that the task needs attention?
#    <details><summary>answer</summary>No. It proves that this model used it. Whether the task needs it, a model trained without
#    attention shows.</details>
# 4. Why are the fits divided by the root of d?
#    <details><summary>answer</summary>A sum of d products of numbers of spread 1 has a spread of the root of d. Large fits make the softmax
#    pick one token, and then hardly any gradient flows to the others.</details>
# 5. The grid gets twice as many cells in each direction. How does the cost of attention change?
#    <details><summary>answer</summary>Four times the tokens, sixteen times the entries of A.</details>
#
# **To read.** Vaswani et al. 2017, *Attention is all you need*, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762): sections 3.2 and 3.5.
# Dosovitskiy et al. 2021, *An image is worth 16x16 words*, [arXiv 2010.11929](https://arxiv.org/abs/2010.11929). Jain and Wallace 2019, *Attention
# is not explanation*, [arXiv 1902.10186](https://arxiv.org/abs/1902.10186). Glorot and Bengio 2010, on how weights should begin,
# [PMLR 9](https://proceedings.mlr.press/v9/glorot10a.html).
#
# ## Next
#
# **04_corpus_vit** gives the same transformer the corpus of real size and asks for a diagnosis.
