"""The folder for a model hub: its card is read by the hub's own library, its weights by the kit."""

import numpy as np
import pytest
import torch
import yaml

from cxrkit.config import profiles
from cxrkit.inference import hub, predict, trained
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json

METRICS = {
    "test": {"macro": {"auc": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 40}}, "ece": 0.1},
    "external": {"auc": {"value": 0.7, "low": None, "high": None, "n": 12}},
    "val": {"auc": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 3}},
}


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    made = tmp_path_factory.mktemp("hub")
    hub.export_hub(made, profiles.demo(), weights=weights)
    return made


def test_the_folder_gives_the_same_prediction_as_the_weights(folder, weights, images):
    assert {path.name for path in folder.glob("*.safetensors")} == {
        f"{stage}.safetensors" for stage in trained.NETWORKS
    }
    image = images["path"][0]
    ours = predict(
        image,
        trained.load_models(weights=weights),
        "PA",
        maps=False,
        device="cpu",
        even_unusable=True,
    )
    theirs = predict(
        image,
        trained.load_models(weights=folder),
        "PA",
        maps=False,
        device="cpu",
        even_unusable=True,
    )
    assert ours.probs == theirs.probs and np.array_equal(ours.array, theirs.array)
    config = read_json(folder / "config.json")
    assert set(config["parts"]) == set(trained.NETWORKS) and len(config["findings"]) == 10


def test_the_hub_reads_the_card(folder, monkeypatch):
    cards = pytest.importorskip("huggingface_hub.repocard")
    card = cards.ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"  # virtual patients alone
    assert card.data.library_name == "cxrkit" and "virtual" in card.data.datasets
    assert "Not a diagnostic device" in card.text


def with_metrics(weights):
    models = trained.load_models(weights=weights)
    parts = dict(models.parts)
    part = parts["diagnosis_pa"]
    parts["diagnosis_pa"] = trained.Part(part.network, part.profile, part.licence, METRICS)
    return trained.Models(parts, models.quality, models.origin)


def test_values_with_their_splits_become_results(weights):
    front = hub.front_matter(with_metrics(weights))
    (model,) = front["model-index"]
    found = [
        (one["dataset"]["name"], [(m["type"], m["name"], m["value"]) for m in one["metrics"]])
        for one in model["results"]
    ]
    assert found == [
        ("test images", [("roc_auc", "macro.auc", 0.9)]),
        ("external images", [("roc_auc", "auc", 0.7)]),
    ]
    assert front["metrics"] == ["roc_auc"]


def test_the_hubs_library_takes_the_results(weights):
    cards = pytest.importorskip("huggingface_hub.repocard_data")
    front = yaml.safe_load(yaml.safe_dump(hub.front_matter(with_metrics(weights))))
    _, results = cards.model_index_to_eval_results(front["model-index"])
    assert {one.metric_value for one in results} == {0.9, 0.7}


def test_the_table_shows_intervals_where_they_are_known(weights):
    table = hub.measured_table(with_metrics(weights))
    assert "| diagnosis_pa | test | macro.auc | 0.900 [0.850, 0.950] | 40 |" in table
    assert "| diagnosis_pa | external | auc | 0.700 | 12 |" in table
    assert "1.000" not in table  # validation chose the weights


@pytest.mark.parametrize(
    "datasets, licence",
    [(["virtual"], "apache-2.0"), (["hannover", "virtual"], "apache-2.0"), (["cohen"], "other")],
)
def test_the_licence_follows_the_terms_of_the_images(datasets, licence):
    fields = hub.licence_fields(datasets)
    assert fields["license"] == licence
    assert ("license_name" in fields) == (licence == "other")  # the schema asks for both or none


def test_without_weights_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SHIPPED", tmp_path / "none")
    monkeypatch.setenv("CXRKIT_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no complete set of weights"):
        hub.export_hub(tmp_path / "hub", profiles.demo(), Store(tmp_path / "empty"))
    assert not (tmp_path / "hub").exists()


def test_saved_weights_are_those_of_the_network(folder, weights):
    models = trained.load_models(weights=folder)
    for stage, part in trained.load_models(weights=weights).parts.items():
        for name, values in part.network.state_dict().items():
            assert torch.equal(values, models.parts[stage].network.state_dict()[name]), name
