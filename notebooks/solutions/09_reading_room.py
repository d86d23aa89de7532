# %% [markdown]
# Solutions of lesson 09. For teachers: no student's copy holds this folder.


# %% tags=["09.1"]
def occlusion(predict, image):
    """Function film -> probability, film (S, S) -> fall for each of 4x4 erased cells (4, 4)."""
    side, drops = len(image) // 4, np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            edited = np.array(image, float)
            edited[side * i :, side * j :][:side, :side] = image.mean()
            drops[i, j] = predict(image) - predict(edited)
    return drops


check("09.1", occlusion)


# %% tags=["09.2"]
def most_moved(before, after):
    """Probabilities (n, K) before and after an edit -> number of the film that moved most."""
    return np.abs(before - after).max(axis=1).argmax()


check("09.2", most_moved)


# %% tags=["09.3"]
def smallest_lines(score, uppers, lowers):
    """Function (upper, lower) -> score, lines to try -> the pair with the smallest score."""
    tries = {(a, b): score(a, b) for a in uppers for b in lowers if a < b}
    return min(tries, key=tries.get)


check("09.3", smallest_lines)
