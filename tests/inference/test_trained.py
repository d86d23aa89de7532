"""Where weights are found, and what shipped ones say of themselves."""

import hashlib
import shutil
from dataclasses import replace

import pytest
import ship_weights
import torch

from cxrkit.config import profiles
from cxrkit.inference import trained
from cxrkit.pipeline import stages
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.training import checkpoint
from tests.fakes.small_models import small_profile


def test_weights_come_from_the_folder_then_the_store_then_the_kit(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SHIPPED", tmp_path / "shipped")
    own = small_profile()
    with pytest.raises(
        FileNotFoundError, match="no complete set of weights .* cxrkit reproduce --profile demo"
    ):
        trained.load_models(own, Store(tmp_path / "empty"))
    (tmp_path / "shipped" / "open").mkdir(parents=True)
    for stage in trained.NETWORKS:
        shutil.copy(weights / f"{stage}.safetensors", tmp_path / "shipped" / "open")
    assert trained.load_models(own, Store(tmp_path / "empty")).origin == "shipped with the kit"
    store = Store(tmp_path / "full")
    for stage in trained.NETWORKS:
        folder = stages.folder_of(own, stage, store)
        folder.mkdir(parents=True)
        shutil.copy(weights / f"{stage}.safetensors", folder / "weights.safetensors")
    assert trained.load_models(own, store).origin == "the store, profile demo"
    assert trained.load_models(own, store, weights).origin == f"weights in {weights}"
    (tmp_path / "half").mkdir()
    with pytest.raises(FileNotFoundError, match="half"):
        trained.load_models(own, store, tmp_path / "half")


def test_what_is_missing_is_named_with_the_way_to_get_it(weights, tmp_path, monkeypatch):
    """An installed wheel has the open weights alone."""
    monkeypatch.setattr(trained, "SHIPPED", tmp_path)
    shutil.copy(weights / "severity.safetensors", tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        trained.load_models(small_profile(), Store(tmp_path / "empty"))
    message = str(caught.value)
    assert "shipped with the kit (missing: segmenter, a diagnosis)" in message
    assert "the store, profile demo (missing: segmenter, severity, a diagnosis)" in message
    assert "weights/research of a checkout" in message and "--weights DIR" in message


def test_a_kit_without_research_weights_gives_the_models_of_virtual_patients(
    weights, tmp_path, monkeypatch
):
    """As two wheels do: the demo's finished stages are in the layer below the store."""
    monkeypatch.setattr(trained, "SHIPPED", tmp_path / "open_only")
    monkeypatch.setenv("CXRKIT_WEIGHTS", str(tmp_path / "nothing_fetched"))
    demo = small_profile()
    monkeypatch.setattr(profiles, "demo", lambda: demo)
    store = Store(tmp_path / "store")
    for stage in trained.NETWORKS:
        folder = stages.folder_of(demo, stage, store)
        folder.mkdir(parents=True)
        shutil.copy(weights / f"{stage}.safetensors", folder / "weights.safetensors")
    models = trained.load_models(store=store)
    assert models.origin == "the kit's profile demo"
    assert "Learnt from virtual patients alone" in models.about
    (tmp_path / "open_only" / "research").mkdir(parents=True)  # a checkout: say what is missing
    with pytest.raises(FileNotFoundError, match="cxrkit models fetch"):
        trained.load_models(store=store)


def test_without_the_models_package_the_message_names_it(weights, monkeypatch, tmp_path):
    monkeypatch.setattr(trained, "QUALITY_MODEL", tmp_path / "quality_model.safetensors")
    with pytest.raises(FileNotFoundError, match="pip install cxrkit-models"):
        trained.load_models(weights=weights)


def test_a_shipped_file_carries_its_profile(weights):
    part = trained.load_part("severity", weights / "severity.safetensors", profiles.paper())
    assert part.profile == small_profile() and part.licence == "made-up"


def test_rounding_halves_matrices_alone(weights):
    tensors, _ = checkpoint.load_tensors(weights / "severity.safetensors")
    assert {t.dtype for t in tensors.values() if t.ndim > 1} == {torch.float16}
    assert torch.float16 not in {t.dtype for t in tensors.values() if t.ndim < 2}, (
        "a running variance may be too small for 16 bit"
    )


def cards():
    return sorted(trained.SHIPPED.rglob("card.json"))


@pytest.mark.skipif(not cards(), reason="no weights are shipped yet: run make weights")
def test_shipped_weights_are_small_and_say_what_they_are():
    files = list(trained.SHIPPED.rglob("*.safetensors"))
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) <= 6e6 and sum(sizes) <= 20e6
    for card in cards():
        for stage, entry in read_json(card)["models"].items():
            path = card.parent / entry["file"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
            assert entry["rounding"]["largest_change"] <= 0.01
            assert entry["rounding"]["images"] >= 16
            is_open = set(entry["datasets"]) <= ship_weights.OPEN
            assert is_open == (card.parent.name == "open"), stage
            assert entry["never_trained_on"] and entry["metrics"] and entry["settings"]
        assert "Not a diagnostic device" in (card.parent / "LICENSE-NOTE.md").read_text()
    assert not trained.missing(trained.weights_in_folder(trained.SHIPPED))


@pytest.mark.skipif(not cards(), reason="no weights are shipped yet: run make weights")
def test_shipped_weights_have_a_profile_of_today():
    """A field that was renamed since would be refused: write the headers anew."""
    models = trained.load_models(weights=trained.SHIPPED)
    assert {part.profile.name for part in models.parts.values()} == {"mini"}
    assert models.parts["segmenter"].profile.segmenter.output_network == "unet_both"


def test_what_a_stage_depends_on_was_trained_on_too():
    """Severity begins with the model of the virtual hospitals, and so needs no backbone of mini.

    An image of Cohen in any of them makes the weights research only.
    """
    own = replace(profiles.mini(), severity=replace(profiles.mini().severity, virtual=True))
    found = {(stage, profile.name) for stage, profile in ship_weights.ancestry(own, "severity")}
    assert {
        ("severity", "mini"),
        ("severity", "demo"),
        ("segmenter", "mini"),
        ("backbone", "demo"),
    } <= found
    assert ("backbone", "mini") not in found


@pytest.mark.skipif(not cards(), reason="no weights are shipped yet: run make weights")
def test_the_model_card_shows_the_numbers_of_the_shipped_weights():
    models = {path.parent.name: read_json(path)["models"] for path in cards()}
    assert ship_weights.numbers(models) in ship_weights.MODEL_CARD.read_text()
