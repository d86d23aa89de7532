# %% [markdown]
# Solutions of lesson 06. For teachers: no student's copy holds this folder.


# %% tags=["06.1"]
def roi_max(heat, six):
    """Map (H, W), zones bool (3, 2, H, W) -> the largest value of each zone (3, 2)."""
    pooled = torch.zeros(3, 2)
    for line in range(3):
        for side in range(2):
            pooled[line, side] = heat[six[line, side]].max()
    return pooled


check("06.1", roi_max)


# %% tags=["06.2"]
def two_scores(arrays):
    """Arrays of six values in [0, 1] (n, 3, 2) -> soft score (n,), hard score (n,)."""
    return arrays.sum((1, 2)), (arrays > 0.5).sum((1, 2))


check("06.2", two_scores)


# %% tags=["06.3"]
def zones_moved(lesion, right, left):
    """bool (H, W) each -> how many of six zones change with the slip."""
    slip = data.Choices(zone_origin="row0")
    ones = [
        data.coverage(lesion, data.zones_of_sides(right, left, choices)) >= 0.01
        for choices in (data.Choices(), slip)
    ]
    return (ones[0] != ones[1]).sum()


check("06.3", zones_moved)

# %% tags=["06.4"]
word = "never"
check("06.4", word)
