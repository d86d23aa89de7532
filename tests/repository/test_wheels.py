"""Two packages: code without weights, and the models that may be passed on."""

import importlib.util
import subprocess
import sys
import tomllib
import zipfile

import check_wheels
import pytest

from cxrkit.config import paths
from tests.conftest import CHECKOUT

MODELS = CHECKOUT / "packages" / "cxrkit-models"


def pyproject(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_models_are_taken_from_the_checkout():
    included = pyproject(MODELS)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in included.items():
        assert (MODELS / source).exists(), source
        assert target.startswith("cxrkit_models/") and "research" not in source
    folders = {source.removeprefix("../../cxrkit/") for source in included if "." not in source[6:]}
    assert folders == {"storage/shipped_artifacts", "inference/weights/open"}
    for folder in folders:  # `paths.bundled` looks in the same places of both packages
        assert included[f"../../cxrkit/{folder}"] == f"cxrkit_models/{folder}"


def test_what_one_package_leaves_out_the_other_holds():
    excluded = pyproject(CHECKOUT)["tool"]["hatch"]["build"]["exclude"]
    assert {"/cxrkit/inference/weights", "/cxrkit/storage/shipped_artifacts"} <= set(excluded)


def test_both_have_one_version_and_the_terms():
    assert pyproject(MODELS)["tool"]["hatch"]["version"]["path"] == "../../cxrkit/__init__.py"
    assert (MODELS / "LICENSE").read_text() == (CHECKOUT / "LICENSE").read_text()
    project = pyproject(MODELS)["project"]
    assert project["license"] == pyproject(CHECKOUT)["project"]["license"]
    terms = (paths.PACKAGE / "inference" / "weights" / "open" / "LICENSE-NOTE.md").read_text()
    for licence in ("CC BY 3.0", "CC BY 4.0", "MIT"):
        assert licence in terms


def test_models_are_found_beside_the_code_else_in_their_package(tmp_path, monkeypatch):
    own, other = tmp_path / "cxrkit", tmp_path / "cxrkit_models"
    for folder in (own / "storage", other / "storage" / "shipped_artifacts"):
        folder.mkdir(parents=True)
    (other / "__init__.py").touch()
    monkeypatch.setattr(paths, "PACKAGE", own)
    found = paths.bundled("storage/shipped_artifacts")
    if importlib.util.find_spec(paths.MODELS) is None:
        assert found == own / "storage/shipped_artifacts"
    monkeypatch.syspath_prepend(tmp_path)
    assert paths.models_package() == other
    assert paths.bundled("storage/shipped_artifacts") == other / "storage" / "shipped_artifacts"
    (own / "storage" / "shipped_artifacts").mkdir()
    assert paths.bundled("storage/shipped_artifacts") == own / "storage" / "shipped_artifacts"


@pytest.mark.parametrize("name", ["docs/package.md", "packages/cxrkit-models/README.md"])
def test_descriptions_have_no_picture_or_link_of_the_checkout(name):
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    assert "](" not in text.replace("](https://", "")
    assert "Not a diagnostic" in text or "not a diagnostic" in text


def wheel(folder, name, entries):
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for entry in entries:
            archive.writestr(entry, "x")
    return folder / f"{name}-1-py3-none-any.whl"


def test_a_wheel_with_the_wrong_files_is_refused(tmp_path, monkeypatch):
    research = "cxrkit/inference/weights/research/severity.safetensors"
    found = check_wheels.faults("cxrkit", wheel(tmp_path, "cxrkit", [research]))
    assert len(found) == 2  # not for everybody, and in the wrong package
    found = check_wheels.faults("cxrkit_models", wheel(tmp_path, "cxrkit_models", ["a/b.npy"]))
    assert len(found) == 4  # a picture, and three files are missing
    monkeypatch.setitem(check_wheels.LARGEST, "cxrkit", 10)
    found = check_wheels.faults("cxrkit", wheel(tmp_path, "cxrkit", ["cxrkit/__init__.py"]))
    assert len(found) == 1 and "MB, at most" in found[0]


def run(command):
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_both_are_built_checked_and_installed_without_the_net(tmp_path):
    for module in ("build", "hatchling", "twine"):
        pytest.importorskip(module, reason="pip install -e '.[release]'")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    for step in ([*build, "."], [*build, "--wheel", str(MODELS)]):
        run(step)
    packages = [str(path) for path in sorted(tmp_path.iterdir())]
    run([sys.executable, "-m", "twine", "check", "--strict", *packages])
    run([sys.executable, "tools/check_wheels.py", str(tmp_path)])
