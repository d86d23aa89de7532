"""Local evidence against the product of two probabilities, pixels that it must not see, and the
model around it.
"""

from dataclasses import replace

import pytest
import torch

from cxrkit.config import profiles
from cxrkit.models import classifier, factory
from cxrkit.models.densenet import receptive_field
from cxrkit.models.local_evidence import CellEvidence, LocalEvidence, both, first_stage


def local_profile(**variant):
    demo = profiles.demo()
    choices = replace(demo.choices, map_evidence="local", map_scale=8)
    return replace(demo, choices=choices, variant=replace(demo.variant, **variant))


def test_the_map_is_the_product_of_both_probabilities():
    """0.5 times 0.5 is 0.25; where one is sure of no, the other changes nothing."""
    gate = torch.tensor([0.0, 0.0, -200.0, 200.0, 200.0]).view(1, 1, 1, 5)
    local = torch.tensor([0.0, 1.0, 5.0, 0.5, 200.0]).view(1, 1, 1, 5)
    logits = both(gate, local)
    expected = gate.sigmoid() * local.sigmoid()
    torch.testing.assert_close(logits.sigmoid(), expected, atol=2e-6, rtol=0)
    assert logits.isfinite().all()


def test_gradients_stay_finite_at_the_ends():
    gate = torch.tensor([-300.0, 0.0, 300.0]).view(1, 1, 1, 3).requires_grad_()
    local = torch.tensor([300.0, 0.0, 300.0]).view(1, 1, 1, 3).requires_grad_()
    both(gate, local).sum().backward()
    assert gate.grad.isfinite().all() and local.grad.isfinite().all()


def test_evidence_sees_the_pixels_around_it_alone():
    """On the demo's first stage: 19 px of the stage, and 8 more for each of two convolutions."""
    model = factory.build_classifier(local_profile(), map_head=True)
    stage = list(model.features.children())[: model.first]
    seen = torch.nn.Sequential(*stage, model.evidence)
    weight = receptive_field(seen, 128) > 0
    rows, columns = weight.any(dim=1).nonzero(), weight.any(dim=0).nonzero()
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 35


def test_a_model_joins_what_tokens_decide_and_what_lies_around():
    torch.manual_seed(0)
    model = factory.build_classifier(local_profile(), map_head=True).eval()
    image = torch.randn(2, 1, 128, 128)
    with torch.no_grad():
        out = model(image)
        tokens_alone = model(features=model.corpus(image))
    torch.testing.assert_close(out["gate_logits"], tokens_alone["severity_logits"])
    torch.testing.assert_close(out["logits"], tokens_alone["logits"])
    joined = both(out["gate_logits"], out["local_logits"])
    torch.testing.assert_close(out["severity_logits"], joined)
    torch.testing.assert_close(out["severity_map"], joined.sigmoid())
    assert out["severity_map"].shape == (2, 1, 64, 64) and out["local_logits"].shape[-1] == 32
    assert (out["severity_map"] <= out["gate_logits"].sigmoid() + 1e-6).all()


def test_a_classifier_gives_its_weights_to_a_model_with_evidence():
    plain = factory.build_classifier(profiles.demo())
    model = factory.build_classifier(local_profile(), map_head=True)
    random = classifier.load_matching(model, plain.state_dict())
    assert {name.split(".")[0] for name in random} == {"transformer", "evidence", "calibration"}
    own = ("evidence", "calibration")
    assert all("map_head" in name or name.startswith(own) for name in random)


@pytest.mark.parametrize(
    "variant",
    [
        {"model": "densenet"},
        {"model": "resnet", "widths": (8, 8, 8, 8), "layers": (1, 1, 1, 1)},
    ],
)
def test_baselines_with_a_first_stage_get_the_same_evidence(variant):
    network = factory.build_classifier(local_profile(**variant), map_head=True)
    assert isinstance(network.evidence, LocalEvidence)
    assert network(torch.zeros(1, 1, 128, 128))["local_logits"].shape == (1, 1, 32, 32)


def test_models_without_a_first_stage_keep_the_map_of_the_tokens():
    for variant in ({"model": "vit"}, {"corpus": "ten_maps"}):
        assert factory.build_classifier(local_profile(**variant), map_head=True).evidence is None
    assert factory.build_classifier(local_profile()).evidence is None, "no map, no evidence"
    with pytest.raises(ValueError, match="Identity has no first stage"):
        first_stage(torch.nn.Identity())


def test_each_cell_answers_for_itself():
    """A change of one cell moves the map of the cells around it alone, in evaluation."""
    torch.manual_seed(0)
    evidence = CellEvidence(in_channels=6, map_scale=4).eval()
    corpus = torch.randn(1, 6, 10, 10)
    other = corpus.clone()
    other[0, :, 3, 7] += 1
    with torch.no_grad():
        moved = (evidence(corpus)["severity_logits"] - evidence(other)["severity_logits"]).abs()
    rows, columns = (moved[0, 0] > 1e-6).nonzero().T
    # bilinear interpolation spreads a cell of 4 px by half a cell on each side
    assert rows.min() >= 10 and rows.max() < 18 and columns.min() >= 26 and columns.max() < 34


def test_a_map_of_cells_needs_no_transformer_and_reads_known_corpora():
    profile = local_profile()
    profile = replace(profile, choices=replace(profile.choices, map_evidence="cells"))
    model = factory.build_classifier(profile, map_head=True).eval()
    assert isinstance(model.transformer, CellEvidence) and model.evidence is None
    image = torch.randn(2, 1, 128, 128)
    with torch.no_grad():
        out, known = model(image), model(features=model.corpus(image))
    torch.testing.assert_close(out["severity_map"], known["severity_map"])
    assert out["severity_map"].shape == (2, 1, 64, 64)
    assert not isinstance(factory.build_classifier(profile).transformer, CellEvidence)


def test_evidence_of_cells_learns_a_lesion_from_what_zones_hold_one():
    """Half of the films have one cell with a sign of its own; the map finds it from yes and no."""
    torch.manual_seed(0)
    evidence = CellEvidence(in_channels=4, map_scale=1)
    optimizer = torch.optim.AdamW(evidence.parameters(), lr=0.02)

    def draw(n):
        corpus = torch.randn(n, 4, 6, 6)
        ill, at = torch.rand(n) < 0.5, torch.randint(36, (n,))
        corpus.flatten(2)[ill, 0, at[ill]] = 6.0
        return corpus, ill, at

    for _ in range(150):
        corpus, ill, _ = draw(32)
        worst = evidence(corpus)["severity_logits"].flatten(1).amax(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(worst, ill.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    corpus, ill, at = draw(200)
    with torch.no_grad():
        found = evidence.eval()(corpus)["severity_logits"].flatten(1).argmax(1)
    assert (found == at)[ill].float().mean() > 0.95
