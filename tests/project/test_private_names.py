"""No package imports a private name of another one: what a backend needs is public, in gspo_core.backend."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.repository import ROOT

PACKAGES = {
    "gspo_core": ROOT / "gspo_core",
    "gspo_torch": ROOT / "backends" / "gspo_torch",
    "gspo_jax": ROOT / "backends" / "gspo_jax",
    "gspo_plots": ROOT / "backends" / "gspo_plots",
    "gspo_scale": ROOT / "backends" / "gspo_scale",
    "integration": ROOT / "integration",
    "benchmarks": ROOT / "benchmarks",
    "tests": ROOT / "tests",
}
OURS = tuple(PACKAGES)
OWN_TESTS = {ROOT / "tests" / "core" / "_lib": "gspo_core._lib"}
"""Folders of tests, and the private modules that they test."""
FILES = [(package, path) for package, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]


def is_private(name: str) -> bool:
    """Whether a part of a dotted name starts with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def imported(source: str) -> set[str]:
    """Dotted names of everything that is imported absolutely, anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def private_imports(package: str, source: str, allowed: str | None = None) -> set[str]:
    """Private names of our other packages that a file of `package` imports."""
    found = {name for name in imported(source) if name.split(".")[0] in OURS and is_private(name)}
    return {x for x in found if x.split(".")[0] != package and not (allowed and x.startswith(allowed + "."))}


def allowed_in(path: Path) -> str | None:
    """The private module that the tests in a file's folder test."""
    return next((module for folder, module in OWN_TESTS.items() if folder in path.parents), None)


@pytest.mark.slow
@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_no_private_name_of_another(package: str) -> None:
    paths = [path for mine, path in FILES if mine == package]
    assert paths
    found = {path: private_imports(package, path.read_text(encoding="utf-8"), allowed_in(path)) for path in paths}
    assert {str(path): names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from gspo_core._lib.array import namespace",
        "from gspo_core.objectives.loss import policy_loss, _turn_advantage",
        "import gspo_core._lib.units",
        "def f():\n    from gspo_plots import _axes",
    ],
)
def test_a_private_import_would_be_found(source: str) -> None:
    assert len(private_imports("gspo_torch", source)) == 1


def test_own_names_and_those_of_other_people_are_not_meant() -> None:
    assert not private_imports("gspo_core", "from gspo_core._lib.array import namespace\nfrom ._lib import units")
    assert not private_imports("tests", "from torch._subclasses.fake_tensor import FakeTensorMode\nimport gspo_core.kl")
    assert not private_imports("tests", "from gspo_core._lib.array import where_true", "gspo_core._lib")
    assert private_imports("tests", "from gspo_core._library import x", "gspo_core._lib")


def test_the_exceptions_are_used() -> None:
    for folder, module in OWN_TESTS.items():
        assert any(name.startswith(module + ".") for path in folder.rglob("*.py") for name in imported(path.read_text()))
