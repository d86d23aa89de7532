"""The contrastive loss against a slow loop and its limits."""

import numpy as np
import pytest
import torch

from cxrkit.models.simclr import nt_xent


def test_nt_xent_against_a_slow_loop():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.cat([a, b]).numpy()
    total = 0.0
    for i in range(10):
        other_view = i + 5 if i < 5 else i - 5
        similarity = {}
        for j in range(10):
            if j != i:
                cosine = z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])
                similarity[j] = np.exp(cosine / 0.2)
        total -= np.log(similarity[other_view] / sum(similarity.values()))
    assert float(nt_xent(a, b)) == pytest.approx(total / 10, abs=1e-12)


def test_nt_xent_of_equal_vectors_is_chance_and_of_perfect_pairs_nearly_nothing():
    assert float(nt_xent(torch.ones(8, 4), torch.ones(8, 4))) == pytest.approx(np.log(15))
    assert float(nt_xent(torch.eye(8), torch.eye(8), temperature=0.02)) < 1e-6
