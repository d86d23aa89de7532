# %% [markdown]
# # 09 The reading room: one film, everything the models say of it
#
# **Aim.** Put every map of the earlier lessons on one page, change the film with your own hands and watch the models answer; then read
# ten films yourself and compare with the truth and the model.
#
# **Afterwards you can** ask a model questions by editing a film; read a probability beside its record; and say what your own reading adds.
# **Before it:** lessons 04 to 06; 08 helps.
#
# **Paper.** Park et al. 2021, Figures 5 to 7: maps as an aid to a reader, section 5.3. **Time to teach:** 60 minutes, half of them for the quiz.
# **Time to run:** under a minute on two CPU cores.
#
# Research and teaching only: nothing here is a diagnostic device, and no number here is about a patient.

# %% tags=["parameters", "room"]
profile = "demo"
out = None
mirror = None

# %% tags=["room"]
import inspect

import numpy as np
import pandas as pd
import torch

from cxrkit import Run, inference, reading_room, tasks, viz
from cxrkit.teaching import check, classroom_images, hint, what_to_see  # noqa: F401

run = Run(profile, out, mirror)

# %% [markdown]
# ## Open the room
#
# `Room` loads the backbone, the PA and the AP model, the segmenter and the severity model, and lists films of hospitals that no training
# has seen. Their names say nothing of what is on them. With `mirror` set to a folder of prepared real films, a few of those join the list.

# %% tags=["room"]
room = reading_room.Room(run, mirror)
where = {name: sample.origin for name, sample in room.samples.items()}
pd.Series(where).value_counts().rename("films on the list").to_frame()

# %% [markdown]
# Nothing is computed twice: a film goes through all models once, about a twentieth of a second, and every control after that draws from
# what is kept. One call gives it all:

# %%
# NBVAL_CHECK_OUTPUT
name = next(iter(room.samples))
sample = room.samples[name]
prediction = room.predict(sample)
pd.Series(
    {what: str(np.shape(value)) for what, value in vars(prediction).items()}, name="shape"
).to_frame()

# %%
print(inspect.getsource(reading_room.Room.predict_pixels))

# %% [markdown]
# ## A token and its neighbours, by hand
#
# How alike are two tokens? By the cosine of the angle between them: 1 points the same way, 0 is unrelated, -1 opposite. For a framed cell,
# one number for each cell of the film; in the room you frame a cell by a click.

# %%
# NBVAL_CHECK_OUTPUT
row, column = 4, 2
tokens = torch.from_numpy(prediction.tokens[0, 1:])  # the class token left out: (h*w, D)
own = tokens[row * room.grid[1] + column]
by_hand = torch.stack([token @ own / (token.norm() * own.norm()) for token in tokens]).view(
    room.grid
)
torch.testing.assert_close(
    by_hand,
    torch.from_numpy(reading_room.token_similarity(prediction.tokens, (row, column), room.grid)[0]),
    rtol=0,
    atol=1e-5,
)
print("cosine with itself:", round(float(by_hand[row, column]), 3))
print("no other cell is as alike:", bool((by_hand > 0.999).sum() == 1))

# %% tags=["report", "story"]
display(reading_room.draw_panel(room, reading_room.PanelState("tokens", name, cell=(row, column))))
after = torch.from_numpy(
    reading_room.token_similarity(prediction.tokens, (row, column), room.grid)[-1]
)
what_to_see(
    f"The mean cosine with the framed cell is {by_hand.mean():.2f} before the first block and "
    f"{after.mean():.2f} after the last.",
    "Where the two are alike, the blocks have added little to a token: most of what it says was in "
    "the corpus.",
)

# %% [markdown]
# ## A probability and its record, by hand
#
# The model says 0.7: may one believe it? Look up how often films of other hospitals had the disease when it said about that. Films are
# sorted into five equal bins; in a bin, count. The room, like `cxrkit predict`, divides the logits by a *temperature* first, one number that
# validation films give: it changes no answer, and makes a model that is surer than right say less.

# %%
# NBVAL_CHECK_OUTPUT
result = room.diagnoses["PA"]
predictions = tasks.diagnosis.calibrated(
    result.predictions, result.metrics["temperature"], run.profile.choices.class_head
)
held_out = "external" if predictions.external.any() else "test"
predictions = predictions[predictions.part == held_out]
said = predictions.p_covid19.to_numpy()
has = (predictions.diagnosis == "covid19").to_numpy()
counted = [
    has[(said >= k / 5) & (said < (k + 1) / 5 if k < 4 else said <= 1)].mean() for k in range(5)
]
np.testing.assert_allclose(counted, room.calibration("PA", "covid19")["observed"])
pd.DataFrame(
    {
        "model says": [f"{k / 5:.1f} to {(k + 1) / 5:.1f}" for k in range(5)],
        "films": room.calibration("PA", "covid19")["n"],
        "share that has COVID-19": np.round(counted, 2),
    }
)

