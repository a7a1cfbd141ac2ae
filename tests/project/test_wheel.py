"""The wheel holds the core and its backends, typed, and nothing else."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gspo_core

pytestmark = pytest.mark.slow

ROOT = Path(gspo_core.__file__).parent.parent
PACKAGES = {
    "gspo_core": ROOT / "gspo_core",
    "gspo_torch": ROOT / "backends" / "gspo_torch",
    "gspo_jax": ROOT / "backends" / "gspo_jax",
    "gspo_plots": ROOT / "backends" / "gspo_plots",
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from this folder, without the network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


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
