"""The page in site/: what its build takes in, and the films of its list. It is tested by node."""

import json
import os
import re
import shutil
import subprocess

import pandas as pd
import pytest
import site_images

from cxrkit import Run
from cxrkit.inference import export, trained
from tests.conftest import CHECKOUT

SITE = CHECKOUT / "site"


def test_the_lock_file_names_no_host():
    """npm takes each package from the registry of whoever builds, and compares its digest."""
    lock = json.loads((SITE / "package-lock.json").read_text())
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert len(packages) > 20
    for name, one in packages.items():
        assert "resolved" not in one, name
        assert one.get("integrity", "").startswith("sha512-"), name
    assert "://" not in (SITE / ".npmrc").read_text()


def test_dependencies_are_pinned_as_in_the_lock_file():
    project = json.loads((SITE / "package.json").read_text())
    lock = json.loads((SITE / "package-lock.json").read_text())["packages"]
    wanted = project["dependencies"] | project["devDependencies"]
    assert wanted == {name: lock[f"node_modules/{name}"]["version"] for name in wanted}


def test_packages_in_the_page_have_licences_that_allow_it():
    lock = json.loads((SITE / "package-lock.json").read_text())["packages"]
    source = (SITE / "build.mjs").read_text()
    listed = re.findall(r'"([^"]+)"', source.split("const PACKAGES = [")[1].split("]")[0])
    project = json.loads((SITE / "package.json").read_text())
    assert set(project["dependencies"]) <= set(listed), "the page lists what it holds"
    for name in listed:
        assert lock[f"node_modules/{name}"]["license"] in ("MIT", "ISC", "Apache-2.0"), name


def test_the_page_reads_the_format_that_is_exported():
    source = (SITE / "src" / "description.ts").read_text()
    assert f"found.format !== {export.FORMAT}" in source


def test_the_rules_of_the_page_forbid_connections():
    source = (SITE / "build.mjs").read_text()
    assert "connect-src 'none'" in source and "default-src 'none'" in source
    assert "unsafe-inline" not in source and "'unsafe-eval'" not in source
    assert "%POLICY%" in (SITE / "index.html").read_text()


def rows(site, patient, n, diagnosis, severities, external=True, view="PA"):
    return pd.DataFrame(
        {
            "site": site,
            "patient_id": [patient or f"{site}{diagnosis}{view}{i}" for i in range(n)],
            "visit": range(n) if patient else 0,
            "diagnosis": diagnosis,
            "severity": severities,
            "external": external,
            "view": view,
        }
    )


def test_films_of_patients_do_not_enter_the_page(tmp_path):
    table = pd.DataFrame({"dataset": ["virtual", "cohen"], "path": "film.png"})
    with pytest.raises(ValueError, match="virtual films alone"):
        site_images.write_films(tmp_path, table, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("profile", ["demo", "mini"])
def test_films_of_the_list_are_virtual_whatever_the_networks_learnt_from(profile):
    assert Run(profile).virtual.profile.manifests == trained.VIRTUAL_ONLY


@pytest.mark.parametrize("count", [10, 12])
def test_the_list_has_series_first_and_then_all_classes_alike(count):
    diagnosis = pd.concat(
        [
            rows("away", "", 9, name, 0, external, view)
            for name in ("normal", "other_infection", "covid19")
            for view in ("PA", "AP", "L")
            for external in (True, False)
        ],
        ignore_index=True,
    )
    severity = pd.concat(
        [
            rows("away", "steady", 3, "covid19", [2, 2, 2]),
            rows("away", "worse", 3, "covid19", [0, 3, 6]),
            rows("away", "better", 2, "covid19", [5, 2]),
            rows("home", "home", 3, "covid19", [0, 6, 0], external=False),
        ],
        ignore_index=True,
    )
    found = site_images.choose(diagnosis, severity, count)
    assert len(found) == count
    assert list(found["patient_id"][:5]) == ["worse"] * 3 + ["better"] * 2
    assert list(found["visit"][:5]) == [0, 1, 2, 0, 1]
    single = found[5:]
    assert set(single["view"]) == {"PA", "AP"} and not single["patient_id"].duplicated().any()
    counts = single.groupby(["diagnosis", "view"]).size()
    assert len(counts) == min(6, len(single)) and counts.max() - counts.min() <= 1
    assert found["external"].all()


@pytest.fixture
def step(tmp_path):
    """Runs CI's step on a machine with the given programs alone: name -> what its script does."""

    def run(**programs):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("bash", "dirname", "timeout"):
            (folder / name).symlink_to(shutil.which(name))
        for name, script in programs.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
            path.chmod(0o755)
        env = {"PATH": str(folder), "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            ["bash", CHECKOUT / ".ci" / "site"],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


USER = {"id": "echo 1000"}
TOOLS = {"node": "exit 0", "npm": "exit 0", **USER}


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        (USER, "it needs node 20 or later"),
        ({**USER, "node": "exit 1"}, "it needs node 20 or later"),
        ({**USER, "node": "exit 0"}, "it needs npm"),
        (TOOLS, "there is no Chromium, and apt-get installs none"),
        (
            {**TOOLS, "id": "echo 0", "apt_get": "exit 100"},
            "there is no Chromium, and apt-get installs none",
        ),
        ({**TOOLS, "npm": "exit 1", "chromium": "exit 0"}, "no registry of npm answers"),
    ],
)
def test_the_step_of_ci_says_what_it_lacks(step, programs, words):
    found = step(**programs)
    assert found.returncode == 0
    assert found.stdout == f"the page without a server is not tested: {words}\n"


@pytest.mark.parametrize("status", [0, 2])
def test_the_step_of_ci_ends_as_the_tests_of_the_page_do(step, status):
    found = step(**TOOLS, chromium="exit 0", make=f'echo "$@" "$CXRKIT_CHROMIUM"; exit {status}')
    assert found.returncode == status
    assert found.stdout.startswith("site-test ") and found.stdout.strip().endswith("bin/chromium")
