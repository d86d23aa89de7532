# %% [markdown]
# # 09 The reading room: one film, everything the models say of it
#
# **Aim.** Put every map of the earlier lessons on one page, change the film with your own hands and watch the models answer; then read
# ten films yourself and compare with the truth and the model.
#
# **Paper.** Park et al. 2021, Figures 5 to 7: maps as an aid to a reader, section 5.3. **Time.** Twenty seconds on two CPU cores once the
# lessons before have run.
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

from cxrkit import Run, reading_room, tasks, viz

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
print(
    "itself:",
    round(float(by_hand[row, column]), 3),
    "- the least alike:",
    round(float(by_hand.min()), 2),
)

# %% tags=["report"]
reading_room.draw_panel(room, reading_room.PanelState("tokens", name, cell=(row, column)))

# %% [markdown]
# ## A probability and its record, by hand
#
# The model says 0.7: may one believe it? Look up how often films of other hospitals had the disease when it said about that. Films are
# sorted into five equal bins; in a bin, count.

# %%
predictions = room.diagnoses["PA"].predictions
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

# %% tags=["report"]
reading_room.draw_panel(room, reading_room.PanelState("relevance", name, truth=True))

# %% tags=["report"]
reading_room.draw_panel(room, reading_room.PanelState("severity", name, truth=True))

# %%
reading_room.draw_panel(
    room, reading_room.PanelState("zone lines", name, truth=True, lines=(0.30, 0.55))
)

# %% [markdown]
# A patient who was followed up: contours at each visit, the score over time, and a ring where it moved by more than noise.

# %% tags=["report"]
patient = next((n for n, c in room.samples.items() if len(room.visits(c)) > 1), name)
reading_room.draw_panel(room, reading_room.PanelState("follow-up", patient, truth=True))

# %% [markdown]
# ## Change the film
#
# What does the prediction hang on? Paint the letters of another ward, and nothing should happen. Erase the lungs, and everything should.
# A model that stays sure without lungs reads something else; lesson 08 shows how that comes about. The orange diamonds stand where the
# untouched film was.
#
# Mind what erasing can prove. It also moves the histogram, and with it every grey value, since equalisation is part of what the model
# sees; and a film with a hole is like no film of the training. That the prediction moves says that something there mattered, not what.

# %% tags=["report"]
reading_room.draw_panel(
    room, reading_room.PanelState("prediction", name, edit="erase the lungs", truth=True)
)

# %%
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
viz.plot_bars(
    list(edits),
    sure.mean().round(3),
    "How far the prediction moves",
    "largest change of a probability, mean of twelve films",
)

# %%
# NBVAL_CHECK_OUTPUT
again = room.predict_pixels(sample.pixels, sample.view)
with torch.no_grad():
    network = room.models[sample.view]
    direct = tasks.diagnosis.HEADS[run.profile.choices.class_head][1](
        network(features=prediction.corpus.to(run.device))["logits"]
    )[0]
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
# ## The room
#
# Choose a film and a panel. *Compare with* puts a second film under the first. In *tokens* and *attention*, click a cell, or move the
# sliders. *Your film* takes PNG, JPEG, TIFF or DICOM and sends it nowhere. *Save* gives the picture with its scale and caption. The
# keyboard reaches everything: Tab moves on, arrows move a slider, Enter presses.

# %% tags=["room"]
page = reading_room.ReadingRoom(room)
page.page

# %% [markdown]
# ## Read before the model does
#
# Ten films. Say what it is and which zones are ill, then see the truth, the model and, for real films, a second radiologist. Answers of
# everyone who uses the same store are scored together.

# %%
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
# 1. Erase one cell after the other of a film and note how far the probability of COVID-19 moves: an occlusion map. Does it agree with
#    relevance?
# 2. Find the film of the list whose prediction moves most when all but the lungs is erased. What was there?
# 3. At which two lines does the severity score of a film become smallest? Why can a score that depends on lines be compared between
#    hospitals at all?

# %% tags=["solution"]
# Exercise 1: occlusion by hand, on the film itself.
h, w = room.grid
after = [
    [room.predict(sample, "erase the framed cell", (i, j)).diagnosis[2] for j in range(w)]
    for i in range(h)
]
drop = prediction.diagnosis[2] - np.array(after)
both = np.corrcoef(drop.ravel(), room.relevance(sample)[2].ravel())[0, 1]
print(
    f"correlation with relevance: {both:.2f}; largest fall {drop.max():.2f} at cell {np.unravel_index(drop.argmax(), drop.shape)}"
)

# %% tags=["solution"]
# Exercise 2: who reads outside the lungs?
moves = {
    n: float(
        abs(room.predict(c, "erase all but the lungs").diagnosis - room.predict(c).diagnosis).max()
    )
    for n, c in room.samples.items()
}
worst = max(moves, key=moves.get)
print(worst, round(moves[worst], 2))
reading_room.draw_panel(
    room, reading_room.PanelState("prediction", worst, edit="erase all but the lungs")
)

# %% tags=["solution"]
# Exercise 3: the smallest score by lines.

tries = {
    (a, b): reading_room.rezone(prediction, (a, b))[1].sum()
    for a in np.arange(0.2, 0.6, 0.1)
    for b in np.arange(0.6, 0.95, 0.1)
}
print(
    min(tries, key=tries.get),
    "- comparable only where all cut at the same lines, of lungs segmented the same way",
)

# %% [markdown]
# ## Next
#
# `make room` serves this page to a class without code; `docs/teaching.md` has plans for a class of 90 minutes, a half-day and a project.
