"""Words of the trade that the lessons use, and the lesson that explains each."""

from __future__ import annotations

import pandas as pd

# word -> lesson that explains it where it first needs it, and what it means
GLOSSARY = {
    "corpus": ("00", "the last feature map of the backbone: a list of numbers for each cell"),
    "receptive field": ("02", "the pixels that can change the features of a cell"),
    "logit": ("02", "any number; its sigmoid is a probability"),
    "batch": ("02", "the films of one step of training"),
    "learning rate": ("02", "how far a step goes against the gradient"),
    "cross-entropy": ("02", "minus the log of the probability given to what is true"),
    "AUC": ("02", "chance that a film with the finding gets the larger score"),
    "bootstrap": ("02", "an interval from films drawn anew with replacement, many times"),
    "seed": ("02", "the number from which all random draws begin"),
    "pointing game": ("02", "does the strongest cell of a map touch what is looked for?"),
    "discriminator": ("03", "a network that learns to tell real films from made ones"),
    "mapping network": ("03", "a small network that turns a latent into a style"),
    "latent": ("03", "a list of random numbers that a style is made of"),
    "Dice": ("03", "twice the overlap of two masks over the sum of their areas"),
    "class token": ("03b", "a token of no cell, which collects the answer"),
    "residual": ("03b", "a layer adds to its input, so it learns a change"),
    "MLP": ("03b", "a small network that works on each token alone"),
    "LayerNorm": ("03b", "brings every token to mean 0 and spread 1"),
    "AdamW": ("03b", "an optimiser that sets the length of a step for each weight"),
    "ROC": ("04", "sensitivity against 1 - specificity at all thresholds; AUC is its area"),
    "DeLong": ("04", "a test of the difference of two AUCs on the same films"),
    "MSE": ("06", "the mean of the squared error"),
    "R2": ("06", "1 - MSE / variance of the truth; a constant guess has 0"),
    "probe": ("08", "a linear model on features that somebody else has made"),
}


def glossary() -> pd.DataFrame:
    """The words as a table: lesson and meaning of each."""
    table = pd.DataFrame.from_dict(GLOSSARY, orient="index", columns=["lesson", "meaning"])
    return table.rename_axis("word")