# %% [markdown]
# ## Panels, as pictures
#
# What follows is the room without a kernel: some of its ten panels. The page below draws all of them with the same function.

# %% tags=["report", "story"]
display(reading_room.draw_panel(room, reading_room.PanelState("relevance", name, truth=True)))
said = dict(zip(tasks.diagnosis.DIAGNOSES, prediction.diagnosis.astype(float).round(2).tolist()))
what_to_see(
    f"The model says {said}.",
    "There is a map for every class, also for one with a small probability: a map shows what would "
    "speak for the class, not that it is right.",
)

# %% tags=["report", "story"]
display(reading_room.draw_panel(room, reading_room.PanelState("severity", name, truth=True)))
what_to_see(
    f"The score {prediction.severity:.1f} is the sum of six values, "
    f"{prediction.severity_array.astype(float).round(1).tolist()} from the upper to the lower zones.",
)

# %%
# NBVAL_CHECK_OUTPUT
zones, _ = reading_room.rezone(prediction, (5 / 12, 2 / 3))  # bool (3, 2, S, S)
print("no pixel lies in two zones:", bool(zones.sum((0, 1)).max() == 1))
other, _ = reading_room.rezone(prediction, (0.30, 0.55))  # as below
print("other lines share the same lungs out:", np.array_equal(zones.any((0, 1)), other.any((0, 1))))

# %%
lines = (0.30, 0.55)
display(
    reading_room.draw_panel(
        room, reading_room.PanelState("zone lines", name, truth=True, lines=lines)
    )
)
moved = reading_room.rezone(prediction, lines)[1].sum()
what_to_see(
    f"With these lines the same map scores {moved:.1f} instead of {prediction.severity:.1f}."
)

# %% [markdown]
# A patient who was followed up: contours at each visit, the score over time, and a ring where it moved by more than noise.

# %% tags=["report"]
patient = next((n for n, c in room.samples.items() if len(room.visits(c)) > 1), name)
display(reading_room.draw_panel(room, reading_room.PanelState("follow-up", patient, truth=True)))
scores = [round(float(room.predict(v).severity), 1) for v in room.visits(room.samples[patient])]
what_to_see(f"The scores of this patient, visit by visit: {scores}.")

# %% [markdown]
# ## Change the film
#
# What does the prediction hang on? Paint the letters of another ward, and nothing should happen. Erase the lungs, and everything should.
# A model that stays sure without lungs reads something else; lesson 08 shows how that comes about. The orange diamonds stand where the
# untouched film was.
#
# Mind what erasing can prove. It also moves the histogram, and with it every grey value, since equalisation is part of what the model
# sees; and a film with a hole is like no film of the training. That the prediction moves says that something there mattered, not what.

# %% tags=["report", "story"]
state = reading_room.PanelState("prediction", name, edit="erase the lungs", truth=True)
display(reading_room.draw_panel(room, state))
erased = room.predict(sample, "erase the lungs").diagnosis
what_to_see(
    f"Without lungs the model still gives three probabilities, {erased.astype(float).round(2).tolist()} after "
    f"{prediction.diagnosis.astype(float).round(2).tolist()}: it cannot say that nothing is left to read.",
)

# %% tags=["story"]
edits = ("paint the marker R ICU", "erase the lungs", "erase all but the lungs")
twelve = list(room.samples.values())[:12]
sure = pd.DataFrame(
    {
        edit: [
            abs(room.predict(one, edit).diagnosis - room.predict(one).diagnosis).max()
            for one in twelve
        ]
        for edit in edits
    }
)
scale = "largest change of a probability, mean of twelve films"
display(viz.plot_bars(list(edits), sure.mean().round(3), "How far the prediction moves", scale))
mean = sure.mean()
what_to_see(
    f"The marker moves it by {mean[edits[0]]:.2f}, the loss of the lungs by {mean[edits[1]]:.2f}, the "
    f"loss of all else by {mean[edits[2]]:.2f}.",
    "The last number is the alarm: a model that read nothing but lungs would not mind the loss of all "
    "else. Part of it is the edit itself, which changes every grey value; lesson 08 shows how to find "
    "out what is left, by training and testing on lungs alone.",
)

