# %% [markdown]
# Solutions of lesson 04. For teachers: no student's copy holds this folder.


# %% tags=["04.1"]
def several_heads(tokens, weight, bias, num_heads):
    """tokens (T, D), weight (3 D, D), bias (3 D,) -> what the heads say, side by side (T, D)."""
    q, k, v = (tokens @ weight.T + bias).chunk(3, dim=-1)  # (T, D) each
    said = []
    for q_n, k_n, v_n in zip(*(x.chunk(num_heads, dim=-1) for x in (q, k, v)), strict=True):
        fit = q_n @ k_n.T / q_n.shape[1] ** 0.5  # (T, T)
        said.append(fit.softmax(dim=1) @ v_n)  # (T, d)
    return torch.cat(said, dim=1)


check("04.1", several_heads)

# %% tags=["04.2"]
# High and low, near and far stay in a mirrored corpus; left and right change places. With
#     hook = vits["PA"].transformer.register_forward_pre_hook(lambda module, x: x[0].flip(-1))
#     mirrored = results["PA"].task.predict(vits["PA"], outside["PA"])
# the macro AUC and `covid_against_other` of `mirrored` say what sides are worth to the model.
kept = "ac"
check("04.2", kept)


# %% tags=["04.3"]
def correct(p, share):
    """Probabilities (n, K) after even training, shares of the classes (K,) -> (n, K)."""
    weighted = p * share
    return weighted / weighted.sum(1, keepdims=True)


check("04.3", correct)


# %% tags=["04.4"]
def compare(y, p_a, p_b, groups):
    """Class of each film (n,), probabilities (n, K) of A and B, patients (n,) -> p-values (K,)."""
    tests = [
        evaluation.delong_test(y == k, a, b, groups=groups)
        for k, (a, b) in enumerate(zip(p_a.T, p_b.T, strict=True))
    ]
    return evaluation.holm([test["p_value"] for test in tests])


check("04.4", compare)
