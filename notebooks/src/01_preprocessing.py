# %% [markdown]
# # 01 Preprocessing: what the model gets to see
#
# **Aim.** Follow a film through histogram equalisation, blur, resize and normalisation; write the first one by hand; see how much each
# step, and each interpretation of the paper, changes the model's input; test whether the hospital can still be recognised afterwards.
#
# **Paper.** Park et al. 2021, section 4, one sentence: "preprocessed via histogram equalization, Gaussian blurring with 3 x 3 kernel,
# normalization, and finally resized to 512 x 512". **Afterwards you can** equalise a film by hand, and say what it fixes, what it does not fix
# and what it can destroy. **Before it:** lesson 00. **Time to teach:** 45 minutes. **Time to run:** a minute on two CPU cores.
#
# Research and teaching only: nothing here is a diagnostic device.

# %% tags=["parameters"]
profile = "demo"
out = None
mirror = None

# %%
import inspect
import tempfile

import cv2
import numpy as np
import pandas as pd

from cxrkit import Run, data, evaluation, simulation, viz
from cxrkit.teaching import check, hint, what_to_see  # noqa: F401

run = Run(profile, out)
size = run.profile.image_size
drawn = run.virtual.cohort

# %% [markdown]
# ## Films differ before disease does
#
# The same kind of patient at six hospitals. Mean and spread of the grey values differ from film to film, because machines, exposures and
# display software do.

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
normal = drawn.table[
    (drawn.table.diagnosis == "normal")
    & (drawn.table.ward == "diagnosis")
    & (drawn.table.view == "PA")
]
rows = [int(normal[normal.site == site].index[0]) for site in simulation.SITES]
films = drawn.images[rows]  # (6, S, S)
greys = films.mean(axis=(1, 2))
print("mean greys over 40 levels apart:", bool(np.ptp(greys) > 40))
viz.plot_steps(
    list(films),
    list(simulation.SITES),
    "One normal PA film of each hospital, as it leaves the machine",
)

# %% [markdown]
# **What you should have seen.** Six chests without a lung disease, some with a device, and six histograms. One hospital uses a narrow band of
# greys, others have a black frame, which makes the bar at 0. None of this is disease.
#
# ## Equalisation by hand
#
# Replace every grey level by the share of pixels that are at most as bright, spread over 0 to 255. Six pixels are enough to see it:

# %% tags=["story"]
# NBVAL_CHECK_OUTPUT
toy = np.array([[10, 10, 20], [20, 20, 200]], np.uint8)
counts = np.bincount(toy.ravel(), minlength=256)
below = counts.cumsum()  # pixels at most as bright
lowest = below[toy.min()]  # OpenCV sends the darkest level to 0
table = np.rint((below - lowest) / (toy.size - lowest) * 255).clip(0, 255).astype(np.uint8)
np.testing.assert_array_equal(table[toy], data.equalize(toy))
pd.DataFrame(
    {
        "grey level": [10, 20, 200],
        "pixels at most as bright": below[[10, 20, 200]],
        "becomes": table[[10, 20, 200]],
    }
)

# %% [markdown]
# ### Exercise 01.1 (core): equalise a film
#
# The same for a whole film, as a function: count the pixels of each of the 256 levels, add them up, make the table, look every pixel up.
# `check` compares it with OpenCV, to one grey level.


# %% tags=["exercise", "01.1"]
def equalise(image):
    """uint8 (H, W) -> uint8 (H, W), every grey replaced by its rank, spread over 0 to 255."""
    return ...


check("01.1", equalise)

# %% [markdown]
# ## Blur by hand
#
# A 3x3 Gaussian weighs a pixel 4, its neighbours 2, the corners 1, all over 16. Noise that differs from pixel to pixel shrinks, because
# the mean of several draws varies less than one; a structure of several pixels keeps nearly all of its contrast.

# %%
# NBVAL_CHECK_OUTPUT
kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
dot = np.zeros((5, 5), np.float32)
dot[2, 2] = 16
np.testing.assert_allclose(data.blur(dot)[1:4, 1:4], kernel * 16)
print(data.blur(dot).astype(int))

# %% [markdown]
# ## The whole chain
#
# `data.preprocess` is what every network of the kit sees. Its steps, on one film:

# %%
print(inspect.getsource(data.preprocess))

# %% tags=["report", "story"]
image = data.resize(np.array(films[4]), 2 * size)  # the size that the chain works at
equal = data.equalize(image)
smooth = data.blur(equal)
small = data.resize(smooth, size)
ready = data.normalize(small)
steps = [image, equal, smooth, small]
viz.plot_steps(
    steps,
    ["film", "equalised", "blurred 3x3", f"resized to {size}"],
    "The chain on a film of hospital elm",
)

# %% [markdown]
# **What you should have seen.** The first step changes everything and makes the histogram flat. The blur cannot be seen at this size, and the
# resize takes three pixels in four.