# %%
# NBVAL_CHECK_OUTPUT
again = room.predict_pixels(sample.pixels, sample.view)
with torch.no_grad():
    network = room.models[sample.view]
    logits = network(features=prediction.corpus.to(run.device))["logits"]
    temperature = run.diagnosis(sample.view).metrics["temperature"]
    direct = tasks.diagnosis.HEADS[run.profile.choices.class_head][1](logits / temperature)[0]
print("probabilities sum to one:", bool(abs(prediction.diagnosis.sum() - 1) < 1e-5))
print(
    "the room says what the model says:",
    bool(np.allclose(direct.cpu().numpy(), prediction.diagnosis, atol=1e-4)),
)
print(
    "a second look gives the same:", bool(np.allclose(again.severity_map, prediction.severity_map))
)
print(
    "severity is the sum of six values:",
    bool(np.isclose(prediction.severity, prediction.severity_array.sum())),
)
print("kept, not computed again:", room.predict(sample) is prediction)
print(
    "erasing the lungs moves the prediction more than a marker:",
    bool(sure["erase the lungs"].mean() > sure[edits[0]].mean()),
)

# %% [markdown]
# ## A new pathogen, learnt from few films
#
# In the first weeks of an epidemic a hospital has few films of the new disease, and nobody has marked findings on them. This is the use of
# the paper's Figure 8: the corpus stays as it is (it is *frozen*), and only a small head learns. Here COVID-19 plays the new pathogen, because the
# backbone of lesson 02 has learnt ten findings from other films and was never shown this diagnosis.
#
# The task: COVID-19 or another infection? A linear head learns from 8 to 128 PA films of the training hospitals, half of them of each class. It
# answers films of hospitals that it has never seen. Three heads are compared on the same films. One reads the *corpus*: the mean of each feature in each quarter
# of the film, so that places count. One reads only the ten *findings*. The baseline reads a *thumbnail* of 16x16 px. Each number of
# films is drawn three times; a point is the mean of the three heads, a bar its 95 % interval by anatomy. To fit a head takes a second; to draw the films takes
# minutes, so the numbers come from `python tools/few_films.py`.

# %% tags=["report", "story"]
# NBVAL_CHECK_OUTPUT
few = run.recorded("few_films")
if few:
    rows = pd.DataFrame(few["rows"])
    figure, axes = viz.grid(
        1, 1, size=5, title="COVID-19 or another infection? Hospitals never seen"
    )
    axis = axes[0, 0]
    for name, colour in zip(("corpus", "findings", "thumbnail"), (viz.BLUE, viz.GREEN, viz.ORANGE)):
        part = rows[rows.features == name]
        bars = (part.value - part.low, part.high - part.value)
        axis.errorbar(part.films, part.value, bars, fmt="o-", color=colour, label=name, capsize=4)
    axis.axhline(0.5, color="0.4", linestyle="--")
    axis.set(xscale="log", xlabel="films to learn from", ylabel="AUC (dashed: chance)")
    axis.set_xticks(part.films, part.films.astype(str), minor=False)
    axis.legend(frameon=False)
    display(viz.stamp(figure))
    whole, gap = rows.iloc[-1], rows[rows.features == "corpus - thumbnail"]
    first, last = rows[rows.features == "corpus"].value.iloc[[0, -1]]
    ahead = ", ".join(gap.films[gap.low > 0].astype(str)) or "none of these numbers"
    text = what_to_see(
        f"The head on the corpus goes from {first:.2f} with {gap.films.min()} films to {last:.2f} with "
        f"{gap.films.max()}. It is clearly ahead of the thumbnail with: {ahead} films.",
        f"The corpus ViT of lesson 04 learnt from {whole.films} such films and has {whole.value:.2f}.",
    )
    display(text)
else:
    print("not measured on these virtual hospitals yet: python tools/few_films.py")

# %% [markdown]
# ## The room
#
# Choose a film and a panel. *Compare with* puts a second film under the first. In *tokens* and *attention*, click a cell, or move the
# sliders. *Your film* takes PNG, JPEG, TIFF or DICOM and sends it nowhere. *Save* gives the picture with its scale and caption. The
# keyboard reaches everything: Tab moves on, arrows move a slider, Enter presses.

# %% tags=["room"]
page = reading_room.ReadingRoom(room)
page.page

# %% [markdown]
# ## Real films, read by the models for them
#
# `cxrkit predict` reads real films with models that learnt from real ones. Where the classroom set of lesson 00 is, one film of each diagnosis
# stands here as `predict` draws it: film, severity map, lungs with their zones, and a white line around what the map calls a lesion. No model was
# trained on these patients, but all were on others of the same three hospitals: this shows what the models do, and is no measure of it.
# `MODEL_CARD.md` has those.

