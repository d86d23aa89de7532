# %% [markdown]
# Solutions of lesson 08. For teachers: no student's copy holds this folder.

# %% tags=["08.1"]
number = 3
check("08.1", number)


# %% tags=["08.2"]
def first_loss(external):
    """Series of AUC by rho -> the smallest rho that loses 0.02 or more; NaN if none does."""
    lost = external[external <= external[0.0] - 0.02]
    return min(lost.index, default=float("nan"))


check("08.2", first_loss)


# %% tags=["08.3"]
def share_of_exceptions(labels, markers):
    """Class and marker of each film (n,) -> share of balanced draws that are exceptions."""
    chances = shortcuts.balanced_weights(labels, markers)
    return chances[labels != markers].sum() / chances.sum()


check("08.3", share_of_exceptions)


# %% tags=["08.4"]
def write_letters(codes, rho, rng):
    """Class of each film (n,) -> number of its marker (n,), 0 to 2."""
    heads = rng.random(len(codes)) < rho
    return np.where(heads, codes, rng.integers(3, size=len(codes)))


check("08.4", write_letters)