# %%
# NBVAL_CHECK_OUTPUT
whole = data.preprocess(image, size)
np.testing.assert_array_equal(whole, ready)
print("shape:", whole.shape, whole.dtype)
print("range inside [-2, 1.984]:", bool(whole.min() >= -2 and whole.max() <= 127 / 64))
print("the steps one by one give the same:", bool((whole == ready).all()))
print(
    "16-bit films go the same way:",
    bool(
        np.array_equal(
            data.equalize(image.astype(np.uint16)),
            data.equalize(data.to_uint8(image.astype(np.uint16))),
        )
    ),
)

# %% [markdown]
# ## Can the hospital still be recognised after equalisation?
#
# Equalisation makes the histogram flat. So all films get nearly the same mean grey *by construction*, and this shows nothing about hospitals.
# The question that matters is another one: can a model still name the hospital of a film? If it can, it may use the hospital instead of the
# disease (lesson 08).
#
# The test: thirty normal films of each hospital. A linear model reads a film as one of three small descriptions and names the hospital: the
# mean grey (1 number), the histogram (the shares of 16 bands of grey), or a thumbnail of 16x16 px. Each is tried on raw and on equalised films.
# No anatomy is in training and test at once, so the model cannot recognise a patient. *Balanced accuracy* is the share of films that are named
# right, hospital by hospital, and then the mean over the six; who guesses has 1/6.


# %%
# NBVAL_CHECK_OUTPUT
def describe(image):
    """uint8 (H, W) -> three descriptions of a film, by name."""
    return {
        "mean grey": np.array([image.mean()]),
        "histogram": np.bincount(image.ravel() >> 4, minlength=16) / image.size,  # (16,)
        "thumbnail": cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).ravel() / 255,
    }


thirty = normal.groupby("site").head(30)
pixels = drawn.images[thirty.index.to_numpy()]
hospital = thirty.site.astype("category").cat.codes.to_numpy(int)
anatomy = thirty.group_id.to_numpy()
fold = evaluation.assign_folds(anatomy, 3)  # whole anatomies
chance = 1 / len(simulation.SITES)
shared = pd.Series(fold).groupby(anatomy).nunique() > 1
print(f"{len(thirty)} films; anatomies in two folds: {shared.sum()}")
named = {}  # description, step -> probability of each hospital (n, 6)
for step, films_of_step in {"raw": pixels, "equalised": [data.equalize(i) for i in pixels]}.items():
    described = [describe(image) for image in films_of_step]
    for name in described[0]:
        x = np.array([one[name] for one in described])
        named[name, step] = evaluation.out_of_fold_predictions(x, hospital, anatomy, fold)

# %% tags=["report", "story"]
scores = pd.DataFrame(
    [
        {"label": f"{name}, {step}", "group": step, "name": name, "value": v, "low": a, "high": b}
        for (name, step), p in named.items()
        for v, a, b in [
            evaluation.bootstrap(evaluation.balanced_accuracy, hospital, p, groups=anatomy)
        ]
    ]
).sort_values("name", kind="stable")
title = f"Which of six hospitals? {len(thirty)} normal films"
unit = "balanced accuracy (dashed: chance)"
display(viz.plot_forest(scores, title, unit, chance=chance))
after = scores[scores.group == "equalised"]
still = ", ".join(after.name[after.low > chance])
lost = ", ".join(after.name[after.low <= chance])
gap = evaluation.paired_bootstrap(
    evaluation.balanced_accuracy,
    hospital,
    named["thumbnail", "raw"],
    named["thumbnail", "equalised"],
    groups=anatomy,
)
what_to_see(
    f"After equalisation the hospital can still be named from: {still or 'none of the three'}. "
    f"Not shown to be above chance: {lost or 'none of the three'}.",
    f"The thumbnail loses {gap['difference']:.2f} [{gap['low']:.2f}, {gap['high']:.2f}] of its accuracy"
    + (", which is a clear loss." if gap["low"] > 0 else "; this is no clear loss."),
)

# %% [markdown]
# Equalisation takes away *how bright* a film is. It does not take away *where* it is bright: frames, letters, devices and the position of the
# patient stay, and a thumbnail sees them. So a model can still use the hospital as a clue, only less well. Whoever says that "the hospitals
# look alike now" needs a test like this one: a model that tries to tell them apart, and could have succeeded.
#
# ## What the paper leaves open
#
# Plain resize (the text) squeezes a film that is not square; the authors' later code keeps the aspect and fills with grey. Virtual
# films are square, so here is one with its top cut off.

# %%
# NBVAL_CHECK_OUTPUT
for name in ("resize", "order", "normalize"):
    question, values = data.OPEN_CHOICES[name]
    print(f"{question}: " + "; ".join(f"{value} = {text}" for value, text in values.items()))

# %% tags=["report", "story"]
wide = image[70:]
variants = {
    f"{resize}, {order}": data.prepare(wide, size, data.Choices(resize=resize, order=order))
    for resize in ("plain", "pad")
    for order in ("equalize_first", "resize_first")
}
viz.plot_steps(list(variants.values()), list(variants), "Four interpretations of one sentence")

