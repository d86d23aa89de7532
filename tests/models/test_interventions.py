"""Ablations of the corpus ViT, while it is made and on the finished model."""

import pytest
import torch

from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.models.interventions import INTERVENTIONS


def vit(**options):
    torch.manual_seed(0)
    return CorpusViT(5, (2, 3), 8, 2, 2, 12, initialisation="narrow", **options).eval()


@pytest.fixture
def corpus():
    return torch.rand(4, 5, 2, 3, generator=torch.Generator().manual_seed(1))


def logits(model, corpus):
    with torch.no_grad():
        return model(corpus)["logits"]


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_intervention_changes_the_answer_and_is_undone(name, corpus):
    model = vit()
    before = logits(model, corpus)
    with INTERVENTIONS[name](model):
        during = logits(model, corpus)
    assert (during - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(model, corpus), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_intervention_is_undone_after_an_error(name, corpus):
    model = vit()
    before = logits(model, corpus)
    with pytest.raises(KeyError), INTERVENTIONS[name](model):
        raise KeyError
    torch.testing.assert_close(logits(model, corpus), before, rtol=0, atol=0)


def test_shuffling_costs_nothing_where_there_are_no_positions(corpus):
    model = vit(positions=False)
    before = logits(model, corpus)
    with INTERVENTIONS["shuffled"](model):
        torch.testing.assert_close(logits(model, corpus), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_even_attention_is_attention_whose_queries_are_zero(fused, corpus):
    model = vit(even=True)
    expected = vit(fused=fused)
    expected.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in expected.blocks:
            block.attn.qkv.weight[:8] = 0
            block.attn.qkv.bias[:8] = 0
    torch.testing.assert_close(
        logits(model, corpus), logits(expected, corpus), rtol=1e-5, atol=1e-6
    )


def test_a_model_without_positions_learns_none(corpus):
    model = vit(positions=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(corpus)["logits"].square().sum().backward()
    optimizer.step()
    assert model.pos_embed.eq(0).all()


def test_narrow_positions_are_on_the_scale_of_the_tokens(corpus):
    model = CorpusViT(184, 8, 64, 3, 4, 256, initialisation="narrow")
    words = model.patch_embed(torch.rand(4, 184, 8, 8))
    ratio = (model.pos_embed.std() / words.std()).item()
    assert 0.2 < ratio < 2


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="known: .'narrow', 'vit'."):
        CorpusViT(initialisation="he")
