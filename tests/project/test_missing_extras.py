"""A package whose framework is not installed says in one sentence which extra to install; other errors stay as they are."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.repository import PATHS, ROOT

import gspo_core

pytestmark = pytest.mark.slow

EXTRAS = {
    "gspo_torch": ("torch", 'gspo_torch needs PyTorch: pip install "gspo-core[torch]"'),
    "gspo_jax": ("jax", 'gspo_jax needs JAX: pip install "gspo-core[jax]"'),
    "gspo_plots": ("matplotlib", 'gspo_plots needs matplotlib: pip install "gspo-core[plots]"'),
    "gspo_core.laws": ("hypothesis", 'gspo_core.laws needs hypothesis: pip install "gspo-core[laws]"'),
}
SUBMODULES = {"torch": "torch.nn", "jax": "jax.numpy", "matplotlib": "matplotlib.axes", "hypothesis": "hypothesis.strategies"}


def importing(package: str, missing: str) -> str:
    """What a fresh interpreter writes to stderr when it imports the package, and one module cannot be found."""
    script = f"import sys; sys.path[:0] = {PATHS!r}; sys.modules[{missing!r}] = None; import {package}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    return result.stderr


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_framework_is_one_sentence_that_names_the_extra(package: str) -> None:
    library, sentence = EXTRAS[package]
    written = importing(package, library)
    assert written.splitlines()[-1] == f"ImportError: {sentence}"
    assert written.count("Traceback") == 1, "no chain of errors"
    assert len(re.findall(r"^  File ", written, flags=re.MULTILINE)) < 12


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_module_of_an_installed_framework_is_not_called_a_missing_framework(package: str) -> None:
    submodule = SUBMODULES[EXTRAS[package][0]]
    written = importing(package, submodule)
    assert submodule in written.splitlines()[-1]
    assert "pip install" not in written


def test_the_core_needs_none_of_them() -> None:
    blocked = "; ".join(f"sys.modules[{library!r}] = None" for library, _ in EXTRAS.values())
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {blocked}; import gspo_core; print(gspo_core.__version__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == gspo_core.__version__


def test_the_version_is_that_of_the_citation() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {gspo_core.__version__}\n" in citation
    assert re.fullmatch(r"\d+\.\d+\.\d+", gspo_core.__version__)