# %% [markdown]
# **What you should have seen.** The first two look alike. With *pad* a bar of grey is added, and *pad, resize_first* lets that bar take part
# in the histogram: of the grey levels the bar takes the share that it has of the pixels, and the lungs are left with few. The number below compares the first two,
# the harmless pair.

# %%
reference = data.prepare(image, size)
other = data.prepare(image, size, data.Choices(order="resize_first"))
print(
    f"equalising before or after the resize: {np.abs(reference.astype(float) - other).mean():.0f} grey levels apart on average"
)

# %% [markdown]
# ## Turn the knobs
#
# Strength of the blur, equalisation on or off, how coarse the model's input is. First as a figure, then as a widget.


# %%
# NBVAL_CHECK_OUTPUT
def look(site, pixels, passes, equalise):
    image = films[list(simulation.SITES).index(site)]
    seen = data.equalize(image) if equalise else image
    for _ in range(passes):
        seen = data.blur(seen)
    return viz.plot_steps(
        [image, data.resize(seen, pixels)],
        ["film", f"what the model sees at {pixels} px"],
        f"Hospital {site}",
    )


same = data.resize(films[0], len(films[0]))
print("every knob at rest leaves the film as it is:", np.array_equal(same, films[0]))
look("fir", 64, 2, True)

# %%
viz.explore(
    look,
    start={"pixels": 128},
    site=list(simulation.SITES),
    pixels=[32, 64, 128, 256],
    passes=(0, 8, 1),
    equalise=True,
)

# %% [markdown]
# **What you should have seen.** Much of a film survives at 64 px: heart, diaphragm, a pacemaker. Wires and small vessels do not. Try 32 px, and
# ask which of the ten findings could still be seen.
#
# ## Real films
#
# With `mirror` set to a folder of prepared public films (`cxrkit reproduce --mirror DIR`), the same chain runs on the films with Brixia
# scores.

# %%
# NBVAL_CHECK_OUTPUT
if mirror:
    with tempfile.TemporaryDirectory() as folder:
        failures = data.fetch("cohen", folder, mirror, say=lambda text: None)
        real = data.read_manifest("cohen", folder)
        scored = real[real.brixia_A.notna()]
        pictures = [data.load_image(path).pixels for path in scored.path]
    shown = [cv2.resize(p, (256, 256)) for p in pictures[:3]]
    figure = viz.plot_steps(
        shown + [data.prepare(p, 256) for p in pictures[:3]],
        ["film"] * 3 + ["prepared"] * 3,
        f"{len(scored)} real films with Brixia scores, {len(failures)} failures",
        stamped="real films, research use only",
    )
    display(figure)
else:
    print("not available here: set the parameter `mirror` to a folder of prepared real films")

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("01.2")` helps, a little more each time (three times).
#
# ### Exercise 01.2 (warm-up): twice
#
# Equalise an equalised film once more. What happens to its pixels: (a) the contrast grows again, (b) almost nothing, (c) the film returns to
# what it was? Answer with one letter, and try it.

# %% tags=["exercise", "01.2"]
letter = ...  # "a", "b" or "c"
check("01.2", letter)

# %% [markdown]
# ### Exercise 01.3 (core): a frame moves the lungs
#
# A black frame takes part in the histogram. Set the outer 20 pixels of a copy to 8, equalise both films whole, and measure how far the
# *inside* has moved. Try it on `image`.


# %% tags=["exercise", "01.3"]
def inside_moves(image):
    """uint8 (H, W) -> mean change of the inside, in grey levels, where a frame takes part."""
    return ...


check("01.3", inside_moves)

# %% [markdown]
# ### Exercise 01.4 (warm-up): one mean for all films
#
# `data.normalize(film, how)` knows "fixed" and "zscore". Which of them gives films of different exposure the same mean?

# %% tags=["exercise", "01.4"]
name = ...  # "fixed" or "zscore"
check("01.4", name)

# %% [markdown]
# > **Take away.** (1) Equalisation replaces a grey by its rank. (2) It removes the exposure and keeps frames, letters and sharpness; so a model can
# > still tell the hospital. (3) The order of two harmless steps can destroy a film. (4) A measurement that a method fixes by construction is
# > no evidence for the method.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. A film is made twice as bright in every pixel (nothing is clipped). What does equalisation give?
#    <details><summary>answer</summary>The same as before: the ranks have not changed.</details>
# 2. What does a second equalisation change?
#    <details><summary>answer</summary>Almost nothing: the histogram is flat already.</details>
# 3. Why does a black frame matter to the pixels inside?
#    <details><summary>answer</summary>It is a large share of the pixels and takes a large share of the grey levels.</details>
# 4. After equalisation all films have nearly the same mean grey. Does this show that the hospitals look alike now?
#    <details><summary>answer</summary>No. Equalisation fixes the mean by construction. A model that tries to name the hospital from a thumbnail
#    is a test, because it could have failed.</details>
# 5. The text says plain resize, the code pads. Which would you report?
#    <details><summary>answer</summary>The one that ran, and that the other exists. This kit calls it an open choice and can switch it.</details>
#
# ## Next
#
# **02_backbone** learns the ten findings from films that went through this chain.