# %%
real = classroom_images()
if real is not None:
    models = inference.load_models()
    ones = real[real.split == "test"].drop_duplicates("diagnosis")
    read = [inference.predict(path, models) for path in ones.path]
    titles = []
    for truth, one in zip(ones.diagnosis, read, strict=True):
        likely = max(one.probs, key=one.probs.get)
        says = f"says {likely} {one.probs[likely]:.2f}, severity {one.severity:.1f}"
        titles.append(f"{truth}\n{says}".replace("_", " "))
    overlays = [one.overlay for one in read]
    sheet = viz.plot_sheet([overlays], [""], titles, "Real films", synthetic=False)
    display(viz.stamp(sheet, "real films, research and teaching only"))
    seen = what_to_see(
        f"Scores of {', '.join(f'{one.severity:.1f}' for one in read)}: does the film without disease "
        "have the lowest? A score is no finding, and no number here is about the patient's health.",
    )
    display(seen)

# %% [markdown]
# ## Read before the model does
#
# Ten films. Say what it is and which zones are ill, then see the truth, the model and, for real films, a second radiologist. Answers of
# everyone who uses the same store are scored together.

# %%
# NBVAL_CHECK_OUTPUT
example = reading_room.grade_answer(
    room, reading_room.quiz_samples(room)[0], "an example", "normal", set()
)
print(
    "you said normal and no zone: diagnosis",
    "right" if example["diagnosis"] == example["true"] else "not so",
    "- zones right:",
    example["zones"],
)

# %% tags=["room"]
contest = reading_room.QuizPage(room, run.store.root / "quiz")
contest.page

# %% [markdown]
# ## Exercises
#
# `check` says right, or what is wrong; `hint("09.1")` helps, a little more each time (three times).
#
# ### Exercise 09.1 (core): an occlusion map
#
# Erase one cell of a 4x4 grid after the other (set it to the mean of the film) and note how far the prediction falls. Does the map agree with
# relevance? In the room: `lambda film: room.predict_pixels(np.uint8(film), sample.view).diagnosis[2]`.


# %% tags=["exercise", "09.1"]
def occlusion(predict, image):
    """Function film -> probability, film (S, S) -> fall for each of 4x4 erased cells (4, 4)."""
    return ...


check("09.1", occlusion)

# %% [markdown]
# ### Exercise 09.2 (warm-up): who is read outside the lungs?
#
# Given the probabilities of n films before and after an edit: which film has the largest change of a single probability? Find that film of the
# room for the edit "erase all but the lungs", and look at what was there.


# %% tags=["exercise", "09.2"]
def most_moved(before, after):
    """Probabilities (n, K) before and after an edit -> number of the film that moved most."""
    return ...


check("09.2", most_moved)

# %% [markdown]
# ### Exercise 09.3 (project): the smallest score
#
# Whoever draws the zone lines moves the score. Find the two lines, the upper above the lower, at which a score is smallest. In the room:
# `lambda a, b: reading_room.rezone(prediction, (a, b))[1].sum()`.


# %% tags=["exercise", "09.3"]
def smallest_lines(score, uppers, lowers):
    """Function (upper, lower) -> score, lines to try -> the pair with the smallest score."""
    return ...


check("09.3", smallest_lines)

# %% [markdown]
# > **Take away.** (1) An edit asks the model itself: change one thing and watch the answer. (2) An edit also makes a film that no training has seen. (3)
# > A probability is worth its record at other hospitals. (4) Read first, then look at the model: the other way round you see what it says.
#
# ## Quiz
#
# Answer first, then unfold.
#
# 1. A model says 0.7, and of such films half had the disease. What is it?
#    <details><summary>answer</summary>Badly calibrated: it promises more than comes true.</details>
# 2. The lungs are erased and the model stays sure. What have you learnt?
#    <details><summary>answer</summary>That it reads something outside them, or that it cannot say "nothing to read".</details>
# 3. Why does the histogram matter when a part of a film is erased?
#    <details><summary>answer</summary>Equalisation runs before the model, so every grey value moves with the erased part.</details>
# 4. Occlusion and relevance disagree on a cell. Who is right?
#    <details><summary>answer</summary>Each about its own question: occlusion about a film without the cell, relevance about this film.</details>
# 5. Reader and model agree. Is the answer right?
#    <details><summary>answer</summary>Not by that alone. Both may follow the same clue.</details>
#
# **To read.** Zeiler and Fergus 2014, on occlusion, [arXiv 1311.2901](https://arxiv.org/abs/1311.2901).
#
# ## Next
#
# `make room` serves this page to a class without code; `docs/teaching.md` has plans for a class of 90 minutes, a half-day and a project.
