# %% [markdown]
# Solutions of lesson 07. For teachers: no student's copy holds this folder.


# %% tags=["07.1"]
def contrastive_loss(a, b):
    """Two views of the same films (B, P) -> loss, a scalar."""
    views = torch.cat([a, b])
    views = views / views.norm(dim=1, keepdim=True)  # (2B, P)
    fits = views @ views.T / models.TEMPERATURE  # (2B, 2B)
    itself = torch.eye(len(views), dtype=torch.bool)
    others = fits.masked_fill(itself, -torch.inf).logsumexp(dim=1)
    twins = torch.cat([fits.diagonal(len(a)), fits.diagonal(-len(a))])
    return (others - twins).mean()


check("07.1", contrastive_loss)


# %% tags=["07.2"]
def adjust(p):
    """p-values (n,) -> corrected by Holm (n,)."""
    corrected, largest = np.empty(len(p)), 0.0
    for rank, i in enumerate(np.argsort(p)):
        largest = max(largest, min(1.0, p[i] * (len(p) - rank)))
        corrected[i] = largest
    return corrected


check("07.2", adjust)


# %% tags=["07.3"]
def decide(seeds, p, low, high):
    """Seeds, corrected p-value, interval of the difference -> one of three answers."""
    if seeds >= 3 and p < 0.05:
        return "publish"
    return "no difference" if -0.01 < low and high < 0.01 else "more seeds"


check("07.3", decide)

# %% tags=["07.4"]
from scipy.stats import t


def smallest_difference(spread, n):
    """Standard deviation between seeds, number of seeds -> smallest difference that shows."""
    return t.ppf(0.975, n - 1) * spread * (2 / n) ** 0.5


check("07.4", smallest_difference)
