"""benchmarks/real_films.py, without films: whom it asks what a film shows."""

from types import SimpleNamespace

import pandas as pd

from tests.scripts import load_script

real_films = load_script("benchmarks/real_films.py")

FILMS = pd.DataFrame(
    {
        "path": ["a.png", "b.png", "c.png"],
        "source": ["nih_cxr14", "nih_cxr14", "cohen"],
        "diagnosis": ["other_infection", "normal", "covid19"],
    }
)


def test_radiologists_are_asked_of_the_film_and_not_of_what_is_shown_of_it(monkeypatch):
    """They read a.png and call it normal; of b.png they say nothing; Cohen's keeps its label."""
    said = pd.DataFrame({"path": ["a.png"], "diagnosis": ["normal"]})
    monkeypatch.setattr(real_films.manifests, "read_manifest", lambda *names: said)
    run = SimpleNamespace(store=SimpleNamespace(data="x"), profile=real_films.profile_of("lungs"))
    framed = FILMS.assign(origin=FILMS["path"], path=["0.png", "1.png", "2.png"])
    for table in (FILMS, framed):
        found = real_films.as_readers_said(table, run)["diagnosis"]
        assert found.iloc[0] == "normal" and pd.isna(found.iloc[1]) and found.iloc[2] == "covid19"
