# %% [markdown]
# Solutions of lesson 05. For teachers: no student's copy holds this folder.


# %% tags=["05.1"]
def share_out(x, weight, R):
    """Inputs (T, I), weight (O, I), relevance of the outputs (T, O) -> that of the inputs (T, I)."""
    added = (x[:, None, :] * weight[None]).clamp(min=0)  # (T, O, I)
    total = added.sum(2, keepdim=True)
    share = torch.where(total > 0, added / total, 0.0)
    return (share * R[:, :, None]).sum(1)


check("05.1", share_out)


# %% tags=["05.2"]
def hits_by_layer(model, corpus, lesion):
    """Corpus ViT of L blocks, corpus (B, C, h, w), lesion (B, S, S) -> share of hits, (L,)."""
    return [
        explain.pointing(explain.relevance(model, corpus, 2, start_layer=layer), lesion).mean()
        for layer in range(len(model.blocks))
    ]


check("05.2", hits_by_layer)


# %% tags=["05.3"]
def rather_than(model, corpus, a, b):
    """Why class a rather than class b: corpus (B, C, h, w) -> map (B, h, w)."""
    return explain.relevance(model, corpus, lambda out: out["logits"][:, a] - out["logits"][:, b])


check("05.3", rather_than)


# %% tags=["05.4"]
def chance_within_two(lesion):
    """bool (B, S, S) -> chance that a random cell of the (8, 8) grid lies within two cells."""
    return explain.near(lesion, (8, 8), 2).mean()


check("05.4", chance_within_two)
