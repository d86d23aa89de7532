# %% [markdown]
# # 01 Preprocessing: what the model gets to see
#
# **Aim.** Follow a film through histogram equalisation, blur, resize and normalisation; write the first one by hand; see how much each
# step, and each interpretation of the paper, changes the model's input.
#
# **Paper.** Park et al. 2021, section 4, one sentence: "preprocessed via histogram equalization, Gaussian blurring with 3 x 3 kernel,
# normalization, and finally resized to 512 x 512". **Time.** One minute on two CPU cores, once lesson 00 has drawn the films.
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

from cxrkit import Run, data, simulation, viz

run = Run(profile, out)
size = run.profile.image_size
drawn = run.virtual.cohort

# %% [markdown]
# ## Films differ before disease does
#
# The same kind of patient at six hospitals. Mean and spread of the grey values differ from film to film, because machines, exposures and
# display software do.

# %% tags=["report"]
normal = drawn.table[
    (drawn.table.diagnosis == "normal")
    & (drawn.table.ward == "diagnosis")
    & (drawn.table.view == "PA")
]
rows = [int(normal[normal.site == site].index[0]) for site in simulation.SITES]
viz.plot_steps(
    [drawn.images[row] for row in rows],
    list(simulation.SITES),
    "One normal PA film of each hospital, as it leaves the machine",
)

# %% [markdown]
# ## Equalisation by hand
#
# Replace every grey level by the share of pixels that are at most as bright, spread over 0 to 255. Six pixels are enough to see it:

# %%
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
# The same lines on a real-sized film, proved equal to the package's.


# %%
def equalize_by_hand(image):
    below = np.bincount(image.ravel(), minlength=256).cumsum()
    lowest = below[image.min()]
    return (
        np.rint((below - lowest) / (image.size - lowest) * 255).clip(0, 255).astype(np.uint8)[image]
    )


image = np.array(drawn.images[rows[4]])
apart = np.abs(equalize_by_hand(image).astype(int) - data.equalize(image)).max()
assert apart <= 1  # one level: the two round in different precision
print("equal to one grey level:", bool(apart <= 1))

# %% [markdown]
# ## Blur by hand
#
# A 3x3 Gaussian weighs a pixel 4, its neighbours 2, the corners 1, all over 16. It takes single-pixel noise away and little else.

# %%
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

# %% tags=["report"]
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
# ## What equalisation buys
#
# How far apart are hospitals before and after? Below, the spread between sites of the mean grey level of normal films, in grey levels.


# %%
def mean_by_site(step):
    return pd.Series(
        {
            site: np.mean([step(np.array(drawn.images[i])).mean() for i in group.index[:20]])
            for site, group in normal.groupby("site")
        }
    )


spread = {
    name: float(mean_by_site(step).std())
    for name, step in {
        "raw": lambda x: x,
        "equalised": data.equalize,
        "equalised and blurred": lambda x: data.blur(data.equalize(x)),
    }.items()
}
viz.plot_bars(
    list(spread),
    list(spread.values()),
    "Spread of mean grey between hospitals",
    "standard deviation (grey levels)",
)

# %% [markdown]
# ## What the paper leaves open
#
# Plain resize (the text) squeezes a film that is not square; the authors' later code keeps the aspect and fills with grey. Virtual
# films are square, so here is one with its top cut off.

# %%
for name in ("resize", "order", "normalize"):
    question, values = data.OPEN_CHOICES[name]
    print(f"{question}: " + "; ".join(f"{value} = {text}" for value, text in values.items()))

# %% tags=["report"]
wide = image[70:]
variants = {
    f"{resize}, {order}": data.prepare(wide, size, data.Choices(resize=resize, order=order))
    for resize in ("plain", "pad")
    for order in ("equalize_first", "resize_first")
}
viz.plot_steps(list(variants.values()), list(variants), "Four interpretations of one sentence")

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
def look(site, pixels, passes, equalise):
    image = np.array(drawn.images[rows[list(simulation.SITES).index(site)]])
    seen = data.equalize(image) if equalise else image
    for _ in range(passes):
        seen = data.blur(seen)
    return viz.plot_steps(
        [image, data.resize(seen, pixels)],
        ["film", f"what the model sees at {pixels} px"],
        f"Hospital {site}",
    )


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
# ## Real films
#
# With `mirror` set to a folder of prepared public films (`cxrkit reproduce --mirror DIR`), the same chain runs on the films with Brixia
# scores.

# %%
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
# 1. Equalise a film twice. What changes, and why so little?
# 2. A black collimation border takes part in the histogram. Set the outer 20 pixels of a film to 8 and equalise: how far does the
#    *inside* move?
# 3. Which normalisation gives films of different exposure the same mean? Compare `fixed` and `zscore` on raw films.

# %% tags=["solution"]
# Exercise 1: equalising twice.
twice = data.equalize(data.equalize(image))
print(
    "mean change:",
    np.abs(twice.astype(int) - equal).mean().round(2),
    "grey levels: a flat histogram is its own image",
)

# %% tags=["solution"]
# Exercise 2: what a border does to the inside.
framed = np.full_like(image, 8)
framed[20:-20, 20:-20] = image[20:-20, 20:-20]
inside = (data.equalize(framed).astype(int) - equal)[20:-20, 20:-20]
print("the inside moves by", np.abs(inside).mean().round(1), "grey levels")

# %% tags=["solution"]
# Exercise 3: means under two normalisations.
for how in ("fixed", "zscore"):
    print(
        how,
        np.round([data.normalize(np.array(drawn.images[row]), how).mean() for row in rows], 2),
    )

# %% [markdown]
# ## Next
#
# **02_backbone** learns the ten findings from films that went through this chain.
