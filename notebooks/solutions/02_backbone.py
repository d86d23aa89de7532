# %% [markdown]
# Solutions of lesson 02. For teachers: no student's copy holds this folder.


# %% tags=["02.1"]
def pcam(features, logit_map):
    """features (B, C, h, w), logit_map (B, K, h, w) -> pooled features (B, K, C)."""
    probability = 1 / (1 + (-logit_map).exp())  # of each finding in each cell (B, K, h, w)
    weight = probability / probability.sum((2, 3), keepdim=True)  # sums to 1 over the cells
    return (weight[:, :, None] * features[:, None]).sum((3, 4))  # (B, K, C)


check("02.1", pcam)

# %% tags=["02.2"]
ones = torch.zeros(1, 1, 4, 4)
ones[0, 0, 2:, 1] = 1.0
logits = 2 * ones - 1
for scale in (0, 1, 4, 16):
    print(f"logits x {scale}: PCAM {float(models.pcam_pool(ones, scale * logits)):.3f}")
pooled = float(models.pcam_pool(ones, logits))
check("02.2", pooled)


# %% tags=["02.3"]
def say_the_same(labels):
    """Table (films, findings) of 0, 1, NaN -> list of pairs of column names."""
    pairs = []
    for i, a in enumerate(labels):
        for b in list(labels)[:i]:
            known = labels[[a, b]].dropna()
            difference = (known[a] - known[b]).abs()
            if known[a].nunique() == 2 and difference.nunique() == 1:
                pairs.append((a, b))
    return pairs


check("02.3", say_the_same)


# %% tags=["02.4"]
def carry(y_val, p_val, y_far, p_far):
    """Labels 0 or 1 and scores, (n,) each -> sensitivity on the far films."""
    threshold = tasks.findings.metrics.operating_point(y_val, p_val, 0.8)["threshold"]
    return (p_far[y_far == 1] >= threshold).mean()


check("02.4", carry)


# %% tags=["02.5"]
def one_step(weight, features, labels, learning_rate):
    """Weight (C,), features (n, C), labels 0 or 1 (n,) -> weight after one step (C,)."""
    probability = torch.sigmoid(features @ weight)  # (n,)
    gradient = features.T @ (probability - labels) / len(labels)  # (C,)
    return weight - learning_rate * gradient


check("02.5", one_step)
