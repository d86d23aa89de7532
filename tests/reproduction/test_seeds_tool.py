"""`make seeds`: what a study makes of an artifact."""

import pandas as pd
import pytest
import seeds

from cxrkit import Run, explain


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The demo with the artifacts that come with the kit."""
    monkeypatch.delenv("CXRKIT_FRESH", raising=False)
    return Run("demo", tmp_path)


def test_the_study_of_saliency_counts_small_lesions_apart(shipped):
    """By a slow loop over the images of the benchmark."""
    found = pd.DataFrame(seeds.study_saliency(shipped)).set_index(["criterion", "method"])
    rows = shipped.saliency_benchmark.table("rows.csv")
    summary = explain.summarise(rows).set_index(["criterion", "method"])["value"]
    for key in (("pointing", "relevance"), ("touching", "attnlrp")):
        assert found.loc[key, "value"] == pytest.approx(summary[key])
    areas, hits = {}, {}
    for row in rows.itertuples():
        image = (row.view, row.image)
        if (row.criterion, row.method) == ("lesion", "chance"):
            areas[image] = row.value
        if (row.criterion, row.method) == ("touching", "attnlrp"):
            hits[image] = row.value
    smallest = sorted(areas, key=areas.get)[: len(areas) // 4]
    of_small = found.loc[("touching, small lesions", "attnlrp")]
    assert of_small["n"] == len(smallest) == 24
    assert of_small["value"] == pytest.approx(sum(hits[image] for image in smallest) / 24)
    assert pd.isna(of_small["ahead_difference"]), "it is the default that others are compared with"
