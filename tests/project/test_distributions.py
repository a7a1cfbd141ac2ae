"""The wheel holds the core and its backends, typed, and nothing else; the sdist is the repository, tests and all."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pages import links
from support.repository import ROOT

import gspo_core

pytestmark = pytest.mark.slow

CI = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
PACKAGES = {
    "gspo_core": ROOT / "gspo_core",
    "gspo_torch": ROOT / "backends" / "gspo_torch",
    "gspo_jax": ROOT / "backends" / "gspo_jax",
    "gspo_plots": ROOT / "backends" / "gspo_plots",
    "gspo_scale": ROOT / "backends" / "gspo_scale",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both, built from this folder without the network."""
    out = tmp_path_factory.mktemp("distributions")
    command = [sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", "--outdir", str(out), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel, open."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def dist_info(wheel: zipfile.ZipFile) -> str:
    """The metadata folder's name."""
    (name,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    return name


def test_the_top_level_names_are_the_packages(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {*PACKAGES, dist_info(wheel)}


def test_every_source_file_is_in_it_and_nothing_more(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.suffix in {".py", ".typed"}
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {f"{name}/py.typed" for name in PACKAGES} <= expected


def test_the_metadata(wheel: zipfile.ZipFile) -> None:
    meta = email.message_from_bytes(wheel.read(f"{dist_info(wheel)}/METADATA"))
    needs = {r.split(">")[0].strip() for r in meta.get_all("Requires-Dist", []) if "extra ==" not in r}
    assert meta["Name"] == "gspo-core"
    assert meta["Version"] == gspo_core.__version__
    assert needs == {"array-api-compat", "numpy"}
    assert {"torch", "jax", "train", "plots"} <= set(meta.get_all("Provides-Extra", []))
    assert f"{dist_info(wheel)}/licenses/LICENSE" in wheel.namelist()


def test_its_description_has_no_link_that_an_index_cannot_follow(wheel: zipfile.ZipFile) -> None:
    text = email.message_from_bytes(wheel.read(f"{dist_info(wheel)}/METADATA")).get_payload()
    targets = [target for target in links(text) if not target.startswith("#")]
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith("https://")] == []
    assert any(not target.startswith(("https://", "#")) for target in links((ROOT / "README.md").read_text(encoding="utf-8")))


def test_every_version_of_python_that_ci_tests_has_a_classifier(wheel: zipfile.ZipFile) -> None:
    meta = email.message_from_bytes(wheel.read(f"{dist_info(wheel)}/METADATA"))
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.+)\]", CI)[1])
    claimed = [c.removeprefix("Programming Language :: Python :: ") for c in meta.get_all("Classifier", []) if ":: 3." in c]
    assert claimed == tested
    assert meta["Requires-Python"] == f">={tested[0]}"


def test_the_sdist_holds_what_its_tests_read(built: Path) -> None:
    """Every top-level file and folder of the repository but caches and what git leaves out."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        held = {name.split("/", 1)[1] for name in opened.getnames()}
    folders = [ROOT / name for name in ("gspo_core", "backends", "integration", "benchmarks", "tests", "docs")]
    paths = [p for folder in folders for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.relative_to(ROOT).as_posix() for p in paths} - held == set()
    assert {
        "Makefile",
        "README.md",
        "CONTRIBUTING.md",
        "constraints.txt",
        "mkdocs.yml",
        ".ci/run",
        ".github/workflows/ci.yml",
    } <= held
    assert not [name for name in held if name.startswith((".venv", ".git/", "runs/", "site/"))]
