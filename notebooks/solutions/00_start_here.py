# %% [markdown]
# Solutions of lesson 00. For teachers: no student's copy holds this folder.


# %% tags=["00.1"]
def magnification(distance, height):
    """Source to detector, object above the detector, both in mm -> size of shadow over object."""
    return distance / (distance - height)


check("00.1", magnification)


# %% tags=["00.2"]
def black_edges(films):
    """uint8 (n, H, W) -> share of films whose ten first and ten last columns have a mean below 20."""
    both = np.concatenate((films[:, :, :10], films[:, :, -10:]), axis=2)  # (n, H, 20)
    return (both.mean((1, 2)) < 20).mean()


check("00.2", black_edges)


# %% tags=["00.3"]
def mean_of_each_kind(patients):
    """List of patients, each a list of lesions -> {kind: mean number in a patient}."""
    kinds = [lesion.kind for lesions in patients for lesion in lesions]
    return {kind: kinds.count(kind) / len(patients) for kind in set(kinds)}


check("00.3", mean_of_each_kind)
